"""Correlation of each source with each column."""

from identica.report.contents import ReportContents
from identica.report.page import Section, render


def section(contents: ReportContents) -> Section:
    """A table of correlations, coloured by sign and size."""
    rows = [
        {"name": str(name), "cells": [_cell(float(value)) for value in line]}
        for name, line in zip(contents.sources.columns, contents.loadings, strict=True)
    ]
    return Section(
        "loadings",
        "Where each source shows in the columns",
        "Loadings",
        render("loadings", columns=contents.facts["columns"], rows=rows),
    )


def _cell(value: float) -> dict[str, str]:
    rgb = "61, 127, 208" if value >= 0 else "224, 118, 47"
    return {"text": f"{value:+.2f}".replace("-", "−"), "colour": f"rgba({rgb}, {min(abs(value), 1):.2f})"}
