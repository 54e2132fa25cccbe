"""`VAE`: a variational autoencoder without u, the control whose latents are not identified."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from identica.conditionals import ConstantPrior, Decoder, DiagonalEncoder, Features, Observation
from identica.data import Dataset
from identica.errors import DataError
from identica.estimators.base import Problem
from identica.estimators.ivae_start import encoder_features
from identica.estimators.validation import check_count, check_sizes
from identica.estimators.variational import VariationalEstimator
from identica.expectations import Pathwise
from identica.models import LatentVariableModel, VariationalModel
from identica.objectives.bound import Bound, HeldOutBound, importance_weighted
from identica.training import Adam, Stage
from identica.typing import FloatArray, Key

_OBJECTIVES = ("elbo", "iwae")
_BATCH = 256
_RANKING_SAMPLES = 16

_SMALL_DATA, _PATIENCE = 2048, 5
"""Below so many rows training ends after so many looks at the held-out rows without gain."""

_FIRST_NOISE = 0.05
"""Added to the first noise variance, in units of the standardised columns: a network that starts
almost without noise stays near the linear map, 1.2 nats per row short on Figure 1."""


class VAE(VariationalEstimator):
    """Variational autoencoder: x = f(z) plus noise with z ~ N(0, I), fitted by a bound of the likelihood.

    Training starts from principal components. Without an auxiliary variable the latents are
    unidentified: any rotation of z explains the data as well, so judge the model by its likelihood,
    never by its latents. It is here as the control that `IVAE` must beat, and as a density model. u is
    accepted and ignored.

    Parameters
    ----------
    n_components : int or None
        Dimension of z; None takes as many as X has linearly independent columns.
    objective : {"elbo", "iwae"}
        Evidence lower bound, or importance-weighted bound.
    beta : float
        Weight of the divergence in the ELBO (Higgins et al., 2017); 1 is the bound itself.
    samples : int or None
        Samples of z per row and step; None takes 1 for the ELBO and 5 for the importance-weighted bound.
    prior : {"normal"}
    likelihood : {"gaussian", "bernoulli", "poisson"}
        Distribution of the columns given z: real numbers, zeros and ones, or counts.
    noise : {"diagonal", "isotropic", "scalar-network", "network"} or float
        As in `IVAE`.
    hidden_sizes : tuple of int
        Units of each hidden layer of the encoder and of the decoder; ``()`` is a linear model.
    max_iter : int
        Optimiser steps.
    n_restarts : int
        Models trained side by side.
    validation_fraction, outlier_threshold, precision, random_state, callbacks, checkpoint
        As in `IVAE`.

    Attributes
    ----------
    model_ : VariationalModel
    collapsed_components_ : int array
        Components of which x says nothing.
    n_components_, converged_, status_, history_, restarts_, fit_rows_, held_out_rows_, gross_rows_
        As in `IVAE`.

    References
    ----------
    Kingma, Welling (2014), Auto-encoding variational Bayes. Burda, Grosse, Salakhutdinov (2016),
    Importance weighted autoencoders. Higgins et al. (2017), beta-VAE.

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("figure1", seed=0, n_per_segment=100)
    >>> vae = identica.VAE(n_components=2, max_iter=100, random_state=0).fit(data.X)
    >>> vae.transform(data.X).shape
    (500, 2)
    """

    _requires_u: ClassVar[bool] = False

    def __init__(
        self,
        n_components: int | None = None,
        *,
        objective: str = "elbo",
        beta: float = 1.0,
        samples: int | None = None,
        prior: str = "normal",
        likelihood: str = "gaussian",
        noise: str | float = "diagonal",
        hidden_sizes: tuple[int, ...] = (64, 64),
        max_iter: int = 4000,
        n_restarts: int = 2,
        validation_fraction: float = 0.1,
        outlier_threshold: float | None = 50.0,
        precision: str = "float32",
        random_state: Any = None,
        callbacks: Any = None,
        checkpoint: Any = None,
    ):
        self.n_components = n_components
        self.objective = objective
        self.beta = beta
        self.samples = samples
        self.prior = prior
        self.likelihood = likelihood
        self.noise = noise
        self.hidden_sizes = hidden_sizes
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.validation_fraction = validation_fraction
        self.outlier_threshold = outlier_threshold
        self.precision = precision
        self.random_state = random_state
        self.callbacks = callbacks
        self.checkpoint = checkpoint

    def build(self, problem: Problem) -> list[Stage]:
        """One stage: maximise the bound."""
        if self.prior != "normal":
            raise ValueError(f"prior must be 'normal', got {self.prior!r}")
        x = np.asarray(problem.data.x, np.float64)[: problem.n_rows]
        n, dtype = problem.n_components, problem.data.x.dtype
        observation = self._observation(problem)
        features = encoder_features(x, n, **self._encoding(observation), dtype=dtype)
        scores = np.asarray(features(problem.data.x[: problem.n_rows]), np.float64)[:, :n]
        weight, bias, observation = observation.linear_start(scores, x, extra_variance=_FIRST_NOISE)
        start = _Start(
            features,
            observation,
            check_sizes(self.hidden_sizes),
            n,
            x.shape[1],
            weight.astype(dtype),
            bias.astype(dtype),
        )
        bound = self._bound_to_maximise()
        # The importance-weighted bound would undo what another beta is chosen for.
        ranking = (
            importance_weighted(_RANKING_SAMPLES) if self.beta == 1 else bound.evaluated_with(_RANKING_SAMPLES)
        )
        return [
            Stage(
                "bound",
                start.prepare,
                bound,
                HeldOutBound(ranking),
                Adam(rate=3e-3, clip=10.0, warmup=200),
                self.max_iter,
                restarts=check_count("n_restarts", self.n_restarts),
                # Small data are padded; slices of them could miss all real rows.
                batch_size=_BATCH if problem.data.weight is None else None,
                patience=_PATIENCE if problem.n_rows < _SMALL_DATA else None,
            )
        ]

    def _bound_to_maximise(self) -> Bound:
        if self.objective not in _OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(_OBJECTIVES)}, got {self.objective!r}")
        samples = self.samples if self.samples is not None else (5 if self.objective == "iwae" else 1)
        check_count("samples", samples)
        number = isinstance(self.beta, (int, float, np.number)) and not isinstance(self.beta, bool)
        if not number or not 0 <= self.beta < np.inf:
            raise ValueError(f"beta must be a number of at least 0, got {self.beta!r}")
        if self.objective == "iwae":
            if self.beta != 1.0:
                raise DataError(f"beta={self.beta} has no meaning for objective='iwae'; use objective='elbo'")
            return importance_weighted(samples)
        return Bound(Pathwise(samples), beta=float(self.beta))


@dataclass(frozen=True)
class _Start:
    """Principal components as a first autoencoder: what a network has to improve on.

    Attributes
    ----------
    features : Features
        Their first n columns are the white scores.
    observation : Observation
        With the residual variance of principal components.
    hidden_sizes : tuple of int
    n_components, n_columns : int
    weight, bias : arrays (n, outputs) and (outputs,)
        Least-squares decoder of the scores.
    """

    features: Features
    observation: Observation
    hidden_sizes: tuple[int, ...]
    n_components: int
    n_columns: int
    weight: FloatArray
    bias: FloatArray

    @property
    def prepare(self) -> Callable[[VariationalModel | None, Dataset, Key], VariationalModel]:
        """The linear autoencoder plus small random networks, for each restart."""

        def create(system: VariationalModel | None, data: Dataset, key: Key) -> VariationalModel:
            encoder_key, decoder_key = jax.random.split(key)
            n, hidden = self.n_components, self.hidden_sizes
            decoder = Decoder.random(n, hidden, self.n_columns, self.observation, key=decoder_key)
            network = decoder.network.with_linear_part(self.weight, self.bias)  # type: ignore[arg-type]
            encoder = DiagonalEncoder.random(self.features, hidden, n, key=encoder_key)
            linear = np.zeros((self.features.matrix.shape[1], 2 * n), self.weight.dtype)
            linear[:n, :n] = np.eye(n)
            old = encoder.network
            turned = old.with_linear_part(linear, old.biases[-1])  # type: ignore[arg-type]
            model = LatentVariableModel(ConstantPrior(n), Decoder(network, self.observation))
            return VariationalModel(model, DiagonalEncoder(self.features, turned))

        return create
