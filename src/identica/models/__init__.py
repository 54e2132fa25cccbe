"""Models of how data arise: latent-variable models and flows."""

from identica.models.contrastive import Quantizer, SegmentClassifier
from identica.models.flow import FlowModel
from identica.models.latent_variable import LatentVariableModel, VariationalModel
from identica.models.priors import MixturePrior, NetworkPrior, SegmentPrior

__all__ = [
    "FlowModel",
    "LatentVariableModel",
    "MixturePrior",
    "NetworkPrior",
    "Quantizer",
    "SegmentClassifier",
    "SegmentPrior",
    "VariationalModel",
]
