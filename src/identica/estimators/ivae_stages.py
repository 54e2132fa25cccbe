"""Recipe of `IVAE`: contrastive start, decoder regression, fine-tuning of the bound, linear polish."""

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
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
from identica.objectives.reconstruction import HeldOutReconstruction, Reconstruction
from identica.training import Adam, Stage
from identica.typing import Array, FloatArray, IntArray, Key

_CONTRASTIVE, _REGRESSION = 0.25, 0.1
"""Shares of max_iter; the rest is fine-tuning."""

_CARRIED = 2
"""Contrastive starts that are fine-tuned: ties in cross-entropy can differ in their latents."""

_TRAINING_SAMPLES, _RANKING_SAMPLES = 5, 16
_LINEAR_ROWS = 2**15
"""Most rows from which joint diagonalisation takes its covariances."""

_POLISH_ROWS = 4096
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
    unmixing: Array
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
    return Start(features, jnp.asarray(unmixing, dtype), quantizer, n_segments)


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

    `extra` (M, n, n) is added to the covariances of the segments.
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

    def stages(self) -> list[Stage]:
        """The four stages."""
        contrastive = max(1, round(_CONTRASTIVE * self.max_iter))
        regression = max(1, round(_REGRESSION * self.max_iter))
        carried = min(_CARRIED, self.restarts)
        wide = None if self.batch_size is None else 2 * self.batch_size
        loss = WeightedSum(((1.0, importance_weighted(_TRAINING_SAMPLES)), (1.0, PosteriorCrossEntropy())))
        ranking = HeldOutBound(importance_weighted(_RANKING_SAMPLES))
        adam = Adam(rate=3e-3, clip=10.0, warmup=200)
        return [
            Stage(
                "contrastive start",
                self._classifier,
                SegmentCrossEntropy(),
                HeldOutCrossEntropy(),
                adam,
                contrastive,
                restarts=self.restarts,
                keep=carried,
                batch_size=wide,
            ),
            Stage(
                "decoder",
                self._autoencoder,
                Reconstruction(),
                HeldOutReconstruction(),
                adam,
                regression,
                restarts=carried,
                keep=carried,
                batch_size=wide,
            ),
            Stage(
                "fine-tuning",
                _unchanged,
                loss,
                ranking,
                adam,
                max(1, self.max_iter - contrastive - regression),
                restarts=carried,
                batch_size=self.batch_size,
                chunk=250,
            ),
            Stage("polish", self._polished, loss, ranking, adam, 0),
        ]

    @property
    def _classifier(self) -> Callable[[SegmentClassifier | None, Dataset, Key], SegmentClassifier]:
        def create(system: SegmentClassifier | None, data: Dataset, key: Key) -> SegmentClassifier:
            start = self.start
            codes = start.codes(data.u)
            classifier = _random_classifier(
                start.features, start.unmixing, data.x, codes, data.weight, key,
                self.hidden_sizes, self.family, start.n_segments,
            )  # fmt: skip
            return SegmentClassifier(classifier.encoder, classifier.prior, start.quantizer)

        return create

    @property
    def _autoencoder(self) -> Callable[[SegmentClassifier | None, Dataset, Key], VariationalModel]:
        def create(system: SegmentClassifier | None, data: Dataset, key: Key) -> VariationalModel:
            if system is None:
                raise ValueError("the contrastive stage comes first")
            rows = _real_rows(data)
            x, codes = data.x[:rows], self.start.codes(data.u)
            h = np.asarray(_mean(system.encoder, x), np.float64)
            # Contrastive features are sources up to a linear map, which the covariances resolve.
            turn = _unmixing(h, np.asarray(codes[:rows]), self.start.n_segments)
            turn = turn / (h @ turn.T).std(axis=0)[:, None]
            shift = -(h @ turn.T).mean(axis=0)
            z = h @ turn.T + shift
            dtype = data.x.dtype
            weight, bias, observation = self.observation.linear_start(z, np.asarray(x, np.float64))
            examples = None if self.discrete else data.u[:rows][:_EXAMPLES]
            return _random_autoencoder(
                system.encoder, jnp.asarray(turn, dtype), jnp.asarray(shift, dtype),
                jnp.asarray(weight, dtype), jnp.asarray(bias, dtype), observation,
                data.x, codes, data.weight, examples, key,
                self.hidden_sizes, self.n_columns, self.family, self.start.n_segments,
            )  # fmt: skip

        return create

    @property
    def _polished(self) -> Callable[[VariationalModel | None, Dataset, Key], VariationalModel]:
        def create(system: VariationalModel | None, data: Dataset, key: Key) -> VariationalModel:
            if system is None:
                raise ValueError("there is nothing to polish before the first stage")
            if not self.discrete:
                return system
            rows = min(_POLISH_ROWS, _real_rows(data))
            part = data.head(rows)
            mean, covariance = _posterior(system, part.x, part.u)
            codes = np.asarray(part.u)
            if np.bincount(codes).max() < 2:
                return system
            average = np.asarray(covariance, np.float64).mean(axis=0)
            z = np.asarray(mean, np.float64)
            turn = _unmixing(z, codes, self.start.n_segments, np.broadcast_to(average, (1, *average.shape)))
            turn = turn / (z @ turn.T).std(axis=0)[:, None]
            turn = jnp.asarray(turn, data.x.dtype)
            candidate = _turned(system, turn, data.head(_LINEAR_ROWS), self.start.n_segments)
            return _better(candidate, system, part, key)

        return create


