"""Labels u for the rows of a time series: equal windows, change-points, lags to events."""

from typing import Any

import numpy as np

from identica.errors import DataError
from identica.series.change_points import change_points
from identica.typing import IntArray


def segments(
    X: Any,
    *,
    windows: int | None = None,
    rows: int | None = None,
    events: Any = None,
    before: int = 0,
    after: int | None = None,
    changes: bool = False,
    min_rows: int | None = None,
    penalty: float = 1.0,
    sequence: Any = None,
) -> IntArray:
    """Label the rows of time series, to be used as u: choose windows, rows, events or changes.

    Nonlinear ICA needs to know when sources change how they vary. Windows of time are the simplest
    answer, change-points follow the data, and lags to events suit stimuli and heartbeats.

    Parameters
    ----------
    X : array-like of shape (N, d), or int
        Rows in the order of time; the number of rows is enough unless change-points are wanted.
    windows : int, optional
        Number of equal windows. With several series they are shared out by length, one each at least.
    rows : int, optional
        Length of a window in rows: each series is cut into windows of equal length, near to this one.
        With ``events``, the width of a bin of lags.
    events : array-like of int, or of bool (N,), optional
        Rows in which events happen. Each row gets the bin of its lag to the nearest event whose
        window covers it: 1, 2, … from ``before`` rows before it to ``after`` rows after it (that one
        not included), and 0, the baseline, if there is none.
    before, after : int
        Rows before and after an event that belong to it; ``after`` is needed.
    changes : bool
        Cut where mean or covariance of X change, by penalised Gaussian likelihood.
    min_rows : int, optional
        Fewest rows between two change-points; by default 20 or five per column, more if neighbouring
        rows resemble each other.
    penalty : float
        Factor on what a change-point costs, (p + 1) log N with the p = d (d + 3) / 2 parameters of a
        segment. More gives fewer segments.
    sequence : array-like of shape (N,), optional
        Which time series a row belongs to. No window or lag reaches from one into another.

    Returns
    -------
    int array of shape (N,)
        Codes 0, 1, …; windows and segments between changes are numbered in the order of time.

    Raises
    ------
    identica.DataError
        If there are too few rows, or an event lies outside.

    Examples
    --------
    >>> import identica
    >>> identica.segments(10, windows=3).tolist()
    [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    >>> identica.segments(10, rows=2, sequence=["a"] * 4 + ["b"] * 6).tolist()
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    >>> identica.segments(12, events=[5], before=2, after=4, rows=2).tolist()
    [0, 0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 0]

    Where the variance changes after 300 rows:

    >>> import numpy as np
    >>> noise = np.random.default_rng(0).normal(size=(1000, 2))
    >>> noise[300:, 0] *= 3
    >>> u = identica.segments(noise, changes=True)
    >>> int(u.max()) + 1, bool(abs((u == 0).sum() - 300) <= 5)
    (2, True)

    References
    ----------
    Windows as u: Hyvärinen and Morioka (2016), time-contrastive learning. Change-points: optimal
    partitioning, Jackson et al. (2005), with the cost of Lavielle and Teyssière (2006).
    """
    asked = [windows is not None, events is not None, changes, rows is not None and events is None]
    if sum(asked) != 1:
        raise ValueError(
            "segments needs exactly one of windows=…, rows=…, events=… (with after=… and rows=…) and changes=True"
        )
    n_rows = _number_of_rows(X)
    series = _series(sequence, n_rows)
    if changes:
        x = np.asarray(X, dtype=np.float64)
        if x.ndim != 2:
            raise DataError(f"changes=True needs the rows X of shape (N, d), got shape {x.shape}")
        if not np.isfinite(x).all():
            raise DataError("X has missing or infinite values; fill them or drop their rows")
        borders = change_points(x, series, min_rows=_optional("min_rows", min_rows), penalty=penalty)
        return _numbered(series, borders, n_rows)
    if events is not None:
        width = _positive("rows (the width of a bin of lags)", rows)
        if isinstance(before, bool) or not isinstance(before, (int, np.integer)) or before < 0:
            raise ValueError(f"before must be a whole number of at least 0, got {before!r}")
        return _lags(
            _event_rows(events, n_rows), series, n_rows, int(before), _positive("after", after), width
        )
    sizes = np.array([len(part) for part in series])
    if rows is not None:
        counts = np.maximum(1, np.round(sizes / _positive("rows", rows))).astype(np.int64)
    else:
        counts = _shares(_positive("windows", windows), sizes)
    borders = [np.arange(1, k) * size // k for k, size in zip(counts, sizes, strict=True)]
    return _numbered(series, borders, n_rows)


def _number_of_rows(X: Any) -> int:
    shape = np.shape(X)
    n_rows = int(shape[0]) if shape else int(X)
    if n_rows < 1:
        raise DataError(f"X must have rows, got {n_rows}")
    return n_rows


def _series(sequence: Any, n_rows: int) -> list[IntArray]:
    """Rows of each series, series in the order in which they begin."""
    if sequence is None:
        return [np.arange(n_rows)]
    values = np.asarray(sequence)
    if values.shape != (n_rows,):
        raise DataError(
            f"sequence has shape {values.shape} but X has {n_rows} rows; it needs one time-series id per row"
        )
    codes = np.unique(values, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    return sorted(parts, key=lambda part: int(part[0]))


def _shares(total: int, sizes: IntArray) -> IntArray:
    """``total`` windows shared out by length, one each at least, never more than rows."""
    if not len(sizes) <= total <= sizes.sum():
        raise DataError(
            f"windows={total}, but there are {int(sizes.sum())} rows in {len(sizes)} series; "
            "choose at least one window per series and at most one per row"
        )
    counts = np.ones(len(sizes), dtype=np.int64)
    for _ in range(total - len(sizes)):
        counts[np.argmax(sizes / counts)] += 1  # the series whose windows are longest gets another
    return counts


def _numbered(series: list[IntArray], borders: list[IntArray], n_rows: int) -> IntArray:
    labels, first = np.zeros(n_rows, dtype=np.int64), 0
    for rows, cuts in zip(series, borders, strict=True):
        labels[rows] = first + np.searchsorted(cuts, np.arange(len(rows)), side="right")
        first += len(cuts) + 1
    return labels


def _event_rows(events: Any, n_rows: int) -> IntArray:
    values = np.asarray(events)
    if values.dtype == bool and values.shape == (n_rows,):
        return np.flatnonzero(values)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(
            f"events must be row numbers or a mask of {n_rows} rows, got type {values.dtype}, shape {values.shape}"
        )
    if len(values) and (values.min() < 0 or values.max() >= n_rows):
        raise DataError(
            f"events must lie between rows 0 and {n_rows - 1}, got {values.min()} to {values.max()}"
        )
    return np.unique(values).astype(np.int64)


def _lags(
    events: IntArray, series: list[IntArray], n_rows: int, before: int, after: int, width: int
) -> IntArray:
    labels = np.zeros(n_rows, dtype=np.int64)
    is_event = np.zeros(n_rows, dtype=bool)
    is_event[events] = True
    for rows in series:
        own = np.flatnonzero(is_event[rows])
        place = np.arange(len(rows))
        following = np.searchsorted(own, place, side="right")
        far = len(rows) + before + after
        padded = np.array([-far, *own, len(rows) + far])
        since, until = place - padded[following], padded[following + 1] - place
        lag = np.where((since < after) & ((since <= until) | (until > before)), since, -until)
        covered = (lag < after) & (lag >= -before)
        labels[rows[covered]] = 1 + (lag[covered] + before) // width
    return labels


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return int(value)


def _optional(name: str, value: Any) -> int | None:
    return None if value is None else _positive(name, value)
