"""Scenarios whose rows are a time series: autocorrelated sources, modulated innovations, hidden states."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.signal import lfilter

from identica.errors import DataError
from identica.random import named_rng
from identica.simulation import mixings, sources
from identica.simulation.drawn import Drawn
from identica.simulation.mixings import Elementwise, LayeredMixing
from identica.simulation.sources import SegmentLaw
from identica.typing import FloatArray, IntArray

_ATTEMPTS = 100


@dataclass(frozen=True)
class DynamicMixing:
    """``x_t = f([x_{t-1}; s_t])`` with ``x_{-1} = 0``; f is a chain of matrices with leaky ReLUs between them.

    ``matrices[0]`` is (2 d, d), the others (d, d), applied from the right. Rows are observed in order of time: the
    map takes the whole series (T, d), not single rows.
    """

    matrices: tuple[FloatArray, ...]
    activation: Elementwise

    def __call__(self, z: FloatArray) -> FloatArray:
        x = np.zeros(z.shape[1])
        rows = np.empty_like(z)
        n = z.shape[1]
        past, present = self.matrices[0][:n], self.matrices[0][n:]
        for t, driven in enumerate(z @ present):
            x = x @ past + driven
            for matrix in self.matrices[1:]:
                x = self.activation(x) @ matrix
            rows[t] = x
        return rows

    def inverse(self, x: FloatArray) -> FloatArray:
        """Innovations (T, d) of a series (T, d), in closed form."""
        before = np.vstack([np.zeros((1, x.shape[1])), x[:-1]])
        for matrix in reversed(self.matrices[1:]):
            y = x @ np.linalg.inv(matrix)
            x = np.where(y > 0, y, y / self.activation.slope)
        n = x.shape[1]
        return (x - before @ self.matrices[0][:n]) @ np.linalg.inv(self.matrices[0][n:])


def pcl(
    seed: int,
    *,
    n_components: int = 20,
    n_segments: int = 256,
    n_per_segment: int = 1024,
    layers: int = 3,
    base: sources.Base = "laplace",
) -> Drawn:
    """Hyvarinen & Morioka (2017), released code: stationary AR(1) sources, coefficient 0.7, mixed as in tcl."""
    sources.check_base(base)
    T = n_segments * n_per_segment
    innovations = sources.standard_draws(named_rng(seed, "sources"), base, (T, n_components))
    innovations *= np.sqrt(1 - 0.7**2)
    innovations[0] = 0
    S = np.asarray(lfilter([1.0], [1.0, -0.7], innovations, axis=0))
    S = (S - S.mean(0)) / S.std(0)
    rng = named_rng(seed, "mixing")
    # x = A s with unit columns of A; in row convention x = s A^T, hence the transposes.
    matrices = tuple(
        mixings.column_normalised_matrix(rng, n_components, n_components).T for _ in range(layers)
    )
    mixing = LayeredMixing(matrices, Elementwise("leaky", 0.2))
    return Drawn(S, _windows(n_segments, n_per_segment), mixing, None)


def gcl(
    seed: int,
    *,
    n_components: int = 20,
    n_segments: int = 256,
    n_per_segment: int = 1024,
    layers: int = 3,
    n_frequencies: int = 64,
) -> Drawn:
    """Morioka, Halva & Hyvarinen (2021), IIA, released code: innovations whose law moves smoothly with time."""
    T = n_segments * n_per_segment
    if 2 * n_frequencies >= T:
        raise DataError(f"expected fewer than {T // 2} frequencies for {T} rows, got {n_frequencies}")
    mean, scale = _modulation(named_rng(seed, "scales"), T, n_components, n_frequencies)
    S = mean + scale * named_rng(seed, "sources").standard_normal((T, n_components))
    return Drawn(S, _windows(n_segments, n_per_segment), _stable_dynamics(seed, S, layers), None)


def hmm(
    seed: int, *, n_components: int = 5, n_segments: int = 11, n_rows: int = 100_000, layers: int = 4
) -> Drawn:
    """Halva & Hyvarinen (2020), HM-NLICA, released code: Gaussian sources, hidden states that persist."""
    if n_segments <= 2 * n_components:
        raise DataError(
            f"expected n_segments > 2 n_components = {2 * n_components} states, as identifiability needs; "
            f"got {n_segments}"
        )
    law = _spread_states(named_rng(seed, "scales"), n_segments, n_components)
    rng = named_rng(seed, "states")
    # Stay with probability 0.99, else move on to the next state; the stationary law is uniform.
    steps = rng.random(n_rows) < 0.01
    steps[0] = False
    u = (rng.integers(n_segments) + np.cumsum(steps)) % n_segments
    S = law.sample(u, named_rng(seed, "sources"))
    rng = named_rng(seed, "mixing")
    matrices = tuple(_row_normalised_matrix(rng, n_components) for _ in range(layers))
    biases = tuple(rng.uniform(0, 1, n_components) for _ in range(layers))
    return Drawn(S, u, LayeredMixing(matrices, Elementwise("leaky", 0.1), biases=biases), law)


def _windows(n_segments: int, n_per_segment: int) -> IntArray:
    return np.repeat(np.arange(n_segments), n_per_segment)


def _modulation(
    rng: np.random.Generator, T: int, n: int, n_frequencies: int
) -> tuple[FloatArray, FloatArray]:
    """Means and standard deviations (T, n) of the innovations, from random Fourier series in time."""
    angles = 2 * np.pi / T * np.outer(np.arange(T), np.arange(1, n_frequencies + 1))
    basis = np.hstack([np.sin(angles), np.cos(angles)])

    def series() -> FloatArray:
        values = basis @ rng.uniform(-1, 1, (2 * n_frequencies, n))
        low, high = values.min(0), values.max(0)
        return 4 * (values - low) / (high - low) - 2

    log_precision, tilt = series(), series()
    return -tilt / 2, 1 / np.sqrt(2 * np.exp(log_precision))


def _stable_dynamics(seed: int, S: FloatArray, layers: int) -> DynamicMixing:
    """The first random map under which the series neither runs away nor loses a dimension."""
    for attempt in range(_ATTEMPTS):
        mixing = _random_dynamics(named_rng(seed, "mixing", attempt), S.shape[1], layers)
        with np.errstate(over="ignore", invalid="ignore"):
            X = mixing(S)
        if not np.isfinite(X).all() or np.abs(X).max() >= 100:
            continue
        eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.cov(X.T)))
        if eigenvalues[0] >= 1e-7 * eigenvalues[-1]:
            return mixing
    raise DataError(f"none of {_ATTEMPTS} random dynamics with {layers} layers was stable; try fewer layers")


def _random_dynamics(rng: np.random.Generator, n: int, layers: int) -> DynamicMixing:
    """Uniform entries of a spread that keeps the variance from layer to layer, in well-conditioned blocks."""
    matrices = []
    for layer in range(layers):
        blocks = 2 if layer == 0 else 1
        slope = 1.0 if layer == layers - 1 else 0.2
        bound = np.sqrt(6 / ((1 + slope**2) * blocks * n))
        matrices.append(np.vstack([bound * _uniform_block(rng, n) for _ in range(blocks)]))
    return DynamicMixing(tuple(matrices), Elementwise("leaky", 0.2))


@cache
def _uniform_threshold(n: int) -> float:
    """25th percentile of the condition number of square matrices with entries U(-1, 1), from 10 000 draws."""
    rng = named_rng(0, "uniform-condition-threshold", n)
    draws = [np.linalg.cond(rng.uniform(-1, 1, (500, n, n))) for _ in range(20)]
    return float(np.quantile(np.concatenate(draws), 0.25))


def _uniform_block(rng: np.random.Generator, n: int) -> FloatArray:
    while True:
        block = rng.uniform(-1, 1, (n, n))
        if np.linalg.cond(block) <= _uniform_threshold(n):
            return block


def _row_normalised_matrix(rng: np.random.Generator, n: int) -> FloatArray:
    """Unit rows; the threshold of the condition number is that of unit columns, as published."""
    threshold = mixings.condition_threshold(n, n)
    while True:
        matrix = rng.uniform(-1, 1, (n, n))
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        if np.linalg.cond(matrix) <= threshold:
            return matrix


def _spread_states(rng: np.random.Generator, n_states: int, n: int) -> SegmentLaw:
    """Means far apart on the unit sphere, variances that keep the states apart, both the best of many draws."""
    best, distance = np.empty((n_states, n)), -1.0
    pairs = np.triu_indices(n_states, 1)
    for _ in range(100):
        points = rng.standard_normal((1000, n_states, n))
        points /= np.linalg.norm(points, axis=2, keepdims=True)
        cosines = (points @ points.transpose(0, 2, 1))[:, *pairs].max(1)
        place = int(cosines.argmin())
        nearest = float(np.sqrt(2 - 2 * cosines[place]))
        if nearest > distance:
            best, distance = points[place], nearest
    variances = rng.uniform(0.001, (distance / 3.92) ** 2, (1000, n_states, n))
    natural = np.concatenate([best / variances, -1 / variances], axis=2)
    singular = np.linalg.svd(natural, compute_uv=False)
    condition = (singular**2).sum(1) * (1 / singular**2).sum(1)
    return SegmentLaw(means=best, scales=np.sqrt(variances[condition.argmin()]))
