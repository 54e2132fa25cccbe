"""Objectives of a start from a flow: the flow's own on scores, then the distance to its sources."""

from dataclasses import dataclass
from typing import Any

from identica.data import Dataset, mean_over_rows
from identica.models.teacher import Contender, FlowTeacher, Pupil
from identica.typing import Array, Key


@dataclass(frozen=True)
class OnScores:
    """An objective of a flow, applied to the scores of a teacher.

    Attributes
    ----------
    objective : callable
        Of the flow.
    """

    objective: Any

    def __call__(self, system: FlowTeacher, batch: Dataset, *, key: Key) -> tuple[Array, dict[str, Array]]:
        return self.objective(system.flow, on_scores(system, batch), key=key)


@dataclass(frozen=True)
class HeldOutOnScores:
    """A held-out objective of a flow, applied to the scores of a teacher."""

    evaluate: Any

    def __call__(self, system: FlowTeacher, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return self.evaluate(system.flow, on_scores(system, data), on_scores(system, held_out), key)


@dataclass(frozen=True)
class Distance:
    """Mean squared distance between a pupil's features and its teacher's sources."""

    def __call__(self, system: Pupil, batch: Dataset, *, key: Key) -> tuple[Array, dict[str, Array]]:
        return mean_over_rows(system.error(batch.x), batch.weight), {}


@dataclass(frozen=True)
class HeldOutDistance:
    """The same on held-out rows."""

    def __call__(self, system: Pupil, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return mean_over_rows(system.error(held_out.x), held_out.weight)


@dataclass(frozen=True)
class OnContender:
    """An objective of a classifier, applied to the one of a contender that is in training."""

    objective: Any

    def __call__(self, system: Contender, batch: Dataset, *, key: Key) -> tuple[Array, dict[str, Array]]:
        return self.objective(system.classifier, batch, key=key)


@dataclass(frozen=True)
class HeldOutOnContender:
    """The same for a held-out objective."""

    evaluate: Any

    def __call__(self, system: Contender, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return self.evaluate(system.classifier, data, held_out, key)


def on_scores(system: FlowTeacher, data: Dataset) -> Dataset:
    """The data set with scores in place of x."""
    return Dataset(system.scores(data.x), data.u, data.sequence, data.weight)
