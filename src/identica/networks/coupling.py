"""Affine couplings: what refines an invertible network where chains of matrices and units are too simple."""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.networks.determinant import log_abs_det
from identica.networks.invertible import AffineMap, InvertibleNetwork, random_orthogonal
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array, Key

_BORDER = 5.0
"""Where the inputs of couplings saturate; latents have about unit variance."""


class CouplingStack(eqx.Module):
    """K affine couplings in turn: b ↦ b · exp s(a) + t(a), with (a, b) the two halves of z.

    Equation (7) of Dinh, Sohl-Dickstein, Bengio (2017), *Density estimation using Real NVP*, with the
    log-scale kept within ±2, and a squashed to ±5 for s and t. A linear map comes before each coupling, a random
    rotation at first and learned from there on (as the 1 × 1 convolutions of Kingma, Dhariwal, 2018), so that every
    coupling halves the space in another way; one more after the last turns everything back.

    Attributes
    ----------
    networks : MultilayerPerceptron with leaves (K, …)
        From a to s and t.
    turns : AffineMap with leaves (K, …)
        What comes before each coupling.
    last : AffineMap
    in_use : () float
        0 makes the stack the identity, and costs nothing. It has no gradient; as a float it is stored and
        restored with the weights.
    """

    networks: MultilayerPerceptron
    turns: AffineMap
    last: AffineMap
    in_use: Array

    @classmethod
    def random(cls, n: int, count: int, units: int, *, key: Key) -> "CouplingStack":
        """Nearly the identity of n ≥ 2 components: ``count`` couplings with two layers of ``units``."""
        half, sizes = n // 2, (units, units)
        network_key, turn_key = jax.random.split(key)
        nets = [
            MultilayerPerceptron.random(
                half, sizes, 2 * (n - half), activation="squareplus", last_scale=0.01, key=k
            )
            for k in jax.random.split(network_key, count)
        ]
        dtype = jax.dtypes.canonicalize_dtype(float)
        rotations = np.stack([random_orthogonal(n, key=k) for k in jax.random.split(turn_key, count)])
        total = np.eye(n)
        for rotation in rotations:  # a coupling hands on its halves in the other order
            total = np.roll(rotation @ total, -half, axis=0)
        return cls(
            jax.tree.map(lambda *leaves: np.stack(leaves), *nets),
            AffineMap(rotations.astype(dtype), np.zeros((count, n), dtype)),  # type: ignore[arg-type]
            AffineMap(total.T.astype(dtype), np.zeros(n, dtype)),  # type: ignore[arg-type]
            np.ones((), dtype),  # type: ignore[arg-type]
        )

    def __call__(self, z: Array) -> tuple[Array, Array]:
        """Refined z (n, B) and log|det| (B,), nats, of z (n, B)."""
        half = z.shape[0] // 2

        def couple(carry, parts):
            z, log_det = carry
            turn, network = parts
            z = turn(z)
            a, b = z[:half], z[half:]
            log_scale, shift = _scale_and_shift(network, a)
            z = jnp.concatenate([b * jnp.exp(log_scale) + shift, a])
            return (z, log_det + log_scale.sum(0)), None

        def run(z: Array) -> tuple[Array, Array]:
            start = (z, jnp.zeros(z.shape[1], z.dtype))
            (z, log_det), _ = jax.lax.scan(couple, start, (self.turns, self.networks))
            weights = jnp.concatenate([self.turns.weight, self.last.weight[None]])
            return self.last(z), log_det + log_abs_det(weights).sum()

        return jax.lax.cond(self.in_use > 0.5, run, lambda z: (z, jnp.zeros(z.shape[1], z.dtype)), z)

    def inverse(self, z: Array) -> Array:
        """The z (n, B) that this maps to z."""
        n = z.shape[0]
        half = n // 2

        def undo(z, parts):
            turn, network = parts
            b, a = z[: n - half], z[n - half :]
            log_scale, shift = _scale_and_shift(network, a)
            return turn.inverse(jnp.concatenate([a, (b - shift) * jnp.exp(-log_scale)])), None

        def run(z: Array) -> Array:
            return jax.lax.scan(undo, self.last.inverse(z), (self.turns, self.networks), reverse=True)[0]

        return jax.lax.cond(self.in_use > 0.5, run, lambda z: z, z)


def _scale_and_shift(network: MultilayerPerceptron, a: Array) -> tuple[Array, Array]:
    # Beyond where rows are, networks say what they say at the border: twelve couplings that feed on each other's
    # extrapolations sent one new row of four thousand a thousand standard deviations away.
    raw, shift = jnp.split(network(_BORDER * jnp.tanh(a.T / _BORDER)).T, 2)
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
        return RefinedNetwork(self.network, replace(self.couplings, in_use=flag))


def coupling_parameters(n: int, count: int, units: int) -> int:
    """Number of parameters of a `CouplingStack`."""
    half = n // 2
    network = half * units + units + units * units + units + 2 * (n - half) * (units + 1)
    return count * network + (count + 1) * n * (n + 1)
