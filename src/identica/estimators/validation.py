"""Checks of X and u before any long work, each naming what is wrong and what to try."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from identica.auxiliary import AuxiliaryEncoder
from identica.errors import DataError
from identica.typing import FloatArray, IntArray


def check_observations(estimator: Any, X: Any, *, reset: bool, unknown: bool = False) -> FloatArray:
    """X as float64 (N, d), finite; sets or checks ``n_features_in_`` and feature names.

    ``unknown`` says that entries may be NaN, which stands for a value that was not observed.
    """
    X = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=[np.float64, np.float32],
        ensure_min_samples=2 if reset else 1,
        ensure_all_finite="allow-nan" if unknown else True,
    )
    return np.asarray(X, dtype=np.float64)


def check_columns(estimator: Any, X: FloatArray, n_components: int | None) -> None:
    """Enough rows, no constant column, and as many components as columns at most.

    Raises
    ------
    DataError
    """
    n_rows, n_columns = X.shape
    if n_rows < n_columns:
        raise DataError(
            f"X has fewer rows ({n_rows}) than columns ({n_columns}); give at least as many rows as columns, "
            "or reduce the columns first"
        )
    if n_components is not None:
        if isinstance(n_components, bool) or not isinstance(n_components, (int, np.integer)):
            raise ValueError(f"n_components must be an int or None, got {n_components!r}")
        if not 1 <= n_components <= n_columns:
            raise DataError(
                f"n_components={n_components}, but X has {n_columns} column(s); "
                f"choose between 1 and {n_columns}"
            )
    check_variation(estimator, X)


def check_variation(estimator: Any, X: FloatArray, *, where: str = "") -> None:
    """No constant column; ``where`` says among which rows.

    Raises
    ------
    DataError
    """
    names = getattr(estimator, "feature_names_in_", None)

    def shown(columns: IntArray) -> str:
        return ", ".join(repr(str(names[j])) if names is not None else str(j) for j in columns[:5])

    largest, smallest = np.fmax.reduce(X, axis=0), np.fmin.reduce(X, axis=0)
    empty = np.flatnonzero(np.isnan(largest))
    if len(empty):
        raise DataError(
            f"X has {len(empty)} column(s) without any observed value{where}: {shown(empty)}; drop them"
        )
    constant = np.flatnonzero(largest == smallest)
    if len(constant):
        raise DataError(
            f"X has {len(constant)} constant column(s){where}: {shown(constant)} (value {largest[constant[0]]:g}); "
            "a column without variation carries no source: drop it"
        )


def check_segments(encoder: AuxiliaryEncoder, codes: IntArray) -> None:
    """At least two segments, each with at least two rows.

    Raises
    ------
    DataError
    """
    names = encoder.segment_names()
    if len(names) == 1:
        raise DataError(
            f"u has one value only ({names[0]!r}); nonlinear ICA needs an auxiliary variable that takes several "
            "values, each with its own distribution of sources. Try windows of time as u, or VAE or LinearICA without u"
        )
    counts = np.bincount(codes, minlength=len(names))
    short = np.flatnonzero(counts < 2)
    if len(short):
        shown = ", ".join(repr(names[i]) for i in short[:5])
        hint = (
            "u seems to be an index: cut it into windows, or scale it to fractions, which are a continuous u"
            if len(short) > len(names) / 2
            else "merge short segments or drop their rows"
        )
        raise DataError(
            f"{len(short)} of {len(names)} segments of u have fewer than two rows: {shown}; "
            f"a segment needs rows to have a variance: {hint}"
        )


def check_sequence(sequence: Any, n_rows: int) -> IntArray | None:
    """Time series ids as int codes (N,), or None."""
    if sequence is None:
        return None
    values = np.asarray(sequence)
    if values.shape != (n_rows,):
        raise DataError(
            f"sequence has shape {values.shape} but X has {n_rows} rows; it needs one time-series id per row"
        )
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def check_fraction(value: Any) -> float:
    """``validation_fraction`` as a float in [0, 1)."""
    if not isinstance(value, (int, float, np.number)) or not 0 <= value < 1:
        raise ValueError(f"validation_fraction must be a number in [0, 1), got {value!r}")
    return float(value)


def check_count(name: str, value: Any, *, least: int = 1) -> int:
    """A whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def check_positive(name: str, value: Any) -> float:
    """A finite number above 0."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not 0 < value < np.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def check_one_of(name: str, value: Any, known: Sequence[str]) -> str:
    """One of the words that an option takes."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def check_threshold(value: Any) -> float | None:
    """``outlier_threshold`` as a positive float, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not value > 0:
        raise ValueError(f"outlier_threshold must be a positive number or None, got {value!r}")
    return float(value)


def check_callbacks(value: Any) -> tuple[Callable[..., Any], ...]:
    """``callbacks`` as a tuple of callables."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or not all(callable(v) for v in value):
        raise ValueError(f"callbacks must be a list of callables or None, got {value!r}")
    return tuple(value)


def check_folder(name: str, value: Any) -> Path | None:
    """A path, or None."""
    if value is None:
        return None
    if not isinstance(value, (str, PathLike)):
        raise ValueError(f"{name} must be a path or None, got {value!r}")
    return Path(value)


def check_sizes(value: Any) -> tuple[int, ...]:
    """``hidden_sizes`` as a tuple of whole numbers."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"hidden_sizes must be a tuple of whole numbers, got {value!r}")
    return tuple(check_count("each entry of hidden_sizes", size) for size in value)
