"""What `FlowICA` does where u is hidden: rows in order of time, states told, likelihoods of whole series."""

from dataclasses import replace
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from sklearn.utils.validation import check_is_fitted

from identica.compilation import compiled
from identica.conditionals import Table
from identica.conditionals.hidden_markov import HiddenMarkovPrior
from identica.errors import DataError
from identica.estimators.base import Problem
from identica.estimators.blocks import apply_in_blocks, precision_of
from identica.estimators.exact import ExactEstimator
from identica.estimators.results import LogLikelihood
from identica.estimators.validation import check_count, check_sequence
from identica.models.flow import FlowModel
from identica.random import named_rng
from identica.series.hidden_markov import (
    log_densities,
    most_probable_path,
    posterior,
    stationary_distribution,
)
from identica.typing import Array, FloatArray, IntArray

WINDOW = 100
"""Rows of the windows that are fitted or held out as wholes."""

_FEWEST_WINDOWS, _FEWEST_ROWS = 40, 20
"""Windows that a series is cut into at least, and rows per state that a fit needs."""


class HiddenStateEstimator(ExactEstimator):
    """An exact estimator whose u may be the hidden state of a Markov chain (``prior="hmm"``); abstract."""

    __metadata_request__score: ClassVar = {"u": True, "sequence": True, "sample_weight": True}

    prior: Any
    n_states: Any

    @property
    def _hidden(self) -> bool:
        return isinstance(self.prior, str) and self.prior == "hmm"

    @property
    def _requires_u(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self._hidden

    def predict_states(self, X: Any, *, sequence: Any = None) -> IntArray:
        """The most probable path of hidden states through rows in order of time, (N,): Viterbi's.

        States are numbered from the one that rows are in most often. Only with ``prior="hmm"``.

        Parameters
        ----------
        X : array-like of shape (N, d)
        sequence : array-like of shape (N,), optional
            Time-series ids; None is one series.
        """
        return self._along(*self._in_time(X, sequence), _path)[0].astype(np.int64)

    def state_probabilities(self, X: Any, *, sequence: Any = None) -> FloatArray:
        """Probability of each state in each row, given all rows of its series, (N, n_states).

        Parameters are those of `predict_states`. Only with ``prior="hmm"``.
        """
        return self._along(*self._in_time(X, sequence), _probabilities)[0].astype(np.float64)

    def score_samples(self, X: Any, y: Any = None, *, u: Any = None, sequence: Any = None) -> FloatArray:
        """Exact log p(x|u) of each row, nats (N,); log p(x), averaged over u, if u is not given.

        With ``prior="hmm"`` rows are in order of time, and each has log p(x_t | rows before it), so that they
        add up to the likelihood of the whole series, or of each of several if ``sequence`` names them.
        """
        if not self._hidden:
            return super().score_samples(X, y, u=u)
        self._refuse(u)
        X, ids = self._in_time(X, sequence)
        log_p, log_det = self._along(X, ids, _log_densities)
        return (log_p + log_det).astype(np.float64) + self.whitening_.log_density_of_the_rest(X)

    def score(
        self, X: Any, y: Any = None, *, u: Any = None, sequence: Any = None, sample_weight: Any = None
    ) -> float:
        """Mean log-likelihood of rows, nats per row, weighted if asked; higher is better."""
        return float(np.average(self.score_samples(X, y, u=u, sequence=sequence), weights=sample_weight))

    def log_likelihood(
        self, X: Any, y: Any = None, *, u: Any = None, sequence: Any = None, method: str = "auto"
    ) -> LogLikelihood:
        """Mean log p(x|u) of rows with its standard error, nats per row; exact."""
        if not self._hidden or method not in ("auto", "exact"):
            return super().log_likelihood(X, y, u=u, method=method)
        return LogLikelihood.from_rows(self.score_samples(X, u=u, sequence=sequence), "exact")

    # Pieces -------------------------------------------------------------------------------------------

    def _complete(self, X: FloatArray, ids: IntArray | None) -> None:
        if not self._hidden or ids is None:
            return
        self.transition_matrix_ = np.exp(np.asarray(self._chain().log_transition, np.float64))
        self.transition_matrix_ /= self.transition_matrix_.sum(axis=1, keepdims=True)
        with precision_of("float64"):
            self.stationary_distribution_ = np.asarray(_stationary(jnp.asarray(self.transition_matrix_)))
        self.states_ = self._along(X, ids, _path)[0].astype(np.int64)

    def _refuse(self, u: Any) -> None:
        if u is not None:
            raise DataError(
                "prior='hmm' finds the states itself and takes no u; leave u out, or name another prior to use it"
            )

    def _choose_u(self, u: Any, y: Any) -> Any:
        if self._hidden:
            self._refuse(u)
        return super()._choose_u(u, y)

    def _draw_u(self, n_samples: int, seed: int) -> np.ndarray:
        if not self._hidden:
            return super()._draw_u(n_samples, seed)
        rng = named_rng(seed, "states")
        transition = np.cumsum(self.transition_matrix_, axis=1)
        first = np.exp(np.asarray(self._chain().log_initial, np.float64)).cumsum()
        states, chances = np.empty(n_samples, np.int32), rng.random(n_samples)
        row = first / first[-1]
        for t, chance in enumerate(chances):
            states[t] = min(int(np.searchsorted(row, chance, side="right")), len(first) - 1)
            row = transition[states[t]]
        return states

    def _n_hidden_states(self, n_components: int) -> int:
        """One more than twice the sources, which identifiability asks for, if the user names no number."""
        if self.n_states is not None:
            return check_count("n_states", self.n_states, least=2)
        return 2 * n_components + 1

    def _series(self, sequence: Any, n_rows: int) -> IntArray | None:
        ids = check_sequence(sequence, n_rows)
        return np.zeros(n_rows, np.int64) if ids is None and self._hidden else ids

    def _split(
        self, usable: IntArray, fraction: float, codes: IntArray | None, ids: IntArray | None
    ) -> tuple[IntArray, IntArray]:
        """Windows of time in random order, some of which are held out."""
        if not self._hidden or ids is None:
            return super()._split(usable, fraction, codes, ids)
        rng = named_rng(self.seed_, "held out")
        windows = _windows(usable, ids)
        order = rng.permutation(len(windows))
        held_out = min(round(fraction * len(windows)), len(windows) - 1)
        if fraction > 0 and len(windows) > 1:
            held_out = max(held_out, 1)
        parts = [[windows[w] for w in order[held_out:]], [windows[w] for w in order[:held_out]]]
        fit_rows, held_out_rows = (np.concatenate(p) if p else np.zeros(0, np.int64) for p in parts)
        return fit_rows, held_out_rows

    def _problem(self, X: FloatArray, encoded: Any, ids: Any, encoder: Any, dtype: np.dtype) -> Problem:
        problem = super()._problem(X, encoded, ids, encoder, dtype)
        if not self._hidden:
            return problem
        states = self._n_hidden_states(problem.n_components)
        if problem.n_rows < _FEWEST_ROWS * states:
            raise DataError(
                f"{states} hidden states need at least {_FEWEST_ROWS * states} rows to fit, got {problem.n_rows}; "
                "name fewer states by n_states, or give more rows"
            )
        place = _places(ids)
        data = _stretches(problem.data, self.fit_rows_, place, ids)
        held_out = problem.held_out
        if held_out is not None:
            held_out = _stretches(held_out, self.held_out_rows_, place, ids)
        return replace(problem, data=data, held_out=held_out)

    def _adopt(self, system: FlowModel, problem: Problem, X: FloatArray) -> None:
        if self._hidden:
            system = FlowModel(system.demixer, system.family, _most_frequent_first(system.prior))
        super()._adopt(system, problem, X)

    def _chain(self) -> HiddenMarkovPrior:
        check_is_fitted(self)
        prior = self.model_.prior
        if not isinstance(prior, HiddenMarkovPrior):
            raise AttributeError(f"only prior='hmm' has hidden states, this fit has prior={self.prior!r}")
        return prior

    def _in_time(self, X: Any, sequence: Any) -> tuple[FloatArray, IntArray]:
        """New rows, checked, and the series that each belongs to."""
        self._chain()
        X, _ = self._check_rows(X)
        ids = check_sequence(sequence, len(X))
        return X, np.zeros(len(X), np.int64) if ids is None else ids

    def _along(self, X: FloatArray, ids: IntArray, recursion: Any) -> tuple[np.ndarray, np.ndarray]:
        """A recursion over all rows in order of time (N, …), and log|det| of each row (N,)."""
        prior = self._chain()
        order = np.argsort(ids, kind="stable")
        with precision_of(self.precision) as precision:
            model = self.model_
            rows = self._model_input(X).astype(precision)[order]
            emission, log_det = apply_in_blocks(lambda x: _emission(model, x), rows)
            # A power of two, so that series of similar length share compiled code.
            extra = (1 << (len(X) - 1).bit_length()) - len(X)
            first = np.concatenate([[True], np.diff(ids[order]) != 0, np.ones(extra, bool)])
            padded = np.pad(emission, [(0, extra), (0, 0)])
            result = np.asarray(recursion(jnp.asarray(padded), jnp.asarray(first), prior))[: len(X)]
        back = np.argsort(order)
        return result[back], log_det[back]


def _windows(usable: IntArray, ids: IntArray) -> list[IntArray]:
    """Places in ``usable`` of rows that follow each other in one series, cut into windows."""
    order = np.argsort(ids[usable], kind="stable")
    rows = usable[order]
    place = _places(ids)
    breaks = (np.diff(place[rows]) != 1) | (np.diff(ids[rows]) != 0)
    length = int(np.clip(len(usable) // _FEWEST_WINDOWS, 2, WINDOW))
    windows = []
    for stretch in np.split(order, np.flatnonzero(breaks) + 1):
        count = max(1, round(len(stretch) / length))
        windows += np.array_split(stretch, count)
    return windows


def _places(ids: IntArray) -> IntArray:
    """Where each row (N,) stands if series come one after another."""
    place = np.empty(len(ids), np.int64)
    place[np.argsort(ids, kind="stable")] = np.arange(len(ids))
    return place


def _stretches(data: Any, rows: IntArray, place: IntArray, ids: IntArray) -> Any:
    """The data set with a number for each stretch of rows that follow each other."""
    breaks = (np.diff(place[rows]) != 1) | (np.diff(ids[rows]) != 0)
    numbers = np.concatenate([[0], np.cumsum(breaks)]).astype(np.int32)
    numbers = np.pad(numbers, (0, data.n_rows - len(rows)))
    return type(data)(data.x, data.u, jnp.asarray(numbers), data.weight)


def _most_frequent_first(prior: Any) -> HiddenMarkovPrior:
    order = np.argsort(-np.asarray(prior.parameters.log_shares), kind="stable")
    table = Table(prior.parameters.raw[order], prior.parameters.log_shares[order])
    return HiddenMarkovPrior(prior.family, table, prior.log_moves[order][:, order])


_stationary = compiled(stationary_distribution)


@compiled
def _emission(model: FlowModel, x: Array) -> tuple[Array, Array]:
    z, log_det = model.latents(x)
    return model.prior.log_emission(z), log_det  # type: ignore[union-attr]


@compiled
def _log_densities(emission: Array, first: Array, prior: HiddenMarkovPrior) -> Array:
    return log_densities(emission[:, None], first[:, None], prior.log_initial, prior.log_transition)[:, 0]


@compiled
def _path(emission: Array, first: Array, prior: HiddenMarkovPrior) -> Array:
    return most_probable_path(emission[:, None], first[:, None], prior.log_initial, prior.log_transition)[
        :, 0
    ]


@compiled
def _probabilities(emission: Array, first: Array, prior: HiddenMarkovPrior) -> Array:
    found = posterior(emission[:, None], first[:, None], prior.log_initial, prior.log_transition)
    return found.probabilities[:, 0]
