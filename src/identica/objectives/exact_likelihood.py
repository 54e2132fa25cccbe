"""Exact likelihood of a flow: with a prior, or profiled over the priors of all segments."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from identica.conditionals import ModulatedPrior
from identica.data import Dataset, mean_over_rows
from identica.families.base import VARIANCE_FLOOR
from identica.models.flow import FlowModel
from identica.typing import Array, Key

BLOCK_ROWS = 2**12
"""Rows at a time when the objective runs over a whole data set: few enough to stay in the cache."""

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
    log s_ui, as in the released code of GIN (Sorrenson et al., 2020). A location-scale family takes
    the segment's mean as location, and the best scale for it.

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

    Runs in blocks of rows, recomputed in the backward pass, so memory does not grow with N. Statistics of
    deviations from the segments' means take two passes over the blocks.
    """
    family = system.family
    if not family.centred:

        def sums(block: Dataset) -> tuple[Array, Array, Array]:
            z, log_det = system.demixer(block.x.T)
            member = _Membership(block, n_segments)
            base = family.log_base_measure(z).sum(0) + log_det  # type: ignore[attr-defined]
            totals = member.sums(family.sufficient_statistics(z))  # type: ignore[attr-defined]
            return member.counts(), totals, (base * member.weight).sum()

        counts, totals, base = _sum_over_blocks(sums, batch)
        return counts, totals / jnp.maximum(counts, 1e-6)[:, None, None], base / counts.sum()

    # A single block keeps its latents for the second pass; several would not fit into memory.
    single = system.demixer(batch.x.T) if batch.n_rows <= BLOCK_ROWS else None

    def first(block: Dataset) -> tuple[Array, Array, Array]:
        z, log_det = single or system.demixer(block.x.T)
        member = _Membership(block, n_segments)
        return member.counts(), member.sums(z[..., None])[..., 0], (log_det * member.weight).sum()

    counts, totals, base = _sum_over_blocks(first, batch)
    size = jnp.maximum(counts, 1e-6)[:, None]
    means = totals / size

    def second(block: Dataset) -> Array:
        z, _ = single or system.demixer(block.x.T)
        member = _Membership(block, n_segments)
        deviation = z - member.values_of(means)
        return member.sums(family.deviation_statistic(deviation.T).T[..., None])[..., 0]  # type: ignore[attr-defined]

    sizes = _sum_over_blocks(second, batch) / size
    return counts, jnp.stack([means, sizes], axis=-1), base / counts.sum()


class _Membership:
    """Which segment each row of a block belongs to, as sums over segments and values of segments."""

    def __init__(self, block: Dataset, n_segments: int):
        self.codes, self.n_segments = block.u, n_segments
        self.weight = jnp.ones(block.n_rows, block.x.dtype) if block.weight is None else block.weight
        self.one_hot: Array | None = None
        if n_segments <= _ONE_HOT_SEGMENTS:
            self.one_hot = (block.u[None, :] == jnp.arange(n_segments)[:, None]).astype(block.x.dtype)

    def counts(self) -> Array:
        """Total weight of each segment (M,)."""
        if self.one_hot is not None:
            return self.one_hot @ self.weight
        return jax.ops.segment_sum(self.weight, self.codes, self.n_segments)

    def sums(self, values: Array) -> Array:
        """Weighted sums (M, n, k) of values (n, B, k)."""
        if self.one_hot is not None:
            member = self.one_hot * self.weight
            return jnp.stack([member @ values[..., j].T for j in range(values.shape[-1])], axis=-1)
        weighted = jnp.moveaxis(values, 1, 0) * self.weight[:, None, None]
        return jax.ops.segment_sum(weighted, self.codes, self.n_segments)

    def values_of(self, table: Array) -> Array:
        """Rows of a table (M, n) for each row of the block, (n, B)."""
        if self.one_hot is not None:
            return jnp.matmul(table.T, self.one_hot, precision="highest")
        return table[self.codes].T


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
    size = -(-batch.n_rows // n_blocks)
    weight = jnp.ones(batch.n_rows, batch.x.dtype) if batch.weight is None else batch.weight
    padding = n_blocks * size - batch.n_rows
    pad = lambda leaf: jnp.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1))  # noqa: E731
    blocks = jax.tree.map(
        lambda leaf: pad(leaf).reshape(n_blocks, size, *leaf.shape[1:]),
        Dataset(batch.x, batch.u, weight=weight),
    )
    one = jax.checkpoint(sums)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(sums, batch.head(1)))

    def add(total, block):
        return jax.tree.map(jnp.add, total, one(block)), None

    return jax.lax.scan(add, zero, blocks)[0]
