"""A Gaussian carried through an invertible network: what noise on observations means for sources."""

import math
from typing import Protocol

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from identica.conditionals.precision_gaussian import PrecisionGaussian
from identica.typing import Array, Key


class Carrier(Protocol):
    """An invertible network of rows (n, B), with the logarithm (B,) of its volume."""

    def __call__(self, x: Array) -> tuple[Array, Array]: ...

    def inverse(self, z: Array) -> Array: ...


class CarriedGaussian(dist.Distribution):
    """The distribution of g(s) with s ~ N(m, P⁻¹), of B rows.

    Noise spreads observations evenly and sources along what g makes of that: a Gaussian of sources misses it
    by tenths of a nat per row where g bends within the noise.

    Parameters
    ----------
    origin : PrecisionGaussian
        Of s: batch shape (B,), event shape (n,).
    carrier : Carrier
        g.
    """

    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("origin", "carrier")

    def __init__(self, origin: PrecisionGaussian, carrier: Carrier, *, validate_args: bool | None = None):
        self.origin, self.carrier = origin, carrier
        super().__init__(origin.batch_shape, origin.event_shape, validate_args=validate_args)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.sample_with_log_prob(key, sample_shape)[0]

    def sample_with_log_prob(self, key: Key, sample_shape: tuple[int, ...] = ()) -> tuple[Array, Array]:
        """Samples (*sample_shape, B, n) and their log-densities in nats."""
        return self._carried(*self.origin.sample_with_log_prob(key, sample_shape))

    def from_standard(self, points: Array) -> tuple[Array, Array]:
        """Points (K, n) of N(0, I) placed for every row: z (K, B, n) and log-densities (K, B) in nats."""
        return self._carried(*self.origin.from_standard(points))

    def log_prob(self, value: Array) -> Array:
        start = self.carrier.inverse(value.reshape(-1, value.shape[-1]).T)
        log_volume = self.carrier(start)[1].reshape(value.shape[:-1])
        return self.origin.log_prob(start.T.reshape(value.shape)) - log_volume

    def _carried(self, start: Array, log_prob: Array) -> tuple[Array, Array]:
        z, log_volume = self.carrier(start.reshape(-1, start.shape[-1]).T)
        return z.T.reshape(start.shape), log_prob - log_volume.reshape(log_prob.shape)

    @property
    def mean(self) -> Array:
        """By spherical cubature, as are variances: exact for a linear g."""
        return self._cubature().mean(0)

    @property
    def variance(self) -> Array:
        return self._cubature().var(0)

    @property
    def covariance_matrix(self) -> Array:
        """(B, n, n)."""
        centred = self._cubature() - self.mean
        return jnp.einsum("kbi,kbj->bij", centred, centred) / len(centred)

    def _cubature(self) -> Array:
        """2n sources (2n, B, n) of equal weight."""
        n = self.event_shape[0]
        axes = math.sqrt(n) * jnp.eye(n, dtype=self.origin.mean.dtype)
        return self.from_standard(jnp.concatenate([axes, -axes]))[0]
