"""Approximate joint diagonalisation of covariance matrices: linear ICA that uses segments.

Pham's criterion is, up to a constant, the negative log-likelihood of a linear mixture of Gaussian
sources whose variances change from segment to segment. It needs the sources to be uncorrelated only
*within* segments, so common gains and modulated means, which break FastICA, do not disturb it.
"""

import numpy as np

from identica.errors import DataError
from identica.typing import FloatArray, IntArray

# Largest entry of one relative step I - E: keeps I - E safely invertible.
_MAX_STEP = 0.5
# Smallest eigenvalue allowed in the 2 x 2 curvature of a pair. A pair with proportional variances has
# curvature zero along the rotation that the data cannot determine; the floor keeps its step finite.
_MIN_CURVATURE = 1e-4
# Numerical ridge, as a fraction of the mean covariance. It does not move an exact diagonaliser.
_RIDGE = 1e-10


def within_segment_covariances(
    x: FloatArray, codes: IntArray, n_segments: int, *, shrink: bool = True
) -> tuple[FloatArray, IntArray]:
    """Covariance matrices of the rows of each segment around the segment's own mean.

    Parameters
    ----------
    x : array (N, n)
        Observations or features, float.
    codes : array (N,) of int
        Segment of each row, in ``0 .. n_segments - 1``.
    n_segments : int
        Number of segments M; segments without rows are allowed.
    shrink : bool
        Shrink each covariance towards the pooled within-segment covariance P,
        ``C_u <- (1 - r_u) C_u + r_u P`` with ``r_u = (n / (n + N_u - 1))**2``. Segments shorter than n
        rows have singular covariances, for which Pham's criterion is unbounded below. Whatever
        diagonalises all true C_u also diagonalises P, so the shrinkage moves no solution; it is of
        second order in n / N_u, hence negligible beside the sampling error of long segments.

    Returns
    -------
    covariances : array (M, n, n)
        Unbiased (divisor ``N_u - 1``) before shrinkage.
    counts : array (M,) of int
        Rows per segment; the natural weights for `joint_diagonalize`.

    Raises
    ------
    DataError
        Wrong shapes, codes out of range, non-finite values, or no segment with two rows.
    """
    x = np.asarray(x, dtype=np.float64)
    codes = np.asarray(codes)
    if x.ndim != 2 or codes.shape != (x.shape[0],):
        raise DataError(
            f"expected x of shape (N, n) and codes of shape (N,), got {x.shape} and {codes.shape}; "
            "pass one integer segment code per row"
        )
    if not np.issubdtype(codes.dtype, np.integer):
        raise DataError(f"expected integer segment codes, got dtype {codes.dtype}; encode the labels first")
    if codes.size and (codes.min() < 0 or codes.max() >= n_segments):
        raise DataError(
            f"expected segment codes in 0..{n_segments - 1}, got {codes.min()}..{codes.max()}; "
            "pass n_segments = largest code + 1"
        )
    if not np.isfinite(x).all():
        raise DataError("expected finite values in x, got NaN or infinity; drop or impute these rows first")
    n = x.shape[1]
    counts = np.bincount(codes, minlength=n_segments)
    if counts.max(initial=0) < 2:
        raise DataError("no segment has two rows, so no covariance is defined; use coarser segments")
    rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(counts)[:-1])
    scatter = np.zeros((n_segments, n, n))
    for segment, members in enumerate(rows):
        if len(members) > 1:
            centred = x[members] - x[members].mean(0)
            scatter[segment] = centred.T @ centred
    freedom = np.maximum(counts - 1, 0)
    covariances = scatter / np.maximum(freedom, 1)[:, None, None]
    if shrink:
        pooled = scatter.sum(0) / freedom.sum()
        share = (n / (n + freedom))[:, None, None] ** 2
        covariances = (1 - share) * covariances + share * pooled
    return covariances, counts


