"""Findings about starts: whether different ones end in the same optimum, and with the same sources."""

from typing import Any

import numpy as np

from identica.estimators.growth_rounds import SAME_OPTIMUM
from identica.findings import Finding

SAME_SOURCES, OTHER_SOURCES = 0.95, 0.8
"""Mean correlation from which two starts have found the same sources, and below which they have found others."""


def restarts(records: list[dict[str, Any]], n_components: int) -> Finding | None:
    """Whether different starts arrive at the same held-out objective."""
    values = np.array([np.nan if r["held_out"] is None else r["held_out"] for r in records], dtype=np.float64)
    if len(values) == 0:
        return None
    if len(values) == 1:
        return Finding(
            "agreement of restarts",
            None,
            verdict="info",
            text="There was one start only, so this run cannot show whether another one would end elsewhere.",
        )
    tolerance = SAME_OPTIMUM * n_components
    best = np.nanmin(values)
    agree = int((values <= best + tolerance).sum())
    text = f"{agree} of {len(values)} starts end within {tolerance:.2f} nats per row of the best one"
    failed = int((~np.isfinite(values)).sum())
    if failed:
        text += f"; {failed} became non-finite"
    origins = {r.get("origin", i) for i, r in enumerate(records) if values[i] <= best + tolerance}
    more = f"a better optimum may exist, so raise n_restarts ({len(values)} here)."
    if agree == 1:
        text += f". The best stands alone: {more}"
    elif len(origins) == 1:
        text += (
            f". All of these were grown from the same first network, so their agreement says little: {more}"
        )
    else:
        if len(origins) < agree:
            text += f", grown from {len(origins)} different first networks"
        text += ". Agreement is necessary, not sufficient: all starts share the assumptions of the method."
    return Finding(
        "agreement of restarts",
        f"{agree} of {len(values)}",
        verdict="good" if len(origins) > 1 else "warning",
        text=text,
        reference=f"within {SAME_OPTIMUM} nats per row and source",
    )


def sources_of_restarts(records: list[dict[str, Any]], n_components: int) -> Finding | None:
    """Whether starts of equal likelihood have found the same sources; None where sources were not compared.

    A likelihood cannot tell this: where u is silent, or rows are few beside the noise, endlessly many solutions explain
    the rows equally well.
    """
    compared = [r for r in records if r.get("agreement") is not None]
    if len(compared) < 2:
        return None
    best, *others = sorted(compared, key=lambda r: r["held_out"])
    limit = best["held_out"] + SAME_OPTIMUM * n_components
    ties = [r for r in others if r["held_out"] <= limit]
    if not ties:
        return _without_ties(others)
    worst = min(ties, key=lambda r: r["agreement"])
    value = float(worst["agreement"])
    who = f"{_starts(len(ties))} that explain{'s' if len(ties) == 1 else ''} held-out rows as well as the best one"
    numbers = f"correlation with its sources {value:.2f}"
    numbers += " or more" if len(ties) > 1 else ""
    numbers += f", least of one source {min(r['least_agreement'] for r in ties):.2f}"
    if value >= SAME_SOURCES:
        alone = {r.get("origin", i) for i, r in enumerate([best, *ties])}
        verdict = "good" if len(alone) > 1 else "info"
        text = f"{who} found the same sources ({numbers})."
        if len(alone) == 1:
            text += " All were grown from the same first network, so this says little."
    else:
        verdict = "warning" if value >= OTHER_SOURCES else "bad"
        text = (
            f"{who} found {'other' if verdict == 'bad' else 'partly other'} sources ({numbers}). Likelihood does not "
            "choose between them: do not interpret single sources. More rows, more values of u, or a u that changes "
            "the sources more, may decide."
        )
    return _agreement(value, verdict, text[0].upper() + text[1:])


def _without_ties(others: list[dict[str, Any]]) -> Finding:
    """No other start is as good: have worse ones found the same sources at least?"""
    same = [r for r in others if r["agreement"] >= SAME_SOURCES]
    nearest = float(max(r["agreement"] for r in others))
    if same:
        text = (
            f"No other start explains held-out rows as well as the best one, but {len(same)} of {len(others)} found "
            f"the same sources (correlation up to {nearest:.2f})."
        )
        return _agreement(nearest, "info", text)
    text = (
        "No other start explains held-out rows as well as the best one, and none found its sources (correlation up to "
        f"{nearest:.2f}). Nothing confirms them: raise n_restarts."
    )
    return _agreement(nearest, "warning", text)


def _starts(count: int) -> str:
    return "the other start" if count == 1 else f"the {count} other starts"


def _agreement(value: float, verdict: Any, text: str) -> Finding:
    return Finding(
        "agreement of sources",
        value,
        "absolute correlation",
        verdict=verdict,
        text=text,
        reference="mean over sources after the best assignment, on held-out rows, with a discrete u centred out",
    )
