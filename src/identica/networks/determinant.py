"""log|det W| of a small square matrix, by elimination in plain array operations.

The library's routine runs batches of matrices on the thread pool that it was called from. With few
cores two such calls at a time wait for each other for ever (seen with four matrices of size 50 on two
cores, jaxlib 0.10.2); these operations need no pool.
"""

import jax
import jax.numpy as jnp

from identica.typing import Array


@jax.custom_vjp
def log_abs_det(weight: Array) -> Array:
    """log|det W| (…,) of W (…, n, n); −inf for a singular matrix."""
    return _log_abs_det_and_inverse(weight)[0]


def _forward(weight: Array) -> tuple[Array, Array]:
    return _log_abs_det_and_inverse(weight)


def _backward(inverse: Array, slope: Array) -> tuple[Array]:
    return (slope[..., None, None] * jnp.swapaxes(inverse, -1, -2),)


log_abs_det.defvjp(_forward, _backward)


def _log_abs_det_and_inverse(weight: Array) -> tuple[Array, Array]:
    function = _eliminate
    for _ in range(weight.ndim - 2):
        function = jax.vmap(function)
    return function(weight)


def _eliminate(weight: Array) -> tuple[Array, Array]:
    """Gauss-Jordan elimination with the largest pivot of each column; rows stay where they are."""
    n = weight.shape[0]
    start = (
        jnp.concatenate([weight, jnp.eye(n, dtype=weight.dtype)], axis=1),
        jnp.zeros((n, n), weight.dtype),
        jnp.zeros((), weight.dtype),
    )

    def step(k: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        table, order, total = state
        column = jax.lax.dynamic_index_in_dim(table, k, axis=1, keepdims=False)
        free = jnp.where(order.sum(0) > 0, -1.0, jnp.abs(column))
        # A product with a unit vector, not an index: gathers of a batch are slow.
        here = jax.nn.one_hot(jnp.argmax(free), n, dtype=weight.dtype)
        pivot = here @ column
        row = (here @ table) / jnp.where(pivot == 0, 1.0, pivot)
        table = table - (column - here)[:, None] * row
        return table, jax.lax.dynamic_update_index_in_dim(order, here, k, 0), total + jnp.log(jnp.abs(pivot))

    table, order, total = jax.lax.fori_loop(0, n, step, start)
    return total, order @ table[:, n:]
