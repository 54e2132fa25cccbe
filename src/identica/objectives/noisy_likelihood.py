"""Likelihood of a flow under noise, by importance samples of the clean observation."""

import math
from dataclasses import dataclass

import jax

from identica.data import Dataset, mean_over_rows
from identica.models.noisy_flow import NoisyFlow
from identica.typing import Array, Key


@dataclass(frozen=True)
class NoisyLikelihood:
    """−mean log (1/K) Σ_k w_k, nats per row: an upper bound of −log p(x|u) that tightens with K.

    Equation (8) of Burda, Grosse, Salakhutdinov (2016), with the clean observation as latent and Laplace's
    approximation in place of an encoder.

    Attributes
    ----------
    samples : int
        Number K per row.
    """

    samples: int

    def __call__(self, system: NoisyFlow, batch: Dataset, *, key: Key) -> tuple[Array, dict[str, Array]]:
        logs = system.log_weights(batch.x, batch.u, self.samples, key=key)
        rows = jax.nn.logsumexp(logs, axis=0) - math.log(self.samples)
        return -mean_over_rows(rows, batch.weight), {}
