"""Match estimated components to true ones, and score the match: the mean correlation coefficient.

A nonlinear ICA model determines its components up to order, sign and scale (for most families), so a
score has to choose the order first. Theory decides the correlation: Pearson where the remaining map is
affine (Gaussian, Laplace), Spearman where it is monotone.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from identica.errors import DataError
from identica.linear.correlation import (
    as_columns,
    least_squares_prediction,
    segment_codes,
    segment_means,
    split_rows,
    standardised,
)
from identica.typing import FloatArray, IntArray

Method = Literal["pearson", "spearman"]


@dataclass(frozen=True)
class Matching:
    """Which estimated component stands for which true one, and how well.

    Attributes
    ----------
    order : array (n,) of int
        Column of the estimate matched to each true component; -1 where there are too few estimates.
    sign : array (n,) of int
        Sign of the correlation, +1 or -1; +1 where it is zero or there is no match.
    correlations : array (n,)
        Absolute correlation of each true component with its match, in [0, 1]; 0 without a match.
    """

    order: IntArray
    sign: IntArray
    correlations: FloatArray

    @property
    def mean(self) -> float:
        """Mean of ``correlations``: the MCC."""
        return float(self.correlations.mean())

    def apply(self, S_hat: Any) -> FloatArray:
        """Columns of an estimate (N, m) in the order and with the signs of the true components, (N, n).

        Raises
        ------
        DataError
            A true component has no match, or ``S_hat`` has too few columns.
        """
        estimate = as_columns(S_hat, "S_hat")
        if (self.order < 0).any() or self.order.max() >= estimate.shape[1]:
            raise DataError(
                f"cannot reorder {estimate.shape[1]} columns by {self.order.tolist()}; "
                "every true component needs a matched column"
            )
        return estimate[:, self.order] * self.sign


def match_components(
    S: Any, S_hat: Any, *, method: Method = "pearson", within: Any = None, fit_rows: Any = None
) -> Matching:
    """Match estimated components to true ones by the assignment with the largest sum of |correlation|.

    Parameters
    ----------
    S : array (N, n)
        True components.
    S_hat : array (N, m)
        Estimated components, posterior means rather than samples. With m > n the best n are used; with
        m < n the unmatched true components get correlation 0.
    method : {"pearson", "spearman"}
        Correlation coefficient.
    within : array-like (N,) or (N, k), optional
        Labels by which both tables are centred first, so that agreement which u alone explains does not
        count. A posterior that ignores x scores high without this, and about 0 with it.
    fit_rows : mask (N,) or row numbers, optional
        Rows on which the assignment, and nothing else, is fixed; the correlations are those of the
        *other* rows.

    Returns
    -------
    Matching

    Raises
    ------
    DataError
        NaN or infinite values, different numbers of rows, an unknown method, or rows on only one side of
        ``fit_rows``. A constant column is no error: it correlates 0 with everything.

    Examples
    --------
    >>> import numpy as np
    >>> S = np.random.default_rng(0).standard_normal((100, 2))
    >>> match_components(S, np.column_stack([-S[:, 1], S[:, 0]])).order
    array([1, 0])
    """
    if method not in ("pearson", "spearman"):
        raise DataError(f"unknown correlation {method!r}; choose 'pearson' or 'spearman'")
    truth = as_columns(S, "S")
    estimate = as_columns(S_hat, "S_hat", n_rows=len(truth))
    fit, score = split_rows(fit_rows, len(truth))
    magnitude = np.abs(truth).max(0), np.abs(estimate).max(0)
    if within is not None:
        codes, n_segments = segment_codes(within, len(truth))
        if n_segments == len(truth):
            raise DataError(
                "every row has its own value of `within`, so centring by it leaves nothing to compare; "
                "pass labels that repeat, for example bins of a continuous u"
            )
        truth = truth - segment_means(truth, codes, n_segments)[codes]
        estimate = estimate - segment_means(estimate, codes, n_segments)[codes]

    def correlation(rows: IntArray) -> FloatArray:
        ranks = method == "spearman"
        left = standardised(truth[rows], ranks=ranks, magnitude=magnitude[0])
        right = standardised(estimate[rows], ranks=ranks, magnitude=magnitude[1])
        return np.clip(left.T @ right, -1.0, 1.0)

    on_fit = correlation(fit)
    source, column = linear_sum_assignment(-np.abs(on_fit))
    scored = (on_fit if fit_rows is None else correlation(score))[source, column]
    n = truth.shape[1]
    order, sign, correlations = np.full(n, -1), np.ones(n, dtype=np.int64), np.zeros(n)
    order[source] = column
    sign[source] = np.where(scored < 0, -1, 1)
    correlations[source] = np.abs(scored)
    return Matching(order=order, sign=sign, correlations=correlations)


def mcc(S: Any, S_hat: Any, *, method: Method = "pearson", within: Any = None, fit_rows: Any = None) -> float:
    """Mean correlation coefficient after the optimal assignment, in [0, 1].

    The usual score of nonlinear ICA against known sources. Arguments, shapes and errors are those of
    `match_components`. Read it beside its nulls (`identica.evaluation.baselines`): at n = 2 a random
    rotation of perfectly whitened sources already scores 0.90.

    Examples
    --------
    >>> import numpy as np
    >>> S = np.random.default_rng(0).standard_normal((100, 3))
    >>> round(mcc(S, -2 * S[:, [2, 0, 1]] + 1), 6)
    1.0
    """
    return match_components(S, S_hat, method=method, within=within, fit_rows=fit_rows).mean


def linear_r2(S: Any, S_hat: Any, *, fit_rows: Any = None) -> float:
    """Mean R squared of predicting each true component linearly from all estimated ones.

    The weak score: unlike `mcc` it forgives any linear mixing left between the estimates. With
    ``fit_rows`` the regression is fitted there and evaluated on the other rows (and may be negative).
    A constant true component counts 0.

    Examples
    --------
    >>> import numpy as np
    >>> S = np.random.default_rng(0).standard_normal((100, 2))
    >>> round(linear_r2(S, S @ np.array([[1.0, 1.0], [-1.0, 1.0]])), 6)
    1.0
    """
    truth = as_columns(S, "S")
    estimate = as_columns(S_hat, "S_hat", n_rows=len(truth))
    fit, score = split_rows(fit_rows, len(truth))
    residual = truth[score] - least_squares_prediction(estimate, truth, fit, score)
    varies = (standardised(truth[score]) != 0).any(0)
    variance = truth[score].var(0)
    error = (residual**2).mean(0)
    return float(np.where(varies, 1 - error / np.where(varies, variance, 1.0), 0.0).mean())


def amari_distance(W: Any, A: Any) -> float:
    """Amari distance between an unmixing matrix W (n, d) and a mixing matrix A (d, n).

    0 iff ``W A`` is a permutation with scales, at most 1 (Amari, Cichocki & Yang 1996, in the
    normalised form of the ICA literature).

    Raises
    ------
    DataError
        Shapes that do not multiply to a square matrix of at least 2 x 2, values that are not finite, or a
        product with a row or column of zeros.
    """
    unmixing, mixing = as_columns(W, "W"), as_columns(A, "A")
    if unmixing.shape != mixing.shape[::-1] or len(unmixing) < 2:
        raise DataError(
            f"expected W (n, d) and A (d, n) with n >= 2, got {unmixing.shape} and {mixing.shape}; "
            "W A must be square"
        )
    gain = np.abs(unmixing @ mixing)
    n = len(gain)
    rows, columns = gain.max(1, keepdims=True), gain.max(0, keepdims=True)
    if (rows == 0).any() or (columns == 0).any():
        raise DataError("W A has a row or column of zeros, so the Amari distance is undefined")
    return float(((gain / rows).sum() + (gain / columns).sum() - 2 * n) / (2 * n * (n - 1)))
