"""Posteriors for rows without u: the prior is then a mixture over its values."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from identica.conditionals import (
    Factor,
    FlowPosterior,
    GaussNewtonPosterior,
    ModulatedPrior,
    PrecisionGaussian,
    ProductOfExperts,
    log_evidence,
    posterior_of,
)
from identica.families import as_distribution
from identica.models.latent_variable import VariationalModel
from identica.typing import Array, Key

_BLOCK = 64

FactorEncoder = ProductOfExperts | FlowPosterior | GaussNewtonPosterior
"""Posteriors that say what x alone tells of z."""


class MixturePosterior(NamedTuple):
    """q(z|x) = Σ_u p(u|x) q(z|x, u) of one row.

    Attributes
    ----------
    log_weights : (M,)
        log p(u|x), with p(u|x) ∝ p(u) N(m; μ_u, D_u + Λ⁻¹).
    part : PrecisionGaussian
        q(z|x, u) for all u, batch shape (M,).
    """

    log_weights: Array
    part: PrecisionGaussian

    def moments(self) -> tuple[Array, Array]:
        """Mean and variance of z, each (n,), by the law of total variance."""
        weights = jnp.exp(self.log_weights)[:, None]
        mean = (weights * self.part.mean).sum(0)
        spread = self.part.variance + (self.part.mean - mean) ** 2
        return mean, (weights * spread).sum(0)

    def sample_with_log_prob(self, key: Key, count: int) -> tuple[Array, Array]:
        """Samples (K, n) and their log-densities (K,) in nats."""
        part_key, noise_key = jax.random.split(key)
        chosen = jax.random.categorical(part_key, self.log_weights, shape=(count,))
        z = self.part.rows(chosen).sample(noise_key)
        return z, self.log_prob(z)

    def log_prob(self, z: Array) -> Array:
        """Log-densities (K,) of z (K, n), nats."""
        return jax.nn.logsumexp(self.part.log_prob(z[:, None]) + self.log_weights, axis=1)


def mixture_posterior(encoder: FactorEncoder, prior: ModulatedPrior, x: Array) -> MixturePosterior:
    """The posterior of one row x (d,) without u."""
    natural, log_shares = prior.parts()
    given = as_distribution(prior.family, natural).to_event(1)
    one = encoder.factor(x[None])
    factor = Factor(*(jnp.broadcast_to(leaf, (*leaf.shape[:-1], len(natural))) for leaf in one))
    part = posterior_of(factor, given)
    log_weights = jax.nn.log_softmax(log_shares + log_evidence(factor, given, part))
    return MixturePosterior(log_weights, part)


def moments_without_u(system: VariationalModel, x: Array) -> tuple[Array, Array]:
    """Posterior means and variances (B, n) of rows x (B, d)."""
    encoder, prior = _parts(system)
    one = lambda row: mixture_posterior(encoder, prior, row).moments()
    return jax.lax.map(one, x, batch_size=_BLOCK)


def samples_without_u(system: VariationalModel, x: Array, keys: Key, count: int) -> Array:
    """Posterior samples (B, K, n) of rows x (B, d), with one key per row."""
    encoder, prior = _parts(system)

    def one(row: tuple[Array, Key]) -> Array:
        return mixture_posterior(encoder, prior, row[0]).sample_with_log_prob(row[1], count)[0]

    return jax.lax.map(one, (x, keys), batch_size=_BLOCK)


def log_weights_without_u(system: VariationalModel, x: Array, keys: Key, count: int) -> Array:
    """K importance weights log p(x, z_k) − log q(z_k|x) per row, nats (B, K), with one key per row."""
    return weighted_draws_without_u(system, x, keys, count, lambda key, known, z, log_weight: log_weight)


def weighted_draws_without_u(
    system: VariationalModel,
    x: Array,
    keys: Key,
    count: int,
    reduce: Callable[[Key, Array, Array, Array], Any],
) -> Any:
    """``reduce(key, known, z, log_weight)`` of each row's draws (K, n) of q and log p(x, z) − log q(z|x) (K,).

    Rows come first. The key is independent of the draws; ``known`` (n,) is what the mean of q is known to be, less
    that of the draws.
    """
    encoder, prior = _parts(system)
    decoder = system.model.likelihood
    natural, log_shares = prior.parts()
    given = as_distribution(prior.family, natural).to_event(1)

    def one(row: tuple[Array, Key]) -> Any:
        q = mixture_posterior(encoder, prior, row[0])
        draw_key, key = jax.random.split(row[1])
        z, log_q = q.sample_with_log_prob(draw_key, count)
        known = q.moments()[0] - z.mean(0)
        if isinstance(encoder, FlowPosterior):
            z, log_volume = encoder.bent(row[0], z)
            log_q = log_q - log_volume
        log_prior = jax.nn.logsumexp(given.log_prob(z[:, None]) + log_shares, axis=1)
        return reduce(key, known, z, decoder(z).log_prob(row[0]) + log_prior - log_q)  # type: ignore[operator]

    return jax.lax.map(one, (x, keys), batch_size=_BLOCK)


def _parts(system: VariationalModel) -> tuple[FactorEncoder, ModulatedPrior]:
    encoder, prior = system.encoder, system.model.prior
    if not (isinstance(encoder, FactorEncoder) and isinstance(prior, ModulatedPrior)):
        raise TypeError("a posterior without u needs a product of experts and a modulated prior")
    return encoder, prior
