"""What can be attained at best: by the Bayes posterior mean, by a linear map, by u alone."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln, logsumexp, softmax

from identica.linear.correlation import (
    as_columns,
    least_squares_prediction,
    segment_codes,
    segment_means,
    split_rows,
    standardised,
)
from identica.random import named_rng
from identica.simulation.mixings import Mixing
from identica.simulation.sources import SegmentLaw
from identica.typing import FloatArray, IntArray

# Proposal of the importance sampler: heavier tails and a wider spread than the Gaussian approximation.
_FREEDOM = 5.0
_WIDENING = 1.5
_PRIOR_SHARE = 0.1
# Metropolis moves that follow: chains per row; steps dropped and averaged, per component.
_CHAINS = 16
_BURN_IN = 20
_MOVES = 60
# Fewer effective draws per row than this make the ceiling doubtful.
_TOO_FEW = 30


@dataclass(frozen=True)
class Ceiling:
    """Largest mean correlation that any estimator of the sources from (x, u) can reach.

    Attributes
    ----------
    value : float
        Mean over components of ``sqrt(1 - E Var(z_i | x, u) / Var z_i)``, the correlation of the posterior
        mean with the truth. Posterior samples would reach the square of each term.
    within : float
        The same with ``Var z_i`` within segments: the ceiling of the MCC after centring by u.
    standard_error : float
        Bootstrap standard error of ``value`` over the rows used.
    effective_samples : float
        Median over rows of the effective number of posterior draws; below 30 the value is
        doubtful, usually too high, and a warning says so. Infinite where no sampling was needed.
    achieved : float
        The same formula with the squared errors of the computed posterior means, measured on the true
        sources of the rows used. Noisier than ``value``, but an independent check of it.
    """

    value: float
    within: float
    standard_error: float
    effective_samples: float
    achieved: float


def ceiling(
    law: SegmentLaw,
    mixing: Mixing,
    noise_std: FloatArray,
    X: FloatArray,
    u: IntArray,
    S: FloatArray,
    *,
    n_rows: int = 400,
    n_samples: int = 2000,
    seed: int = 0,
) -> Ceiling:
    """Bayes-oracle ceiling of the MCC under the true model, by importance sampling and moves.

    For each of ``n_rows`` random rows: Gauss-Newton ascent of log p(x, z | u) from the true source and from
    three prior draws, a proposal of multivariate Student t laws around these modes with covariance
    1.5 times the inverse curvature and a tenth of the prior mixed in, ``n_samples`` weighted draws, and
    Metropolis moves of a few of them. Noiseless injective mixings have ceiling 1.

    Parameters
    ----------
    law, mixing, noise_std
        The true model: sources given u, map to noiseless observations, noise standard deviation (d,).
    X, u, S : arrays (N, d), (N,), (N, n)
        Data and true sources.
    """
    if not (noise_std > 0).any():
        return Ceiling(1.0, 1.0, 0.0, np.inf, 1.0)
    rng = named_rng(seed, "ceiling")
    rows = rng.choice(len(X), min(n_rows, len(X)), replace=False)
    results = [
        _posterior(law, mixing, noise_std, X[block], u[block], S[block], n_samples, rng)
        for block in np.array_split(rows, -(-len(rows) // 50))  # blocks bound the memory
    ]
    variance = np.concatenate([result[0] for result in results])
    mean = np.concatenate([result[1] for result in results])
    effective = np.concatenate([result[2] for result in results])
    total = S.var(0)
    codes, n_segments = segment_codes(u, len(S))
    inner = (S - segment_means(S, codes, n_segments)[codes]).var(0)

    def reached(error: FloatArray, reference: FloatArray) -> float:
        return float(np.sqrt(np.clip(1 - error / reference, 0, 1)).mean())

    draws = rng.integers(len(rows), size=(200, len(rows)))
    spread = np.std([reached(variance[draw].mean(0), total) for draw in draws], ddof=1)
    draws_per_row = float(np.median(effective))
    if draws_per_row < _TOO_FEW:
        warnings.warn(
            f"the ceiling is doubtful, usually too high: only {draws_per_row:.0f} effective posterior draws "
            "per row. Compare `value` with `achieved`; fewer components, layers or less noise are easier",
            stacklevel=3,
        )
    return Ceiling(
        value=reached(variance.mean(0), total),
        within=reached(variance.mean(0), inner),
        standard_error=float(spread),
        effective_samples=draws_per_row,
        achieved=reached(((mean - S[rows]) ** 2).mean(0), total),
    )


def _posterior(
    law: SegmentLaw,
    mixing: Mixing,
    noise_std: FloatArray,
    x: FloatArray,
    u: IntArray,
    z_true: FloatArray,
    n_samples: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Posterior variances (R, n), means (R, n) and effective sample sizes (R,) of R rows."""
    n_rows, n = z_true.shape
    # A noiseless channel among noisy ones would make the posterior singular; a tiny noise stands for it.
    noise = np.maximum(noise_std, 1e-4 * noise_std.max())

    def log_joint(z: FloatArray, labels: IntArray) -> FloatArray:
        residual = (x[:, None] - mixing(z)) / noise
        return law.log_density(z, labels) - 0.5 * (residual**2).sum(-1)

    n_modes = 4
    labels = np.repeat(u[:, None], n_modes, axis=1)
    prior = law.sample(labels[:, 1:].ravel(), rng).reshape(n_rows, n_modes - 1, n)
    modes = np.concatenate([z_true[:, None], prior], axis=1)
    fractions = np.array([1.0, 0.5, 0.2, 0.05, 0.0])
    for _ in range(20):
        jacobian = _jacobian(mixing, modes) / noise[:, None]
        gradient = law.score(modes, labels) + np.einsum(
            "...dn,...d->...n", jacobian, (x[:, None] - mixing(modes)) / noise
        )
        curvature = np.swapaxes(jacobian, -1, -2) @ jacobian + law.precision(labels)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        trials = np.stack([modes + fraction * step for fraction in fractions])
        values = np.stack([log_joint(trial, labels) for trial in trials])
        best = values.argmax(0)
        modes = np.take_along_axis(trials, best[None, ..., None], axis=0)[0]
    jacobian = _jacobian(mixing, modes) / noise[:, None]
    curvature = np.swapaxes(jacobian, -1, -2) @ jacobian + law.precision(labels)
    root = np.linalg.cholesky(curvature / _WIDENING)  # precision of the proposal is root root^T

    # Higher modes get more draws, but none is dropped: the weights correct the rest.
    tempered = 0.5 * log_joint(modes, labels)
    share = softmax(tempered, axis=1)
    share = (1 - _PRIOR_SHARE) * (0.9 * share + 0.1 / n_modes)
    edges = np.cumsum(np.concatenate([share, np.full((n_rows, 1), _PRIOR_SHARE)], axis=1), axis=1)
    chosen = (rng.uniform(size=(n_rows, n_samples, 1)) > edges[:, None, :-1]).sum(-1)

    rows = np.arange(n_rows)[:, None]
    centre = np.minimum(chosen, n_modes - 1)
    heavy = np.sqrt(rng.chisquare(_FREEDOM, (n_rows, n_samples, 1)) / _FREEDOM)
    e = rng.standard_normal((n_rows, n_samples, n)) / heavy
    inverse_root = np.swapaxes(np.linalg.inv(root), -1, -2)
    offsets = np.empty_like(e)
    for mode in range(n_modes):
        moved = e @ np.swapaxes(inverse_root[:, mode], -1, -2)
        offsets = np.where((centre == mode)[..., None], moved, offsets)
    many = np.repeat(u[:, None], n_samples, axis=1)
    from_prior = law.sample(many.ravel(), rng).reshape(n_rows, n_samples, n)
    z = np.where((chosen == n_modes)[..., None], from_prior, modes[rows, centre] + offsets)

    log_q = [np.log(_PRIOR_SHARE) + law.log_density(z, many)]
    for mode in range(n_modes):
        e = (z - modes[:, None, mode]) @ root[:, mode]
        log_det = np.log(np.diagonal(root[:, mode], axis1=-1, axis2=-2)).sum(-1)
        log_q.append(np.log(share[:, mode])[:, None] + log_det[:, None] + _log_student(e))
    log_weight = log_joint(z, many) - np.asarray(logsumexp(np.stack(log_q), axis=0))
    weight = softmax(log_weight, axis=1)
    return _resample_and_move(log_joint, u, z, weight, rng)


