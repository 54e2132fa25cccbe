"""What a callback sees between two chunks of training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias


@dataclass(frozen=True)
class Progress:
    """The state of a fit at a chunk border.

    Attributes
    ----------
    stage, n_stages : int
        Current stage, counted from 0, and their number.
    name : str
        Name of the stage.
    step, steps : int
        Steps done and planned in this stage.
    fraction : float
        Share of the whole fit that is done, in [0, 1].
    loss, held_out : float
        Mean training objective since the last border and held-out objective of the best restart,
        nats per row, lower is better.
    seconds : float
        Time since the fit began.
    """

    stage: int
    n_stages: int
    name: str
    step: int
    steps: int
    fraction: float
    loss: float
    held_out: float
    seconds: float


Callback: TypeAlias = Callable[[Progress], bool | None]
"""Called at each chunk border; returning True stops the fit there and keeps the best so far."""


def within(callback: Callback, begin: float, end: float) -> Callback:
    """A callback that sees a whole training as this part of a longer one."""

    def report(progress: Progress) -> bool | None:
        return callback(replace(progress, fraction=begin + (end - begin) * progress.fraction))

    return report
