"""Observations with finitely many values: binary columns and columns of categories."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from identica.conditionals.observations.base import Observation, least_squares
from identica.typing import Array, FloatArray, Key

_LEVEL_ROWS = 4096
"""Most rows from which first levels of columns are found."""

_IMPOSSIBLE = -1e30
"""Log-odds of a category that a column does not have."""


class BernoulliObservation(Observation):
    """Binary columns; the decoder's output is the log-odds."""

    def outputs(self, d: int) -> int:
        return d

    def mean(self, output: Array) -> Array:
        return jax.nn.sigmoid(output)

    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "BernoulliObservation"]:
        share = np.clip(x.mean(axis=0), 1e-3, 1 - 1e-3)
        # The tangent of the logistic function at the share of ones, but not too steep where they are rare.
        weight, _ = least_squares(z, x / np.maximum(share * (1 - share), 0.05))
        slope, bias = z[:_LEVEL_ROWS] @ weight, np.log(share) - np.log1p(-share)
        for _ in range(20):
            # The bias that gives each column its share: Newton's method, kept short where it is flat.
            p = 0.5 * (1 + np.tanh(0.5 * (slope + bias)))
            bias = bias - np.clip((p.mean(axis=0) - share) / (p * (1 - p)).mean(axis=0), -1, 1)
        return weight, bias, self

    def __call__(self, output: Array) -> dist.Distribution:
        return dist.BernoulliLogits(output).to_event(1)


class CategoricalObservation(Observation):
    """Columns of integer codes 0, 1, …; the decoder has one output per category of each column.

    Attributes
    ----------
    sizes : tuple of int
        Categories of each column.
    """

    sizes: tuple[int, ...] = eqx.field(static=True)

    @classmethod
    def from_codes(cls, *codes: FloatArray) -> "CategoricalObservation":
        """As many categories per column as the largest code among all rows says."""
        return cls(tuple(int(size) for size in np.max([c.max(axis=0) for c in codes], axis=0) + 1))

    def outputs(self, d: int) -> int:
        return sum(self.sizes)

    def mean(self, output: Array) -> Array:
        """The most probable code of each column (…, d): codes have no mean."""
        return jnp.argmax(self._log_odds(output), axis=-1).astype(output.dtype)

    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "CategoricalObservation"]:
        one_hot = one_hot_columns(x, self.sizes)
        share = np.maximum(np.asarray(one_hot).mean(axis=0), 1e-3)
        # The tangent of the softmax at the shares p: indicators move by p (1 − p) times the log-odds.
        weight, _ = least_squares(z, one_hot / (share * (1 - np.minimum(share, 1 - 1e-3))))
        return weight, np.log(share) - z.mean(axis=0) @ weight, self

    def __call__(self, output: Array) -> "ColumnwiseCategorical":
        return ColumnwiseCategorical(self._log_odds(output))

    def _log_odds(self, output: Array) -> Array:
        """Outputs as (…, d, largest size), with categories that a column lacks made impossible."""
        sizes = np.asarray(self.sizes)
        column = np.arange(sizes.max())
        index = np.minimum((np.cumsum(sizes) - sizes)[:, None] + column, (np.cumsum(sizes) - 1)[:, None])
        return jnp.where(column < sizes[:, None], output[..., index], _IMPOSSIBLE)


class ColumnwiseCategorical(dist.Distribution):
    """Independent categories of d columns; values are codes (…, d), of any numeric type.

    Parameters
    ----------
    logits : (…, d, K)
        Log-odds; categories that a column does not have are hugely negative.
    """

    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("logits",)

    def __init__(self, logits: Array, *, validate_args: bool | None = None):
        self.logits = jax.nn.log_softmax(logits, axis=-1)
        super().__init__(logits.shape[:-2], logits.shape[-2:-1], validate_args=validate_args)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        shape = (*sample_shape, *self.logits.shape[:-1])
        return jax.random.categorical(key, self.logits, shape=shape).astype(self.logits.dtype)

    def log_prob(self, value: Array) -> Array:
        # A sum over a mask, as the gradient of a gather is a scatter, which is slow on CPUs.
        chosen = value[..., None] == jnp.arange(self.logits.shape[-1], dtype=value.dtype)
        return jnp.where(chosen, self.logits, 0.0).sum((-2, -1))


def one_hot_columns(codes: FloatArray | Array, sizes: Sequence[int]) -> Array:
    """Indicators (…, Σ sizes) of codes (…, d), column after column."""
    column = np.repeat(np.arange(len(sizes)), sizes)
    category = np.concatenate([np.arange(size) for size in sizes])
    return (codes[..., column] == category).astype(codes.dtype)  # type: ignore[return-value]
