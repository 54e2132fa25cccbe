"""Results of a comparison: stored method by method, as one ranked table and one picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from identica.errors import DataError
from identica.report.figures import SERIES
from identica.report.storage import write_text

FORMAT = 1
RESULTS, PICTURE, TABLE = "comparison.json", "comparison.png", "comparison.md"
FILES = (RESULTS, PICTURE, TABLE)

Result = Mapping[str, Any]


def read_comparison(folder: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Finished methods of earlier calls in ``folder``, none if there are none.

    Raises
    ------
    DataError
        They were run with other settings, or the file is damaged.
    """
    path = folder / RESULTS
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise DataError(f"{path} has format {content['format']}, this version reads {FORMAT}")
        stored, methods = content["settings"], content["methods"]
        if not all({"method", "log_likelihood", "mcc", "status"} <= result.keys() for result in methods):
            raise DataError(f"{path} holds unfinished results; remove it, or choose another folder")
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error}); remove it, or choose another folder") from error
    changed = sorted(key for key in {*stored, *settings} if stored.get(key) != settings.get(key))
    if changed:
        raise DataError(
            f"{path} holds results of other settings ({', '.join(changed)}), which cannot stand in one table "
            "with these; choose another folder, or the same options and table as before"
        )
    return methods


def write_comparison(folder: Path, content: Mapping[str, Any]) -> None:
    """Replace the stored results; ``content`` holds ``settings`` and ``methods``.

    Raises
    ------
    StorageError
        They cannot be written; those of before are then untouched.
    """
    text = json.dumps({"format": FORMAT, **content}, indent=1, allow_nan=False)
    write_text(folder / RESULTS, text + "\n")


def comparison_table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows, in the order given; columns that would be empty are left out."""
    columns: dict[str, list[str]] = {"method": [f"{result['method']}" for result in results]}
    columns["density of"] = [_density(result) for result in results]
    columns["nats per row"] = [_likelihood(result) for result in results]
    columns["bound"] = [_number(result["bound"]) for result in results]
    columns["gap"] = [_number(result["gap"]) for result in results]
    names = {"pearson": "MCC", "spearman": "Spearman", "pearson_within_u": "within u"}
    for key, name in names.items():
        columns[name] = [_number((result["mcc"] or {}).get(key), 4) for result in results]
    columns["s"] = [_number(result["seconds"], 0) for result in results]
    columns["MiB"] = [_number(result["peak_memory_mib"], 0) for result in results]
    columns["status"] = [str(result["status"]).replace("_", " ") for result in results]
    shown = {name: cells for name, cells in columns.items() if any(cell != "–" for cell in cells)}
    return list(shown), [list(row) for row in zip(*shown.values(), strict=True)]


def notes(results: Sequence[Result], settings: Mapping[str, Any]) -> list[str]:
    """What has to be said to read the table."""
    lines = [
        f"{settings['n_fitted']:,} rows fitted, {settings['n_held_out']:,} held out from all methods; all numbers are "
        "of the held-out rows. Ranked by log-likelihood in nats per row, ± its standard error; ≥ marks a lower bound."
    ]
    if len({result["takes_u"] for result in results}) > 1:
        lines.append(
            "Methods that are given u score p(x|u), the others p(x): part of a difference between them is what u "
            "says about x."
        )
    for result in results:
        if result["error"]:
            lines.append(f"{result['method']} failed: {result['error']}")
        lines += [f"{result['method']}: {text}" for text in result["warnings"]]
    return lines


def draw_comparison(results: Sequence[Result]) -> Figure:
    """Log-likelihood of each method with its bound, and the MCC where truth is known."""
    known = any(result["mcc"] for result in results)
    with matplotlib.rc_context({"font.size": 9.5, "axes.titlesize": 10, "axes.titlelocation": "left"}):
        figure = Figure(figsize=(10.5 if known else 6.5, 1.2 + 0.34 * len(results)), layout="constrained")
        axes = figure.subplots(1, 2 if known else 1, squeeze=False, sharey=True)[0]
        _draw_likelihoods(axes[0], results)
        if known:
            _draw_mcc(axes[1], results)
        for ax in axes:
            ax.set(ylim=(len(results) - 0.5, -0.5), yticks=range(len(results)))
            ax.set_yticklabels([result["method"] for result in results])
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
        handles = {label: h for ax in axes for h, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_likelihoods(ax: Axes, results: Sequence[Result]) -> None:
    for place, result in enumerate(results):
        score = result["log_likelihood"]
        if score is None or score["value"] is None:
            continue
        error = 2 * (score["standard_error"] or 0.0)
        style: Any = {
            "fmt": "o",
            "ms": 6,
            "capsize": 3,
            "color": SERIES[0],
            "label": "log-likelihood, ± 2 s.e.",
        }
        ax.errorbar([score["value"]], [place], xerr=[error], **style)
        if result["bound"] is not None:
            ax.plot(
                [result["bound"]], [place], "|", ms=12, mew=2, color=SERIES[1], label="evidence lower bound"
            )
    ax.set(title="Held-out log-likelihood (right is better)", xlabel="nats per row")
    ax.margins(x=0.08)


def _draw_mcc(ax: Axes, results: Sequence[Result]) -> None:
    marks = {"pearson": ("o", "MCC, Pearson"), "pearson_within_u": ("D", "MCC within u")}
    for place, result in enumerate(results):
        for colour, (key, (marker, label)) in zip((SERIES[2], SERIES[4]), marks.items(), strict=True):
            if key in (result["mcc"] or {}):
                ax.plot([result["mcc"][key]], [place], marker, ms=6, mfc="none", color=colour, label=label)
    ax.set(title="Correlation with the true sources", xlim=(0, 1.02), xlabel="MCC, held out")


def _density(result: Result) -> str:
    if result["log_likelihood"] is None:
        return "–"
    return "x given u" if result["takes_u"] else "x"


def _likelihood(result: Result) -> str:
    score = result["log_likelihood"]
    if score is None or score["value"] is None:
        return "–"
    sign = "≥ " if score["kind"] == "lower" else ""
    error = score["standard_error"]
    return f"{sign}{score['value']:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