def _resample_and_move(
    log_joint: Callable[[FloatArray, IntArray], FloatArray],
    u: IntArray,
    z: FloatArray,
    weight: FloatArray,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Posterior variances, means and effective sample sizes from weighted draws z (R, K, n).

    Behind several kinked layers a few draws carry all the weight, which makes the variance too small and
    the ceiling too high. So draws are resampled by weight and moved by random-walk Metropolis.
    """
    n_rows, n_samples, n = z.shape
    mean = np.einsum("rs,rsn->rn", weight, z)
    centred = z - mean[:, None]
    covariance = np.einsum("rs,rsi,rsj->rij", weight, centred, centred)
    diagonal = np.diagonal(covariance, axis1=1, axis2=2)
    covariance += 0.05 * diagonal[..., None] * np.eye(n) + 1e-12 * np.eye(n)
    root = np.swapaxes(np.linalg.cholesky(covariance), -1, -2) * 2.38 / np.sqrt(n)

    # Systematic resampling: every draw is kept in proportion to its weight, with the least variance.
    position = (np.arange(_CHAINS) + rng.uniform(size=(n_rows, 1))) / _CHAINS
    index = (position[..., None] > np.cumsum(weight, axis=1)[:, None]).sum(-1)
    state = z[np.arange(n_rows)[:, None], np.minimum(index, n_samples - 1)]
    labels = np.repeat(u[:, None], _CHAINS, axis=1)
    value = log_joint(state, labels)
    total, squares = np.zeros_like(state), np.zeros_like(state)
    burn_in, moves = _BURN_IN * n, _MOVES * n  # random walks slow down in proportion to the dimension
    for iteration in range(burn_in + moves):
        size = rng.choice([1.0, 0.3, 0.1])  # several sizes: near a kink only short moves are accepted
        trial = state + size * rng.standard_normal(state.shape) @ root
        trial_value = log_joint(trial, labels)
        accepted = np.log(rng.uniform(size=value.shape)) < trial_value - value
        state = np.where(accepted[..., None], trial, state)
        value = np.where(accepted, trial_value, value)
        if iteration >= burn_in:
            total += state - mean[:, None]
            squares += (state - mean[:, None]) ** 2
    chain_means = total / moves
    disagreement = chain_means.var(1, ddof=1)
    # The second moment around the overall mean is too small by the variance of that mean.
    variance = squares.mean(1) / moves - chain_means.mean(1) ** 2 + disagreement / _CHAINS
    # Chains that agree have means with variance (posterior variance) / (effective draws per chain).
    effective = _CHAINS * np.median(variance / np.maximum(disagreement, 1e-300), axis=1)
    return variance, mean + chain_means.mean(1), effective


def _log_student(e: FloatArray) -> FloatArray:
    """Log-density of the standard multivariate Student t law at e (..., n)."""
    n = e.shape[-1]
    constant = gammaln((_FREEDOM + n) / 2) - gammaln(_FREEDOM / 2) - n / 2 * np.log(_FREEDOM * np.pi)
    return constant - (_FREEDOM + n) / 2 * np.log1p((e**2).sum(-1) / _FREEDOM)


def _jacobian(mixing: Mixing, z: FloatArray) -> FloatArray:
    """Central differences, (..., d, n). They only steer the proposal, so their error costs no accuracy."""
    step = 1e-5
    columns = []
    for axis in np.eye(z.shape[-1]):
        columns.append((mixing(z + step * axis) - mixing(z - step * axis)) / (2 * step))
    return np.stack(columns, axis=-1)


def best_linear(X: Any, S: Any, *, fit_rows: Any = None) -> float:
    """Mean correlation of each source with its least-squares prediction from x: a bound for linear methods.

    Parameters
    ----------
    X, S : arrays (N, d), (N, n)
        Observations and true sources.
    fit_rows : mask (N,) or row numbers, optional
        Fit on these rows and score the others; without it both are done on all rows, which flatters by
        about d / N.

    Raises
    ------
    DataError
        Values that are not finite, different numbers of rows, or unusable ``fit_rows``.
    """
    observed = as_columns(X, "X")
    truth = as_columns(S, "S", n_rows=len(observed))
    fit, score = split_rows(fit_rows, len(truth))
    prediction = least_squares_prediction(observed, truth, fit, score)
    return _mean_correlation(truth[score], prediction, np.abs(truth).max(0))


def u_only(S: Any, u: Any, *, fit_rows: Any = None) -> float:
    """Mean correlation of each source with its segment mean E[z | u]: what is known without looking at x.

    Equals ``sqrt(Var E[z | u] / Var z)`` per component. With strongly modulated means it exceeds the scores
    published for several methods, so no pooled MCC should be read without it.

    Parameters
    ----------
    S : array (N, n)
        True sources.
    u : array-like (N,) or (N, k)
        Labels of any type.
    fit_rows : mask (N,) or row numbers, optional
        Take the means from these rows and score the others; values of u unseen there get the overall
        mean. Without it all rows serve both, which flatters by about M / N.

    Raises
    ------
    DataError
        As `best_linear`.
    """
    truth = as_columns(S, "S")
    codes, n_segments = segment_codes(u, len(truth))
    fit, score = split_rows(fit_rows, len(truth))
    means = segment_means(truth[fit], codes[fit], n_segments)
    means = np.where(np.isnan(means), truth[fit].mean(0), means)
    return _mean_correlation(truth[score], means[codes[score]], np.abs(truth).max(0))


def _mean_correlation(truth: FloatArray, prediction: FloatArray, magnitude: FloatArray) -> float:
    product = standardised(truth, magnitude=magnitude) * standardised(prediction, magnitude=magnitude)
    return float(np.clip(product.sum(0), -1, 1).mean())
