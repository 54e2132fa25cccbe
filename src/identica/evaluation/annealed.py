"""Annealed importance sampling with Hamiltonian moves, forwards and backwards."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.data import Dataset
from identica.errors import DataError
from identica.evaluation.importance import Weighed, weigh
from identica.evaluation.target import PROPOSALS, Proposal, Target, over_rows
from identica.models import VariationalModel
from identica.typing import Array, FloatArray, Key

_ACCEPTANCE = 0.8
"""Share of moves that the step size aims at; .65 is the optimum for one move in many dimensions, and
weights suffer more from moves that are refused than from short ones."""

_ADAPTATION = 0.1
_PILOT_CHAINS = 8
_PILOT_MOVES = 20
_JITTER = 0.2
_STEEPNESS = 4.0


@dataclass(frozen=True)
class Annealing:
    """A path from a law that can be drawn from to p(z|x, u), and how chains move along it.

    The path is π_β ∝ π_0^(1−β) p(x, z|u)^β. Each of C chains starts at π_0 and alternates between weighing by
    the ratio of the next density to the present one and a move that leaves the next one invariant
    (Neal, 2001, Annealed importance sampling). The moves are Hamiltonian (Neal, 2011), in coordinates in
    which the interpolated precision is one. Step sizes come from a pilot run with draws of its own, one
    for each row and temperature: adapted on the fly they would depend on the chain, and the result would be
    no bound.

    Attributes
    ----------
    n_temperatures : int
        Steps of the path.
    n_chains : int
        Chains C per row.
    n_leapfrog : int
        Gradients per move.
    start : {"encoder", "laplace", "prior"}
        π_0: the encoder's q(z|x, u) or Laplace's approximation, near the end of the path where they are
        good; or p(z|u), which owes nothing to either and has all modes, but needs more temperatures.

    Raises
    ------
    DataError
        If a number is not positive or the start unknown.
    """

    n_temperatures: int = 500
    n_chains: int = 16
    n_leapfrog: int = 2
    start: Proposal = "encoder"

    def __post_init__(self) -> None:
        for name in ("n_temperatures", "n_chains", "n_leapfrog"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
                raise DataError(f"{name} must be a positive integer, got {value!r}")
        if self.start not in PROPOSALS:
            raise DataError(f"start must be one of {', '.join(PROPOSALS)}, got {self.start!r}")

    def schedule(self) -> FloatArray:
        """β_0 = 0 … β_T = 1, (T + 1,).

        From an approximate posterior both ends are alike, and steps are shortest there (the sigmoid
        schedule of Wu et al., 2017). From the prior the first steps are the shortest: a sharp likelihood
        changes the law most while β is small.
        """
        place = np.linspace(0.0, 1.0, self.n_temperatures + 1)
        if self.start == "prior":
            return place**_STEEPNESS
        curve = 1 / (1 + np.exp(-_STEEPNESS * (2 * place - 1)))
        return (curve - curve[0]) / (curve[-1] - curve[0])


@compiled
def annealed(
    system: VariationalModel, x: Array, u: Array | None, keys: Array, annealing: Annealing
) -> Weighed:
    """Estimates of log p(x|u) by chains from π_0 to the posterior: lower bounds in expectation.

    Parameters
    ----------
    system : VariationalModel
    x : (B, d)
    u : (B, …) or None
    keys : (B, …)
        Raw key data, one key per row.
    annealing : Annealing
    """

    def one(target: Target, key: Key) -> Weighed:
        path = _Path(target, annealing)
        pilot_key, start_key, key = jax.random.split(key, 3)
        steps = path.step_sizes(pilot_key)
        z = path.start.sample_with_log_prob(start_key, annealing.n_chains)[0]

        def move(state: tuple[Array, Array, Key], place: _Place) -> tuple[tuple[Array, Array, Key], None]:
            z, log_weight, key = state
            log_weight = log_weight + (place.beta - place.before) * path.log_ratio(z)
            key, own = jax.random.split(key)
            return (path.moved(z, place, own)[0], log_weight, key), None

        log_weight = jnp.zeros(annealing.n_chains, z.dtype)
        return weigh(jax.lax.scan(move, (z, log_weight, key), path.places(steps))[0][1])

    return over_rows(one, system, Dataset(x, u), keys)


@compiled
def reverse_annealed(
    system: VariationalModel, x: Array, u: Array | None, keys: Array, z: Array, annealing: Annealing
) -> Weighed:
    """The same path backwards, from an exact draw of the posterior: upper bounds in expectation.

    E[1/w] = 1/p(x|u) over chains from the posterior to π_0, so that −log of the mean of 1/w lies above
    log p(x|u) (Grosse, Ancha, Roy, 2016, Measuring the reliability of MCMC inference with bidirectional
    Monte Carlo). Exact draws are known only where x was simulated by the model itself. All chains of a row
    start at its one draw; their average stays unbiased.

    Parameters
    ----------
    system, x, u, keys, annealing
        As `annealed`.
    z : (B, n)
        The latents from which x was drawn.
    """

    def one(target: Target, key: Key, drawn: Array) -> Weighed:
        path = _Path(target, annealing)
        pilot_key, key = jax.random.split(key)
        steps = path.step_sizes(pilot_key)

        def move(state: tuple[Array, Array, Key], place: _Place) -> tuple[tuple[Array, Array, Key], None]:
            z, log_weight, key = state
            key, own = jax.random.split(key)
            z = path.moved(z, place, own)[0]
            return (z, log_weight + (place.before - place.beta) * path.log_ratio(z), key), None

        chains = jnp.broadcast_to(drawn, (annealing.n_chains, *drawn.shape))
        log_weight = jnp.zeros(annealing.n_chains, drawn.dtype)
        state, _ = jax.lax.scan(move, (chains, log_weight, key), path.places(steps), reverse=True)
        weighed = weigh(state[1])
        return weighed._replace(value=-weighed.value)

    return over_rows(one, system, Dataset(x, u), keys, z)


class _Place(NamedTuple):
    """One temperature of the path: where it is, what comes before it, and the step size there."""

    beta: Array
    before: Array
    step: Array


class _Path:
    """The densities of one row's path and the moves that leave them invariant."""

    def __init__(self, target: Target, annealing: Annealing):
        self.target, self.annealing = target, annealing
        # Undefended: chains move, and backwards they would not find the share that the prior has.
        self.start = target.laplace() if annealing.start == "laplace" else target.law(annealing.start)
        self.first_precision = 1 / self.start.moments()[1]
        last = target.posterior if annealing.start == "prior" else self.start
        self.last_precision = 1 / last.moments()[1]
        self.dtype = self.first_precision.dtype

    def places(self, steps: Array) -> _Place:
        beta = jnp.asarray(self.annealing.schedule(), self.dtype)
        return _Place(beta[1:], beta[:-1], steps)

    def log_ratio(self, z: Array) -> Array:
        """log p(x, z|u) − log π_0(z), (C,)."""
        return self.target.log_joint(z) - self.start.log_prob(z)

    def moved(self, z: Array, place: _Place, key: Key) -> tuple[Array, Array]:
        """Chains (C, n) after a Hamiltonian move at one temperature, and their chances of acceptance (C,)."""

        def log_density(z: Array) -> Array:
            return (1 - place.beta) * self.start.log_prob(z) + place.beta * self.target.log_joint(z)

        precision = (1 - place.beta) * self.first_precision + place.beta * self.last_precision
        scale = jax.lax.rsqrt(precision)
        noise_key, jitter_key, accept_key = jax.random.split(key, 3)
        jitter = 1 + _JITTER * jax.random.uniform(jitter_key, (), self.dtype, -1, 1)
        return hamiltonian_move(
            log_density,
            z,
            scale * place.step * jitter,
            jax.random.normal(noise_key, z.shape, self.dtype),
            jax.random.uniform(accept_key, z.shape[:1], self.dtype),
            self.annealing.n_leapfrog,
        )

    def step_sizes(self, key: Key) -> Array:
        """Step size (T,) of each temperature, by following the acceptance of a few chains along the path."""
        start_key, settle_key, key = jax.random.split(key, 3)
        chains = min(_PILOT_CHAINS, self.annealing.n_chains)
        z = self.start.sample_with_log_prob(start_key, chains)[0]
        betas = jnp.asarray(self.annealing.schedule(), self.dtype)[1:]
        # Moves at the first temperature come first, so that the step size has settled when it is recorded.
        betas = jnp.concatenate([jnp.full(_PILOT_MOVES, betas[0]), betas])

        def move(state: tuple[Array, Array, Key], beta: Array) -> tuple[tuple[Array, Array, Key], Array]:
            z, log_step, key = state
            key, own = jax.random.split(key)
            z, chance = self.moved(z, _Place(beta, beta, jnp.exp(log_step)), own)
            # In proportion to what is missing, and at most as fast as from acceptance 1.
            gain = jnp.clip(chance.mean() - _ACCEPTANCE, _ACCEPTANCE - 1, 1 - _ACCEPTANCE)
            return (z, log_step + _ADAPTATION * gain / (1 - _ACCEPTANCE), key), log_step

        first = jnp.asarray(math.log(0.5) - 0.25 * math.log(z.shape[1]), self.dtype)
        return jnp.exp(jax.lax.scan(move, (z, first, settle_key), betas)[1][_PILOT_MOVES:])


