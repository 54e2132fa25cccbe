"""`PCL`: nonlinear ICA of time series by telling the row before from other rows."""

import warnings
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning

from identica.auxiliary import AuxiliaryEncoder
from identica.errors import DataError, DataWarning
from identica.estimators.base import Problem
from identica.estimators.contrast_checks import CLEAR, departure_from_gaussian
from identica.estimators.contrast_stages import ContrastPlan, past_critic
from identica.estimators.contrastive import ContrastiveEstimator
from identica.estimators.ivae_start import encoder_features
from identica.estimators.validation import check_sequence
from identica.models import ContrastiveModel
from identica.objectives.contrastive import OtherRows, Pairing
from identica.typing import FloatArray, IntArray


class PCL(ContrastiveEstimator):
    """Permutation-contrastive learning: features that tell the row before from a row of another time.

    Rows are time series: one in row order, or several named by ``sequence``. If sources are independent
    stationary series whose dependence on their past is not Gaussian, then features for which the critic
    Σ_i B_i(h_i(t), h_i(t−1)) tells consecutive rows from permuted ones are the sources, each up to a curve
    of its own. No u is needed.

    Assumes temporal dependence, and that it is not Gaussian: Gaussian autoregressions are resolved only up
    to a linear map. A warning says if held-out rows show no dependence, or if that of a recovered
    source looks Gaussian. No likelihood, draws or inverse exist.

    Parameters
    ----------
    n_components : int or None
        Number of sources; None takes as many as X has linearly independent columns.
    hidden_sizes : tuple of int
        Units of each hidden layer of the feature network; ``()`` is a linear map.
    activation : str
        ``"leaky_relu"``, or a smooth one such as ``"squareplus"`` or ``"silu"``.
    max_iter : int
        Optimiser steps of each restart.
    n_restarts : int
        Starts, from linear sources turned by random rotations; the best by held-out cross-entropy is kept.
    validation_fraction : float
        Share of rows, a block of each series, held out for choosing; 0 fits on every row.
    outlier_threshold, precision, random_state, callbacks, checkpoint
        As in `FlowICA`.

    Attributes
    ----------
    model_ : ContrastiveModel
    context_effect_ : tuple of float or None
        By how much held-out rows go better with their own past than with another row's (0 to 1), and its
        standard deviation by chance; None with fewer than 50 held-out rows.
    departure_from_gaussian_ : array of shape (n_components,)
        How far the law of each source and its past is from Gaussian, in standard deviations by chance.
    converged_, status_, history_, restarts_, fit_rows_, held_out_rows_, gross_rows_, seed_, n_iter_
        As in `FlowICA`; objectives are cross-entropies, nats per row.

    References
    ----------
    Hyvärinen, Morioka (2017), Nonlinear ICA of temporally dependent stationary sources, Theorem 1.

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("pcl", seed=0, n_components=2, n_segments=4, n_per_segment=100, layers=1)
    >>> pcl = identica.PCL(max_iter=100, n_restarts=2, random_state=0).fit(data.X)
    >>> pcl.transform(data.X).shape
    (400, 2)
    """

    __metadata_request__score: ClassVar = {"u": True, "sequence": True, "sample_weight": True}

    _requires_u = False
    _context = "the row before them"
    _violated = (
        "The series seem to have no memory, which is all that permutation-contrastive learning rests on, so these "
        "sources mean nothing. Check that rows are in order of time (sequence= names several series), or use TCL "
        "or FlowICA with a u"
    )

    def __init__(
        self,
        n_components: int | None = None,
        *,
        hidden_sizes: tuple[int, ...] = (64, 64),
        activation: str = "leaky_relu",
        max_iter: int = 4000,
        n_restarts: int = 4,
        validation_fraction: float = 0.1,
        outlier_threshold: float | None = 50.0,
        precision: str = "float32",
        random_state: Any = None,
        callbacks: Any = None,
        checkpoint: Any = None,
    ):
        self.n_components = n_components
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.validation_fraction = validation_fraction
        self.outlier_threshold = outlier_threshold
        self.precision = precision
        self.random_state = random_state
        self.callbacks = callbacks
        self.checkpoint = checkpoint

    def score(  # type: ignore[override]
        self, X: Any, y: Any = None, *, u: Any = None, sequence: Any = None, sample_weight: Any = None
    ) -> float:
        """Minus the contrastive cross-entropy of rows that have a row before them; higher is better.

        The mean log probability, nats per row, that the model gives to the row before among up to 512
        others. It compares fits on the same rows, and is no log-likelihood of X. y and u are ignored.
        """
        X, _ = self._check_rows(X)
        before = previous_rows(self._series(sequence, len(X)))
        rows = np.flatnonzero(before >= 0)
        weight = None if sample_weight is None else np.asarray(sample_weight)[rows]
        context = self._model_input(X[before[rows]]).astype(self.precision)
        return float(np.average(-self._cross_entropies(X[rows], context), weights=weight))

    def _series(self, sequence: Any, n_rows: int) -> IntArray:
        ids = check_sequence(sequence, n_rows)
        return np.zeros(n_rows, dtype=np.int64) if ids is None else ids

    def _problem(
        self,
        X: FloatArray,
        encoded: np.ndarray | None,
        ids: IntArray | None,
        encoder: AuxiliaryEncoder | None,
        dtype: np.dtype,
    ) -> Problem:
        """Rows with the row before each as its context; both of a pair are fitted, or both held out."""
        before = previous_rows(self._series(None, len(X)) if ids is None else ids)
        fit_rows, held_out_rows = self.fit_rows_, self.held_out_rows_
        pairs = []
        for rows in (fit_rows, held_out_rows):
            inside = np.zeros(len(X) + 1, dtype=bool)  # the last entry stands for no row
            inside[rows] = True
            pairs.append(rows[inside[before[rows]]])
        if len(pairs[0]) < 2:
            raise DataError(
                "no two rows to fit follow each other in time; give rows in order of time, and in sequence the "
                "series that each belongs to"
            )
        past = np.zeros_like(X)
        past[before >= 0] = X[before[before >= 0]]
        context = self._model_input(past, grid=True)
        try:
            self.fit_rows_, self.held_out_rows_ = pairs[0], pairs[1] if len(pairs[1]) > 1 else pairs[1][:0]
            return replace(super()._problem(X, context, ids, None, dtype), encoder=None)
        finally:
            self.fit_rows_, self.held_out_rows_ = fit_rows, held_out_rows

    def _plan(self, problem: Problem) -> ContrastPlan:
        x = np.asarray(problem.data.x, np.float64)[: problem.n_rows]
        n, dtype = problem.n_components, problem.data.x.dtype
        features = encoder_features(x, n, dtype=dtype)
        scores = np.asarray(features(problem.data.x[: problem.n_rows]), np.float64)[:, :n]
        unmixing = np.zeros((features.matrix.shape[1], n))
        turned = self._fastica(scores)
        unmixing[:n] = turned.T / (scores @ turned.T).std(axis=0)
        return ContrastPlan(
            pairing=OtherRows(),
            features=features,
            unmixing=unmixing,
            critic=past_critic,
            turn=self._fastica,
            # The critic resolves components by itself; once trained, another rotation could only lose.
            demix=lambda h: np.eye(n),
            hidden_sizes=tuple(self.hidden_sizes),
            activation=self.activation,
            max_iter=self.max_iter,
            restarts=self.n_restarts,
            n_rows=problem.n_rows,
            past=True,
        )

    def _fastica(self, h: FloatArray) -> FloatArray:
        if h.shape[1] == 1:
            return np.eye(1)
        with warnings.catch_warnings():
            # Gaussian features have no best rotation; whether they are is checked and said later.
            warnings.simplefilter("ignore", ConvergenceWarning)
            ica = FastICA(whiten="unit-variance", random_state=self.seed_).fit(h)
        return np.asarray(ica.components_)

    def _pairing(self) -> Pairing:
        return OtherRows()

    def _adopt(self, system: ContrastiveModel, problem: Problem, X: FloatArray) -> None:
        super()._adopt(system, problem, X)
        rows = problem.data.rows(slice(0, problem.n_rows))
        now, before = (self._sources_of_input(np.asarray(a)) for a in (rows.x, rows.u))
        self.departure_from_gaussian_ = departure_from_gaussian(now, before)
        close = np.flatnonzero(self.departure_from_gaussian_ < CLEAR)
        if len(close) and not self._contexts_do_not_matter():  # which says it all
            shown = ", ".join(str(i) for i in close)
            warnings.warn(
                f"PCL: source(s) {shown} depend on their past as Gaussian series do, which permutation-contrastive "
                "learning cannot tell from rotations of themselves: more than one such source may stay mixed. Try "
                "TCL or FlowICA with windows of time as u (identica.segments), or LinearICA if the mixture is linear",
                DataWarning,
                stacklevel=4,
            )


def previous_rows(series: IntArray) -> IntArray:
    """The row before each (N,) in its series, -1 for the first of a series."""
    order = np.argsort(series, kind="stable")
    before = np.full(len(series), -1, dtype=np.int64)
    same = series[order[1:]] == series[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    return before
