"""What the loop compiles: chunks of steps, held-out evaluation, and a full-data solver."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from identica.data import Dataset
from identica.training.population import strongly_typed
from identica.training.solvers import LBFGS, Solver, StepSolver
from identica.training.stage import Evaluate, Objective
from identica.typing import Array, Key, PyTree


def wrap(data: Dataset, batch_size: int) -> Dataset:
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:batch_size]]), data)


def init_solver(arrays: PyTree, solver: Solver, steps: int) -> PyTree:
    if not isinstance(solver, StepSolver):
        return ()
    return strongly_typed(_init_step_solver(arrays, solver, steps))


@eqx.filter_jit
def _init_step_solver(arrays: PyTree, solver: StepSolver, steps: int) -> PyTree:
    return jax.vmap(partial(solver.init, steps=steps))(arrays)


def minimize(
    solver: LBFGS,
    objective: Objective,
    arrays: PyTree,
    static: PyTree,
    data: Dataset,
    key: Key,
    iterations: int,
) -> tuple[PyTree, np.ndarray]:
    """Iterations of a full-data solver, one restart after another."""
    done, losses = [], []
    for r in range(n_members(arrays)):
        one = jax.tree.map(lambda leaf: leaf[r], arrays)  # noqa: B023 (used at once)
        vector, unravel = ravel_pytree(one)

        def value_and_gradient(
            v: np.ndarray, unravel=unravel, dtype=vector.dtype
        ) -> tuple[float, np.ndarray]:
            loss, gradient = _value_and_gradient(unravel(jnp.asarray(v, dtype)), data, key, static, objective)
            return float(loss), np.asarray(ravel_pytree(gradient)[0], np.float64)

        solution, loss = solver.minimize(value_and_gradient, np.asarray(vector), iterations)
        new = unravel(jnp.asarray(solution, vector.dtype))
        finite = np.isfinite(loss) and bool(np.isfinite(solution).all())
        done.append(new if finite else one)
        losses.append(loss if finite else np.nan)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *done), np.asarray(losses)


@eqx.filter_jit
def _value_and_gradient(
    arrays: PyTree, data: Dataset, key: Key, static: PyTree, objective: Objective
) -> tuple[Array, PyTree]:
    return jax.value_and_grad(lambda a: objective(eqx.combine(a, static), data, key=key)[0])(arrays)


@eqx.filter_jit
def train_chunk(
    arrays: PyTree,
    solver_state: PyTree,
    data: Dataset,
    key: Key,
    start: Array,
    stop: Array,
    static: PyTree,
    objective: Objective,
    solver: StepSolver,
    steps: int,
    batch_size: int | None,
    n_rows: int,
) -> tuple[PyTree, PyTree, Array]:
    """Steps ``start`` to ``stop`` of all restarts; the mean finite loss of each, NaN if none was."""
    n_restarts = n_members(arrays)

    def one_restart(arrays, state, batch, key):
        loss = lambda a: objective(eqx.combine(a, static), batch, key=key)[0]  # noqa: E731
        return solver.step(loss, arrays, state, steps)

    def step(i, carry):
        arrays, state, total, count = carry
        rows_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
        batch = data
        if batch_size is not None:
            offset, size = jax.random.randint(rows_key, (), 0, n_rows), batch_size
            batch = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, offset, size), data)
        keys = jax.random.split(noise_key, n_restarts)
        arrays, state, loss, finite = jax.vmap(one_restart, (0, 0, None, 0))(arrays, state, batch, keys)
        return arrays, state, total + jnp.where(finite, loss, 0.0), count + finite

    zero = jnp.zeros(n_restarts)
    arrays, solver_state, total, count = jax.lax.fori_loop(
        start, stop, step, (arrays, solver_state, zero, zero)
    )
    return arrays, solver_state, total / count


@eqx.filter_jit
def _evaluate_one(
    arrays: PyTree, fit_data: Dataset, held_out: Dataset, key: Key, static: PyTree, evaluate: Evaluate
) -> Array:
    return evaluate(eqx.combine(arrays, static), fit_data, held_out, key)


def evaluate_population(
    arrays: PyTree, fit_data: Dataset, held_out: Dataset, key: Key, static: PyTree, evaluate: Evaluate
) -> np.ndarray:
    # One after another: memory stays that of one restart, and any number of them shares one compilation.
    host = jax.tree.map(np.asarray, arrays)
    scores = [
        _evaluate_one(jax.tree.map(lambda leaf: leaf[r], host), fit_data, held_out, key, static, evaluate)  # noqa: B023
        for r in range(n_members(host))
    ]
    return np.asarray([float(score) for score in scores])


def n_members(arrays: PyTree) -> int:
    return jax.tree.leaves(arrays)[0].shape[0]


@jax.jit
def choose(better: Array, new: PyTree, old: PyTree) -> PyTree:
    pick = lambda a, b: jnp.where(better.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)  # noqa: E731
    return jax.tree.map(pick, new, old)
