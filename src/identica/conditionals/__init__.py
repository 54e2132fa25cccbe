"""Conditionals: context → distribution. Priors, likelihoods and posteriors are all of this kind."""

from identica.conditionals.base import Conditional, Evidence
from identica.conditionals.carried_gaussian import CarriedGaussian
from identica.conditionals.decoder import Decoder
from identica.conditionals.encoders import (
    DiagonalEncoder,
    Factor,
    Features,
    ProductOfExperts,
    log_evidence,
    posterior_of,
)
from identica.conditionals.flow_posterior import FlowPosterior
from identica.conditionals.gauss_newton import GaussNewtonPosterior
from identica.conditionals.hidden_markov import HiddenMarkovPrior
from identica.conditionals.laplace import LaplaceEncoder
from identica.conditionals.mixture import GaussianMixturePrior, MixturePrior
from identica.conditionals.observations import (
    BernoulliObservation,
    CategoricalObservation,
    GaussianObservation,
    MaskedObservation,
    NegativeBinomialObservation,
    Observation,
    PoissonObservation,
    StudentTObservation,
)
from identica.conditionals.per_row import Nodes, PerRow, PerRowEncoder
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
    "CarriedGaussian",
    "CategoricalObservation",
    "Conditional",
    "ConstantPrior",
    "Decoder",
    "DiagonalEncoder",
    "Evidence",
    "Factor",
    "Features",
    "FlowPosterior",
    "GaussNewtonPosterior",
    "GaussianMixturePrior",
    "GaussianObservation",
    "HiddenMarkovPrior",
    "LaplaceEncoder",
    "MaskedObservation",
    "MixturePrior",
    "ModulatedPrior",
    "NegativeBinomialObservation",
    "NetworkMap",
    "Nodes",
    "Observation",
    "PerRow",
    "PerRowEncoder",
    "PoissonObservation",
    "PrecisionGaussian",
    "ProductOfExperts",
    "StudentTObservation",
    "Table",
    "averaged_statistics",
    "log_evidence",
    "posterior_of",
]
