"""Score-function gradients: no derivative of samples is needed, at the price of variance."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from identica.expectations.sampling import LogWeight, Reduce, Sampled, sample_with_log_prob, stopped
from identica.typing import Array, Key


@dataclass(frozen=True)
class ScoreFunction(Sampled):
    """Σ_k (L − L₋ₖ) ∇ log q(z_k), with a baseline L₋ₖ from the other samples (REINFORCE, leave one out).

    L is the reduced value and L₋ₖ the same with the k-th log weight replaced by the mean of the others:
    for the average of log weights (f_k − mean of the other f)/K, for the importance-weighted bound VIMCO
    (Mnih and Rezende, 2016). A baseline that does not depend on z_k leaves the gradient unbiased. A single
    sample has no others, and goes without.

    The direct gradient of log q inside the log weight enters as deviation from its average over samples: the
    average has mean zero, and without it the gradient vanishes for every draw where q is the posterior.
    """

    def __call__(self, q: dist.Distribution, log_weight: LogWeight, reduce: Reduce, *, key: Key) -> Array:
        """The reduction of log_weight over samples of q, nats (B,); q need not be reparametrised."""
        z, _ = stopped(sample_with_log_prob(q, key, self.samples))
        log_q = q.log_prob(z)

        def reduced(log_q: Array) -> tuple[Array, Array]:
            log_weights = log_weight(z, log_q)
            return reduce(log_weights), log_weights

        value, pull_back, log_weights = jax.vjp(reduced, stopped(log_q), has_aux=True)
        (direct,) = pull_back(jnp.ones_like(value))
        signal = value - self._without_each(log_weights, reduce) + direct - direct.mean(0)
        # Worth zero, and its gradient is the estimator's.
        return value + (stopped(signal) * (log_q - stopped(log_q))).sum(0)  # type: ignore[operator]

    def _without_each(self, log_weights: Array, reduce: Reduce) -> Array:
        """L₋ₖ (K, …)."""
        if self.samples == 1:
            return jnp.zeros_like(log_weights)
        others = (log_weights.sum(0) - log_weights) / (self.samples - 1)
        same = jnp.eye(self.samples, dtype=bool).reshape(2 * (self.samples,) + (1,) * (log_weights.ndim - 1))
        # Axes: which term of the reduction, which sample is left out, rows.
        return reduce(jnp.where(same, others[None], log_weights[:, None]))
