"""`GaussianMixture`: mixtures of Gaussians by expectation-maximisation or by gradients."""

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from identica.compilation import compiled
from identica.data import Dataset
from identica.errors import DataError, Status
from identica.estimators.base import padded
from identica.estimators.blocks import apply_in_blocks, precision_of
from identica.estimators.exact import as_numpy
from identica.estimators.results import LogLikelihood
from identica.estimators.validation import check_callbacks, check_count, check_observations, check_variation
from identica.linear.whitening import column_scale
from identica.models.gaussian_mixture import COVARIANCES, GaussianMixtureModel
from identica.objectives.mixture_likelihood import EvaluatedMixture, MixtureLikelihood, MixtureUpdate
from identica.random import draw_seed, named_rng
from identica.training import EM, LBFGS, Stage
from identica.training import fit as run_stages
from identica.typing import FloatArray, IntArray, Key

_SOLVERS = ("em", "gradient")
_STARTS = ("k-means", "random")
_CHUNK = 10


class GaussianMixture(DensityMixin, BaseEstimator):
    """Density p(x) = Σ_k w_k N(x; μ_k, Σ_k), by expectation-maximisation or by gradient ascent.

    The model in which maximum likelihood, EM and gradients can be compared exactly: the likelihood is
    known, EM never lowers it (checked at every step), and one component is the Gaussian in closed form.
    It has no sources; rows are told apart by the component they belong to.

    Parameters
    ----------
    n_components : int
        Number K of components of the mixture.
    covariance : {"full", "diagonal", "spherical"}
        Form of Σ_k. Spherical ones are so in the units of X.
    solver : {"em", "gradient"}
        Expectation-maximisation, or L-BFGS on the same likelihood.
    start : {"k-means", "random"} or array of shape (K, d)
        First groups of rows: by k-means, or around rows drawn at random; or the first means, with equal
        weights and the covariance of all rows.
    max_iter : int
        Steps of EM or of L-BFGS.
    n_restarts : int
        Starts, of which the most likely mixture is kept; one is all there is to given means.
    tolerance : float
        Ten steps that gain less, in nats per row, end the fit.
    floor : float
        Smallest variance in any direction, as a share of the variance of the columns. Without it, a
        component on a single row has an unbounded likelihood.
    precision : {"float64", "float32"}
    random_state, callbacks
        As in `IVAE`.

    Attributes
    ----------
    weights_ : (K,)
        Largest first.
    means_ : (K, d)
    covariances_ : (K, d, d), (K, d) or (K,)
    n_iter_, converged_, status_, seed_, history_, restarts_
        As in `IVAE`; one component takes one step.

    References
    ----------
    Dempster, Laird, Rubin (1977). Bishop (2006), section 9.2. Ingrassia (2004), A likelihood-based
    constrained algorithm for multivariate normal mixture models, for the floor.

    Examples
    --------
    >>> import identica, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(-3, 1, (100, 2)), rng.normal(3, 1, (50, 2))])
    >>> mixture = identica.GaussianMixture(2, random_state=0).fit(X)
    >>> mixture.weights_.round(2)
    array([0.67, 0.33])
    >>> np.bincount(mixture.predict(X))
    array([100,  50])
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance: str = "full",
        solver: str = "em",
        start: Any = "k-means",
        max_iter: int = 1000,
        n_restarts: int = 4,
        tolerance: float = 1e-7,
        floor: float = 1e-6,
        precision: str = "float64",
        random_state: Any = None,
        callbacks: Any = None,
    ):
        self.n_components = n_components
        self.covariance = covariance
        self.solver = solver
        self.start = start
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.tolerance = tolerance
        self.floor = floor
        self.precision = precision
        self.random_state = random_state
        self.callbacks = callbacks

    # fit ----------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> "GaussianMixture":
        """Learn the mixture from rows X (N, d).

        Parameters
        ----------
        X : array-like of shape (N, d)
            Rows, in any units.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        identica.DataError
            If the rows cannot be used as given.
        identica.errors.NotMonotoneError
            If a step of EM lowered the likelihood by more than rounding.
        """
        started = time.perf_counter()
        X = check_observations(self, X, reset=True)
        self._check(X)
        self.seed_ = draw_seed(self.random_state)
        center, scale = column_scale(X)
        if self.covariance == "spherical":
            # One scale for all columns, or what is a sphere to the model would not be one in X.
            scale = np.full_like(scale, scale.max() * np.sqrt(((scale / scale.max()) ** 2).mean()))
        self.center_, self.scale_ = center, scale
        with precision_of(self.precision) as dtype:
            standard = self._standard(X).astype(dtype)
            data = padded(standard, None, None)
            result = run_stages(
                [self._stage(standard)],
                data,
                None,
                seed=self.seed_,
                callbacks=check_callbacks(self.callbacks),
            )
            self._adopt(result.system)
        self.history_, self.restarts_ = result.history, result.restarts
        self.status_, self.n_iter_ = result.status, max(1, result.n_steps)
        self.converged_ = result.status is Status.CONVERGED
        self.fit_seconds_ = time.perf_counter() - started
        if not result.status.ok:
            warnings.warn(f"{type(self).__name__}: {result.status.value}", ConvergenceWarning, stacklevel=2)
        return self

    def _check(self, X: FloatArray) -> None:
        count = check_count("n_components", self.n_components)
        check_count("max_iter", self.max_iter)
        check_count("n_restarts", self.n_restarts)
        for name, known in (("covariance", COVARIANCES), ("solver", _SOLVERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("tolerance", "floor"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not value > 0:
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if isinstance(self.start, str):
            if self.start not in _STARTS:
                raise ValueError(f"start must be one of {', '.join(_STARTS)} or means, got {self.start!r}")
        elif np.shape(self.start) != (count, X.shape[1]):
            raise DataError(
                f"start must hold one mean per component, shape {(count, X.shape[1])}, got {np.shape(self.start)}"
            )
        if len(X) < count:
            raise DataError(
                f"n_components={count}, but X has {len(X)} rows (n_samples={len(X)}); a mixture needs at least "
                "one row per component"
            )
        check_variation(self, X)

    def _stage(self, x: FloatArray) -> Stage:
        restarts = 1 if not isinstance(self.start, str) or self.n_components == 1 else self.n_restarts
        starts = tuple(self._start_of(x.astype(np.float64), r) for r in range(restarts))
        # One component: the first step is the closed form, and there is no other.
        steps = 1 if self.n_components == 1 and self.solver == "em" else self.max_iter
        return Stage(
            "mixture",
            starts,
            MixtureLikelihood(),
            EvaluatedMixture(),
            EM(MixtureUpdate(self.covariance)) if self.solver == "em" else LBFGS(),
            steps,
            restarts=restarts,
            chunk=_CHUNK if self.solver == "em" else 10 * _CHUNK,
            patience=1,
            tolerance=self.tolerance,
        )

    def _start_of(self, x: FloatArray, restart: int) -> "_Start":
        if not isinstance(self.start, str):
            means = self._standard(np.asarray(self.start, np.float64))
            first = np.full((len(x), self.n_components), 1 / self.n_components)
            return _Start(first, means, self.covariance, float(self.floor))
        rng = named_rng(self.seed_, "start", restart)
        if self.start == "k-means":
            seed = int(rng.integers(2**31))
            grouped = KMeans(self.n_components, n_init=1, random_state=seed).fit(x)  # pyright: ignore[reportArgumentType]
            labels = grouped.labels_
        else:
            centers = x[rng.choice(len(x), self.n_components, replace=False)]
            labels = ((x[:, None] - centers) ** 2).sum(-1).argmin(axis=1)
        return _Start(np.eye(self.n_components)[labels], None, self.covariance, float(self.floor))

    def _adopt(self, model: GaussianMixtureModel) -> None:
        order = np.argsort(-np.asarray(model.log_weights), kind="stable")
        weights = np.asarray(model.log_weights, np.float64)[order]
        self.weights_ = np.exp(weights - weights.max())
        self.weights_ /= self.weights_.sum()
        self.model_ = jax.tree.map(lambda leaf: np.asarray(leaf)[order], model)
        self.means_ = np.asarray(model.means, np.float64)[order] * self.scale_ + self.center_
        covariances = np.asarray(model.covariances, np.float64)[order]
        factor = {
            "full": np.outer(self.scale_, self.scale_),
            "diagonal": self.scale_**2,
            "spherical": self.scale_[0] ** 2,
        }
        self.covariances_ = covariances * factor[self.covariance]

    # Use ----------------------------------------------------------------------------------------------

    def predict_proba(self, X: Any) -> FloatArray:
        """Responsibilities p(k|x) of each row, (N, K)."""
        log_joint = self._log_joint(X)
        shares = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> IntArray:
        """The most probable component of each row, (N,)."""
        return self._log_joint(X).argmax(axis=1)

    def fit_predict(self, X: Any, y: Any = None) -> IntArray:
        """`fit`, then `predict` of the same rows."""
        return self.fit(X).predict(X)

    def score_samples(self, X: Any) -> FloatArray:
        """Exact log p(x) of each row, nats (N,)."""
        return np.logaddexp.reduce(self._log_joint(X), axis=1)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of rows, nats per row."""
        return float(self.score_samples(X).mean())

    def log_likelihood(self, X: Any, y: Any = None, *, method: str = "auto") -> LogLikelihood:
        """Mean log p(x) of rows with its standard error, nats per row; exact."""
        if method not in ("auto", "exact"):
            raise ValueError(f"method must be 'auto' or 'exact' for {type(self).__name__}, got {method!r}")
        return LogLikelihood.from_rows(self.score_samples(X), "exact")

    def sample(self, n_samples: int = 1, *, random_state: Any = None) -> tuple[FloatArray, IntArray]:
        """Draw rows (n_samples, d) and the component (n_samples,) of each."""
        check_is_fitted(self)
        check_count("n_samples", n_samples)
        with precision_of(self.precision):
            x, which = _drawn(self.model_, n_samples, jax.random.key(draw_seed(random_state)))
        return np.asarray(x, np.float64) * self.scale_ + self.center_, np.asarray(which)

    def save(self, folder: str | Path) -> None:
        """Write the fitted mixture as a folder of ``config.json`` and ``weights.safetensors``."""
        from identica.estimators.persistence import save

        save(self, folder)

    def _standard(self, X: FloatArray) -> FloatArray:
        return (X - self.center_) / self.scale_

    def _log_joint(self, X: Any) -> FloatArray:
        check_is_fitted(self)
        X = check_observations(self, X, reset=False)
        with precision_of(self.precision) as precision:
            rows = apply_in_blocks(lambda x: _log_joint(self.model_, x), self._standard(X).astype(precision))
        return rows.astype(np.float64) - np.log(self.scale_).sum()


