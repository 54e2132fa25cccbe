"""Starts and where they ended."""

import numpy as np
from markupsafe import Markup

from identica.estimators.growth_rounds import SAME_OPTIMUM
from identica.report.contents import ReportContents
from identica.report.figures import RULE, SERIES, Drawing
from identica.report.page import Section, render


def section(contents: ReportContents) -> Section | None:
    """Held-out objective of each start, best first."""
    if len(contents.restarts) < 2:
        return None
    records = sorted(
        contents.restarts, key=lambda record: np.inf if record["held_out"] is None else record["held_out"]
    )
    values = [record["held_out"] for record in records if record["held_out"] is not None]
    figure = None
    if values:
        tolerance = SAME_OPTIMUM * contents.facts["n_components"]
        drawing = Drawing("Held-out objective of each start", height=0.9 + 0.16 * len(values))
        ax = drawing.ax
        ax.axvspan(values[0], values[0] + tolerance, color=SERIES[2], alpha=0.18, lw=0)
        ax.hlines(range(len(values)), values[0], values, color=RULE, lw=1)
        colours = [SERIES[2] if v <= values[0] + tolerance else SERIES[1] for v in values]
        ax.scatter(values, range(len(values)), c=colours, s=34, zorder=3)
        ax.invert_yaxis()
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.margins(x=0.08, y=0.15)
        ax.set_xlabel(
            f"held-out objective, {contents.facts.get('objective', 'nats per row')} (left is better)"
        )
        figure = Markup(drawing.svg())
    names = ("agreement of restarts", "agreement of sources")
    html = render(
        "restarts",
        records=records,
        figure=figure,
        findings=[f for f in contents.findings if f.name in names],
        compared=any(record.get("agreement") is not None for record in records),
    )
    return Section("restarts", "Do different starts agree?", "Restarts", html)
