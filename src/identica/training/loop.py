"""The one training loop: a Python loop over compiled chunks, for every method.

Keys come from ``fold_in(key, step)``, so results do not depend on how steps are cut into compiled
calls, and a resumed fit equals one that was never interrupted, bit for bit. Progress, held-out
evaluation, early stopping, checkpoints and Ctrl-C act between chunks; nothing calls back from
compiled code.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from identica.data import Dataset
from identica.errors import Interrupted, NonFiniteError, NotMonotoneError, Status
from identica.random import named_key
from identica.training.checkpoint import Checkpoint
from identica.training.compiled import (
    choose,
    evaluate_population,
    init_solver,
    iterate,
    minimize,
    train_population,
    wrap,
)
from identica.training.population import member, ranking, stack
from identica.training.progress import Callback, Progress
from identica.training.records import columns_of, last_value, restart_records, still_improving
from identica.training.solvers import EM, StepSolver
from identica.training.stage import Stage
from identica.typing import PyTree

TOLERANCE = 5e-2
"""Gain of the last chunk, in nats per row, above which a fit counts as not converged."""

MONITOR_ROWS = 2**15
"""Most rows of each part that are looked at between chunks; more would slow training, not inform it."""

LARGEST_RISE = {"float32": 1e-4, "float64": 1e-8}
"""Relative rise of the objective in one step of `EM` that rounding may cause."""


@dataclass
class Fit:
    """What training returns.

    Attributes
    ----------
    system : PyTree
        The best system of the last stage.
    history : dict of arrays
        ``stage, step, restart, loss, held_out``: one entry per chunk and restart, nats per row.
    restarts : list of dict
        Of the last stage that trained several: seed, held-out objective and status of each, the restart
        of the first stage that it was grown from (origin) and, if the stage names sources, how these
        agree with those of the best (`Agreement`).
    status : Status
        How it ended.
    n_steps : int
        Solver steps, summed over stages.
    kept : list of PyTree
        What the last stage keeps, best first, for stages that are chosen only then.
    """

    system: PyTree
    history: dict[str, np.ndarray]
    restarts: list[dict[str, object]]
    status: Status
    n_steps: int
    kept: list[PyTree] = field(default_factory=list)

    def after(self, first: "Fit") -> "Fit":
        """This one as the end of a longer one, with the history and the steps of the first part before its own."""
        history = {k: np.concatenate([first.history[k], self.history[k]]) for k in first.history}
        return replace(self, history=history, n_steps=first.n_steps + self.n_steps)


@dataclass
class _State:
    """Everything that a checkpoint must hold of the running stage; ``status`` is of the stages before."""

    arrays: PyTree
    solver: PyTree
    best: PyTree
    best_held_out: np.ndarray
    origins: list[int]
    step: int = 0
    stale: int = 0
    records: list[dict[str, object]] = field(default_factory=list)
    restarts: list[dict[str, object]] = field(default_factory=list)
    n_steps: int = 0
    status: Status = Status.CONVERGED
    stopped: bool = False


def fit(
    stages: Sequence[Stage],
    data: Dataset,
    held_out: Dataset | None,
    *,
    seed: int,
    callbacks: Sequence[Callback] = (),
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Run the stages and return the best system of the last one.

    Parameters
    ----------
    stages : sequence of Stage
        What to do, in order.
    data : Dataset
        Rows to fit, in random order (batches are contiguous slices).
    held_out : Dataset or None
        Rows for selection; None selects on the fitted rows.
    seed : int
        All randomness derives from it.
    callbacks : sequence of callables
        Called with `Progress` at each chunk border.
    checkpoint : Checkpoint, optional
        Where to save at chunk borders, and what to resume from. The end is saved, too, so that a result
        which could not be stored is had again at once; the caller removes it.

    Raises
    ------
    NonFiniteError
        If no restart of a stage ever had a finite held-out objective.
    Interrupted
        On Ctrl-C, after the checkpoint has been written.
    """
    run = _Run(list(stages), data, held_out, seed, tuple(callbacks), checkpoint)
    try:
        return run()
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted("stopped by the user between two stages") from None


