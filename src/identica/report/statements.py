"""Findings about a fit, in words for readers who do not know the method.

Nothing here says "identified": data can contradict an assumption, never prove it.
"""

from typing import Any

import numpy as np

from identica.errors import Status
from identica.estimators.variance_profiles import inseparable_pairs
from identica.findings import Finding
from identica.typing import FloatArray, IntArray


def convergence(status: Status, n_iter: int) -> Finding:
    """How the training ended."""
    steps = f", after {n_iter:,} steps" if n_iter > 1 else ""
    return Finding(
        "convergence",
        status.name.lower().replace("_", " "),
        verdict="good" if status is Status.CONVERGED else "info" if status.ok else "warning",
        text=f"Training {status.value}{steps}.",
    )


def held_out(scores: dict[str, Any] | None, name: str) -> list[Finding]:
    """Held-out log-likelihood, and its gain over linear ICA."""
    if scores is None:
        return [
            Finding(
                "held-out log-likelihood",
                None,
                verdict="warning",
                text="No rows were held out, so nothing shows how the model does on rows it has not seen.",
            )
        ]
    model = scores["model"]
    mean, error = model["mean"], model["standard_error"]
    bound = scores.get("kind") == "lower"
    findings = [
        Finding(
            "held-out log-likelihood",
            mean,
            "nats per row",
            (mean - 2 * error, mean + 2 * error),
            "info",
            f"On {scores['n_rows']:,} rows kept out of the fit, {name} scores "
            f"{'at least ' if bound else ''}{mean:.3f} ± {error:.3f} nats per row (mean ± standard error"
            f"{', a lower bound of the log-likelihood' if bound else ''}).",
        )
    ]
    linear, difference = scores["linear"], scores["difference"]
    if linear is not None and "error" in linear:
        findings.append(
            Finding(
                "gain over linear ICA",
                None,
                verdict="warning",
                text=f"Linear ICA could not be fitted for comparison: {linear['error']}",
            )
        )
    if linear is not None and difference is not None:
        findings.append(_gain(linear["name"], difference["mean"], difference["standard_error"], bound))
    return findings


def _gain(linear: str, gain: float, error: float, bound: bool) -> Finding:
    numbers = f"{gain:+.3f} ± {error:.3f} nats per row against {linear} on the same held-out rows"
    if bound and gain < 2 * error:
        numbers += " (the score of the nonlinear model is a lower bound)"
    if gain > 2 * error:
        verdict, text = "good", f"The nonlinear model describes unseen rows better: {numbers}."
    elif gain < -2 * error:
        verdict, text = (
            "bad",
            (
                f"The nonlinear model describes unseen rows worse: {numbers}. Trust linear ICA instead, or "
                "fit with more rows or more restarts."
            ),
        )
    else:
        verdict, text = (
            "warning",
            (
                f"No clear gain, two standard errors or less: {numbers}. These rows do not call for a nonlinear "
                "model; the simpler linear sources describe them as well."
            ),
        )
    return Finding(
        "gain over linear ICA", gain, "nats per row", (gain - 2 * error, gain + 2 * error), verdict, text
    )


def distinct_values(n_segments: int, n_components: int, statistics: int) -> Finding:
    """Enough segments for the theorem?"""
    needed = statistics * n_components + 1
    each = "mean and variance" if statistics == 2 else f"{statistics} statistic(s)"
    if n_segments >= needed:
        verdict = "good" if n_segments >= 4 * statistics * n_components else "info"
        text = (
            f"u has {n_segments} distinct values; {n_components} sources whose {each} change with u need "
            f"at least {needed}. No violation found."
        )
        if verdict == "info":
            text += " That is few: estimates of how sources change with u may be badly conditioned."
    else:
        verdict, text = (
            "warning",
            (
                f"u has {n_segments} distinct values, fewer than the {needed} that the theorem asks for with "
                f"{n_components} sources. It is then silent: some sources may stay mixed."
            ),
        )
    reference = "Khemakhem et al. 2020, Theorem 1 (iv): at least n k + 1 values of u"
    return Finding("distinct values of u", n_segments, verdict=verdict, text=text, reference=reference)


def modulation(sources: FloatArray, codes: IntArray, names: list[str]) -> Finding:
    """How much u tells about the source it acts on least.

    The gain of a Gaussian per segment over one Gaussian, minus its expectation where u does nothing.
    """
    n_segments = int(codes.max()) + 1
    counts = np.bincount(codes, minlength=n_segments)[:, None]
    mean = np.stack([np.bincount(codes, z, n_segments) for z in sources.T], axis=1) / counts
    centred = sources - mean[codes]
    variance = np.stack([np.bincount(codes, z**2, n_segments) for z in centred.T], axis=1) / counts
    share = counts / len(sources)
    log_within = (share * np.log(np.maximum(variance, 1e-300))).sum(axis=0)
    gain = 0.5 * (np.log(sources.var(axis=0)) - log_within) - (n_segments - 1) / len(sources)
    weakest = int(np.argmin(gain))
    value = float(gain[weakest])
    weak = value < 0.01
    text = (
        f"u acts least on {names[weakest]}: knowing u is worth {max(value, 0):.3f} nats per row there. "
        + (
            "That is next to nothing, so this source is hardly told apart by u and may still be a mixture."
            if weak
            else "No violation found."
        )
    )
    return Finding(
        "weakest effect of u",
        value,
        "nats per row",
        verdict="warning" if weak else "good",
        text=text,
        reference="log-likelihood ratio of Gaussians per segment, less its mean under no effect",
    )


