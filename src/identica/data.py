"""The data set as a pytree, held-out rows, and rows that are gross spikes."""

from typing import Any

import equinox as eqx
import numpy as np

from identica.errors import DataError
from identica.typing import Array, FloatArray, IntArray


class Dataset(eqx.Module):
    """Rows of observations with what belongs to each of them.

    Attributes
    ----------
    x : Array of shape (N, d)
        Observations, scaled as the model wants them.
    u : Array of shape (N,) int, (N, m) float, or None
        Segment codes, or encoded continuous auxiliary variable.
    sequence : Array of shape (N,) int, or None
        Which time series a row belongs to.
    weight : Array of shape (N,) float, or None
        Weight of each row; 0 for padding.
    """

    x: Any
    u: Any = None
    sequence: Any = None
    weight: Any = None

    @property
    def n_rows(self) -> int:
        """Number of rows N."""
        return self.x.shape[0]

    def rows(self, index: Any) -> "Dataset":
        """The rows of an index array, mask or slice."""
        take = lambda leaf: None if leaf is None else leaf[index]
        return Dataset(take(self.x), take(self.u), take(self.sequence), take(self.weight))

    def head(self, n: int) -> "Dataset":
        """The first n rows (all of them if there are fewer)."""
        return self if n >= self.n_rows else self.rows(slice(0, n))


def mean_over_rows(values: Array, weight: Array | None) -> Array:
    """Weighted mean of values (B,), in which rows of weight 0 do not count."""
    return values.mean() if weight is None else (values * weight).sum() / weight.sum()


def interleaved(codes: IntArray, per_segment: int, rng: np.random.Generator) -> IntArray:
    """An order of rows in which contiguous slices hold few segments, each with enough rows.

    Averages over a segment's rows in a slice are what a profile likelihood rests on; from a handful of
    rows they are biased. So segments take turns in random order, ``per_segment`` rows at a time. Each has
    its first turn before any has its second; later turns are spread evenly, so that a long segment is
    everywhere and nowhere alone for long.

    Parameters
    ----------
    codes : (N,) int
        Segment of each row; the rows are in random order.
    per_segment : int
        Rows of a segment that follow each other.
    rng : numpy.random.Generator

    Returns
    -------
    (N,) int
        Row numbers.
    """
    counts = np.bincount(codes)
    sorted_rows = np.argsort(codes, kind="stable")
    rank = np.empty(len(codes), dtype=np.int64)  # place of each row among those of its segment
    rank[sorted_rows] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    turn = rank // per_segment
    _, chunk = np.unique(turn * len(counts) + codes, return_inverse=True)
    when = turn + rng.random(int(chunk.max()) + 1)[chunk]
    later_turns = np.maximum((counts - 1) // per_segment, 1)[codes]
    return np.lexsort((rank, chunk, np.where(turn == 0, when - 1, (when - 1) / later_turns)))


def held_out_split(
    n_rows: int,
    fraction: float,
    rng: np.random.Generator,
    *,
    codes: IntArray | None = None,
    sequence: IntArray | None = None,
) -> tuple[IntArray, IntArray]:
    """Draw held-out rows within each segment, leaving at least two rows of each to the fit.

    Neighbouring rows of a time series resemble each other, so with ``sequence`` a block of rows per
    segment is held out rather than scattered rows: rows that follow each other in the segment, series
    after series. All segments lend from the same part of their time, so that where segments recur, as
    lags to events do, whole stretches are held out and not every other row.

    Parameters
    ----------
    n_rows : int
        Number of rows N.
    fraction : float in [0, 1)
        Share of held-out rows; 0 holds out none.
    rng : numpy.random.Generator
        Source of randomness.
    codes : int array of shape (N,), optional
        Segment of each row.
    sequence : int array of shape (N,), optional
        Time series of each row.

    Returns
    -------
    fit_rows, held_out_rows : int arrays
        Both in random order.
    """
    if not 0 <= fraction < 1:
        raise DataError(f"validation_fraction must lie in [0, 1), got {fraction!r}")
    segment = np.zeros(n_rows, dtype=np.int64) if codes is None else np.asarray(codes, dtype=np.int64)
    order = np.lexsort((np.zeros(n_rows) if sequence is None else sequence, segment))
    counts = np.bincount(segment)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    # Largest remainders: segments of five rows lend a row now and then, and the total is right.
    exact = fraction * counts
    take = np.floor(exact).astype(np.int64)
    missing = round(fraction * n_rows) - int(take.sum())
    if missing > 0:
        ranked = np.argsort(-(exact - take) + 1e-9 * rng.random(len(counts)), kind="stable")
        take[ranked[:missing]] += 1
    take = np.clip(np.minimum(take, counts - 2), 0, None)
    held_out: list[IntArray] = []
    place = 0.0 if sequence is None else rng.random()
    for start, count, n in zip(starts, counts, take, strict=True):
        if n == 0:
            continue
        rows = order[start : start + count]
        if sequence is None:
            held_out.append(rng.choice(rows, n, replace=False))
        else:
            begin = int(place * (count - n + 1))
            held_out.append(rows[begin : begin + n])
    mask = np.zeros(n_rows, dtype=bool)
    if held_out:
        mask[np.concatenate(held_out)] = True
    return rng.permutation(np.flatnonzero(~mask)), rng.permutation(np.flatnonzero(mask))


def gross_rows(x: FloatArray, threshold: float, *, largest_share: float = 0.01) -> IntArray:
    """Rows with a value more than ``threshold`` robust standard deviations from its column's median.

    One electrode spike of a million units would set the scale of its whole column and leave nothing
    to learn. The robust standard deviation is 1.4826 times the median absolute deviation; a column
    in which it is zero is not judged, nor are unknown entries (NaN). If more than ``largest_share`` of all
    rows qualify, the data are heavy-tailed rather than spiked, and none is reported.

    Returns
    -------
    int array
        Row indices in increasing order.
    """
    median_of = np.nanmedian if np.isnan(x).any() else np.median
    median = median_of(x, axis=0)
    deviation = np.abs(x - median)
    scale = 1.4826 * median_of(deviation, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.where(scale > 0, deviation > threshold * scale, False).any(axis=1)
    rows = np.flatnonzero(far)
    return rows if len(rows) <= largest_share * len(x) else rows[:0]
