"""Where the mean or the covariance of a series changes: optimal partitioning by Gaussian likelihood."""

import numpy as np
from scipy.special import digamma

from identica.errors import DataError
from identica.series.autocorrelation import autocorrelation
from identica.typing import FloatArray, IntArray

_CANDIDATES = 400
"""Most places of a series among which the partition is optimal; borders then move by single rows."""


def change_points(
    x: FloatArray, series: list[IntArray], *, min_rows: int | None = None, penalty: float = 1.0
) -> list[IntArray]:
    """First rows of new segments within each series, as positions within it.

    The cost of a partition is −2 log-likelihood of a Gaussian per segment, plus ``penalty`` times
    (p + 1) log N per change-point, minimised exactly over up to 400 places by dynamic programming.
    Two corrections keep it honest where rows are no independent Gaussians, as sources are not: the
    log-likelihood is divided by 1 + 2 Σ ρ_k² (the autocorrelation time of squares of a Gaussian
    series) and by (κ − 1) / 2 (the excess variance of squares at kurtosis κ). Both are measured
    within short windows, where changes between segments do not show.

    Parameters
    ----------
    x : array of shape (N, d)
        Finite rows. The likelihood does not depend on their linear coordinates.
    series : list of int arrays
        Rows of each series in the order of time.
    min_rows : int, optional
        Fewest rows of a segment.
    penalty : float
        Factor on the cost of a change-point.

    Raises
    ------
    DataError
        If ``min_rows`` is too small for d columns.
    """
    if isinstance(penalty, bool) or not isinstance(penalty, (int, float, np.number)) or not penalty > 0:
        raise ValueError(f"penalty must be a positive number, got {penalty!r}")
    z = _white(x)
    d = z.shape[1]
    window = max(20, 5 * d)
    correlation, tails = 1.0, 1.0
    # Slow series need longer windows to show how slow they are.
    for _ in range(6):
        before = correlation
        correlation, tails = _overdispersion(z, series, int(2 * window * correlation))
        if correlation < 1.1 * before:
            break
    if min_rows is None:
        window = int(np.ceil(window * correlation))
    elif min_rows >= d + 2:
        window = min_rows
    else:
        raise DataError(
            f"min_rows={min_rows} is too few for a covariance of {d} columns; use {d + 2} or more, or fewer columns"
        )
    price = penalty * (d * (d + 3) / 2 + 1) * np.log(len(z))
    return [_partition(z[rows], window, price, correlation, tails) for rows in series]


def _partition(z: FloatArray, window: int, price: float, correlation: float, tails: float) -> IntArray:
    n = len(z)
    if n < 2 * window:
        return np.zeros(0, dtype=np.int64)
    step = max(1, -(-n // _CANDIDATES))
    places = np.append(np.arange(0, n - step + 1, step), n)
    moments = _Moments(z, correlation, tails)
    best = np.full(len(places), np.inf)
    previous = np.zeros(len(places), dtype=np.int64)
    best[0] = -price
    for end in range(1, len(places)):
        starts = np.flatnonzero(places[end] - places[:end] >= window)
        starts = starts[np.isfinite(best[starts])]
        if len(starts) == 0:
            continue
        cost = best[starts] + price + moments.cost(places[starts], np.full(len(starts), places[end]))
        chosen = int(np.argmin(cost))
        best[end], previous[end] = cost[chosen], starts[chosen]
    cuts, end = [], len(places) - 1
    while previous[end] > 0:
        end = previous[end]
        cuts.append(int(places[end]))
    borders = np.array([0, *cuts[::-1], n])
    for _ in range(2 if step > 1 else 0):
        for i in range(1, len(borders) - 1):
            low = max(borders[i] - step, borders[i - 1] + window)
            high = min(borders[i] + step, borders[i + 1] - window)
            tried = np.arange(low, high + 1)
            if len(tried):
                left = moments.cost(np.full(len(tried), borders[i - 1]), tried)
                right = moments.cost(tried, np.full(len(tried), borders[i + 1]))
                borders[i] = tried[np.argmin(left + right)]
    return borders[1:-1]


class _Moments:
    """−2 log-likelihood of any stretch of rows, from cumulative sums."""

    def __init__(self, z: FloatArray, correlation: float, tails: float):
        zero = np.zeros((1, z.shape[1]))
        self.first = np.concatenate([zero, np.cumsum(z, axis=0)])
        self.z, self.correlation, self.tails = z, correlation, tails
        self.second: dict[int, FloatArray] = {}

    def cost(self, start: IntArray, end: IntArray) -> FloatArray:
        d = self.z.shape[1]
        length = (end - start).astype(np.float64)
        mean = (self.first[end] - self.first[start]) / length[:, None]
        covariance = (self._second(end) - self._second(start)) / length[:, None, None]
        covariance = covariance - mean[:, :, None] * mean[:, None, :] + 1e-9 * np.eye(d)
        log_det = np.linalg.slogdet(covariance)[1]
        # Short segments fit themselves better than their number of parameters says; this takes it back,
        # so that under no change the expected gain of a segment is that number, whatever its length.
        free = np.maximum(length / self.correlation, d + 2)
        surplus = d * np.log(free / 2) - digamma((free[:, None] - np.arange(1, d + 1)) / 2).sum(axis=1)
        surplus = surplus - d * (d + 3) / 2 / free
        return length * (log_det + surplus) / (self.correlation * self.tails)

    def _second(self, places: IntArray) -> FloatArray:
        """Sum of z zᵀ over rows before each place."""
        missing = sorted(set(places.tolist()) - self.second.keys())
        known = sorted(self.second)
        for place in missing:
            below = [k for k in known if k < place]
            start = below[-1] if below else 0
            total = self.second[start] if below else np.zeros((self.z.shape[1],) * 2)
            part = self.z[start:place]
            self.second[place] = total + part.T @ part
            known = sorted([*known, place])
        return np.stack([self.second[int(place)] for place in places])


def _white(x: FloatArray) -> FloatArray:
    """Columns uncorrelated and of unit variance; directions that do not vary are left out."""
    largest = np.abs(x).max(axis=0)
    x = x / np.where(largest > 0, largest, 1.0)
    x = x - x.mean(axis=0)
    spread = x.std(axis=0)
    x = x[:, spread > 1e-12] / spread[spread > 1e-12]
    if x.shape[1] == 0:
        raise DataError("X does not vary, so nothing in it can change")
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    kept = values > 1e-9 * values[-1]
    return x @ vectors[:, kept] / np.sqrt(values[kept])


def _overdispersion(z: FloatArray, series: list[IntArray], window: int) -> tuple[float, float]:
    """How much more sums of squares vary than those of independent Gaussians: by time, and by tails."""
    standard, group = [], []
    for rows in series:
        for part in np.array_split(rows, max(1, len(rows) // window)):
            centred = z[part] - z[part].mean(axis=0)
            spread = centred.std(axis=0)
            standard.append(centred / np.where(spread > 0, spread, 1.0))
            group.append(np.full(len(part), len(group)))
    values = np.concatenate(standard)
    rho = autocorrelation(values, np.concatenate(group))[1:]
    # Lags within noise of zero would add up to something; those beyond it are counted.
    clear = np.abs(rho) > 3 / np.sqrt(len(values))
    correlation = 1 + 2 * float(np.mean((rho**2 * clear).sum(axis=0)))
    tails = max(1.0, (float(np.mean(values**4)) - 1) / 2)
    return correlation, tails
