"""The sources: along the rows, as a distribution, and by u."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from identica.report.contents import ReportContents
from identica.report.figures import INK, RULE, SERIES, Drawing, segment_colours, thin
from identica.report.page import Section, render

MOST_POINTS = 4000
"""Points drawn of one source; more only blacken the picture."""


def section(contents: ReportContents) -> Section:
    """Three small figures for each source."""
    # Rows that were left out would hide all others.
    used = np.flatnonzero(contents.used())
    segments = contents.segments()
    if segments is not None:
        segments = (segments[0][used], segments[1])
    auxiliary = contents.auxiliary.iloc[used]
    cards = []
    for name in contents.sources.columns:
        values = contents.sources[name].to_numpy()[used]
        figures = [_course(str(name), used, values, segments), _histogram(str(name), values, segments)]
        if segments is not None:
            figures.append(_by_segment(str(name), values, segments))
        elif contents.auxiliary.shape[1]:
            figures.append(_against(str(name), values, auxiliary))
        cards.append({"name": name, "figures": [Markup(figure.svg()) for figure in figures]})
    html = render(
        "sources", cards=cards, discrete=segments is not None, has_u=contents.auxiliary.shape[1] > 0
    )
    return Section("sources", "The sources", "Sources", html)


def _limits(values: np.ndarray) -> tuple[float, float]:
    """A range that a single spike does not stretch."""
    low, high = np.percentile(values, [0.2, 99.8])
    margin = 0.08 * max(high - low, 1e-9)
    return float(low - margin), float(high + margin)


def _course(name: str, places: np.ndarray, values: np.ndarray, segments: Any) -> Drawing:
    drawing = Drawing(f"{name} along the rows", height=2.1)
    rows = thin(len(values), MOST_POINTS)
    colour: Any = SERIES[0]
    if segments is not None:
        codes, names = segments
        colours = segment_colours(len(names))
        colour = [colours[code] for code in codes[rows]]
    drawing.ax.scatter(
        places[rows] + 1, values[rows], s=3, c=colour, linewidths=0, alpha=0.7, rasterized=True
    )
    drawing.ax.set(xlabel="row", ylim=_limits(values), xlim=(1, places[-1] + 1), title="along the rows")
    drawing.ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    drawing.ax.locator_params(axis="x", nbins=5)
    return drawing


def _histogram(name: str, values: np.ndarray, segments: Any) -> Drawing:
    drawing = Drawing(f"Distribution of {name}", height=2.1)
    ax, limits = drawing.ax, _limits(values)
    bins: Any = np.linspace(*limits, 60)
    ax.hist(values, bins=bins, density=True, color=SERIES[7], alpha=0.45, linewidth=0)
    if segments is not None and len(segments[1]) <= len(SERIES):
        codes, names = segments
        coarse = bins[::2]
        for code, colour in enumerate(segment_colours(len(names))):
            density, edges = np.histogram(values[codes == code], bins=coarse, density=True)
            ax.plot((edges[1:] + edges[:-1]) / 2, density, color=colour, lw=1.4)
    ax.set(xlim=limits, yticks=[], title="distribution")
    ax.spines["left"].set_visible(False)
    return drawing


def _by_segment(name: str, values: np.ndarray, segments: Any) -> Drawing:
    codes, names = segments
    drawing = Drawing(f"Mean and standard deviation of {name} by segment", height=2.1)
    ax, n = drawing.ax, len(names)
    counts = np.bincount(codes, minlength=n)
    mean = np.bincount(codes, values, n) / counts
    sd = np.sqrt(np.maximum(np.bincount(codes, (values - mean[codes]) ** 2, n) / counts, 0))
    ax.axhline(0, color=RULE, lw=0.8)
    many = n > 80  # as pixels, or the page grows by a path for each segment of each source
    width = max(1.0, min(6.0, 120 / n))
    ax.vlines(np.arange(n), mean - sd, mean + sd, colors=segment_colours(n), lw=width, rasterized=many)
    if not many:
        ax.scatter(np.arange(n), mean, s=max(3.0, min(26.0, 500 / n)), color=INK, zorder=3)
    else:
        ax.plot(mean, color=INK, lw=0.9)
    if n <= 12 and max(map(len, names)) * n < 60:
        ax.set_xticks(range(n), names)
    else:
        ticks = np.unique(np.linspace(0, n - 1, 4).astype(int))
        ax.set_xticks(ticks, [names[tick][:10] for tick in ticks])
    ax.set_title("mean ± standard deviation by segment")
    return drawing


def _against(name: str, values: np.ndarray, auxiliary: pd.DataFrame) -> Drawing:
    column = next((c for c in auxiliary.columns if auxiliary[c].dtype.kind in "fiu"), None)
    drawing = Drawing(f"{name} against u", height=2.1)
    if column is None:
        drawing.ax.set_axis_off()
        return drawing
    rows = thin(len(values), MOST_POINTS)
    u = auxiliary[column].to_numpy(dtype=np.float64)
    drawing.ax.scatter(u[rows], values[rows], s=3, color=SERIES[2], linewidths=0, alpha=0.6, rasterized=True)
    drawing.ax.set(xlabel=str(column), ylim=_limits(values), title=f"against {column}")
    return drawing
