"""Reductions: K log weights of a row become one number."""

import math
from dataclasses import dataclass

import jax

from identica.typing import Array


@dataclass(frozen=True)
class Mean:
    """The average of the log weights: the evidence lower bound (ELBO)."""

    def __call__(self, log_weights: Array) -> Array:
        """(K, …) to (…), nats."""
        return log_weights.mean(0)


@dataclass(frozen=True)
class LogMeanExp:
    """The logarithm of the average weight: the bound of Burda et al. (2016, eq. 8).

    It lies between the ELBO and log p(x|u), rises with K and converges to log p(x|u).
    """

    def __call__(self, log_weights: Array) -> Array:
        """(K, …) to (…), nats."""
        return jax.nn.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])
