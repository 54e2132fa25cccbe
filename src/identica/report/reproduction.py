"""Results of a rerun benchmark: stored seed by seed, summarised over seeds, drawn beside published scores."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from identica.errors import DataError
from identica.evaluation.published import PublishedScore
from identica.report.figures import SERIES
from identica.report.storage import replacing, write_text

FORMAT = 1
JSON_NAME, PICTURE_NAME, TABLE_NAME = "reproduction.json", "reproduction.png", "reproduction.md"
FILES = (JSON_NAME, PICTURE_NAME, TABLE_NAME)


def read_runs(folder: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Finished runs of earlier calls in ``folder``, none if there are none.

    Raises
    ------
    DataError
        They were made with other settings, or the file is damaged.
    """
    path = folder / JSON_NAME
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stored, runs = content["settings"], content["runs"]
        if content["format"] != FORMAT:
            raise DataError(f"{path} has format {content['format']}, this version reads {FORMAT}")
        if not all({"case", "seed", "methods", "null", "machine"} <= run.keys() for run in runs):
            raise DataError(f"{path} holds unfinished runs; remove it, or choose another folder")
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error}); remove it, or choose another folder") from error
    expected = json.loads(json.dumps(settings))
    if stored != expected:
        keys = sorted(key for key in {*stored, *expected} if stored.get(key) != expected.get(key))
        raise DataError(
            f"{path} holds runs made with other settings ({', '.join(keys)}), which cannot be mixed with "
            "these; choose another folder, or the same options as before"
        )
    return runs


def write_json(folder: Path, content: Mapping[str, Any]) -> None:
    """Replace the stored results; ``content`` holds ``settings`` and ``runs``.

    Raises
    ------
    StorageError
        They cannot be written; those of before are then untouched.
    """
    text = json.dumps({"format": FORMAT, **content}, indent=1, allow_nan=False)
    write_text(folder / JSON_NAME, text + "\n")


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean, worst and standard deviation over the seeds of one case.

    Returns
    -------
    dict
        ``n_seeds, seeds, n_fitted, n_held_out``; ``methods``: name → ``scores[score][rows]`` with ``mean, worst,
        sd`` (None for one seed) and ``values`` in the order of ``seeds``, ``seconds`` with ``mean, worst``, and
        ``statuses``; ``null`` and ``ceiling``: means; ``peak_memory_mib``: the largest.
    """
    runs = sorted(runs, key=lambda run: run["seed"])
    methods = {}
    for name, first in runs[0]["methods"].items():
        own = [run["methods"][name] for run in runs]
        scores = {
            score: {
                rows: _spread([method["scores"][score][rows] for method in own])
                for rows in ("in_sample", "held_out")
            }
            for score in first["scores"]
        }
        methods[name] = {"scores": scores}
        if "seconds" in first:
            seconds = [method["seconds"] for method in own]
            methods[name] |= {
                "seconds": {"mean": float(np.mean(seconds)), "worst": float(np.max(seconds))},
                "statuses": [method["status"] for method in own],
            }
    memory = [run["peak_memory_mib"] for run in runs if run["peak_memory_mib"] is not None]
    return {
        "n_seeds": len(runs),
        "seeds": [run["seed"] for run in runs],
        "n_fitted": runs[0]["n_fitted"],
        "n_held_out": runs[0]["n_held_out"],
        "methods": methods,
        "null": {key: float(np.mean([run["null"][key] for run in runs])) for key in runs[0]["null"]},
        "ceiling": float(np.mean([run["ceiling"] for run in runs])),
        "peak_memory_mib": max(memory) if memory else None,
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {
        "mean": float(np.mean(values)),
        "worst": float(np.min(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "values": values,
    }


# Tables ---------------------------------------------------------------------------------------------------

SCORE_NAMES = {
    "pearson": "Pearson",
    "spearman": "Spearman",
    "pearson_within": "Pearson within u",
    "spearman_within": "Spearman within u",
    "pearson_squares": "Pearson of s²",
    "pearson_magnitudes": "Pearson of |s|",
}


def measured_table(
    summary: Mapping[str, Any], *, without: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what was measured, held out unless the header says otherwise.

    ``without`` names scores that are left out.
    """
    first = next(iter(summary["methods"].values()))
    others = [key for key in first["scores"] if key != "pearson" and key not in without]
    header = ["method", "Pearson (sd)", "worst", "in sample", *(SCORE_NAMES[key] for key in others)]
    rows = []
    for name, method in summary["methods"].items():
        pearson = method["scores"]["pearson"]
        held_out = pearson["held_out"]
        row = [name, _with_sd(held_out["mean"], held_out["sd"]), _number(held_out["worst"])]
        row += [_number(pearson["in_sample"]["mean"]), *(_number(_mean(method, key)) for key in others)]
        rows.append([*row, f"{method['seconds']['mean']:.1f}" if "seconds" in method else "–"])
    null = summary["null"]
    nulls = {
        "random rotation": {"pearson": null["rotation"], "pearson_within": null["rotation_within"]},
        "chance": {"pearson": null["chance"]},
        "ceiling": {"pearson": summary["ceiling"]},
    }
    for name, values in nulls.items():
        cells = [_number(values.get(key)) for key in others]
        rows.append([name, _number(values["pearson"]), "–", "–", *cells, "–"])
    return [*header, "s per fit"], rows


