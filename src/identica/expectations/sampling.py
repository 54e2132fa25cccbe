"""What expectations over samples of a posterior share, whatever the gradient that passes through them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpyro.distributions as dist

from identica.errors import DataError
from identica.typing import Array, Key

LogWeight = Callable[[Array, Array], Array]
"""``log_weight(z, log_q)``: z (K, …, n) and log q(z) (K, …) to log w (K, …), nats."""

Reduce = Callable[..., Array]
"""``reduce(log_weights)``: log weights (K, …) to one number per row (…); weighted nodes add their own
log-weights, ``reduce(log_weights, log_nodes)`` with log_nodes (K,)."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Sampled(ABC):
    """The reduction of K log weights at samples of q; subclasses differ in its automatic gradient.

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

    @abstractmethod
    def __call__(self, q: dist.Distribution, log_weight: LogWeight, reduce: Reduce, *, key: Key) -> Array:
        """The reduction of log_weight over samples of q, nats (B,)."""

    def check_objective(self, *, weighted: bool, analytic: bool) -> None:  # noqa: B027 - fits by default
        """Refuse an objective whose gradient this would not be.

        Parameters
        ----------
        weighted : bool
            Whether weights are averaged before the logarithm (importance-weighted bound), not after.
        analytic : bool
            Whether KL(q‖p) is taken in closed form, so that log q is not in the log weight.

        Raises
        ------
        DataError
            Naming what to take instead.
        """


def sample_with_log_prob(q: dist.Distribution, key: Key, count: int) -> tuple[Array, Array]:
    """Samples (K, …, n) and their log-densities (K, …) in nats, together where q can."""
    if hasattr(q, "sample_with_log_prob"):
        return q.sample_with_log_prob(key, (count,))  # type: ignore[attr-defined]
    z = q.rsample(key, (count,)) if q.has_rsample else q.sample(key, (count,))
    return z, q.log_prob(z)  # type: ignore[return-value, arg-type]


def pathwise_samples(q: dist.Distribution, key: Key, count: int) -> tuple[Array, Array]:
    """Samples as differentiable functions of the parameters of q, and their log-densities.

    Raises
    ------
    DataError
        If samples of q are not differentiable.
    """
    if not (hasattr(q, "sample_with_log_prob") or q.has_rsample):
        raise DataError(
            f"pathwise gradients need a reparametrised posterior, but {type(q).__name__} is not; "
            "use a score-function expectation instead"
        )
    return sample_with_log_prob(q, key, count)


def stopped(tree: _T) -> _T:
    """The same distribution or array, through which no gradient passes."""
    return jax.tree.map(jax.lax.stop_gradient, tree)
