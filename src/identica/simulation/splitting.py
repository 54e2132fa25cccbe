"""Rows to fit on and rows to score on, the same share of every segment."""

import numpy as np

from identica.errors import DataError
from identica.random import named_rng
from identica.typing import IntArray


def hold_out_rows(u: IntArray, held_out: float = 0.2, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Row numbers to fit on and to hold out, the same share of every segment, each sorted.

    Parameters
    ----------
    u : array (N,) of int
        Segment label of each row.
    held_out : float
        Share of each segment that is held out, in (0, 1).
    seed : int
        Of the random choice of rows.

    Raises
    ------
    DataError
        ``held_out`` outside (0, 1), or segments too short to leave a row on both sides.

    Examples
    --------
    >>> fit, held_out = hold_out_rows(np.repeat([0, 1], 10), 0.2)
    >>> len(fit), len(held_out), int(sum(held_out < 10))
    (16, 4, 2)
    """
    if not 0 < held_out < 1:
        raise DataError(f"expected held_out between 0 and 1, got {held_out}; 0.2 holds out one row in five")
    rng = named_rng(seed, "split")
    fit, test = [], []
    for segment in np.unique(u):
        rows = rng.permutation(np.flatnonzero(u == segment))
        cut = round(held_out * len(rows))
        if not 0 < cut < len(rows):
            raise DataError(
                f"cannot hold out {held_out:g} of the {len(rows)} rows of segment {segment}; "
                "simulate longer segments or change held_out"
            )
        test.append(rows[:cut])
        fit.append(rows[cut:])
    return np.sort(np.concatenate(fit)), np.sort(np.concatenate(test))
