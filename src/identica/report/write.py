"""Write a report: ``report.html`` for people and ``report.json`` with the same numbers."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from identica.report.contents import ReportContents
from identica.report.page import duration, render_page
from identica.report.sections import sections
from identica.report.storage import write_text


def write_report(folder: str | Path, contents: ReportContents) -> Path:
    """Write ``report.html`` and ``report.json`` into a folder.

    Parameters
    ----------
    folder : str or Path
        An existing folder.
    contents : ReportContents
        What to show.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    StorageError
        If a file cannot be written; older files are then untouched.
    """
    folder = Path(folder)
    page = report_page(contents)
    write_text(
        folder / "report.json", json.dumps(_finite(contents.to_dict()), indent=1, allow_nan=False) + "\n"
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


def report_page(contents: ReportContents) -> str:
    """The HTML of a report."""
    facts = contents.facts
    u = f", u = {', '.join(facts['u'])}" if facts["u"] else ""
    subtitle = (
        f"{facts.get('table', 'data')}: {facts['n_rows']:,} rows × {len(facts['columns'])} columns{u} · "
        f"fitted in {duration(facts['seconds'])} · seed {facts['seed']}"
    )
    return render_page(contents.title, sections(contents), subtitle=subtitle, headlines=contents.headlines())


def _finite(value: Any) -> Any:
    """NaN and infinities are no JSON; null says that there is no number."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
