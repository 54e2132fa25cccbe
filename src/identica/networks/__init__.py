"""Networks: multilayer perceptrons, monotone functions and invertible layers."""

from identica.networks.componentwise import ComponentwiseNetwork
from identica.networks.coupling import CouplingStack, RefinedNetwork
from identica.networks.flow_mixing import FlowMixing
from identica.networks.invertible import AffineMap, InvertibleNetwork
from identica.networks.monotone import MonotoneHinges
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.networks.spline_flow import SplineFlow
from identica.networks.volume_preserving import VolumePreservingNetwork

__all__ = [
    "AffineMap",
    "ComponentwiseNetwork",
    "CouplingStack",
    "FlowMixing",
    "InvertibleNetwork",
    "MonotoneHinges",
    "MultilayerPerceptron",
    "RefinedNetwork",
    "SplineFlow",
    "VolumePreservingNetwork",
]
