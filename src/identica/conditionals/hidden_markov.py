"""A prior whose u is a hidden Markov chain, and hidden states of plain Gaussians, with which a fit begins."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from identica.conditionals.priors import ModulatedPrior, Table
from identica.conditionals.small_matrices import cholesky_with_inverse
from identica.families import ExponentialFamily
from identica.series.hidden_markov import Posterior, log_densities, log_likelihood, posterior
from identica.typing import Array

LEAST_PROBABILITY = 1e-6
"""Share of the uniform law in every transition, so that no row is impossible after any other."""

_STRENGTH = 0.5
"""Rows' worth of unit variance that each state's covariance is given."""


class HiddenMarkovPrior(ModulatedPrior):
    """p(z_1, …, z_T) = Σ over paths of states of p(states) Π_t p(z_t | state), the states a Markov chain.

    Equation (2) of Hälvä and Hyvärinen (2020). As a `ModulatedPrior` its u is the state, and one row alone
    has the mixture of all states: ``parameters.log_shares`` are both the shares of states and the
    probabilities of a series' first one.

    Attributes
    ----------
    log_moves : (K, K)
        Logits of the transitions from each state (row).
    """

    parameters: Table  # pyright: ignore[reportIncompatibleVariableOverride]
    log_moves: Array

    @property
    def n_states(self) -> int:
        """Number K of states."""
        return self.log_moves.shape[0]

    @property
    def log_initial(self) -> Array:
        """Logarithms of the probabilities of a first state (K,)."""
        return jax.nn.log_softmax(self.parameters.log_shares)

    @property
    def log_transition(self) -> Array:
        """Logarithms of the transition matrix (K, K), from row to column."""
        spread = LEAST_PROBABILITY / self.n_states
        return jnp.log((1 - LEAST_PROBABILITY) * jax.nn.softmax(self.log_moves, axis=1) + spread)

    def log_emission(self, z: Array) -> Array:
        """log p(z|state) of rows z (…, n), as (…, K), nats."""
        natural = self.family.natural_parameters(self.parameters.raw)
        return self.family.log_prob(z[..., None, :], natural).sum(-1)

    def posterior(self, log_emission: Array, first: Array, weight: Array | None = None) -> Posterior:
        """Probabilities of states given log-emissions (L, B, K)."""
        return posterior(log_emission, first, self.log_initial, self.log_transition, weight)

    def log_likelihood(self, log_emission: Array, first: Array) -> Array:
        """Of all rows together, nats, from log-emissions (L, B, K)."""
        return log_likelihood(log_emission, first, self.log_initial, self.log_transition)

    @classmethod
    def from_posterior(
        cls, family: ExponentialFamily, z: Array, found: Posterior, *, floor: float
    ) -> "HiddenMarkovPrior":
        """The M-step: the best prior for rows z (L, B, n) whose states have such probabilities."""
        weights = found.probabilities.reshape(-1, found.probabilities.shape[-1])
        counts = weights.sum(0)
        statistics = family.sufficient_statistics(z.reshape(-1, z.shape[-1]))
        totals = jnp.einsum("rm,rnk->mnk", weights, statistics, precision="highest")
        pooled = totals.sum(0) / counts.sum()
        # One row's worth of the average keeps states of hardly any rows from shrinking to a point.
        means = (totals + pooled) / (counts + 1)[:, None, None]
        natural = family.natural_from_expectation(means, floor=floor)
        log_initial, log_moves = chain_from_counts(found.starts, found.moves)
        return cls(family, Table(family.raw_from_natural(natural), log_initial), log_moves)


class GaussianStates(eqx.Module):
    """A hidden Markov model of x itself: one Gaussian with full covariance per state.

    It knows nothing of sources, but where states differ clearly, it finds them in seconds, and a network
    that is trained on its states soon tells them apart better.

    Attributes
    ----------
    means : (K, n)
    factors : (K, n, n)
        Lower-triangular C with precision Cᵀ C.
    log_initial : (K,)
    log_transition : (K, K)
    """

    means: Array
    factors: Array
    log_initial: Array
    log_transition: Array

    @classmethod
    def from_posterior(cls, x: Array, found: Posterior) -> "GaussianStates":
        """The M-step for rows x (L, B, n), under `log_prior`."""
        rows = x.reshape(-1, x.shape[-1])
        weights = found.probabilities.reshape(-1, found.probabilities.shape[-1])
        counts = jnp.maximum(weights.sum(0), 1e-6)
        means = (weights.T @ rows) / counts[:, None]
        identity = _STRENGTH * jnp.eye(rows.shape[1], dtype=x.dtype)

        def covariance(state: tuple[Array, Array, Array]) -> Array:
            weight, mean, count = state
            deviation = rows - mean
            return ((deviation * weight[:, None]).T @ deviation + identity) / count

        # One state at a time: deviations from all means at once would be K times the data.
        covariances = jax.lax.map(covariance, (weights.T, means, counts))
        _, inverse = cholesky_with_inverse(jnp.moveaxis(covariances, 0, -1))
        return cls(means, jnp.moveaxis(inverse, -1, 0), *chain_from_counts(found.starts, found.moves))

    def log_emission(self, x: Array) -> Array:
        """log p(x|state) of rows x (…, n), as (…, K), nats."""
        count, n = self.means.shape
        flat = x.reshape(-1, n)
        turned = (flat @ self.factors.reshape(count * n, n).T).reshape(-1, count, n)
        centre = jnp.einsum("kij,kj->ki", self.factors, self.means)
        log_det = jnp.log(jnp.diagonal(self.factors, axis1=1, axis2=2)).sum(1)
        log_p = log_det - 0.5 * (((turned - centre) ** 2).sum(-1) + n * math.log(2 * math.pi))
        return log_p.reshape(*x.shape[:-1], count)

    def posterior(self, log_emission: Array, first: Array, weight: Array | None = None) -> Posterior:
        """Probabilities of states given log-emissions (L, B, K)."""
        return posterior(log_emission, first, self.log_initial, self.log_transition, weight)

    def log_densities(self, log_emission: Array, first: Array) -> Array:
        """log p(x_t | past) (L, B), nats, from log-emissions (L, B, K)."""
        return log_densities(log_emission, first, self.log_initial, self.log_transition)

    def log_prior(self) -> Array:
        """What EM adds to the log-likelihood, nats: variances and probabilities that stay above 0."""
        share = 1.0 / self.log_initial.shape[0]
        chain = share * (self.log_initial.sum() + self.log_transition.sum())
        return chain - 0.5 * _STRENGTH * (self.factors**2).sum()


def chain_from_counts(starts: Array, moves: Array) -> tuple[Array, Array]:
    """Logarithms of initial (K,) and transition (K, K) probabilities from expected counts.

    Each state begins with one start and one move, spread over all states.
    """
    starts, moves = starts + 1 / starts.shape[0], moves + 1 / starts.shape[0]
    return jnp.log(starts / starts.sum()), jnp.log(moves / moves.sum(1, keepdims=True))
