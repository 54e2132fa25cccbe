"""What all estimators share: the scikit-learn contract, checks, held-out rows, seeds, the call of fit.

A new method overrides `build` (data → stages), `_adopt` (what training returned → fitted model) and
the few methods that read its model; it holds no training code.
"""

import hashlib
import time
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

import identica
from identica.auxiliary import AuxiliaryEncoder
from identica.compilation import make_room
from identica.data import Dataset, gross_rows, held_out_split
from identica.errors import DataWarning, Status
from identica.estimators.blocks import precision_of
from identica.estimators.results import LogLikelihood
from identica.estimators.validation import (
    check_callbacks,
    check_columns,
    check_count,
    check_folder,
    check_fraction,
    check_observations,
    check_segments,
    check_sequence,
    check_threshold,
    check_variation,
)
from identica.linear.whitening import Whitening
from identica.random import draw_seed, named_rng
from identica.training import Callback, Checkpoint, Fit, Stage
from identica.training import fit as run_stages
from identica.typing import FloatArray, IntArray

_SMALL_DATA = 2048


@dataclass(frozen=True)
class Problem:
    """What `build` gets: the data as the model sees them, and what is known about them.

    Attributes
    ----------
    data, held_out : Dataset
        Rows to fit and rows for selection (None if none are held out).
    whitening : Whitening
        From the user's units to what the model sees.
    encoder : AuxiliaryEncoder or None
        Of u.
    n_components : int
        Number n of sources.
    n_rows : int
        Fitted rows, without padding.
    seed : int
        Of the fit.
    """

    data: Dataset
    held_out: Dataset | None
    whitening: Whitening
    encoder: AuxiliaryEncoder | None
    n_components: int
    n_rows: int
    seed: int

    @property
    def discrete(self) -> bool:
        """Whether u consists of labels."""
        return self.encoder is not None and self.encoder.kind == "discrete"

    @property
    def n_segments(self) -> int:
        """Number M of segments, rounded up so that data sets of similar size share compiled code."""
        if self.encoder is None or not self.encoder.n_segments:
            return 0
        return (
            max(8, 1 << (self.encoder.n_segments - 1).bit_length())
            if self.n_rows < _SMALL_DATA
            else (self.encoder.n_segments)
        )


class SourceEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base class of estimators that recover sources; abstract."""

    # Declared on the class, so that pipelines and cross-validation route u without set_fit_request.
    __metadata_request__fit: ClassVar = {"u": True, "sequence": True}
    __metadata_request__transform: ClassVar = {"u": True}
    __metadata_request__score: ClassVar = {"u": True, "sample_weight": True}

    _requires_u: ClassVar[bool] = True

    n_components: Any
    max_iter: Any
    validation_fraction: Any
    precision: Any
    random_state: Any
    callbacks: Any
    checkpoint: Any
    outlier_threshold: Any

    # What a method provides ---------------------------------------------------------------------------

    @abstractmethod
    def build(self, problem: Problem) -> list[Stage]:
        """The stages that fit this method to ``problem``."""

    @abstractmethod
    def _adopt(self, system: Any, problem: Problem, X: FloatArray) -> None:
        """Turn the trained system into the fitted model, oriented by the stated rule."""

    @abstractmethod
    def _model_input(self, X: FloatArray, *, grid: bool = False) -> FloatArray:
        """Rows as the model sees them, float64, from rows in the user's units."""

    @abstractmethod
    def score_samples(self, X: Any, y: Any = None, *, u: Any = None) -> FloatArray:
        """Log-likelihood, or a bound of it, of each row."""

    # fit ----------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, u: Any = None, sequence: Any = None) -> "SourceEstimator":
        """Learn sources from rows X and the auxiliary variable u.

        Parameters
        ----------
        X : array-like of shape (N, d)
            Observations, in any units.
        y : array-like, optional
            Used as u if u is not given, for tools that pass only X and y.
        u : array-like of shape (N,) or (N, m), or data frame, optional
            Auxiliary variable: labels of any type, numbers, or both.
        sequence : array-like of shape (N,), optional
            Time-series ids; held-out rows are then contiguous blocks.

        Returns
        -------
        self

        Raises
        ------
        identica.DataError
            If the data cannot be used as given; the message says why and what to try.
        identica.errors.NonFiniteError
            If the objective was never finite.
        """
        started = time.perf_counter()
        X = check_observations(self, X, reset=True, unknown=self._takes_unknown())
        fraction = check_fraction(self.validation_fraction)
        check_count("max_iter", self.max_iter)
        check_callbacks(self.callbacks)
        check_folder("checkpoint", self.checkpoint)
        u = self._choose_u(u, y)
        check_columns(self, X, self.n_components)
        ids = self._series(sequence, len(X))
        encoder, encoded = self._encode_new_u(u, len(X))
        checkpoint = self._open_checkpoint(X, encoded, ids)
        self.seed_ = draw_seed(self.random_state) if checkpoint is None else checkpoint.seed
        self.gross_rows_ = self._find_gross_rows(X)
        usable = np.setdiff1d(np.arange(len(X)), self.gross_rows_)
        codes = encoded if encoder is not None and encoder.kind == "discrete" else None
        if encoder is not None and codes is not None:
            check_segments(encoder, codes[usable])
        fit_rows, held_out_rows = self._split(usable, fraction, codes, ids)
        if codes is not None:
            fit_rows = fit_rows[self._order(codes[usable][fit_rows])]
        self.fit_rows_, self.held_out_rows_ = usable[fit_rows], usable[held_out_rows]
        # A column may vary in a single row, and that row be held out.
        check_variation(self, X[self.fit_rows_], where=" among the fitted rows")
        self.auxiliary_ = encoder
        self.whitening_ = self._whiten(X[self.fit_rows_])
        make_room()
        self.n_components_ = self.whitening_.n_components
        with precision_of(self.precision) as dtype:
            problem = self._problem(X, encoded, ids, encoder, dtype)
            result = self._train(problem, checkpoint)
            self._adopt(result.system, problem, X[self.fit_rows_])
        self.history_, self.restarts_ = result.history, result.restarts
        self.status_, self.n_iter_ = result.status, max(1, result.n_steps)
        self.converged_ = result.status is Status.CONVERGED
        self._n_features_out = self.n_components_
        self._complete(X, ids)
        self.fit_seconds_ = time.perf_counter() - started
        self._checkpoint = checkpoint
        if not result.status.ok:
            warnings.warn(f"{type(self).__name__}: {result.status.value}", ConvergenceWarning, stacklevel=2)
        return self

    def fit_transform(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, X: Any, y: Any = None, *, u: Any = None, sequence: Any = None
    ) -> FloatArray:
        """`fit`, then the sources of the same rows, using u."""
        self.fit(X, y, u=u, sequence=sequence)
        return self.transform(X, u=self._choose_u(u, y))

    @abstractmethod
    def transform(self, X: Any, *, u: Any = None) -> FloatArray:
        """Sources of rows."""

    def score(self, X: Any, y: Any = None, *, u: Any = None, sample_weight: Any = None) -> float:
        """Mean log-likelihood (or bound) of rows, nats per row, weighted if asked; higher is better."""
        rows = self.score_samples(X, y, u=u)
        return float(np.average(rows, weights=sample_weight))

    # Pieces -------------------------------------------------------------------------------------------

    def _complete(self, X: FloatArray, ids: IntArray | None) -> None:
        """What a method tells of all rows at the end of a fit, if anything."""

    def _n_scores(self) -> int | None:
        """Principal components that the model sees; None for as many as X has rank."""
        return self.n_components

    def _takes_unknown(self) -> bool:
        """Whether entries of X may be NaN."""
        return False

    def _whiten(self, X: FloatArray) -> Whitening:
        return Whitening.from_rows(X, self._n_scores())

    def _series(self, sequence: Any, n_rows: int) -> IntArray | None:
        """Time series of each row (N,), or None where rows have no order."""
        return check_sequence(sequence, n_rows)

    def _split(
        self, usable: IntArray, fraction: float, codes: IntArray | None, ids: IntArray | None
    ) -> tuple[IntArray, IntArray]:
        """Which of the usable rows are fitted and which held out, as places among them."""
        return held_out_split(
            len(usable),
            fraction,
            named_rng(self.seed_, "held out"),
            codes=None if codes is None else codes[usable],
            sequence=None if ids is None else ids[usable],
        )

    def _open_checkpoint(
        self, X: FloatArray, encoded: np.ndarray | None, ids: IntArray | None
    ) -> Checkpoint | None:
        folder = check_folder("checkpoint", self.checkpoint)
        if folder is None:
            return None
        checkpoint = Checkpoint(folder, self._fingerprint(X, encoded, ids))
        # Without a seed of its own, a fit goes on with the one that the same fit began with.
        remembered = checkpoint.remembered_seed() if self.random_state is None else None
        checkpoint.seed = draw_seed(self.random_state) if remembered is None else remembered
        return checkpoint

    def _order(self, codes: IntArray) -> IntArray | slice:
        """How fitted rows of these segments are arranged; they come in random order."""
        return slice(None)

    def _train(
        self, problem: Problem, checkpoint: Checkpoint | None, callbacks: Sequence[Callback] | None = None
    ) -> Fit:
        """Run the stages; ``callbacks`` in place of the estimator's own."""
        return run_stages(
            self.build(problem),
            problem.data,
            problem.held_out,
            seed=self.seed_,
            callbacks=check_callbacks(self.callbacks) if callbacks is None else callbacks,
            checkpoint=checkpoint,
        )

    def _problem(
        self,
        X: FloatArray,
        encoded: np.ndarray | None,
        ids: IntArray | None,
        encoder: AuxiliaryEncoder | None,
        dtype: np.dtype,
    ) -> Problem:
        def dataset(rows: IntArray) -> Dataset:
            x = self._model_input(X[rows], grid=True).astype(dtype)
            u = None if encoded is None else encoded[rows]
            if u is not None and u.dtype.kind == "f":
                u = u.astype(dtype)
            return padded(x, u, None if ids is None else ids[rows])

        held_out = dataset(self.held_out_rows_) if len(self.held_out_rows_) else None
        return Problem(
            dataset(self.fit_rows_), held_out, self.whitening_, encoder,
            self.n_components_, len(self.fit_rows_), self.seed_,
        )  # fmt: skip

    def _u_or_y(self, u: Any, y: Any) -> Any:
        """u, or y in its place where u is needed; others ignore y, which tools pass for reasons of their own."""
        return y if u is None and self._requires_u else u

    def _choose_u(self, u: Any, y: Any) -> Any:
        u = self._u_or_y(u, y)
        if u is None and self._requires_u:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y is None. "
                "Pass the auxiliary variable as u=… (or as y, inside scikit-learn's tools)."
            )
        return u

    def _encode_new_u(self, u: Any, n_rows: int) -> tuple[AuxiliaryEncoder | None, np.ndarray | None]:
        if u is None:
            return None, None
        encoder = AuxiliaryEncoder.from_values(u, n_rows=n_rows)
        return encoder, encoder.encode(u, n_rows=n_rows)

    def _encode_u(self, u: Any, n_rows: int) -> np.ndarray | None:
        """u of new rows as the model takes it, or None."""
        if u is None or self.auxiliary_ is None:
            return None
        encoded = self.auxiliary_.encode(u, n_rows=n_rows)
        return encoded.astype(self.precision) if encoded.dtype.kind == "f" else encoded

    def _find_gross_rows(self, X: FloatArray) -> IntArray:
        threshold = check_threshold(self.outlier_threshold)
        if threshold is None:
            return np.zeros(0, dtype=np.int64)
        rows = gross_rows(X, threshold)
        if len(rows):
            shown = ", ".join(str(r) for r in rows[:10]) + (", …" if len(rows) > 10 else "")
            warnings.warn(
                f"{len(rows)} row(s) hold gross spikes (more than {threshold:g} robust standard "
                f"deviations from a column's median) and were left out of the fit: {shown}. They are still "
                "transformed. outlier_threshold=None keeps them in",
                DataWarning,
                stacklevel=3,
            )
        return rows

    def _fingerprint(self, X: FloatArray, encoded: np.ndarray | None, ids: IntArray | None) -> str:
        digest = hashlib.sha256()
        for part in (X, encoded, ids):
            digest.update(b"none" if part is None else repr((part.shape, part.dtype)).encode())
            digest.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
        options = {
            k: v for k, v in self.get_params().items() if k not in ("callbacks", "checkpoint", "random_state")
        }
        versions = (identica.__version__, jax.__version__)
        digest.update(repr((type(self).__name__, sorted(options.items()), versions)).encode())
        return digest.hexdigest()

    def _check_rows(self, X: Any) -> tuple[FloatArray, np.dtype]:
        """New rows as float64, and the type in which results go back."""
        check_is_fitted(self)
        dtype = np.dtype(np.float32) if getattr(X, "dtype", None) == np.float32 else np.dtype(np.float64)
        return check_observations(self, X, reset=False, unknown=self._takes_unknown()), dtype

    def log_likelihood(self, X: Any, y: Any = None, *, u: Any = None, method: str = "auto") -> LogLikelihood:
        """Mean log-likelihood of rows with its standard error, nats per row."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write the fitted estimator as a folder of ``config.json`` and ``weights.safetensors``.

        The checkpoint of its fit, if there is one, is removed afterwards: until here it could have
        given the same result at once if something had gone wrong.
        """
        from identica.estimators.persistence import save

        save(self, folder)
        checkpoint = getattr(self, "_checkpoint", None)  # a loaded model has none
        if self.checkpoint is not None and checkpoint is not None:
            with suppress(OSError):  # the model is saved, and what is left is in nobody's way
                checkpoint.remove()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self._requires_u
        tags.input_tags.allow_nan = self._takes_unknown()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def padded(x: np.ndarray, u: np.ndarray | None, ids: IntArray | None) -> Dataset:
    """A data set on the device; small ones are padded with rows of weight 0 to a power of two.

    Small fits spend their time compiling, so data sets of similar size share a shape.
    """
    n_rows = len(x)
    weight = None
    if n_rows < _SMALL_DATA:
        extra = max(64, 1 << (n_rows - 1).bit_length()) - n_rows
        weight = np.concatenate([np.ones(n_rows, x.dtype), np.zeros(extra, x.dtype)])
        pad = lambda a: None if a is None else np.pad(a, [(0, extra)] + [(0, 0)] * (a.ndim - 1))
        x, u, ids = pad(x), pad(u), pad(ids)  # type: ignore[assignment]
    on_device = lambda a: None if a is None else jax.numpy.asarray(a)
    return Dataset(on_device(x), on_device(u), on_device(ids), on_device(weight))
