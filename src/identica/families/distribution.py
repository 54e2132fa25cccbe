"""A family with its parameters as a distribution of the numpyro library."""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from identica.families.base import ExponentialFamily, Family
from identica.families.gaussian_location_scale import GaussianLocationScale
from identica.families.gaussian_scale import GaussianScale
from identica.families.laplace_scale import LaplaceScale
from identica.typing import Array, Key


class FamilyDistribution(dist.Distribution):
    """One-dimensional numpyro distribution of a `Family`, batched over natural parameters.

    Parameters
    ----------
    family : Family
    natural : (..., k)
        Natural parameters; the leading axes are the batch shape.
    """

    support = constraints.real  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("family", "natural")

    def __init__(self, family: Family, natural: Array, *, validate_args: bool | None = None):
        self.family, self.natural = family, natural
        super().__init__(batch_shape=natural.shape[:-1], event_shape=(), validate_args=validate_args)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        natural = jnp.broadcast_to(self.natural, (*sample_shape, *self.natural.shape))
        return self.family.sample(natural, key=key)

    def log_prob(self, value: Array) -> Array:
        return self.family.log_prob(value, self.natural)

    @property
    def mean(self) -> Array:
        return self.family.mean_and_variance(self.natural)[0]

    @property
    def variance(self) -> Array:
        return self.family.mean_and_variance(self.natural)[1]

    def entropy(self) -> Array:
        if not isinstance(self.family, ExponentialFamily):
            raise NotImplementedError(f"{type(self.family).__name__} has no entropy in closed form")
        return self.family.entropy(self.natural)


def as_distribution(family: Family, natural: Array) -> dist.Distribution:
    """The numpyro distribution of `family` at `natural` (..., k), with batch shape (...,).

    Families that numpyro knows become its own classes, whose samplers are reparametrised and whose
    closed-form divergences are registered; all others become a `FamilyDistribution`.
    """
    if isinstance(family, GaussianLocationScale | GaussianScale):
        mean, variance = family.mean_and_variance(natural)
        return dist.Normal(mean, jnp.sqrt(variance))
    if isinstance(family, LaplaceScale):
        return dist.Laplace(jax.lax.full_like(natural[..., 0], family.location), family.scale(natural))
    return FamilyDistribution(family, natural)
