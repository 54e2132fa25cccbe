"""What the loop compiles: chunks of steps, held-out evaluation, and a full-data solver."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled, compiled_loop
from identica.data import Dataset
from identica.training.population import picked, stacked, strongly_typed
from identica.training.solvers import EM, LBFGS, Solver, StepSolver
from identica.training.stage import Evaluate, Objective
from identica.typing import Array, Key, PyTree


@compiled
def wrap(data: Dataset, batch_size: int) -> Dataset:
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:batch_size]]), data)


def init_solver(arrays: PyTree, solver: Solver) -> PyTree:
    if not isinstance(solver, StepSolver):
        return ()
    return _init_step_solver(arrays, solver)


@compiled
def _init_step_solver(arrays: PyTree, solver: StepSolver) -> PyTree:
    return strongly_typed(jax.vmap(solver.init)(arrays))


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
        one = picked(arrays, r)
        leaves, structure = jax.tree.flatten(one)
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

        def ravel(tree: PyTree) -> np.ndarray:
            return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])

        def unravel(vector: np.ndarray, leaves=leaves, structure=structure, ends=ends) -> PyTree:
            parts = zip(np.split(vector, ends), leaves, strict=True)
            return structure.unflatten([part.reshape(like.shape).astype(like.dtype) for part, like in parts])

        def value_and_gradient(v: np.ndarray, unravel=unravel) -> tuple[float, np.ndarray]:
            loss, gradient = _value_and_gradient(unravel(v), data, key, static, objective)
            return float(loss), ravel(gradient)

        solution, loss = solver.minimize(value_and_gradient, ravel(one), iterations)
        finite = np.isfinite(loss) and bool(np.isfinite(solution).all())
        done.append(unravel(solution) if finite else one)
        losses.append(loss if finite else np.nan)
    return stacked(done), np.asarray(losses)


@compiled_loop
def _value_and_gradient(
    arrays: PyTree, data: Dataset, key: Key, static: PyTree, objective: Objective
) -> tuple[Array, PyTree]:
    return jax.value_and_grad(lambda a: objective(eqx.combine(a, static), data, key=key)[0])(arrays)


def iterate(
    solver: EM, arrays: PyTree, static: PyTree, data: Dataset, previous: np.ndarray, iterations: int
) -> tuple[PyTree, np.ndarray, float]:
    """Updates of all restarts, the value of each before its last one, and the largest rise of any.

    ``previous`` are the values (R,) before the chunk, NaN if there were none. The rise is relative to
    the value, or in nats where that is below 1; rounding alone makes it positive.
    """

    def run(r: int) -> tuple[PyTree, Array, Array]:
        one = picked(arrays, r)
        count = jnp.asarray(iterations)
        return _updated(one, data, jnp.asarray(previous[r], data.x.dtype), count, static, solver)

    done = [run(0), *in_threads(run, range(1, n_members(arrays)))]
    return (
        stacked([d[0] for d in done]),
        np.asarray([float(d[1]) for d in done]),
        float(np.nanmax([0.0, *(float(d[2]) for d in done)])),
    )


@compiled_loop
def _updated(
    arrays: PyTree, data: Dataset, previous: Array, iterations: Array, static: PyTree, solver: EM
) -> tuple[PyTree, Array, Array]:
    def step(_: Array, carry: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
        arrays, last, rise = carry
        system, value = solver.update(eqx.combine(arrays, static), data)
        more = (value - last) / jnp.maximum(jnp.abs(last), 1.0)
        more = jnp.where(jnp.isfinite(more), more, 0.0)  # what is not finite is another error
        arrays = strongly_typed(eqx.filter(system, eqx.is_inexact_array))
        return arrays, value.astype(last.dtype), jnp.maximum(rise, more)

    start = (strongly_typed(arrays), previous, jnp.zeros_like(previous))
    return jax.lax.fori_loop(0, iterations, step, start)


def train_population(
    arrays: PyTree,
    solver_state: PyTree,
    data: Dataset,
    key: Key,
    start: int,
    stop: int,
    static: PyTree,
    objective: Objective,
    solver: StepSolver,
    steps: int,
    batch_size: int | None,
    n_rows: int,
    group: int,
) -> tuple[PyTree, PyTree, np.ndarray]:
    """Steps ``start`` to ``stop`` of all restarts; the mean finite loss of each, NaN if none was.

    At most ``group`` restarts are trained in one compiled call, and groups run on all cores at once. A restart's
    noise depends on its own number only, and groups have a fixed size, so the number of cores changes nothing
    but the time, and memory does not grow with the number of restarts.
    """
    n_restarts = n_members(arrays)
    size = min(group, n_restarts)
    # The last group is filled up with copies of the last restart, so that one compilation serves all.
    groups = [np.minimum(np.arange(i, i + size), n_restarts - 1) for i in range(0, n_restarts, size)]

    def run(members: np.ndarray) -> tuple[PyTree, PyTree, Array]:
        # One group needs no picking, which would cost a copy from the device and back.
        own, state = (arrays, solver_state) if len(groups) == 1 else picked((arrays, solver_state), members)
        return _train_group(
            own, state, data, key, jnp.asarray(members), jnp.asarray(start),
            jnp.asarray(stop), static, objective, solver, jnp.asarray(steps), batch_size, n_rows,
        )  # fmt: skip

    # The first group goes alone where it may have to compile; the others then find it compiled.
    alone = 1 if start == 0 else 0
    done = [run(group) for group in groups[:alone]] + in_threads(run, groups[alone:])
    if len(groups) == 1:
        arrays, solver_state, loss = done[0]
    else:
        join = lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves])[:n_restarts]
        arrays, solver_state, loss = jax.tree.map(join, *done)
    return arrays, solver_state, np.asarray(loss, dtype=np.float64)


def in_threads(run: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """``run`` of each item, on as many threads as there are cores; compiled code runs in parallel."""
    if len(items) < 2:
        return [run(item) for item in items]
    wide = bool(jax.config.read("jax_enable_x64"))  # a setting of this thread, which others do not see

    def in_thread(item: Any) -> Any:
        with jax.enable_x64(wide):
            return jax.block_until_ready(run(item))

    with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1)) as pool:
        return list(pool.map(in_thread, items))


@compiled_loop
def _train_group(
    arrays: PyTree,
    solver_state: PyTree,
    data: Dataset,
    key: Key,
    members: Array,
    start: Array,
    stop: Array,
    static: PyTree,
    objective: Objective,
    solver: StepSolver,
    steps: Array,
    batch_size: int | None,
    n_rows: int,
) -> tuple[PyTree, PyTree, Array]:
    def one_restart(arrays, state, batch, key, i):
        loss = lambda a: objective(eqx.combine(a, static), batch, key=key)[0]
        return solver.step(loss, arrays, state, i, steps)

    def step(i, carry):
        arrays, state, total, count = carry
        rows_key, noise_key = jax.random.split(jax.random.fold_in(key, i))
        batch = data
        if batch_size is not None:
            offset, size = jax.random.randint(rows_key, (), 0, n_rows), batch_size
            batch = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, offset, size), data)
        keys = jax.vmap(lambda member: jax.random.fold_in(noise_key, member))(members)
        arrays, state, loss, finite = jax.vmap(one_restart, (0, 0, None, 0, None))(
            arrays, state, batch, keys, i
        )
        return arrays, state, total + jnp.where(finite, loss, 0.0), count + finite

    zero = jnp.zeros(members.shape)
    arrays, solver_state, total, count = jax.lax.fori_loop(
        start, stop, step, (arrays, solver_state, zero, zero)
    )
    return arrays, solver_state, total / count


@compiled
def _evaluate_one(
    arrays: PyTree, fit_data: Dataset, held_out: Dataset, key: Key, static: PyTree, evaluate: Evaluate
) -> Array:
    return evaluate(eqx.combine(arrays, static), fit_data, held_out, key)


def evaluate_population(
    arrays: PyTree, fit_data: Dataset, held_out: Dataset, key: Key, static: PyTree, evaluate: Evaluate
) -> np.ndarray:
    """Held-out objective of each restart (R,), one system per compiled call."""

    def run(r: int) -> Array:
        return _evaluate_one(picked(arrays, r), fit_data, held_out, key, static, evaluate)

    members = range(n_members(arrays))
    return np.asarray([float(score) for score in [run(0), *in_threads(run, members[1:])]])


def n_members(arrays: PyTree) -> int:
    return jax.tree.leaves(arrays)[0].shape[0]


def choose(better: np.ndarray, new: PyTree, old: PyTree) -> PyTree:
    """Restarts of ``new`` where ``better`` (R,), else of ``old``."""
    pick = lambda a, b: np.where(better.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)
    return jax.tree.map(pick, new, old)
