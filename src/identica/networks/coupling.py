"""Affine couplings: what refines an invertible network where chains of matrices and units are too simple."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.networks.invertible import InvertibleNetwork
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array, Key


class CouplingStack(eqx.Module):
    """K affine couplings in turn: b ↦ b · exp s(a) + t(a), with (a, b) the two halves of z.

    Equation (7) of Dinh, Sohl-Dickstein, Bengio (2017), *Density estimation using Real NVP*, with the
    log-scale kept within ±2. After each coupling the components move on by half their number, so that
    all of them are changed by all others; the original order is restored at the end.

    Attributes
    ----------
    networks : MultilayerPerceptron with leaves (K, …)
        From a to s and t.
    in_use : () float
        0 makes the stack the identity, and costs nothing. It has no gradient; as a float it is stored and
        restored with the weights.
    """

    networks: MultilayerPerceptron
    in_use: Array

    @classmethod
    def random(cls, n: int, count: int, units: int, *, key: Key) -> "CouplingStack":
        """Nearly the identity of n ≥ 2 components: ``count`` couplings with two layers of ``units``."""
        half = n // 2
        sizes = (units, units)
        nets = [
            MultilayerPerceptron.random(
                half, sizes, 2 * (n - half), activation="squareplus", last_scale=0.01, key=k
            )
            for k in jax.random.split(key, count)
        ]
        in_use = np.ones((), jax.dtypes.canonicalize_dtype(float))
        return cls(jax.tree.map(lambda *leaves: np.stack(leaves), *nets), in_use)  # type: ignore[arg-type]

    def __call__(self, z: Array) -> tuple[Array, Array]:
        """Refined z (n, B) and log|det| (B,), nats, of z (n, B)."""
        half = z.shape[0] // 2

        def couple(carry, network):
            z, log_det = carry
            a, b = z[:half], z[half:]
            log_scale, shift = _scale_and_shift(network, a)
            z = jnp.concatenate([b * jnp.exp(log_scale) + shift, a])
            return (z, log_det + log_scale.sum(0)), None

        def run(z: Array) -> tuple[Array, Array]:
            start = (z, jnp.zeros(z.shape[1], z.dtype))
            (z, log_det), _ = jax.lax.scan(couple, start, self.networks)
            return jnp.roll(z, self._turned(half), axis=0), log_det

        return jax.lax.cond(self.in_use > 0.5, run, lambda z: (z, jnp.zeros(z.shape[1], z.dtype)), z)

    def inverse(self, z: Array) -> Array:
        """The z (n, B) that this maps to z."""
        n = z.shape[0]
        half = n // 2

        def undo(z, network):
            b, a = z[: n - half], z[n - half :]
            log_scale, shift = _scale_and_shift(network, a)
            return jnp.concatenate([a, (b - shift) * jnp.exp(-log_scale)]), None

        def run(z: Array) -> Array:
            return jax.lax.scan(undo, jnp.roll(z, -self._turned(half), axis=0), self.networks, reverse=True)[
                0
            ]

        return jax.lax.cond(self.in_use > 0.5, run, lambda z: z, z)

    def _turned(self, half: int) -> int:
        return half * self.networks.biases[0].shape[0]


def _scale_and_shift(network: MultilayerPerceptron, a: Array) -> tuple[Array, Array]:
    raw, shift = jnp.split(network(a.T).T, 2)
    return 2.0 * jnp.tanh(0.5 * raw), shift


class RefinedNetwork(eqx.Module):
    """An invertible network followed by couplings.

    Attributes
    ----------
    network : InvertibleNetwork
    couplings : CouplingStack
    """

    network: InvertibleNetwork
    couplings: CouplingStack

    @property
    def n_layers(self) -> int:
        """Linear maps of the network before the couplings."""
        return self.network.n_layers

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """z (n, B) and log|det dz/dx| (B,) of x (n, B), nats."""
        z, log_det = self.network(x)
        z, more = self.couplings(z)
        return z, log_det + more

    def inverse(self, z: Array) -> Array:
        """x (n, B) with z = network(x)."""
        return self.network.inverse(self.couplings.inverse(z))

    def using(self, in_use: bool) -> "RefinedNetwork":
        """The same network with its couplings switched on or off."""
        flag: Any = np.full((), float(in_use), self.couplings.in_use.dtype)
        couplings = CouplingStack(self.couplings.networks, flag)
        return RefinedNetwork(self.network, couplings)


def coupling_parameters(n: int, count: int, units: int) -> int:
    """Number of parameters of a `CouplingStack`."""
    half = n // 2
    return count * (half * units + units + units * units + units + 2 * (n - half) * (units + 1))
