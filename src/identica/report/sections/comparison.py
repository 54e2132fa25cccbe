"""Held-out log-likelihood beside linear ICA's."""

from markupsafe import Markup

from identica.report.contents import ReportContents
from identica.report.figures import INK, SERIES, Drawing
from identica.report.page import Section, number, render


def section(contents: ReportContents) -> Section | None:
    """Both scores on one scale, with the difference."""
    scores = contents.scores
    if scores is None:
        return None
    entries = [scores["model"]]
    if scores["linear"] is not None and "mean" in scores["linear"]:
        entries.append(scores["linear"])
    drawing = Drawing(
        "Held-out log-likelihood of " + " and ".join(entry["name"] for entry in entries),
        width=4.6,
        height=0.75 + 0.5 * len(entries),
    )
    ax = drawing.ax
    for place, (entry, colour) in enumerate(zip(entries, (SERIES[0], SERIES[7]), strict=False)):
        ax.errorbar(
            entry["mean"],
            -place,
            xerr=2 * entry["standard_error"],
            fmt="o",
            color=colour,
            ms=7,
            lw=2,
            capsize=3,
        )
        ax.annotate(
            f"{entry['name']}  {number(entry['mean'])}",
            (entry["mean"], -place),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            color=INK,
            fontsize=9,
        )
    ax.set_ylim(-len(entries) + 0.6, 0.65)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.margins(x=0.35)
    ax.set_xlabel("log-likelihood per held-out row, nats (right is better)")
    html = render(
        "comparison", figure=Markup(drawing.svg()), entries=entries, scores=scores, linear=scores["linear"]
    )
    return Section("held-out", "How well it describes rows it has not seen", "Held-out fit", html)
