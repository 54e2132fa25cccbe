"""Apply a compiled function to rows in blocks of fixed size."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

_SMALL, _LARGE = 64, 4096


def apply_in_blocks(function: Callable[..., Any], *arrays: np.ndarray | None) -> Any:
    """``function`` of row arrays (each (N, …) or None), block by block, results joined along rows.

    Blocks have one of two sizes and are padded with copies of the last row, so no number of rows
    compiles anew, and a row's result does not depend on its neighbours: order and subsets of rows
    cannot change the last digits.
    """
    n_rows = next(len(a) for a in arrays if a is not None)
    size = _SMALL if n_rows <= 16 * _SMALL else _LARGE
    parts: list[Any] = []
    for start in range(0, n_rows, size):
        block = [None if a is None else a[start : start + size] for a in arrays]
        count = next(len(b) for b in block if b is not None)
        if count < size:
            block = [
                None if b is None else np.concatenate([b, np.repeat(b[-1:], size - count, axis=0)])
                for b in block
            ]
        parts.append(jax.tree.map(lambda leaf: np.asarray(leaf)[:count], function(*block)))  # noqa: B023
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@contextmanager
def precision_of(name: str) -> Iterator[np.dtype]:
    """Compute in float32 or float64 within this block only, without touching global settings."""
    if name not in ("float32", "float64"):
        raise ValueError(f"precision must be 'float32' or 'float64', got {name!r}")
    with jax.enable_x64(name == "float64"):
        yield np.dtype(name)
