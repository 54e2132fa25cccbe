"""Recipe of `IVAE`: contrastive start, decoder regression, fine-tuning of the bound, linear polish."""

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm
from sklearn.cluster import KMeans

from identica.conditionals import (
    Decoder,
    Features,
    ModulatedPrior,
    NetworkMap,
    Observation,
    ProductOfExperts,
    averaged_statistics,
)
from identica.data import Dataset
from identica.estimators.base import Problem
from identica.estimators.ivae_flow_start import continue_with, enter, flow_start
from identica.families import ExponentialFamily
from identica.linear.joint_diagonalization import joint_diagonalize, within_segment_covariances
from identica.models import LatentVariableModel, VariationalModel
from identica.models.contrastive import Quantizer, SegmentClassifier
from identica.objectives.bound import HeldOutBound, WeightedSum, importance_weighted
from identica.objectives.contrastive import (
    HeldOutCrossEntropy,
    PosteriorCrossEntropy,
    SegmentCrossEntropy,
)
from identica.objectives.exact_likelihood import shrink
from identica.objectives.teaching import HeldOutOnContender, OnContender
from identica.training import Adam, Stage
from identica.typing import Array, FloatArray, IntArray, Key

_CONTRASTIVE, _REGRESSION = 0.25, 0.1
"""Shares of max_iter; the rest is fine-tuning."""

_CARRIED = 2
"""Contrastive starts that are fine-tuned: ties in cross-entropy can differ in their latents."""

_TRAINING_SAMPLES, _RANKING_SAMPLES = 5, 16
_LINEAR_ROWS = 2**15
"""Most rows from which joint diagonalisation takes its covariances."""

_LARGEST_COVARIANCES = 2**23
"""Most numbers in the posterior covariances from which the polish is found."""

_BINS = 40
"""Most segments into which a continuous u is cut for the contrastive start."""

_EXAMPLES = 128
"""Values of a continuous u over which rows without u are averaged."""


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


def linear_start(problem: Problem, *, root: bool) -> Start:
    """Scores, segments and linear sources of the fitted rows.

    Scores are the principal components of the standardised columns, the leading n with unit variance
    and the later ones on the scale of the n-th: whitening those too would inflate noise.
    """
    x = np.asarray(problem.data.x, np.float64)[: problem.n_rows]
    dtype = problem.data.x.dtype
    n = problem.n_components
    features = encoder_features(x, n, root=root, dtype=dtype)
    quantizer, n_segments = None, problem.n_segments
    u = problem.data.u[: problem.n_rows]
    if not problem.discrete:
        quantizer = _quantizer(np.asarray(u), problem)
        n_segments = len(quantizer.centroids)
    codes = np.asarray(u if quantizer is None else quantizer(u))
    scores = np.asarray(features(problem.data.x[: problem.n_rows]), np.float64)[:, :n]
    unmixing = np.zeros((features.matrix.shape[1], n))
    turned = _unmixing(scores, codes, n_segments)
    unmixing[:n] = turned.T / (scores @ turned.T).std(axis=0)
    return Start(features, unmixing, quantizer, n_segments)


def encoder_features(x: FloatArray, n: int, *, root: bool, dtype: np.dtype, most: int = 256) -> Features:
    """Principal components of the standardised columns of x (N, d), scaled as `linear_start` says."""
    x = np.sqrt(x + 0.375) if root else x
    center, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = (x - center) / scale
    eigenvalues, rotation = np.linalg.eigh(standard.T @ standard / len(x))
    order = np.argsort(-eigenvalues)[:most]
    eigenvalues, rotation = eigenvalues[order], rotation[:, order]
    level = np.maximum(eigenvalues, max(eigenvalues[min(n, len(order)) - 1], 1e-9 * eigenvalues[0]))
    matrix = rotation / np.sqrt(level) / scale[:, None]
    return Features(jnp.asarray(center, dtype), jnp.asarray(matrix, dtype), root)


