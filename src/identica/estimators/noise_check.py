"""Whether held-out rows speak for noise, which a flow has none of."""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.conditionals import Features, GaussianObservation
from identica.data import Dataset
from identica.errors import DataWarning
from identica.linear.whitening import Whitening
from identica.models.flow import FlowModel
from identica.models.noisy_flow import NoisyFlow
from identica.models.teacher import FlowTeacher
from identica.typing import Array

JUDGED_ROWS = 4096
_LEVELS = (0.01, 0.02, 0.04, 0.08)
"""Standard deviations of noise that are tried, in units of the columns' own."""

_SAMPLES = 8
_LEAST_GAIN = 3e-3
"""Nats per row and component that noise has to gain; less may be the smoothing of a rough fit."""


class NoiseGain(NamedTuple):
    """What allowing for noise adds to the likelihood of held-out rows, the flow left as it is.

    Attributes
    ----------
    level : float
        Standard deviation of the noise, in units of the columns' own, that gains most.
    gain, error : float
        Nats per row, and its standard error. Trained under noise, a model would gain more.
    """

    level: float
    gain: float
    error: float

    def is_clear(self, n: int) -> bool:
        """Whether it is beyond chance and beyond the smoothing of a rough fit."""
        return self.gain > max(3 * self.error, _LEAST_GAIN * n)


def noise_gain(model: FlowModel, whitening: Whitening, held_out: Dataset, seed: int) -> NoiseGain:
    """The gain on held-out scores with their encoded u."""
    n, dtype = model.n_components, held_out.x.dtype
    # Noise of equal level in all standardised columns is independent in scores, in which
    # the variances of the principal components scale it.
    loading = np.diag(np.sqrt(whitening.eigenvalues[:n])).astype(dtype)
    levels = jnp.asarray(_LEVELS, dtype)
    bare = FlowModel(model.demixer, model.family, model.prior)
    rows, exact = _log_likelihoods(bare, jnp.asarray(loading), levels, held_out, jax.random.key(seed))
    gains = np.asarray(rows, np.float64) - np.asarray(exact, np.float64)
    best = int(np.argmax(gains.mean(axis=1)))
    return NoiseGain(
        _LEVELS[best], float(gains[best].mean()), float(gains[best].std(ddof=1) / np.sqrt(gains.shape[1]))
    )


def warn_of_noise(found: NoiseGain, n: int) -> None:
    """A `DataWarning` that hands over to models with noise, if the gain is clear."""
    if found.is_clear(n):
        warnings.warn(
            f"FlowICA: held-out rows are more probable by {found.gain:.3f} ± {found.error:.3f} nats if their columns "
            f"carry noise (about {100 * found.level:.0f} % of each column's standard deviation). This model has none, "
            "and noise bends it. Use IVAE, which models noise and starts from a flow, or NonlinearICA, which "
            "compares both on held-out rows",
            DataWarning,
            stacklevel=5,
        )


@compiled
def _log_likelihoods(
    model: FlowModel, loading: Array, levels: Array, rows: Dataset, key: Array
) -> tuple[Array, Array]:
    n = loading.shape[0]
    dtype = rows.x.dtype
    features = Features(jnp.zeros(n, dtype), jnp.eye(n, dtype=dtype))
    # NoisyFlow gives densities of columns; without their volume they are those of scores.
    volume = jnp.log(jnp.diagonal(loading)).sum()

    def at(level: Array) -> Array:
        observation = GaussianObservation(2 * jnp.log(level), "isotropic")
        system = NoisyFlow(FlowTeacher(features, model, n), loading, observation)
        logs = system.log_weights(rows.x, rows.u, _SAMPLES, key=key)
        return jax.nn.logsumexp(logs, axis=0) - jnp.log(_SAMPLES) + volume

    return jax.lax.map(at, levels), model.log_marginal(rows.x, rows.u)
