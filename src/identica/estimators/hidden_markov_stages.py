"""Recipe of `FlowICA(prior="hmm")`: states of plain Gaussians first, then networks that grow on them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans

from identica.compilation import compiled
from identica.conditionals.hidden_markov import GaussianStates
from identica.data import Dataset
from identica.estimators.flow_stages import (
    GROWTH,
    GROWTH_ROWS,
    FlowPlan,
    grow,
    layers,
    standardised,
    steps_by_depth,
    straighten,
)
from identica.models.flow import FlowModel
from identica.models.hidden_markov import TaughtFlow
from identica.objectives.hidden_markov import (
    HeldOutHiddenMarkov,
    HeldOutStates,
    HeldOutTaught,
    HiddenMarkovLikelihood,
    Pieces,
    StatesLikelihood,
    StatesUpdate,
    TaughtProfile,
    with_own_states,
)
from identica.series.hidden_markov import Posterior
from identica.training import EM, Stage
from identica.training.loop import MONITOR_ROWS
from identica.training.stage import Evaluate, Objective, Prepare
from identica.typing import Array, Key

_STATE_STEPS, _STATE_GAIN = 150, 1e-4
"""Most steps of EM that find the first states, and the gain of ten, nats per row, for which they go on."""

_WINDOWS = (25, 10)
"""Rows of the windows whose clusters are the first states, by turns over restarts."""

_OWN_STEPS = 10
"""Steps of EM of the sources' own prior before the network moves again."""


@dataclass(frozen=True)
class HiddenMarkovPlan(FlowPlan):
    """What the stages of a flow with hidden states depend on; ``n_segments`` is the number K of states.

    All depths but the last are trained on the states that Gaussians of x tell; the last one maximises the exact
    likelihood, states included.
    """

    def growth(self) -> list[Stage]:
        """States of x by EM; growth on them; the exact likelihood at the last depth."""
        states = Stage(
            "states", _Clusters(self.n_segments), StatesLikelihood(), HeldOutStates(),
            EM(StatesUpdate(MONITOR_ROWS)), _STATE_STEPS, self.restarts, max(1, self.restarts // 4),
            chunk=10, patience=2, tolerance=_STATE_GAIN,
        )  # fmt: skip
        depths = self.depths()
        taught = depths[:-1] or depths
        *steps, last_steps = steps_by_depth([*taught, depths[-1]], self.max_iter)
        stages = [states]
        for place, depth in enumerate(taught):
            stages.append(
                Stage(
                    name=layers(depth),
                    prepare=_grow_taught if place else self._begin,
                    objective=TaughtProfile(),
                    evaluate=HeldOutTaught(),
                    solver=GROWTH,
                    steps=steps[place],
                    restarts=self.restarts,
                    keep=-(-self.restarts // 2) if place == len(taught) - 1 else self.restarts,
                    batch_size=self.batch_size,
                )
            )
        own = Stage(
            f"{layers(depths[-1])}, own states", _leave_teacher(len(depths) > 1), *self._likelihood(), GROWTH,
            last_steps, self.restarts, 1, self.batch_size,
        )  # fmt: skip
        return [*stages, own]

    def _likelihood(self) -> tuple[Objective, Evaluate]:
        return HiddenMarkovLikelihood(), HeldOutHiddenMarkov()

    def _begin(self, system: GaussianStates | None, data: Dataset, key: Key) -> TaughtFlow:
        """A random network taught by the states found."""
        if system is None:
            raise ValueError("a network needs states to be taught by")
        return TaughtFlow(self._create(None, data, key), system)


def _grow_taught(system: TaughtFlow | None, data: Dataset, key: Key) -> TaughtFlow:
    if system is None:
        raise ValueError("there is nothing to grow before the first stage")
    return TaughtFlow(grow(system.flow, data, key), system.teacher)


def _leave_teacher(grows: bool) -> Prepare:
    """``prepare`` of a network with states of its own, and with a last layer if it ``grows``."""

    def leave(system: TaughtFlow | None, data: Dataset, key: Key) -> FlowModel:
        if system is None:
            raise ValueError("there is nothing to grow before the first stage")
        flow = straighten(system.flow, data, key) if grows else system.flow
        return _own(TaughtFlow(flow, system.teacher), data.head(MONITOR_ROWS))

    return leave


@compiled
def _own(system: TaughtFlow, data: Dataset) -> FlowModel:
    flow = system.flow
    # The prior sets the scale from here on.
    network = standardised(flow.network, data.head(GROWTH_ROWS).x)
    flow = FlowModel(network, flow.family, flow.prior)
    return with_own_states(TaughtFlow(flow, system.teacher), data, _OWN_STEPS)


@dataclass(frozen=True)
class _Clusters:
    """``prepare`` of Gaussian states from clusters of short windows, by their means and covariances."""

    n_states: int

    def __call__(self, system: object, data: Dataset, key: Key) -> GaussianStates:
        data = data.head(MONITOR_ROWS)
        seed, choice = (int(v) for v in np.asarray(jax.random.randint(key, (2,), 0, 2**31 - 1)))
        codes = _window_clusters(data, self.n_states, _WINDOWS[choice % 2], seed)
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
    probabilities = jax.nn.one_hot(cut.of(codes), n_states, dtype=data.x.dtype) * cut.weight[..., None]
    inside = jnp.where(cut.first[1:, :, None], 0.0, probabilities[1:])
    moves = jnp.einsum("lbi,lbj->ij", probabilities[:-1], inside)
    starts = jnp.where(cut.first[..., None], probabilities, 0.0).sum((0, 1)) + probabilities[0].sum(0)
    found = Posterior(cut.weight, probabilities, starts, moves)
    return GaussianStates.from_posterior(cut.of(data.x), found)