class _Run:
    def __init__(
        self,
        stages: list[Stage],
        data: Dataset,
        held_out: Dataset | None,
        seed: int,
        callbacks: tuple[Callback, ...],
        checkpoint: Checkpoint | None,
    ):
        self.stages, self.data, self.seed, self.callbacks = stages, data, seed, callbacks
        self.checkpoint = checkpoint
        self.monitor_fit = data.head(MONITOR_ROWS)
        self.monitor = self.monitor_fit if held_out is None else held_out.head(MONITOR_ROWS)
        self.started = time.monotonic()
        # Work of a stage in rows of steps, for an honest progress bar.
        rows = [min(s.batch_size or data.n_rows, data.n_rows) for s in stages]
        self.work = [s.steps * s.restarts * r * s.cost for s, r in zip(stages, rows, strict=True)]
        self.stopped = False

    def __call__(self) -> Fit:
        first, state = self._resume()
        kept: list[PyTree] = []
        origins: list[int] = []
        records: list[dict[str, object]] = []
        restarts: list[dict[str, object]] = []
        n_steps = 0
        status = Status.CONVERGED
        for index in range(first, len(self.stages)):
            stage = self.stages[index]
            if state is None:
                arrays, static = self._population(index, kept)
                state = _State(
                    arrays,
                    init_solver(arrays, stage.solver),
                    arrays,
                    np.full(stage.restarts, np.inf),
                    _origins(stage, origins),
                    records=records,
                    restarts=restarts,
                    n_steps=n_steps,
                    status=status,
                )
            else:
                status = state.status
                _, static = self._structure(index)
            ended = self._train(index, stage, state, static)
            # What the longest training of the final system said stands, unless a polish found worse.
            trained = isinstance(stage.solver, StepSolver) and stage.steps > 0
            status = ended if trained or not ended.ok else status
            order = ranking(state.best_held_out)
            if not np.isfinite(state.best_held_out[order[0]]):
                raise NonFiniteError(
                    f"the objective of stage {stage.name!r} was not finite in any of {stage.restarts} "
                    "restart(s). Expected finite log-likelihoods; likely causes are extreme values in X or "
                    "segments without variance. Try removing gross outliers, or precision='float64'"
                )
            if self.stopped or index == len(self.stages) - 1:
                self._save(index, state, finished=True)
            if stage.restarts > 1 or not state.restarts:
                state.restarts = restart_records(
                    stage, state.best, static, state.best_held_out, state.origins, self.monitor
                )
            kept = [member(state.best, static, int(r)) for r in order[: stage.keep]]
            origins = [state.origins[r] for r in order[: stage.keep]]
            records, restarts, n_steps = state.records, state.restarts, state.n_steps
            state = None
            if self.stopped:
                # The stages left still shape the system, but take no steps.
                status = Status.STOPPED
                kept = kept[:1]
                for later in range(index + 1, len(self.stages)):
                    kept = [self._prepare(later, kept[0], 0)]
                break
        history = columns_of(records, [s.name for s in self.stages])
        return Fit(kept[0], history, restarts, status, n_steps, kept)

    def _prepare(self, index: int, system: PyTree | None, restart: int) -> PyTree:
        key = named_key(self.seed, "prepare", index, restart)
        return self.stages[index].prepare_of(restart)(system, self.data, key)

    def _population(self, index: int, kept: list[PyTree]) -> tuple[PyTree, PyTree]:
        restarts = range(self.stages[index].restarts)
        return stack([self._prepare(index, kept[r % len(kept)] if kept else None, r) for r in restarts])

    def _structure(self, index: int) -> tuple[PyTree, PyTree]:
        """Population of stage ``index`` with arbitrary values, to be filled from a checkpoint."""
        system = None
        for i in range(index + 1):
            system = self._prepare(i, system, 0)
        return stack([system] * self.stages[index].restarts)

    def _resume(self) -> tuple[int, _State | None]:
        saved = self.checkpoint.read() if self.checkpoint is not None else None
        if saved is None or self.checkpoint is None:
            return 0, None
        index = saved.numbers["stage"]
        stage = self.stages[index]
        arrays, _ = self._structure(index)
        template = (arrays, init_solver(arrays, stage.solver), arrays)
        trained, solver, best = self.checkpoint.restore(template, saved)
        numbers = saved.numbers
        return index, _State(
            trained,
            solver,
            best,
            np.asarray(numbers["best_held_out"], dtype=np.float64),
            numbers["origins"],
            numbers["step"],
            numbers["stale"],
            numbers["records"],
            numbers["restarts"],
            numbers["n_steps"],
            Status[numbers["status"]],
            numbers["stopped"],
        )

    def _save(self, index: int, state: _State, *, force: bool = False, finished: bool = False) -> None:
        if self.checkpoint is None:
            return
        numbers = {
            "stage": index,
            "step": state.step,
            "stale": state.stale,
            "best_held_out": state.best_held_out.tolist(),
            "origins": state.origins,
            "records": state.records,
            "restarts": state.restarts,
            "n_steps": state.n_steps,
            "status": state.status.name,
            "stopped": state.stopped,
        }
        trained = (state.arrays, state.solver, state.best)
        self.checkpoint.write(trained, numbers, force=force, finished=finished)

    def _train(self, index: int, stage: Stage, state: _State, static: PyTree) -> Status:
        key = named_key(self.seed, "train", index)
        # Ctrl-C may strike between the steps of a chunk and their evaluation; what is saved then is
        # the last border, where both are done.
        border = _copy(state)
        n_rows = self.data.n_rows
        batch_size = None if stage.batch_size is None or stage.batch_size >= n_rows else stage.batch_size
        # Wrapped at the end, so that every row is equally often in a slice.
        stepwise = isinstance(stage.solver, StepSolver)
        wrapped = wrap(self.data, batch_size) if stepwise and batch_size is not None else self.data
        try:
            if state.step == 0 and not np.isfinite(state.best_held_out).any():
                self._evaluate(index, stage, state, static, np.full(stage.restarts, np.nan))
                border = _copy(state)
            while state.step < stage.steps and not state.stopped:
                if stage.patience is not None and state.stale >= stage.patience:
                    break
                stop = min(state.step + stage.chunk, stage.steps)
                if isinstance(stage.solver, StepSolver):
                    state.arrays, state.solver, loss = train_population(
                        state.arrays, state.solver, wrapped, key, state.step, stop,
                        static, stage.objective, stage.solver, stage.steps, batch_size, n_rows,
                        stage.group,
                    )  # fmt: skip
                elif isinstance(stage.solver, EM):
                    previous = np.asarray(state.records[-1]["loss"], np.float64)
                    state.arrays, loss, rise = iterate(
                        stage.solver, state.arrays, static, self.data, previous, stop - state.step
                    )
                    _check_monotone(stage.name, stop, rise, str(self.data.x.dtype))
                else:
                    rows = self.data if batch_size is None else self.data.head(batch_size)
                    state.arrays, loss = minimize(
                        stage.solver, stage.objective, state.arrays, static, rows, key, stop - state.step
                    )
                state.n_steps += stop - state.step
                state.step = stop
                self._evaluate(index, stage, state, static, loss)
                border = _copy(state)
                self._save(index, state)
                state.stopped = self._report(index, stage, state)
        except KeyboardInterrupt:
            self._save(index, border, force=True)
            raise Interrupted(
                f"stopped by the user in stage {stage.name!r} at step {border.step} of {stage.steps}"
            ) from None
        if state.stopped:
            self.stopped = True
            return Status.STOPPED
        best = int(ranking(state.best_held_out)[0])
        if not np.isfinite(last_value(state.records, best, "loss", default=0.0)):
            return Status.NON_FINITE
        least = TOLERANCE if stage.tolerance is None else stage.tolerance
        return Status.MAX_ITER if still_improving(state.records, best, least) else Status.CONVERGED

    def _evaluate(self, index: int, stage: Stage, state: _State, static: PyTree, loss: np.ndarray) -> None:
        key = named_key(self.seed, "evaluate", index)
        held_out = evaluate_population(
            state.arrays, self.monitor_fit, self.monitor, key, static, stage.evaluate
        )
        better = np.where(np.isfinite(held_out), held_out, np.inf) < state.best_held_out
        with np.errstate(invalid="ignore"):
            gained = better & ~(state.best_held_out - held_out <= (stage.tolerance or 0.0))
        state.best = choose(better, state.arrays, state.best)
        state.best_held_out = np.where(better, held_out, state.best_held_out)
        state.stale = 0 if gained.any() else state.stale + 1
        state.records.append(
            {"stage": index, "step": state.step, "loss": loss.tolist(), "held_out": held_out.tolist()}
        )

    def _report(self, index: int, stage: Stage, state: _State) -> bool:
        best = int(ranking(state.best_held_out)[0])
        done = sum(self.work[:index]) + self.work[index] * state.step / stage.steps
        progress = Progress(
            stage=index,
            n_stages=len(self.stages),
            name=stage.name,
            step=state.step,
            steps=stage.steps,
            fraction=done / max(sum(self.work), 1),
            loss=float(last_value(state.records, best, "loss", default=np.nan)),
            held_out=float(state.best_held_out[best]),
            seconds=time.monotonic() - self.started,
        )
        return any([callback(progress) is True for callback in self.callbacks])


def _origins(stage: Stage, before: list[int]) -> list[int]:
    """The restart of the first stage that each restart of a stage goes back to."""
    own = list(range(stage.restarts))
    return own if stage.independent or not before else [before[r % len(before)] for r in own]


def _copy(state: _State) -> _State:
    return replace(state, records=[*state.records])


def _check_monotone(name: str, step: int, rise: float, dtype: str) -> None:
    limit = LARGEST_RISE.get(dtype, 1e-4)
    if rise > limit:
        raise NotMonotoneError(
            f"a step of expectation-maximisation in stage {name!r} before step {step} made the objective worse "
            f"by {rise:.1e} relative, more than rounding in {dtype} explains ({limit:g}). Expected: no step "
            "does. The problem is too ill-conditioned for this precision: try precision='float64', or "
            "remove columns that others determine"
        )
