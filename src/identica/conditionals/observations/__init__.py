"""Observation models: what a decoder's output says about the distribution of x."""

from identica.conditionals.observations.base import Observation
from identica.conditionals.observations.counts import NegativeBinomialObservation, PoissonObservation
from identica.conditionals.observations.discrete import BernoulliObservation, CategoricalObservation
from identica.conditionals.observations.masked import MaskedObservation
from identica.conditionals.observations.real import NOISE_FLOOR, GaussianObservation, StudentTObservation

__all__ = [
    "NOISE_FLOOR",
    "BernoulliObservation",
    "CategoricalObservation",
    "GaussianObservation",
    "MaskedObservation",
    "NegativeBinomialObservation",
    "Observation",
    "PoissonObservation",
    "StudentTObservation",
]
