"""One way to score every row of a benchmark: the same rows, the same matching, the same centring."""

from typing import Any, Literal

import numpy as np

from identica.errors import DataError
from identica.evaluation.baselines import chance, rotation_null
from identica.evaluation.matching import Method, mcc
from identica.linear.correlation import (
    as_columns,
    least_squares_prediction,
    segment_codes,
    segment_means,
    split_rows,
)
from identica.typing import FloatArray

Transformed = Literal["squares", "magnitudes"]
Scores = dict[str, dict[str, float]]
"""Score → ``{"in_sample": …, "held_out": …}``."""


def score_estimate(
    S: Any, S_hat: Any, u: Any, fit_rows: Any, *, transformed: Transformed | None = None
) -> Scores:
    """Mean correlation coefficients of one estimate, in sample and held out.

    Components are matched on ``fit_rows``; held-out scores are those of the other rows under this matching.

    Parameters
    ----------
    S, S_hat : arrays (N, n)
        True and estimated components of all rows.
    u : array-like (N,)
        Labels by which the scores ``…_within`` centre both tables.
    fit_rows : mask (N,) or row numbers
        Rows that the method was fitted on.
    transformed : {"squares", "magnitudes"}, optional
        Also compare (s − mean)² or \\|s − mean\\| of both tables, as published scores of contrastive features do.

    Returns
    -------
    dict
        ``pearson, spearman, pearson_within, spearman_within`` and, if asked for, ``pearson_squares`` or
        ``pearson_magnitudes``, each with ``in_sample`` and ``held_out`` in [0, 1].

    Raises
    ------
    DataError
        As `identica.metrics.mcc`.

    Examples
    --------
    >>> S = np.random.default_rng(0).standard_normal((100, 2))
    >>> u = np.arange(100) % 5
    >>> round(score_estimate(S, S**3, u, np.arange(80))["spearman"]["held_out"], 6)
    1.0
    """
    truth, estimate = as_columns(S, "S"), as_columns(S_hat, "S_hat")
    fit, _ = split_rows(fit_rows, len(truth))
    labels = np.asarray(u)

    def both(a: FloatArray, b: FloatArray, method: Method, within: bool) -> dict[str, float]:
        every, own = (labels, labels[fit]) if within else (None, None)
        return {
            "in_sample": mcc(a[fit], b[fit], method=method, within=own),
            "held_out": mcc(a, b, method=method, within=every, fit_rows=fit),
        }

    scores = {
        "pearson": both(truth, estimate, "pearson", False),
        "spearman": both(truth, estimate, "spearman", False),
        "pearson_within": both(truth, estimate, "pearson", True),
        "spearman_within": both(truth, estimate, "spearman", True),
    }
    if transformed is not None:
        if transformed not in ("squares", "magnitudes"):
            raise DataError(f"unknown transformation {transformed!r}; choose 'squares' or 'magnitudes'")
        power = 2 if transformed == "squares" else 1
        a, b = (np.abs(table - table[fit].mean(0)) ** power for table in (truth, estimate))
        scores[f"pearson_{transformed}"] = both(a, b, "pearson", False)
    return scores


def score_best_linear(X: Any, S: Any, u: Any, fit_rows: Any) -> Scores:
    """Scores of the least-squares prediction of S from X: what a linear method cannot exceed.

    The scores within u have a least-squares map of their own, fitted after centring by u; one map rarely is
    the best for both. Least squares is the best linear map for Pearson's correlation only.
    """
    observed, truth = as_columns(X, "X"), as_columns(S, "S")
    fit, _ = split_rows(fit_rows, len(truth))
    rows = np.arange(len(truth))
    codes, n_segments = segment_codes(u, len(truth))
    pooled = least_squares_prediction(observed, truth, fit, rows)
    centred = [t - segment_means(t, codes, n_segments)[codes] for t in (observed, truth)]
    within = least_squares_prediction(centred[0], centred[1], fit, rows)
    scores = score_estimate(truth, pooled, u, fit)
    own = score_estimate(truth, within, u, fit)
    return {key: own[key] if key.endswith("_within") else value for key, value in scores.items()}


def score_u_only(S: Any, u: Any, fit_rows: Any) -> Scores:
    """Scores of E[s|u], the mean of each segment's fitted rows: what is known without looking at x.

    Within u they are 0 by construction.
    """
    truth = as_columns(S, "S")
    fit, _ = split_rows(fit_rows, len(truth))
    codes, n_segments = segment_codes(u, len(truth))
    means = segment_means(truth[fit], codes[fit], n_segments)
    means = np.where(np.isnan(means), truth[fit].mean(0), means)
    return score_estimate(truth, means[codes], u, fit)


def null_scores(S: Any, u: Any, fit_rows: Any) -> dict[str, float]:
    """Pearson MCC on the held-out rows when nothing was recovered.

    Returns
    -------
    dict
        ``chance``: of independent noise; ``rotation`` and ``rotation_within``: of a random rotation of the
        whitened true sources (means over draws), ``rotation_upper`` its 95 % quantile.
    """
    truth = as_columns(S, "S")
    _, held_out = split_rows(fit_rows, len(truth))
    rotation = rotation_null(truth[held_out])
    return {
        "chance": chance(truth.shape[1], len(held_out)).mean,
        "rotation": rotation.mean,
        "rotation_upper": rotation.upper,
        "rotation_within": rotation_null(truth[held_out], within=np.asarray(u)[held_out]).mean,
    }
