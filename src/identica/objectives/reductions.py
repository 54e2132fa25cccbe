"""Reductions: K log weights of a row become one number, weighted where nodes carry weights."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from identica.typing import Array


@dataclass(frozen=True)
class Mean:
    """The average of the log weights: the evidence lower bound (ELBO)."""

    def __call__(self, log_weights: Array, log_nodes: Array | None = None) -> Array:
        """(K, …) to (…), nats; with log_nodes (K,) the average is weighted."""
        if log_nodes is None:
            return log_weights.mean(0)
        return jnp.tensordot(jnp.exp(log_nodes), log_weights, axes=1, precision="highest")


@dataclass(frozen=True)
class LogMeanExp:
    """The logarithm of the average weight: the bound of Burda et al. (2016, eq. 8).

    It lies between the ELBO and log p(x|u), rises with K and converges to log p(x|u).
    """

    def __call__(self, log_weights: Array, log_nodes: Array | None = None) -> Array:
        """(K, …) to (…), nats; with log_nodes (K,) the average weight is weighted."""
        if log_nodes is None:
            return jax.nn.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])
        shape = (-1,) + (1,) * (log_weights.ndim - 1)
        return jax.nn.logsumexp(log_weights + log_nodes.reshape(shape), axis=0)
