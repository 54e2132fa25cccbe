"""Apply a compiled function to rows in blocks of fixed size."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from identica.random import named_key
from identica.typing import Array, Key

_SMALL, _LARGE = 64, 4096


def apply_in_blocks(function: Callable[..., Any], *arrays: np.ndarray | None, size: int | None = None) -> Any:
    """``function`` of row arrays (each (N, …) or None), block by block, results joined along rows.

    Blocks have one of two sizes and are padded with copies of the last row, so no number of rows
    compiles anew, and a row's result does not depend on its neighbours: order and subsets of rows
    cannot change the last digits. Another ``size`` is for functions of which padding would cost too much.
    """
    n_rows = next(len(a) for a in arrays if a is not None)
    size = size or (_SMALL if n_rows <= 16 * _SMALL else _LARGE)
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


def with_model(function: Callable[..., Any], model: Any, *options: Any) -> Callable[..., Any]:
    """A compiled function of a model, row arrays and options as a function of row arrays only."""
    return lambda *blocks: function(model, *blocks, *options)


@contextmanager
def precision_of(name: str) -> Iterator[np.dtype]:
    """Compute in float32 or float64 within this block only, without touching global settings."""
    if name not in ("float32", "float64"):
        raise ValueError(f"precision must be 'float32' or 'float64', got {name!r}")
    with jax.enable_x64(name == "float64"):
        yield np.dtype(name)


def row_keys(seed: int, rows: np.ndarray) -> np.ndarray:
    """Raw key data (N, …), one key per row, which depends on the row's content and not on its place."""
    base = named_key(seed, "rows")
    return np.asarray(_row_keys(base, np.ascontiguousarray(rows).astype(np.float32)))


@jax.jit
def _row_keys(base: Key, rows: Array) -> Array:
    bits = jax.lax.bitcast_convert_type(rows, jnp.uint32).reshape(rows.shape[0], -1)
    odd = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) * jnp.uint32(2654435761) + jnp.uint32(40503)
    mixed = bits * odd
    codes = jnp.bitwise_xor(mixed, mixed >> 15).sum(axis=1, dtype=jnp.uint32)
    return jax.random.key_data(jax.vmap(lambda code: jax.random.fold_in(base, code))(codes))
