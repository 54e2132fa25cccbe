"""An invertible network whose Jacobian determinant is the same everywhere."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.networks.determinant import log_abs_det
from identica.networks.invertible import AffineMap, random_orthogonal
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array, Key


class VolumePreservingNetwork(eqx.Module):
    """Linear maps with a volume-preserving coupling after each, and a last linear map.

    A coupling changes the second half b of its inputs by the first, b ↦ b · exp s(a) + t(a) with
    Σ_j s_j(a) = 0 for every a: general incompressible flow, section 3.2 of Sorrenson, Rother, Köthe
    (2020), here with the mean of the log-scales taken out instead of the last one set to minus the sum
    of the others. A single changed output is only shifted. So log|det dz/dx| is that of the linear
    maps, a number: no part of the space can be blown up to gain likelihood, and what u does not change
    keeps its spread. Without nonlinear functions of single units, distances are kept on average.

    Arrays are laid out (n, B). All maps but the last and all couplings are stacked and scanned.

    Attributes
    ----------
    maps : AffineMap with leaves (K, …)
    couplings : MultilayerPerceptron with leaves (K, …)
        From the first half of the units to s and t of the second.
    last : AffineMap
    """

    maps: AffineMap
    couplings: MultilayerPerceptron
    last: AffineMap

    @classmethod
    def random(cls, n: int, count: int, units: int, *, key: Key) -> "VolumePreservingNetwork":
        """Random rotations of n ≥ 2 units and ``count`` couplings that change next to nothing yet."""
        half = n // 2
        couplings_key, maps_key = jax.random.split(key)
        nets = [
            MultilayerPerceptron.random(
                half, (units, units), 2 * (n - half), activation="squareplus", last_scale=0.01, key=k
            )
            for k in jax.random.split(couplings_key, count)
        ]
        stack = lambda *leaves: np.stack(leaves)
        maps = _rotations(n, count + 1, maps_key)
        first, last = (jax.tree.map(lambda leaf: leaf[part], maps) for part in (slice(0, count), count))  # noqa: B023
        return cls(first, jax.tree.map(stack, *nets), last)

    @property
    def n_layers(self) -> int:
        """Number of linear maps."""
        return self.maps.bias.shape[0] + 1

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """z (n, B) and log|det dz/dx| (B,), the same for all rows, of x (n, B), nats."""

        def layer(x, parts):
            linear, net = parts
            y = linear(x)
            a, b = y[: y.shape[0] // 2], y[y.shape[0] // 2 :]
            log_scale, shift = _scale_and_shift(net, a)
            return jnp.concatenate([a, b * jnp.exp(log_scale) + shift]), None

        z, _ = jax.lax.scan(layer, x, (self.maps, self.couplings))
        weights = jnp.concatenate([self.maps.weight, self.last.weight[None]])
        return self.last(z), jnp.broadcast_to(log_abs_det(weights).sum(), x.shape[1:])

    def inverse(self, z: Array) -> Array:
        """x (n, B) with z = network(x), in closed form."""

        def layer(y, parts):
            linear, net = parts
            a, b = y[: y.shape[0] // 2], y[y.shape[0] // 2 :]
            log_scale, shift = _scale_and_shift(net, a)
            return linear.inverse(jnp.concatenate([a, (b - shift) * jnp.exp(-log_scale)])), None

        return jax.lax.scan(layer, self.last.inverse(z), (self.maps, self.couplings), reverse=True)[0]


def _rotations(n: int, count: int, key: Key) -> AffineMap:
    weights = np.stack([random_orthogonal(n, key=k) for k in jax.random.split(key, count)])
    return AffineMap(weights, np.zeros((count, n), weights.dtype))  # type: ignore[arg-type]


def _scale_and_shift(net: MultilayerPerceptron, a: Array) -> tuple[Array, Array]:
    raw, shift = jnp.split(net(a.T).T, 2)
    log_scale = 2.0 * jnp.tanh(0.5 * raw)
    return log_scale - log_scale.mean(0), shift


def volume_preserving_parameters(n: int, count: int, units: int) -> int:
    """Number of parameters of a `VolumePreservingNetwork`."""
    half = n // 2
    coupling = half * units + units + units * units + units + 2 * (n - half) * (units + 1)
    return count * coupling + (count + 1) * n * (n + 1)
