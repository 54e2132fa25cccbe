"""Stages of `FlowICA(prior="hmm")`: states of plain Gaussians, networks that grow on states, the exact likelihood."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans

from identica.compilation import compiled
from identica.conditionals.hidden_markov import GaussianStates
from identica.data import Dataset
from identica.estimators.flow_stages import GROWTH_ROWS, FlowPlan, standardised
from identica.models.flow import FlowModel
from identica.objectives.hidden_markov import (
    HeldOutHiddenMarkov,
    HeldOutStates,
    HiddenMarkovLikelihood,
    Pieces,
    StatesLikelihood,
    StatesUpdate,
    posterior_of,
    with_states,
)
from identica.training import EM, Adam, Stage
from identica.training.loop import MONITOR_ROWS
from identica.training.stage import Evaluate, Objective
from identica.typing import Array, Key

_STATE_STEPS, _STATE_GAIN = 150, 1e-4
"""Most steps of EM that find the first states, and the gain of ten, nats per row, for which they go on."""

_WINDOWS = (25, 10, 50)
"""Rows of the windows whose clusters are the first states, drawn at random."""

_STATE_STARTS = 3
"""Starts of states for each restart of a network. EM takes a second or two, and behind four layers one in six ended in
the best optimum; where states are merged or split, no network finds the sources.
"""

_OWN_SHARE, _OWN_STEPS, _OWN_SOLVER = 0.4, 10, Adam(rate=1e-2, b2=0.99, clip=50.0)
"""Steps of the exact likelihood per step of growth, and steps of EM of the sources' own prior before."""


@dataclass(frozen=True)
class HiddenMarkovPlan(FlowPlan):
    """What the stages of a flow with hidden states depend on; ``n_segments`` is the number K of states."""

    def states(self) -> list[Stage]:
        """States of x by EM."""
        return [
            Stage(
                "states", _Clusters(self.n_segments), StatesLikelihood(), HeldOutStates(),
                EM(StatesUpdate(MONITOR_ROWS)), _STATE_STEPS, _STATE_STARTS * self.restarts, 1,
                chunk=10, patience=2, tolerance=_STATE_GAIN,
            )
        ]  # fmt: skip

    def told(self) -> FlowPlan:
        """The plan of a flow that grows on states as if they were known."""
        return FlowPlan(
            self.n_layers, self.n_components, self.family, self.n_segments, self.max_iter, self.restarts,
            batch_size=self.batch_size, first_depth=self.first_depth,
        )  # fmt: skip

    def own(self, flow: FlowModel, codes: Array) -> list[Stage]:
        """The exact likelihood of that flow, with states of its own, which begin as ``codes`` (N,)."""

        def begin(_: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
            part = data.head(MONITOR_ROWS)
            return _own(flow, part, codes[: part.n_rows], self.n_segments)

        steps = max(1, round(_OWN_SHARE * self.max_iter))
        return [
            Stage("own states", begin, *self._likelihood(), _OWN_SOLVER, steps, batch_size=self.batch_size)
        ]

    def _likelihood(self) -> tuple[Objective, Evaluate]:
        return HiddenMarkovLikelihood(), HeldOutHiddenMarkov()


@compiled
def _own(flow: FlowModel, data: Dataset, codes: Array, n_states: int) -> FlowModel:
    # The prior sets the scale from here on.
    network = standardised(flow.network, data.head(GROWTH_ROWS).x)
    return with_states(FlowModel(network, flow.family), data, codes, n_states, _OWN_STEPS)


@dataclass(frozen=True)
class _Clusters:
    """``prepare`` of Gaussian states from clusters of short windows, by their means and covariances."""

    n_states: int

    def __call__(self, system: object, data: Dataset, key: Key) -> GaussianStates:
        data = data.head(MONITOR_ROWS)
        seed, choice = (int(v) for v in np.asarray(jax.random.randint(key, (2,), 0, 2**31 - 1)))
        codes = _window_clusters(data, self.n_states, _WINDOWS[choice % len(_WINDOWS)], seed)
        return _states_of(data, jnp.asarray(codes), self.n_states)


def _window_clusters(data: Dataset, n_states: int, window: int, seed: int) -> np.ndarray:
    """Cluster (N,) of the window that each row lies in; windows are shorter where rows are few."""
    x = np.asarray(data.x, np.float64)
    weight = np.ones(len(x)) if data.weight is None else np.asarray(data.weight, np.float64)
    window = int(max(1, min(window, weight.sum() // (2 * n_states))))
    starts = np.arange(0, len(x), window)
    counts = np.maximum(np.add.reduceat(weight, starts), 1.0)[:, None]
    mean = np.add.reduceat(x * weight[:, None], starts) / counts
    upper = np.triu_indices(x.shape[1])
    deviation = x - np.repeat(mean, window, axis=0)[: len(x)]
    products = (deviation[:, upper[0]] * deviation[:, upper[1]]) * weight[:, None]
    covariance = np.add.reduceat(products, starts) / counts
    # Square roots: variances of windows span orders of magnitude.
    spread = np.sign(covariance) * np.sqrt(np.abs(covariance))
    features = np.concatenate([mean, spread], axis=1)
    clustering = KMeans(min(n_states, len(features)), init="k-means++", n_init="auto", random_state=seed)
    codes = clustering.fit_predict(features)
    return np.repeat(codes, window)[: len(x)]


@compiled
def _states_of(data: Dataset, codes: Array, n_states: int) -> GaussianStates:
    cut = Pieces(data)
    return GaussianStates.from_posterior(cut.of(data.x), posterior_of(codes, n_states, cut))
