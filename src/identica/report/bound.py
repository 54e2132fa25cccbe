"""Findings about the evidence lower bound: what it is made of, and what keeps it below the likelihood."""

from typing import Any

import numpy as np
import pandas as pd

from identica.estimators.results import UNRELIABLE_K, BoundDecomposition, BoundGap, Measured
from identica.findings import Finding
from identica.report.baseline import rows_of

_ROWS = 256
"""Most held-out rows on which the bound is taken apart."""

_DEVIATIONS = 4.0
"""Standard errors within which three forms of one number have to agree."""

_MANY_UNRELIABLE = 0.05


def bound(estimator: Any, x: pd.DataFrame, u: Any) -> list[Finding]:
    """The bound of held-out rows in its three forms, and its gap; nothing for models without a bound.

    Parameters
    ----------
    estimator : fitted estimator
    x : pandas.DataFrame of shape (N, d)
        The rows it was fitted on, held-out rows included.
    u : Series, data frame or None
    """
    rows = np.sort(np.asarray(estimator.held_out_rows_))[:_ROWS]
    if not hasattr(estimator, "bound_decomposition") or len(rows) == 0:
        return []
    x_held, u_held = x.iloc[rows], rows_of(u, rows)
    findings = [_forms(estimator.bound_decomposition(x_held, u=u_held, method="auto"), len(rows))]
    # Without u, where the prior needs one, q is a mixture, which has no best one of its family.
    if u is not None or not estimator._requires_u:
        findings.append(_gap(estimator.bound_gap(x_held, u=u_held, method="auto")))
    return findings


def _forms(parts: BoundDecomposition, n_rows: int) -> Finding:
    difference, error = parts.largest_difference
    agree = difference <= _DEVIATIONS * error + 1e-3
    best = min(
        (parts.from_posterior, parts.from_prior, parts.from_entropy), key=lambda m: m.integration_error
    )
    text = (
        f"The evidence lower bound of {n_rows:,} held-out rows in three forms, nats per row: log p − KL(q‖posterior) "
        f"= {_number(parts.log_likelihood.value)} − {_number(parts.posterior_divergence.value)} = "
        f"{_with_error(parts.from_posterior)}; reconstruction − KL(q‖prior) = {_number(parts.reconstruction.value)} − "
        f"{_number(parts.prior_divergence.value)} = {_with_error(parts.from_prior)}; E log p(x, z) + entropy = "
        f"{_number(parts.energy.value)} + {_number(parts.entropy.value)} = {_with_error(parts.from_entropy)}. "
    )
    text += (
        "They agree within their errors."
        if agree
        else f"They differ by {difference:.3f}, more than their errors allow: numbers overflow, or samples miss "
        "where the weight is. Do not rely on this likelihood."
    )
    unreliable = parts.log_likelihood.unreliable_share
    many = unreliable is not None and unreliable > _MANY_UNRELIABLE
    if many:
        text += (
            f" The model's own posterior misses much of the true one in {unreliable:.0%} of these rows (Pareto shape "
            f"above {UNRELIABLE_K:g}), whose likelihood is underestimated; method='qmc' or 'ais' does better."
        )
    return Finding(
        "forms of the bound",
        best.value,
        "nats per row",
        (best.value - 2 * best.standard_error, best.value + 2 * best.standard_error),
        "info" if agree and not many else "warning",
        text,
        "each mean has samples of its own; ± is the error of integration; Pareto shape of Vehtari et al. (2024)",
    )


def _gap(gap: BoundGap) -> Finding:
    lower = gap.log_likelihood.kind == "lower"
    text = (
        f"log p exceeds the bound by {'at least ' if lower else ''}{_with_error(gap.total)} nats per row: "
        f"{_with_error(gap.approximation)} because no {_FAMILIES[gap.family]} follows the posterior, and "
        f"{_with_error(gap.amortisation)} because the model's own is not the best one of each row."
    )
    return Finding(
        "gap of the bound",
        gap.total.value,
        "nats per row",
        verdict="info",
        text=text,
        reference="approximation and amortisation gap, Cremer, Li, Duvenaud (2018), equation 6",
    )


_FAMILIES = {
    "diagonal": "Gaussian with independent components",
    "full": "Gaussian",
}


def _number(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _with_error(measured: Measured) -> str:
    return f"{_number(measured.value)} ± {measured.integration_error:.3f}"
