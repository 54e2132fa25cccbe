"""From a fitted estimator to the contents of a report: the only place that computes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from identica.errors import Status
from identica.report import learned, starts, statements
from identica.report.baseline import held_out_scores
from identica.report.bound import bound
from identica.report.contents import ReportContents
from identica.report.contrast import contrast
from identica.report.control import UNIT, control
from identica.report.integration import integration
from identica.report.neighbours import neighbours


def collect(
    estimator: Any,
    x: pd.DataFrame,
    u: Any = None,
    *,
    sequence: Any = None,
    places: Callable[[list[int]], list[str]] | None = None,
    facts: dict[str, Any] | None = None,
) -> ReportContents:
    """Sources, scores and findings of a fitted estimator.

    Parameters
    ----------
    estimator : FlowICA, IVAE, VAE or LinearICA
        Fitted on ``x`` and ``u``.
    x : pandas.DataFrame of shape (N, d)
        The rows it was fitted on, held-out rows included.
    u : Series or data frame with N rows, optional
        The auxiliary variable.
    sequence : array-like of shape (N,), optional
        Time-series ids that the estimator was fitted with.
    places : callable, optional
        Names rows by where they stand in the user's file; rows counted from 1 if omitted.
    facts : dict, optional
        Further facts to show, for example the file.
    """
    places = places or (lambda rows: [f"row {row + 1}" for row in rows])
    candidates = getattr(estimator, "candidates_", None)
    estimator = getattr(estimator, "best_", estimator)  # of several methods, the one that was kept
    sources = np.asarray(estimator.transform(x, u=u), dtype=np.float64)
    names = [str(name) for name in estimator.get_feature_names_out()]
    auxiliary = pd.DataFrame(u).reset_index(drop=True) if u is not None else pd.DataFrame(index=range(len(x)))
    encoder: Any = estimator.auxiliary_
    kind, n_segments, codes = "none", 0, None
    if u is not None and encoder is not None:
        kind, n_segments = encoder.kind, encoder.n_segments
        codes = encoder.encode(u) if kind == "discrete" else None
    gross = np.asarray(estimator.gross_rows_, dtype=int)
    used = np.setdiff1d(np.arange(len(x)), gross)
    n = int(estimator.n_components_)
    ids = estimator._series(sequence, len(x))
    # Contrastive methods and controls have no likelihood to compare with that of linear ICA.
    controls = control(estimator)
    contrasts = contrast(estimator, names) or controls
    scores = None if contrasts else held_out_scores(estimator, x, u, ids)
    status: Status = estimator.status_
    name = type(estimator).__name__

    effect = getattr(estimator, "effect_of_u_", None)
    used_codes = None if codes is None else codes[used]
    findings = [
        statements.convergence(status, int(estimator.n_iter_)),
        *(contrasts or statements.held_out(scores, name)),
    ]
    findings += [
        finding
        for finding in (
            learned.choice(candidates),
            # Where sources are not determined, equal objectives are no agreement.
            starts.restarts(list(estimator.restarts_), n) if name != "LinearICA" and not controls else None,
            starts.sources_of_restarts(
                list(estimator.restarts_), n, len(estimator.held_out_rows_) or len(estimator.fit_rows_)
            ),
            statements.distinct_values(n_segments, n, _statistics(estimator))
            if _uses_u(name) and n_segments
            else None,
            learned.effect_of_u(effect, names),
            # Rows that were fitted show an effect of u even where there is none.
            statements.modulation(sources[used], used_codes, names)
            if used_codes is not None and effect is None
            else None,
            learned.noise_directions(
                getattr(estimator, "modulation_gains_", None),
                n,
                getattr(estimator, "n_components", 0) is None,
            ),
            learned.noise(getattr(estimator, "noise_gain_", None), n),
            learned.latents_without_u(estimator),
            integration(estimator),
            learned.shape(getattr(estimator, "model_", None), names),
            statements.variance_profiles(getattr(estimator, "variance_distances_", None), names),
            statements.independence(sources[used], used_codes, names),
            neighbours(
                sources[used], used_codes, None if ids is None else ids[used], names, scores is not None
            ),
            statements.collapse(
                [names[i] for i in getattr(estimator, "collapsed_components_", ())], n, has_u=_uses_u(name)
            ),
            statements.missing_values(x.isna().to_numpy()),
            statements.excluded_rows(len(gross), len(x)),
        )
        if finding is not None
    ]
    findings += bound(estimator, x, u)
    return ReportContents(
        title=f"{name}: {n} source{'s' if n != 1 else ''} of {x.shape[1]} columns",
        facts={
            **(facts or {}),
            "method": name,
            "parameters": _parameters(estimator),
            "n_components": n,
            "n_rows": len(x),
            "columns": [str(column) for column in x.columns],
            "u": [str(column) for column in auxiliary.columns],
            "kind": kind,
            "n_segments": n_segments,
            "rows_fitted": len(estimator.fit_rows_),
            "rows_held_out": len(estimator.held_out_rows_),
            "rows_excluded": len(gross),
            "seed": int(estimator.seed_),
            "steps": int(estimator.n_iter_),
            "seconds": float(estimator.fit_seconds_),
            **({"objective": UNIT} if controls else {}),
        },
        findings=tuple(findings),
        sources=pd.DataFrame(sources, columns=names),
        auxiliary=auxiliary,
        history={key: np.asarray(value) for key, value in estimator.history_.items()},
        restarts=[_restart(record) for record in estimator.restarts_],
        scores=scores,
        loadings=_correlation(sources[used], x.to_numpy(dtype=np.float64)[used]),
        excluded=_excluded(x, gross, places),
    )


def _uses_u(name: str) -> bool:
    return name not in (
        "AdversarialICA",
        "Autoencoder",
        "VAE",
        "LinearICA",
        "MarginalMLE",
        "PCL",
        "VariationalEM",
    )


def _statistics(estimator: Any) -> int:
    """Sufficient statistics per source that change with u: mean and variance, or a scale alone.

    Learned critics count as two: generalised contrastive learning asks for 2n + 1 values of u.
    """
    family = getattr(estimator, "prior", getattr(estimator, "critic", "gaussian"))
    return 1 if family in ("gaussian-scale", "laplace") else 2


def _parameters(estimator: Any) -> dict[str, Any]:
    hidden = {"callbacks", "checkpoint", "random_state", "n_components"}
    plain = (bool, int, float, str, type(None))
    return {
        key: value if isinstance(value, plain) else str(value)
        for key, value in estimator.get_params(deep=False).items()
        if key not in hidden
    }


def _restart(record: dict[str, Any]) -> dict[str, Any]:
    status = record.get("status", "")
    held_out = float(record["held_out"])
    return {
        "seed": int(record["seed"]),
        "held_out": held_out if np.isfinite(held_out) else None,
        "status": status.name.lower() if isinstance(status, Status) else str(status),
        "agreement": record.get("agreement"),
    }


def _correlation(sources: np.ndarray, x: np.ndarray) -> np.ndarray:
    def standardised(values: np.ndarray) -> np.ndarray:
        # A collapsed source has no spread; its correlations are then 0.
        return (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-12)

    if not np.isnan(x).any():
        return standardised(sources).T @ standardised(x) / len(x)
    known = [~np.isnan(column) for column in x.T]
    columns = [
        standardised(sources[seen]).T @ standardised(column[seen]) / max(seen.sum(), 1)
        for seen, column in zip(known, x.T, strict=True)
    ]
    return np.stack(columns, axis=1)


def _excluded(
    x: pd.DataFrame, gross: np.ndarray, places: Callable[[list[int]], list[str]]
) -> list[dict[str, Any]]:
    if len(gross) == 0:
        return []
    values = x.to_numpy(dtype=np.float64)
    median_of = np.nanmedian if np.isnan(values).any() else np.median
    median = median_of(values, axis=0)
    scale = 1.4826 * median_of(np.abs(values - median), axis=0)
    distance = np.abs(values[gross] - median) / np.where(scale > 0, scale, np.inf)
    distance = np.where(np.isnan(distance), 0.0, distance)
    worst = distance.argmax(axis=1)
    return [
        {
            "row": int(row),
            "place": place,
            "column": str(x.columns[column]),
            "value": float(values[row, column]),
            "robust_sd": float(distance[position, column]),
        }
        for position, (row, place, column) in enumerate(
            zip(gross, places(gross.tolist()), worst, strict=True)
        )
    ]
