"""A Gaussian with full covariance, given by the Cholesky factor of its precision."""

import math

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from identica.conditionals.small_matrices import cholesky_with_inverse, product, transpose
from identica.typing import Array, Key


class PrecisionGaussian(dist.Distribution):
    """N(mean, P⁻¹) of B rows, with P = C Cᵀ, C lower triangular.

    Samples are mean + C⁻ᵀ ε, so they are differentiable, and their log-density costs nothing beyond
    |ε|²: `sample_with_log_prob` never multiplies by a covariance.

    Parameters
    ----------
    mean : (B, n)
    factor : (n, n, B)
        C, rows last (see `identica.conditionals.small_matrices`).
    inverse : (n, n, B)
        C⁻¹.
    """

    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    reparametrized_params = ["mean_", "factor", "inverse"]  # noqa: RUF012
    pytree_data_fields = ("mean_", "factor", "inverse")

    def __init__(self, mean: Array, factor: Array, inverse: Array, *, validate_args: bool | None = None):
        self.mean_, self.factor, self.inverse = mean, factor, inverse
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=validate_args)

    @classmethod
    def from_precision(cls, precision: Array, shift: Array) -> "PrecisionGaussian":
        """Log-density −½ zᵀ P z + hᵀ z + constant, with P (n, n, B) and h (n, B), rows last."""
        factor, inverse = cholesky_with_inverse(precision)
        mean = product(transpose(inverse), product(inverse, shift[:, None]))
        return cls(mean[:, 0].T, factor, inverse)

    def rows(self, index: Array) -> "PrecisionGaussian":
        """The distribution of the rows of an index array."""
        return PrecisionGaussian(self.mean_[index], self.factor[..., index], self.inverse[..., index])

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.sample_with_log_prob(key, sample_shape)[0]

    def sample_with_log_prob(self, key: Key, sample_shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
        """Samples (*sample_shape, B, n) and their log-densities in nats."""
        n_rows, n = self.mean_.shape
        noise = jax.random.normal(key, (n, math.prod(sample_shape), n_rows), self.mean_.dtype)
        z, log_prob = self._turned(noise)
        shape = (*sample_shape, n_rows)
        return z.reshape(*shape, n), log_prob.reshape(shape)

    def from_standard(self, points: Array) -> tuple[Array, Array]:
        """Points (K, n) of N(0, I) placed for every row: z (K, B, n) and log-densities (K, B) in nats."""
        return self._turned(jnp.broadcast_to(points.T[:, :, None], (*points.T.shape, len(self.mean_))))

    def _turned(self, noise: Array) -> tuple[Array, Array]:
        """Standard points (n, K, B) as points (K, B, n) of the distribution, with their log-densities."""
        # All points of a row are turned together, as columns.
        z = self.mean_.T[:, None] + product(transpose(self.inverse), noise)
        return jnp.moveaxis(z, 0, -1), self._log_normaliser() - 0.5 * (noise**2).sum(0)

    def log_prob(self, value: Array) -> Array:
        standard = jnp.einsum("...bi,ijb->...bj", value - self.mean_, self.factor)
        return self._log_normaliser() - 0.5 * (standard**2).sum(-1)

    def _log_normaliser(self) -> Array:
        diagonal = jnp.diagonal(self.factor)  # (B, n)
        return jnp.log(diagonal).sum(-1) - 0.5 * diagonal.shape[-1] * math.log(2 * math.pi)

    @property
    def mean(self) -> Array:
        return self.mean_

    @property
    def covariance_matrix(self) -> Array:
        """P⁻¹, (B, n, n)."""
        return jnp.moveaxis(product(transpose(self.inverse), self.inverse), -1, 0)

    @property
    def variance(self) -> Array:
        return (self.inverse**2).sum(0).T

    def entropy(self) -> Array:
        """Differential entropy in nats."""
        return 0.5 * self.event_shape[0] - self._log_normaliser()
