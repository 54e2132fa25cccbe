"""`NonlinearICA`: several methods on one split, of which held-out likelihood keeps the best."""

import time
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from identica.errors import DataWarning, IdenticaError
from identica.estimators.flow_ica import FlowICA
from identica.estimators.ivae import IVAE
from identica.estimators.linear_ica import LinearICA
from identica.estimators.results import LogLikelihood, Posterior
from identica.estimators.validation import check_folder, check_observations
from identica.random import draw_seed
from identica.typing import FloatArray

CANDIDATES = ("fastica", "joint-diagonalization", "flow", "ivae")


class NonlinearICA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Nonlinear ICA without a choice of method: fits several, keeps the best by held-out likelihood.

    Linear ICA says whether a nonlinear model is needed at all; `FlowICA` has the exact likelihood of
    noiseless mixtures; `IVAE` models noise, and one of its starts comes from the flow. All see the same
    rows. Each gives log p(x|u) of the same held-out rows in the user's units, nats per row: exact for the
    linear methods that use u and for the flow, a lower bound for the iVAE. So if the iVAE wins, a noiseless
    model is clearly strained; if it loses, its bound may be to blame. FastICA ignores u, and its score is
    log p(x). The winner does everything else.

    Parameters
    ----------
    n_components : int or None
        Number of sources; None takes as many as X has linearly independent columns.
    candidates : tuple of {"fastica", "joint-diagonalization", "flow", "ivae"}
        What to fit, in this order.
    max_iter, n_restarts : int or None
        Of the flow and of the iVAE; None takes each one's default.
    validation_fraction : float
        Share of rows, drawn within segments, held out for choosing. With 0 all candidates are fitted to all
        rows and compared on them, which favours the richest one; a warning says so.
    outlier_threshold, precision, random_state, callbacks
        As in `FlowICA`.
    checkpoint : path or None
        Folder in which each candidate saves its state in a folder of its own; see `FlowICA`.

    Attributes
    ----------
    best_ : FlowICA, IVAE or LinearICA
        The winner. Its fitted attributes are had from here, too: ``model_``, ``history_`` and so on.
    candidates_ : list of dict
        Best first: ``name``, ``held_out`` (mean log-likelihood of held-out rows, nats per row),
        ``standard_error``, ``difference`` from the best, ``difference_error`` (standard error of the mean
        of paired differences), ``kind`` ("exact" or "lower"), ``seconds``, ``status``, and ``error`` for a
        candidate that could not be fitted (then the numbers are None).
    seed_, n_features_in_, feature_names_in_, fit_seconds_

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("linear", seed=0, n_components=2, n_segments=5, n_per_segment=50)
    >>> ica = identica.NonlinearICA(max_iter=20, n_restarts=2, random_state=0).fit(data.X, u=data.u)
    >>> ica.transform(data.X).shape
    (250, 2)
    """

    _requires_u: ClassVar[bool] = True

    # Declared on the class, so that pipelines and cross-validation route u without set_fit_request.
    __metadata_request__fit: ClassVar = {"u": True, "sequence": True}
    __metadata_request__transform: ClassVar = {"u": True}
    __metadata_request__score: ClassVar = {"u": True, "sample_weight": True}

    def __init__(
        self,
        n_components: int | None = None,
        *,
        candidates: tuple[str, ...] = CANDIDATES,
        max_iter: int | None = None,
        n_restarts: int | None = None,
        validation_fraction: float = 0.1,
        outlier_threshold: float | None = 50.0,
        precision: str = "float32",
        random_state: Any = None,
        callbacks: Any = None,
        checkpoint: Any = None,
    ):
        self.n_components = n_components
        self.candidates = candidates
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.validation_fraction = validation_fraction
        self.outlier_threshold = outlier_threshold
        self.precision = precision
        self.random_state = random_state
        self.callbacks = callbacks
        self.checkpoint = checkpoint

    def fit(self, X: Any, y: Any = None, *, u: Any = None, sequence: Any = None) -> "NonlinearICA":
        """Fit all candidates to rows X and the auxiliary variable u, and keep the best.

        Parameters
        ----------
        X : array-like of shape (N, d)
        y : array-like, optional
            Used as u if u is not given.
        u : array-like of shape (N,) or (N, m), or data frame
        sequence : array-like of shape (N,), optional
            Time-series ids; held-out rows are then contiguous blocks.

        Raises
        ------
        identica.DataError
            If no candidate could be fitted; the message is that of the first one.
        """
        started = time.perf_counter()
        rows = check_observations(self, X, reset=True)
        u = _u_of(self, u, y)
        unknown = [name for name in self.candidates if name not in CANDIDATES]
        if unknown or not self.candidates:
            raise ValueError(
                f"candidates must be some of {', '.join(CANDIDATES)}, got {tuple(self.candidates)!r}"
            )
        self.__dict__.pop("best_", None)
        self.seed_ = draw_seed(self.random_state)
        fitted: dict[str, Any] = {}
        failed: dict[str, IdenticaError | np.linalg.LinAlgError] = {}
        for name in self.candidates:
            estimator = self._candidate(name, fitted)
            try:
                fitted[name] = estimator.fit(X, u=u, sequence=sequence)
            except (IdenticaError, np.linalg.LinAlgError) as error:
                failed[name] = error
            if name == "ivae":
                estimator.taught_by(None)
        if not fitted:
            raise next(iter(failed.values()))
        self.candidates_ = _ranked(fitted, failed, rows, u)
        self.best_ = fitted[str(self.candidates_[0]["name"])]
        self._checkpoints = [e._checkpoint for e in fitted.values() if e._checkpoint is not None]
        self._n_features_out = self.best_.n_components_
        self.fit_seconds_ = time.perf_counter() - started
        for name, error in failed.items():
            warnings.warn(f"the candidate {name!r} was left out: {error}", DataWarning, stacklevel=2)
        if not len(self.best_.held_out_rows_):
            warnings.warn(
                "no rows were held out, so candidates were compared on the rows that they were fitted to, which "
                "favours the richest one; set validation_fraction",
                DataWarning,
                stacklevel=2,
            )
        return self

    def fit_transform(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, X: Any, y: Any = None, *, u: Any = None, sequence: Any = None
    ) -> FloatArray:
        """`fit`, then the sources of the same rows, using u."""
        return self.fit(X, y, u=u, sequence=sequence).transform(X, u=_u_of(self, u, y))

    def transform(self, X: Any, *, u: Any = None) -> FloatArray:
        """Sources (N, n_components) of rows, by the best candidate."""
        return self._checked(X).transform(X, u=u)

    def posterior(self, X: Any, *, u: Any = None) -> Posterior:
        """q(z|x, u) of rows, by the best candidate; a point if it has no noise."""
        return self._checked(X).posterior(X, u=u)

    def inverse_transform(self, S: Any) -> FloatArray:
        """Observations (N, d), in the user's units, of sources (N, n_components)."""
        check_is_fitted(self)
        return self.best_.inverse_transform(S)

    def score_samples(self, X: Any, y: Any = None, *, u: Any = None) -> FloatArray:
        """Log-likelihood of each row, or a lower bound of it, nats (N,)."""
        return self._checked(X).score_samples(X, y, u=u)

    def score(self, X: Any, y: Any = None, *, u: Any = None, sample_weight: Any = None) -> float:
        """Mean log-likelihood (or bound) of rows, nats per row, weighted if asked; higher is better."""
        return float(np.average(self.score_samples(X, y, u=u), weights=sample_weight))

    def log_likelihood(self, X: Any, y: Any = None, *, u: Any = None, method: str = "auto") -> LogLikelihood:
        """Mean log-likelihood of rows with its standard error, nats per row, by the best candidate."""
        return self._checked(X).log_likelihood(X, y, u=u, method=method)

    def sample(
        self, n_samples: int = 1, *, u: Any = None, random_state: Any = None
    ) -> tuple[FloatArray, FloatArray]:
        """New observations (n_samples, d) and their sources, drawn from the best candidate."""
        check_is_fitted(self)
        return self.best_.sample(n_samples, u=u, random_state=random_state)

    def save(self, folder: str | Path) -> None:
        """Write the fitted estimator as a folder; checkpoints of its candidates are removed afterwards."""
        from identica.estimators.persistence import save

        save(self, folder)
        for checkpoint in getattr(self, "_checkpoints", ()):
            checkpoint.remove()

    def __getattr__(self, name: str) -> Any:
        best = self.__dict__.get("best_")
        if best is None or name.startswith("_") or not name.endswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(best, name)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self)
        check_observations(self, X, reset=False)
        return self.best_

    def _candidate(self, name: str, fitted: dict[str, Any]) -> Any:
        folder = check_folder("checkpoint", self.checkpoint)
        shared: dict[str, Any] = {
            "n_components": self.n_components,
            "validation_fraction": self.validation_fraction,
            "outlier_threshold": self.outlier_threshold,
            "precision": self.precision,
            "random_state": self.seed_,
            "callbacks": self.callbacks,
            "checkpoint": None if folder is None else folder / name,
        }
        if name not in ("flow", "ivae"):
            return LinearICA(method=name, **shared)
        lengths = {"max_iter": self.max_iter, "n_restarts": self.n_restarts}
        shared |= {key: value for key, value in lengths.items() if value is not None}
        return FlowICA(**shared) if name == "flow" else IVAE(**shared).taught_by(fitted.get("flow"))


