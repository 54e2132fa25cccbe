"""What the symmetric families with one free scale share."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp

from identica.families.base import VARIANCE_FLOOR, ExponentialFamily, softly_bounded, unbounded
from identica.typing import Array, Key

_LOG_STATISTIC_BOUND = 40.0


class PowerScale(ExponentialFamily):
    """Densities proportional to exp(−|z − m|^p / α^p) with known power p and location m; k = 1.

    T(z) = |z − m|^p, natural parameter −α^(−p), log-partition log α. The raw parameter is p log α,
    smoothly bounded at ±40. T is not monotone, so theorem 3 of Khemakhem et al. (2020) applies:
    components are recovered up to order, sign and scale.
    """

    location: eqx.AbstractVar[float]

    @property
    @abc.abstractmethod
    def exponent(self) -> float:
        """The power p."""

    @property
    def number_of_statistics(self) -> int:
        return 1

    @property
    def _log_base(self) -> float:
        return math.log(self.exponent / 2) - math.lgamma(1 / self.exponent)

    def sufficient_statistics(self, z: Array) -> Array:
        centred = z - self.location
        if self.exponent == 2:
            return (centred**2)[..., None]
        if self.exponent == 1:
            return jnp.abs(centred)[..., None]
        # The gradient of |z|^p at 0 is 0 for p > 1 but comes out as NaN without the guard.
        size = jnp.abs(centred)
        safe = jnp.where(size > 0, size, 1.0)
        return jnp.where(size > 0, safe**self.exponent, 0.0)[..., None]

    def log_base_measure(self, z: Array) -> Array:
        return jnp.full_like(z, self._log_base)

    def natural_parameters(self, raw: Array) -> Array:
        return -jnp.exp(-softly_bounded(raw, _LOG_STATISTIC_BOUND))

    def raw_from_natural(self, natural: Array) -> Array:
        return unbounded(-jnp.log(-natural), _LOG_STATISTIC_BOUND)

    def log_partition(self, natural: Array) -> Array:
        return -jnp.log(-natural[..., 0]) / self.exponent

    def natural_from_expectation(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        # E|z − m|^p = α^p / p. The floor is a variance; the statistic scales as its power p/2.
        return -1.0 / (self.exponent * (statistics_mean + floor ** (self.exponent / 2)))

    def scale(self, natural: Array) -> Array:
        """The scale α."""
        return (-natural[..., 0]) ** (-1 / self.exponent)

    def mean_and_variance(self, natural: Array) -> tuple[Array, Array]:
        power = self.exponent
        factor = math.exp(math.lgamma(3 / power) - math.lgamma(1 / power))
        variance = factor * self.scale(natural) ** 2
        return jnp.full_like(variance, self.location), variance

    def expected_log_base_measure(self, natural: Array) -> Array:
        return self.log_base_measure(natural[..., 0])

    def sample(self, natural: Array, *, key: Key) -> Array:
        scale = self.scale(natural)
        return self.location + scale * jax.random.generalized_normal(
            key, self.exponent, scale.shape, scale.dtype
        )
