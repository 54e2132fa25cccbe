"""``identica reproduce``: a published benchmark, rerun beside its published numbers."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from identica.cli.output import Common, UsageError, emit, plain, say, short_warnings

_FLAG = Parameter(negative=())


def reproduce(
    name: str,
    *,
    seeds: int | None = None,
    quick: Annotated[bool, _FLAG] = False,
    layers: Annotated[list[int] | None, Parameter(negative=())] = None,
    segments: int | None = None,
    rows: int | None = None,
    max_iter: int | None = None,
    restarts: int | None = None,
    data: Path | None = None,
    out: Path | None = None,
    common: Common | None = None,
) -> None:
    """Rerun a published benchmark and print the scores beside the published ones.

    FlowICA runs with its defaults, the same for every benchmark; true sources are used for scoring only.
    One row in five of every segment is held out from all fits; components are matched on the other rows.

    Parameters
    ----------
    name
        icebeem, imca, iflow, ivae, tcl, photographs, speech or curves (scores against each size of a generator).
    seeds
        Number of data sets, 5 (curves 3, with --quick 2); each has sources, mixing and initialisation of its own.
    quick
        Fewer rows and little training: about a minute. Tells that everything runs, not how well it can do.
    layers
        Layers of the mixing; the published ones if omitted. May be given several times.
    segments
        Segments, instead of as many as published.
    rows
        Rows per segment, instead of as many as published.
    max_iter
        Training steps, instead of FlowICA's default.
    restarts
        Restarts, instead of FlowICA's default.
    data
        For speech: npz file of recordings (`sources`, `fs`), or the folder that holds it.
    out
        Folder for a picture, the table and all numbers (speech: also sound, of the first data set). Seeds that
        are finished there are not run again.
    """
    common = common or Common()
    from identica.cli.reproduce_runs import QUICK_BUDGET, cases_of

    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds {seeds}: expected at least 1")
    n_seeds = seeds or (2 if quick else 3 if name == "curves" else 5)
    chosen = {"max_iter": max_iter, "n_restarts": restarts}
    budget = (QUICK_BUDGET if quick else {}) | {k: v for k, v in chosen.items() if v is not None}
    cases = cases_of(name, quick=quick, layers=layers, segments=segments, rows=rows, data=data)
    settings = _settings(name, cases, budget)
    with short_warnings(*_expected(budget)) as warnings:
        runs = _run_all(name, cases, n_seeds, budget, settings, out)
    content = _content(name, cases, settings, runs)
    curves = _curves(content, quick) if name == "curves" else None
    _say(name, content, curves)
    if out is not None:
        _write(out, content, curves)
        say(f"picture, table and numbers: {out}")
    emit(common, "reproduce", {**content, "out": None if out is None else str(out), "warnings": warnings})


def _expected(budget: dict[str, Any]) -> tuple[type[Warning], ...]:
    """Little training does not converge, which is no news; the status of every fit is stored."""
    from sklearn.exceptions import ConvergenceWarning

    return (ConvergenceWarning,) if "max_iter" in budget else ()


def _settings(name: str, cases: list[Any], budget: dict[str, Any]) -> dict[str, Any]:
    """All that runs have to share to be averaged."""
    import identica

    parameters = identica.FlowICA(**budget).get_params()
    kept = {k: v for k, v in parameters.items() if k not in ("callbacks", "checkpoint", "random_state")}
    return plain(
        {
            "name": name,
            "cases": {case.title: case.options | case.budget for case in cases},
            "estimator": {"class": "FlowICA", "parameters": kept, "changed_from_defaults": budget},
            "version": identica.__version__,
        }
    )


def _run_all(
    name: str, cases: list[Any], n_seeds: int, budget: dict[str, Any], settings: Any, out: Path | None
) -> list[dict[str, Any]]:
    from identica.cli.progress import ProgressDisplay
    from identica.cli.reproduce_runs import run_seed
    from identica.cli.reproduce_sound import sound_writer
    from identica.report.reproduction import read_runs, write_json

    runs = [] if out is None else _prepare(out, lambda: read_runs(out, settings))
    done = {(run["case"], run["seed"]) for run in runs}
    jobs = [(case, seed) for seed in range(n_seeds) for case in cases if (case.title, seed) not in done]
    if runs:
        say(f"{name}: {len(runs)} finished fits are taken from {out}, {len(jobs)} remain")
    started = time.monotonic()
    try:
        with ProgressDisplay(name, every=min(0.25, 1 / max(1, len(jobs)))) as display:
            for place, (case, seed) in enumerate(jobs):

                def show(
                    progress: Any, place: int = place, label: str = f"{case.title}, seed {seed}"
                ) -> None:
                    share = (place + progress.fraction) / len(jobs)
                    seconds = time.monotonic() - started
                    text = f"{label}, {progress.name}"
                    display(dataclasses.replace(progress, name=text, fraction=share, seconds=seconds))

                keep = None if out is None or seed > 0 else sound_writer(out, case)
                runs.append(plain(run_seed(case, seed, budget, show, keep)))
                if out is not None:
                    write_json(out, {"settings": settings, "runs": runs})
    except KeyboardInterrupt as error:
        kept = "nothing was kept, for want of --out"
        if out is not None:
            kept = f"{len(runs)} finished fits are kept in {out}: the same command continues"
        raise KeyboardInterrupt(f"interrupted; {kept}") from error
    return runs


def _prepare(out: Path, read: Any) -> list[dict[str, Any]]:
    from identica.cli.reproduce_sound import SOUND_NAME
    from identica.report.reproduction import FILES
    from identica.report.storage import storage_errors

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; expected a folder, or a name for a new one")
    if out.is_dir() and any(item.name not in (*FILES, SOUND_NAME) for item in out.iterdir()):
        raise UsageError(f"--out {out} is a folder with other things in it; choose an empty or a new one")
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    return read()


def _content(name: str, cases: list[Any], settings: Any, runs: list[dict[str, Any]]) -> dict[str, Any]:
    from identica.evaluation.published import CAVEATS, MARKS, published_scores
    from identica.report.reproduction import summarise

    results = []
    for case in cases:
        scores, same = published_scores(name, case.options)
        own = [run for run in runs if run["case"] == case.title]
        published = {"same_setting": same, "scores": scores}
        results.append(
            {"case": case.title, "options": case.options, **summarise(own), "published": published}
        )
    machines = []
    for run in runs:
        if run["machine"] not in machines:
            machines.append(run["machine"])
    return {
        "name": name,
        "caveat": CAVEATS[name],
        "marks": MARKS,
        "settings": settings,
        "machines": machines,
        "cases": results,
        "runs": runs,
    }


def _curves(content: dict[str, Any], quick: bool) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """Axis → the points of its curve."""
    from identica.cli.reproduce_curves import curve_points

    cases = {case["case"]: case for case in content["cases"]}
    curves: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for point in curve_points(quick=quick):
        curves.setdefault(point.axis, []).append((point.value, cases[point.case.title]))
    return curves


def _write(out: Path, content: dict[str, Any], curves: dict[str, Any] | None) -> None:
    from identica.report.curves import curve_tables, draw_curves
    from identica.report.reproduction import (
        PICTURE_NAME,
        TABLE_NAME,
        draw,
        markdown,
        write_json,
        write_picture,
    )
    from identica.report.storage import write_text

    write_json(out, plain(content))
    if curves is not None:
        write_picture(out / PICTURE_NAME, draw_curves(curves))
        tables = markdown([("Curves", content["caveat"], curve_tables(curves))])
        write_text(out / TABLE_NAME, tables + "\n".join(_notes(content)) + "\n")
        return
    drawn = [
        (c["case"], c, c["published"]["scores"], c["published"]["same_setting"]) for c in content["cases"]
    ]
    write_picture(out / PICTURE_NAME, draw(drawn))
    sections = [
        (c["case"], " ".join([_sizes(c), content["caveat"], _other_sizes(c)]), _tables(c))
        for c in content["cases"]
    ]
    write_text(out / TABLE_NAME, markdown(sections) + "\n".join(_notes(content)) + "\n")


def _say(name: str, content: dict[str, Any], curves: dict[str, Any] | None) -> None:
    from identica.cli.output import print_table
    from identica.report.curves import curve_tables

    for table in [] if curves is None else curve_tables(curves):
        say("")
        print_table(*table)
    for case in content["cases"] if curves is None else []:
        say("")
        say(f"{case['case']}: mean correlation with the true sources (MCC)\n{_sizes(case)}")
        if other := _other_sizes(case):
            say(other)
        # One score less than in the files, so that the table fits a terminal of 80 columns.
        for header, rows in _tables(case, without=("spearman_within",)):
            print_table(header, rows)
            say("")
    for line in _notes(content):
        say(line)


def _sizes(case: dict[str, Any]) -> str:
    options = case["options"]
    return (
        f"{case['n_seeds']} data set{'s' if case['n_seeds'] > 1 else ''}, "
        f"{options['n_components']} sources, {options['n_segments']} segments, "
        f"{case['n_fitted']:,} rows fitted, {case['n_held_out']:,} held out. Scores are held out, means over data "
        "sets; worst: of all data sets."
    )


def _tables(
    case: dict[str, Any], *, without: tuple[str, ...] = ()
) -> list[tuple[list[str], list[list[str]]]]:
    from identica.report.reproduction import measured_table, published_table

    published = case["published"]
    if not published["scores"]:
        return [measured_table(case, without=without)]
    return [measured_table(case, without=without), published_table(published["scores"])]


def _other_sizes(case: dict[str, Any]) -> str:
    """A warning if the published scores belong to other sizes than those that were run."""
    published = case["published"]
    if published["same_setting"] or not published["scores"]:
        return ""
    setting = published["scores"][0].setting
    return (
        f"The published sizes are others ({setting['n_components']} sources, {setting['n_segments']} segments of "
        f"{setting['n_per_segment']} rows): no comparison is possible."
    )


def _notes(content: dict[str, Any]) -> list[str]:
    machine = content["machines"][-1]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    memory = [c["peak_memory_mib"] for c in content["cases"] if c["peak_memory_mib"] is not None]
    changed = content["settings"]["estimator"]["changed_from_defaults"]
    options = ", ".join(f"{key}={value}" for key, value in changed.items())
    marks = "; ".join(f"{mark}: {text}" for mark, text in content["marks"].items())
    methods = [method for case in content["cases"] for method in case["methods"].values()]
    statuses = [status for method in methods for status in method.get("statuses", [])]
    lines = [
        f"Marks: {marks}.",
        content["caveat"],
        f"FlowICA: {'changed from its defaults: ' + options if changed else 'its defaults'}. The first fit includes "
        "compiling.",
        f"{machine['cores']} cores, {machine['device']}, peak memory "
        f"{f'{max(memory):,.0f} MiB' if memory else 'not measured'}; {versions}.",
    ]
    if "max_iter" in statuses:
        lines.append(
            f"{statuses.count('max_iter')} of {len(statuses)} fits stopped before they had converged."
        )
    if "failed" in statuses:
        lines.append(f"{statuses.count('failed')} of {len(statuses)} fits failed and count as chance.")
    return lines
