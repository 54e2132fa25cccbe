"""Laws of the sources: independent of each other within a segment, with scales and means that move with u."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import random_correlation

from identica.errors import DataError
from identica.typing import FloatArray, IntArray

Base = Literal["gaussian", "laplace"]


@dataclass(frozen=True)
class SegmentLaw:
    """Law of the sources given the segment: ``z = means[u] + scales[u] * e``, e of the base law.

    Attributes
    ----------
    means, scales : arrays (M, n)
        Mean and standard deviation of each component in each segment.
    base : {"gaussian", "laplace"}
        Law of e, with mean 0 and variance 1.
    precisions : array (M, n, n) or None
        Inverse covariances where the components are dependent within a segment (Gaussian base only).
    """

    means: FloatArray
    scales: FloatArray
    base: Base = "gaussian"
    precisions: FloatArray | None = None

    def sample(self, u: IntArray, rng: np.random.Generator, *, standardise: bool = False) -> FloatArray:
        """Sources (N, n) for segment labels u (N,).

        ``standardise`` gives the standard draws e mean 0 and variance 1 over the *whole sample*, as
        published for one generator; the law is then met up to sampling error.
        """
        e = standard_draws(rng, self.base, (len(u), self.means.shape[1]))
        if standardise:
            e = (e - e.mean(0)) / e.std(0)
        if self.precisions is None:
            return self.means[u] + self.scales[u] * e
        # P = L L^T, so L^{-T} e has covariance P^{-1}.
        roots = np.linalg.inv(np.linalg.cholesky(self.precisions)).transpose(0, 2, 1)
        z = np.empty_like(e)
        for segment, root in enumerate(roots):
            rows = u == segment
            z[rows] = e[rows] @ root.T
        return self.means[u] + z

    def log_density(self, z: FloatArray, u: IntArray) -> FloatArray:
        """log p(z | u), nats, for z (..., n) and labels u (...,)."""
        centred = z - self.means[u]
        n = z.shape[-1]
        if self.precisions is not None:
            quadratic = np.einsum("...i,...ij,...j->...", centred, self.precisions[u], centred)
            log_det = np.asarray(np.linalg.slogdet(self.precisions).logabsdet)[u]
            return 0.5 * (log_det - quadratic - n * np.log(2 * np.pi))
        e = centred / self.scales[u]
        log_scales = np.log(self.scales).sum(1)[u]
        if self.base == "gaussian":
            return -0.5 * ((e**2).sum(-1) + n * np.log(2 * np.pi)) - log_scales
        return -np.sqrt(2.0) * np.abs(e).sum(-1) - 0.5 * n * np.log(2.0) - log_scales

    def score(self, z: FloatArray, u: IntArray) -> FloatArray:
        """Gradient of log p(z | u) in z, (..., n)."""
        centred = z - self.means[u]
        if self.precisions is not None:
            return -np.einsum("...ij,...j->...i", self.precisions[u], centred)
        if self.base == "gaussian":
            return -centred / self.scales[u] ** 2
        return -np.sqrt(2.0) * np.sign(centred) / self.scales[u]

    def precision(self, u: IntArray) -> FloatArray:
        """Inverse covariance matrices given u, (..., n, n)."""
        if self.precisions is not None:
            return self.precisions[u]
        return np.eye(self.means.shape[1]) / self.scales[u][..., None] ** 2

    @property
    def pooled_scale(self) -> FloatArray:
        """Standard deviation of each component over segments of equal size, (n,)."""
        variances = self.scales**2
        return np.sqrt(variances.mean(0) + self.means.var(0))


@dataclass(frozen=True)
class CurveLaw:
    """Law of two sources given an angle u: independent Gaussians around a curve (Zhou & Wei 2020, pi-VAE).

    Means ``(u, 2 sin u)``, variances ``(0.6 - 0.3 |sin u|, 0.3 |sin u|)``.
    """

    def mean(self, u: FloatArray) -> FloatArray:
        """E[z | u], (N, 2)."""
        return np.stack([u, 2 * np.sin(u)], axis=-1)

    def sample(self, u: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Sources (N, 2) for angles u (N,)."""
        height = np.abs(np.sin(u))
        variances = np.stack([0.6 - 0.3 * height, 0.3 * height], axis=-1)
        return self.mean(u) + np.sqrt(variances) * rng.standard_normal((len(u), 2))


