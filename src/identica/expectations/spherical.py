"""Spherical cubature: 2n nodes, exact for polynomials up to degree 3."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from identica.expectations.nodes import WeightedNodes
from identica.typing import Array, Key


@dataclass(frozen=True)
class SphericalCubature(WeightedNodes):
    """±√n eᵢ with equal weights: mean and covariance of a Gaussian in as few nodes as there can be.

    On an exactly Gaussian posterior all importance weights are equal, so the marginal likelihood of a
    linear Gaussian model is exact, and its gradient, quadratic in z, too, in any dimension.

    References
    ----------
    Arasaratnam, Haykin (2009), Cubature Kalman filters, eq. 20.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> from identica.objectives.reductions import Mean
    >>> q = dist.Normal([[0.5, -1.0]], 2.0).to_event(1)
    >>> square = lambda z, log_q: (z**2).sum(-1)
    >>> round(float(SphericalCubature()(q, square, Mean())[0]), 4)
    9.25
    """

    def count(self, n: int) -> int:
        return 2 * n

    def standard(self, n: int, dtype: Any, *, key: Key | None = None) -> tuple[Array, Array]:
        axes = math.sqrt(n) * jnp.eye(n, dtype=dtype)
        return jnp.concatenate([axes, -axes]), jnp.full(2 * n, -math.log(2 * n), dtype)
