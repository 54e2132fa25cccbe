"""Linear ICA on the same rows: the score that a nonlinear model has to beat."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning

from identica.conditionals.observations.options import REAL
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

    Linear ICA is the best on these rows of: FastICA with a mixture of Gaussians per source, which ignores
    u; where u names segments, joint diagonalisation with a Gaussian per segment and source; and where u is
    continuous or the sources are not Gaussian given u, a linear map fitted with the very prior of the
    nonlinear model. All are densities of x in the user's units, so that the difference says whether
    nonlinearity is needed, and not whether u is.

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
    # Rows whose states are hidden are scored in the order of time, each block by itself.
    ordered = {"sequence": blocks} if getattr(estimator, "prior", None) == "hmm" else {}
    model = np.asarray(estimator.score_samples(x_held, u=u_held, **ordered), dtype=np.float64)
    scores: dict[str, Any] = {
        "unit": "nats per row",
        "kind": score_kind(estimator),
        "n_rows": len(held_out),
        "model": {"name": type(estimator).__name__, **_mean(model, blocks)},
        "linear": None,
        "difference": None,
    }
    from identica import LinearICA

    # A probability of counts or codes is on another scale than a density.
    if isinstance(estimator, LinearICA) or getattr(estimator, "likelihood", "gaussian") not in REAL:
        return scores
    if x.isna().to_numpy().any():
        scores["linear"] = {
            "name": "linear ICA",
            "error": "it takes complete rows, and some values are missing",
        }
        return scores
    fit_rows = np.asarray(estimator.fit_rows_)
    rows, errors = {}, []
    for name, (baseline, takes_u) in _linear_models(estimator, u).items():
        given = u if takes_u else None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                baseline.fit(x.iloc[fit_rows], u=rows_of(given, fit_rows))
            linear = baseline.score_samples(x_held, u=rows_of(given, held_out))
        except (IdenticaError, np.linalg.LinAlgError) as error:
            # A failed comparison must not cost the result of a long fit; the report says what happened.
            errors.append(str(error))
        else:
            rows[name] = np.asarray(linear, dtype=np.float64)
    if not rows:
        scores["linear"] = {"name": "linear ICA", "error": "; ".join(errors)}
        return scores
    # The best one on the very rows that are compared: where there is doubt, it is the linear model's.
    best = max(rows, key=lambda name: float(rows[name].mean()))
    scores["linear"] = {"name": f"linear ICA ({best})", **_mean(rows[best], blocks)}
    scores["difference"] = _mean(model - rows[best], blocks)
    return scores


def _linear_models(estimator: Any, u: Any) -> dict[str, tuple[Any, bool]]:
    """Linear models to try, and whether each is given u."""
    from identica import VAE, FlowICA, LinearICA

    shared = {"validation_fraction": 0.0, "random_state": estimator.seed_}
    n = estimator.n_components_
    models: dict[str, tuple[Any, bool]] = {"fastica": (LinearICA(n, **shared), False)}
    # A VAE models p(x); a baseline that knows u would score p(x|u), which is another quantity.
    encoder = estimator.auxiliary_
    if u is None or encoder is None or isinstance(estimator, VAE):
        return models
    prior = estimator.prior if isinstance(estimator, FlowICA) else "gaussian"
    if encoder.kind == "discrete":
        models["joint-diagonalization"] = (LinearICA(n, method="joint-diagonalization", **shared), True)
    if encoder.kind != "discrete" or prior != "gaussian":
        # The same prior behind a linear map, so that a gain is the map's and not the prior's.
        flow = FlowICA(n, hidden_sizes=(), prior=prior, n_restarts=2, max_iter=1000, **shared)
        models["maximum likelihood"] = (flow, True)
    return models


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
