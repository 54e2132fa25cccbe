"""`VAE`: a variational autoencoder without u, the control whose latents are not identified."""

from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.conditionals import GaussianMixturePrior
from identica.errors import DataError
from identica.estimators.base import Problem
from identica.estimators.blocks import apply_in_blocks, precision_of, row_keys
from identica.estimators.vae_start import FirstAutoencoder
from identica.estimators.validation import check_count, check_one_of, check_positive, check_sizes
from identica.estimators.variational import VariationalEstimator
from identica.expectations import (
    DoublyReparametrized,
    Pathwise,
    Sampled,
    ScoreFunction,
    StickingTheLanding,
    sample_with_log_prob,
)
from identica.expectations.spherical import SphericalCubature
from identica.models import VariationalModel
from identica.networks.multilayer_perceptron import ACTIVATIONS
from identica.objectives.bound import Bound, HeldOutBound, importance_weighted
from identica.objectives.reductions import LogMeanExp, Mean
from identica.training import LBFGS, Adam, Stage
from identica.training.stage import unchanged
from identica.typing import Array, FloatArray

_OBJECTIVES = ("elbo", "iwae")
_PRIORS = ("normal", "mixture")
_DIVERGENCES = ("sampled", "analytic")
_GRADIENTS: dict[str, type[Sampled]] = {
    "pathwise": Pathwise,
    "stl": StickingTheLanding,
    "dreg": DoublyReparametrized,
    "score": ScoreFunction,
}
_BATCH = 256
_RANKING_SAMPLES = 16
_SCORE_SAMPLES = 8
"""Samples for the score function, whose baseline is the others."""

_SMALL_DATA, _PATIENCE = 2048, 5
"""Below so many rows training ends after so many looks at the held-out rows without gain."""


