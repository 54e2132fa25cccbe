"""Linear ICA on the same rows: the score that a nonlinear model has to beat."""

from typing import Any

import numpy as np
import pandas as pd

from identica.errors import IdenticaError
from identica.series import autocorrelation_time
from identica.typing import IntArray


def linear_method(u: Any) -> str:
    """Joint diagonalisation where u names segments, which it uses; FastICA where it does not."""
    if u is None:
        return "fastica"
    from identica.auxiliary import AuxiliaryEncoder

    return "joint-diagonalization" if AuxiliaryEncoder.from_values(u).kind == "discrete" else "fastica"


def rows_of(u: Any, rows: np.ndarray) -> Any:
    """Rows of u, whatever holds it."""
    if u is None:
        return None
    return u.iloc[rows] if hasattr(u, "iloc") else np.asarray(u)[rows]


def held_out_scores(
    estimator: Any, x: pd.DataFrame, u: Any, sequence: IntArray | None = None
) -> dict[str, Any] | None:
    """Log-likelihood of held-out rows under the model and under linear ICA fitted on the same rows.

    Parameters
    ----------
    estimator : fitted estimator
        With ``fit_rows_`` and ``held_out_rows_``.
    x : pandas.DataFrame of shape (N, d)
        Observations.
    u : Series, data frame or None
        Auxiliary variable.
    sequence : int array of shape (N,), optional
        Time series of each row. Standard errors then allow for held-out rows that resemble each other
        within their block: they are those of N / τ independent rows.

    Returns
    -------
    dict or None
        ``model``, ``linear`` and ``difference``, each with ``mean`` and ``standard_error`` in nats per
        row; ``linear`` is None for a model that is linear ICA itself or not a density of real numbers,
        or says in ``error`` why linear ICA failed. ``kind`` is "exact", or "lower" where the model's
        score is a lower bound. None if no rows were held out.
    """
    held_out = np.sort(np.asarray(estimator.held_out_rows_))
    if len(held_out) == 0:
        return None
    blocks = None if sequence is None else blocks_of(held_out, sequence)
    x_held, u_held = x.iloc[held_out], rows_of(u, held_out)
    model = np.asarray(estimator.score_samples(x_held, u=u_held), dtype=np.float64)
    scores: dict[str, Any] = {
        "unit": "nats per row",
        "kind": score_kind(estimator),
        "n_rows": len(held_out),
        "model": {"name": type(estimator).__name__, **_mean(model, blocks)},
        "linear": None,
        "difference": None,
    }
    from identica import VAE, LinearICA

    if isinstance(estimator, LinearICA) or getattr(estimator, "likelihood", "gaussian") != "gaussian":
        return scores
    if isinstance(estimator, VAE):
        # It models p(x); a baseline that knows u would score p(x|u), which is another quantity.
        u = u_held = None
    method = linear_method(u)
    fit_rows = np.asarray(estimator.fit_rows_)
    baseline = LinearICA(
        estimator.n_components_, method=method, validation_fraction=0.0, random_state=estimator.seed_
    )
    try:
        baseline.fit(x.iloc[fit_rows], u=rows_of(u, fit_rows))
        linear = np.asarray(baseline.score_samples(x_held, u=u_held), dtype=np.float64)
    except (IdenticaError, np.linalg.LinAlgError) as error:
        # A failed comparison must not cost the result of a long fit; the report says what happened.
        scores["linear"] = {"name": f"linear ICA ({method})", "error": str(error)}
        return scores
    scores["linear"] = {"name": f"linear ICA ({method})", **_mean(linear, blocks)}
    scores["difference"] = _mean(model - linear, blocks)
    return scores


def score_kind(estimator: Any) -> str:
    """Whether ``score_samples`` is the log-likelihood itself ("exact") or a lower bound of it ("lower")."""
    from identica.estimators.exact import ExactEstimator

    exact = isinstance(estimator, ExactEstimator) or getattr(estimator, "exact_", False)
    return "exact" if exact else "lower"


def blocks_of(rows: IntArray, sequence: IntArray) -> IntArray:
    """Which block each of some rows belongs to: rows that follow each other in their time series."""
    order = np.argsort(sequence, kind="stable")
    place = np.empty(len(sequence), dtype=np.int64)
    place[order] = np.arange(len(sequence))
    ranked = np.argsort(place[rows])
    new = (np.diff(place[rows][ranked]) > 1) | (np.diff(sequence[rows][ranked]) != 0)
    blocks = np.empty(len(rows), dtype=np.int64)
    blocks[ranked] = np.concatenate([[0], np.cumsum(new)])
    return blocks


def _mean(values: np.ndarray, blocks: IntArray | None = None) -> dict[str, float]:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    if blocks is not None:
        error *= np.sqrt(max(1.0, float(autocorrelation_time(values[:, None], blocks)[0])))
    return {"mean": float(values.mean()), "standard_error": float(error)}
