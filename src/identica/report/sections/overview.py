"""What was fitted and how, and everything that was found."""

from identica.report.contents import ReportContents
from identica.report.page import Section, duration, render


def section(contents: ReportContents) -> Section:
    """Facts of the fit beside all findings."""
    facts = contents.facts
    u = ", ".join(facts["u"]) or "none"
    if facts.get("windows"):
        u = "equal windows of time"
    if facts["kind"] == "discrete":
        u += f" ({facts['n_segments']} segments)"
    elif facts["kind"] == "continuous":
        u += " (continuous)"
    columns = facts["columns"]
    shown = ", ".join(columns[:16]) + (f", … ({len(columns)} in all)" if len(columns) > 16 else "")
    rows = f"{facts['rows_fitted']:,} fitted, {facts['rows_held_out']:,} held out"
    if facts["rows_excluded"]:
        rows += f", {facts['rows_excluded']} left out as gross spikes"
    if facts.get("sequence"):
        rows += f"; time series by {facts['sequence']}"
    parameters = [f"{key}={value}" for key, value in facts["parameters"].items() if value is not None]
    listed = [
        ("Table", facts.get("table", "–")),
        ("Method", facts["method"]),
        ("Sources", str(facts["n_components"])),
        ("Columns", shown),
        ("Auxiliary variable u", u),
        ("Rows", rows),
        ("Options", ", ".join(parameters)),
        ("Seed", str(facts["seed"])),
        ("Steps, time", f"{facts['steps']:,}, {duration(facts['seconds'])}"),
    ]
    if "SHA-256" in facts:
        listed.append(("SHA-256 of the table", facts["SHA-256"]))
    html = render("overview", facts=listed, findings=contents.findings)
    return Section("overview", "What was fitted, and what was found", "Overview", html)
