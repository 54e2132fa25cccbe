"""Rows to print beside every score: what chance, rotation, u alone and a linear map would reach.

A mean correlation says nothing by itself. Independent noise scores 0.06 (five components, 500 rows), a
random rotation of perfectly whitened sources 0.90 at n = 2, and the segment means alone 0.83 on a
well-known benchmark. `u_only` and `best_linear` need the true sources; so do all scores of this kind.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from identica.errors import DataError
from identica.linear.correlation import as_columns, segment_codes, segment_means
from identica.random import named_rng
from identica.simulation.mixings import orthogonal_matrix
from identica.simulation.oracle import best_linear, u_only
from identica.typing import FloatArray

__all__ = ["Null", "best_linear", "chance", "rotation_null", "u_only"]


@dataclass(frozen=True)
class Null:
    """Law of the MCC when nothing, or nothing beyond a linear map, was recovered.

    Attributes
    ----------
    mean : float
        Expected score.
    upper : float
        95 % quantile: one score above it is evidence at that level.
    """

    mean: float
    upper: float


def chance(n: int, N: int, *, draws: int = 400, seed: int = 0) -> Null:
    """Law of the Pearson MCC between two independent tables of n columns and N independent rows.

    Entries of the correlation matrix are drawn from their exact law under independence and normality,
    ``t / sqrt(N - 2 + t^2)`` with Student's t of N - 2 degrees of freedom, as if independent of each other.
    The mean is about ``0.8 sqrt(2 log n / N)`` for n >= 3. For time series N is the effective number of
    rows.

    Parameters
    ----------
    n, N : int
        Components, and rows on which the score is computed; N >= 3.
    draws, seed : int
        Monte Carlo draws (standard error of the mean below 2 % for n >= 2) and their seed.

    Raises
    ------
    DataError
        ``n < 1`` or ``N < 3``.

    Examples
    --------
    >>> round(chance(5, 500).mean, 2)
    0.06
    """
    if n < 1 or N < 3 or draws < 1:
        raise DataError(f"expected n >= 1, N >= 3 and draws >= 1, got n={n}, N={N}, draws={draws}")
    t = named_rng(seed, "chance", n, N).standard_t(N - 2, (draws, n, n))
    return _null(np.abs(t) / np.sqrt(N - 2 + t**2))


def rotation_null(S: Any, *, within: Any = None, draws: int = 200, seed: int = 0) -> Null:
    """Law of the Pearson MCC of a random rotation of the whitened true sources.

    This is what a method scores that found the right space and nothing else: whitened estimates of the
    class that is identified up to a linear map. For uncorrelated sources the mean (95 %) is .90 (.999)
    at n = 2, .73 (.84) at n = 5 and .59 (.65) at n = 10: at n = 2 nothing below .99 is evidence of unmixing.

    Parameters
    ----------
    S : array (N, n)
        True sources, N > n.
    within : array-like (N,) or (N, k), optional
        Labels by which the sources are centred first; compare with ``mcc(..., within=...)``.
    draws, seed : int
        Number of Haar-distributed rotations, and their seed.

    Raises
    ------
    DataError
        Values that are not finite, fewer rows than needed, or linearly dependent or constant sources.
    """
    truth = as_columns(S, "S")
    if within is not None:
        codes, n_segments = segment_codes(within, len(truth))
        truth = truth - segment_means(truth, codes, n_segments)[codes]
    spread = truth.std(0)
    if len(truth) <= truth.shape[1] or not (spread > 0).all():
        raise DataError(
            f"expected more rows than columns and no constant source, got shape {truth.shape} with standard "
            f"deviations {np.round(spread, 6).tolist()}"
        )
    correlation = np.atleast_2d(np.corrcoef(truth.T))
    values, vectors = np.linalg.eigh(correlation)
    if values[0] < 1e-10:
        raise DataError("the true sources are linearly dependent, so they cannot be whitened; drop copies")
    # corr(S, S_white Q) is the symmetric root of the correlation matrix times Q: no data needed.
    root = (vectors * np.sqrt(values)) @ vectors.T
    rng = named_rng(seed, "rotation-null")
    rotated = [np.abs(root @ orthogonal_matrix(rng, len(root))) for _ in range(draws)]
    return _null(np.stack(rotated))


def _null(correlations: FloatArray) -> Null:
    """Score each matrix of absolute correlations (draws, n, n) by its best assignment."""
    scores = [c[linear_sum_assignment(-c)].mean() for c in correlations]
    return Null(mean=float(np.mean(scores)), upper=float(np.quantile(scores, 0.95)))
