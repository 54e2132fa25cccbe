"""Whether the variances of two sources change with u in different ways, which is what tells them apart."""

import numpy as np

from identica.typing import FloatArray, IntArray

SEPARATE = 0.3
"""Distance below which two sources are hardly told apart: their variances keep one ratio within a third.

Where only means change with u, trained models show distances up to .2 all the same, for want of a perfect fit;
sources with standard deviations U(.5, 2) are 1 apart.
"""

_JUDGED = 0.15
"""Most noise of a distance that is judged."""


def profile_distances(
    mean: FloatArray, variance: FloatArray, codes: IntArray
) -> tuple[FloatArray, FloatArray]:
    """How differently the variances of each pair of sources change from segment to segment.

    A linear mixture of sources that are Gaussian given u is undone by the ratios of their variances between
    segments alone (Pham and Cardoso, 2001). Where those of two sources keep one ratio, as variances that are
    constant do, any rotation of the two explains the rows as well (Khemakhem et al., 2020, Proposition 1).

    Parameters
    ----------
    mean, variance : (N, n)
        Posterior moments of sources in each row; variance 0 where they are known.
    codes : (N,) int
        Segment of each row.

    Returns
    -------
    distance : (n, n)
        Standard deviation over segments of log(v_i / v_j), less what N_u rows per segment make by chance; 0 on
        the diagonal.
    noise : (n, n)
        What chance alone makes of it, about.
    """
    counts = np.bincount(codes).astype(np.float64)
    used = counts >= 3
    sums = lambda values: np.stack([np.bincount(codes, v) for v in values.T], axis=1)[used]
    counts = counts[used]
    center = sums(mean) / counts[:, None]
    place = np.cumsum(used) - 1
    within = mean - center[np.minimum(place[codes], len(center) - 1)]
    total = sums(within**2 + variance) / (counts - 1)[:, None]
    log_v = np.log(np.maximum(total, 1e-12))
    # Variance of a log-variance: (kurtosis − 1) / N_u.
    scaled = within**2 / np.maximum(total[np.minimum(place[codes], len(center) - 1)], 1e-12)
    spread = np.maximum((scaled**2).mean(axis=0) - 1, 0.5)
    share = counts / counts.sum()
    difference = log_v[:, :, None] - log_v[:, None, :]
    difference = difference - np.einsum("u,uij->ij", share, difference)
    observed = np.einsum("u,uij->ij", share, difference**2)
    chance = (spread[:, None] + spread[None]) * (share / counts).sum()
    np.fill_diagonal(chance, 0.0)
    noise = np.sqrt(chance * np.sqrt(2 / max(len(counts) - 1, 1)))
    return np.sqrt(np.maximum(observed - chance, 0.0)), noise


def inseparable_pairs(distance: FloatArray, noise: FloatArray) -> list[tuple[int, int]]:
    """Pairs of sources whose variances keep nearly one ratio whatever u is, closest pair first.

    Pairs of which too few rows were seen are not judged.
    """
    i, j = np.triu_indices(len(distance), 1)
    near = (distance[i, j] < SEPARATE) & (noise[i, j] < _JUDGED)
    order = np.argsort(distance[i, j][near], kind="stable")
    return [(int(a), int(b)) for a, b in zip(i[near][order], j[near][order], strict=True)]
