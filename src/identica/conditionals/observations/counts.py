"""Counts: Poisson, and negative binomial where counts vary more than that."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from identica.conditionals.observations.base import Observation, least_squares, on_host
from identica.typing import Array, FloatArray

_CONCENTRATIONS = (0.05, 3000.0)
"""Smallest and largest concentration: beyond, float32 cannot tell the law from a Poisson."""


class PoissonObservation(Observation):
    """Counts; the decoder's output is the log-rate, smoothly bounded above.

    Attributes
    ----------
    largest_log_rate : float
        Upper bound of the log-rate: one extrapolated exponential must not end a fit.
    """

    largest_log_rate: float = eqx.field(static=True, default=12.0)

    def outputs(self, d: int) -> int:
        return d

    def mean(self, output: Array) -> Array:
        return _bounded_exponential(output, self.largest_log_rate)

    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "PoissonObservation"]:
        return (*_log_linear(z, x), self)

    def __call__(self, output: Array) -> dist.Distribution:
        return dist.Poisson(self.mean(output)).to_event(1)


class NegativeBinomialObservation(Observation):
    """Overdispersed counts: mean μ from the decoder, variance μ + μ²/r with r learned per column.

    Attributes
    ----------
    log_concentration : (d,)
        log r; r → ∞ is the Poisson distribution.
    largest_log_rate : float
        Upper bound of log μ.
    """

    log_concentration: Array
    largest_log_rate: float = eqx.field(static=True, default=12.0)

    @classmethod
    def of_columns(cls, d: int) -> "NegativeBinomialObservation":
        """A first model of d columns."""
        return cls(on_host(np.zeros(d)))

    @property
    def concentration(self) -> Array:
        """r of each column (d,)."""
        low, high = np.log(_CONCENTRATIONS)
        return jnp.exp(jnp.clip(self.log_concentration, low, high))

    def outputs(self, d: int) -> int:
        return d

    def mean(self, output: Array) -> Array:
        return _bounded_exponential(output, self.largest_log_rate)

    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "NegativeBinomialObservation"]:
        weight, bias = _log_linear(z, x)
        rate = np.exp(np.clip(z @ weight + bias, None, self.largest_log_rate))
        # By moments: E[(x − μ)² − μ] = E μ² / r.
        excess = ((x - rate) ** 2 - rate).mean(axis=0)
        log_mean_square = np.log((rate**2).mean(axis=0))
        log_concentration = log_mean_square - np.log(np.maximum(excess, 1e-3 * x.mean(axis=0) + 1e-9))
        start = np.clip(log_concentration, np.log(0.2), np.log(100.0))
        return weight, bias, NegativeBinomialObservation(on_host(start), self.largest_log_rate)

    def __call__(self, output: Array) -> dist.Distribution:
        return dist.NegativeBinomial2(self.mean(output), self.concentration).to_event(1)


def _bounded_exponential(output: Array, largest: float) -> Array:
    """exp(output), which bends smoothly to stay below exp(largest)."""
    return jnp.exp(largest - jax.nn.softplus(largest - output))


def _log_linear(z: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weight (n, d) and bias (d,) of a log-linear model of counts."""
    weight, _ = least_squares(z, np.log(x + 0.5))
    # Least squares on logarithms of counts misses their level; matching the mean does not.
    centred = (z - z.mean(axis=0)) @ weight
    bias = np.log((x.mean(axis=0) + 1e-3) / np.exp(np.clip(centred, None, 10.0)).mean(axis=0))
    return weight, bias - z.mean(axis=0) @ weight