def _u_of(estimator: NonlinearICA, u: Any, y: Any) -> Any:
    u = y if u is None else u
    if u is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is None. "
            "Pass the auxiliary variable as u=… (or as y, inside scikit-learn's tools)."
        )
    return u


def _ranked(
    fitted: dict[str, Any], failed: dict[str, Any], rows: FloatArray, u: Any
) -> list[dict[str, object]]:
    """The table of candidates, best first, from scores of the same held-out rows."""
    first: Any = next(iter(fitted.values()))
    judged = np.sort(first.held_out_rows_ if len(first.held_out_rows_) else first.fit_rows_)
    u_judged = u.iloc[judged] if hasattr(u, "iloc") else np.asarray(u)[judged]
    with warnings.catch_warnings():
        # Rows were checked, and candidates fitted to frames know their columns by name.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        scores = {
            name: np.asarray(e.score_samples(rows[judged], u=u_judged), np.float64)
            for name, e in fitted.items()
        }
    order = sorted(fitted, key=lambda name: -float(scores[name].mean()))
    best = scores[order[0]]
    table: list[dict[str, object]] = []
    for name in order:
        estimator, score = fitted[name], scores[name]
        paired = score - best
        table.append(
            {
                "name": name,
                "held_out": float(score.mean()),
                "standard_error": _error(score),
                "difference": float(paired.mean()),
                "difference_error": _error(paired),
                "kind": "lower" if isinstance(estimator, IVAE) else "exact",
                "seconds": float(estimator.fit_seconds_),
                "status": estimator.status_.name.lower(),
                "error": None,
            }
        )
    numbers = ("held_out", "standard_error", "difference", "difference_error", "seconds")
    for name, error in failed.items():
        blank = {key: None for key in numbers}
        table.append({"name": name, **blank, "kind": None, "status": "failed", "error": str(error)})
    return table


def _error(values: FloatArray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
