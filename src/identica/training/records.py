"""What the loop writes down at the end of a chunk and of a stage, and what these records say."""

import numpy as np

from identica.data import Dataset
from identica.errors import Status
from identica.training.agreement import agreements
from identica.training.population import ranking
from identica.training.stage import Stage
from identica.typing import PyTree


def restart_records(
    stage: Stage, arrays: PyTree, static: PyTree, losses: np.ndarray, origins: list[int], held_out: Dataset
) -> list[dict[str, object]]:
    """One record per restart of a stage that has ended.

    Parameters
    ----------
    stage : Stage
    arrays, static : PyTree
        The best system of each restart, as a population.
    losses : (R,)
        Held-out objective of each.
    origins : list of int
        Restart of the first stage that each was grown from.
    held_out : Dataset
        Rows by whose sources restarts are compared, if the stage names sources.
    """
    said = lambda h: (Status.CONVERGED if np.isfinite(h) else Status.NON_FINITE).name.lower()
    records: list[dict[str, object]] = [
        {"seed": r, "held_out": float(h), "status": said(h), "origin": o}
        for r, (h, o) in enumerate(zip(losses, origins, strict=True))
    ]
    if stage.sources is None or stage.restarts < 2:
        return records
    found = agreements(arrays, static, int(ranking(losses)[0]), held_out, stage.sources)
    return [{**record, **agreement} for record, agreement in zip(records, found, strict=True)]


def still_improving(records: list[dict[str, object]], restart: int, least: float) -> bool:
    """Whether the last chunk brought the held-out objective below all before it by more than ``least``.

    Recovering from a rise is no progress: the best weights are kept, and those are older.
    """
    # Of this stage only: restarts of the stage before are numbered otherwise.
    own = [r for r in records if r["stage"] == records[-1]["stage"]]
    held_out = np.asarray([r["held_out"][restart] for r in own], np.float64)  # type: ignore[index]
    before = held_out[:-1][np.isfinite(held_out[:-1])]
    return len(before) > 0 and bool(before.min() - held_out[-1] > least)


def last_value(records: list[dict[str, object]], restart: int, name: str, *, default: float) -> float:
    values = records[-1][name] if records else None
    return default if values is None or records[-1]["step"] == 0 else float(values[restart])  # type: ignore[index]


def columns_of(records: list[dict[str, object]], names: list[str]) -> dict[str, np.ndarray]:
    rows = [
        (names[int(r["stage"])], r["step"], restart, loss, held_out)  # type: ignore[arg-type]
        for r in records
        for restart, (loss, held_out) in enumerate(zip(r["loss"], r["held_out"], strict=True))  # type: ignore[arg-type]
    ]
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), (), ()]
    types = (np.str_, np.int64, np.int64, np.float64, np.float64)
    keys = ("stage", "step", "restart", "loss", "held_out")
    return {k: np.asarray(c, dtype=t) for k, c, t in zip(keys, columns, types, strict=True)}
