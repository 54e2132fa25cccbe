"""One row of a latent-variable model: log p(x, z|u) as a function of z, and what z is drawn from."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from identica.conditionals import Conditional, Decoder, Evidence, ModulatedPrior
from identica.conditionals.laplace import LaplaceEncoder
from identica.data import Dataset
from identica.errors import DataError
from identica.expectations import sample_with_log_prob
from identica.families import as_distribution
from identica.models import VariationalModel
from identica.models.marginal_posterior import MixturePosterior, mixture_posterior
from identica.typing import Array, Key

Proposal = Literal["encoder", "laplace", "prior"]
PROPOSALS = get_args(Proposal)
"""What draws of z may come from: the encoder's posterior, Laplace's approximation, the prior."""

PRIOR_SHARE = 0.1
"""Share of the prior in laws that are defended by it."""

ROWS_AT_ONCE = 64
"""Rows computed side by side; a row's result does not depend on the others."""


class RowLaw:
    """A distribution of one row's z, without the axis of rows.

    Parameters
    ----------
    given : numpyro Distribution
        Event shape (n,), batch shape (1,) or ().
    """

    def __init__(self, given: dist.Distribution):
        self.given = given

    def sample_with_log_prob(self, key: Key, count: int) -> tuple[Array, Array]:
        """Draws (K, n) and their log-densities (K,), nats."""
        z, log_q = sample_with_log_prob(self.given, key, count)
        return (z[:, 0], log_q[:, 0]) if self.given.batch_shape else (z, log_q)

    def log_prob(self, z: Array) -> Array:
        """Log-densities (K,) of z (K, n), nats."""
        if self.given.batch_shape:
            return jnp.asarray(self.given.log_prob(z[:, None]))[:, 0]
        return jnp.asarray(self.given.log_prob(z))

    def moments(self) -> tuple[Array, Array]:
        """Mean and variance of each component, (n,)."""
        shape = (1, *self.given.event_shape)
        mean, variance = jnp.asarray(self.given.mean), jnp.asarray(self.given.variance)
        return jnp.broadcast_to(mean, shape)[0], jnp.broadcast_to(variance, shape)[0]

    def is_gaussian(self) -> bool:
        """Whether components are independent Gaussians."""
        given = self.given
        return isinstance(given, dist.Independent) and isinstance(given.base_dist, dist.Normal)


class Defended:
    """A law with a share of the prior mixed in, so that importance weights are bounded (Hesterberg, 1995).

    Parameters
    ----------
    law, prior : RowLaw
    """

    def __init__(self, law: RowLaw, prior: RowLaw):
        self.law, self.prior = law, prior

    def sample_with_log_prob(self, key: Key, count: int) -> tuple[Array, Array]:
        """Draws (K, n) and their log-densities (K,), nats."""
        first, second, choice = jax.random.split(key, 3)
        own, wide = (
            law.sample_with_log_prob(k, count)[0] for law, k in ((self.law, first), (self.prior, second))
        )
        z = jnp.where(jax.random.uniform(choice, (count, 1)) < PRIOR_SHARE, wide, own)
        return z, self.log_prob(z)

    def log_prob(self, z: Array) -> Array:
        """Log-densities (K,) of z (K, n), nats."""
        return jnp.logaddexp(
            self.law.log_prob(z) + math.log1p(-PRIOR_SHARE), self.prior.log_prob(z) + math.log(PRIOR_SHARE)
        )

    def moments(self) -> tuple[Array, Array]:
        """Mean and variance of each component of the law itself, (n,)."""
        return self.law.moments()


class Target(NamedTuple):
    """log p(x, z|u) of one row.

    Attributes
    ----------
    prior : RowLaw
        p(z|u), or p(z) as the mixture over u where the row has none.
    posterior : RowLaw or MixturePosterior
        The encoder's q(z|x, u), or q(z|x) as a mixture over u.
    likelihood : Conditional
        p(x|z).
    x : (d,)
    """

    prior: RowLaw
    posterior: Any
    likelihood: Conditional
    x: Array

    @classmethod
    def of_row(cls, system: VariationalModel, row: Dataset) -> "Target":
        """The target of one row: x (d,), and u () or (m,) or None."""
        x, prior, likelihood = row.x, system.model.prior, system.model.likelihood
        if is_without_u(system, row.u):
            return cls(RowLaw(_prior_without_u(prior)), _mixture(system, x), likelihood, x)  # type: ignore[arg-type]
        u = None if row.u is None else row.u[None]
        return cls(RowLaw(prior(u)), RowLaw(system.posterior(x[None], u)), likelihood, x)

    def log_likelihood(self, z: Array) -> Array:
        """log p(x|z), nats (K,), of z (K, n)."""
        return jnp.asarray(self.likelihood(z).log_prob(self.x))

    def log_joint(self, z: Array) -> Array:
        """log p(x, z|u), nats (K,), of z (K, n)."""
        return self.prior.log_prob(z) + self.log_likelihood(z)

    def law(self, name: Proposal) -> Any:
        """What z is drawn from: the encoder's posterior, the mode's neighbourhood, or the prior.

        ``"laplace"`` mixes the prior into Laplace's approximation, whose tails are often too light.
        """
        if name == "encoder":
            return self.posterior
        return self.prior if name == "prior" else Defended(self.laplace(), self.prior)

    def laplace(self) -> RowLaw:
        """Laplace's approximation of the posterior.

        Raises
        ------
        DataError
            If p(x|z) is no `Decoder`, of which it needs the network.
        """
        if not isinstance(self.likelihood, Decoder):
            raise DataError(
                f"Laplace's approximation needs a decoder network, got {type(self.likelihood).__name__}; "
                "use proposal='encoder'"
            )
        n = self.prior.given.event_shape[0]
        return RowLaw(LaplaceEncoder(self.likelihood, n)(Evidence(self.x[None], None, self.prior.given)))


def is_without_u(system: VariationalModel, u: Any) -> bool:
    """Whether the prior depends on u and u is not given, so that p(z) is a mixture over its values."""
    return u is None and isinstance(system.model.prior, ModulatedPrior)


def over_rows(
    function: Callable[..., Any], system: VariationalModel, rows: Dataset, keys: Array, *more: Array
) -> Any:
    """``function(target, key, …)`` of every row, `ROWS_AT_ONCE` at a time, results stacked along rows.

    Parameters
    ----------
    function : callable
    system : VariationalModel
    rows : Dataset
        x (B, d), and u (B, …) or None.
    keys : (B, …)
        Raw key data, one key per row.
    *more : (B, …) arrays
        What else the function is given of each row.
    """

    def one(item: Any) -> Any:
        row, key, *rest = item
        return function(Target.of_row(system, row), jax.random.wrap_key_data(key), *rest)

    return jax.lax.map(one, (rows, keys, *more), batch_size=ROWS_AT_ONCE)


def _prior_without_u(prior: ModulatedPrior) -> dist.Distribution:
    natural, log_weights = prior.parts()
    parts = as_distribution(prior.family, natural).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=log_weights), parts)


def _mixture(system: VariationalModel, x: Array) -> MixturePosterior:
    return mixture_posterior(system.encoder, system.model.prior, x)  # type: ignore[arg-type]