@eqx.filter_jit
def _random_classifier(
    features: Features,
    unmixing: Array,
    x: Array,
    codes: Array,
    weight: Array | None,
    key: Key,
    hidden_sizes: tuple[int, ...],
    family: ExponentialFamily,
    n_segments: int,
) -> SegmentClassifier:
    """Linear sources turned by a random rotation, plus a small random network; prior tables to match.

    The angle of the rotation varies: some restarts begin near the linear solution, others anywhere.
    """
    n = unmixing.shape[1]
    network_key, angle_key, axis_key = jax.random.split(key, 3)
    square = jax.random.normal(axis_key, (n, n), unmixing.dtype)
    angle = 4.0 * jax.random.uniform(angle_key, (), unmixing.dtype) ** 2
    rotation = jax.scipy.linalg.expm(angle * (square - square.T) / jnp.sqrt(n))
    encoder = ProductOfExperts.random(features, hidden_sizes, n, key=network_key)
    encoder = eqx.tree_at(lambda e: e.network, encoder, _with_mean_part(encoder, unmixing @ rotation))
    h = encoder.mean(x)
    averages, counts = averaged_statistics(family, h, jnp.zeros_like(h), codes, n_segments, weight)
    prior = ModulatedPrior.table(family, shrink(averages, counts), counts)
    return SegmentClassifier(encoder, prior)


def _with_mean_part(encoder: ProductOfExperts, linear: Array):
    """The encoder's network with the linear part of its mean set to `linear` (r, n)."""
    network, n = encoder.network, encoder.n_components
    if network.shortcut is not None:
        return network.with_linear_part(network.shortcut.at[:, :n].set(linear), network.biases[-1])
    weight = jnp.zeros_like(network.weights[0]).at[:, :n].set(linear)
    return network.with_linear_part(weight, network.biases[0])


@eqx.filter_jit
def _random_autoencoder(
    encoder: ProductOfExperts,
    turn: Array,
    shift: Array,
    weight: Array,
    bias: Array,
    observation: Observation,
    x: Array,
    codes: Array,
    row_weight: Array | None,
    examples: Array | None,
    key: Key,
    hidden_sizes: tuple[int, ...],
    n_columns: int,
    family: ExponentialFamily,
    n_segments: int,
) -> VariationalModel:
    """The classifier's encoder in turned latents, a table or network prior, a nearly linear decoder."""
    decoder_key, prior_key = jax.random.split(key)
    encoder = encoder.with_mean_changed(turn, shift)
    z = encoder.mean(x)
    n = z.shape[1]
    if examples is None:
        averages, counts = averaged_statistics(family, z, jnp.zeros_like(z), codes, n_segments, row_weight)
        prior = ModulatedPrior.table(family, shrink(averages, counts), counts)
    else:
        parameters = NetworkMap.random(examples, n, family.number_of_statistics, key=prior_key)
        prior = ModulatedPrior(family, parameters)
    decoder = Decoder.random(n, hidden_sizes, n_columns, observation, key=decoder_key)
    decoder = Decoder(decoder.network.with_linear_part(weight, bias), observation)
    return VariationalModel(LatentVariableModel(prior, decoder), encoder)


@eqx.filter_jit
def _turned(system: VariationalModel, turn: Array, data: Dataset, n_segments: int) -> VariationalModel:
    """The same model in latents z' = turn · z, with a prior re-estimated from the posteriors."""
    encoder, decoder, prior = system.encoder, system.model.likelihood, system.model.prior
    moments = system.posterior(data.x, data.u)
    mean = moments.mean @ turn.T
    variance = jnp.einsum("ij,bjk,ik->bi", turn, moments.covariance_matrix, turn)
    averages, counts = averaged_statistics(prior.family, mean, variance, data.u, n_segments, data.weight)
    table = ModulatedPrior.table(prior.family, shrink(averages, counts), counts)
    zero = jnp.zeros(len(turn), turn.dtype)
    network = decoder.network.preceded_by(jnp.linalg.inv(turn).T, zero)
    new = LatentVariableModel(table, Decoder(network, decoder.observation))
    return VariationalModel(new, encoder.changed_basis(turn))


@eqx.filter_jit
def _better(
    candidate: VariationalModel, system: VariationalModel, part: Dataset, key: Key
) -> VariationalModel:
    """Whichever has the higher bound on the same rows and noise."""
    bound = importance_weighted(_RANKING_SAMPLES)
    improved = bound(candidate, part, key=key)[0] < bound(system, part, key=key)[0]
    return jax.tree.map(lambda new, old: jnp.where(improved, new, old), candidate, system)


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


def _real_rows(data: Dataset) -> int:
    """Rows without the padding at the end."""
    return data.n_rows if data.weight is None else int(np.asarray(data.weight > 0).sum())
