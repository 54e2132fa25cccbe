"""L-BFGS for many small problems at once: compiled, batched, and never uphill."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from identica.typing import Array

_SUFFICIENT, _LEAST_STEP = 1e-4, 1e-10


class Descended(NamedTuple):
    """Where B problems ended.

    Attributes
    ----------
    x : (B, P)
    value : (B,)
        At x; never above the value at the start.
    converged : (B,)
        Whether another step would gain less than the tolerance.
    """

    x: Array
    value: Array
    converged: Array


class _State(NamedTuple):
    x: Array
    value: Array
    gradient: Array
    direction: Array
    length: Array
    steps: Array  # (memory, B, P): x differences, latest last
    bends: Array  # (memory, B, P): gradient differences
    inverse: Array  # (memory, B): 1 / (step · bend), 0 where nothing is stored
    done: Array
    count: Array


def descend(
    value_and_gradient: Callable[[Array], tuple[Array, Array]],
    start: Array,
    steps: int,
    *,
    memory: int = 8,
    tolerance: float = 1e-10,
) -> Descended:
    """Minimise B independent functions of P numbers from ``start`` (B, P).

    One evaluation of all of them per step. A trial that does not go down enough (Armijo) is shortened,
    and one that does is kept, so the value of none ever rises. A problem that has converged stays where it
    is: what it is solved beside cannot change it.

    Parameters
    ----------
    value_and_gradient : callable
        (B, P) to values (B,) and gradients (B, P).
    start : (B, P)
    steps : int
        Most evaluations after the first.
    memory : int
        Remembered steps.
    tolerance : float
        A problem is done when half the product of gradient and quasi-Newton step, the gain that a
        quadratic function has left, is less.

    References
    ----------
    Nocedal (1980), Updating quasi-Newton matrices with limited storage.
    """
    value, gradient = value_and_gradient(start)
    empty = jnp.zeros((memory, *start.shape), start.dtype)
    # A first step of at most unit length: nothing is known of the curvature yet.
    norm = jnp.sqrt((gradient**2).sum(-1))
    first = _State(
        start, value, gradient, -gradient, 1 / jnp.maximum(norm, 1.0), empty, empty,
        empty[..., 0], ~jnp.isfinite(value) | (norm == 0), jnp.zeros((), jnp.int32),
    )  # fmt: skip

    def going(state: _State) -> Array:
        return (state.count < steps) & ~state.done.all()

    def step(state: _State) -> _State:
        slope = (state.gradient * state.direction).sum(-1)
        trial = state.x + state.length[:, None] * state.direction
        value, gradient = value_and_gradient(trial)
        enough = value <= state.value + _SUFFICIENT * state.length * slope
        taken = enough & jnp.isfinite(gradient).all(-1) & ~state.done
        move, bend = trial - state.x, gradient - state.gradient
        product = (move * bend).sum(-1)
        stored = taken & (product > 1e-12 * (bend**2).sum(-1) ** 0.5 * (move**2).sum(-1) ** 0.5)
        push = lambda old, new, where: jnp.where(where, jnp.concatenate([old[1:], new[None]]), old)
        saved = (
            push(state.steps, move, stored[:, None]),
            push(state.bends, bend, stored[:, None]),
            push(state.inverse, 1 / jnp.where(stored, product, 1.0), stored),
        )
        now = jnp.where(taken[:, None], gradient, state.gradient)
        direction = jnp.where(taken[:, None], -_times_inverse_hessian(now, *saved), state.direction)
        # The minimum of the parabola through what is known, if the trial failed.
        excess = value - state.value - state.length * slope
        shorter = -0.5 * slope * state.length**2 / jnp.where(excess > 0, excess, 1.0)
        usable = jnp.isfinite(shorter) & (excess > 0)
        shorter = jnp.where(
            usable, jnp.clip(shorter, 0.1 * state.length, 0.5 * state.length), 0.1 * state.length
        )
        length = jnp.where(taken, 1.0, shorter)
        left = -0.5 * (now * direction).sum(-1)
        done = state.done | (taken & stored & (left < tolerance)) | (~taken & (shorter < _LEAST_STEP))
        keep = lambda new, old: jnp.where(state.done.reshape(-1, *[1] * (new.ndim - 1)), old, new)
        return _State(
            jnp.where(taken[:, None], trial, state.x), jnp.where(taken, value, state.value), now,
            keep(direction, state.direction), keep(length, state.length), *saved, done, state.count + 1,
        )  # fmt: skip

    last = lax.while_loop(going, step, first)
    return Descended(last.x, last.value, last.done)


def _times_inverse_hessian(gradient: Array, steps: Array, bends: Array, inverse: Array) -> Array:
    """The two-loop recursion for each of B problems, (B, P); memories of 0 drop out."""
    # Scans, not unrolled: the recursion is short, and compiling it unrolled would take longer than many a fit.

    def back(gradient: Array, pair: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        move, bend, inverse = pair
        weight = inverse * (move * gradient).sum(-1)
        return gradient - weight[:, None] * bend, weight

    def forth(gradient: Array, pair: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        move, bend, inverse, weight = pair
        return gradient + (weight - inverse * (bend * gradient).sum(-1))[:, None] * move, None

    gradient, weights = lax.scan(back, gradient, (steps, bends, inverse), reverse=True)
    size = (bends[-1] ** 2).sum(-1)
    known = inverse[-1] > 0
    scale = jnp.where(known, 1 / jnp.where(known, inverse[-1] * size, 1.0), 1.0)
    return lax.scan(forth, gradient * scale[:, None], (steps, bends, inverse, weights))[0]