def standard_draws(rng: np.random.Generator, base: Base, shape: tuple[int, int]) -> FloatArray:
    """Draws of mean 0 and variance 1 from the base law."""
    if base == "gaussian":
        return rng.standard_normal(shape)
    return rng.laplace(scale=np.sqrt(0.5), size=shape)


def check_base(base: str) -> None:
    """Refuse base laws that do not exist.

    Raises
    ------
    DataError
        ``base`` is neither ``"gaussian"`` nor ``"laplace"``.
    """
    if base not in ("gaussian", "laplace"):
        raise DataError(f"unknown base law {base!r}; choose 'gaussian' or 'laplace'")


def modulated_scales(
    rng: np.random.Generator,
    n_segments: int,
    n_components: int,
    *,
    low: float,
    high: float,
    mean_range: float = 0.0,
    base: Base = "gaussian",
) -> SegmentLaw:
    """Standard deviations U(low, high) and means U(-mean_range, mean_range) per segment and component."""
    check_base(base)
    shape = (n_segments, n_components)
    scales = rng.uniform(low, high, shape)
    means = rng.uniform(-mean_range, mean_range, shape) if mean_range else np.zeros(shape)
    return SegmentLaw(means=means, scales=scales, base=base)


def dependent_sources(rng: np.random.Generator, n_segments: int, n_components: int) -> SegmentLaw:
    """Sources of the IMCA benchmark: Gaussian, and dependent within segments through a common base measure.

    Precision of segment u: ``B^{-1} * 0.5 / n + diag(1 / v_u)`` with ``v = U(0.01, 3)**2`` and B a random
    correlation matrix with eigenvalues ``U(0, 1)`` rescaled to sum n (Khemakhem et al. 2020, ICE-BeeM,
    released generator).
    """
    eigenvalues = rng.uniform(0, 1, n_components)
    eigenvalues *= n_components / eigenvalues.sum()
    correlation = random_correlation.rvs(eigenvalues, random_state=rng)
    variances = rng.uniform(0.01, 3, (n_segments, n_components)) ** 2
    precisions = np.linalg.inv(correlation) * 0.5 / n_components + np.eye(n_components) / variances[:, None]
    covariances = np.linalg.inv(precisions)
    return SegmentLaw(
        means=np.zeros((n_segments, n_components)),
        scales=np.sqrt(np.diagonal(covariances, axis1=1, axis2=2)),
        precisions=precisions,
    )


def well_conditioned_segments(
    rng: np.random.Generator, n_segments: int, n_components: int, *, candidates: int = 200
) -> SegmentLaw:
    """Gaussian means U(-5, 5) and scales U(0.5, 3), the best conditioned of several candidates.

    With the fewest segments that the theorem allows, M = nk + 1, a random choice is usually too badly
    conditioned to learn from. Kept is the candidate with the largest `smallest_singular_value`.
    """
    laws = [
        modulated_scales(rng, n_segments, n_components, low=0.5, high=3, mean_range=5)
        for _ in range(candidates)
    ]
    return max(laws, key=smallest_singular_value)


def smallest_singular_value(law: SegmentLaw) -> float:
    """Smallest singular value of the centred natural parameters of a Gaussian law, information metric.

    Natural parameters ``(m/s^2, -1/(2 s^2))`` per component, (M, 2n), minus their mean over segments,
    times G^{1/2} with ``G_i = mean_u Cov(z_i, z_i^2 | u)``. Zero iff the variability condition of Theorem 1
    of Khemakhem et al. (2020), iVAE, fails for the Gaussian family with free mean and variance; its
    square over M is the divergence, in nats per row, that tells segments apart in the weakest direction.
    """
    m, v = law.means, law.scales**2
    natural = np.stack([m / v, -0.5 / v], axis=-1)
    natural = natural - natural.mean(0)
    information = np.stack(
        [np.stack([v, 2 * m * v], -1), np.stack([2 * m * v, 2 * v**2 + 4 * m**2 * v], -1)], -1
    )
    root = np.linalg.cholesky(information.mean(0))  # any root gives the same singular values
    whitened = np.einsum("uik,ikl->uil", natural, root).reshape(len(m), -1)
    if len(m) <= whitened.shape[1]:
        return 0.0
    return float(np.linalg.svd(whitened, compute_uv=False)[-1])
