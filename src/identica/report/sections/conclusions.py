"""What may be concluded from this run, and what may not."""

from identica.report.contents import ReportContents
from identica.report.page import Section, render

_WITHOUT_U = ("MarginalMLE", "VAE", "VariationalEM")
_CONTROLS = ("AdversarialICA", "Autoencoder")


def section(contents: ReportContents) -> Section:
    """Plain words that follow from the findings and the method."""
    facts = contents.facts
    verdicts = {finding.name: finding.verdict for finding in contents.findings}
    html = render(
        "conclusions",
        method=facts["method"],
        has_u=facts["kind"] != "none",
        concerns=[finding for finding in contents.findings if finding.verdict in ("warning", "bad")],
        gain=verdicts.get("gain over linear ICA"),
        uses_u=facts["method"] not in (*_WITHOUT_U, *_CONTROLS, "LinearICA"),
        control=facts["method"] in _CONTROLS,
        linear=facts["method"] == "LinearICA",
    )
    return Section("conclusions", "What can and cannot be concluded", "Conclusions", html)
