"""Hidden Markov chains: the likelihood of a series, probabilities of states, the most probable path.

Arrays run along time first: emissions are (L, B, K), for L rows of B series side by side and K states. Series
may begin anywhere: ``first`` (L, B) marks their first rows, so that pieces of unequal length share one array.
Sums are scaled row by row (Rabiner, 1989), which keeps them in range without a logarithm per step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from identica.typing import Array


class Posterior(NamedTuple):
    """What the rows say of the states.

    Attributes
    ----------
    log_density : (L, B)
        log p(x_t | rows of the series before it), nats; its sum is the log-likelihood.
    probabilities : (L, B, K)
        Of each state given all rows of the series.
    starts : (K,)
        Expected number of series that begin in each state.
    moves : (K, K)
        Expected number of steps from one state to another.
    """

    log_density: Array
    probabilities: Array
    starts: Array
    moves: Array


def posterior(
    log_emission: Array,
    first: Array,
    log_initial: Array,
    log_transition: Array,
    weight: Array | None = None,
) -> Posterior:
    """Forward-backward algorithm (Baum et al., 1970).

    Parameters
    ----------
    log_emission : (L, B, K)
        log p(x_t | state), nats.
    first : (L, B) bool
        Rows that begin a series; row 0 always does.
    log_initial : (K,)
        Logarithms of the probabilities of a series' first state.
    log_transition : (K, K)
        From row to column.
    weight : (L, B), optional
        0 for rows that only fill the array, which have no probabilities then; they begin series of their own.
    """
    first = first.at[0].set(True)
    transition = jnp.exp(log_transition)
    log_density, emission, forward, norm = _forward(log_emission, first, log_initial, transition)

    def back(message: Array, row: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        emission, norm, first = row
        weighted = emission * message / norm[:, None]
        before = jnp.where(first[:, None], 1.0, weighted @ transition.T)
        return before, (message, weighted)

    ones = jnp.ones_like(forward[0])
    _, (message, weighted) = jax.lax.scan(back, ones, (emission, norm, first), reverse=True)
    probabilities = forward * message
    if weight is not None:
        probabilities = probabilities * weight[..., None]
    inside = jnp.where(first[1:, :, None], 0.0, weighted[1:])
    states = forward.shape[-1]
    moves = forward[:-1].reshape(-1, states).T @ inside.reshape(-1, states) * transition
    starts = jnp.where(first[:, :, None], probabilities, 0.0).sum((0, 1))
    return Posterior(log_density, probabilities, starts, moves)


def log_densities(log_emission: Array, first: Array, log_initial: Array, log_transition: Array) -> Array:
    """log p(x_t | rows of the series before it) (L, B), nats: the forward algorithm."""
    first = first.at[0].set(True)
    return _forward(log_emission, first, log_initial, jnp.exp(log_transition))[0]


@jax.custom_vjp
def log_likelihood(log_emission: Array, first: Array, log_initial: Array, log_transition: Array) -> Array:
    """Sum of `log_densities`, a scalar; its derivatives are expectations under the posterior (Fisher's identity).

    So one pass back gives them, and nothing is differentiated through the recursion.
    """
    return log_densities(log_emission, first, log_initial, log_transition).sum()


def _value(
    log_emission: Array, first: Array, log_initial: Array, log_transition: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    found = posterior(log_emission, first, log_initial, log_transition)
    return found.log_density.sum(), (found.probabilities, found.starts, found.moves)


def _slopes(saved: tuple[Array, Array, Array], slope: Array) -> tuple[Array, None, Array, Array]:
    probabilities, starts, moves = saved
    return slope * probabilities, None, slope * starts, slope * moves


log_likelihood.defvjp(_value, _slopes)


def most_probable_path(log_emission: Array, first: Array, log_initial: Array, log_transition: Array) -> Array:
    """States (L, B) of greatest joint probability (Viterbi, 1967); parameters as in `posterior`."""
    first = first.at[0].set(True)
    n_states = log_emission.shape[-1]

    def forward(score: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        emission, first = row
        arrivals = score[:, :, None] + log_transition
        # A series that begins takes any end of the one before it: the best.
        anew = score.max(1)[:, None, None] + log_initial
        arrivals = jnp.where(first[:, None, None], jnp.where(_at_best(score), anew, -jnp.inf), arrivals)
        new = arrivals.max(1) + emission
        return new - new.max(1, keepdims=True), arrivals.argmax(1)

    start = jnp.zeros(log_emission.shape[1:], log_emission.dtype)
    last, origins = jax.lax.scan(forward, start, (log_emission, first))

    def back(state: Array, origin: Array) -> tuple[Array, Array]:
        return jnp.take_along_axis(origin, state[:, None], 1)[:, 0], state

    _, path = jax.lax.scan(back, last.argmax(1), origins, reverse=True)
    return jnp.minimum(path, n_states - 1)


def _at_best(score: Array) -> Array:
    """Which state of each series is the best one, (B, K, 1)."""
    return (jnp.arange(score.shape[1]) == score.argmax(1)[:, None])[:, :, None]


def stationary_distribution(transition: Array) -> Array:
    """Shares (K,) of time spent in each state in the long run, π = π A.

    The mean of πA^t over 2¹⁶ steps from the uniform law, so that chains that cycle have one, too.
    """

    def double(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        power, mean = carry
        mean = (mean + mean @ power) / 2
        power = power @ power
        return power / power.sum(1, keepdims=True), mean

    count = transition.shape[0]
    start = jnp.full(count, 1.0 / count, transition.dtype)
    power, mean = jax.lax.fori_loop(0, 16, double, (transition, start))
    # Means over the first steps, too, are still away from it; the last power takes them there.
    mean = mean @ power
    return mean / mean.sum()


def _forward(
    log_emission: Array, first: Array, log_initial: Array, transition: Array
) -> tuple[Array, Array, Array, Array]:
    """log p(x_t | past) (L, B), scaled emissions and state probabilities (L, B, K), and their norms (L, B)."""
    largest = log_emission.max(-1)
    emission = jnp.exp(log_emission - largest[..., None])
    initial = jnp.exp(log_initial)

    def step(predicted: Array, row: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        emission, first = row
        joint = jnp.where(first[:, None], initial, predicted) * emission
        norm = joint.sum(1)
        filtered = joint / norm[:, None]
        return filtered @ transition, (filtered, norm)

    start = jnp.zeros(log_emission.shape[1:], log_emission.dtype)
    _, (filtered, norm) = jax.lax.scan(step, start, (emission, first))
    return jnp.log(norm) + largest, emission, filtered, norm
