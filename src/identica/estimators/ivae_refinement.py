"""Last part of the recipe of `IVAE` under Gaussian noise: posteriors by Gauss-Newton steps instead of an encoder's."""

import equinox as eqx
import jax
import jax.numpy as jnp

from identica.conditionals import Decoder, GaussNewtonPosterior, ProductOfExperts
from identica.data import Dataset
from identica.models import LatentVariableModel, VariationalModel
from identica.objectives.bound import HeldOutBound, WeightedSum
from identica.objectives.contrastive import PosteriorCrossEntropy
from identica.objectives.refined_bound import RefinedBound
from identica.typing import Array, FloatArray, Key

_SAMPLES = 3
"""Of each row: where posteriors are precise few are enough."""

TRAINING = WeightedSum(((1.0, RefinedBound(_SAMPLES)), (1.0, PosteriorCrossEntropy())))
HELD_OUT = HeldOutBound(RefinedBound(16, steps=8, following=0.0))


def with_local_posterior(system: VariationalModel | None, data: Dataset, key: Key) -> VariationalModel:
    """The same model, its encoder now only where the search for the posterior begins."""
    if system is None:
        raise ValueError("an encoder is trained first")
    decoder, encoder = system.model.likelihood, system.encoder
    if not (isinstance(decoder, Decoder) and isinstance(encoder, ProductOfExperts)):
        raise TypeError("only a product of experts and a decoder make a local posterior")
    return VariationalModel(
        system.model, GaussNewtonPosterior(encoder, decoder, _overall(system.model, data))
    )


def in_turned_latents(
    system: VariationalModel, turn: FloatArray, model: LatentVariableModel, data: Dataset
) -> VariationalModel:
    """The system with latents turn · z, for which `model` is already made."""
    encoder = system.encoder
    if isinstance(encoder, GaussNewtonPosterior):
        turned = VariationalModel(model, encoder.encoder.changed_basis(turn))
        return with_local_posterior(turned, data, jax.random.key(0))
    return VariationalModel(model, encoder.changed_basis(turn))  # type: ignore[attr-defined]


@eqx.filter_jit
def _overall(model: LatentVariableModel, data: Dataset) -> Array:
    """Mean and variance of the sources over all rows, from their priors (2, n)."""
    prior = model.prior(data.u)
    weight = jnp.ones(len(data.x), data.x.dtype) if data.weight is None else data.weight
    share = (weight / weight.sum())[:, None]
    mean = (share * prior.mean).sum(0)  # type: ignore[operator]
    return jnp.stack([mean, (share * (prior.variance + (prior.mean - mean) ** 2)).sum(0)])  # type: ignore[operator]
