"""Sticking the landing: the pathwise gradient without the score of q, whose mean is zero."""

from dataclasses import dataclass

import numpyro.distributions as dist

from identica.errors import DataError
from identica.expectations.sampling import LogWeight, Reduce, Sampled, pathwise_samples, stopped
from identica.typing import Array, Key


@dataclass(frozen=True)
class StickingTheLanding(Sampled):
    """Pathwise samples with the parameters of q held fixed inside log q (Roeder, Wu, Duvenaud, 2017).

    What is dropped is E ∇ log q(z) = 0 for fixed z. What is left vanishes for every single sample where
    q is the posterior, so that training settles there. Unbiased for averages of log weights, the ELBO with any
    number of samples; biased for the importance-weighted bound with more than one sample, which is refused.
    """

    def __call__(self, q: dist.Distribution, log_weight: LogWeight, reduce: Reduce, *, key: Key) -> Array:
        """The reduction of log_weight over samples of q, nats (B,)."""
        z, _ = pathwise_samples(q, key, self.samples)
        return reduce(log_weight(z, stopped(q).log_prob(z)))  # type: ignore[arg-type]

    def check_objective(self, *, weighted: bool, analytic: bool) -> None:
        if weighted and self.samples > 1:
            raise DataError(
                f"gradient='stl' is biased for the importance-weighted bound with {self.samples} samples; "
                "use gradient='dreg', or objective='elbo'"
            )
        if analytic:
            raise DataError(
                "gradient='stl' takes log q out of sampled log weights, but divergence='analytic' has none there; "
                "use divergence='sampled', or gradient='pathwise'"
            )
