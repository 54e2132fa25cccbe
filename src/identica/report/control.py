"""Findings about controls, whose sources are not identifiable: the report says so before anything else."""

from typing import Any

from identica.findings import Finding

UNIT = "mean squared error per standardised column"

_WHY = {
    "Autoencoder": "Any invertible map after its encoder, undone before its decoder, leaves every reconstruction as "
    "it is.",
    "AdversarialICA": "Independence alone does not determine nonlinear sources: any rows can be mapped to independent "
    "ones in endlessly many ways.",
}


def control(estimator: Any) -> list[Finding]:
    """That sources mean nothing, and what the fit did achieve; nothing for other estimators."""
    kind = type(estimator).__name__
    if kind not in _WHY:
        return []
    findings = [_meaning(kind), _error(estimator)]
    if kind == "AdversarialICA":
        findings.append(_game(estimator))
    return findings


def _meaning(kind: str) -> Finding:
    return Finding(
        "meaning of the latents",
        "not determined",
        verdict="warning",
        text=f"{kind} is not identifiable: these sources are one of endlessly many solutions that explain the rows "
        f"equally. {_WHY[kind]} It is a control for methods that use u; do not interpret single sources.",
        reference="Hyvärinen and Pajunen (1999); Khemakhem et al. (2020), section 2",
    )


def _error(estimator: Any) -> Finding:
    value, held_out = estimator.reconstruction_error_, len(estimator.held_out_rows_) > 0
    where = "rows kept out of the fit" if held_out else "the fitted rows (none were held out)"
    text = (
        f"On {where} {estimator.n_components_} numbers per row leave a share of {value:.4f} of the columns' variance "
        "unexplained. This is no likelihood, and says nothing about the sources."
    )
    if estimator.n_components_ == estimator.n_features_in_:
        text += " With as many sources as columns any invertible map explains everything."
    return Finding(
        "held-out reconstruction" if held_out else "reconstruction",
        value,
        UNIT,
        verdict="info" if held_out else "warning",
        text=text,
        reference="0 is perfect, 1 is a constant",
    )


def _game(estimator: Any) -> Finding:
    accuracy, dependence = estimator.discriminator_accuracy_, estimator.dependence_
    return Finding(
        "game of the discriminator",
        accuracy,
        "share of rows recognised",
        text=f"The discriminator tells rows of sources from shuffled ones with an accuracy of {accuracy:.3f}, where "
        f".5 is chance; the squared distance correlation between sources is {dependence:.4f} on average, 0 "
        "being independence. Independent or not, they need not be the sources behind the rows.",
        reference="Brakel and Bengio (2017); Székely, Rizzo and Bakirov (2007); restarts were ranked by the error "
        "plus the weighted distance correlation of held-out rows",
    )
