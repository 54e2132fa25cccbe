"""Models of how data arise: latent-variable models and flows."""

from identica.models.flow import FlowModel
from identica.models.latent_variable import LatentVariableModel, VariationalModel

__all__ = ["FlowModel", "LatentVariableModel", "VariationalModel"]
