"""Priors of a flow's sources: by segment, by a network of u, or one mixture per component."""

import equinox as eqx
import jax
import jax.numpy as jnp

from identica.families import ExponentialFamily
from identica.typing import Array, Key


class SegmentPrior(eqx.Module):
    """p(z|u) for a discrete u: one row of natural parameters per segment and component.

    Attributes
    ----------
    family : ExponentialFamily
        Of every component.
    natural : (M, n, k)
        Natural parameters.
    shares : (M,)
        Share of each segment among the fitted rows, for rows without u.
    """

    family: ExponentialFamily
    natural: Array
    shares: Array

    def natural_parameters(self, u: Array) -> Array:
        """(B, n, k) of segment codes u (B,)."""
        return self.natural[u]

    def log_prob(self, z: Array, u: Array | None) -> Array:
        """log p(z|u) of z (B, n), nats (B,); of the mixture over segments if u is None."""
        if u is not None:
            return self.family.log_prob(z, self.natural[u]).sum(-1)
        joint = self.family.log_prob(z[:, None, :], self.natural[None]).sum(-1)
        return jax.nn.logsumexp(joint + jnp.log(self.shares), axis=1)

    def sample(self, u: Array, *, key: Key) -> Array:
        """z (B, n) given segment codes u (B,)."""
        return self.family.sample(self.natural[u], key=key)


class NetworkPrior(eqx.Module):
    """p(z|u) for a continuous u: a network from u to raw parameters of the family.

    Attributes
    ----------
    family : ExponentialFamily
        Of every component.
    network : equinox.nn.MLP
        m inputs, n·k outputs.
    examples : (E, m)
        Values of u from the fitted rows, over which rows without u are averaged.
    """

    family: ExponentialFamily
    network: eqx.nn.MLP
    examples: Array

    @classmethod
    def random(
        cls, family: ExponentialFamily, n: int, examples: Array, *, width: int = 32, key: Key
    ) -> "NetworkPrior":
        """A network of two hidden layers that starts near the same distribution for every u."""
        k = family.number_of_statistics
        network = eqx.nn.MLP(examples.shape[1], n * k, width, 2, jax.nn.tanh, key=key)
        last = network.layers[-1]
        small = eqx.tree_at(
            lambda layer: (layer.weight, layer.bias), last, (0.1 * last.weight, 0.0 * last.bias)
        )
        return cls(family, eqx.tree_at(lambda m: m.layers[-1], network, small), examples)

    def natural_parameters(self, u: Array) -> Array:
        """(B, n, k) of encoded u (B, m)."""
        raw = jax.vmap(self.network)(u)
        k = self.family.number_of_statistics
        return self.family.natural_parameters(raw.reshape(raw.shape[0], -1, k))

    def log_prob(self, z: Array, u: Array | None) -> Array:
        """log p(z|u) of z (B, n), nats (B,); averaged over the examples if u is None."""
        if u is not None:
            return self.family.log_prob(z, self.natural_parameters(u)).sum(-1)
        natural = self.natural_parameters(jax.lax.stop_gradient(self.examples))
        joint = self.family.log_prob(z[:, None, :], natural[None]).sum(-1)
        return jax.nn.logsumexp(joint, axis=1) - jnp.log(natural.shape[0])

    def sample(self, u: Array, *, key: Key) -> Array:
        """z (B, n) given encoded u (B, m)."""
        return self.family.sample(self.natural_parameters(u), key=key)


class MixturePrior(eqx.Module):
    """p(z) without u: an independent Gaussian mixture per component.

    Attributes
    ----------
    log_weights, means, variances : (n, J)
        Of the J parts of each component's mixture.
    """

    log_weights: Array
    means: Array
    variances: Array

    def log_prob(self, z: Array, u: Array | None) -> Array:
        """log p(z) of z (B, n), nats (B,); u is ignored."""
        square = (z[..., None] - self.means) ** 2 / self.variances
        parts = self.log_weights - 0.5 * (jnp.log(2 * jnp.pi * self.variances) + square)
        return jax.nn.logsumexp(parts, axis=-1).sum(-1)

    def sample(self, u: Array, *, key: Key) -> Array:
        """z (B, n), one row per row of u."""
        part_key, noise_key = jax.random.split(key)
        shape = (u.shape[0], self.means.shape[0])
        part = jax.random.categorical(part_key, self.log_weights, shape=shape)
        pick = lambda table: jnp.take_along_axis(table[None], part[..., None], axis=2)[..., 0]  # noqa: E731
        return pick(self.means) + jnp.sqrt(pick(self.variances)) * jax.random.normal(noise_key, shape)
