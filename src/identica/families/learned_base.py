"""Location and scale modulated as in the Gaussian family, the base measure learned from the data."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from identica.families.base import VARIANCE_FLOOR, ExponentialFamily, softly_bounded
from identica.families.gaussian_location_scale import GaussianLocationScale
from identica.typing import Array, Key

_RADIUS, _BUMPS = 5.0, 11
"""Bumps of log Q stand on an even grid from −5 to 5; latents have a scale of about one."""

_REACH, _NODES = 5.0, 49
"""Nodes cover so many standard deviations of the Gaussian part to both sides."""

_LOG_HEIGHT_BOUND = 6.0
_NEWTON_STEPS = 10
_GAUSSIAN = GaussianLocationScale()


class LearnedBase(ExponentialFamily):
    r"""p(z|λ) ∝ exp(b_i(z)) exp(λ₁ z + λ₂ z²) with a learned b_i for each component; k = 2.

    The general family of Khemakhem et al. (2020), equation (7), with T(z) = (z, z²): u modulates location
    and scale, and the base measure Q_i = exp(b_i), any smooth function, gives asymmetry, heavy shoulders
    or several modes. T is fixed, so that no elementwise warp of the latents can take the place of Q.

    Parameters are those of the Gaussian part. Normaliser and moments are sums over nodes spread around
    that part, so that segments of any width are resolved; b is a sum of Gaussian bumps, 0 far outside.

    Attributes
    ----------
    heights : (n, J)
        Of the bumps in nats, smoothly bounded at ±6.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> family = LearnedBase.gaussian(1)
    >>> natural = family.natural_from_expectation(jnp.array([[1.0, 5.0]]), floor=0.0)
    >>> [round(float(v[0]), 3) for v in family.mean_and_variance(natural)]
    [1.0, 4.0]
    """

    heights: Array

    @classmethod
    def gaussian(cls, n: int) -> "LearnedBase":
        """The family of n components with a constant base measure."""
        return cls(jnp.zeros((n, _BUMPS)))

    @property
    def number_of_statistics(self) -> int:
        return 2

    def sufficient_statistics(self, z: Array) -> Array:
        return _GAUSSIAN.sufficient_statistics(z)

    def log_base_measure(self, z: Array) -> Array:
        """log Q of z (…, n)."""
        return self._bumps(z[..., None])[..., 0] - 0.5 * math.log(2 * math.pi)

    def natural_parameters(self, raw: Array) -> Array:
        return _GAUSSIAN.natural_parameters(raw)

    def raw_from_natural(self, natural: Array) -> Array:
        return _GAUSSIAN.raw_from_natural(natural)

    def log_partition(self, natural: Array) -> Array:
        return _GAUSSIAN.log_partition(natural) + jax.nn.logsumexp(self._log_masses(natural), axis=-1)

    def log_prob(self, z: Array, natural: Array) -> Array:
        """log p(z) of z (…, n), nats."""
        tilt = jax.nn.logsumexp(self._log_masses(natural), axis=-1)
        # As for the Gaussian, without differences of numbers of order μ²/s².
        return _GAUSSIAN.log_prob(z, natural) + self._bumps(z[..., None])[..., 0] - tilt

    def profile_log_likelihood(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        # At the maximum the value does not change with λ to first order: no gradient through Newton's steps.
        natural = jax.lax.stop_gradient(self.natural_from_expectation(statistics_mean, floor=floor))
        mean, variance = _GAUSSIAN.mean_and_variance(natural)
        first, second = statistics_mean[..., 0], statistics_mean[..., 1]
        square = second - 2 * mean * first + mean**2
        tilt = jax.nn.logsumexp(self._log_masses(natural), axis=-1)
        return -0.5 * (jnp.log(variance) + square / variance) - tilt

    def natural_from_expectation(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        """Newton's steps of bounded length in units of the Gaussian part, whose likelihood is concave."""
        first = statistics_mean[..., 0]
        spread = jnp.maximum(statistics_mean[..., 1] - first**2, 0.0) + floor

        def newton(_: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
            mean, variance = state
            sd = jnp.sqrt(variance)
            t = self._nodes(mean.dtype)[0]
            masses = self._masses(_natural(mean, variance))
            m1, m2, m3, m4 = (masses @ t**power for power in (1, 2, 3, 4))
            a, b, c = m2 - m1**2, m3 - m1 * m2, m4 - m2**2
            gap = (first - mean) / sd
            slope1, slope2 = gap - m1, spread / variance + gap**2 - m2
            determinant = jnp.maximum(a * c - b**2, 1e-6)
            step1 = jnp.clip((c * slope1 - b * slope2) / determinant, -1.0, 1.0)
            step2 = jnp.clip((a * slope2 - b * slope1) / determinant, -1.0, 0.3)
            narrower = 1.0 / (1.0 - 2.0 * step2)
            return mean + sd * step1 * narrower, variance * narrower

        mean, variance = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, (first, spread))
        return _natural(mean, variance)

    def expectation_parameters(self, natural: Array) -> Array:
        mean, variance = self.mean_and_variance(natural)
        return jnp.stack([mean, variance + mean**2], axis=-1)

    def mean_and_variance(self, natural: Array) -> tuple[Array, Array]:
        mean, variance = _GAUSSIAN.mean_and_variance(natural)
        t, masses = self._nodes(natural.dtype)[0], self._masses(natural)
        first = masses @ t
        second = (masses * (t - first[..., None]) ** 2).sum(-1)
        return mean + jnp.sqrt(variance) * first, variance * second

    def expected_log_base_measure(self, natural: Array) -> Array:
        values = self._bumps(self._points(natural)) - 0.5 * math.log(2 * math.pi)
        return (self._masses(natural) * values).sum(-1)

    def sample(self, natural: Array, *, key: Key) -> Array:
        """Inverse distribution function on the nodes, linear between them."""
        masses = self._masses(natural)
        cumulative = jnp.cumsum(masses, axis=-1) - 0.5 * masses
        uniform = jax.random.uniform(key, natural.shape[:-1], natural.dtype)
        t = self._nodes(natural.dtype)[0]
        drawn = jnp.vectorize(jnp.interp, signature="(),(q),(q)->()")(
            uniform, cumulative, jnp.broadcast_to(t, masses.shape)
        )
        mean, variance = _GAUSSIAN.mean_and_variance(natural)
        return mean + jnp.sqrt(variance) * drawn

    def _bumps(self, z: Array) -> Array:
        """b of values (…, n, q)."""
        centres = jnp.linspace(-_RADIUS, _RADIUS, _BUMPS, dtype=z.dtype)
        width = 2 * _RADIUS / (_BUMPS - 1)
        heights = softly_bounded(self.heights, _LOG_HEIGHT_BOUND)
        shapes = jnp.exp(-0.5 * ((z[..., None] - centres) / width) ** 2)
        return (shapes * heights[:, None, :]).sum(-1)

    def _points(self, natural: Array) -> Array:
        mean, variance = _GAUSSIAN.mean_and_variance(natural)
        return mean[..., None] + jnp.sqrt(variance)[..., None] * self._nodes(natural.dtype)[0]

    def _log_masses(self, natural: Array) -> Array:
        return self._bumps(self._points(natural)) + self._nodes(natural.dtype)[1]

    def _masses(self, natural: Array) -> Array:
        return jax.nn.softmax(self._log_masses(natural), axis=-1)

    @staticmethod
    def _nodes(dtype: jnp.dtype) -> tuple[Array, Array]:
        """Standard nodes (q,) and the logarithms of their normal weights, which add to 1."""
        t = np.linspace(-_REACH, _REACH, _NODES)
        weights = np.exp(-0.5 * t**2)
        return jnp.asarray(t, dtype), jnp.asarray(np.log(weights / weights.sum()), dtype)


def _natural(mean: Array, variance: Array) -> Array:
    return jnp.stack([mean / variance, -0.5 / variance], axis=-1)
