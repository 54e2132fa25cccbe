"""Correlation between columns of two tables, and the row bookkeeping that every score shares."""

from typing import Any

import numpy as np
from scipy.stats import rankdata

from identica.auxiliary import auxiliary_columns
from identica.errors import DataError
from identica.typing import FloatArray, IntArray

# A column counts as constant when it varies by no more than this many rounding errors of its largest value.
_ROUNDING = 64 * np.finfo(np.float64).eps


def as_columns(values: Any, name: str, *, n_rows: int | None = None) -> FloatArray:
    """``values`` as a finite float64 table (N, columns); a single column may come as (N,).

    Raises
    ------
    DataError
        Not numeric, more than two dimensions, another number of rows than ``n_rows``, or not finite.
    """
    array = np.asarray(values)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(f"expected {name} of shape (rows, columns), got {np.shape(values)}")
    if array.dtype.kind not in "fiub":
        raise DataError(f"expected {name} to hold real numbers, got dtype {array.dtype}; convert it first")
    if n_rows is not None and len(array) != n_rows:
        raise DataError(
            f"{name} has {len(array)} rows where {n_rows} were expected; pass the same rows in both arguments"
        )
    array = array.astype(np.float64)
    bad = ~np.isfinite(array).all(1)
    if bad.any():
        raise DataError(
            f"{name} is NaN or infinite in {bad.sum()} of {len(array)} rows, "
            f"first in row {int(bad.argmax())}; a failed fit must not be scored as if it had worked: "
            "drop the rows or count the fit as failed"
        )
    return array


def split_rows(fit_rows: Any, n_rows: int) -> tuple[IntArray, IntArray]:
    """Row indices to fit on and the remaining ones to score on; all rows for both when ``fit_rows`` is None.

    Raises
    ------
    DataError
        ``fit_rows`` is no boolean mask of length ``n_rows`` and no list of row numbers, or leaves fewer than
        two rows on either side.
    """
    every = np.arange(n_rows)
    if fit_rows is None:
        if n_rows < 2:
            raise DataError(f"a correlation needs at least two rows, got {n_rows}")
        return every, every
    given = np.asarray(fit_rows)
    mask = np.zeros(n_rows, dtype=bool)
    if given.ndim == 1 and given.dtype == bool and len(given) == n_rows:
        mask = given
    elif given.ndim == 1 and given.dtype.kind in "iu" and (np.abs(given + 0.5) < n_rows).all():
        mask[given] = True
    else:
        raise DataError(
            f"expected fit_rows to be a boolean mask of length {n_rows} or row numbers below {n_rows}, "
            f"got dtype {given.dtype}, shape {given.shape}"
        )
    fit, score = every[mask], every[~mask]
    if min(len(fit), len(score)) < 2:
        raise DataError(
            f"fit_rows leaves {len(fit)} rows to fit on and {len(score)} to score; both need at least two"
        )
    return fit, score


def segment_codes(u: Any, n_rows: int) -> tuple[IntArray, int]:
    """Code 0 .. M-1 of each row's distinct value of u (labels, numbers, several columns), and M."""
    codes = np.zeros(n_rows, dtype=np.int64)
    count = 1
    for values in auxiliary_columns(u, n_rows=n_rows).values():
        # str() makes columns of mixed types sortable; the type's name keeps 1 and "1" apart.
        labels = np.array([f"{type(v).__name__}:{v}" for v in values]) if values.dtype.kind == "O" else values
        own = np.unique(labels, return_inverse=True)[1].reshape(-1)
        codes = np.unique(codes * (own.max(initial=0) + 1) + own, return_inverse=True)[1].reshape(-1)
        count = int(codes.max(initial=0)) + 1
    return codes, count


def segment_means(values: FloatArray, codes: IntArray, n_segments: int) -> FloatArray:
    """Mean of each column in each segment, (M, columns); NaN where a segment has no rows."""
    counts = np.bincount(codes, minlength=n_segments)[:, None]

    def mean(table: FloatArray) -> FloatArray:
        sums = [np.bincount(codes, weights=column, minlength=n_segments) for column in table.T]
        with np.errstate(invalid="ignore"):
            return np.stack(sums, axis=1) / counts

    # The second pass removes the rounding of long sums, so that columns constant within segments centre to 0.
    first = mean(values)
    return first + mean(values - first[codes])


def standardised(
    values: FloatArray, *, ranks: bool = False, magnitude: FloatArray | None = None
) -> FloatArray:
    """Columns with mean 0 and norm 1, so that inner products are correlations; constant columns become 0.

    ``magnitude`` (columns,) is the largest absolute value before any centring: what is left of a column after
    its segment means were subtracted is rounding error when it is tiny beside that.
    """
    largest = np.abs(values).max(0) if magnitude is None else magnitude
    safe = np.where(largest > 0, largest, 1.0)
    scaled = values / safe  # guards the squares below against overflow and underflow
    centred = scaled - scaled[0]  # exact zeros for a constant column, whatever the rounding of its mean
    centred = centred - centred.mean(0)
    varies = np.abs(centred).max(0) > _ROUNDING
    if ranks:
        centred = rankdata(values, axis=0) - (len(values) + 1) / 2
    # A second scaling keeps columns that vary little around a large value accurate.
    reach = np.abs(centred).max(0)
    centred = centred / np.where(reach > 0, reach, 1.0)
    norm = np.sqrt((centred**2).sum(0))
    return np.where(varies, centred / np.where(norm > 0, norm, 1.0), 0.0)


def least_squares_prediction(x: FloatArray, y: FloatArray, fit: IntArray, score: IntArray) -> FloatArray:
    """Least-squares prediction of y (N, n) from x (N, d) and 1: fitted on ``fit``, given on ``score``."""
    centre, target = x[fit].mean(0), y[fit].mean(0)
    spread = x[fit].std(0)
    scale = np.where(spread > 0, spread, 1.0)
    weights = np.linalg.lstsq((x[fit] - centre) / scale, y[fit] - target, rcond=None)[0]
    return (x[score] - centre) / scale @ weights + target
