"""Recipe of `FlowICA`: restarts of a shallow network, grown layer by layer, then polished."""

from collections.abc import Callable
from dataclasses import dataclass

import equinox as eqx
import jax

from identica.conditionals import ModulatedPrior, NetworkMap
from identica.data import Dataset
from identica.families import ExponentialFamily
from identica.models.flow import FlowModel
from identica.networks.invertible import InvertibleNetwork
from identica.objectives.exact_likelihood import (
    ExactLikelihood,
    HeldOutLikelihood,
    HeldOutProfile,
    ProfileLikelihood,
)
from identica.training import LBFGS, Adam, Stage
from identica.typing import Array, Key

GROWTH_ROWS = 2048
"""Rows on which a new layer's linear map is fitted."""

_FIRST_DEPTH = 2

_SHARES = {1: 4, 2: 4, 3: 5}
_LATER_SHARE = 8
"""Steps of the stage of each depth, in proportion: deeper networks need longer."""

_POLISH = 0.06
"""Iterations of the polish per step of growth."""


@dataclass(frozen=True)
class FlowPlan:
    """What the stages of a flow depend on.

    Attributes
    ----------
    n_layers : int
        Linear maps of the final network.
    n_components : int
        Number n of sources.
    family : ExponentialFamily
        Of the sources given u.
    n_segments : int
        Number M of segments; 0 for a continuous u, whose prior is a network.
    max_iter : int
        Steps of growth, over all stages.
    restarts : int
        Networks trained side by side.
    batch_size : int
        Rows per step.
    """

    n_layers: int
    n_components: int
    family: ExponentialFamily
    n_segments: int
    max_iter: int
    restarts: int
    batch_size: int = 2000

    def stages(self) -> list[Stage]:
        """Growth from two layers (one if the final network is linear) to the last, then the polish."""
        if self.n_segments:
            objective, evaluate = ProfileLikelihood(self.n_segments), HeldOutProfile(self.n_segments)
        else:
            objective, evaluate = ExactLikelihood(), HeldOutLikelihood()
        depths = list(range(min(_FIRST_DEPTH, self.n_layers), self.n_layers + 1))
        shares = [_SHARES.get(depth, _LATER_SHARE) for depth in depths]
        stages = []
        for depth, share in zip(depths, shares, strict=True):
            last = depth == self.n_layers
            # Pruning earlier hurts: held-out likelihood of shallow networks does not rank restarts.
            keep = 1 if last else self.restarts if depth < self.n_layers - 1 else -(-self.restarts // 2)
            stages.append(
                Stage(
                    name=f"{depth} layer{'s' if depth > 1 else ''}",
                    prepare=self._create if depth == depths[0] else _grow,
                    objective=objective,
                    evaluate=evaluate,
                    solver=Adam(rate=2e-2, b2=0.99, clip=5.0),
                    steps=max(1, round(self.max_iter * share / sum(shares))),
                    restarts=self.restarts,
                    keep=keep,
                    batch_size=self.batch_size,
                )
            )
        polish = max(1, round(self.max_iter * _POLISH))
        stages.append(Stage("polish", _unchanged, objective, evaluate, LBFGS(), polish, chunk=50))
        return stages

    @property
    def _create(self) -> Callable[[FlowModel | None, Dataset, Key], FlowModel]:
        def create(system: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
            examples = None if self.n_segments else data.u[:GROWTH_ROWS]
            return _random_flow(self.n_components, self.n_layers, self.family, examples, key)

        return create


def _random_flow(
    n: int, most_layers: int, family: ExponentialFamily, examples: Array | None, key: Key
) -> FlowModel:
    network_key, prior_key = jax.random.split(key)
    network = _random_network(n, min(_FIRST_DEPTH, most_layers), most_layers, network_key)
    prior = None
    if examples is not None:
        # Outside compiled code: weights of networks of u may be drawn on the host.
        network_map = NetworkMap.random(examples, n, family.number_of_statistics, key=prior_key)
        prior = ModulatedPrior(family, network_map)
    return FlowModel(network, family, prior)


@eqx.filter_jit
def _random_network(n: int, n_layers: int, most_layers: int, key: Key) -> InvertibleNetwork:
    return InvertibleNetwork.random(n, n_layers, key=key, most_layers=most_layers)


def _grow(system: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
    if system is None:
        raise ValueError("there is nothing to grow before the first stage")
    system.demixer.check_room()
    return _grown_flow(system, data.head(GROWTH_ROWS).x, key)


@eqx.filter_jit
def _grown_flow(system: FlowModel, x: Array, key: Key) -> FlowModel:
    return FlowModel(system.demixer.grown(x.T, key=key), system.family, system.prior)


def _unchanged(system: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
    if system is None:
        raise ValueError("there is nothing to polish before the first stage")
    return system


def affordable_layers(n_components: int, n_rows: int) -> int:
    """Most layers whose parameters are at most a quarter of the number of values, at least one."""
    per_layer = n_components * (n_components + 1) + 16 * n_components
    spare = n_rows * n_components / 4 - n_components * (n_components + 1)
    return 1 + max(0, int(spare // per_layer))
