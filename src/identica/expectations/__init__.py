"""Expectations: how an average over q becomes finitely many nodes, and how gradients pass through it."""

from identica.expectations.gauss_hermite import GaussHermite
from identica.expectations.nodes import LARGEST_NODE_SHARE, PlacedNodes, WeightedNodes, place
from identica.expectations.pathwise import Pathwise, sample_with_log_prob
from identica.expectations.quasi_monte_carlo import MonteCarlo, QuasiMonteCarlo

__all__ = [
    "LARGEST_NODE_SHARE",
    "GaussHermite",
    "MonteCarlo",
    "Pathwise",
    "PlacedNodes",
    "QuasiMonteCarlo",
    "WeightedNodes",
    "place",
    "sample_with_log_prob",
]
