"""Observation models: what a decoder's output says about the distribution of x."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from identica.errors import DataError
from identica.typing import Array, FloatArray

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

    @abc.abstractmethod
    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "Observation"]:
        """A linear decoder by least squares on rows z (N, n) and x (N, d).

        Noise, if there is any to set, starts at the residual variance plus ``extra_variance``. As many
        sources as columns leave no residual, and with hardly any noise the likelihood is so steep that
        training stays near the linear map.

        Returns
        -------
        weight (n, outputs), bias (outputs,), and this model with its noise set.
        """


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
            return cls(_on_host(np.asarray(_INITIAL_LOG_VARIANCE)), "isotropic")
        if noise == "diagonal":
            return cls(_on_host(np.full(d, _INITIAL_LOG_VARIANCE)), "diagonal")
        if noise in ("scalar-network", "network"):
            return cls(None, str(noise))
        raise DataError(
            "noise must be 'isotropic', 'diagonal', 'scalar-network', 'network' or a positive variance, "
            f"got {noise!r}"
        )

    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "GaussianObservation"]:
        weight, bias = _least_squares(z, x)
        variance = ((x - z @ weight - bias) ** 2).mean(axis=0) + extra_variance
        start = variance if self.noise == "diagonal" else variance.mean(keepdims=True)
        log_variance = None
        if self.log_variance is not None:
            start = np.log(start).reshape(np.shape(self.log_variance))
            log_variance = _on_host(start)
        else:
            # Networks of the noise start at the residual variance for every z.
            extra = self.outputs(x.shape[1]) - x.shape[1]
            level = np.log(variance.mean()) if extra == 1 else np.log(variance)
            weight = np.concatenate([weight, np.zeros((len(weight), extra))], axis=1)
            bias = np.concatenate([bias, np.broadcast_to(level, (extra,))]) if extra else bias
        return weight, bias, GaussianObservation(log_variance, self.noise, self.variance)

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

    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "BernoulliObservation"]:
        # The tangent of the logistic function at 1/2.
        return (*_least_squares(z, 4 * (x - 0.5)), self)

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

    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "PoissonObservation"]:
        weight, _ = _least_squares(z, np.log(x + 0.5))
        # Least squares on logarithms of counts misses their level; matching the mean does not.
        centred = (z - z.mean(axis=0)) @ weight
        bias = np.log((x.mean(axis=0) + 1e-3) / np.exp(np.clip(centred, None, 10.0)).mean(axis=0))
        return weight, bias - z.mean(axis=0) @ weight, self

    def __call__(self, output: Array) -> dist.Distribution:
        return dist.Poisson(self.mean(output)).to_event(1)

    def _log_rate(self, output: Array) -> Array:
        return self.largest_log_rate - jax.nn.softplus(self.largest_log_rate - output)


def _least_squares(z: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weight (n, outputs) and bias of the linear regression of y on z."""
    center, level = z.mean(axis=0), y.mean(axis=0)
    weight = np.linalg.lstsq(z - center, y - level, rcond=1e-8)[0]
    return weight, level - center @ weight


def _on_host(values: FloatArray) -> Array:
    """An array in the default precision that costs no compilation."""
    return values.astype(jax.dtypes.canonicalize_dtype(float))  # type: ignore[return-value]
