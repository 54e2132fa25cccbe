"""The page around the sections: one self-contained HTML file that opens without a network."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from identica.findings import Finding


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes
    ----------
    anchor : str
        Its name in the address.
    title : str
        Heading.
    short : str
        Its name in the list of sections.
    html : Markup
        Content.
    """

    anchor: str
    title: str
    short: str
    html: Markup


def render(template: str, **values: Any) -> Markup:
    """Fill in one of the templates."""
    return Markup(_environment().get_template(f"{template}.html").render(**values))


def render_page(
    title: str, sections: list[Section], *, subtitle: str = "", headlines: list[Finding] | None = None
) -> str:
    """The whole page.

    Parameters
    ----------
    title, subtitle : str
        Heading and the line under it.
    sections : list of Section
        In order.
    headlines : list of Finding, optional
        Shown as tiles on top.
    """
    from importlib.metadata import version

    return str(
        render(
            "page",
            title=title,
            subtitle=subtitle,
            sections=sections,
            headlines=headlines or [],
            style=Markup(_environment().get_template("style.css").render()),
            version=version("identica"),
        )
    )


def number(value: Any, digits: int = 3) -> str:
    """A number for people; words stay as they are."""
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("identica.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": duration}
    return environment