class VAE(VariationalEstimator):
    """Variational autoencoder: x = f(z) plus noise with z ~ p(z), fitted by a bound of the likelihood.

    Training starts from principal components. With z ~ N(0, I) the latents are unidentified: any rotation
    explains the data as well, so judge the model by its likelihood, never by its latents. With a mixture of
    Gaussians as prior and a piecewise affine decoder (``activation="leaky_relu"`` or ``"relu"``) they are
    determined up to an affine map if the model is right and the decoder injective (Kivva et al., 2022): clusters
    and their geometry mean something then, single axes still do not. It is here as the control that `IVAE` must
    beat, and as a density model. u is accepted and ignored.

    Parameters
    ----------
    n_components : int or None
        Dimension of z; None takes as many as X has linearly independent columns.
    objective : {"elbo", "iwae"}
        Evidence lower bound, or importance-weighted bound.
    beta : float
        Weight of the divergence in the ELBO (Higgins et al., 2017); 1 is the bound itself.
    samples : int or None
        Samples S of z per row and step; None takes 1 for the ELBO (8 with ``gradient="score"``) and 5 for
        the importance-weighted bound.
    divergence : {"sampled", "analytic"}
        Whether the ELBO's divergence from the prior is estimated from the same samples or taken in closed
        form (prior ``"normal"`` only).
    gradient : {"pathwise", "stl", "dreg", "score"}
        How gradients pass through samples: reparametrised; sticking the landing (ELBO with sampled divergence
        only), without noise where q is the posterior; doubly reparametrised (importance-weighted bound only),
        whose signal does not drown as samples increase; or score function with the other samples as baseline,
        for comparison: its variance is far higher.
    prior : {"normal", "mixture"}
        N(0, I), or a learned mixture of Gaussians with full covariances, which starts from the clusters that EM
        finds in the principal components.
    n_prior_components : int
        Gaussians in the mixture.
    likelihood : {"gaussian", "student-t", "bernoulli", "poisson", "negative-binomial", "categorical"}
        Distribution of the columns given z, as in `IVAE`.
    noise : {"diagonal", "isotropic", "scalar-network", "network"} or float
        As in `IVAE`.
    missing : {"error", "marginalise"}
        As in `IVAE`.
    hidden_sizes : tuple of int
        Units of each hidden layer of the encoder and of the decoder; ``()`` is a linear model.
    activation : {"silu", "tanh", "leaky_relu", "relu", "softplus", "squareplus", "leaky_relu+tanh"} or None
        Of hidden units; None takes ``"leaky_relu"`` with a mixture prior, for which theory asks, else ``"silu"``.
    shortcut : bool
        Whether networks have a linear map beside their hidden layers, which starts at principal components.
        False gives plain networks, as most published models are; their hidden layers start at random, and their last
        ones as near to principal components as these allow.
    max_iter : int
        Optimiser steps.
    batch_size : int or None
        Rows per step; None takes 256. Fewer than 2048 rows are always taken all together.
    learning_rate : float
        Peak of Adam's rate, between a linear rise and a fall along a cosine.
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
    Importance weighted autoencoders. Higgins et al. (2017), beta-VAE. Roeder, Wu, Duvenaud (2017), Sticking the
    landing. Tucker, Lawson, Gu, Maddison (2019), Doubly reparameterized gradient estimators. Mnih, Rezende
    (2016), Variational inference for Monte Carlo objectives. Kivva, Rajendran, Ravikumar, Aragam (2022),
    Identifiability of deep generative models without auxiliary information.

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
        divergence: str = "sampled",
        gradient: str = "pathwise",
        prior: str = "normal",
        n_prior_components: int = 10,
        likelihood: str = "gaussian",
        noise: str | float = "diagonal",
        missing: str = "error",
        hidden_sizes: tuple[int, ...] = (64, 64),
        activation: str | None = None,
        shortcut: bool = True,
        max_iter: int = 4000,
        batch_size: int | None = None,
        learning_rate: float = 3e-3,
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
        self.divergence = divergence
        self.gradient = gradient
        self.prior = prior
        self.n_prior_components = n_prior_components
        self.likelihood = likelihood
        self.noise = noise
        self.missing = missing
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.shortcut = shortcut
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.n_restarts = n_restarts
        self.validation_fraction = validation_fraction
        self.outlier_threshold = outlier_threshold
        self.precision = precision
        self.random_state = random_state
        self.callbacks = callbacks
        self.checkpoint = checkpoint

    def build(self, problem: Problem) -> list[Stage]:
        """Maximise the bound by steps on batches; where all is linear, then to the last digit on all rows."""
        bound = self._bound_to_maximise()
        batch_size = _BATCH if self.batch_size is None else check_count("batch_size", self.batch_size)
        observation = self._observation(problem)
        start = FirstAutoencoder.from_rows(
            np.asarray(problem.data.x, np.float64)[: problem.n_rows],
            problem.n_components,
            observation,
            **self._encoding(observation),
            hidden_sizes=check_sizes(self.hidden_sizes),
            activation=self._activation(),
            shortcut=bool(self.shortcut),
            n_clusters=self._n_clusters(problem.n_rows),
            dtype=problem.data.x.dtype,
        )
        # The importance-weighted bound would undo what another beta is chosen for.
        ranking = (
            importance_weighted(_RANKING_SAMPLES)
            if self.beta == 1
            else bound.evaluated_with(_RANKING_SAMPLES)
        )
        ascent = Stage(
            "bound",
            start.prepare,
            bound,
            HeldOutBound(ranking),
            Adam(rate=check_positive("learning_rate", self.learning_rate), clip=10.0, warmup=200),
            self.max_iter,
            restarts=check_count("n_restarts", self.n_restarts),
            # Small data are padded; slices of them could miss all real rows.
            batch_size=batch_size if problem.data.weight is None else None,
            chunk=_steps_between_looks(problem.n_rows, batch_size, self.max_iter),
            patience=_PATIENCE if problem.n_rows < _SMALL_DATA else None,
        )
        return [ascent, self._polish(ascent)] if self._bound_is_quadratic() else [ascent]

    def _bound_is_quadratic(self) -> bool:
        """Whether log p(x, z) − log q(z|x) is quadratic in z, so that cubature gives the bound exactly."""
        plain = self.objective == "elbo" and self.prior == "normal" and self.missing == "error"
        constant = self.likelihood == "gaussian" and self.noise not in ("scalar-network", "network")
        return plain and constant and check_sizes(self.hidden_sizes) == ()

    def _polish(self, ascent: Stage) -> Stage:
        exact = Bound(SphericalCubature(), Mean(), float(self.beta))
        steps = max(1, self.max_iter // 4)
        return replace(
            ascent,
            name="polish",
            prepare=unchanged,
            objective=exact,
            evaluate=HeldOutBound(exact),
            solver=LBFGS(),
            steps=steps,
            restarts=1,
            batch_size=None,
            patience=None,
        )

    def cluster_probabilities(self, X: Any) -> FloatArray:
        """E p(j|z) under q(z|x) of rows (N, d), for the parts j of a mixture prior: (N, n_prior_components).

        Averages over 64 samples, the same for a row wherever it stands.

        Raises
        ------
        DataError
            If the prior is no mixture.
        """
        X, _ = self._check_rows(X)
        prior = self.model_.model.prior
        if not isinstance(prior, GaussianMixturePrior):
            raise DataError("clusters are the parts of a mixture prior; fit VAE(prior='mixture')")
        with precision_of(self.precision) as precision:
            x = self._model_input(X).astype(precision)
            keys = row_keys(self.seed_, x)
            shares = apply_in_blocks(lambda *rows: _cluster_shares(self.model_, *rows), x, keys)
        return shares.astype(np.float64)

    # Options --------------------------------------------------------------------------------------------

    def _activation(self) -> str:
        if self.activation is not None:
            return check_one_of("activation", self.activation, list(ACTIVATIONS))
        return "leaky_relu" if self.prior == "mixture" else "silu"

    def _n_clusters(self, n_rows: int) -> int:
        if self.prior == "normal":
            return 0
        n_clusters = check_count("n_prior_components", self.n_prior_components)
        if n_clusters > n_rows:
            raise DataError(
                f"n_prior_components={n_clusters} is more than the {n_rows} fitted rows; take fewer clusters"
            )
        return n_clusters

    def _bound_to_maximise(self) -> Bound:
        check_one_of("objective", self.objective, _OBJECTIVES)
        check_one_of("prior", self.prior, _PRIORS)
        check_one_of("divergence", self.divergence, _DIVERGENCES)
        check_one_of("gradient", self.gradient, list(_GRADIENTS))
        number = isinstance(self.beta, (int, float, np.number)) and not isinstance(self.beta, bool)
        if not number or not 0 <= self.beta < np.inf:
            raise ValueError(f"beta must be a number of at least 0, got {self.beta!r}")
        if self.divergence == "analytic" and self.prior == "mixture":
            raise DataError(
                "divergence='analytic' needs prior='normal', as the divergence from a mixture has no closed form; "
                "use divergence='sampled'"
            )
        weighted = self.objective == "iwae"
        samples = self.samples
        if samples is None:
            samples = 5 if weighted else _SCORE_SAMPLES if self.gradient == "score" else 1
        return Bound(
            _GRADIENTS[self.gradient](check_count("samples", samples)),
            LogMeanExp() if weighted else Mean(),
            float(self.beta),
            self.divergence,  # type: ignore[arg-type]
        )


def _steps_between_looks(n_rows: int, batch_size: int, max_iter: int) -> int:
    """Steps that see every row once, but at least 100, and few enough for twenty looks at held-out rows."""
    return max(100, min(n_rows // batch_size, max_iter // 20))


@compiled
def _cluster_shares(model: VariationalModel, x: Array, keys: Array) -> Array:
    prior: GaussianMixturePrior = model.model.prior  # type: ignore[assignment]

    def one(row: tuple[Array, Array]) -> Array:
        x, key = row
        z, _ = sample_with_log_prob(model.posterior(x[None], None), jax.random.wrap_key_data(key), 64)
        return jnp.exp(prior.log_responsibilities(z[:, 0])).mean(0)

    return jax.lax.map(one, (x, keys), batch_size=64)