def published_table(scores: Sequence[PublishedScore]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of what was published."""
    header = ["published", "score", "value (sd)", "mark", "how it was scored"]
    rows = [
        [score.method, SCORE_NAMES[score.score], _with_sd(score.value, score.sd), score.mark, score.scoring]
        for score in scores
    ]
    return header, rows


def markdown(sections: Sequence[tuple[str, str, Sequence[tuple[list[str], list[list[str]]]]]]) -> str:
    """Titles, notes and tables as Markdown, to be pasted into a page."""
    lines: list[str] = []
    for title, note, tables in sections:
        lines += [f"### {title}", "", note, ""]
        for header, rows in tables:
            lines.append(_line(header))
            lines.append("|" + "---|" * len(header))
            lines += [_line(row) for row in rows] + [""]
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _mean(method: Mapping[str, Any], key: str) -> float | None:
    score = method["scores"].get(key)
    return None if score is None else score["held_out"]["mean"]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _with_sd(value: float, sd: float | None) -> str:
    return _number(value) if sd is None else f"{value:.3f} ({sd:.3f})"


# Picture --------------------------------------------------------------------------------------------------

_PANELS = ("pearson", "spearman", "pearson_within")


def draw(cases: Sequence[tuple[str, Mapping[str, Any], Sequence[PublishedScore], bool]]) -> Figure:
    """One row of panels per case: held-out scores of every seed, their means, and published scores.

    Parameters
    ----------
    cases : sequence of (title, summary, published, same setting)
        As `summarise` and `identica.evaluation.published.published_scores` return them.
    """
    with matplotlib.rc_context({"font.size": 9.5, "axes.titlesize": 10, "axes.titlelocation": "left"}):
        heights = [len(_labels(summary, published)) for _, summary, published, _ in cases]
        figure = Figure(figsize=(11.5, 0.9 * len(cases) + 0.27 * sum(heights)), layout="constrained")
        grid = figure.subplots(
            len(cases), len(_PANELS), squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights}
        )
        for axes, (title, summary, published, same) in zip(grid, cases, strict=True):
            labels = _labels(summary, published)
            for ax, score in zip(axes, _PANELS, strict=True):
                _draw_panel(ax, summary, published if same else [], score, labels)
                ax.set_title(f"{title}: {SCORE_NAMES[score]}" if score == "pearson" else SCORE_NAMES[score])
                ax.tick_params(labelleft=score == "pearson")
        for ax in grid[-1]:
            ax.set_xlabel("MCC; dots: seeds, held out; ◇ published")
    return figure


def write_picture(path: Path, figure: Figure) -> None:
    """Save the picture as PNG.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _labels(summary: Mapping[str, Any], published: Sequence[PublishedScore]) -> list[str]:
    shown = [s.method for s in published if s.mark != "R" and s.score in _PANELS]
    return [*summary["methods"], *dict.fromkeys(f"{method} (published)" for method in shown)]


def _draw_panel(
    ax: Axes,
    summary: Mapping[str, Any],
    published: Sequence[PublishedScore],
    score: str,
    labels: list[str],
) -> None:
    for place, method in enumerate(summary["methods"].values()):
        held_out = method["scores"][score]["held_out"]
        colour = SERIES[0] if place == 0 else SERIES[7]
        ax.plot(
            held_out["values"], [place] * len(held_out["values"]), "o", ms=4, color=colour, alpha=0.6, mew=0
        )
        ax.plot([held_out["mean"]], [place], "|", ms=13, mew=2.2, color=colour)
    for item in published:
        if item.score != score or (item.mark != "R" and f"{item.method} (published)" not in labels):
            continue
        name = item.method if item.mark == "R" else f"{item.method} (published)"
        if name in labels:
            ax.errorbar(
                [item.value], [labels.index(name)], xerr=item.sd, fmt="D", ms=5, mfc="none", color=SERIES[1]
            )
    null = summary["null"].get({"pearson": "rotation", "pearson_within": "rotation_within"}.get(score, ""))
    if null is not None:
        ax.axvline(null, color=SERIES[7], lw=0.8, ls=":")
    ax.axvline(summary["ceiling"], color=SERIES[7], lw=0.8)
    ax.set(xlim=(0, 1.02), ylim=(len(labels) - 0.5, -0.5), yticks=range(len(labels)), yticklabels=labels)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
