"""Contrastive objectives: tell from x which segment it came from."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from identica.conditionals import ModulatedPrior, ProductOfExperts, Table
from identica.data import Dataset, mean_over_rows
from identica.models.contrastive import SegmentClassifier, log_densities, segment_log_odds
from identica.models.latent_variable import VariationalModel
from identica.typing import Array, Key


@dataclass(frozen=True)
class SegmentCrossEntropy:
    """−mean log p(u|x) of a `SegmentClassifier`, nats per row.

    Time-contrastive learning (Hyvärinen and Morioka, 2016, eq. 3) with the exact exponential-family
    head in place of a linear one.
    """

    def __call__(
        self, system: SegmentClassifier, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        log_odds = system.log_odds(batch.x)
        return mean_over_rows(_cross_entropy(log_odds, system.codes(batch.u)), batch.weight), {}


@dataclass(frozen=True)
class HeldOutCrossEntropy:
    """The cross-entropy of held-out rows, which ranks restarts."""

    def __call__(self, system: SegmentClassifier, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return SegmentCrossEntropy()(system, held_out, key=key)[0]


@dataclass(frozen=True)
class PosteriorCrossEntropy:
    """−mean log p(u|m(x)) with the prior of a `VariationalModel`, nats per row.

    m(x) is the mean of the encoder's likelihood factor. For a discrete u the alternatives are all
    segments, weighted by their shares; for a continuous u they are the other rows of the batch
    (InfoNCE, van den Oord et al., 2018, with the exact log-density as critic).
    """

    def __call__(
        self, system: VariationalModel, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        prior, encoder = system.model.prior, system.encoder
        if not (isinstance(prior, ModulatedPrior) and isinstance(encoder, ProductOfExperts)):
            raise TypeError(
                "the cross-entropy of a posterior needs a modulated prior and a product of experts"
            )
        mean = encoder.mean(batch.x)
        if isinstance(prior.parameters, Table):
            shares = jax.lax.stop_gradient(prior.parameters.log_shares)
            prior = ModulatedPrior(prior.family, Table(prior.parameters.raw, shares))
            log_odds, codes = segment_log_odds(prior, mean), batch.u
        else:
            log_odds = log_densities(prior.family, mean, prior.natural(batch.u))
            if batch.weight is not None:
                log_odds = jnp.where(batch.weight > 0, log_odds, -1e30)
            codes = jnp.arange(len(mean))
        return mean_over_rows(_cross_entropy(log_odds, codes), batch.weight), {}


def _cross_entropy(log_odds: Array, codes: Array) -> Array:
    own = jnp.take_along_axis(log_odds, codes[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(log_odds, axis=1) - own
