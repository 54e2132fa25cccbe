"""Restarts side by side: a population is a system whose arrays have a leading restart axis."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.typing import PyTree


def stack(systems: Sequence[PyTree]) -> tuple[PyTree, PyTree]:
    """Arrays with a leading restart axis (R, …), and the static rest that all restarts share."""
    parts = [eqx.partition(system, eqx.is_inexact_array) for system in systems]
    arrays = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p[0] for p in parts))
    return strongly_typed(arrays), parts[0][1]


def strongly_typed(tree: PyTree) -> PyTree:
    """The same arrays without JAX's weak types, which would compile the same loop a second time."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), tree)


def member(arrays: PyTree, static: PyTree, index: int) -> PyTree:
    """System number ``index`` of a population."""
    return eqx.combine(jax.tree.map(lambda leaf: leaf[index], arrays), static)


def ranking(held_out: np.ndarray) -> np.ndarray:
    """Restart indices from best to worst; those that were never finite come last."""
    return np.argsort(np.where(np.isfinite(held_out), held_out, np.inf), kind="stable")
