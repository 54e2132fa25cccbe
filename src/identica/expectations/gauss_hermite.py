"""Gauss-Hermite quadrature: deterministic nodes of a Gaussian on a tensor grid."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.special import roots_hermitenorm

from identica.errors import DataError
from identica.expectations.nodes import WeightedNodes, checked_count
from identica.typing import Array, FloatArray, Key

_LARGEST_ORDER = 512
_MOST_NODES = 2**20


@dataclass(frozen=True)
class GaussHermite(WeightedNodes):
    """Nodes of a Gaussian that integrate polynomials up to degree 2Q − 1 in each direction exactly.

    On the prior, quadrature fails once the posterior is narrower than the distance of two nodes, and
    not monotonically in Q: look at the largest normalised weight (`LARGEST_NODE_SHARE`). On a Gaussian
    fitted to the posterior it needs few nodes at any noise, and one that is exactly Gaussian needs one.

    Attributes
    ----------
    order : int
        Nodes Q per dimension; the grid has Qⁿ.

    Raises
    ------
    DataError
        If `order` is not between 1 and 512, or the grid would have more than 2²⁰ nodes.

    References
    ----------
    Golub, Welsch (1969), Calculation of Gauss quadrature rules. Liu, Pierce (1994), A note on
    Gauss-Hermite quadrature, for nodes adapted to each observation.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> from identica.objectives.reductions import Mean
    >>> q = dist.Normal([[0.5, -1.0]], 2.0).to_event(1)
    >>> square = lambda z, log_q: (z**2).sum(-1)
    >>> float(GaussHermite(2)(q, square, Mean())[0])  # 2 · 2² + .5² + 1²
    9.25
    """

    order: int = 20

    def __post_init__(self) -> None:
        checked_count("order", self.order, most=_LARGEST_ORDER)

    def count(self, n: int) -> int:
        return self.order**n

    def standard(self, n: int, dtype: Any, *, key: Key | None = None) -> tuple[Array, Array]:
        if self.count(n) > _MOST_NODES:
            raise DataError(
                f"a grid of {self.order} nodes in each of {n} dimensions has {self.count(n)} nodes, more than "
                f"{_MOST_NODES}; use fewer nodes, or quasi-Monte Carlo"
            )
        points, log_weights = hermite_grid(self.order, n)
        return jnp.asarray(points, dtype), jnp.asarray(log_weights, dtype)


@cache
def hermite_rule(order: int) -> tuple[FloatArray, FloatArray]:
    """Nodes (Q,) of N(0, 1) and logarithms (Q,) of their weights, which sum to 1.

    Weights are 1/(Q h_{Q−1}(t)²) with orthonormal Hermite polynomials h, in logarithms, because those of
    outer nodes underflow beyond Q = 350.
    """
    t = roots_hermitenorm(order)[0]
    before, now = np.zeros_like(t), np.ones_like(t)
    for k in range(order - 1):
        before, now = now, (t * now - np.sqrt(k) * before) / np.sqrt(k + 1)
    return t, -np.log(order) - 2 * np.log(np.abs(now))


@cache
def hermite_grid(order: int, n: int) -> tuple[FloatArray, FloatArray]:
    """Tensor grid (Qⁿ, n) and logarithms (Qⁿ,) of its weights."""
    t, log_w = hermite_rule(order)
    index = np.indices((order,) * n).reshape(n, -1)
    return t[index].T, log_w[index].sum(axis=0)