@dataclass(frozen=True, eq=False)
class _Start:
    """The mixture that one restart begins with.

    Attributes
    ----------
    responsibilities : (N, K)
    means : (K, d) or None
        Put in place of those that the responsibilities give.
    covariance : str
    floor : float
    """

    responsibilities: FloatArray
    means: FloatArray | None
    covariance: str
    floor: float

    def __call__(self, system: GaussianMixtureModel | None, data: Dataset, key: Key) -> GaussianMixtureModel:
        padding = data.n_rows - len(self.responsibilities)
        shares = jnp.asarray(np.pad(self.responsibilities, [(0, padding), (0, 0)]), data.x.dtype)
        model = _m_step(data.x, shares, self.covariance, self.floor)
        if self.means is not None:
            model = eqx.tree_at(lambda m: m.means, model, jnp.asarray(self.means, data.x.dtype))
        return as_numpy(model)


@compiled
def _m_step(x: Any, responsibilities: Any, covariance: str, floor: float) -> GaussianMixtureModel:
    return GaussianMixtureModel.from_responsibilities(x, responsibilities, covariance=covariance, floor=floor)


@compiled
def _log_joint(model: GaussianMixtureModel, x: Any) -> Any:
    return model.log_joint(x)


@compiled
def _drawn(model: GaussianMixtureModel, n_samples: int, key: Key) -> Any:
    return model.sample(n_samples, key=key)