def _quantizer(u: FloatArray, problem: Problem) -> Quantizer:
    distinct = len(np.unique(u, axis=0))
    bins = int(np.clip(problem.n_rows // (10 * problem.n_components), 2, min(_BINS, distinct)))
    fitted = KMeans(bins, n_init=1, random_state=problem.seed).fit(u)
    return Quantizer(jnp.asarray(fitted.cluster_centers_, u.dtype))


def _unmixing(z: FloatArray, codes: IntArray, n_segments: int, extra: FloatArray | None = None) -> FloatArray:
    """B (n, n) that makes the within-segment covariances of z (N, n) jointly diagonal.

    `extra` (n, n) is added to the covariances of all segments.
    """
    z, codes = z[:_LINEAR_ROWS], codes[:_LINEAR_ROWS]
    covariances, counts = within_segment_covariances(z, codes, n_segments)
    if extra is not None:
        covariances = covariances + extra
    # Features can be collinear; the ridge is far below any that carry information.
    level = np.trace(np.average(covariances, axis=0, weights=counts)) / z.shape[1]
    used = counts >= 2
    ridge = 1e-7 * level * np.eye(z.shape[1])
    return joint_diagonalize(covariances[used] + ridge, counts[used].astype(np.float64))


@dataclass(frozen=True)
class IVAEPlan:
    """What the stages of an iVAE depend on.

    Attributes
    ----------
    start : Start
    observation : Observation
        Family of x given z.
    family : ExponentialFamily
        Of the sources given u.
    n_components : int
    hidden_sizes : tuple of int
        Of the encoder and of the decoder.
    n_columns : int
        Number d of columns.
    max_iter : int
        Steps over all stages.
    restarts : int
        Contrastive starts.
    discrete : bool
        Whether u consists of labels.
    batch_size : int or None
        Rows per step of fine-tuning; None takes all.
    n_rows : int
        Fitted rows.
    """

    start: Start
    observation: Observation
    family: ExponentialFamily
    n_components: int
    hidden_sizes: tuple[int, ...]
    n_columns: int
    max_iter: int
    restarts: int
    discrete: bool
    batch_size: int | None
    n_rows: int

    def stages(self) -> list[Stage]:
        """The four stages."""
        contrastive = max(1, round(_CONTRASTIVE * self.max_iter))
        regression = max(1, round(_REGRESSION * self.max_iter))
        carried = min(_CARRIED, self.restarts)
        wide = None if self.batch_size is None else 2 * self.batch_size
        loss = WeightedSum(((1.0, importance_weighted(_TRAINING_SAMPLES)), (1.0, PosteriorCrossEntropy())))
        ranking = HeldOutBound(importance_weighted(_RANKING_SAMPLES))
        adam = Adam(rate=3e-3, clip=10.0, warmup=200)
        lessons = flow_start(
            self.start.features,
            self.n_components,
            self.family,
            self.start.n_segments if self.discrete else 0,
            self.max_iter,
            self.restarts,
            self.n_rows,
            lambda data, key: self._classifier(None, data, key),
        )
        own, taught = (continue_with(which, self._autoencoder) for which in ("classifier", "taught"))
        return [
            *lessons,
            Stage(
                "contrastive start",
                enter(self._classifier),
                OnContender(SegmentCrossEntropy()),
                HeldOutOnContender(HeldOutCrossEntropy()),
                adam,
                contrastive,
                restarts=self.restarts,
                keep=carried,
                batch_size=wide,
            ),
            # The same compiled code as fine-tuning, in which the encoder's mean is held.
            Stage(
                "decoder",
                (*[own] * carried, taught),
                loss,
                ranking,
                adam,
                regression,
                restarts=carried + 1,
                keep=carried + 1,
                batch_size=self.batch_size,
                chunk=250,
            ),
            Stage(
                "fine-tuning",
                _released,
                loss,
                ranking,
                adam,
                max(1, self.max_iter - contrastive - regression),
                restarts=carried + 1,
                batch_size=self.batch_size,
                chunk=250,
            ),
            Stage("polish", (_unchanged, self._polished), loss, ranking, adam, 0, restarts=2),
        ]

    @property
    def _classifier(self) -> Callable[[SegmentClassifier | None, Dataset, Key], SegmentClassifier]:
        """Linear sources turned by a random rotation, plus a small random network; prior to match.

        The angle of the rotation varies: some restarts begin near the linear solution, others anywhere.
        """

        def create(system: SegmentClassifier | None, data: Dataset, key: Key) -> SegmentClassifier:
            start, n = self.start, self.n_components
            rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
            square = rng.standard_normal((n, n))
            turn = expm(4.0 * rng.random() ** 2 * (square - square.T) / np.sqrt(n))
            encoder = ProductOfExperts.random(start.features, self.hidden_sizes, n, key=key)
            encoder = _with_mean_part(encoder, start.unmixing @ turn)
            prior = self._table(_mean(encoder, data.x), data)
            return SegmentClassifier(encoder, prior, start.quantizer)

        return create

    @property
    def _autoencoder(self) -> Callable[[SegmentClassifier | None, Dataset, Key], VariationalModel]:
        """The classifier's encoder, its features turned to sources; a prior; a nearly linear decoder."""

        def create(system: SegmentClassifier | None, data: Dataset, key: Key) -> VariationalModel:
            if system is None:
                raise ValueError("the contrastive stage comes first")
            decoder_key, prior_key = jax.random.split(key)
            rows, dtype, n = _real_rows(data), data.x.dtype, self.n_components
            all_features = np.asarray(_mean(system.encoder, data.x), np.float64)
            h, codes = all_features[:rows], np.asarray(self.start.codes(data.u))[:rows]
            # Contrastive features are sources up to a linear map, which the covariances resolve.
            turn = _unmixing(h, codes, self.start.n_segments)
            turn = turn / (h @ turn.T).std(axis=0)[:, None]
            shift = -(h @ turn.T).mean(axis=0)
            z = all_features @ turn.T + shift
            if self.discrete:
                prior = self._table(z.astype(dtype), data)
            else:
                examples = np.asarray(data.u)[:rows][:_EXAMPLES]
                parameters = NetworkMap.random(examples, n, self.family.number_of_statistics, key=prior_key)
                prior = ModulatedPrior(self.family, parameters)
            x = np.asarray(data.x, np.float64)[:rows]
            weight, bias, observation = self.observation.linear_start(z[:rows], x)
            decoder = Decoder.random(n, self.hidden_sizes, self.n_columns, observation, key=decoder_key)
            network = decoder.network.with_linear_part(weight.astype(dtype), bias.astype(dtype))
            model = LatentVariableModel(prior, Decoder(network, observation))
            return VariationalModel(model, system.encoder.with_mean_changed(turn, shift).holding(True))

        return create

    @property
    def _polished(self) -> Callable[[VariationalModel | None, Dataset, Key], VariationalModel]:
        """Joint diagonalisation of cov_u(E) + mean P⁻¹: the last linear step, if training missed it.

        The prior is re-estimated in the turned latents. A continuous u has no segments to compare, and
        its model stays as it is.
        """

        def create(system: VariationalModel | None, data: Dataset, key: Key) -> VariationalModel:
            if system is None:
                raise ValueError("there is nothing to polish before the first stage")
            if not self.discrete:
                return system
            n, dtype = self.n_components, data.x.dtype
            part = data.head(max(1, min(_LINEAR_ROWS, _LARGEST_COVARIANCES // n**2)))
            mean, covariance = (np.asarray(a, np.float64) for a in _posterior(system, part.x, part.u))
            rows = _real_rows(part)
            codes = np.asarray(part.u)[:rows]
            if np.bincount(codes).max() < 2:
                return system
            turn = _unmixing(mean[:rows], codes, self.start.n_segments, covariance[:rows].mean(axis=0))
            turn = turn / (mean[:rows] @ turn.T).std(axis=0)[:, None]
            variance = np.einsum("ij,bjk,ik->bi", turn, covariance, turn)
            prior = self._table((mean @ turn.T).astype(dtype), part, variance.astype(dtype))
            decoder = system.model.likelihood
            back = np.linalg.inv(turn).T.astype(dtype)
            network = jax.tree.map(np.asarray, decoder.network).preceded_by(back, np.zeros(n, dtype))  # type: ignore[attr-defined]
            model = LatentVariableModel(prior, Decoder(network, decoder.observation))  # type: ignore[attr-defined]
            return VariationalModel(model, system.encoder.changed_basis(turn))  # type: ignore[attr-defined]

        return create

    def _table(self, mean: Array, data: Dataset, variance: Array | None = None) -> ModulatedPrior:
        """The prior of latents with these moments in every row, each segment's own."""
        variance = np.zeros_like(mean) if variance is None else variance
        codes = self.start.codes(data.u)
        return _segment_table(self.family, mean, variance, codes, data.weight, self.start.n_segments)


@eqx.filter_jit
def _segment_table(
    family: ExponentialFamily,
    mean: Array,
    variance: Array,
    codes: Array,
    weight: Array | None,
    n_segments: int,
) -> ModulatedPrior:
    averages, counts = averaged_statistics(family, mean, variance, codes, n_segments, weight)
    return ModulatedPrior.table(family, shrink(averages, counts), counts)


def _with_mean_part(encoder: ProductOfExperts, linear: FloatArray) -> ProductOfExperts:
    """The encoder with the linear part of its mean set to `linear` (r, n)."""
    network, n = encoder.network, encoder.n_components
    old = network.weights[-1] if network.shortcut is None else network.shortcut
    part = np.zeros_like(old)
    part[:, :n] = linear
    network = network.with_linear_part(part, network.biases[-1])  # type: ignore[arg-type]
    return ProductOfExperts(encoder.features, network, encoder.hold, n)


@eqx.filter_jit
def _mean(encoder: ProductOfExperts, x: Array) -> Array:
    return encoder.mean(x)


@eqx.filter_jit
def _posterior(system: VariationalModel, x: Array, u: Array) -> tuple[Array, Array]:
    q = system.posterior(x, u)
    return q.mean, q.covariance_matrix  # type: ignore[return-value]


def _unchanged(system: VariationalModel | None, data: Dataset, key: Key) -> VariationalModel:
    if system is None:
        raise ValueError("the decoder stage comes first")
    return system


def _released(system: VariationalModel | None, data: Dataset, key: Key) -> VariationalModel:
    system = _unchanged(system, data, key)
    return VariationalModel(system.model, system.encoder.holding(False))  # type: ignore[attr-defined]


def _real_rows(data: Dataset) -> int:
    """Rows without the padding at the end."""
    return data.n_rows if data.weight is None else int(np.asarray(data.weight > 0).sum())
