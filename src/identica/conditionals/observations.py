"""Observation models: what a decoder's output says about the distribution of x."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from identica.errors import DataError
from identica.typing import Array

NOISE_FLOOR = 1e-5
"""Smallest learned noise variance, in units where x has unit variance. Without it, and with more
columns than components, the likelihood is unbounded."""

_INITIAL_LOG_VARIANCE = -3.0


class Observation(eqx.Module):
    """From a decoder's outputs (…, outputs) to the distribution of x (…, d)."""

    @abc.abstractmethod
    def outputs(self, d: int) -> int:
        """How many outputs the decoder needs for d columns."""

    @abc.abstractmethod
    def __call__(self, output: Array) -> dist.Distribution:
        """The distribution of x, event shape (d,)."""

    @abc.abstractmethod
    def mean(self, output: Array) -> Array:
        """E x (…, d)."""


class GaussianObservation(Observation):
    """Gaussian noise around the decoder's output.

    Attributes
    ----------
    log_variance : () or (d,) array, or None
        Logarithm of the learned noise variance, one for all columns or one for each; None where the
        network or a fixed number gives it.
    noise : str
        ``"isotropic"``, ``"diagonal"``, ``"fixed"``, ``"scalar-network"`` (log s² is one more output of
        the network per row) or ``"network"`` (one more output per column).
    variance : float
        The variance of ``"fixed"`` noise.
    """

    log_variance: Array | None
    noise: str = eqx.field(static=True)
    variance: float = eqx.field(static=True, default=1.0)

    @classmethod
    def from_option(cls, noise: str | float, d: int) -> "GaussianObservation":
        """The observation model that the option ``noise`` of estimators names.

        Raises
        ------
        DataError
            If it is neither a known name nor a positive number.
        """
        if isinstance(noise, int | float) and not isinstance(noise, bool) and noise > 0:
            return cls(None, "fixed", float(noise))
        if noise == "isotropic":
            return cls(jnp.asarray(_INITIAL_LOG_VARIANCE), "isotropic")
        if noise == "diagonal":
            return cls(jnp.full(d, _INITIAL_LOG_VARIANCE), "diagonal")
        if noise in ("scalar-network", "network"):
            return cls(None, str(noise))
        raise DataError(
            "noise must be 'isotropic', 'diagonal', 'scalar-network', 'network' or a positive variance, "
            f"got {noise!r}"
        )

    def with_residual_variance(self, variance: Array) -> "GaussianObservation":
        """Start from the residual variance (d,) of a fitted decoder; noise that is not learned stays."""
        if self.log_variance is None:
            return self
        variance = variance if self.noise == "diagonal" else variance.mean()
        return GaussianObservation(jnp.log(variance), self.noise, self.variance)

    def outputs(self, d: int) -> int:
        return {"scalar-network": d + 1, "network": 2 * d}.get(self.noise, d)

    def mean(self, output: Array) -> Array:
        return self._split(output)[0]

    def __call__(self, output: Array) -> dist.Distribution:
        mean, log_variance = self._split(output)
        return dist.Normal(mean, jnp.sqrt(NOISE_FLOOR + jnp.exp(log_variance))).to_event(1)

    def _split(self, output: Array) -> tuple[Array, Array]:
        if self.noise == "scalar-network":
            return output[..., :-1], output[..., -1:]
        if self.noise == "network":
            d = output.shape[-1] // 2
            return output[..., :d], output[..., d:]
        if self.log_variance is None:
            return output, jnp.log(jnp.asarray(self.variance, output.dtype))
        return output, self.log_variance


class BernoulliObservation(Observation):
    """Binary columns; the decoder's output is the log-odds."""

    def outputs(self, d: int) -> int:
        return d

    def mean(self, output: Array) -> Array:
        return jax.nn.sigmoid(output)

    def __call__(self, output: Array) -> dist.Distribution:
        return dist.BernoulliLogits(output).to_event(1)


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
        return jnp.exp(self._log_rate(output))

    def __call__(self, output: Array) -> dist.Distribution:
        return dist.Poisson(self.mean(output)).to_event(1)

    def _log_rate(self, output: Array) -> Array:
        return self.largest_log_rate - jax.nn.softplus(self.largest_log_rate - output)
