"""`LinearICA`: the honest baseline, with a likelihood on the same scale as the nonlinear methods'."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from identica.compilation import compiled
from identica.conditionals import MixturePrior
from identica.data import Dataset
from identica.errors import DataError, Status
from identica.estimators.base import Problem
from identica.estimators.exact import ExactEstimator
from identica.families import GaussianLocationScale
from identica.linear import joint_diagonalize, within_segment_covariances
from identica.models.flow import FlowModel
from identica.networks.invertible import AffineMap, InvertibleNetwork
from identica.objectives.exact_likelihood import ExactLikelihood, HeldOutProfile
from identica.random import named_key
from identica.training import Callback, Checkpoint, Fit, Stage
from identica.typing import Array, FloatArray

_METHODS = ("fastica", "picard", "joint-diagonalization")
_MIXTURE_PARTS = 3
_CONTINUOUS_BINS = 30


class LinearICA(ExactEstimator):
    """Linear ICA: FastICA, or joint diagonalisation of within-segment covariances, which uses u.

    Sources are a linear map of X. For its likelihood, a discrete u gives each source a Gaussian per
    segment, as in `FlowICA`, so the two can be compared row by row; without u each source gets a
    mixture of three Gaussians.

    Parameters
    ----------
    n_components : int or None
        Number of sources; None takes as many as X has linearly independent columns.
    method : {"fastica", "joint-diagonalization", "picard"}
        FastICA (scikit-learn) ignores u. Joint diagonalisation (Pham, 2001) needs it; a continuous u
        is cut into 30 clusters for it. Picard ignores u and needs ``pip install 'identica[picard]'``; it
        seeks the optimum of FastICA by a quasi-Newton method, which is surer and often quicker.
    max_iter : int
        Most iterations of the method.
    validation_fraction : float
        Share of rows held out within segments, for a held-out likelihood beside that of other methods.
    outlier_threshold, precision, random_state, callbacks, checkpoint
        As in `FlowICA`; there are no chunks of training to call back from, or to save.

    Attributes
    ----------
    model_ : FlowModel
    components_ : array of shape (n_components, d)
        Unmixing matrix in the user's units: sources are ``(X − mean_) @ components_.T``.
    mean_ : array of shape (d,)

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("linear", seed=0, n_segments=10, n_per_segment=100)
    >>> ica = identica.LinearICA(method="joint-diagonalization", random_state=0).fit(data.X, u=data.u)
    >>> identica.metrics.mcc(data.S, ica.transform(data.X)) > 0.99
    True

    References
    ----------
    Hyvärinen (1999), Fast and robust fixed-point algorithms for ICA. Pham (2001), Joint approximate
    diagonalization of positive definite Hermitian matrices. Ablin, Cardoso, Gramfort (2018), Faster
    ICA by preconditioning with Hessian approximations.
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        method: str = "fastica",
        max_iter: int = 500,
        validation_fraction: float = 0.1,
        outlier_threshold: float | None = 50.0,
        precision: str = "float32",
        random_state: Any = None,
        callbacks: Any = None,
        checkpoint: Any = None,
    ):
        self.n_components = n_components
        self.method = method
        self.max_iter = max_iter
        self.validation_fraction = validation_fraction
        self.outlier_threshold = outlier_threshold
        self.precision = precision
        self.random_state = random_state
        self.callbacks = callbacks
        self.checkpoint = checkpoint

    @property
    def _requires_u(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.method == "joint-diagonalization"

    def build(self, problem: Problem) -> list[Stage]:
        """Nothing: linear ICA is not trained by stages."""
        return []

    def _train(
        self, problem: Problem, checkpoint: Checkpoint | None, callbacks: Sequence[Callback] | None = None
    ) -> Fit:
        if self.method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {self.method!r}")
        scores = np.asarray(problem.data.x, np.float64)[: problem.n_rows]
        if self.method == "joint-diagonalization":
            unmixing, n_iter, converged = self._diagonalize(scores, problem), 1, True
        elif self.method == "picard":
            unmixing, n_iter, converged = self._picard(scores)
        else:
            unmixing, n_iter, converged = self._fastica(scores)
        # Unit variance before the prior is fitted: floors of the prior are relative to it.
        unmixing = unmixing / (scores @ unmixing.T).std(axis=0)[:, None]
        dtype = problem.data.x.dtype
        n = problem.n_components
        linear = AffineMap(jnp.asarray(unmixing, dtype), jnp.zeros(n, dtype))
        system = FlowModel(InvertibleNetwork.linear(linear), GaussianLocationScale())
        if not problem.discrete:
            prior = _mixture_prior(scores @ unmixing.T, self.seed_, dtype)
            system = FlowModel(system.demixer, system.family, prior)
        held_out = self._held_out_objective(system, problem)
        status = Status.CONVERGED if converged else Status.MAX_ITER
        history = {
            "stage": np.array([self.method]),
            "step": np.array([n_iter]),
            "restart": np.array([0]),
            "loss": np.array([held_out[0]]),
            "held_out": np.array([held_out[1]]),
        }
        restarts: list[dict[str, object]] = [
            {"seed": 0, "held_out": held_out[1], "status": status.name.lower()}
        ]
        return Fit(system, history, restarts, status, n_iter)

    def _held_out_objective(self, system: FlowModel, problem: Problem) -> tuple[float, float]:
        parts = []
        for rows in (problem.data, problem.held_out or problem.data):
            parts.append(float(_objective(system, problem.data, rows, problem.n_segments * problem.discrete)))
        return parts[0], parts[1]

    def _diagonalize(self, scores: FloatArray, problem: Problem) -> FloatArray:
        u = np.asarray(problem.data.u)[: problem.n_rows]
        if not problem.discrete:
            bins = min(_CONTINUOUS_BINS, max(2, problem.n_rows // (4 * problem.n_components)))
            u = KMeans(bins, random_state=self.seed_).fit_predict(u)
        covariances, counts = within_segment_covariances(scores, u, int(u.max()) + 1)
        kept = counts >= 2
        return joint_diagonalize(covariances[kept], counts[kept].astype(np.float64), max_iter=self.max_iter)

    def _fastica(self, scores: FloatArray) -> tuple[FloatArray, int, bool]:
        if scores.shape[1] == 1:
            return np.eye(1), 1, True
        ica = FastICA(whiten="unit-variance", max_iter=self.max_iter, random_state=self.seed_)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the base class gives its own
            ica.fit(scores)
        return np.asarray(ica.components_), int(ica.n_iter_), int(ica.n_iter_) < self.max_iter

    def _picard(self, scores: FloatArray) -> tuple[FloatArray, int, bool]:
        try:
            from picard import picard  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise DataError(
                "method='picard' needs the package python-picard, which is not installed; run: "
                "pip install 'identica[picard]'. Or use method='fastica', which seeks the same optimum"
            ) from None
        # It says only by a warning whether it converged: its count of iterations does not tell.
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            result: Any = picard(
                scores.T, whiten=False, max_iter=self.max_iter, random_state=self.seed_, return_n_iter=True
            )
        _, unmixing, _, n_iter = result
        converged = not any("did not converge" in str(warning.message) for warning in said)
        return np.asarray(unmixing), int(n_iter), converged

    def _adopt(self, system: FlowModel, problem: Problem, X: FloatArray) -> None:
        super()._adopt(system, problem, X)
        self.mean_ = self.whitening_.center
        kept = self.whitening_.rotation[:, : self.n_components_]
        to_scores = (
            kept / np.sqrt(self.whitening_.eigenvalues[: self.n_components_]) / self.whitening_.scale[:, None]
        )
        last, orientation = self.model_.network.last, self.model_.orientation
        total = np.asarray(orientation.weight, np.float64) @ np.asarray(last.weight, np.float64)  # type: ignore[union-attr]
        self.components_ = total @ to_scores.T


@compiled
def _objective(system: FlowModel, data: Dataset, rows: Dataset, n_segments: int) -> Array:
    # Compiled as a whole: line by line, JAX would compile every operation by itself.
    if n_segments:
        return HeldOutProfile(n_segments)(system, data, rows, named_key(0))
    return ExactLikelihood()(system, rows, key=named_key(0))[0]


def _mixture_prior(z: FloatArray, seed: int, dtype: Any) -> MixturePrior:
    parts: list[Any] = [
        GaussianMixture(_MIXTURE_PARTS, random_state=seed).fit(z[:, [i]]) for i in range(z.shape[1])
    ]
    stack = lambda values: jnp.asarray(np.stack(values), dtype)
    return MixturePrior(
        stack([np.log(p.weights_) for p in parts]),
        stack([p.means_[:, 0] for p in parts]),
        stack([p.covariances_[:, 0, 0] for p in parts]),
    )
