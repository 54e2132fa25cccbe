"""Exact likelihood of a flow: with a prior, or profiled over the priors of all segments."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from identica.conditionals import ModulatedPrior
from identica.data import Dataset, mean_over_rows
from identica.families.base import VARIANCE_FLOOR
from identica.models.flow import FlowModel
from identica.typing import Array, Key

BLOCK_ROWS = 2**15
"""Rows held in memory at a time when the objective runs over a whole data set."""

_ONE_HOT_SEGMENTS = 512
"""Up to here a one-hot matrix product sums over segments faster than a scatter does."""


@dataclass(frozen=True)
class ExactLikelihood:
    """−mean log p(x|u) of a flow that has a prior, nats per row."""

    def __call__(self, system: FlowModel, batch: Dataset, *, key: Key) -> tuple[Array, dict[str, Array]]:
        loss = -_blockwise_mean(lambda b: system.log_marginal(b.x, b.u), batch)
        return loss, {}


@dataclass(frozen=True)
class ProfileLikelihood:
    """−mean log p(x|u), maximised in closed form over the prior of every segment.

    For an exponential family the best prior of a segment depends on its rows only through their
    averaged sufficient statistics, so that no prior has to be learned: the loss is
    −Σ_u (n_u/n) Σ_i [λ̂_ui·T̄_ui − A(λ̂_ui)] − mean(log Q(z) + log|det J|), where λ̂ is the
    maximum-likelihood parameter for the averages T̄. For the Gaussian this is the mean of
    log s_ui, as in the released code of GIN (Sorrenson et al., 2020).

    Attributes
    ----------
    n_segments : int
        Number M of segments.
    """

    n_segments: int

    def __call__(self, system: FlowModel, batch: Dataset, *, key: Key) -> tuple[Array, dict[str, Array]]:
        counts, means, volume = segment_statistics(system, batch, self.n_segments)
        gain = system.family.profile_log_likelihood(means).sum(-1)
        return -(counts * gain).sum() / counts.sum() - volume, {}


@dataclass(frozen=True)
class HeldOutProfile:
    """−mean log p(x|u) on held-out rows, with every segment's prior fitted on the fitted rows."""

    n_segments: int

    def __call__(self, system: FlowModel, data: Dataset, held_out: Dataset, key: Key) -> Array:
        counts, means, _ = segment_statistics(system, data, self.n_segments)
        natural = system.family.natural_from_expectation(shrink(means, counts))

        def log_prob(batch: Dataset) -> Array:
            z, log_det = system.latents(batch.x)
            return system.family.log_prob(z, natural[batch.u]).sum(-1) + log_det

        return -_blockwise_mean(log_prob, held_out)


@dataclass(frozen=True)
class HeldOutLikelihood:
    """−mean log p(x|u) on held-out rows of a flow that has a prior."""

    def __call__(self, system: FlowModel, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return ExactLikelihood()(system, held_out, key=key)[0]


def segment_statistics(system: FlowModel, batch: Dataset, n_segments: int) -> tuple[Array, Array, Array]:
    """Rows per segment (M,), averaged statistics (M, n, k), and mean log Q(z) + log|det J| (scalar).

    Runs in blocks of rows, recomputed in the backward pass, so memory does not grow with N.
    """

    def sums(block: Dataset) -> tuple[Array, Array, Array]:
        z, log_det = system.demixer(block.x.T)
        statistics = system.family.sufficient_statistics(z)  # (n, B, k)
        base = system.family.log_base_measure(z).sum(0) + log_det
        weight = jnp.ones_like(log_det) if block.weight is None else block.weight
        if n_segments <= _ONE_HOT_SEGMENTS:
            member = (block.u[None, :] == jnp.arange(n_segments)[:, None]) * weight
            totals = jnp.stack([member @ statistics[..., j].T for j in range(statistics.shape[-1])], axis=-1)
            counts = member.sum(1)
        else:
            weighted = jnp.moveaxis(statistics, 1, 0) * weight[:, None, None]
            totals = jax.ops.segment_sum(weighted, block.u, n_segments)
            counts = jax.ops.segment_sum(weight, block.u, n_segments)
        return counts, totals, (base * weight).sum()

    counts, totals, base = _sum_over_blocks(sums, batch)
    return counts, totals / jnp.maximum(counts, 1e-6)[:, None, None], base / counts.sum()


def shrink(means: Array, counts: Array, *, strength: float = 1.0) -> Array:
    """Averaged statistics (M, n, k), pulled toward their average over segments.

    A segment of n_u rows keeps the weight n_u / (n_u + strength). A short segment's own variance is
    too small by chance as often as too large, and too small costs far more on new rows.
    """
    pooled = jnp.einsum("m,mnk->nk", counts / counts.sum(), means)
    own = (counts / (counts + strength))[:, None, None]
    return own * means + (1 - own) * pooled


def segment_prior(system: FlowModel, data: Dataset, n_segments: int) -> ModulatedPrior:
    """The prior of every segment, fitted to all rows of ``data``."""
    counts, means, _ = segment_statistics(system, data, n_segments)
    return ModulatedPrior.table(system.family, shrink(means, counts), counts, floor=VARIANCE_FLOOR)


def _blockwise_mean(values, batch: Dataset) -> Array:
    def sums(block: Dataset) -> tuple[Array, Array]:
        weight = jnp.ones(block.n_rows, block.x.dtype) if block.weight is None else block.weight
        return (values(block) * weight).sum(), weight.sum()

    if batch.n_rows <= BLOCK_ROWS:
        return mean_over_rows(values(batch), batch.weight)
    total, weight = _sum_over_blocks(sums, batch)
    return total / weight


def _sum_over_blocks(sums, batch: Dataset):
    """Sum of ``sums(block)`` over blocks of rows; the last one is padded with rows of weight 0."""
    if batch.n_rows <= BLOCK_ROWS:
        return sums(batch)
    n_blocks = -(-batch.n_rows // BLOCK_ROWS)
    weight = jnp.ones(batch.n_rows, batch.x.dtype) if batch.weight is None else batch.weight
    padding = n_blocks * BLOCK_ROWS - batch.n_rows
    pad = lambda leaf: jnp.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1))  # noqa: E731
    blocks = jax.tree.map(
        lambda leaf: pad(leaf).reshape(n_blocks, BLOCK_ROWS, *leaf.shape[1:]),
        Dataset(batch.x, batch.u, weight=weight),
    )
    one = jax.checkpoint(sums)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(sums, batch.head(1)))

    def add(total, block):
        return jax.tree.map(jnp.add, total, one(block)), None

    return jax.lax.scan(add, zero, blocks)[0]
