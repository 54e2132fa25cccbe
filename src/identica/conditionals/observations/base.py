"""What observation models have in common, and the linear decoder that they start from."""

import abc

import equinox as eqx
import jax
import numpy as np
import numpyro.distributions as dist

from identica.typing import Array, FloatArray


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


def least_squares(z: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weight (n, outputs) and bias of the linear regression of y on z."""
    center, level = z.mean(axis=0), y.mean(axis=0)
    weight = np.linalg.lstsq(z - center, y - level, rcond=1e-8)[0]
    return weight, level - center @ weight


def on_host(values: FloatArray) -> Array:
    """An array in the default precision that costs no compilation."""
    return values.astype(jax.dtypes.canonicalize_dtype(float))  # type: ignore[return-value]
