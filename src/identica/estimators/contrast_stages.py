"""Recipe of `TCL`, `PCL` and `GCL`: features from many starts, a linear turn, more training, demixing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm

from identica.compilation import compiled
from identica.conditionals import Features, NetworkMap, Table, averaged_statistics
from identica.data import Dataset
from identica.families import ExponentialFamily, GaussianLocationScale, GaussianScale, LaplaceScale
from identica.models import ContrastiveModel, Critic, FeatureNetwork, Quantizer
from identica.networks import ComponentwiseNetwork, MultilayerPerceptron
from identica.objectives.contrastive import ContrastiveCrossEntropy, HeldOutContrast, Pairing
from identica.objectives.exact_likelihood import shrink
from identica.random import host_rng
from identica.training import Adam, Stage
from identica.typing import Array, FloatArray, Key

CRITICS: dict[str, ExponentialFamily | None] = {
    "gaussian": GaussianLocationScale(),
    "gaussian-scale": GaussianScale(),
    "laplace": LaplaceScale(),
    "learned": None,
}
"""Statistics of each feature that the critic is linear in; None stands for learned ones."""

BLOCK = 256
"""Rows per step, and rows whose contexts are compared with each other when a fit is scored."""

_FIRST, _KEPT = 0.4, 2
"""Share of max_iter for all starts, and how many of them go on."""

_SMALL_DATA, _PATIENCE = 2048, 3
_HIDDEN, _STATISTICS = 16, 8
"""Units and outputs of the learned functions of each component."""

EXAMPLES = 128
"""Values of a continuous u that a critic keeps."""


@dataclass(frozen=True)
class ContrastPlan:
    """What the stages of a contrastive method depend on.

    Attributes
    ----------
    pairing : AllSegments or OtherRows
    features : Features
        From x to scores.
    unmixing : (r, n)
        From scores to the linear sources that restarts begin from.
    critic : callable
        ``critic(h, data, key)``: the critic of a restart whose features begin as h (N, n).
    turn, demix : callable
        ``turn(h)``: unmixing matrix (n, n) of features (N, n) of the fitted rows, midway and at the end.
    hidden_sizes : tuple of int
        Of the feature network.
    activation : str
    max_iter, restarts : int
    n_rows : int
        Fitted rows, without padding.
    quantizer : Quantizer or None
        Segments of a continuous u.
    past : bool
        Whether contexts are rows of x.
    """

    pairing: Pairing
    features: Features
    unmixing: FloatArray
    critic: Callable[[FloatArray, Dataset, Key], Critic]
    turn: Callable[[FloatArray], FloatArray]
    demix: Callable[[FloatArray], FloatArray]
    hidden_sizes: tuple[int, ...]
    activation: str
    max_iter: int
    restarts: int
    n_rows: int
    quantizer: Quantizer | None = None
    past: bool = False

    @property
    def objective(self) -> ContrastiveCrossEntropy:
        """What is minimised."""
        return ContrastiveCrossEntropy(self.pairing)

    def stages(self) -> list[Stage]:
        """Train from many starts; turn the best features to linear sources, train on, and demix.

        Features can be stuck at a linear mixture of sources, which linear methods resolve in one step. So
        the best go on both as they are and turned, and held-out rows choose.
        """
        adam = Adam(rate=3e-3, clip=10.0, warmup=200)
        evaluate = HeldOutContrast(self.objective, BLOCK)
        small = self.n_rows < _SMALL_DATA
        first = max(1, round(_FIRST * self.max_iter))
        # As many systems in the second stage as in the first, if it can be: they share compiled code.
        kept = max(1, min(_KEPT, self.restarts // 2))
        starts = Stage(
            "contrast", self._create, self.objective, evaluate, adam, first,
            restarts=self.restarts,
            keep=kept,
            # Small data are padded; slices of them could miss all real rows.
            batch_size=None if small and self.n_rows <= BLOCK else BLOCK,
            patience=_PATIENCE if small else None,
        )  # fmt: skip
        turned = replace(
            starts,
            name="turned",
            prepare=(_as_it_is,) * kept + (self._turned,) * kept,
            steps=max(1, self.max_iter - first),
            restarts=2 * kept,
            keep=1,
        )
        return [starts, turned, Stage("demixing", self._demixed, self.objective, evaluate, adam, 0)]

    def _create(self, system: ContrastiveModel | None, data: Dataset, key: Key) -> ContrastiveModel:
        """Linear sources turned by a random rotation, plus a small random network; a critic to match.

        The angle of the rotation varies: some restarts begin near the linear solution, others anywhere.
        """
        n = self.unmixing.shape[1]
        network_key, critic_key = jax.random.split(key)
        rng = host_rng(key)
        square = rng.standard_normal((n, n))
        turn = expm(4.0 * rng.random() ** 2 * (square - square.T) / np.sqrt(n))
        network = MultilayerPerceptron.random(
            len(self.unmixing),
            self.hidden_sizes,
            n,
            activation=self.activation,
            shortcut=True,
            last_scale=0.1,
            key=network_key,
        )
        dtype = np.asarray(data.x).dtype
        network = network.with_linear_part((self.unmixing @ turn).astype(dtype), network.biases[-1])  # type: ignore[arg-type]
        encoder = FeatureNetwork(self.features, network)
        h = np.asarray(_features(encoder, data.x), np.float64)
        identity = np.eye(n, dtype=dtype)
        critic = self.critic(h, data, critic_key)
        return ContrastiveModel(encoder, critic, identity, self.quantizer, self.past)  # type: ignore[arg-type]

    def _turned(self, system: ContrastiveModel | None, data: Dataset, key: Key) -> ContrastiveModel:
        """Features turned to what a linear method takes for sources, and a new critic."""
        system = _as_it_is(system, data, key)
        turn, h = self._linear_step(self.turn, system, data)
        shift = -(h @ turn).mean(axis=0)
        network = jax.tree.map(np.asarray, system.encoder.network)
        dtype = np.asarray(data.x).dtype
        encoder = FeatureNetwork(self.features, network.followed_by(turn.astype(dtype), shift.astype(dtype)))
        critic = self.critic(np.asarray(_features(encoder, data.x), np.float64), data, key)
        return ContrastiveModel(encoder, critic, system.demixing, self.quantizer, self.past)

    def _linear_step(
        self, method: Callable[[FloatArray], FloatArray], system: ContrastiveModel, data: Dataset
    ) -> tuple[FloatArray, FloatArray]:
        """Matrix (n, n) from trained features to sources of unit variance, and the features."""
        h = np.asarray(_features(system.encoder, data.x), np.float64)[: self.n_rows]
        turn = method(h).T
        return turn / np.maximum((h @ turn).std(axis=0), 1e-12), h

    def _demixed(self, system: ContrastiveModel | None, data: Dataset, key: Key) -> ContrastiveModel:
        system = _as_it_is(system, data, key)
        matrix, _ = self._linear_step(self.demix, system, data)
        return eqx.tree_at(lambda model: model.demixing, system, matrix.astype(np.asarray(data.x).dtype))


def _as_it_is(system: ContrastiveModel | None, data: Dataset, key: Key) -> ContrastiveModel:
    if system is None:
        raise ValueError("features are trained first")
    return system


def statistics_of(name: str, critic: str) -> ExponentialFamily | None:
    """The family whose statistics the critic is linear in, or None for learned ones."""
    if critic not in list(CRITICS):
        raise ValueError(f"{name} must be one of {', '.join(CRITICS)}, got {critic!r}")
    return CRITICS[critic]


def segment_critic(family: ExponentialFamily | None, n_segments: int, codes: Callable[[Array], Array]) -> Any:
    """Makes critics with a table of segments; that of a family starts from the moments of segments."""

    def create(h: FloatArray, data: Dataset, key: Key) -> Critic:
        dtype, n = np.asarray(data.x).dtype, h.shape[1]
        own = codes(data.u)
        weight = None if data.weight is None else np.asarray(data.weight)
        counts = np.bincount(np.asarray(own), weight, n_segments)
        log_shares = np.log(np.maximum(counts / counts.sum(), 1e-30))
        bias = np.broadcast_to(log_shares[:, None, None] / n, (n_segments, n, 1))
        if family is None:
            raw = np.zeros((n_segments, n, _STATISTICS))
            statistics: Any = ComponentwiseNetwork.random(n, _HIDDEN, _STATISTICS, key=key)
        else:
            raw, statistics = (
                _segment_moments(family, jnp.asarray(h, dtype), own, data.weight, n_segments),
                family,
            )
        table = np.concatenate([np.asarray(raw), bias], axis=-1).astype(dtype)
        return Critic(statistics, Table(table, log_shares.astype(dtype)))  # type: ignore[arg-type]

    return create


def network_critic(family: ExponentialFamily | None, examples: Array) -> Any:
    """Makes critics whose parameters are a network of a continuous u."""

    def create(h: FloatArray, data: Dataset, key: Key) -> Critic:
        one, two = jax.random.split(key)
        n = h.shape[1]
        k = _STATISTICS if family is None else family.number_of_statistics
        statistics = ComponentwiseNetwork.random(n, _HIDDEN, k, key=one) if family is None else family
        parameters = NetworkMap.random(examples, n, k + 1, hidden_sizes=(64, 64), key=two)
        return Critic(statistics, parameters)

    return create


def past_critic(h: FloatArray, data: Dataset, key: Key) -> Critic:
    """B_i(h_i(t), h_i(t−1)) with learned functions of both."""
    one, two = jax.random.split(key)
    n = h.shape[1]
    return Critic(
        ComponentwiseNetwork.random(n, _HIDDEN, _STATISTICS, key=one),
        ComponentwiseNetwork.random(n, _HIDDEN, _STATISTICS + 1, key=two, last_scale=0.1),
    )


@compiled
def _features(encoder: FeatureNetwork, x: Array) -> Array:
    return encoder(x)


@compiled
def _segment_moments(
    family: ExponentialFamily, h: Array, codes: Array, weight: Array | None, n_segments: int
) -> Array:
    averages, counts = averaged_statistics(family, h, jnp.zeros_like(h), codes, n_segments, weight)
    natural = family.natural_from_expectation(shrink(averages, counts), floor=1e-4)
    return family.raw_from_natural(natural)
