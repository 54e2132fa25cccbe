"""Hidden states and sources by turns: states of x, a flow grown on them, the exact likelihood, and once more.

A flow that grows by the likelihood of the chain itself, or by soft states, ends in poor optima behind four layers. On
states taken as known and rows in random order it grows as flows do where u is known. A few states in a hundred may be
wrong then: the exact likelihood puts them right (.983 to .9999 of rows).
"""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.data import Dataset
from identica.errors import NonFiniteError, Status
from identica.estimators.growth_rounds import finished, grow_in_rounds
from identica.estimators.hidden_markov_stages import HiddenMarkovPlan
from identica.objectives.hidden_markov import states_of
from identica.random import named_rng
from identica.training import Fit, Stage
from identica.training import fit as run_stages
from identica.training.checkpoint import Checkpoint
from identica.training.progress import Callback, within
from identica.typing import Array

MOST_TURNS = 3

_SETTLED = 0.005
"""Share of rows to which a turn gives another state, below which it is the last."""

_STATES_SHARE, _GROWTH_SHARE, _OWN_SHARE = 0.15, 0.4, 0.15
"""Of the progress bar, for the first turn; later ones take half of what is left."""

_states_of = compiled(states_of)


def fit_by_turns(
    plan: HiddenMarkovPlan,
    data: Dataset,
    held_out: Dataset | None,
    seed: int,
    callbacks: Sequence[Callback],
    checkpoint: Checkpoint | None,
) -> Fit:
    """Run the plan's turns until states settle, then what follows on the best of them."""
    beside = lambda name: None if checkpoint is None else checkpoint.beside(name)
    report = lambda begin, end: [within(callback, begin, end) for callback in callbacks]
    done = _STATES_SHARE
    found = run_stages(
        plan.states(), data, held_out, seed=seed, callbacks=report(0.0, done), checkpoint=checkpoint
    )
    system, stopped, turns = found.system, found.status is Status.STOPPED, []
    codes = _states_of(system, data)
    for turn in range(MOST_TURNS):
        own_seed = seed if turn == 0 else int(named_rng(seed, "turn", turn).integers(2**31))
        middle, end = (done + _GROWTH_SHARE, done + _GROWTH_SHARE + _OWN_SHARE) if turn == 0 else (
            0.65 * done + 0.35, 0.5 * done + 0.5
        )  # fmt: skip
        told = _told(data, codes, named_rng(own_seed, "order of states"))
        told_held_out = None if held_out is None else _told(held_out, _states_of(system, held_out), None)
        saved = beside(f"turn-{turn + 1}")
        if stopped:  # what a callback has stopped still takes shape, but no steps
            grown = run_stages(_without_steps(plan.told().growth()), told, told_held_out, seed=own_seed)
        else:
            growing = report(done, middle)
            try:
                grown = grow_in_rounds(plan.told(), told, told_held_out, own_seed, growing, saved)
            except NonFiniteError:
                if not turns:
                    raise
                break  # a turn without a finite likelihood has lost
        stopped = stopped or grown.status is Status.STOPPED
        own = plan.own(grown.system, codes)
        fit = run_stages(
            _without_steps(own) if stopped else own,
            data,
            held_out,
            seed=own_seed,
            callbacks=report(middle, end),
            checkpoint=beside(f"turn-{turn + 1}-own"),
        )
        stopped = stopped or fit.status is Status.STOPPED
        turns.append((float(fit.restarts[0]["held_out"]), fit.after(grown), grown.restarts))  # type: ignore[arg-type]
        system, before, done = fit.system, codes, end
        codes = _states_of(system, data)
        if stopped or float(np.mean(np.asarray(codes != before))) < _SETTLED:
            break
    _, best, restarts = min(turns, key=lambda turn: turn[0])
    best = replace(best, restarts=restarts).after(found)
    if stopped:
        return replace(best, status=Status.STOPPED)
    return finished(plan, best, data, held_out, seed, report(done, 1.0), checkpoint)


def _without_steps(stages: list[Stage]) -> list[Stage]:
    return [replace(stage, steps=0) for stage in stages]


def _told(data: Dataset, codes: Array, rng: np.random.Generator | None) -> Dataset:
    """The rows with their states as u, in random order; small data, which are padded, stay as they are."""
    if rng is None or data.weight is not None:
        return Dataset(data.x, codes, None, data.weight)
    order = jnp.asarray(rng.permutation(data.n_rows))
    return Dataset(data.x[order], codes[order])
