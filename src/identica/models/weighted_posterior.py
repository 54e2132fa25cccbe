"""Posterior moments by importance weights: what a Gaussian q(z|x, u) leaves out, put right by the model itself.

An encoder that is trained by an importance-weighted bound proposes well and is a poor posterior by
itself: its mean is that of a proposal. Weighted by p(x, z|u)/q(z|x, u), its draws give the mean of the posterior.
"""

import math

import jax
import jax.numpy as jnp

from identica.conditionals import FlowPosterior
from identica.expectations.balanced import Balanced
from identica.models.latent_variable import VariationalModel
from identica.models.marginal_posterior import weighted_draws_without_u
from identica.typing import Array, Key

NODES, FLOW_NODES = 256, 64
"""Draws of each row from an encoder's posterior, and from a flow's, which is nearer to the true one."""

_BLOCK = 64


def weighted_moments(system: VariationalModel, x: Array, u: Array | None) -> tuple[Array, Array]:
    """Posterior means and variances (B, n) of rows x (B, d) given u (B, …), by balanced nodes of q.

    No randomness enters, and where q is the posterior its moments come out exactly.
    """

    count = _nodes_of(system)

    def one(row: tuple[Array, Array | None]) -> tuple[Array, Array]:
        x, u = row[0][None], None if row[1] is None else row[1][None]
        nodes = Balanced(count).placed(system.posterior(x, u))
        return _moments(nodes.z[:, 0], (system.model.log_joint(nodes.z, x, u) - nodes.log_q)[:, 0])

    return jax.lax.map(one, (x, u), batch_size=_BLOCK)


def weighted_moments_without_u(system: VariationalModel, x: Array, keys: Key) -> tuple[Array, Array]:
    """The same without u, by draws from q(z|x) = Σ_u p(u|x) q(z|x, u), with one key per row.

    What weighting changes of the draws' mean is added to the mean of q, which is known: it is exact where weights
    are equal, as that of nodes is.
    """

    def moments(_: Key, known: Array, z: Array, log_weight: Array) -> tuple[Array, Array]:
        mean, variance = _moments(z, log_weight)
        return mean + known, variance

    return weighted_draws_without_u(system, x, keys, _nodes_of(system), moments)


def weighted_samples(system: VariationalModel, x: Array, u: Array | None, keys: Key, count: int) -> Array:
    """Samples (B, K, n) of the posterior, with one key per row: draws of q, resampled by their weights."""

    def one(row: tuple[Array, Array | None, Key]) -> Array:
        x, u = row[0][None], None if row[1] is None else row[1][None]
        draw_key, choice_key = jax.random.split(row[2])
        z, log_q = system.posterior(x, u).sample_with_log_prob(draw_key, (_draws_for(count),))  # type: ignore[attr-defined]
        return _resampled(choice_key, z[:, 0], (system.model.log_joint(z, x, u) - log_q)[:, 0], count)

    return jax.lax.map(one, (x, u, keys), batch_size=_BLOCK)


def weighted_samples_without_u(system: VariationalModel, x: Array, keys: Key, count: int) -> Array:
    """The same without u, by draws from q(z|x) = Σ_u p(u|x) q(z|x, u)."""

    def samples(key: Key, _: Array, z: Array, log_weight: Array) -> Array:
        return _resampled(key, z, log_weight, count)

    return weighted_draws_without_u(system, x, keys, _draws_for(count), samples)


def truncated(log_weight: Array) -> Array:
    """Log weights (K,) cut at √K times their mean (Ionides, 2008): no single draw decides, where q is poor."""
    count = len(log_weight)
    log_weight = jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf)
    return jnp.minimum(log_weight, jax.nn.logsumexp(log_weight) - 0.5 * math.log(count))


def _nodes_of(system: VariationalModel) -> int:
    return FLOW_NODES if isinstance(system.encoder, FlowPosterior) else NODES


def _moments(z: Array, log_weight: Array) -> tuple[Array, Array]:
    weight = jax.nn.softmax(truncated(log_weight))
    mean = weight @ z
    return mean, weight @ (z - mean) ** 2


def _draws_for(count: int) -> int:
    """Draws of q of which so many are kept: enough for the weights to be trusted, and few kept twice."""
    return NODES + 4 * count


def _resampled(key: Key, z: Array, log_weight: Array, count: int) -> Array:
    """K of the draws z (M, n), each chosen with a probability that is its weight."""
    weight = jax.nn.softmax(truncated(log_weight))
    index = jnp.searchsorted(jnp.cumsum(weight), jax.random.uniform(key, (count,), weight.dtype))
    return z[jnp.minimum(index, len(weight) - 1)]
