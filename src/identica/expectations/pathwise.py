"""Pathwise expectation: samples are differentiable functions of the parameters of q."""

from dataclasses import dataclass

import numpyro.distributions as dist

from identica.expectations.sampling import (
    LogWeight,
    Reduce,
    Sampled,
    pathwise_samples,
    sample_with_log_prob,
)
from identica.typing import Array, Key

__all__ = ["LogWeight", "Pathwise", "Reduce", "sample_with_log_prob"]


@dataclass(frozen=True)
class Pathwise(Sampled):
    """K reparametrised samples of q (Kingma and Welling, 2014; Burda et al., 2016).

    The value is the reduction of K log weights, and its automatic gradient is the pathwise gradient
    for the parameters of q and of everything that the log weight closes over. Unbiased for every
    objective; for the importance-weighted bound its signal-to-noise ratio falls with K (Rainforth et al., 2018).
    """

    def __call__(self, q: dist.Distribution, log_weight: LogWeight, reduce: Reduce, *, key: Key) -> Array:
        """The reduction of log_weight over samples of q, nats (B,).

        Raises
        ------
        DataError
            If samples of q are not differentiable; score-function expectations need no derivative.
        """
        return reduce(log_weight(*pathwise_samples(q, key, self.samples)))
