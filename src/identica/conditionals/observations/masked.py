"""Observations of which some entries are unknown: the likelihood runs over those that were seen.

A row with a mask is (value, seen): d values, of which unknown ones are placeholders, then d indicators, 1 for an
entry that was seen and 0 for one that was not.
"""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from identica.conditionals.observations.base import Observation
from identica.typing import Array, FloatArray, Key


def split_mask(x: Array) -> tuple[Array, Array]:
    """Values and indicators, each (…, d), of rows with a mask (…, 2d)."""
    d = x.shape[-1] // 2
    return x[..., :d], x[..., d:]


class SeenEntries(dist.Distribution):
    """The distribution of the entries of a row that were seen, columns being independent.

    Marginalising the others is leaving them out: ∫ Π_j p(x_j) dx_unseen = Π_seen p(x_j). Its draws are complete.

    Parameters
    ----------
    complete : Independent
        Distribution of complete rows, batch shape (…), event shape (d,).
    """

    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("complete",)

    def __init__(self, complete: dist.Independent, *, validate_args: bool | None = None):
        self.complete = complete
        d = complete.event_shape[0]
        super().__init__(complete.batch_shape, (2 * d,), validate_args=validate_args)

    def sample(self, key: Key, sample_shape: tuple[int, ...] = ()) -> Array:
        values = self.complete.sample(key, sample_shape)
        return jnp.concatenate([values, jnp.ones_like(values)], axis=-1)

    def log_prob(self, value: Array) -> Array:
        values, seen = split_mask(value)
        return jnp.where(seen > 0, self.complete.base_dist.log_prob(values), 0.0).sum(-1)  # type: ignore[return-value]


class MaskedObservation(Observation):
    """An observation model of rows with a mask (…, 2d).

    Attributes
    ----------
    complete : Observation
        Of complete rows, with independent columns.
    """

    complete: Observation

    def outputs(self, d: int) -> int:
        return self.complete.outputs(d)

    def mean(self, output: Array) -> Array:
        return self.complete.mean(output)

    def linear_start(
        self, z: FloatArray, x: FloatArray, *, extra_variance: float = 1e-3
    ) -> tuple[FloatArray, FloatArray, "MaskedObservation"]:
        values = x[:, : x.shape[1] // 2]
        weight, bias, complete = self.complete.linear_start(z, values, extra_variance=extra_variance)
        return weight, bias, MaskedObservation(complete)

    def __call__(self, output: Array) -> dist.Distribution:
        return SeenEntries(self.complete(output))  # type: ignore[arg-type]


def with_mask(values: FloatArray, seen: np.ndarray) -> FloatArray:
    """Rows with a mask (N, 2d) from placeholders filled in (N, d) and what was seen (N, d)."""
    return np.concatenate([values, seen.astype(values.dtype)], axis=1)
