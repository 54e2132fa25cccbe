"""The bound whose posteriors Gauss and Newton find, and the encoder that learns where they will."""

import math
from dataclasses import dataclass

import jax

from identica.conditionals import Decoder, Evidence
from identica.conditionals.encoders import rows_last_moments
from identica.conditionals.gauss_newton import local_posterior
from identica.data import Dataset, mean_over_rows
from identica.models.latent_variable import VariationalModel
from identica.typing import Array, Key

_FOLLOWING = 0.3
"""Weight of the encoder's own objective."""


@dataclass(frozen=True)
class RefinedBound:
    """−mean log (1/K) Σ_k p(x, z_k|u) / q(z_k), nats per row, with q the local posterior of `GaussNewtonPosterior`.

    As q is nearly the posterior, weights are nearly one number, and their gradient nearly without variance. Added to it
    is −E_q log of the encoder's density, of which only the encoder learns: it follows q, as where the search begins.

    Attributes
    ----------
    samples : int
        Number K per row.
    steps : int
        Gauss-Newton steps before the last. Training needs few: the encoder is near, and weights repair what is left.
    following : float
        Weight of the encoder's part; 0 for looking at.
    """

    samples: int
    steps: int = 1
    following: float = _FOLLOWING

    def __call__(
        self, system: VariationalModel, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        prior = system.model.prior(batch.u)
        decoder: Decoder = system.model.likelihood  # type: ignore[assignment]
        still = jax.lax.stop_gradient(system.model.prior)(batch.u)
        encoded = system.encoder(Evidence(batch.x, batch.u, still))
        start = jax.lax.stop_gradient(encoded.mean).T  # type: ignore[union-attr]
        q = local_posterior(decoder, batch.x, rows_last_moments(prior, len(batch.x)), start, self.steps)
        z, log_q = q.sample_with_log_prob(key, (self.samples,))
        log_weight = decoder(z).log_prob(batch.x) + prior.log_prob(z) - log_q
        rows = jax.nn.logsumexp(log_weight, axis=0) - math.log(self.samples)  # type: ignore[arg-type]
        loss = -mean_over_rows(rows, batch.weight)
        if not self.following:
            return loss, {}
        follows = encoded.log_prob(jax.lax.stop_gradient(z)).mean(0)  # type: ignore[union-attr]
        return loss - self.following * mean_over_rows(follows, batch.weight), {"bound": -loss}
