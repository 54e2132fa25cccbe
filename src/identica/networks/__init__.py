"""Networks: multilayer perceptrons, monotone functions and invertible layers."""

from identica.networks.invertible import AffineMap, InvertibleNetwork
from identica.networks.monotone import MonotoneHinges
from identica.networks.multilayer_perceptron import MultilayerPerceptron

__all__ = ["AffineMap", "InvertibleNetwork", "MonotoneHinges", "MultilayerPerceptron"]
