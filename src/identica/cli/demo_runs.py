"""The two fits of the demonstration and their baselines."""

from typing import Any

import numpy as np

from identica.cli.output import say
from identica.cli.progress import ProgressDisplay
from identica.report.demo import Attempt, Figure1Demo, PhotographDemo, match_scale


def run_figure1(*, quick: bool, seed: int) -> Figure1Demo:
    """Figure 1 of Khemakhem et al. (2020): the same data, with and without u."""
    import identica

    say("Figure 1: two sources, five segments, a nonlinear mixture; with u (iVAE) and without (VAE)")
    sizes = {"n_per_segment": 500} if quick else {}
    simulation = identica.simulate("figure1", seed=seed, **sizes)
    segments = np.asarray(simulation.u)
    budget: dict[str, Any] = {"max_iter": 1500, "n_restarts": 4} if quick else {}
    attempts = []
    for name, estimator_class in (("iVAE", identica.IVAE), ("VAE", identica.VAE)):
        with ProgressDisplay(f"  {name}", every=0.25) as display:
            estimator = estimator_class(2, random_state=seed, callbacks=[display], **budget)
            estimator.fit(simulation.X, u=simulation.u)
        attempts.append(
            attempt(name, simulation.S, estimator.transform(simulation.X, u=simulation.u), segments=segments)
        )
    return Figure1Demo(simulation.S, simulation.X, segments, attempts)


def run_photographs(*, quick: bool, seed: int) -> PhotographDemo:
    """Two photographs behind a nonlinear mixture, by linear ICA and by the flow."""
    import identica
    from identica.simulation.photographs import photographs

    pictures = photographs(seed=seed)
    say(f"photographs: {len(pictures.X):,} pixels, u = block of 30 × 30 pixels; FastICA, then FlowICA")
    rng = np.random.default_rng(seed)
    # A fifth of the pixels or more is never seen by a fit and makes the scores.
    shuffled = rng.permutation(len(pictures.X))
    rows = shuffled[: 20_000 if quick else len(shuffled) * 4 // 5]
    held_out = np.setdiff1d(shuffled, rows)
    x, u = pictures.X[rows], pictures.u[rows]
    attempts = []
    for name, method in (("FastICA", "fastica"), ("joint diagonalisation", "joint-diagonalization")):
        linear = identica.LinearICA(2, method=method, random_state=seed).fit(x, u=u)
        attempts.append(attempt(name, pictures.S, linear.transform(pictures.X), rows=held_out))
    # Two sources need fewer steps than the default, which keeps the demonstration within three minutes.
    budget: dict[str, Any] = {"max_iter": 600, "n_restarts": 2} if quick else {"max_iter": 1000}
    with ProgressDisplay("  FlowICA", every=0.1) as display:
        flow = identica.FlowICA(2, random_state=seed, callbacks=[display], **budget).fit(x, u=u)
    attempts.append(attempt("identica (FlowICA)", pictures.S, flow.transform(pictures.X), rows=held_out))
    return PhotographDemo(pictures, attempts, len(rows), len(held_out))


def attempt(
    name: str,
    truth: np.ndarray,
    estimate: Any,
    *,
    rows: np.ndarray | None = None,
    segments: np.ndarray | None = None,
) -> Attempt:
    """An estimate in the order and with the signs of the truth, and its scores on ``rows``."""
    from identica.metrics import match_components, mcc

    estimate = np.asarray(estimate, dtype=np.float64)
    rows = np.arange(len(truth)) if rows is None else rows
    matching = match_components(truth[rows], estimate[rows], method="spearman")
    matched = matching.apply(estimate)
    scores = {"pearson": mcc(truth[rows], estimate[rows]), "spearman": matching.mean}
    if segments is not None:
        scores["within_segments"] = mcc(truth[rows], estimate[rows], within=segments[rows])
    else:
        scores["rescaled"] = mcc(truth[rows], match_scale(truth[rows], matched[rows]))
    return Attempt(name, matched, {key: float(value) for key, value in scores.items()})
