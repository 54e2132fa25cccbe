"""``identica evaluate``: how well a fitted run describes other rows, and recovers known sources."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter

from identica.cli.output import Common, UsageError, emit, say, short_warnings
from identica.cli.runs import Run

_COLUMNS = Parameter(negative=())

Method = Literal["auto", "exact", "gauss-hermite", "qmc", "importance", "iwae", "elbo", "ais", "sandwich"]


def evaluate(
    run: Path,
    table: Path,
    *,
    u: Annotated[list[str] | None, _COLUMNS] = None,
    truth: str | None = None,
    method: Method | None = None,
    out: Path | None = None,
    common: Common | None = None,
) -> None:
    """Score a fitted run on another table, and against true sources where they are known.

    Prints the log-likelihood per row (mean and standard error, in nats) and, with --truth, the mean
    correlation coefficient between true and recovered sources after matching them.

    Parameters
    ----------
    run
        Run folder that `identica fit` wrote.
    table
        Table with the columns that the run was fitted on.
    u
        Columns of the auxiliary variable; those of the fit if omitted.
    truth
        True sources: columns of the table (s1,s2 or 's*'), or a file with one row per row.
    method
        How the likelihood of a latent-variable model (IVAE, VAE, MarginalMLE, VariationalEM) is taken: exact where
        that can be had, by Gauss-Hermite nodes, quasi-Monte Carlo points, importance samples (iwae), the
        evidence lower bound, or annealed importance sampling; sandwich adds bounds from both sides on rows that the
        model draws. By default a lower bound by 64 samples.
    out
        File for the log-likelihood of every row.
    """
    common = common or Common()
    import pandas as pd

    from identica.cli.checks import check_selection, takes_holes
    from identica.cli.selection import select_by_name
    from identica.cli.tables import read_table
    from identica.cli.writing import check_output, write_frame
    from identica.report.baseline import score_kind
    from identica.report.storage import sha256_of

    if out is not None:
        check_output(out)
    estimator, record = Run(run).load()
    data = read_table(table)
    selection = select_by_name(data, record["columns"], u or record["u"])
    check_selection(selection, fit=False, holes=takes_holes(estimator))
    known = None if truth is None else known_sources(truth, data)
    seen = sha256_of(table) == record["sha256"]
    if seen:
        say("note: the run was fitted on this very table, so these are no scores of unseen rows")
    x, auxiliary = selection.observations_frame(), selection.auxiliary()
    with short_warnings() as warnings:
        scores, details = _scores(estimator, x, auxiliary, method)
        matching = None if known is None else _match(known, estimator, x, auxiliary)
    summary = _summary(scores)
    say(f"log-likelihood: {_sentence(summary)}")
    for name, value in details.items():
        say(f"  {name.replace('_', ' ')}: {value if isinstance(value, str) else f'{value:.4f}'}")
    spikes = _spikes(estimator, selection)
    ordinary = _summary(np.delete(scores, spikes)) if len(spikes) else None
    if ordinary is not None:
        places = data.places([int(row) for row in spikes[:10]])
        say(f"  without {len(spikes)} gross spike(s) ({', '.join(places)}): {_sentence(ordinary)}")
    if matching is not None:
        for name, value in matching.items():
            say(f"MCC {name}: {value:.4f}")
    if out is not None:
        write_frame(out, pd.DataFrame({"log_likelihood": scores}))
    emit(
        common,
        "evaluate",
        {
            "run": str(run),
            "n_rows": len(scores),
            "log_likelihood": summary,
            "kind": score_kind(estimator),
            **details,
            "without_gross_spikes": ordinary,
            "mcc": matching,
            "training_table": seen,
            "out": None if out is None else str(out),
            "warnings": warnings,
        },
    )


def _scores(estimator: Any, x: Any, u: Any, method: str | None) -> tuple[np.ndarray, dict[str, Any]]:
    """The log-likelihood of each row (N,), and what is known about it if a method was asked for."""
    if method is None:
        return np.asarray(estimator.score_samples(x, u=u), dtype=np.float64), {}
    try:
        result = estimator.log_likelihood(x, u=u, method=method)
    except ValueError as error:
        raise UsageError(f"--method {method}: {error}") from None
    details: dict[str, Any] = {"method": method, "kind": result.kind}
    details["integration_error"] = result.integration_error
    if result.unreliable_share is not None:
        details["unreliable_share"] = result.unreliable_share
    if result.sandwich is not None:
        details["sandwich_lower"] = result.sandwich.lower.value
        details["sandwich_upper"] = result.sandwich.upper.value
    return np.asarray(result.rows, dtype=np.float64), details


def _summary(scores: np.ndarray) -> dict[str, Any]:
    error = float(scores.std(ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else None
    numbers = {"mean": float(scores.mean()), "standard_error": error, "median": float(np.median(scores))}
    return {**numbers, "n_rows": len(scores), "unit": "nats per row"}


def _sentence(summary: dict[str, Any]) -> str:
    error = summary["standard_error"]
    more = f" (standard error {error:.4f})" if error is not None else ""
    return f"{summary['mean']:.4f} nats per row{more}, {summary['n_rows']} rows"


def _spikes(estimator: Any, selection: Any) -> np.ndarray:
    """Rows that a fit would leave out; one of them can decide the mean alone."""
    from identica.data import gross_rows

    threshold = estimator.outlier_threshold
    return (
        np.zeros(0, dtype=int)
        if threshold is None
        else gross_rows(selection.observations(), float(threshold))
    )


def known_sources(truth: str, data: Any) -> np.ndarray:
    """True sources (N, n), from columns of the table or from a file of their own."""
    from identica.cli.checks import check_selection
    from identica.cli.selection import Selection, find_columns, split_names
    from identica.cli.tables import read_table

    if Path(truth).is_file():
        table = read_table(truth)
        selection = Selection(table, table.names, [])
        if table.n_rows != data.n_rows:
            raise UsageError(
                f"--truth {truth} has {table.n_rows} rows, {data.path} has {data.n_rows}; they must match"
            )
    else:
        selection = Selection(data, find_columns(data, split_names([truth]), "--truth"), [])
    check_selection(selection, fit=False)
    return selection.observations()


def _match(known: np.ndarray, estimator: Any, x: Any, u: Any) -> dict[str, float]:
    from identica.metrics import mcc

    estimate = np.asarray(estimator.transform(x, u=u), dtype=np.float64)
    scores = {method: float(mcc(known, estimate, method=method)) for method in ("pearson", "spearman")}
    if u is not None and estimator.auxiliary_.kind == "discrete":
        # Without centring by u, a model that only reproduces the means of the segments scores well.
        codes = estimator.auxiliary_.encode(u)
        scores["pearson_within_u"] = float(mcc(known, estimate, within=codes))
    return scores
