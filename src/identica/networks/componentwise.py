"""A small network for each component: functions of one number each, side by side."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.random import host_rng
from identica.typing import Array, Key


class ComponentwiseNetwork(eqx.Module):
    """k functions of every component: a_i(h_i) = tanh(h_i v_i + c_i) W_i + b_i, one hidden layer each.

    No function sees two components, so that a sum over components stays a sum of functions of one each.

    Attributes
    ----------
    slope, shift : (n, q)
        v and c, for q hidden units.
    weight : (n, q, k)
    bias : (n, k)
    """

    slope: Array
    shift: Array
    weight: Array
    bias: Array

    @classmethod
    def random(
        cls, n: int, n_hidden: int, n_outputs: int, *, key: Key, last_scale: float = 1.0
    ) -> "ComponentwiseNetwork":
        """Units whose kinks are spread over three standard deviations of a standardised component.

        Parameters
        ----------
        n, n_hidden, n_outputs : int
            Components, hidden units and outputs of each.
        key : Key
        last_scale : float
            Factor on the last layer's initial weights.
        """
        rng = host_rng(key)
        dtype = jax.dtypes.canonicalize_dtype(float)
        slope = rng.uniform(0.5, 2.0, (n, n_hidden)) * rng.choice([-1.0, 1.0], (n, n_hidden))
        shift = -slope * rng.uniform(-3.0, 3.0, (n, n_hidden))
        weight = last_scale * rng.standard_normal((n, n_hidden, n_outputs)) / np.sqrt(n_hidden)
        bias = np.zeros((n, n_outputs))
        return cls(*(array.astype(dtype) for array in (slope, shift, weight, bias)))  # type: ignore[arg-type]

    def __call__(self, h: Array) -> Array:
        """(B, n) to (B, n, k)."""
        hidden = jnp.tanh(h[..., None] * self.slope + self.shift)
        return jnp.einsum("bnq,nqk->bnk", hidden, self.weight) + self.bias
