"""Findings about starts: whether different ones end in the same optimum, and with the same sources."""

from typing import Any

import numpy as np

from identica.estimators.growth_rounds import SAME_OPTIMUM
from identica.findings import Finding

SAME_SOURCES, OTHER_SOURCES = 0.95, 0.8
"""Mean correlation from which two starts have found the same sources, and below which they have found others."""

AS_GOOD, SPREAD = 0.004, 1.0
"""Held-out nats per row and source within which two starts explain rows equally well, as none is trained to the end;
and nats of one row by which different solutions differ, which gives the standard error of a difference."""


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


def sources_of_restarts(records: list[dict[str, Any]], n_components: int, n_rows: int) -> Finding | None:
    """Whether other starts have found the same sources as the best; None where sources were not compared.

    A likelihood cannot tell this: where u is silent, or rows are few beside the noise, endlessly many solutions explain
    the rows equally well.

    Parameters
    ----------
    records : list of dict
        ``restarts_`` of an estimator.
    n_components : int
    n_rows : int
        Rows that ranked the restarts.
    """
    compared = [r for r in records if r.get("agreement") is not None]
    if len(compared) < 2:
        return None
    best, *others = sorted(compared, key=lambda r: r["held_out"])
    same = [r for r in others if r["agreement"] >= SAME_SOURCES]
    rest = [r for r in others if r["agreement"] < SAME_SOURCES]
    as_good = max(AS_GOOD * n_components, SPREAD / np.sqrt(n_rows))
    rivals = [r for r in rest if r["held_out"] - best["held_out"] <= as_good]
    least = min(r["least_agreement"] for r in rivals or same or others)
    if rivals:
        value = float(min(r["agreement"] for r in rivals))
        verdict = "warning" if value >= OTHER_SOURCES else "bad"
        text = (
            f"{_starts(len(rivals), others)} explained held-out rows as well as the best one with "
            f"{'partly other' if verdict == 'warning' else 'other'} sources (correlation {value:.2f}"
            f"{' at worst' if len(rivals) > 1 else ''}, of one source {least:.2f}). Likelihood does not choose between "
            "them: do not interpret single sources. More rows, more values of u, or a u that changes the sources more "
            "may decide."
        )
    elif same:
        value = float(min(r["agreement"] for r in same))
        origins = {r.get("origin", i) for i, r in enumerate([best, *same])}
        verdict = "good" if len(origins) > 1 else "info"
        text = f"{_starts(len(same), others)} found the same sources as the best one (correlation at least "
        # Rounded down: no two fits are alike, and 1.00 would say so.
        text += f"{np.floor(1e3 * value) / 1e3:.3f}, of single sources {np.floor(1e3 * least) / 1e3:.3f})."
        if len(origins) == 1:
            text += " All were grown from the same first network, so this says little."
        if rest:
            gap = min(r["held_out"] for r in rest) - best["held_out"]
            text += (
                f" {_starts(len(rest), others)} found others, which explain held-out rows worse, by {gap:.2f} nats "
                f"per row{' or more' if len(rest) > 1 else ''}."
            )
        text += " Agreement is necessary, not sufficient."
    else:
        value, verdict = float(max(r["agreement"] for r in others)), "warning"
        text = (
            f"No other start found the sources of the best one (correlation {value:.2f} at most, {len(others)} "
            "compared). They explain held-out rows best, but nothing confirms them: raise n_restarts."
        )
    return Finding(
        "agreement of sources",
        value,
        "absolute correlation",
        verdict=verdict,
        text=text,
        reference="mean over sources after the best assignment, on held-out rows, with a discrete u centred out",
    )


def _starts(count: int, others: list[dict[str, Any]]) -> str:
    if count == len(others):
        return "The other start" if count == 1 else f"All {count} other starts"
    return f"{count} of {len(others)} other starts"
