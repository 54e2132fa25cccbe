"""Pictures and page of the demonstration."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from identica.report.figures import SERIES, segment_colours, thin
from identica.report.page import Section, duration, render, render_page
from identica.report.storage import replacing, write_text
from identica.simulation.photographs import Photographs
from identica.typing import FloatArray, IntArray


@dataclass(frozen=True)
class Attempt:
    """What one method recovered, in the order and with the signs of the truth.

    Attributes
    ----------
    name : str
        The method.
    sources : array (N, n)
        Its sources.
    scores : dict
        Mean correlations with the truth, in [0, 1]: ``pearson``, ``spearman``, and ``within_segments``
        (Pearson after centring by segment) or ``rescaled`` (Pearson after `match_scale`).
    """

    name: str
    sources: FloatArray
    scores: dict[str, float]


SCORE_NAMES = {
    "pearson": "Pearson",
    "spearman": "Spearman",
    "within_segments": "Pearson within segments",
    "rescaled": "Pearson, scale matched",
}


@dataclass(frozen=True)
class Figure1Demo:
    """True sources (N, 2), observations (N, 2), segments (N,) and attempts."""

    truth: FloatArray
    observations: FloatArray
    segments: IntArray
    attempts: list[Attempt]


@dataclass(frozen=True)
class PhotographDemo:
    """The photographs, attempts in the order they are shown, and how many pixels were fitted and scored."""

    photographs: Photographs
    attempts: list[Attempt]
    n_fitted: int
    n_held_out: int


def write_demo(
    folder: Path, figure1: Figure1Demo, photographs: PhotographDemo, *, seconds: float, quick: bool
) -> dict[str, Any]:
    """Write ``figure1.png``, ``photographs.png``, ``report.html`` and ``report.json``.

    Returns
    -------
    dict
        The numbers, as in ``report.json``.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    pictures = {"figure1": draw_figure1(figure1), "photographs": draw_photographs(photographs)}
    encoded = {}
    for name, figure in pictures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(buffer.getvalue())
        encoded[name] = Markup(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    numbers: dict[str, Any] = {
        "quick": quick,
        "seconds": round(seconds, 1),
        "figure1": {"n_rows": len(figure1.truth), "methods": _scores(figure1.attempts)},
        "photographs": {
            "n_fitted": photographs.n_fitted,
            "n_held_out": photographs.n_held_out,
            "methods": _scores(photographs.attempts),
        },
    }
    sections = [
        Section(
            key,
            title,
            short,
            render(f"demo_{key}", image=encoded[key], numbers=numbers[key], names=SCORE_NAMES, quick=quick),
        )
        for key, title, short in (
            ("photographs", "Two photographs behind a nonlinear mixture", "Photographs"),
            ("figure1", "Why the auxiliary variable matters", "Figure 1"),
        )
    ]
    subtitle = f"identica demo, {duration(seconds)}" + (", quick settings" if quick else "")
    page = render_page("Nonlinear mixtures, unmixed", sections, subtitle=subtitle)
    write_text(folder / "report.json", json.dumps({"schema": 1, **numbers}, indent=1) + "\n")
    write_text(folder / "report.html", page)
    return numbers


def draw_figure1(demo: Figure1Demo) -> Figure:
    """Four panels coloured by segment: sources, observations, and what each method recovers."""
    panels = [("true sources", demo.truth), ("observed mixtures", demo.observations)]
    panels += [(f"{a.name}, MCC {a.scores['pearson']:.3f}", a.sources) for a in demo.attempts]
    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure(figsize=(3.1 * len(panels), 3.5), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        codes = np.unique(demo.segments, return_inverse=True)[1]
        colours = np.array(segment_colours(int(codes.max()) + 1), dtype=object)
        rows = np.random.default_rng(0).permutation(thin(len(codes), 6000))  # no segment lies on top
        for ax, (title, values) in zip(axes, panels, strict=True):
            ax.scatter(*values[rows].T, s=3, c=colours[codes[rows]].tolist(), linewidths=0, alpha=0.6)
            low, high = np.percentile(values, [0.3, 99.7], axis=0)
            margin = 0.08 * (high - low)
            ax.set(
                xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1])
            )
            ax.set(xticks=[], yticks=[], title=title)
            ax.set_box_aspect(1)
            for spine in ax.spines.values():
                spine.set_color(SERIES[7])
    return figure


def draw_photographs(demo: PhotographDemo) -> Figure:
    """One row per photograph: original, mixture, linear ICA and identica on the scale of the original."""
    pictures = demo.photographs
    first, last = demo.attempts[0], demo.attempts[-1]
    columns = [("sources", pictures.S), ("mixtures", pictures.X)]
    columns += [
        (f"{a.name}: {a.scores['rescaled']:.3f}", match_scale(pictures.S, a.sources)) for a in (first, last)
    ]
    height, width = pictures.shape
    with matplotlib.rc_context({"font.size": 12}):
        figure = Figure(figsize=(3.4 * len(columns), 3.4 * 2 * height / width + 0.5), layout="constrained")
        axes = figure.subplots(2, len(columns))
        for place, (title, values) in enumerate(columns):
            for row in range(2):
                ax = axes[row, place]
                low, high = np.percentile(values[:, row], [1, 99])
                ax.imshow(
                    pictures.image(values[:, row]),
                    cmap="gray",
                    vmin=low,
                    vmax=high,
                    interpolation="antialiased",
                )
                ax.set_axis_off()
                if row == 0:
                    ax.set_title(title)
    return figure


def _scores(attempts: list[Attempt]) -> list[dict[str, Any]]:
    return [{"name": a.name, **a.scores} for a in attempts]


def match_scale(truth: FloatArray, estimate: FloatArray) -> FloatArray:
    """Each column of an estimate with the values of the true column, handed out by rank.

    What a nonlinear mixture leaves open of a source is a monotone curve through its values, as it
    leaves open order and sign. This undoes the curve and nothing else: what one source has of
    another stays visible.

    Examples
    --------
    >>> import numpy as np
    >>> match_scale(np.array([[1.0], [2.0], [5.0]]), np.array([[0.1], [9.0], [0.2]])).ravel()
    array([1., 5., 2.])
    """
    ranks = estimate.argsort(axis=0).argsort(axis=0)
    return np.take_along_axis(np.sort(truth, axis=0), ranks, axis=0)
