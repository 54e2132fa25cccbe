"""Findings about what a flow has learned of its sources: the effect of u, and the shape of their densities."""

from typing import Any

import numpy as np

from identica.estimators.exact import CLEAR_EFFECT, clear_effects
from identica.estimators.noise_check import NoiseGain
from identica.estimators.noise_directions import SMALLEST_GAIN, SMALLEST_SHARE
from identica.families import PowerLocationScale, ShapedLocationScale
from identica.findings import Finding
from identica.networks.coupling import RefinedNetwork
from identica.typing import FloatArray

_SHAPES = (
    (0.8, "heavier tails than Laplace"),
    (1.25, "heavy tails, near Laplace"),
    (1.7, "between Laplace and Gaussian"),
    (2.4, "near Gaussian"),
    (4.0, "light tails"),
    (np.inf, "light tails, near uniform"),
)
"""Words for powers up to each bound."""


def effect_of_u(effect: FloatArray | None, names: list[str]) -> Finding | None:
    """Whether values of u differ in the distribution of each source, on held-out rows.

    Parameters
    ----------
    effect : (2, n) array or None
        ``effect_of_u_`` of an estimator: distance between distributions, and its deviation by chance.
    names : list of str
        Of the sources.
    """
    if effect is None:
        return None
    distance, noise = effect
    clear = clear_effects(distance, noise)
    numbers = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, distance, strict=True))
    weak = [name for name, seen in zip(names, clear, strict=True) if not seen]
    if not clear.any():
        verdict = "bad"
        text = (
            "u tells nothing about the sources of held-out rows: their distributions differ between values of "
            f"u no more than by chance (distances {numbers}). Then nothing nonlinear can be recovered, and "
            "these sources are one of endlessly many solutions that explain the rows equally. Try another u, "
            "such as conditions, recordings or shorter stretches of time."
        )
    elif weak:
        verdict = "warning"
        text = (
            f"On held-out rows u does not clearly change {', '.join(weak)}, which may still be "
            f"{'a mixture' if len(weak) == 1 else 'mixtures'} (distances between values of u: {numbers})."
        )
    else:
        verdict = "good"
        text = (
            "On held-out rows the distributions of the sources differ between values of u by more than chance "
            f"(distances between values of u: {numbers}). No violation found."
        )
    return Finding(
        "effect of u",
        float(distance.min()),
        "total variation distance",
        verdict=verdict,
        text=text,
        reference="mean distance between p(z|u) of two rows, 0 to 1, from ranks of own among permuted u; clear "
        f"beyond {CLEAR_EFFECT:g} standard deviations over permutations",
    )


def noise(gain: FloatArray | None, n_components: int) -> Finding | None:
    """Whether held-out rows speak for noise, which a flow has none of.

    Parameters
    ----------
    gain : (3,) array or None
        ``noise_gain_`` of a `FlowICA`: level, gain in nats per row, and its standard error.
    n_components : int
    """
    if gain is None:
        return None
    found = NoiseGain(*(float(v) for v in gain))
    share = f"{100 * found.level:.0f} % of each column's standard deviation"
    if found.is_clear(n_components):
        verdict = "warning"
        text = (
            f"Held-out rows are more probable if their columns carry noise, about {share}. This model has none and is "
            "bent by it: fit IVAE, which has, or NonlinearICA, which compares both."
        )
    else:
        verdict = "good"
        text = f"Allowing for noise ({share}) does not make held-out rows clearly more probable."
    return Finding(
        "noise",
        found.gain,
        "nats per row",
        (found.gain - 2 * found.error, found.gain + 2 * found.error),
        verdict=verdict,
        text=text,
        reference="importance samples of the clean observation, the flow left as it is",
    )


def latents_without_u(estimator: Any) -> Finding | None:
    """What theory says about the latents of a `VAE`, by its prior and its activation; None for other models.

    Parameters
    ----------
    estimator : SourceEstimator
    """
    from identica import VAE

    if not isinstance(estimator, VAE):
        return None
    network = estimator.model_.model.likelihood.network  # type: ignore[attr-defined]
    affine = len(network.weights) == 1 or network.activation in ("leaky_relu", "relu")
    if estimator.prior == "normal":
        value, verdict = "not determined", "warning"
        text = (
            "Without u and with a standard normal prior, any rotation of these latents explains the rows as well: "
            "judge the model by its likelihood, never by single latents."
        )
    elif affine:
        value, verdict = "up to an affine map", "info"
        text = (
            "With a Gaussian mixture as prior and a piecewise affine decoder, theory determines the latents up to an "
            "affine map, if the model is right and the decoder injective: clusters and their geometry mean something, "
            "single axes do not."
        )
    else:
        value, verdict = "not determined", "warning"
        text = (
            f"The decoder is smooth ({network.activation}), and theory determines latents under a mixture prior for "
            "piecewise affine decoders only; activation='leaky_relu' gives one."
        )
    reference = "Kivva, Rajendran, Ravikumar, Aragam (2022), theorems on Gaussian mixture priors"
    return Finding("meaning of the latents", value, verdict=verdict, text=text, reference=reference)