def independence(sources: FloatArray, codes: IntArray | None, names: list[str]) -> Finding | None:
    """The largest correlation left between two sources, or between their sizes, within segments."""
    n_rows, n = sources.shape
    if n < 2:
        return None
    z = sources if codes is None else _within(sources, codes)
    size = np.abs(z)
    size = size - size.mean(axis=0) if codes is None else _within(size, codes)
    n_segments = 1 if codes is None else int(codes.max()) + 1
    freedom = max(n_rows - n_segments, 2)
    best = (0.0, 0, 1, "values")
    for kind, values in (("values", z), ("sizes", size)):
        correlation = np.atleast_2d(np.corrcoef(values, rowvar=False))
        np.fill_diagonal(correlation, 0.0)
        i, j = np.unravel_index(np.argmax(np.abs(correlation)), correlation.shape)
        if abs(correlation[i, j]) > abs(best[0]):
            best = (float(correlation[i, j]), int(min(i, j)), int(max(i, j)), kind)
    value, i, j, kind = best
    # Twice n(n-1)/2 comparisons; heavy tails widen the null beyond the normal one, hence the floor.
    limit = max(0.1, float(np.sqrt(2 * np.log(200 * n * (n - 1)) / freedom)))
    where = "" if codes is None else " within segments"
    pair = f"the {kind} of {names[i]} and {names[j]}"
    text = f"The strongest dependence left{where} is between {pair} (r = {value:+.2f}). "
    violated = abs(value) > limit
    text += (
        f"Sources that are independent{'' if codes is None else ' given u'} would show less: "
        "a common cause, noise or a poor fit is likely."
        if violated
        else "No violation of independence found; that does not prove it."
    )
    return Finding(
        "dependence between sources",
        abs(value),
        "absolute correlation",
        verdict="warning" if violated else "good",
        text=text,
        reference="largest absolute correlation of values and of absolute values, after centring by segment",
    )


def _within(values: FloatArray, codes: IntArray) -> FloatArray:
    n_segments = int(codes.max()) + 1
    counts = np.bincount(codes, minlength=n_segments)[:, None]
    mean = np.stack([np.bincount(codes, v, n_segments) for v in values.T], axis=1) / counts
    return values - mean[codes]


def collapse(collapsed: list[str], n_components: int, *, has_u: bool) -> Finding | None:
    """Components of which the posterior ignores the observations."""
    if not collapsed:
        return None
    return Finding(
        "posterior collapse",
        len(collapsed),
        "sources",
        verdict="warning",
        text=f"{'Once u is known, the' if has_u else 'The'} columns say nothing about {', '.join(collapsed)}"
        f"{': what is shown only repeats u' if has_u else ''}. Try fewer than {n_components} sources.",
        reference="the columns explain less than 0.01 of the variance",
    )


def variance_profiles(distances: FloatArray | None, names: list[str]) -> Finding | None:
    """Whether the variances of every two sources change with u in different ways.

    Parameters
    ----------
    distances : (2, n, n) array or None
        ``variance_distances_`` of an estimator.
    names : list of str
        Of the sources.
    """
    if distances is None:
        return None
    distance, noise = distances
    pairs = inseparable_pairs(distance, noise)
    i, j = min(
        ((a, b) for a in range(len(names)) for b in range(a)),
        key=lambda pair: float(distance[pair]),
        default=(0, 0),
    )
    value = float(distance[i, j])
    if pairs:
        shown = ", ".join(f"{names[a]} and {names[b]}" for a, b in pairs)
        text = (
            f"The variances of {shown} keep nearly one ratio whatever u is (log ratios vary by {value:.2f} at the "
            "closest pair). Where u changes means alone, any rotation of such sources explains the rows as well: take "
            "them for a mixture, or try a u that changes how much sources vary."
        )
    else:
        text = (
            f"The variances of every two sources change with u in different ways (log ratios vary by {value:.2f} or "
            "more). No violation found."
        )
    return Finding(
        "variance profiles",
        value,
        "standard deviation of the log ratio",
        verdict="warning" if pairs else "good",
        text=text,
        reference="Khemakhem et al. 2020, Proposition 1; Pham and Cardoso 2001: proportional variances",
    )


def missing_values(unknown: np.ndarray) -> Finding | None:
    """Values that were not observed; ``unknown`` (N, d) says which."""
    share = float(unknown.mean())
    if share == 0:
        return None
    empty = int(unknown.all(axis=1).sum())
    text = (
        f"{share:.1%} of all values are missing. The likelihood runs over those that were observed, which assumes "
        "that whether a value is missing depends on u and the observed values only."
    )
    if empty:
        text += f" {empty} row(s) hold no value at all; their sources are what the prior expects."
    return Finding("missing values", share, "share of values", verdict="info", text=text)


def excluded_rows(n_excluded: int, n_rows: int) -> Finding | None:
    """Gross spikes that were left out of the fit."""
    if n_excluded == 0:
        return None
    return Finding(
        "rows left out",
        n_excluded,
        "rows",
        verdict="info",
        text=f"{n_excluded} of {n_rows:,} rows hold values more than 50 robust standard deviations from the "
        "median of their column. They were left out of the fit; do not interpret their sources.",
        reference="robust standard deviation: 1.4826 × median absolute deviation",
    )
