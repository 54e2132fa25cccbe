"""Restarts side by side: a population is a system whose arrays have a leading restart axis.

Weights are small, so they are stacked and picked apart on the host: the same operations on the device
would compile a program for each shape, which takes longer than many a fit.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.typing import PyTree


def stack(systems: Sequence[PyTree]) -> tuple[PyTree, PyTree]:
    """Arrays with a leading restart axis (R, …), and the static rest that all restarts share."""
    parts = [eqx.partition(system, eqx.is_inexact_array) for system in systems]
    return stacked([p[0] for p in parts]), parts[0][1]


def stacked(trees: Sequence[PyTree]) -> PyTree:
    """Trees of arrays as one tree with a leading axis, on the host."""

    def join(*leaves: Any) -> np.ndarray:
        joined = np.stack([np.asarray(leaf) for leaf in leaves])
        return joined.astype(jax.dtypes.canonicalize_dtype(joined.dtype), copy=False)

    return jax.tree.map(join, *trees)


def picked(tree: PyTree, index: int | np.ndarray) -> PyTree:
    """Entry or entries of the leading axis, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def strongly_typed(tree: PyTree) -> PyTree:
    """The same arrays without JAX's weak types, which would compile the same loop a second time."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), tree)


def member(arrays: PyTree, static: PyTree, index: int) -> PyTree:
    """System number ``index`` of a population."""
    return eqx.combine(jax.tree.map(jnp.asarray, picked(arrays, index)), static)


def ranking(held_out: np.ndarray) -> np.ndarray:
    """Restart indices from best to worst; those that were never finite come last."""
    return np.argsort(np.where(np.isfinite(held_out), held_out, np.inf), kind="stable")
