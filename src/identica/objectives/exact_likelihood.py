"""Exact likelihood of a flow: with a prior, or profiled over the priors of all segments."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from identica.conditionals import ModulatedPrior
from identica.data import Dataset, mean_over_rows
from identica.families.base import VARIANCE_FLOOR, ExponentialFamily
from identica.families.shaped_location_scale import ShapedLocationScale
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
    """−mean log p(x|u) on held-out rows, with every segment's prior fitted on the fitted rows.

    Attributes
    ----------
    n_segments : int
    shape_price : float
        Nats per row and component that a shape beside the power has to gain in the choice among restarts.
    """

    n_segments: int
    shape_price: float = 0.0

    def __call__(self, system: FlowModel, data: Dataset, held_out: Dataset, key: Key) -> Array:
        counts, means, _ = segment_statistics(system, data, self.n_segments)
        natural = system.family.natural_from_expectation(shrink(means, counts))

        def log_prob(batch: Dataset) -> Array:
            z, log_det = system.latents(batch.x)
            return system.family.log_prob(z, natural[batch.u]).sum(-1) + log_det

        loss = -_blockwise_mean(log_prob, held_out)
        if isinstance(system.family, ShapedLocationScale):
            loss = loss + self.shape_price * system.n_components * system.family.in_use
        return loss


@dataclass(frozen=True)
class HeldOutLikelihood:
    """−mean log p(x|u) on held-out rows of a flow that has a prior."""

    def __call__(self, system: FlowModel, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return ExactLikelihood()(system, held_out, key=key)[0]


def segment_statistics(system: FlowModel, batch: Dataset, n_segments: int) -> tuple[Array, Array, Array]:
    """Rows per segment (M,), averaged statistics (M, n, k), and mean log Q(z) + log|det J| (scalar).

    The network runs in blocks of rows, recomputed in the backward pass: of all rows only latents are
    held, n numbers each. Deviations from the segments' means then take a second pass over the latents.
    """
    family = system.family
    z, log_det = latents_in_blocks(system, batch.x)
    rows = Dataset(z, batch.u, weight=batch.weight)

    def averages(statistic: Callable[[Array, _Membership], Array]) -> tuple[Array, Array]:
        def sums(block: Dataset) -> tuple[Array, Array]:
            member = _Membership(block, n_segments)
            return member.counts(), member.sums(statistic(block.x, member))

        counts, totals = _sum_over_blocks(sums, rows)
        return counts, totals / jnp.maximum(counts, 1e-6)[:, None, None]

    if not isinstance(family, ExponentialFamily):
        counts, means = averages(lambda z, _: z[..., None])
        deviation = lambda z, member: z - member.values_of(means[..., 0])
        _, sizes = averages(lambda z, member: family.deviation_statistic(deviation(z, member))[..., None])
        statistics = jnp.concatenate([means, sizes], axis=-1)
        volume = mean_over_rows(log_det, batch.weight)
        if isinstance(family, ShapedLocationScale):
            volume = volume + _mean_log_shape(family, statistics, rows, n_segments)
        return counts, statistics, volume
    counts, means = averages(lambda z, _: family.sufficient_statistics(z))
    base = family.log_base_measure(z).sum(-1) + log_det
    return counts, means, mean_over_rows(base, batch.weight)


def _mean_log_shape(family: ShapedLocationScale, statistics: Array, rows: Dataset, n_segments: int) -> Array:
    """Mean over rows of what the sources' shapes add to their log-density, with every segment's own parameters."""
    natural = family.natural_from_expectation(statistics)

    def sums(block: Dataset) -> tuple[Array, Array]:
        member = _Membership(block, n_segments)
        own = jnp.stack([member.values_of(natural[..., j]) for j in range(2)], axis=-1)
        added = family.log_shape(block.x - own[..., 0], own).sum(-1)
        return (added * member.weight).sum(), member.weight.sum()

    total, weight = _sum_over_blocks(sums, rows)
    return total / weight


def latents_in_blocks(system: FlowModel, x: Array) -> tuple[Array, Array]:
    """`FlowModel.latents` of many rows: z (N, n) and log|det dz/dx| (N,)."""
    if x.shape[0] <= BLOCK_ROWS:
        return system.latents(x)
    blocks, n_rows = _in_blocks(x), x.shape[0]
    # A lambda, as checkpoint hashes what it wraps.
    z, log_det = jax.lax.map(jax.checkpoint(lambda block: system.latents(block)), blocks)
    return z.reshape(-1, z.shape[-1])[:n_rows], log_det.reshape(-1)[:n_rows]


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
        """Weighted sums (M, n, k) of values (B, n, k)."""
        if self.one_hot is not None:
            member = self.one_hot * self.weight
            return jnp.stack([member @ values[..., j] for j in range(values.shape[-1])], axis=-1)
        return jax.ops.segment_sum(values * self.weight[:, None, None], self.codes, self.n_segments)

    def values_of(self, table: Array) -> Array:
        """Rows of a table (M, n) for each row of the block, (B, n)."""
        if self.one_hot is not None:
            return jnp.matmul(self.one_hot.T, table, precision="highest")
        return table[self.codes]


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
    weight = jnp.ones(batch.n_rows, batch.x.dtype) if batch.weight is None else batch.weight
    blocks = jax.tree.map(_in_blocks, Dataset(batch.x, batch.u, weight=weight))
    one = jax.checkpoint(sums)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(sums, batch.head(1)))

    def add(total, block):
        return jax.tree.map(jnp.add, total, one(block)), None

    return jax.lax.scan(add, zero, blocks)[0]


def _in_blocks(leaf: Array) -> Array:
    """(N, …) to (blocks, rows, …) of equal size, the last one filled up with zeros."""
    n_rows = leaf.shape[0]
    n_blocks = -(-n_rows // BLOCK_ROWS)
    size = -(-n_rows // n_blocks)
    padded = jnp.pad(leaf, [(0, n_blocks * size - n_rows)] + [(0, 0)] * (leaf.ndim - 1))
    return padded.reshape(n_blocks, size, *leaf.shape[1:])
