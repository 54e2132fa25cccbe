"""Exact likelihood of a flow whose prior is a hidden Markov chain, and what leads to it.

Rows stand in order of time in stretches, which `Dataset.sequence` tells apart. A batch is cut into pieces
that run side by side; a piece begins anew, as if its past were unknown.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from identica.conditionals.hidden_markov import GaussianStates, HiddenMarkovPrior
from identica.data import Dataset, mean_over_rows
from identica.families.base import VARIANCE_FLOOR, ExponentialFamily
from identica.models.flow import FlowModel
from identica.objectives.exact_likelihood import latents_in_blocks
from identica.series.hidden_markov import Posterior
from identica.typing import Array, Key

PIECE = 100
"""Rows of a piece. Longer ones lose less at their borders and run longer one after another."""


class Pieces:
    """Rows (N, …) of a data set cut into pieces side by side, (L, B, …); the last one is filled up."""

    def __init__(self, batch: Dataset):
        self.n_rows = batch.n_rows
        self.length = min(PIECE, self.n_rows)
        self.count = -(-self.n_rows // self.length)
        weight = jnp.ones(self.n_rows, batch.x.dtype) if batch.weight is None else batch.weight
        self.weight = self.of(weight)
        new = jnp.zeros(self.n_rows, bool)
        if batch.sequence is not None:
            new = new.at[1:].set(batch.sequence[1:] != batch.sequence[:-1])
        self.first = self.of(new) | (self.weight == 0)

    def of(self, rows: Array) -> Array:
        """(N, …) to (L, B, …)."""
        extra = self.count * self.length - self.n_rows
        filled = jnp.pad(rows, [(0, extra)] + [(0, 0)] * (rows.ndim - 1))
        return jnp.swapaxes(filled.reshape(self.count, self.length, *rows.shape[1:]), 0, 1)

    def emission(self, log_emission: Array) -> Array:
        """Log-emissions (L, B, K) in which rows that fill up say nothing."""
        return jnp.where(self.weight[..., None] > 0, log_emission, 0.0)

    def posterior(self, states: GaussianStates | HiddenMarkovPrior, rows: Array) -> Posterior:
        """Of the states that rows (L, B, n) come from."""
        return states.posterior(self.emission(states.log_emission(rows)), self.first, self.weight)


@dataclass(frozen=True)
class HiddenMarkovLikelihood:
    """−(1/N) log p(x_1, …, x_N), exact, of a flow with a `HiddenMarkovPrior`, nats per row."""

    def __call__(self, system: FlowModel, batch: Dataset, *, key: Key) -> tuple[Array, dict[str, Array]]:
        prior = hidden_prior(system)
        z, log_det = latents_in_blocks(system, batch.x)
        cut = Pieces(batch)
        total = prior.log_likelihood(cut.emission(prior.log_emission(cut.of(z))), cut.first)
        return -total / cut.weight.sum() - mean_over_rows(log_det, batch.weight), {}


@dataclass(frozen=True)
class HeldOutHiddenMarkov:
    """The same of held-out rows."""

    def __call__(self, system: FlowModel, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return HiddenMarkovLikelihood()(system, held_out, key=key)[0]


@dataclass(frozen=True)
class StatesUpdate:
    """One step of expectation-maximisation of `GaussianStates`.

    Attributes
    ----------
    most_rows : int
        Rows that it looks at.
    """

    most_rows: int

    def __call__(self, states: GaussianStates, data: Dataset) -> tuple[GaussianStates, Array]:
        """The next states, and minus the penalised log-likelihood of these, nats per row."""
        data = data.head(self.most_rows)
        cut = Pieces(data)
        x = cut.of(data.x)
        found = cut.posterior(states, x)
        value = -(found.log_density.sum() + states.log_prior()) / cut.weight.sum()
        return GaussianStates.from_posterior(x, found), value


@dataclass(frozen=True)
class StatesLikelihood:
    """−(1/N) log p(x_1, …, x_N) of `GaussianStates`, nats per row."""

    def __call__(self, states: GaussianStates, batch: Dataset, *, key: Key) -> tuple[Array, dict[str, Array]]:
        cut = Pieces(batch)
        total = states.log_densities(cut.emission(states.log_emission(cut.of(batch.x))), cut.first).sum()
        return -total / cut.weight.sum(), {}


@dataclass(frozen=True)
class HeldOutStates:
    """The same of held-out rows."""

    def __call__(self, states: GaussianStates, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return StatesLikelihood()(states, held_out, key=key)[0]


def posterior_of(codes: Array, n_states: int, cut: Pieces) -> Posterior:
    """Of rows whose states (N,) are known."""
    probabilities = jax.nn.one_hot(cut.of(codes), n_states, dtype=cut.weight.dtype) * cut.weight[..., None]
    inside = jnp.where(cut.first[1:, :, None], 0.0, probabilities[1:])
    moves = jnp.einsum("lbi,lbj->ij", probabilities[:-1], inside)
    starts = jnp.where(cut.first[..., None], probabilities, 0.0).sum((0, 1)) + probabilities[0].sum(0)
    return Posterior(cut.weight, probabilities, starts, moves)


def states_of(system: GaussianStates | FlowModel, data: Dataset) -> Array:
    """The most probable state (N,) of each row, given its piece."""
    cut = Pieces(data)
    if isinstance(system, FlowModel):
        found = cut.posterior(hidden_prior(system), cut.of(latents_in_blocks(system, data.x)[0]))
    else:
        found = cut.posterior(system, cut.of(data.x))
    best = jnp.swapaxes(found.probabilities.argmax(-1), 0, 1)
    return best.reshape(-1)[: data.n_rows].astype(jnp.int32)


def with_states(flow: FlowModel, data: Dataset, codes: Array, n_states: int, steps: int) -> FlowModel:
    """The flow with the prior that states (N,) of the rows give it, after steps of EM of its own."""
    family = exponential(flow)
    cut = Pieces(data)
    z = cut.of(latents_in_blocks(flow, data.x)[0])
    known = posterior_of(codes, n_states, cut)
    prior = HiddenMarkovPrior.from_posterior(family, z, known, floor=VARIANCE_FLOOR)

    def step(_: int, prior: HiddenMarkovPrior) -> HiddenMarkovPrior:
        found = cut.posterior(prior, z)
        return HiddenMarkovPrior.from_posterior(family, z, found, floor=VARIANCE_FLOOR)

    return FlowModel(flow.demixer, flow.family, jax.lax.fori_loop(0, steps, step, prior))


def hidden_prior(system: FlowModel) -> HiddenMarkovPrior:
    """The prior of a flow with hidden states."""
    if not isinstance(system.prior, HiddenMarkovPrior):
        raise TypeError(f"expected a flow with a HiddenMarkovPrior, got {type(system.prior).__name__}")
    return system.prior


def exponential(flow: FlowModel) -> ExponentialFamily:
    """The flow's family, whose M-step must be a closed form of averaged statistics."""
    if not isinstance(flow.family, ExponentialFamily):
        raise TypeError(f"hidden states need an exponential family, got {type(flow.family).__name__}")
    return flow.family