def hamiltonian_move(
    log_density: Callable[[Array], Array],
    z: Array,
    step: Array,
    noise: Array,
    uniform: Array,
    n_leapfrog: int,
) -> tuple[Array, Array]:
    """One Hamiltonian move of independent chains, with Metropolis acceptance.

    Parameters
    ----------
    log_density : callable
        z (C, n) to nats (C,), up to a constant.
    z : (C, n)
        Present states.
    step : (n,) or scalar
        Step size in each coordinate.
    noise : (C, n)
        Standard normal momenta.
    uniform : (C,)
        Uniform numbers that decide acceptance.
    n_leapfrog : int
        Gradients per move.

    Returns
    -------
    z (C, n) after the move, and the chance of acceptance (C,). A path that ends at a density of 0, or at no
    number, is refused.
    """

    def value_and_slope(z: Array) -> tuple[Array, Array]:
        values, pull = jax.vjp(log_density, z)
        return values, pull(jnp.ones_like(values))[0]

    start, slope = value_and_slope(z)

    def leap(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        z, momentum, _, slope = state
        momentum = momentum + 0.5 * step * slope
        z = z + step * momentum
        end, slope = value_and_slope(z)
        return z, momentum + 0.5 * step * slope, end, slope

    proposed, momentum, end, _ = jax.lax.fori_loop(0, n_leapfrog, leap, (z, noise, start, slope))
    gain = end - start + 0.5 * (noise**2 - momentum**2).sum(-1)
    chance = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(gain), -jnp.inf, gain), 0.0))
    return jnp.where((uniform < chance)[:, None], proposed, z), chance
