"""Findings about contrastive fits: how well contexts are told apart, and what that asks of the rows."""

from typing import Any

import numpy as np

from identica.estimators.contrast_checks import CLEAR, is_clear
from identica.findings import Finding

_CONTEXTS = {"TCL": "segment", "PCL": "row before", "GCL": "u"}
_EMPTY = {
    "TCL": "the sources seem stationary, and time-contrastive learning rests on differences between segments alone",
    "PCL": "the series seem to have no memory, on which alone permutation-contrastive learning rests",
    "GCL": "u seems to say nothing about the rows, on which alone generalised contrastive learning rests",
}


def contrast(estimator: Any, names: list[str]) -> list[Finding]:
    """What a contrastive estimator learned to tell apart; nothing for other estimators."""
    kind = type(estimator).__name__
    if kind not in _CONTEXTS:
        return []
    findings = [_cross_entropy(estimator, kind)]
    effect = estimator.context_effect_
    if effect is not None:
        findings.append(_effect(effect, kind))
    departure = getattr(estimator, "departure_from_gaussian_", None)
    if departure is not None and (effect is None or is_clear(*effect)):
        findings.append(_departure(departure, names))
    return findings


def _cross_entropy(estimator: Any, kind: str) -> Finding:
    if len(estimator.held_out_rows_) == 0:
        return Finding(
            "held-out contrast",
            None,
            verdict="warning",
            text="No rows were held out, so nothing shows how well contexts of unseen rows are told apart.",
        )
    value = min(float(record["held_out"]) for record in estimator.restarts_)
    return Finding(
        "held-out contrast",
        value,
        "nats per row",
        text=f"On rows kept out of the fit, {kind} tells each row's own {_CONTEXTS[kind]} from others with a "
        f"cross-entropy of {value:.3f} nats per row (lower is better). It compares fits of {kind} on the same rows; "
        "it is no likelihood, and cannot be compared with that of FlowICA, IVAE or linear ICA.",
        reference="cross-entropy of the own context among those compared",
    )


def _effect(effect: tuple[float, float], kind: str) -> Finding:
    value, noise = effect
    clear = is_clear(value, noise)
    numbers = f"{value:+.3f} ± {noise:.3f}, where 0 is chance and 1 is certainty"
    return Finding(
        "effect of contexts",
        value,
        "advantage of the own context",
        (value - 2 * noise, value + 2 * noise),
        "good" if clear else "bad",
        f"Held-out rows go better with their own {_CONTEXTS[kind]} than with that of another row ({numbers}). "
        "No violation found."
        if clear
        else f"Held-out rows go no better with their own {_CONTEXTS[kind]} than with that of another row ({numbers}): "
        f"{_EMPTY[kind]}. These sources mean nothing.",
        f"permuted contexts; clear beyond {CLEAR:g} standard deviations over permutations",
    )


def _departure(departure: np.ndarray, names: list[str]) -> Finding:
    close = [name for name, value in zip(names, departure, strict=True) if value < CLEAR]
    said = ", ".join(f"{name} {value:.1f}" for name, value in zip(names, departure, strict=True))
    return Finding(
        "Gaussian memory",
        float(departure.min()),
        "standard deviations by chance",
        verdict="warning" if close else "good",
        text=f"{', '.join(close)} depend{'s' if len(close) == 1 else ''} on the past as Gaussian series do "
        f"(departures: {said}). More than one such source may stay mixed, as a rotation of them has the same law."
        if close
        else f"No source depends on its past as a Gaussian series does (departures: {said}). No violation found.",
        reference="kurtosis of the residual of normal scores given the past, and the dependence of its square on the "
        "past; Hyvärinen and Morioka (2017), Definition 2",
    )
