"""Real-valued observations: Gaussian noise, and noise with heavy tails."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from identica.conditionals.observations.base import Observation, least_squares, on_host
from identica.errors import DataError
from identica.typing import Array, FloatArray

NOISE_FLOOR = 1e-5
"""Smallest learned noise variance, in units where x has unit variance. Without it, and with more
columns than components, the likelihood is unbounded."""

_INITIAL_LOG_VARIANCE = -3.0
_INITIAL_FREEDOM = 5.0


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
            return cls(on_host(np.asarray(_INITIAL_LOG_VARIANCE)), "isotropic")
        if noise == "diagonal":
            return cls(on_host(np.full(d, _INITIAL_LOG_VARIANCE)), "diagonal")
        if noise in ("scalar-network", "network"):
            return cls(None, str(noise))
        raise DataError(
            "noise must be 'isotropic', 'diagonal', 'scalar-network', 'network' or a positive variance, "
            f"got {noise!r}"
        )

    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "GaussianObservation"]:
        weight, bias = least_squares(z, x)
        variance = ((x - z @ weight - bias) ** 2).mean(axis=0) + extra_variance
        start = variance if self.noise == "diagonal" else variance.mean(keepdims=True)
        log_variance = None
        if self.log_variance is not None:
            start = np.log(start).reshape(np.shape(self.log_variance))
            log_variance = on_host(start)
        else:
            # Networks of the noise start at the residual variance for every z.
            extra = self.outputs(x.shape[1]) - x.shape[1]
            level = np.log(variance.mean()) if extra == 1 else np.log(variance)
            weight = np.concatenate([weight, np.zeros((len(weight), extra))], axis=1)
            bias = np.concatenate([bias, np.broadcast_to(level, (extra,))]) if extra else bias
        return weight, bias, GaussianObservation(log_variance, self.noise, self.variance)

    @property
    def is_constant(self) -> bool:
        """Whether the noise is the same for all rows."""
        return self.noise in ("isotropic", "diagonal", "fixed")

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


class StudentTObservation(Observation):
    """Student t noise around the decoder's output: a gross error costs log |x|, not x².

    Attributes
    ----------
    log_scale : (d,)
        Logarithm of the scale of each column.
    log_freedom : (d,)
        Logarithm of ν − 1, with ν the degrees of freedom of each column. They stay above 1, so that the
        decoder's output is the mean, and are learned up to where t and Gaussian noise cannot be told apart.
    """

    log_scale: Array
    log_freedom: Array

    @classmethod
    def of_columns(cls, d: int) -> "StudentTObservation":
        """A first model of d columns."""
        return cls(
            on_host(np.full(d, 0.5 * _INITIAL_LOG_VARIANCE)),
            on_host(np.full(d, np.log(_INITIAL_FREEDOM - 1))),
        )

    @property
    def freedom(self) -> Array:
        """Degrees of freedom ν of each column (d,)."""
        return 1 + jnp.exp(jnp.clip(self.log_freedom, -6.0, 6.0))

    def outputs(self, d: int) -> int:
        return d

    def mean(self, output: Array) -> Array:
        return output

    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "StudentTObservation"]:
        weight, bias = least_squares(z, x)
        # Gross errors would carry off a variance; the median of residuals does not notice them.
        spread = 1.4826 * np.median(np.abs(x - z @ weight - bias), axis=0)
        log_scale = 0.5 * np.log(spread**2 + extra_variance)
        return weight, bias, StudentTObservation(on_host(log_scale), self.log_freedom)

    def __call__(self, output: Array) -> dist.Distribution:
        scale = jnp.sqrt(NOISE_FLOOR + jnp.exp(2 * self.log_scale))
        return dist.StudentT(self.freedom, output, scale).to_event(1)
