"""One file per section of the report, in the order of the page."""

from identica.report.contents import ReportContents
from identica.report.page import Section
from identica.report.sections import (
    comparison,
    conclusions,
    excluded,
    loadings,
    overview,
    restarts,
    sources,
    training,
)

_ORDER = (overview, comparison, sources, loadings, training, restarts, excluded, conclusions)


def sections(contents: ReportContents) -> list[Section]:
    """All sections that have something to show."""
    made = [module.section(contents) for module in _ORDER]
    return [section for section in made if section is not None]
