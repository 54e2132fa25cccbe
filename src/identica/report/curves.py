"""Curves of a rerun benchmark: scores against one size at a time, as picture and as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from identica.report.figures import SERIES

Curve = Sequence[tuple[float, Mapping[str, Any]]]
"""Points of a curve: the value that is moved, and what `reproduction.summarise` tells of the fits there."""

_COLUMNS = 3
_LOGARITHMIC = 10
"""Axes whose largest value exceeds the smallest by this factor are drawn logarithmically."""


def curve_tables(curves: Mapping[str, Curve]) -> list[tuple[list[str], list[list[str]]]]:
    """Header and rows of each curve: Pearson held out, mean and worst over seeds, beside linear methods."""
    tables = []
    for axis, curve in curves.items():
        ours, *others = curve[0][1]["methods"]
        header = [axis, f"{ours}: Pearson", "worst", "Spearman", "within u", *others, "ceiling", "s per fit"]
        rows = []
        for value, summary in curve:
            own = summary["methods"][ours]
            pearson = own["scores"]["pearson"]["held_out"]
            numbers = [pearson["mean"], pearson["worst"]]
            numbers += [own["scores"][key]["held_out"]["mean"] for key in ("spearman", "pearson_within")]
            numbers += [summary["methods"][m]["scores"]["pearson"]["held_out"]["mean"] for m in others]
            cells = [f"{number:.3f}" for number in [*numbers, summary["ceiling"]]]
            rows.append([f"{value:g}", *cells, f"{own['seconds']['mean']:.0f}"])
        tables.append((header, rows))
    return tables


def draw_curves(curves: Mapping[str, Curve]) -> Figure:
    """One panel per axis: held-out Pearson MCC, dots are seeds and lines go through their means."""
    n_rows = -(-len(curves) // _COLUMNS)
    with matplotlib.rc_context({"font.size": 9.5, "axes.titlesize": 10, "axes.titlelocation": "left"}):
        figure = Figure(figsize=(11.5, 3.1 * n_rows + 0.4), layout="constrained")
        grid = figure.subplots(n_rows, min(_COLUMNS, len(curves)), squeeze=False, sharey=True)
        for ax, (axis, curve) in zip(grid.flat, curves.items(), strict=False):
            _draw_curve(ax, axis, curve)
        for ax in grid.flat[len(curves) :]:
            ax.set_visible(False)
        for ax in grid[:, 0]:
            ax.set_ylabel("MCC, held out")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _draw_curve(ax: Axes, axis: str, curve: Curve) -> None:
    values = np.array([value for value, _ in curve], float)
    places = values
    if values.min() <= 0:  # no logarithm, and unequal steps: evenly spaced
        places = np.arange(len(values), dtype=float)
    elif values.max() >= _LOGARITHMIC * values.min():
        ax.set_xscale("log")
    colours = (SERIES[0], SERIES[7], SERIES[2], SERIES[1], SERIES[4])
    for (name, _), colour in zip(curve[0][1]["methods"].items(), colours, strict=False):
        own = [summary["methods"][name]["scores"]["pearson"]["held_out"] for _, summary in curve]
        ax.plot(places, [point["mean"] for point in own], "-", lw=1.5, color=colour, label=name)
        for place, point in zip(places, own, strict=True):
            ax.plot([place] * len(point["values"]), point["values"], "o", ms=3.5, color=colour, mew=0)
    ceilings = [summary["ceiling"] for _, summary in curve]
    ax.plot(places, ceilings, ":", lw=1, color="black", label="ceiling")
    ax.set(title=axis, ylim=(0, 1.03))
    ax.set_xticks(places, [f"{value:g}" for value in values])
    ax.minorticks_off()
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
