"""Growth in rounds: again from new starts while the best optimum was found by one start alone.

Restarts end in optima of different depth. Where several of independent origin end in the best one there is little left
to find; where one stands alone, the next few starts often find a better one. So easy mixtures cost one round, and
only hard ones more.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from identica.data import Dataset
from identica.errors import NonFiniteError, Status
from identica.estimators.flow_stages import FlowPlan, settled
from identica.random import named_rng
from identica.training import Fit
from identica.training import fit as run_stages
from identica.training.agreement import Agreement, agreements
from identica.training.checkpoint import Checkpoint
from identica.training.population import stack
from identica.training.progress import Callback, within
from identica.training.stage import Sources

MOST_ROUNDS = 3

SAME_OPTIMUM = 0.02
"""Held-out nats per row and component within which two restarts have found the same optimum: they are not polished."""

_FEWEST_RESTARTS = 4
"""Below, half of them are too few to agree by more than chance, and so few are asked for to be quick."""

_GROWTH_SHARE = 0.8
"""Of the progress bar."""


def fit_in_rounds(
    plan: FlowPlan,
    data: Dataset,
    held_out: Dataset | None,
    seed: int,
    callbacks: Sequence[Callback],
    checkpoint: Checkpoint | None,
) -> Fit:
    """Run the plan's growth until its best restart is confirmed, then what follows on the best network."""
    growing = [within(callback, 0.0, _GROWTH_SHARE) for callback in callbacks]
    grown = grow_in_rounds(plan, data, held_out, seed, growing, checkpoint)
    if grown.status is Status.STOPPED:
        return grown
    finishing = [within(callback, _GROWTH_SHARE, 1.0) for callback in callbacks]
    return finished(plan, grown, data, held_out, seed, finishing, checkpoint)


def grow_in_rounds(
    plan: FlowPlan,
    data: Dataset,
    held_out: Dataset | None,
    seed: int,
    callbacks: Sequence[Callback],
    checkpoint: Checkpoint | None,
) -> Fit:
    """Growth from new starts until restarts of two origins have found the best optimum, three times at most."""
    rounds: list[Fit] = []
    done = 0.0
    while len(rounds) < MOST_ROUNDS and not confirmed(rounds, plan.n_components):
        place = len(rounds)
        # Most fits end after the first round, so it has most of the bar.
        begin, done = done, done + (0.9 if place == 0 else 0.5 * (1.0 - done))
        stages, own, saved = plan.growth(), seed, checkpoint
        if place > 0:
            stages = [replace(stage, name=f"{stage.name}, round {place + 1}") for stage in stages]
            own = int(named_rng(seed, "round", place).integers(2**31))
            saved = None if checkpoint is None else checkpoint.beside(f"round-{place + 1}")
        report = [within(callback, begin, done) for callback in callbacks]
        try:
            rounds.append(run_stages(stages, data, held_out, seed=own, callbacks=report, checkpoint=saved))
        except NonFiniteError:
            if not rounds:
                raise
            break  # a round without a finite likelihood has lost
        if rounds[-1].status is Status.STOPPED or plan.restarts < _FEWEST_RESTARTS:
            break
    return joined(rounds, data if held_out is None else held_out, plan.growth()[-1].sources)


def finished(
    plan: FlowPlan,
    grown: Fit,
    data: Dataset,
    held_out: Dataset | None,
    seed: int,
    callbacks: Sequence[Callback],
    checkpoint: Checkpoint | None,
) -> Fit:
    """What follows on the best network."""
    last = run_stages(
        plan.finish(settled(grown.system)),
        data,
        held_out,
        seed=seed,
        callbacks=callbacks,
        checkpoint=None if checkpoint is None else checkpoint.beside("finish"),
    )
    # What the longest training of the network said stands, unless a polish found worse or was stopped.
    polished = last.status is Status.CONVERGED and not plan.couplings
    status = grown.status if polished else last.status
    return replace(last, restarts=grown.restarts, status=status).after(grown)


def confirmed(rounds: Sequence[Fit], n_components: int) -> bool:
    """Whether restarts of two origins have found the best optimum."""
    best: dict[tuple[int, object], float] = {}
    for place, fit in enumerate(rounds):
        for record in fit.restarts:
            origin = (place, record.get("origin"))
            best[origin] = min(best.get(origin, np.inf), float(record["held_out"]))  # type: ignore[arg-type]
    losses = sorted(best.values())
    return len(losses) > 1 and losses[1] - losses[0] <= SAME_OPTIMUM * n_components


def joined(rounds: Sequence[Fit], rows: Dataset, sources: Sources | None) -> Fit:
    """The best system of all rounds, with the history and the restarts of all.

    Of other rounds than the best one only the best restart is compared with it, by its ``sources`` of ``rows``.
    """
    losses = [min(float(r["held_out"]) for r in fit.restarts) for fit in rounds]  # type: ignore[arg-type]
    winner = int(np.argmin(losses))
    best = rounds[winner]
    compared: list[Agreement] = []
    if len(rounds) > 1 and sources is not None:
        compared = agreements(*stack([fit.system for fit in rounds]), winner, rows, sources)
    restarts: list[dict[str, object]] = []
    for place, fit in enumerate(rounds):
        first = len(restarts)
        for record in fit.restarts:
            # Restarts and their origins are numbered among those of their round.
            own = {k: first + int(record[k]) for k in ("seed", "origin")}  # type: ignore[call-overload]
            if place != winner and compared:
                leads = record["held_out"] == losses[place]
                own |= compared[place] if leads else dict.fromkeys(compared[place])
            restarts.append({**record, **own})
    stopped = rounds[-1].status is Status.STOPPED
    return Fit(
        best.system,
        {k: np.concatenate([fit.history[k] for fit in rounds]) for k in best.history},
        restarts,
        Status.STOPPED if stopped else best.status,
        sum(fit.n_steps for fit in rounds),
    )
