"""Pathwise expectation: samples are differentiable functions of the parameters of q."""

from collections.abc import Callable
from dataclasses import dataclass

import numpyro.distributions as dist

from identica.errors import DataError
from identica.typing import Array, Key

LogWeight = Callable[[Array, Array], Array]
"""``log_weight(z, log_q)``: z (K, …, n) and log q(z) (K, …) to log w (K, …), nats."""

Reduce = Callable[..., Array]
"""``reduce(log_weights)``: log weights (K, …) to one number per row (…); weighted nodes add their own
log-weights, ``reduce(log_weights, log_nodes)`` with log_nodes (K,)."""


@dataclass(frozen=True)
class Pathwise:
    """K reparametrised samples of q (Kingma and Welling, 2014; Burda et al., 2016).

    The value is the reduction of K log weights, and its automatic gradient is the pathwise gradient
    for the parameters of q and of everything that the log weight closes over.

    Attributes
    ----------
    samples : int
        Samples K per row.

    Raises
    ------
    DataError
        If `samples` is not positive.
    """

    samples: int = 1

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise DataError(f"samples must be at least 1, got {self.samples}")

    def __call__(self, q: dist.Distribution, log_weight: LogWeight, reduce: Reduce, *, key: Key) -> Array:
        """The reduction of log_weight over samples of q, nats (B,).

        Raises
        ------
        DataError
            If samples of q are not differentiable; score-function expectations need no derivative.
        """
        if not (hasattr(q, "sample_with_log_prob") or q.has_rsample):
            raise DataError(
                f"pathwise gradients need a reparametrised posterior, but {type(q).__name__} is not; "
                "use a score-function expectation instead"
            )
        z, log_q = sample_with_log_prob(q, key, self.samples)
        return reduce(log_weight(z, log_q))


def sample_with_log_prob(q: dist.Distribution, key: Key, count: int) -> tuple[Array, Array]:
    """Samples (K, …, n) and their log-densities (K, …) in nats, together where q can."""
    if hasattr(q, "sample_with_log_prob"):
        return q.sample_with_log_prob(key, (count,))  # type: ignore[attr-defined]
    z = q.rsample(key, (count,)) if q.has_rsample else q.sample(key, (count,))
    return z, q.log_prob(z)  # type: ignore[return-value, arg-type]