def shape(model: Any, names: list[str]) -> Finding | None:
    """The power of each source's density, and whether couplings were kept; None if no shape was learned."""
    family = getattr(getattr(model, "prior", None), "family", None)
    shaped = family if isinstance(family, ShapedLocationScale) else None
    family = family if shaped is None else shaped.power
    if not isinstance(family, PowerLocationScale):
        return None
    powers = np.asarray(family.power)
    skewness = np.zeros_like(powers) if shaped is None else np.asarray(shaped.skewness(powers.dtype))
    if model.orientation is not None:  # from the order, and the sign, of latents to that of sources
        weight = np.asarray(model.orientation.weight)
        order = np.abs(weight).argmax(axis=1)
        powers, skewness = powers[order], skewness[order] * np.sign(weight[np.arange(len(order)), order])
    powers = powers[: len(names)]  # noise directions, if there are any, come after the sources
    said = ", ".join(
        f"{name} {power:.1f} ({next(words for bound, words in _SHAPES if power <= bound)})"
        for name, power in zip(names, powers, strict=True)
    )
    text = f"Learned shape of each source given u, as the power of its density: {said}."
    if shaped is not None:
        listed = ", ".join(f"{name} {value:+.1f}" for name, value in zip(names, skewness, strict=False))
        text += (
            " Held-out rows clearly gained from a density that is free beside the power, lopsided or of several modes. "
            f"Its skewness: {listed}."
        )
    if isinstance(model.demixer, RefinedNetwork):
        kept = float(model.demixer.couplings.in_use) > 0.5
        text += (
            " Couplings after the grown network were kept, as held-out rows gained from them."
            if kept
            else " Couplings after the grown network were tried and dropped: held-out rows did not gain."
        )
    value = f"{min(powers):.1f} to {max(powers):.1f}"
    reference = (
        "density ∝ exp(−|z − m|^p / α^p): p = 1 Laplace, 2 Gaussian, larger: lighter tails (Subbotin, 1923)"
    )
    return Finding("shape of the sources", value, verdict="info", text=text, reference=reference)


def noise_directions(gains: FloatArray | None, n_components: int, found: bool) -> Finding | None:
    """Which latents of a volume-preserving flow are noise; None for other models.

    Parameters
    ----------
    gains : (2, d) array or None
        ``modulation_gains_`` of an estimator: gain of each latent, sources first, and its standard error.
    n_components : int
        How many of them are sources.
    found : bool
        Whether that number comes from the data.
    """
    if gains is None:
        return None
    said = [f"{gain:.3f} ± {error:.3f}" for gain, error in gains.T]
    kept, noise = ", ".join(said[:n_components]), ", ".join(said[n_components:])
    text = (
        f"Of {len(said)} directions, {n_components} "
        f"{'are' if n_components > 1 else 'is'} modulated by u "
        f"{'beyond doubt' if found else '(the number was given)'}: knowing u is worth {kept} nats per row there. "
    )
    text += f"The others are modelled as noise: {noise}." if noise else "None is noise."
    close = len(said) > n_components and gains[0, n_components:].max() > 0.5 * gains[0, :n_components].min()
    if close:
        text += " The line between them is thin; fit with n_components one more and one less to compare."
    reference = (
        "mean of log p(z|u) − log p(z) on held-out rows; a source is clear by permutations of u, and gains at "
        f"least {SMALLEST_GAIN:g} nats and {SMALLEST_SHARE:g} of the largest gain (after Sorrenson et al., 2020)"
    )
    return Finding(
        "directions of noise",
        len(said) - n_components,
        verdict="warning" if close else "info",
        text=text,
        reference=reference,
    )


def choice(candidates: list[dict[str, Any]] | None) -> Finding | None:
    """Which of several methods was kept, and what that says about noise; None for one method alone.

    Parameters
    ----------
    candidates : list of dict or None
        ``candidates_`` of `NonlinearICA`, best first.
    """
    if candidates is None:
        return None
    best, *others = [c for c in candidates if c["error"] is None]
    said = ", ".join(
        f"{c['name']} {c['difference']:+.3f} ± {c['difference_error']:.3f}"
        f"{' (a lower bound)' if c['kind'] == 'lower' else ''}"
        for c in others
    )
    text = f"Kept {best['name']}, by the log-likelihood of held-out rows ({best['held_out']:.3f} nats per row"
    text += f"; against it: {said})." if said else ", the only candidate)."
    close = [c["name"] for c in others if -c["difference"] <= 2 * c["difference_error"]]
    if close:
        text += f" It is not clearly better than {', '.join(close)}: two standard errors or less."
    flow = next((c for c in others if c["name"] == "flow"), None)
    if best["name"] == "ivae" and flow is not None and flow["name"] not in close:
        text += (
            " Noise: even a lower bound of the noisy model exceeds the exact likelihood of the noiseless one, so "
            "these rows hold noise that a noiseless model has to explain as sources."
        )
    if best["name"] == "flow" and any(c["kind"] == "lower" for c in others):
        text += (
            " The noiseless model describes these rows best of those tried. That does not rule out noise: under "
            "weak noise it may score best and still mix a share of noise into its sources."
        )
    failed = [c for c in candidates if c["error"] is not None]
    text += "".join(f" {c['name']} could not be fitted: {c['error']}." for c in failed)
    return Finding(
        "choice of method",
        best["name"],
        verdict="info" if close or failed else "good",
        text=text,
        reference="paired differences on the same held-out rows, mean ± standard error, nats per row",
    )
