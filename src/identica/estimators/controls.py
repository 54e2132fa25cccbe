"""What `Autoencoder` and `AdversarialICA` share: networks there and back again, and no probabilities."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm
from sklearn.utils.validation import check_is_fitted

from identica.compilation import compiled
from identica.conditionals import Features
from identica.conditionals.observations.base import least_squares
from identica.data import Dataset
from identica.errors import DataError
from identica.estimators.base import Problem
from identica.estimators.blocks import apply_in_blocks, precision_of, with_model
from identica.estimators.deterministic import Absent, DeterministicEstimator
from identica.estimators.ivae_start import encoder_features
from identica.estimators.validation import check_count, check_one_of, check_sizes
from identica.models import AutoencoderModel, FeatureNetwork
from identica.networks.multilayer_perceptron import ACTIVATIONS, MultilayerPerceptron
from identica.objectives.adversarial import (
    DEPENDENCE_ROWS,
    HeldOutReconstruction,
    dependence,
)
from identica.training import Adam, Stage
from identica.training.stage import Objective
from identica.typing import Array, FloatArray, Key

_BATCH = 256
_SMALL_DATA, _PATIENCE = 2048, 5


class ControlEstimator(DeterministicEstimator):
    """Base class of `Autoencoder` and `AdversarialICA`; abstract.

    There is no density of x, so that neither likelihoods nor draws exist.
    """

    _requires_u: ClassVar[bool] = False

    model_: AutoencoderModel
    hidden_sizes: Any
    activation: Any
    n_restarts: Any

    _NO_DENSITY = "an autoencoder models no density of X; VAE, IVAE and FlowICA do"
    log_likelihood = Absent(_NO_DENSITY)  # type: ignore[assignment]
    score_samples = Absent(_NO_DENSITY)  # type: ignore[assignment]
    posterior = Absent(_NO_DENSITY)
    sample = Absent(_NO_DENSITY)

    def transform(self, X: Any, *, u: Any = None) -> FloatArray:
        """Latents of rows. They are not identified: another fit may find others that serve as well.

        Parameters
        ----------
        X : array-like of shape (N, d)
        u : ignored

        Returns
        -------
        array of shape (N, n_components), of the type of X
        """
        X, dtype = self._check_rows(X)
        return self._sources(X).astype(dtype)

    def inverse_transform(self, S: Any) -> FloatArray:
        """Reconstructed rows, in the user's units (N, d), of latents (N, n_components)."""
        check_is_fitted(self)
        S = np.asarray(S)
        if S.ndim != 2 or S.shape[1] != self.n_components_:
            raise DataError(f"S must have shape (n_samples, {self.n_components_}), got {S.shape}")
        weight, bias = self.orientation_
        with precision_of(self.precision) as precision:
            z = ((S.astype(np.float64) - bias) @ np.linalg.inv(weight).T).astype(precision)
            x = apply_in_blocks(with_model(_decoded, self.model_), z)
        return self.whitening_.inverse_standardize(x.astype(np.float64))

    def score(self, X: Any, y: Any = None, *, u: Any = None, sample_weight: Any = None) -> float:
        """Minus the mean squared error of reconstructed standardised columns; higher is better, 0 is perfect.

        −1 is that of a constant. It is no log-likelihood, and says nothing about the latents.
        """
        X, _ = self._check_rows(X)
        with precision_of(self.precision) as precision:
            errors = apply_in_blocks(with_model(_errors, self.model_), self._model_input(X).astype(precision))
        return float(np.average(-errors.astype(np.float64), weights=sample_weight))

    # What a method adds -------------------------------------------------------------------------------

    def _objective(self) -> Objective:
        """What is minimised."""
        raise NotImplementedError

    def _independence(self) -> float:
        """Weight of dependence when restarts are ranked."""
        return 0.0

    def _discriminator(self, n: int, key: Key) -> MultilayerPerceptron | None:
        return None

    def build(self, problem: Problem) -> list[Stage]:
        """One stage from principal components, in each restart rotated by chance."""
        check_one_of("activation", self.activation, list(ACTIVATIONS))
        small = problem.data.weight is not None
        return [
            Stage(
                "reconstruction",
                _First.of(self, problem),
                self._objective(),
                HeldOutReconstruction(self._independence()),
                Adam(rate=3e-3, clip=10.0, warmup=200),
                self.max_iter,
                restarts=check_count("n_restarts", self.n_restarts),
                # Small data are padded; slices of them could miss all real rows.
                batch_size=None if small else _BATCH,
                patience=_PATIENCE if problem.n_rows < _SMALL_DATA else None,
                tolerance=1e-3,
            )
        ]

    # Pieces -------------------------------------------------------------------------------------------

    def _adopt(self, system: AutoencoderModel, problem: Problem, X: FloatArray) -> None:
        self._orient(system, np.asarray(problem.data.x).dtype, X)
        judged = problem.data if problem.held_out is None else problem.held_out
        part = judged.head(DEPENDENCE_ROWS)
        self.reconstruction_error_ = float(HeldOutReconstruction()(system, judged, judged, None))  # type: ignore[arg-type]
        self.dependence_ = float(dependence(system.encoder(part.x), part.weight))


class _First:
    """The first system of each restart: rotated principal components, and the regression of columns on them."""

    def __init__(self, estimator: ControlEstimator, features: Features, scores: FloatArray, x: FloatArray):
        self.estimator, self.features, self.scores, self.x = estimator, features, scores, x
        self.hidden_sizes = check_sizes(estimator.hidden_sizes)

    @classmethod
    def of(cls, estimator: ControlEstimator, problem: Problem) -> "_First":
        x = np.asarray(problem.data.x, np.float64)[: problem.n_rows]
        n, dtype = problem.n_components, problem.data.x.dtype
        features = encoder_features(x, n, dtype=dtype)
        scores = np.asarray(features(jnp.asarray(x, dtype)), np.float64)[:, :n]
        return cls(estimator, features, scores, x)

    def __call__(self, system: AutoencoderModel | None, data: Dataset, key: Key) -> AutoencoderModel:
        encoder_key, decoder_key, critic_key = jax.random.split(key, 3)
        n, dtype = self.scores.shape[1], data.x.dtype
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        square = rng.standard_normal((n, n))
        turn = expm(square - square.T)
        weight, bias = least_squares(self.scores @ turn, self.x)
        linear = np.zeros((self.features.matrix.shape[1], n), dtype)
        linear[:n] = turn
        encoder = self._network(len(linear), n, encoder_key).with_linear_part(linear, np.zeros(n, dtype))  # type: ignore[arg-type]
        decoder = self._network(n, self.x.shape[1], decoder_key)
        decoder = decoder.with_linear_part(weight.astype(dtype), bias.astype(dtype))  # type: ignore[arg-type]
        critic = self.estimator._discriminator(n, critic_key)
        return AutoencoderModel(FeatureNetwork(self.features, encoder), decoder, critic)

    def _network(self, inputs: int, outputs: int, key: Key) -> MultilayerPerceptron:
        return MultilayerPerceptron.random(
            inputs,
            self.hidden_sizes,
            outputs,
            activation=self.estimator.activation,
            shortcut=True,
            last_scale=0.1,
            key=key,
        )


@compiled
def _decoded(model: AutoencoderModel, z: Array) -> Array:
    return model.decoded(z)


@compiled
def _errors(model: AutoencoderModel, x: Array) -> Array:
    return model.errors(x)
