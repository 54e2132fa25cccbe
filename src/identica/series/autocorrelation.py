"""Autocorrelation of columns, and the number of independent rows they are worth."""

import numpy as np
from scipy.fft import next_fast_len

from identica.typing import FloatArray, IntArray


def autocorrelation(x: FloatArray, sequence: IntArray | None = None) -> FloatArray:
    """Autocorrelation of each column at lags 0, 1, …, within sequences only.

    Parameters
    ----------
    x : array of shape (N, n)
        Columns in the order of time.
    sequence : int array of shape (N,), optional
        Which time series a row belongs to; pairs of rows from two of them are not counted.

    Returns
    -------
    array of shape (L, n)
        L is the length of the longest series. A constant column has autocorrelation 0 at all lags but 0.

    Notes
    -----
    Sums over pairs are divided by the number of rows, not of pairs: the estimate is then positive
    definite, and its far lags are damped rather than wild.
    """
    x = x - x.mean(axis=0)
    groups = [np.arange(len(x))] if sequence is None else _groups(sequence)
    total = np.zeros((max(len(rows) for rows in groups), x.shape[1]))
    for rows in groups:
        size = next_fast_len(2 * len(rows))  # padded with zeros, so that ends do not meet
        spectrum = np.abs(np.fft.rfft(x[rows], size, axis=0)) ** 2
        total[: len(rows)] += np.fft.irfft(spectrum, size, axis=0)[: len(rows)]
    power = total[0]
    total = np.where(power > 0, total / np.where(power > 0, power, 1.0), 0.0)
    total[0] = 1.0
    return total


def autocorrelation_time(x: FloatArray, sequence: IntArray | None = None) -> FloatArray:
    """Integrated autocorrelation time τ = 1 + 2 Σ ρ_k of each column, in rows, shape (n,).

    N rows tell as much about a mean as N / τ independent ones. The sum stops by Geyer's initial
    monotone sequence: sums of two neighbouring lags of a reversible chain are positive and fall, so
    whatever does not is noise.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> float(autocorrelation_time(rng.normal(size=(10_000, 1)))[0].round(1))
    1.0

    References
    ----------
    Geyer (1992), Practical Markov chain Monte Carlo, section 3.3.
    """
    rho = autocorrelation(x, sequence)
    rho = rho[: len(rho) // 2 * 2]
    if len(rho) == 0:
        return np.ones(x.shape[1])
    pairs = rho[0::2] + rho[1::2]
    kept = np.cumprod(pairs > 0, axis=0)
    falling = np.minimum.accumulate(pairs, axis=0)
    # At least a row's own noise: τ → 0 would claim an infinity of rows.
    return np.maximum(2 * (falling * kept).sum(axis=0) - 1, 1.0 / len(x))


def effective_sample_size(x: FloatArray, sequence: IntArray | None = None) -> FloatArray:
    """Number of independent rows that give the mean of each column as precisely, shape (n,).

    More than N where neighbours differ in sign more often than not.
    """
    return len(x) / autocorrelation_time(x, sequence)


def _groups(sequence: IntArray) -> list[IntArray]:
    order = np.argsort(sequence, kind="stable")
    borders = np.flatnonzero(np.diff(sequence[order])) + 1
    return np.split(order, borders)
