"""What every diagnostic returns. Reports and ``--json`` print findings and compute nothing."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["good", "warning", "bad", "info"]


@dataclass(frozen=True)
class Finding:
    """One measured statement about data or a fit.

    Attributes
    ----------
    name : str
        Short name, for example ``"held-out log-likelihood"``.
    value : float, str or None
        What was measured.
    unit : str
        Unit of ``value``, for example ``"nats per row"``; empty for pure numbers and words.
    interval : tuple of float or None
        Lower and upper end of an uncertainty interval.
    verdict : {"good", "warning", "bad", "info"}
        How to read it.
    text : str
        One plain sentence for a reader who does not know the method.
    reference : str
        Paper and equation, or the rule, behind the number.
    """

    name: str
    value: float | str | None
    unit: str = ""
    interval: tuple[float, float] | None = None
    verdict: Verdict = "info"
    text: str = ""
    reference: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)
