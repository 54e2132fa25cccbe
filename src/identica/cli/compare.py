"""``identica compare``: several methods on one split of a table, in one ranked table."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from identica.cli.output import Common, UsageError, emit, plain, say, short_warnings

_COLUMNS = Parameter(negative=())
_FLAG = Parameter(negative=())


def compare(
    table: Path,
    *,
    u: Annotated[list[str] | None, _COLUMNS] = None,
    drop: Annotated[list[str] | None, _COLUMNS] = None,
    columns: Annotated[list[str] | None, _COLUMNS] = None,
    sequence: str | None = None,
    windows: Annotated[int | None, Parameter(validator=validators.Number(gte=2))] = None,
    truth: str | None = None,
    methods: Annotated[list[str] | None, _COLUMNS] = None,
    components: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    likelihood: Literal["gaussian", "bernoulli", "poisson"] = "gaussian",
    restarts: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    max_iter: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    held_out: Annotated[float, Parameter(validator=validators.Number(gt=0, lt=1))] = 0.2,
    seed: int = 0,
    out: Path | None = None,
    common: Common | None = None,
) -> None:
    """Fit several methods to the same rows and rank them by the likelihood of the rows that none has seen.

    Methods without a likelihood come last. With --truth, the mean correlation with the true sources (MCC) stands
    beside; it never decides the order. Columns are chosen as in `identica fit`.

    Parameters
    ----------
    table
        Table of observations: csv, tsv, npy, npz, mat or parquet.
    u
        Columns of the auxiliary variable; methods that cannot use it do not get it.
    drop
        Columns to leave out.
    columns
        Columns to use as observations, instead of all others.
    sequence
        Column that says which time series a row belongs to; whole blocks of rows are then held out.
    windows
        For time series without --u: cut them into this many equal windows, which serve as u.
    truth
        True sources, for scoring only: columns of the table (s1,s2 or 's*'), or a file with one row per row.
    methods
        Names with commas, or all; those that suit the table if omitted.
    components
        Number of sources; as many as columns if omitted.
    likelihood
        What X holds: real numbers, zeros and ones, or counts. Only methods that have it are run.
    restarts
        Number of starts of each method that has restarts.
    max_iter
        Length of the training, instead of each method's own default.
    held_out
        Share of rows that no method is fitted on.
    seed
        All randomness derives from it.
    out
        Folder for comparison.json, comparison.md and comparison.png. Methods that are finished there are not run
        again.
    """
    common = common or Common()
    from identica.cli.checks import check_table
    from identica.cli.compare_methods import chosen_methods
    from identica.cli.compare_runs import Comparison
    from identica.cli.evaluate import known_sources
    from identica.cli.tables import read_table
    from identica.report.storage import sha256_of

    if u and windows:
        raise UsageError("--u names what u is and --windows makes u out of time; choose one")
    data = read_table(table)
    hidden = _true_columns(truth, data)
    selection = check_table(
        data,
        u=u,
        drop=[*(drop or []), *([] if columns else hidden)],
        columns=columns,
        sequence=sequence,
        windows=windows,
        n_components=components,
    )
    has_u = bool(selection.u or selection.windows)
    chosen = chosen_methods(methods, has_u=has_u, likelihood=likelihood, sequence=sequence is not None)
    budget = {"n_restarts": restarts, "max_iter": max_iter}
    comparison = Comparison.of(
        selection,
        None if truth is None else known_sources(truth, data),
        components=components or len(selection.x),
        likelihood=likelihood,
        budget={key: value for key, value in budget.items() if value is not None},
        held_out=held_out,
        seed=seed,
        digest=sha256_of(table),
    )
    with short_warnings(*_expected(budget)) as warnings:
        results = _run_all(comparison, chosen, out)
    content = {"table": str(table), "settings": comparison.settings(), "methods": _ranked(results)}
    _say(content)
    if out is not None:
        _write(out, content)
        say(f"picture, table and numbers: {out}")
    emit(common, "compare", {**content, "out": None if out is None else str(out), "warnings": warnings})


def _expected(budget: dict[str, Any]) -> tuple[type[Warning], ...]:
    """Little training does not converge, which is no news; the table tells each method's status."""
    from sklearn.exceptions import ConvergenceWarning

    return (ConvergenceWarning,) if budget["max_iter"] is not None else ()


def _true_columns(truth: str | None, data: Any) -> list[str]:
    """Columns that hold true sources, which no method may see."""
    from identica.cli.selection import find_columns, split_names

    return (
        [] if truth is None or Path(truth).is_file() else find_columns(data, split_names([truth]), "--truth")
    )


def _run_all(comparison: Any, chosen: list[Any], out: Path | None) -> list[dict[str, Any]]:
    from identica.cli.progress import ProgressDisplay
    from identica.report.comparison import read_comparison, write_comparison

    settings = plain(comparison.settings())
    results = [] if out is None else _prepare(out, lambda: read_comparison(out, settings))
    done = {result["method"] for result in results}
    waiting = [method for method in chosen if method.name not in done]
    if done:
        say(f"{len(done)} finished methods are taken from {out}, {len(waiting)} remain")
    started = time.monotonic()
    try:
        with ProgressDisplay("comparing", every=min(0.25, 1 / max(1, len(waiting)))) as display:
            for place, method in enumerate(waiting):

                def show(progress: Any, place: int = place, name: str = method.name) -> None:
                    share = (place + progress.fraction) / len(waiting)
                    seconds = time.monotonic() - started
                    text = f"{name}, {progress.name}"
                    display(dataclasses.replace(progress, name=text, fraction=share, seconds=seconds))

                results.append(plain(comparison.run(method, show)))
                if out is not None:
                    write_comparison(out, {"settings": settings, "methods": results})
    except KeyboardInterrupt as error:
        kept = "nothing was kept, for want of --out"
        if out is not None:
            kept = f"{len(results)} finished methods are kept in {out}: the same command continues"
        raise KeyboardInterrupt(f"interrupted; {kept}") from error
    names = [method.name for method in chosen]
    return [result for result in results if result["method"] in names]


def _prepare(out: Path, read: Any) -> list[dict[str, Any]]:
    from identica.report.comparison import FILES
    from identica.report.storage import storage_errors

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; expected a folder, or a name for a new one")
    if out.is_dir() and any(item.name not in FILES for item in out.iterdir()):
        raise UsageError(f"--out {out} is a folder with other things in it; choose an empty or a new one")
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    return read()


def _ranked(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Best held-out log-likelihood first, methods without one last."""

    def key(result: dict[str, Any]) -> float:
        score = result["log_likelihood"]
        return float("inf") if score is None or score["value"] is None else -score["value"]

    return sorted(results, key=key)


def _say(content: dict[str, Any]) -> None:
    from identica.cli.output import print_table
    from identica.report.comparison import comparison_table, notes

    say("")
    print_table(*comparison_table(content["methods"]))
    say("")
    for line in notes(content["methods"], content["settings"]):
        say(line)


def _write(out: Path, content: dict[str, Any]) -> None:
    from identica.report.comparison import (
        PICTURE,
        TABLE,
        comparison_table,
        draw_comparison,
        notes,
        write_comparison,
    )
    from identica.report.reproduction import markdown, write_picture
    from identica.report.storage import write_text

    write_comparison(out, plain(content))
    write_picture(out / PICTURE, draw_comparison(content["methods"]))
    table = markdown([("Comparison", "", [comparison_table(content["methods"])])])
    write_text(out / TABLE, table + "\n".join(notes(content["methods"], content["settings"])) + "\n")
