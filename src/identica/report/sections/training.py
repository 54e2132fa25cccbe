"""Training curves: every start, every stage, fitted and held-out rows."""

import numpy as np
from markupsafe import Markup

from identica.report.contents import ReportContents
from identica.report.figures import INK, RULE, SERIES, Drawing
from identica.report.page import Section, render


def section(contents: ReportContents) -> Section | None:
    """One figure; nothing for methods that are solved rather than trained."""
    history = contents.history
    if len(history.get("step", ())) == 0:
        return None
    drawing = Drawing("Objective on fitted and held-out rows during training", width=5.6, height=3.1)
    ax = drawing.ax
    stages = list(dict.fromkeys(history["stage"].tolist()))
    start, shown = 0, []
    for place, stage in enumerate(stages):
        here = history["stage"] == stage
        length = int(history["step"][here].max())
        if place:
            ax.axvline(start, color=RULE, lw=0.8, ls=(0, (3, 3)))
        ax.text(
            start + 0.02 * length,
            1.0,
            stage,
            transform=ax.get_xaxis_transform(),
            fontsize=8,
            va="bottom",
            color=INK,
        )
        for restart in np.unique(history["restart"][here]):
            rows = here & (history["restart"] == restart)
            order = np.argsort(history["step"][rows], kind="stable")
            step = start + history["step"][rows][order]
            held_out, loss = history["held_out"][rows][order], history["loss"][rows][order]
            ax.plot(step, loss, color=SERIES[1], lw=0.8, alpha=0.45)
            ax.plot(step, held_out, color=SERIES[0], lw=1.1, alpha=0.75)
            shown += [held_out[np.isfinite(held_out)], loss[np.isfinite(loss)]]
        start += length
    ax.plot([], [], color=SERIES[0], label="held-out rows")
    ax.plot([], [], color=SERIES[1], label="fitted rows")
    values = np.concatenate(shown) if any(map(len, shown)) else np.zeros(1)
    low, high = float(values.min()), float(np.percentile(values, 92))
    margin = 0.06 * max(high - low, 1e-6)
    ax.set(
        xlabel="training step",
        ylabel=f"objective, {contents.facts.get('objective', 'nats per row')}",
        ylim=(low - margin, high + margin),
    )
    ax.set_xlim(0, max(start, 1))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.legend(loc="upper right", frameon=False, labelcolor=INK)
    html = render("training", figure=Markup(drawing.svg()), stages=stages)
    return Section("training", "Training curves", "Training", html)
