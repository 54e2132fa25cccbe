"""Figures as inline SVG whose text and rules follow the colours of the page, in light and in dark.

Only matplotlib's object interface is used: no pyplot, no state that outlives a figure.
"""

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

# Two colours that no data uses stand for the page's own and are replaced in the SVG.
_INK, _RULE = "#010203", "#040506"
INK, RULE = _INK, _RULE

SERIES = ("#3d7fd0", "#e0762f", "#2f9e78", "#c9508a", "#8a6fd1", "#b8941f", "#3aa5b8", "#8c929c")
"""Colours of series, distinguishable with colour-blind eyes and readable on white and on black."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.image_inline": True,
    "font.size": 10.0,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.formatter.useoffset": False,
    "text.color": _INK,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
}


class Drawing:
    """One figure with one or several axes; ``svg()`` renders it.

    Parameters
    ----------
    label : str
        What the figure shows, for readers who cannot see it.
    width, height : float
        Inches. Text is 10 points, so a width of about 4.4 stays readable on a phone.
    rows, columns : int
        Grid of axes.
    """

    def __init__(
        self,
        label: str,
        *,
        width: float = 4.4,
        height: float = 2.5,
        rows: int = 1,
        columns: int = 1,
        **grid: Any,
    ) -> None:
        self.label = label
        with matplotlib.rc_context(_STYLE):
            self.figure = Figure(figsize=(width, height), layout="constrained")
            self.figure.patch.set_alpha(0)
            axes = self.figure.subplots(rows, columns, squeeze=False, **grid)
            for ax in axes.flat:
                ax.patch.set_alpha(0)
            self.axes: np.ndarray = axes

    @property
    def ax(self) -> Axes:
        """The first axes."""
        return self.axes[0, 0]

    def svg(self) -> str:
        """The figure as an ``<svg>`` element without a date and without outside links."""
        buffer = io.StringIO()
        style: Any = {**_STYLE, "svg.hashsalt": self.label}
        with matplotlib.rc_context(style):
            metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
            self.figure.savefig(buffer, format="svg", dpi=160, metadata=metadata)
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        # Names that nothing refers to repeat between the figures of a page.
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
        text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
        text = text.replace(_INK, "currentColor").replace(_RULE, "var(--rule)")
        text = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font-size: \1px", text)
        return re.sub(
            r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
            lambda found: (
                f'<svg viewBox="{found[1]}" role="img" aria-label="{_escape(self.label)}" '
                'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
            ),
            text,
            count=1,
        )


def segment_colours(n: int) -> list[Any]:
    """One colour per segment: distinct ones for a few, a smooth scale for many."""
    if n <= len(SERIES):
        return list(SERIES[:n])
    scale = matplotlib.colormaps["turbo"]
    return [scale(0.08 + 0.84 * i / (n - 1)) for i in range(n)]


def segment_map(n: int) -> ListedColormap:
    """`segment_colours` as a colour map for scatter plots of integer codes."""
    return ListedColormap(segment_colours(n))


def thin(n_rows: int, most: int) -> np.ndarray:
    """At most ``most`` row indices, evenly spaced."""
    return np.arange(n_rows) if n_rows <= most else np.linspace(0, n_rows - 1, most).astype(int)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
