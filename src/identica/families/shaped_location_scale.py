"""Location and scale free, any shape of the density: a power, and what a power misses learned beside it."""

import jax
import jax.numpy as jnp
import numpy as np

from identica.families.base import VARIANCE_FLOOR, Family, softly_bounded
from identica.families.power_location_scale import PowerLocationScale
from identica.typing import Array, Key

_RADIUS, _BUMPS = 5.0, 21
"""Bumps of the log-density stand on an even grid from −5 to 5 standard deviations."""

_REACH, _NODES = 8.0, 257
"""Standard deviations that the nodes of the normaliser cover to both sides, and their number. They crowd at the mode:
densities of small powers have a peak there that an even grid took for wider than it is. The normaliser of bumps that
lower such a peak came out too small, down to 0, and the likelihood of speech without bound.
"""

_LOG_HEIGHT_BOUND = 6.0
_EVEN = np.linspace(-1.0, 1.0, _NODES)


class ShapedLocationScale(Family):
    r"""p(z|m, α) = g_i(z|m, α) exp(b_i(t)) / Z_i with g_i of `PowerLocationScale`, t = (z − m) / sd of g_i; k = 2.

    The bumps b_i, a learned function of each component, make the density lopsided or give it several modes. Location
    m and scale α depend on the auxiliary variable, and the shape moves and stretches with them; that is what tells this
    family from `LearnedBase`, whose base measure stays where it is. m and α are those of the power alone: where bumps
    are not 0 they are not the maximum-likelihood ones, but the shape is learned for them, and they are closed forms.

    Parameters are those of `PowerLocationScale`.

    Attributes
    ----------
    power : PowerLocationScale
    heights : (n, J)
        Of the bumps in nats, smoothly bounded at ±6.
    in_use : () float
        0 leaves the power alone. It has no gradient; as a float it is stored and restored with the weights.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> family = ShapedLocationScale.beginning(PowerLocationScale.gaussian(1))
    >>> value = family.log_prob(jnp.zeros((1,)), jnp.array([[0.0, 2**0.5]]))
    >>> round(float(value[0]), 4)  # the standard normal at 0
    -0.9189
    """

    power: PowerLocationScale
    heights: Array
    in_use: Array

    @classmethod
    def beginning(cls, power: PowerLocationScale, *, in_use: bool = True) -> "ShapedLocationScale":
        """The family of n components that is still that of the power."""
        shape = np.asarray(power.shape)
        flag = np.full((), float(in_use), shape.dtype)
        return cls(power, np.zeros((len(shape), _BUMPS), shape.dtype), flag)  # type: ignore[arg-type]

    @property
    def number_of_statistics(self) -> int:
        return 2

    def deviation_statistic(self, deviation: Array) -> Array:
        return self.power.deviation_statistic(deviation)

    def natural_parameters(self, raw: Array) -> Array:
        return self.power.natural_parameters(raw)

    def raw_from_natural(self, natural: Array) -> Array:
        return self.power.raw_from_natural(natural)

    def natural_from_expectation(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        return self.power.natural_from_expectation(statistics_mean, floor=floor)

    def profile_log_likelihood(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        """That of the power; what the shape adds is the average of `log_shape` over the rows."""
        return self.power.profile_log_likelihood(statistics_mean, floor=floor)

    def log_shape(self, deviation: Array, natural: Array) -> Array:
        """b(t) − log Z of deviations z − m (…, n), nats: what the shape adds to the power's log-density."""
        sd = jnp.sqrt(self.power.mean_and_variance(natural)[1])
        return self._bumps(deviation / sd) - jnp.log(self._normaliser(deviation.dtype))

    def log_prob(self, z: Array, natural: Array) -> Array:
        """log p(z) in nats of z (…, n)."""
        return self.power.log_prob(z, natural) + self.log_shape(z - natural[..., 0], natural)

    def mean_and_variance(self, natural: Array) -> tuple[Array, Array]:
        location, variance = self.power.mean_and_variance(natural)
        t, masses = _nodes(natural.dtype), self._masses(natural.dtype)
        mean = masses @ t
        spread = (masses * (t - mean[:, None]) ** 2).sum(-1)
        return location + jnp.sqrt(variance) * mean, variance * spread

    def skewness(self, dtype: jnp.dtype) -> Array:
        """Third standardised moment of each component (n,), whatever its location and scale: 0 is symmetric."""
        t, masses = _nodes(dtype), self._masses(dtype)
        deviation = t - (masses @ t)[:, None]
        return (masses * deviation**3).sum(-1) / (masses * deviation**2).sum(-1) ** 1.5

    def sample(self, natural: Array, *, key: Key) -> Array:
        """One draw for each (m, α) (…, n, 2): inverse distribution function on the nodes, linear between them."""
        masses = self._masses(natural.dtype)
        cumulative = jnp.cumsum(masses, axis=-1) - 0.5 * masses
        uniform = jax.random.uniform(key, natural.shape[:-1], natural.dtype)
        interpolate = jnp.vectorize(jnp.interp, signature="(),(q),(q)->()")
        drawn = interpolate(uniform, cumulative, jnp.broadcast_to(_nodes(natural.dtype), masses.shape))
        location, variance = self.power.mean_and_variance(natural)
        return location + jnp.sqrt(variance) * drawn

    def _bumps(self, t: Array) -> Array:
        """b of standardised deviations (…, n)."""
        centres = jnp.linspace(-_RADIUS, _RADIUS, _BUMPS, dtype=t.dtype)
        width = 2 * _RADIUS / (_BUMPS - 1)
        shapes = jnp.exp(-0.5 * ((t[..., None] - centres) / width) ** 2)
        heights = jax.lax.stop_gradient(self.in_use) * softly_bounded(self.heights, _LOG_HEIGHT_BOUND)
        return (shapes * heights).sum(-1)

    def _normaliser(self, dtype: jnp.dtype) -> Array:
        """Z (n,): of the power's mass on the nodes with its bumps, and of the rest, beyond them all."""
        masses = jnp.exp(self._log_power(dtype))
        masses = masses / jnp.maximum(masses.sum(0), 1.0)
        beyond = jax.nn.relu(1.0 - masses.sum(0))
        return beyond + (masses * jnp.exp(self._bumps(_nodes(dtype)[:, None]))).sum(0)

    def _masses(self, dtype: jnp.dtype) -> Array:
        """Probabilities of the nodes (n, q)."""
        return jax.nn.softmax((self._log_power(dtype) + self._bumps(_nodes(dtype)[:, None])).T, axis=-1)

    def _log_power(self, dtype: jnp.dtype) -> Array:
        """log-masses of the power with standard deviation 1 at the nodes (q, n)."""
        n = self.heights.shape[0]
        unit = jnp.stack([jnp.zeros(n, dtype), jnp.ones(n, dtype)], axis=-1)
        scale = 1.0 / jnp.sqrt(self.power.mean_and_variance(unit)[1])
        standard = jnp.stack([jnp.zeros_like(scale), scale], axis=-1)
        widths = 3 * _REACH * _EVEN**2 * (2 / (_NODES - 1))
        log_widths = jnp.asarray(np.log(widths + 1e-30), dtype)
        return self.power.log_prob(_nodes(dtype)[:, None], standard) + log_widths[:, None]


def _nodes(dtype: jnp.dtype) -> Array:
    return jnp.asarray(_REACH * _EVEN**3, dtype)