def joint_diagonalize(
    covariances: FloatArray, weights: FloatArray | IntArray, *, max_iter: int = 100, tolerance: float = 1e-8
) -> FloatArray:
    """Matrix B that makes all ``B C_u B^T`` as diagonal as possible in Pham's sense.

    Minimises ``sum_u w_u [log det diag(B C_u B^T) - log det(B C_u B^T)] / sum_u w_u`` (nats; zero iff all
    are exactly diagonal) by relative quasi-Newton steps ``B <- (I - t E) B``. In the second-order
    expansion around diagonal matrices the pairs (i, j) decouple into 2 x 2 systems
    ``h_ij E_ij + E_ji = g_ij`` with ``g_ij = mean_u C_ij/C_ii`` and ``h_ij = mean_u C_jj/C_ii``; all are
    solved at once. Steps are halved until the criterion falls, so it never increases. The result does not
    depend on the scale or basis of the data (up to permutation and sign).

    Parameters
    ----------
    covariances : array (M, n, n)
        Symmetric positive semi-definite matrices, for example from `within_segment_covariances`.
    weights : array (M,)
        Non-negative weights, for example rows per segment.
    max_iter : int
        Largest number of steps.
    tolerance : float
        Stop when no entry of E exceeds this.

    Returns
    -------
    B : array (n, n)
        Rows scaled so that the weighted mean of ``B C_u B^T`` has unit diagonal. Order and sign are
        arbitrary.

    Raises
    ------
    DataError
        Wrong shapes, non-finite entries, no positive weight, or a singular mean covariance.

    References
    ----------
    Pham (2001), Joint approximate diagonalization of positive definite Hermitian matrices, SIAM J.
    Matrix Anal. Appl. 22(4); Ablin, Cardoso & Gramfort (2019), Beyond Pham's algorithm for joint
    diagonalization (the decoupled quasi-Newton step).

    Examples
    --------
    >>> import numpy as np
    >>> mixing = np.array([[1.0, 0.5], [0.2, 1.0]])
    >>> covariances = np.stack([mixing @ np.diag(v) @ mixing.T for v in ([1.0, 4.0], [3.0, 0.5])])
    >>> B = joint_diagonalize(covariances, np.ones(2))
    >>> off = B @ covariances[0] @ B.T
    >>> bool(abs(off[0, 1]) < 1e-8)
    True
    """
    c, w = _checked(covariances, weights)
    n = c.shape[1]
    mean = np.einsum("u,uij->ij", w, c)
    scale = np.sqrt(np.diag(mean))
    try:
        b = np.linalg.inv(np.linalg.cholesky(mean / np.outer(scale, scale))) / scale
    except np.linalg.LinAlgError:
        b = np.full((n, n), np.nan)
    if not np.isfinite(b).all():
        raise DataError(
            "the mean covariance is singular: some columns are constant within every segment or linearly "
            "dependent; reduce the data by PCA first"
        )
    c = b @ c @ b.T + _RIDGE * np.eye(n)
    value = _criterion(c, w, 0.0)
    log_det = 0.0
    for _ in range(max_iter):
        step = _newton_step(c, w)
        largest = np.abs(step).max(initial=0.0)
        if largest < tolerance:
            break
        step *= min(1.0, _MAX_STEP / largest)
        for _ in range(30):
            turn = np.eye(n) - step
            trial = turn @ c @ turn.T
            trial_log_det = log_det + np.linalg.slogdet(turn)[1]
            trial_value = _criterion(trial, w, trial_log_det)
            if trial_value < value:
                break
            step = step / 2
        else:  # the criterion no longer falls in floating point: converged
            break
        c, b, value, log_det = trial, turn @ b, trial_value, trial_log_det
    return b / np.sqrt(np.einsum("u,uii->i", w, c))[:, None]


def _checked(covariances: FloatArray, weights: FloatArray | IntArray) -> tuple[FloatArray, FloatArray]:
    c = np.asarray(covariances, dtype=np.float64)
    w = np.asarray(weights, dtype=np.float64)
    if c.ndim != 3 or c.shape[1] != c.shape[2] or w.shape != c.shape[:1]:
        raise DataError(
            f"expected covariances (M, n, n) and weights (M,), got shapes {c.shape} and {w.shape}; "
            "stack one square matrix and give one weight per segment"
        )
    if not (np.isfinite(c).all() and np.isfinite(w).all()):
        raise DataError(
            "expected finite covariances and weights, got NaN or infinity; check the data for them"
        )
    if (w < 0).any() or not w.sum() > 0:
        raise DataError("expected non-negative weights with a positive sum; use the rows per segment")
    if (np.diagonal(c, axis1=1, axis2=2) < 0).any():
        raise DataError("expected positive semi-definite covariances, got a negative variance")
    used = w > 0
    return (c[used] + c[used].transpose(0, 2, 1)) / 2, w[used] / w.sum()


def _criterion(c: FloatArray, w: FloatArray, log_det: float) -> float:
    """Pham's criterion up to a constant; ``log_det`` is log |det B| relative to the start."""
    variances = np.diagonal(c, axis1=1, axis2=2)
    if (variances <= 0).any():
        return np.inf
    return float(w @ np.log(variances).sum(1) - 2 * log_det)


def _newton_step(c: FloatArray, w: FloatArray) -> FloatArray:
    """All off-diagonal entries E_ij of one quasi-Newton step, pairs solved together."""
    variances = np.diagonal(c, axis1=1, axis2=2)
    inverse = w[:, None] / variances
    g = np.einsum("ui,uij->ij", inverse, c)
    h = inverse.T @ variances
    # Curvature [[h_ij, 1], [1, h_ji]] >= 0 by Cauchy-Schwarz; lift its smaller eigenvalue to the floor.
    half_sum, half_difference = (h + h.T) / 2, (h - h.T) / 2
    smallest = half_sum - np.hypot(half_difference, 1.0)
    h = h + np.maximum(_MIN_CURVATURE - smallest, 0.0)
    determinant = h * h.T - 1
    np.fill_diagonal(determinant, 1.0)
    step = (h.T * g - g.T) / determinant
    np.fill_diagonal(step, 0.0)
    return step
