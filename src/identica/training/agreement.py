"""Whether restarts of equal likelihood have found the same sources: what no likelihood tells."""

from typing import TypedDict

import equinox as eqx
import numpy as np
from scipy.optimize import linear_sum_assignment

from identica.compilation import compiled
from identica.data import Dataset
from identica.linear.correlation import segment_means, standardised
from identica.training.compiled import in_threads, n_members
from identica.training.population import picked
from identica.training.stage import Sources
from identica.typing import Array, FloatArray, PyTree

ROWS = 2**12
"""Most rows whose sources are compared."""


class Agreement(TypedDict):
    """How the sources of one restart correlate with those of the best, absolute values after the best assignment.

    Pooled values would agree wherever u moves the sources, so a discrete u is centred out. Both are None where
    sources are not finite.
    """

    agreement: float | None
    least_agreement: float | None


def agreements(
    arrays: PyTree, static: PyTree, best: int, held_out: Dataset, sources: Sources
) -> list[Agreement]:
    """Agreement of every restart of a population with restart number ``best``, on the same rows.

    Parameters
    ----------
    arrays, static : PyTree
        A population, as of `identica.training.population.stack`.
    best : int
        Restart with which all are compared.
    held_out : Dataset
        Rows that were not fitted; those of weight 0 do not count.
    sources : callable
        `Stage.sources`.

    Returns
    -------
    list of Agreement
        Mean and least correlation over sources, in [0, 1]; 1 for the best restart itself.
    """
    rows = held_out.head(ROWS)
    real = np.ones(rows.n_rows, bool) if rows.weight is None else np.asarray(rows.weight) > 0
    labels = None if rows.u is None else np.asarray(rows.u)[real]
    codes = None
    if labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu":
        codes = np.unique(labels, return_inverse=True)[1]

    def found(r: int) -> FloatArray | None:
        z = np.asarray(_sources(picked(arrays, r), static, rows, sources), np.float64)[real]
        if not np.isfinite(z).all():
            return None
        magnitude = np.abs(z).max(0)
        if codes is not None:
            z = z - segment_means(z, codes, int(codes.max()) + 1)[codes]
        return standardised(z, magnitude=magnitude)

    others = range(1, n_members(arrays))
    columns = [found(0), *in_threads(found, others)]
    return [_compared(columns[best], other) for other in columns]


def _compared(best: FloatArray | None, other: FloatArray | None) -> Agreement:
    if best is None or other is None:
        return Agreement(agreement=None, least_agreement=None)
    correlation = np.clip(np.abs(best.T @ other), 0.0, 1.0)
    matched = correlation[linear_sum_assignment(-correlation)]
    return Agreement(agreement=float(matched.mean()), least_agreement=float(matched.min()))


@compiled
def _sources(arrays: PyTree, static: PyTree, rows: Dataset, sources: Sources) -> Array:
    return sources(eqx.combine(arrays, static), rows)
