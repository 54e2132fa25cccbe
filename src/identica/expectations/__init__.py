"""Expectations: how an average over q becomes finitely many nodes, and how gradients pass through it."""

from identica.expectations.doubly_reparametrized import DoublyReparametrized
from identica.expectations.gauss_hermite import GaussHermite
from identica.expectations.nodes import LARGEST_NODE_SHARE, PlacedNodes, WeightedNodes, place
from identica.expectations.pathwise import Pathwise
from identica.expectations.quasi_monte_carlo import MonteCarlo, QuasiMonteCarlo
from identica.expectations.sampling import Sampled, sample_with_log_prob
from identica.expectations.score_function import ScoreFunction
from identica.expectations.sticking_the_landing import StickingTheLanding

__all__ = [
    "LARGEST_NODE_SHARE",
    "DoublyReparametrized",
    "GaussHermite",
    "MonteCarlo",
    "Pathwise",
    "PlacedNodes",
    "QuasiMonteCarlo",
    "Sampled",
    "ScoreFunction",
    "StickingTheLanding",
    "WeightedNodes",
    "place",
    "sample_with_log_prob",
]
