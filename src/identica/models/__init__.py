"""Models of how data arise: latent-variable models and flows."""

from identica.models.flow import FlowModel
from identica.models.priors import MixturePrior, NetworkPrior, SegmentPrior

__all__ = ["FlowModel", "MixturePrior", "NetworkPrior", "SegmentPrior"]
