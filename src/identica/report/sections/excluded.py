"""Rows that were left out, each by name."""

from identica.report.contents import ReportContents
from identica.report.page import Section, render

MOST = 50


def section(contents: ReportContents) -> Section | None:
    """A table of gross spikes."""
    if not contents.excluded:
        return None
    html = render("excluded", rows=contents.excluded[:MOST], more=len(contents.excluded) - MOST)
    return Section("excluded", "Rows left out of the fit", "Rows left out", html)
