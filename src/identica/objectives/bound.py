"""Variational bounds of log p(x|u): an expectation over q and a reduction of log weights."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax.numpy as jnp
from numpyro.distributions import kl_divergence

from identica.conditionals import Evidence
from identica.data import Dataset, mean_over_rows
from identica.errors import DataError
from identica.expectations import Pathwise, Sampled
from identica.expectations.nodes import WeightedNodes
from identica.models.latent_variable import VariationalModel
from identica.objectives.reductions import LogMeanExp, Mean
from identica.typing import Array, Key

EVALUATION_ROWS = 4096
"""Most held-out rows that rank restarts: enough for a standard error far below their differences."""


@dataclass(frozen=True)
class Bound:
    """−Reduce_k[log p(x|z_k) + β (log p(z_k|u) − log q(z_k|x, u))], nats per row.

    β = 1 with `Mean` is the ELBO, with `LogMeanExp` the importance-weighted bound; both are at most
    log p(x|u). Another β (Higgins et al., 2017) is no bound of it unless β > 1.

    Attributes
    ----------
    expectation : Sampled or WeightedNodes
        Samples of q, and how a gradient passes through them; or nodes, which make the bound deterministic.
    reduction : Mean or LogMeanExp
    beta : float
        Weight of the divergence.
    divergence : {"sampled", "analytic"}
        Whether KL(q‖p) is estimated from the same samples or taken in closed form, which has less
        variance for wide posteriors and more for precise ones. Analytic needs `Mean`.
    """

    expectation: Sampled | WeightedNodes = field(default_factory=Pathwise)
    reduction: Mean | LogMeanExp = field(default_factory=Mean)
    beta: float = 1.0
    divergence: Literal["sampled", "analytic"] = "sampled"

    def __post_init__(self) -> None:
        if self.divergence == "analytic" and not isinstance(self.reduction, Mean):
            raise DataError("divergence='analytic' needs reduction=Mean(); use divergence='sampled'")
        if self.beta < 0:
            raise DataError(f"beta must not be negative, got {self.beta}")
        weighted, analytic = isinstance(self.reduction, LogMeanExp), self.divergence == "analytic"
        if weighted and self.beta != 1:
            raise DataError(
                f"beta={self.beta} has no meaning for objective='iwae', whose weights are not split into "
                "reconstruction and divergence; use objective='elbo'"
            )
        self.expectation.check_objective(weighted=weighted, analytic=analytic)

    def __call__(
        self, system: VariationalModel, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        """The negative mean bound of a batch, to be minimised."""
        return -mean_over_rows(self.rows(system, batch, key=key), batch.weight), {}

    def rows(self, system: VariationalModel, batch: Dataset, *, key: Key) -> Array:
        """The bound of each row, nats (B,)."""
        prior = system.model.prior(batch.u)
        q = system.encoder(Evidence(batch.x, batch.u, prior))

        def log_likelihood(z: Array, log_q: Array) -> Array:
            return system.model.likelihood(z).log_prob(batch.x)  # type: ignore[return-value]

        def log_weight(z: Array, log_q: Array) -> Array:
            return log_likelihood(z, log_q) + self.beta * (prior.log_prob(z) - log_q)

        if self.divergence == "analytic":
            expected = self.expectation(q, log_likelihood, self.reduction, key=key)
            return expected - self.beta * kl_divergence(q, prior)
        return self.expectation(q, log_weight, self.reduction, key=key)

    def evaluated_with(self, samples: int) -> "Bound":
        """The same value with another number of samples per row, for looking at and not for training."""
        return replace(self, expectation=Pathwise(samples))


def importance_weighted(samples: int) -> Bound:
    """The importance-weighted bound with K samples."""
    return Bound(Pathwise(samples), LogMeanExp())


@dataclass(frozen=True)
class HeldOutBound:
    """The negative bound of held-out rows, which ranks restarts and chooses the best weights.

    Attributes
    ----------
    bound : Bound or another objective that is one
    """

    bound: Any

    def __call__(self, system: Any, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return self.bound(system, held_out.head(EVALUATION_ROWS), key=key)[0]


@dataclass(frozen=True)
class WeightedSum:
    """A weighted sum of objectives that share a system.

    Attributes
    ----------
    parts : tuple of (weight, objective)
    """

    parts: tuple[tuple[float, object], ...]

    def __call__(
        self, system: VariationalModel, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        total, metrics = jnp.zeros((), batch.x.dtype), {}
        for weight, objective in self.parts:
            loss, more = objective(system, batch, key=key)  # type: ignore[operator]
            total = total + weight * loss
            metrics |= {type(objective).__name__: loss, **more}
        return total, metrics
