"""A few fixed points of a Gaussian, spread evenly and balanced: noise that stays the same throughout a fit."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from identica.expectations.nodes import WeightedNodes, checked_count
from identica.typing import Array, FloatArray, Key

_SEED = 20_140_422


@dataclass(frozen=True)
class Balanced(WeightedNodes):
    """Scrambled Sobol points with their mirror images, turned so that their covariance is I.

    Mirror images make all odd moments exact, the turn the second: polynomials up to degree 3 are exact in any
    dimension, as in spherical cubature, but points fill the Gaussian rather than its axes, so that a
    network cannot be good at a few places only.

    Attributes
    ----------
    samples : int
        Number K of points, even; at least 2n are taken.

    References
    ----------
    Hammersley, Morton (1956), A new Monte Carlo technique: antithetic variates.

    Examples
    --------
    >>> import numpyro.distributions as dist
    >>> from identica.objectives.reductions import Mean
    >>> q = dist.Normal([[0.5, -1.0]], 2.0).to_event(1)
    >>> square = lambda z, log_q: (z**2).sum(-1)
    >>> round(float(Balanced(8)(q, square, Mean())[0]), 4)  # 2 · 2² + .5² + 1²
    9.25
    """

    samples: int = 32

    def __post_init__(self) -> None:
        checked_count("samples", self.samples, least=2)

    def count(self, n: int) -> int:
        return 2 * max(-(-self.samples // 2), n)

    def standard(self, n: int, dtype: Any, *, key: Key | None = None) -> tuple[Array, Array]:
        points = _points(self.count(n) // 2, n)
        return jnp.asarray(points, dtype), jnp.full(len(points), -np.log(len(points)), dtype)


@cache
def _points(half: int, n: int) -> FloatArray:
    sobol = qmc.Sobol(n, scramble=True, rng=_SEED).random_base2(max(1, (half - 1).bit_length()))
    drawn = ndtri(np.clip(sobol[:half], 1e-6, 1 - 1e-6))
    covariance = drawn.T @ drawn / half
    values, vectors = np.linalg.eigh(covariance)
    drawn = drawn @ (vectors / np.sqrt(values)) @ vectors.T
    return np.concatenate([drawn, -drawn])
