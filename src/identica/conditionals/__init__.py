"""Conditionals: context → distribution. Priors, likelihoods and posteriors are all of this kind."""

from identica.conditionals.base import Conditional, Evidence
from identica.conditionals.decoder import Decoder
from identica.conditionals.encoders import (
    DiagonalEncoder,
    Factor,
    Features,
    ProductOfExperts,
    log_evidence,
    posterior_of,
)
from identica.conditionals.mixture import MixturePrior
from identica.conditionals.observations import (
    BernoulliObservation,
    GaussianObservation,
    Observation,
    PoissonObservation,
)
from identica.conditionals.precision_gaussian import PrecisionGaussian
from identica.conditionals.priors import (
    ConstantPrior,
    ModulatedPrior,
    NetworkMap,
    Table,
    averaged_statistics,
)

__all__ = [
    "BernoulliObservation",
    "Conditional",
    "ConstantPrior",
    "Decoder",
    "DiagonalEncoder",
    "Evidence",
    "Factor",
    "Features",
    "GaussianObservation",
    "MixturePrior",
    "ModulatedPrior",
    "NetworkMap",
    "Observation",
    "PoissonObservation",
    "PrecisionGaussian",
    "ProductOfExperts",
    "Table",
    "averaged_statistics",
    "log_evidence",
    "posterior_of",
]
