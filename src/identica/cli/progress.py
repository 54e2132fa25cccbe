"""How far a fit has come: a live bar on a terminal, sparse lines elsewhere, and a trace on disk."""

import json
import time
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from identica.cli.output import console, plain, say
from identica.cli.runs import Run
from identica.training.progress import Progress


class ProgressDisplay:
    """A callback for estimators that shows the fraction done, the stage and the objective.

    Parameters
    ----------
    title : str
        What is being done.
    every : float
        Without a terminal, a line is printed each time this further share of the fit is done.

    Examples
    --------
    >>> with ProgressDisplay("fitting", every=0.5) as display:
    ...     display(Progress(0, 1, "train", 10, 20, 0.5, 1.5, 1.6, 2.0))
    """

    def __init__(self, title: str, *, every: float = 0.1) -> None:
        self.title, self.every = title, every
        self._console = console()
        self._bar: Bar | None = None
        self._said = 0.0
        # Parts of a fit count their own seconds; what is shown is of the whole.
        self._started = time.monotonic()

    def __enter__(self) -> "ProgressDisplay":
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(compact=True),
                TextColumn("[dim]{task.fields[detail]}"),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=1.0, detail="compiling")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show one state."""
        stage = f"stage {progress.stage + 1}/{progress.n_stages} {progress.name}"
        detail = f"{stage}, held-out {progress.held_out:.3f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=progress.fraction, detail=detail)
        elif progress.fraction >= self._said + self.every:
            self._said = progress.fraction
            seconds = time.monotonic() - self._started
            say(f"{self.title}: {progress.fraction:4.0%} after {seconds:.0f} s, {detail}")


class Recorder:
    """A callback that keeps ``history.jsonl`` and the last state in ``run.json`` while a fit runs."""

    def __init__(self, run: Run, record: dict[str, Any], *, seconds: float = 5.0) -> None:
        self.run, self.record, self.seconds = run, record, seconds
        self._written = float("-inf")

    def __call__(self, progress: Progress) -> None:
        """Note one state."""
        self.record["progress"] = {
            "fraction": progress.fraction,
            "stage": progress.name,
            "step": progress.step,
            "steps": progress.steps,
            "held_out": progress.held_out,
            "seconds": progress.seconds,
        }
        line = {
            "stage": progress.name,
            "step": progress.step,
            "restart": None,
            "loss": progress.loss,
            "held_out": progress.held_out,
        }
        with open(self.run.history, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(plain(line)) + "\n")
        if time.monotonic() - self._written > self.seconds:
            self.run.write(self.record)
            self._written = time.monotonic()
