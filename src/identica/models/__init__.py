"""Models of how data arise: latent-variable models and flows."""

from identica.models.autoencoder import AutoencoderModel
from identica.models.contrastive import ContrastiveModel, Critic, FeatureNetwork, Quantizer
from identica.models.flow import FlowModel
from identica.models.gaussian_mixture import GaussianMixtureModel
from identica.models.latent_variable import LatentVariableModel, VariationalModel

__all__ = [
    "AutoencoderModel",
    "ContrastiveModel",
    "Critic",
    "FeatureNetwork",
    "FlowModel",
    "GaussianMixtureModel",
    "LatentVariableModel",
    "Quantizer",
    "VariationalModel",
]
