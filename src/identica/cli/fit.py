"""``identica fit``: a table in, a run folder out."""

import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from identica.cli.output import SIGNS, Common, UsageError, emit, plain, say, short_warnings
from identica.cli.runs import Run, to_toml, versions

Method = Literal[
    "flow", "hmm", "ivae", "auto", "tcl", "gcl", "vae", "mle", "em", "autoencoder", "adversarial", "linear"
]
_CLASSES = {
    "flow": "FlowICA",
    "hmm": "FlowICA",
    "ivae": "IVAE",
    "auto": "NonlinearICA",
    "tcl": "TCL",
    "gcl": "GCL",
    "vae": "VAE",
    "mle": "MarginalMLE",
    "em": "VariationalEM",
    "autoencoder": "Autoencoder",
    "adversarial": "AdversarialICA",
    "linear": "LinearICA",
}
_NEEDS_U = ("flow", "ivae", "auto", "tcl", "gcl")
_COLUMNS = Parameter(negative=())
_FLAG = Parameter(negative=())


def fit(
    table: Path,
    *,
    out: Path,
    u: Annotated[list[str] | None, _COLUMNS] = None,
    drop: Annotated[list[str] | None, _COLUMNS] = None,
    columns: Annotated[list[str] | None, _COLUMNS] = None,
    sequence: str | None = None,
    windows: Annotated[int | None, Parameter(validator=validators.Number(gte=2))] = None,
    components: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    method: Method = "flow",
    restarts: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    max_iter: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    missing: Literal["error", "marginalise"] | None = None,
    validation_fraction: Annotated[float, Parameter(validator=validators.Number(gte=0, lt=1))] = 0.1,
    precision: Literal["float32", "float64"] = "float32",
    seed: int = 0,
    strict: Annotated[bool, _FLAG] = False,
    resume: Annotated[bool, _FLAG] = False,
    overwrite: Annotated[bool, _FLAG] = False,
    common: Common | None = None,
) -> None:
    """Fit a model to a table and write sources, model and report to a run folder.

    Every column that is neither named by --u or --sequence nor dropped is an observation. Names may be given as
    a list with commas, and as patterns: --drop 's*'.

    Parameters
    ----------
    table
        Table of observations: csv, tsv, npy, npz, mat or parquet.
    out
        Run folder to write.
    u
        Columns of the auxiliary variable: a label such as a segment or a condition, or numbers.
    drop
        Columns to leave out.
    columns
        Columns to use as observations, instead of all others.
    sequence
        Column that says which time series a row belongs to; rows of one are in the order of time.
        Whole blocks of rows are then held out, not single rows that resemble their neighbours.
    windows
        For time series without --u: cut them into this many equal windows, which serve as u.
    components
        Number of sources; as many as columns if omitted.
    method
        flow: exact likelihood, no noise. hmm: the same for time series whose states are hidden, without --u.
        ivae: noise, or more columns than sources. auto: linear methods, flow
        and ivae, of which held-out likelihood keeps the best. tcl, gcl: contrastive, no likelihood.
        vae, mle, em (density models whose sources are not identified), autoencoder, adversarial (controls
        without likelihood, not identified either) and linear need no --u.
    restarts
        Number of starts from different random values.
    max_iter
        Length of the training; each method has its own default.
    missing
        What to do with missing values of observed columns: marginalise takes the likelihood of what was seen, with
        --method ivae or vae; they are an error otherwise.
    validation_fraction
        Share of rows held out for selection and for the held-out score.
    precision
        Arithmetic.
    seed
        All randomness derives from it.
    strict
        Exit with code 4 if the fit did not converge.
    resume
        Continue an interrupted run: `identica fit --out RUN --resume` needs nothing else.
    overwrite
        Replace a run that is already in the folder.
    """
    common = common or Common()
    run = Run(out)
    options: dict[str, Any] = {
        "table": str(table.absolute()),
        "u": u,
        "drop": drop,
        "columns": columns,
        "sequence": sequence,
        "windows": windows,
        "components": components,
        "method": method,
        "restarts": restarts,
        "max_iter": max_iter,
        "missing": missing,
        "validation_fraction": validation_fraction,
        "precision": precision,
        "seed": seed,
        "strict": strict,
    }
    if resume and overwrite:
        raise UsageError("--resume continues a run and --overwrite starts it anew; choose one")
    if u and windows:
        raise UsageError("--u names what u is and --windows makes u out of time; choose one")
    if method == "hmm" and (u or windows):
        raise UsageError(
            "--method hmm finds hidden states itself; leave out --u and --windows, or use --method flow"
        )
    if method in _NEEDS_U and not u and not windows:
        raise UsageError(
            f"--method {method} needs --u COLUMN: it tells sources apart by how they change with u (a "
            "segment, a condition, time). Name a column; or, if rows are in the order of time, add --windows "
            "20; or use --method linear or vae, which need none"
        )

    from identica.cli.checks import check_table
    from identica.cli.tables import read_table
    from identica.errors import DataWarning
    from identica.report.storage import sha256_of, write_text

    data = read_table(table)
    selection = check_table(
        data, u=u, drop=drop, columns=columns, sequence=sequence, windows=windows, n_components=components,
        holes=missing == "marginalise",
    )  # fmt: skip
    build_estimator(method, options, selection.auxiliary())  # refuses what the method does not have
    digest = sha256_of(table)
    settings = {key: value for key, value in options.items() if key not in ("table", "strict")}
    record: dict[str, Any] = {
        "command": "fit",
        "status": "running",
        "table": options["table"],
        "sha256": digest,
        "n_rows": data.n_rows,
        "columns": selection.x,
        "u": selection.u,
        "sequence": selection.sequence,
        "windows": windows,
        "seed": seed,
        "options": settings,
        "versions": versions(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    previous = run.prepare(resume=resume, overwrite=overwrite)
    if previous is not None and previous["status"] == "done":
        say(f"{out} is finished; nothing to resume")
        emit(common, "fit", _finished(run, previous))
        return
    if previous is not None:
        _check_same(out, previous, record)
        say(f"continuing {out}")
        record["progress"] = previous.get("progress", {})
    elif resume:
        say(f"{out} does not exist yet, so there is nothing to resume; starting")
    write_text(run.config, to_toml({**options, "out": str(out)}))
    if previous is None:
        run.history.unlink(missing_ok=True)
    run.write(record)
    try:
        # Spikes are named by their lines below, not by the row numbers of an array.
        with short_warnings(DataWarning) as warnings:
            result = _fit(run, record, selection, options)
        record |= {"warnings": warnings}
    except KeyboardInterrupt as error:
        run.write({**record, "status": "interrupted"})
        done = record.get("progress", {}).get("fraction", 0.0)
        raise KeyboardInterrupt(
            f"interrupted at {done:.0%}. Continue with: identica fit --out {out} --resume"
        ) from error
    except BaseException as error:
        run.write({**record, "status": "failed", "error": f"{type(error).__name__}: {error}"})
        raise
    record |= {"status": "done", "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "result": result}
    record.pop("progress", None)
    run.write(record)
    shutil.rmtree(run.checkpoint, ignore_errors=True)
    emit(common, "fit", _finished(run, record))
    if result["status"] == "non_finite":
        from identica.cli.app import NotFinite

        raise NotFinite(f"{result['message']} (what there is was written to {out})")
    if strict and not result["converged"]:
        from identica.cli.app import NotConverged

        raise NotConverged(f"not converged: {result['message']} (the result is written to {out})")


def _fit(run: Run, record: dict[str, Any], selection: Any, options: dict[str, Any]) -> dict[str, Any]:
    from identica.cli.progress import ProgressDisplay, Recorder
    from identica.cli.writing import write_frame, write_history
    from identica.report.collect import collect
    from identica.report.write import write_report

    x, u, ids = selection.observations_frame(), selection.auxiliary(), selection.sequence_ids()
    say(
        f"fitting {options['method']} to {len(x)} rows, {x.shape[1]} columns"
        + (f", u = {', '.join(selection.u)}" if selection.u else "")
        + (f", u = {selection.windows} windows of time" if selection.windows else "")
    )
    estimator = build_estimator(options["method"], options, u)
    with ProgressDisplay("fitting") as display:
        if "callbacks" in estimator.get_params(deep=False):
            estimator.set_params(callbacks=[display, Recorder(run, record)], checkpoint=str(run.checkpoint))
        estimator.fit(x, u=u, sequence=ids)
    if "checkpoint" in estimator.get_params(deep=False):
        # The checkpoint stays until all is written: whatever fails from here on, --resume has the fit at once.
        estimator.set_params(callbacks=None, checkpoint=None)
    estimator.save(run.model)
    gross = list(estimator.gross_rows_)
    if gross:
        places = selection.table.places([int(row) for row in gross[:10]])
        say(
            f"warning: {len(gross)} row(s) hold gross spikes and were left out of the fit: "
            f"{', '.join(places)}{', …' if len(gross) > 10 else ''}"
        )
    say("scoring" + (", and fitting linear ICA for comparison" if options["method"] != "linear" else ""))
    contents = collect(
        estimator,
        x,
        u,
        sequence=ids,
        places=selection.table.places,
        facts={
            "table": Path(options["table"]).name,
            "SHA-256": record["sha256"],
            "sequence": selection.sequence,
            "windows": selection.windows,
        },
    )
    write_frame(run.sources, contents.table())
    write_history(run.history, contents.history)
    write_report(run.folder, contents)
    status = estimator.status_
    say(f"{status.value}")
    for finding in contents.told():
        say(f"  {SIGNS[finding.verdict]} {finding.text}")
    say(f"report: {run.folder / 'report.html'}")
    return {
        "converged": bool(estimator.converged_),
        "status": status.name.lower(),
        "message": status.value,
        "n_components": int(estimator.n_components_),
        "seconds": float(estimator.fit_seconds_),
        "held_out": contents.scores,
        "findings": [finding.to_dict() for finding in contents.findings],
    }


def build_estimator(method: Method, options: dict[str, Any], u: Any) -> Any:
    """The estimator of a method with the options that were given.

    Raises
    ------
    UsageError
        An option that the method does not have.
    """
    import identica

    estimator_class = getattr(identica, _CLASSES[method])
    known = estimator_class._get_param_names()
    wanted = {
        "n_restarts": options.get("restarts"),
        "max_iter": options.get("max_iter"),
        "missing": options.get("missing"),
        "validation_fraction": options.get("validation_fraction"),
        "precision": options.get("precision"),
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    for name, option in (("n_restarts", "restarts"), ("max_iter", "max_iter"), ("missing", "missing")):
        if name in given and name not in known:
            raise UsageError(f"--{option.replace('_', '-')}: --method {method} has no such option")
    parameters = {name: value for name, value in given.items() if name in known}
    if method == "hmm":
        parameters["prior"] = "hmm"
    if method == "linear":
        from identica.report.baseline import linear_method

        parameters["method"] = linear_method(u)
    return estimator_class(options.get("components"), random_state=options.get("seed", 0), **parameters)


def _check_same(out: Path, previous: dict[str, Any], record: dict[str, Any]) -> None:
    from identica.errors import DataError

    if previous["sha256"] != record["sha256"]:
        raise DataError(
            f"--resume: {record['table']} is not the table that {out} was started with (its SHA-256 "
            "differs); give the same table, or start anew with --overwrite"
        )
    # How the columns were chosen does not matter, only which.
    chosen = {"u", "columns", "drop", "sequence"}
    before = {key: previous.get(key) for key in ("columns", "u", "sequence")}
    now = {key: record[key] for key in ("columns", "u", "sequence")}
    before |= {key: value for key, value in previous["options"].items() if key not in chosen}
    now |= {key: value for key, value in record["options"].items() if key not in chosen}
    changed = [key for key in now if plain(now[key]) != before.get(key)]
    if changed:
        listed = "; ".join(f"{key} was {before.get(key)}, now {plain(now[key])}" for key in changed)
        raise DataError(
            f"--resume: {out} was started with other options ({listed}); leave them out to continue it, or "
            "start anew with --overwrite"
        )


def _finished(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": str(run.folder),
        **record.get("result", {}),
        "warnings": record.get("warnings", []),
        "seed": record["seed"],
        "files": run.files(),
    }
