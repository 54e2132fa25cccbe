"""What `IVAE` and `VAE` find by linear methods before training: scores, segments, linear sources."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from scipy.linalg import block_diag
from sklearn.cluster import KMeans

from identica.conditionals import Features
from identica.conditionals.encoders import encoded_columns
from identica.estimators.base import Problem
from identica.linear.joint_diagonalization import joint_diagonalize, within_segment_covariances
from identica.models.contrastive import Quantizer
from identica.typing import Array, FloatArray, IntArray

LINEAR_ROWS = 2**15
"""Most rows from which joint diagonalisation takes its covariances."""

_BINS = 40
"""Most segments into which a continuous u is cut for the contrastive start."""

_RAREST = 0.3
"""Least standard deviation by which indicators are divided: what is missing once in a thousand rows must not be
seen as an input of 30."""


@dataclass(frozen=True)
class Start:
    """What the contrastive stage starts from, found by linear methods.

    Attributes
    ----------
    features : Features
        From x to scores.
    unmixing : (r, n)
        From scores to the linear sources of joint diagonalisation.
    quantizer : Quantizer or None
        Segments of a continuous u.
    n_segments : int
        Number M of segments, or of bins of a continuous u.
    """

    features: Features
    unmixing: FloatArray
    quantizer: Quantizer | None
    n_segments: int

    def codes(self, u: Array) -> Array:
        """Segment of each row."""
        return u if self.quantizer is None else self.quantizer(u)


def linear_start(problem: Problem, *, encoding: str = "identity", sizes: tuple[int, ...] = ()) -> Start:
    """Scores, segments and linear sources of the fitted rows.

    Scores are the principal components of the standardised columns, the leading n with unit variance
    and the later ones on the scale of the n-th: whitening those too would inflate noise.
    """
    x = np.asarray(problem.data.x, np.float64)[: problem.n_rows]
    dtype = problem.data.x.dtype
    n = problem.n_components
    features = encoder_features(x, n, encoding=encoding, sizes=sizes, dtype=dtype)
    quantizer, n_segments = None, problem.n_segments
    u = problem.data.u[: problem.n_rows]
    if not problem.discrete:
        quantizer = _quantizer(np.asarray(u), problem)
        n_segments = len(quantizer.centroids)
    codes = np.asarray(u if quantizer is None else quantizer(u))
    scores = np.asarray(features(problem.data.x[: problem.n_rows]), np.float64)[:, :n]
    unmixing = np.zeros((features.matrix.shape[1], n))
    turned = unmixing_of(scores, codes, n_segments)
    unmixing[:n] = turned.T / (scores @ turned.T).std(axis=0)
    return Start(features, unmixing, quantizer, n_segments)


def encoder_features(
    x: FloatArray,
    n: int,
    *,
    encoding: str = "identity",
    sizes: tuple[int, ...] = (),
    dtype: np.dtype,
    most: int = 256,
) -> Features:
    """Principal components of the standardised columns of x (N, d), scaled as `linear_start` says.

    ``encoding`` and ``sizes`` are those of `Features`. Of rows with a mask (N, 2d) the values are taken, and
    indicators of columns that are not always seen come after their components.
    """
    if encoding.startswith("masked"):
        return _masked_features(x, n, encoding, dtype)
    x = np.asarray(encoded_columns(x, encoding, sizes), np.float64)  # type: ignore[arg-type]
    center, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = (x - center) / scale
    eigenvalues, rotation = np.linalg.eigh(standard.T @ standard / len(x))
    order = np.argsort(-eigenvalues)[:most]
    eigenvalues, rotation = eigenvalues[order], rotation[:, order]
    level = np.maximum(eigenvalues, max(eigenvalues[min(n, len(order)) - 1], 1e-9 * eigenvalues[0]))
    matrix = rotation / np.sqrt(level) / scale[:, None]
    return Features(jnp.asarray(center, dtype), jnp.asarray(matrix, dtype), encoding, sizes)


def _masked_features(x: FloatArray, n: int, encoding: str, dtype: np.dtype) -> Features:
    d = x.shape[1] // 2
    plain = "squash" if encoding == "masked-squash" else "identity"
    values = encoder_features(x[:, :d], n, encoding=plain, dtype=dtype)
    rate = x[:, d:].mean(axis=0)
    scale = np.maximum(np.sqrt(rate * (1 - rate)), _RAREST)
    varies = np.flatnonzero((rate > 0) & (rate < 1))
    matrix = block_diag(np.asarray(values.matrix), np.diag(1 / scale)[:, varies])
    center = np.concatenate([np.asarray(values.center), rate])
    return Features(jnp.asarray(center, dtype), jnp.asarray(matrix, dtype), encoding)


def _quantizer(u: FloatArray, problem: Problem) -> Quantizer:
    distinct = len(np.unique(u, axis=0))
    bins = int(np.clip(problem.n_rows // (10 * problem.n_components), 2, min(_BINS, distinct)))
    fitted = KMeans(bins, random_state=problem.seed).fit(u)
    return Quantizer(jnp.asarray(fitted.cluster_centers_, u.dtype))


def unmixing_of(
    z: FloatArray, codes: IntArray, n_segments: int, extra: FloatArray | None = None
) -> FloatArray:
    """B (n, n) that makes the within-segment covariances of z (N, n) jointly diagonal.

    `extra` (n, n) is added to the covariances of all segments.
    """
    z, codes = z[:LINEAR_ROWS], codes[:LINEAR_ROWS]
    covariances, counts = within_segment_covariances(z, codes, n_segments)
    if extra is not None:
        covariances = covariances + extra
    # Features can be collinear; the ridge is far below any that carry information.
    level = np.trace(np.average(covariances, axis=0, weights=counts)) / z.shape[1]
    used = counts >= 2
    ridge = 1e-7 * level * np.eye(z.shape[1])
    return joint_diagonalize(covariances[used] + ridge, counts[used].astype(np.float64))
