"""A stage: create or warm-start systems, train them with one solver on one objective, keep the best."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from identica.data import Dataset
from identica.training.solvers import Solver
from identica.typing import Array, Key, PyTree

Prepare: TypeAlias = Callable[[PyTree | None, Dataset, Key], PyTree]
"""``prepare(system, fit_data, key) -> system``: create (system is None), grow or warm-start one restart.

Its result's structure and shapes must not depend on the values in ``system``."""

Objective: TypeAlias = Callable[..., tuple[Array, dict[str, Array]]]
"""``objective(system, batch, *, key) -> (loss, metrics)``, nats per row, minimised; hashable."""

Evaluate: TypeAlias = Callable[[PyTree, Dataset, Dataset, Key], Array]
"""``evaluate(system, fit_data, held_out_data, key) -> scalar``, nats per row, lower is better; hashable."""

Sources: TypeAlias = Callable[[PyTree, Dataset], Array]
"""``sources(system, rows) -> (rows, n)``: what the system takes for the sources of these rows; hashable."""


GROUP = 4
"""Restarts that are usually trained side by side in one compiled call."""


@dataclass(frozen=True)
class Stage:
    """One entry of the list that `identica.training.fit` runs.

    Attributes
    ----------
    name : str
        Shown in progress, history and reports.
    prepare : callable, or tuple of them
        Makes each restart's system from one of the systems kept by the stage before. Of a tuple, the
        first restarts take the first entries and all others the last.
    objective : callable
        What the solver minimises on batches.
    evaluate : callable
        What ranks restarts and chooses the best weights, on held-out rows.
    solver : Solver
        The optimiser.
    steps : int
        Length of the stage, and of the solver's schedule.
    restarts : int
        Systems trained side by side.
    keep : int
        How many of them go on.
    batch_size : int or None
        Rows per step; None takes all. Solvers without steps take so many of the first rows, always the same.
    chunk : int
        Steps between two looks at the held-out rows.
    patience : int or None
        End the stage after so many chunks without improvement in any restart; None runs to the end.
    tolerance : float or None
        Least improvement of a chunk, nats per row, that counts. None counts any, and calls a fit not
        converged only if its last chunk gained more than `loop.TOLERANCE`.
    sources : callable or None
        By which restarts are compared at the end, where the method claims to determine sources.
    independent : bool
        Whether restarts count as first networks of their own, though the stage before kept fewer.
    group : int
        Most restarts that are trained in one compiled call. Operations of flows are small and gain from company;
        those of networks do not, and two groups use two cores.
    cost : float
        What a row of a step costs, relative to other stages; for the progress bar.
    """

    name: str
    prepare: Prepare | tuple[Prepare, ...]
    objective: Objective
    evaluate: Evaluate
    solver: Solver
    steps: int
    restarts: int = 1
    keep: int = 1
    batch_size: int | None = None
    chunk: int = 100
    patience: int | None = None
    tolerance: float | None = None
    sources: Sources | None = None
    independent: bool = False
    group: int = GROUP
    cost: float = 1.0

    def prepare_of(self, restart: int) -> Prepare:
        """How restart number ``restart`` begins."""
        if isinstance(self.prepare, tuple):
            return self.prepare[min(restart, len(self.prepare) - 1)]
        return self.prepare


def unchanged(system: PyTree | None, data: Dataset, key: Key) -> PyTree:
    """``prepare`` of a stage that goes on with what the stage before kept."""
    if system is None:
        raise ValueError("there is nothing to go on with before the first stage")
    return system
