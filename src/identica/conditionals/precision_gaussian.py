"""A Gaussian with full covariance, given by the Cholesky factor of its precision."""

import math

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import constraints

from identica.typing import Array, Key


class PrecisionGaussian(dist.Distribution):
    """N(mean, P⁻¹) with P = C Cᵀ, C lower triangular.

    Samples are mean + C⁻ᵀ ε, so they are differentiable, and their log-density costs nothing beyond
    |ε|²: `sample_with_log_prob` never multiplies by a covariance.

    Parameters
    ----------
    mean : (…, n)
    factor : (…, n, n)
        C.
    """

    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    reparametrized_params = ["mean_", "factor"]  # noqa: RUF012
    pytree_data_fields = ("mean_", "factor")

    def __init__(self, mean: Array, factor: Array, *, validate_args: bool | None = None):
        self.mean_, self.factor = mean, factor
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=validate_args)

    @classmethod
    def from_precision(cls, precision: Array, shift: Array) -> "PrecisionGaussian":
        """The Gaussian with log-density −½ zᵀ P z + hᵀ z + constant, P (…, n, n) and h (…, n)."""
        factor = jnp.linalg.cholesky(precision)
        half = solve_triangular(factor, shift[..., None], lower=True)
        return cls(solve_triangular(factor, half, lower=True, trans=1)[..., 0], factor)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.sample_with_log_prob(key, sample_shape)[0]

    def sample_with_log_prob(self, key: Key, sample_shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
        """Samples (*sample_shape, …, n) and their log-densities in nats."""
        count = math.prod(sample_shape)
        noise = jax.random.normal(key, (count, *self.mean_.shape), self.mean_.dtype)
        # All samples of a row are solved together, as columns.
        turned = solve_triangular(self.factor, jnp.moveaxis(noise, 0, -1), lower=True, trans=1)
        z = self.mean_ + jnp.moveaxis(turned, -1, 0)
        log_prob = self._log_normaliser() - 0.5 * (noise**2).sum(-1)
        shape = (*sample_shape, *self.mean_.shape)
        return z.reshape(shape), log_prob.reshape(shape[:-1])

    def log_prob(self, value: Array) -> Array:
        difference = value - self.mean_
        standard = (difference[..., :, None] * self.factor).sum(-2)
        return self._log_normaliser() - 0.5 * (standard**2).sum(-1)

    def _log_normaliser(self) -> Array:
        diagonal = jnp.diagonal(self.factor, axis1=-2, axis2=-1)
        return jnp.log(diagonal).sum(-1) - 0.5 * diagonal.shape[-1] * math.log(2 * math.pi)

    @property
    def mean(self) -> Array:
        return self.mean_

    @property
    def covariance_matrix(self) -> Array:
        """P⁻¹, (…, n, n)."""
        inverse = self._inverse_factor()
        return jnp.swapaxes(inverse, -1, -2) @ inverse

    @property
    def variance(self) -> Array:
        return (self._inverse_factor() ** 2).sum(-2)

    def entropy(self) -> Array:
        """Differential entropy in nats."""
        return 0.5 * self.event_shape[0] - self._log_normaliser()

    def _inverse_factor(self) -> Array:
        identity = jnp.broadcast_to(jnp.eye(self.event_shape[0], dtype=self.factor.dtype), self.factor.shape)
        return solve_triangular(self.factor, identity, lower=True)
