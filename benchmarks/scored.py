"""What benchmarks of simulated data share: one fit scored on held-out rows, and what is known without any fit."""

import time
import warnings
from typing import Any, NamedTuple

import numpy as np

from identica.errors import DataWarning
from identica.evaluation.protocol import null_scores, score_estimate


class Scored(NamedTuple):
    """A fit on four fifths of each segment, and its sources of all rows.

    Attributes
    ----------
    scores : dict
        Held out, matched on the fitted rows: see `identica.evaluation.protocol.score_estimate`.
    sources : array of shape (N, n)
    seconds : float
        Of the fit.
    told : list of str
        What it warned of the data.
    """

    scores: dict[str, float]
    sources: np.ndarray
    seconds: float
    told: list[str]


def fit_and_score(estimator: Any, data: Any, *, with_u: bool) -> Scored:
    """Fit, transform all rows (with u if asked) and score; no truth is used in the fit."""
    fit_rows, _ = data.split(0.2)
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(data.X[fit_rows], u=data.u[fit_rows])
    seconds = time.perf_counter() - started
    sources = np.asarray(estimator.transform(data.X, **({"u": data.u} if with_u else {})))
    told = sorted({str(w.message) for w in caught if issubclass(w.category, DataWarning)})
    return Scored(held_out_scores(data, sources), sources, seconds, told)


def held_out_scores(data: Any, sources: np.ndarray) -> dict[str, float]:
    """Correlations with the true sources on the rows that were not fitted."""
    fit_rows, _ = data.split(0.2)
    scores = score_estimate(data.S, sources, labels(data.u), fit_rows)
    return {key: value["held_out"] for key, value in scores.items()}


def labels(u: Any) -> np.ndarray:
    """Labels by which scores within u are centred: u itself, or of a continuous u twenty bins of equal counts."""
    u = np.asarray(u)
    if u.dtype.kind != "f":
        return u
    return np.searchsorted(np.quantile(u, np.linspace(0, 1, 21)[1:-1]), u)


def known(data: Any) -> dict[str, Any]:
    """What is known of the data without any method: null, ceiling and best linear map."""
    fit_rows, _ = data.split(0.2)
    null, ceiling = null_scores(data.S, data.u, fit_rows), data.ceiling()
    return {
        "null": null["rotation"],
        "null_within": null["rotation_within"],
        "ceiling": ceiling.value,
        "ceiling_within": ceiling.within,
        "best_linear": data.best_linear(fit_rows),
    }
