"""Contrastive objectives: tell a row's own context (its segment, its u, the row before it) from others."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from identica.conditionals import ModulatedPrior, ProductOfExperts, Table
from identica.data import Dataset, mean_over_rows
from identica.models.contrastive import ContrastiveModel, SegmentClassifier, log_densities, segment_log_odds
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


@dataclass(frozen=True)
class AllSegments:
    """Pairing of every row with every segment: which one did it come from? (time-contrastive learning)

    Attributes
    ----------
    n_segments : int
    """

    n_segments: int

    def __call__(self, system: ContrastiveModel, batch: Dataset) -> tuple[Array, Array, Array | None]:
        """Contexts, the place of each row's own among them, and weights of the contexts."""
        return jnp.arange(self.n_segments), system.codes(batch.u), None


@dataclass(frozen=True)
class OtherRows:
    """Pairing of every row with the contexts of all rows of the batch: which one is its own?

    Contexts of other rows are permuted contexts. With two rows this is logistic regression of (x, c)
    against (x, c*) (Hyvärinen and Morioka, 2017; Hyvärinen, Sasaki and Turner, 2019); more alternatives
    give each gradient more to compare (Ma and Collins, 2018). The optimum is r = log p(c|x)/p(c) up to a
    function of x.
    """

    def __call__(self, system: ContrastiveModel, batch: Dataset) -> tuple[Array, Array, Array | None]:
        """Contexts, the place of each row's own among them, and weights of the contexts."""
        return batch.u, jnp.arange(batch.n_rows), batch.weight


Pairing = AllSegments | OtherRows


@dataclass(frozen=True)
class ContrastiveCrossEntropy:
    """−mean log share of a row's own context among those that `pairing` compares, nats per row.

    Attributes
    ----------
    pairing : AllSegments or OtherRows
    """

    pairing: Pairing

    def __call__(
        self, system: ContrastiveModel, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        log_odds, own = self.log_odds(system, batch)
        return mean_over_rows(_cross_entropy(log_odds, own), batch.weight), {}

    def log_odds(self, system: ContrastiveModel, batch: Dataset) -> tuple[Array, Array]:
        """r of every row with every context that counts (B, C), and the place of its own (B,)."""
        context, own, weight = self.pairing(system, batch)
        log_odds = system.log_odds(batch.x, context)
        return log_odds if weight is None else jnp.where(weight > 0, log_odds, -1e30), own

    def rows(self, system: ContrastiveModel, data: Dataset, block: int) -> Array:
        """The cross-entropy of each row (N,), rows being compared within blocks of `block` rows."""
        blocks = _in_blocks(data, block)
        values = jax.lax.map(lambda part: _cross_entropy(*self.log_odds(system, part)), blocks)
        return values.reshape(-1)[: data.n_rows]


@dataclass(frozen=True)
class HeldOutContrast:
    """The contrastive cross-entropy of held-out rows, which ranks restarts.

    Attributes
    ----------
    objective : ContrastiveCrossEntropy
    block : int
        Rows that are compared with each other.
    """

    objective: ContrastiveCrossEntropy
    block: int

    def __call__(self, system: ContrastiveModel, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return mean_over_rows(self.objective.rows(system, held_out, self.block), held_out.weight)


def _in_blocks(data: Dataset, block: int) -> Dataset:
    """Rows as (blocks, block, …); the last block is filled with rows from the beginning."""
    block = min(block, data.n_rows)
    count = -(-data.n_rows // block)
    index = (jnp.arange(count * block) % data.n_rows).reshape(count, block)
    return data.rows(index)


def _cross_entropy(log_odds: Array, codes: Array) -> Array:
    own = jnp.take_along_axis(log_odds, codes[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(log_odds, axis=1) - own
