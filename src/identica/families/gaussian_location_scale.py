"""Gaussian with mean and variance both free."""

import math

import jax
import jax.numpy as jnp

from identica.families.base import VARIANCE_FLOOR, ExponentialFamily, softly_bounded, unbounded
from identica.typing import Array, Key

_LOG_VARIANCE_BOUND = 40.0


class GaussianLocationScale(ExponentialFamily):
    """Gaussian family with T(z) = (z, z²), k = 2.

    Natural parameters are (μ/s², −1/(2 s²)); raw parameters are (μ, log s²), the logarithm being
    smoothly bounded at ±40. Theorem 2 of Khemakhem et al. (2020) applies: components are recovered
    up to order, sign and an affine map.
    """

    @property
    def number_of_statistics(self) -> int:
        return 2

    def sufficient_statistics(self, z: Array) -> Array:
        return jnp.stack([z, z**2], axis=-1)

    def log_base_measure(self, z: Array) -> Array:
        return jnp.full_like(z, -0.5 * math.log(2 * math.pi))

    def natural_parameters(self, raw: Array) -> Array:
        precision = jnp.exp(-softly_bounded(raw[..., 1], _LOG_VARIANCE_BOUND))
        return jnp.stack([raw[..., 0] * precision, -0.5 * precision], axis=-1)

    def raw_from_natural(self, natural: Array) -> Array:
        mean, variance = self.mean_and_variance(natural)
        return jnp.stack([mean, unbounded(jnp.log(variance), _LOG_VARIANCE_BOUND)], axis=-1)

    def log_partition(self, natural: Array) -> Array:
        first, second = natural[..., 0], natural[..., 1]
        return -(first**2) / (4 * second) - 0.5 * jnp.log(-2 * second)

    def log_prob(self, z: Array, natural: Array) -> Array:
        # The generic form subtracts numbers of order μ²/s²; this one does not, which float32 needs.
        mean, variance = self.mean_and_variance(natural)
        return -0.5 * (math.log(2 * math.pi) + jnp.log(variance) + (z - mean) ** 2 / variance)

    def natural_from_expectation(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        mean, variance = self._moments(statistics_mean)
        precision = 1.0 / (variance + floor)
        return jnp.stack([mean * precision, -0.5 * precision], axis=-1)

    def profile_log_likelihood(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        _, variance = self._moments(statistics_mean)
        return -0.5 * (jnp.log(variance + floor) + variance / (variance + floor))

    def mean_and_variance(self, natural: Array) -> tuple[Array, Array]:
        variance = -0.5 / natural[..., 1]
        return natural[..., 0] * variance, variance

    def expected_log_base_measure(self, natural: Array) -> Array:
        return self.log_base_measure(natural[..., 0])

    def sample(self, natural: Array, *, key: Key) -> Array:
        mean, variance = self.mean_and_variance(natural)
        return mean + jnp.sqrt(variance) * jax.random.normal(key, mean.shape, mean.dtype)

    @staticmethod
    def _moments(statistics_mean: Array) -> tuple[Array, Array]:
        mean = statistics_mean[..., 0]
        # Rounding can turn the variance of a nearly constant group negative.
        return mean, jnp.maximum(statistics_mean[..., 1] - mean**2, 0.0)
