"""Location and scale free, the shape of the density learned from the data."""

import jax
import jax.numpy as jnp

from identica.families.base import VARIANCE_FLOOR, Family, softly_bounded, unbounded
from identica.typing import Array, Key

_LOG_SCALE_BOUND = 20.0
_LOG_POWER_BOUND = 1.6
_SMALLEST_SQUARE = 1e-8


class PowerLocationScale(Family):
    r"""Generalised Gaussian with free location and scale and a learned power per component.

    The density is p / (2 α Γ(1/p)) exp(−|z − m|^p / α^p): power 1 is Laplace, 2 is Gaussian, larger
    powers have lighter tails (Subbotin, 1923; Nadarajah, 2005). Location m and scale α depend on the
    auxiliary variable, the power does not. With the location free this is no exponential family, but
    for a given location the best scale is still a closed form: α^p = p · mean |z − m|^p.

    Natural parameters are (m, α), raw parameters (m, log α), the logarithm smoothly bounded at ±20.

    Attributes
    ----------
    shape : (n,)
        Unconstrained; see `power`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> family = PowerLocationScale.gaussian(1)
    >>> value = family.log_prob(jnp.zeros((1,)), jnp.array([[0.0, 2**0.5]]))
    >>> round(float(value[0]), 4)  # the standard normal at 0
    -0.9189
    """

    shape: Array

    @classmethod
    def gaussian(cls, n: int) -> "PowerLocationScale":
        """The family of n components, each with power 2."""
        return cls(jnp.zeros(n))

    @property
    def power(self) -> Array:
        """p of each component (n,), between 0.4 and 10."""
        return 2.0 * jnp.exp(softly_bounded(self.shape, _LOG_POWER_BOUND))

    @property
    def number_of_statistics(self) -> int:
        return 2

    def deviation_statistic(self, deviation: Array) -> Array:
        """|z − m|^p of deviations z − m (…, n)."""
        # Powers below 2 have no second derivative at 0, and below 1 no first one, without the floor.
        return jnp.exp(0.5 * self.power * jnp.log(deviation**2 + _SMALLEST_SQUARE))

    def natural_parameters(self, raw: Array) -> Array:
        scale = jnp.exp(softly_bounded(raw[..., 1], _LOG_SCALE_BOUND))
        return jnp.stack([raw[..., 0], scale], axis=-1)

    def raw_from_natural(self, natural: Array) -> Array:
        return jnp.stack([natural[..., 0], unbounded(jnp.log(natural[..., 1]), _LOG_SCALE_BOUND)], axis=-1)

    def natural_from_expectation(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        """(m, α) from the averages (…, n, 2) of z and of |z − m|^p."""
        size = statistics_mean[..., 1] + floor ** (self.power / 2)
        scale = jnp.exp(jnp.log(self.power * size) / self.power)
        return jnp.stack([statistics_mean[..., 0], scale], axis=-1)

    def profile_log_likelihood(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        natural = self.natural_from_expectation(statistics_mean, floor=floor)
        log_scale = jnp.log(natural[..., 1])
        inner = jnp.exp(jnp.log(statistics_mean[..., 1] + 1e-30) - self.power * log_scale)
        return self._log_constant - log_scale - inner

    def log_prob(self, z: Array, natural: Array) -> Array:
        """log p(z) in nats of z (…, n)."""
        log_scale = jnp.log(natural[..., 1])
        deviation = (z - natural[..., 0]) * jnp.exp(-log_scale)
        return self._log_constant - log_scale - self.deviation_statistic(deviation)

    def mean_and_variance(self, natural: Array) -> tuple[Array, Array]:
        log_gamma = jax.scipy.special.gammaln
        factor = jnp.exp(log_gamma(3 / self.power) - log_gamma(1 / self.power))
        return natural[..., 0], factor * natural[..., 1] ** 2

    def sample(self, natural: Array, *, key: Key) -> Array:
        """One draw for each (m, α) (…, n, 2)."""
        size_key, sign_key = jax.random.split(key)
        shape = natural.shape[:-1]
        size = jax.random.gamma(size_key, jnp.broadcast_to(1 / self.power, shape), shape, natural.dtype)
        sign = jax.random.rademacher(sign_key, shape, natural.dtype)
        return natural[..., 0] + natural[..., 1] * sign * size ** (1 / self.power)

    @property
    def _log_constant(self) -> Array:
        return jnp.log(self.power / 2) - jax.scipy.special.gammaln(1 / self.power)
