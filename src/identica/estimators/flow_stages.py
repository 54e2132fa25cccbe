"""Recipe of `FlowICA`: restarts of a shallow network, grown layer by layer, refined, then polished."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from identica.compilation import compiled
from identica.conditionals import ModulatedPrior, NetworkMap
from identica.data import Dataset
from identica.families import Family, PowerLocationScale, ShapedLocationScale
from identica.models.flow import FlowModel
from identica.networks.coupling import CouplingStack, RefinedNetwork, coupling_parameters
from identica.networks.invertible import InvertibleNetwork
from identica.objectives.exact_likelihood import (
    ExactLikelihood,
    HeldOutLikelihood,
    HeldOutProfile,
    ProfileLikelihood,
)
from identica.training import LBFGS, Adam, Stage
from identica.training.compiled import evaluate_population
from identica.training.loop import MONITOR_ROWS
from identica.training.population import stack
from identica.training.stage import Evaluate, Objective, Prepare, unchanged
from identica.typing import Array, Key

_SHAPE_PRICE = 5e-3
"""Held-out nats per row and component that a shape beside the power has to gain."""

GROWTH_ROWS = 2048
"""Rows on which a new layer's linear map is fitted."""

BATCH_SIZE = 2000
ROWS_PER_SEGMENT = 50
"""Rows per step, and how many of them a segment has that occurs in the step."""

POLISHED_ROWS, _POLISHED_VALUES = 2**16, 2**21
"""Most rows of the polish, whose every iteration runs over all of them, and most values."""

GROWTH = Adam(rate=4e-2, b2=0.99, clip=50.0)
"""Where few restarts find the optimum, half this rate found it in one of twenty, this one in one of three."""

FIRST_DEPTH = 3
"""Linear maps of the first networks. From two, later layers rarely undid what the first had settled on; from full depth
on, most restarts stay in poor optima."""

_SHARES = {1: 4, 2: 4, 3: 5}
_LATER_SHARE = 8
"""Steps of the stage of each depth, in proportion: deeper networks need longer."""

_POLISH = 0.06
"""Iterations of the polish per step of growth."""

_FEWEST_COUPLINGS, _MOST_COUPLINGS, _UNITS = 6, 12, 16
"""Couplings of a refinement, as many as rows allow; deeper helps where wider overfits."""

_REFINEMENT, _PATIENCE = 3.0, 10
"""Steps of refinement per step of growth, and chunks without gain after which it ends."""

_WORTHWHILE = 2e-3
"""Gain in held-out nats per value for which couplings are kept."""


@dataclass(frozen=True)
class FlowPlan:
    """What the stages of a flow depend on.

    Attributes
    ----------
    n_layers : int
        Linear maps of the final network.
    n_components : int
        Number n of sources.
    family : Family
        Of the sources given u.
    n_segments : int
        Number M of segments; 0 for a continuous u, whose prior is a network.
    max_iter : int
        Steps of growth, over all stages.
    restarts : int
        Networks trained side by side.
    held_out : Dataset or None
        Rows that decide whether couplings are kept; None decides on the fitted ones.
    couplings : int
        How many are tried on the winner; 0 tries none.
    batch_size : int
        Rows per step.
    learns_shape : bool
        Whether half of the restarts of the last depth learn the shape of the sources' density beside its power.
    first_depth : int or None
        Layers of the first networks; None takes three, or fewer so that a layer is left to grow, and ``n_layers``
        trains the full depth from the start.
    """

    n_layers: int
    n_components: int
    family: Family
    n_segments: int
    max_iter: int
    restarts: int
    held_out: Dataset | None = None
    couplings: int = 0
    batch_size: int = BATCH_SIZE
    learns_shape: bool = False
    first_depth: int | None = None

    def stages(self) -> list[Stage]:
        """Growth, and what follows on the best network."""
        return [*self.growth(), *self.finish()]

    def growth(self) -> list[Stage]:
        """From the first depth to the last, in several restarts."""
        objective, evaluate = self._likelihood()
        depths, half = self.depths(), -(-self.restarts // 2)
        stages = []
        for depth, steps in zip(depths, steps_by_depth(depths, self.max_iter), strict=True):
            last = depth == self.n_layers
            # Pruning earlier hurts: held-out likelihood of shallow networks does not rank restarts.
            keep = 1 if last else self.restarts if depth < self.n_layers - 1 else half
            stages.append(
                Stage(
                    name=layers(depth),
                    prepare=self._create if depth == depths[0] else straighten if last else grow,
                    objective=objective,
                    evaluate=evaluate,
                    solver=GROWTH,
                    steps=steps,
                    restarts=self.restarts,
                    keep=keep,
                    batch_size=self.batch_size,
                    sources=_sources if last else None,
                    cost=depth,
                )
            )
        if self.learns_shape and len(stages) > 1 and isinstance(evaluate, HeldOutProfile):
            # Every network that was kept goes on without a shape and, in the second half of the restarts, with one.
            both = (*(straighten_with(False),) * half, straighten_with(True))
            priced = replace(evaluate, shape_price=_SHAPE_PRICE)
            stages[-1] = replace(stages[-1], prepare=both, evaluate=priced)
        return stages

    def finish(self, grown: FlowModel | None = None) -> list[Stage]:
        """Couplings on the best network where they help, then the polish; ``grown`` is it if it was grown elsewhere."""
        objective, evaluate = self._likelihood()
        begin: Prepare = unchanged if grown is None else lambda *_: grown
        polish = max(1, round(self.max_iter * _POLISH))
        rows = min(POLISHED_ROWS, _POLISHED_VALUES // self.n_components)
        last = Stage("polish", begin, objective, evaluate, LBFGS(), polish, batch_size=rows, chunk=50)
        if not self.couplings:
            return [last]
        refinement = Stage(
            "refinement",
            lambda system, data, key: self._refine(begin(system, data, key), data, key),
            objective,
            evaluate,
            Adam(rate=1e-2, b2=0.99, clip=5.0),
            max(1, round(self.max_iter * _REFINEMENT)),
            batch_size=self.batch_size,
            patience=_PATIENCE,
        )
        return [refinement, replace(last, prepare=self._decided(evaluate))]

    def depths(self) -> list[int]:
        """Layers of the networks of each stage of growth."""
        first = self.first_depth
        if first is None:
            first = min(FIRST_DEPTH, max(2, self.n_layers - 1))
        return list(range(min(first, self.n_layers), self.n_layers + 1))

    def _likelihood(self) -> tuple[Objective, Evaluate]:
        if self.n_segments:
            return ProfileLikelihood(self.n_segments), HeldOutProfile(self.n_segments)
        return ExactLikelihood(), HeldOutLikelihood()

    def _decided(self, evaluate: Evaluate) -> Prepare:
        """``prepare`` that drops the couplings unless held-out rows gain from them.

        Where there are no such rows, each parameter has to earn its own nat.
        """

        def decide(system: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
            system = unchanged(system, data, key)
            both = [_with_demixer(system, system.demixer.using(used)) for used in (True, False)]  # type: ignore[union-attr]
            arrays, static = stack(both)
            rows = data.head(MONITOR_ROWS)
            held_out = rows if self.held_out is None else self.held_out.head(MONITOR_ROWS)
            with_couplings, without = evaluate_population(arrays, rows, held_out, key, static, evaluate)
            price = _WORTHWHILE * self.n_components
            if self.held_out is None:
                price += coupling_parameters(self.n_components, self.couplings, _UNITS) / data.n_rows
            return both[0] if with_couplings + price < without else both[1]

        return decide

    def _refine(self, system: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
        """``prepare`` of couplings that change hardly anything."""
        if system is None:
            raise ValueError("there is nothing to refine before the first stage")
        network = system.network
        if system.prior is None:  # otherwise the prior sets the scale
            network = standardised(network, data.head(GROWTH_ROWS).x)
        couplings = CouplingStack.random(self.n_components, self.couplings, _UNITS, key=key)
        return _with_demixer(system, RefinedNetwork(network, couplings))

    @property
    def _create(self) -> Callable[[FlowModel | None, Dataset, Key], FlowModel]:
        def create(system: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
            examples = None if self.n_segments else data.u[:GROWTH_ROWS]
            return _random_flow(
                self.n_components, self.depths()[0], self.n_layers, self.family, examples, key
            )

        return create


def _sources(system: FlowModel, rows: Dataset) -> Array:
    return system.sources(rows.x)


def layers(depth: int) -> str:
    """Name of the stage of a depth."""
    return f"{depth} layer{'s' if depth > 1 else ''}"


def steps_by_depth(depths: list[int], total: int) -> list[int]:
    """Steps of each stage of growth."""
    shares = [_SHARES.get(depth, _LATER_SHARE) for depth in depths]
    return [max(1, round(total * share / sum(shares))) for share in shares]


def _random_flow(
    n: int, depth: int, most_layers: int, family: Family, examples: Array | None, key: Key
) -> FlowModel:
    network_key, prior_key = jax.random.split(key)
    network = InvertibleNetwork.random(n, depth, key=network_key, most_layers=most_layers)
    prior = None
    if examples is not None:
        # Outside compiled code: weights of networks of u may be drawn on the host.
        network_map = NetworkMap.random(examples, n, family.number_of_statistics, key=prior_key)
        prior = ModulatedPrior(family, network_map)
    return FlowModel(network, family, prior)


def grow(system: FlowModel | None, data: Dataset, key: Key, *, turned: bool = True) -> FlowModel:
    """``prepare`` of one more layer that changes hardly anything."""
    if system is None:
        raise ValueError("there is nothing to grow before the first stage")
    rows = data.head(GROWTH_ROWS).x
    return _with_demixer(system, system.network.grown(rows.T, key=key, turned=turned))


def straighten(system: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
    """``prepare`` of a layer that bends every source by itself.

    Sources that are unmixed but bent are a plateau for layers that begin by mixing them: 50 sources stayed at
    .91 (Spearman .999) in ever longer training, and reached .9998 in less with this layer.
    """
    return grow(system, data, key, turned=False)


def straighten_with(in_use: bool) -> Prepare:
    """`straighten`, with sources of any shape from here on, or with room for one that is not used.

    Skewed sources were found and bent until they looked symmetric (.89; with a shape .986). Where u changes scales
    alone a free shape and a bend could take each other's place, so it has to earn its place on held-out rows.
    """

    def prepare(system: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
        system = straighten(system, data, key)
        if not isinstance(system.family, PowerLocationScale):
            raise TypeError(f"a shape is learned beside a power, not beside {type(system.family).__name__}")
        return FlowModel(system.demixer, ShapedLocationScale.beginning(system.family, in_use=in_use))

    return prepare


def settled(system: FlowModel) -> FlowModel:
    """The same model without room for a shape that is not used."""
    family = system.family
    if isinstance(family, ShapedLocationScale) and not float(family.in_use):
        return FlowModel(system.demixer, family.power, system.prior)
    return system


@compiled
def standardised(network: InvertibleNetwork, x: Array) -> InvertibleNetwork:
    """The network whose outputs on rows x (B, n) have mean 0 and variance 1."""
    z, _ = network(x.T)
    sd = z.std(1)
    return network.followed_by(jnp.diag(1 / sd), -z.mean(1) / sd)


def _with_demixer(system: FlowModel, demixer: InvertibleNetwork | RefinedNetwork) -> FlowModel:
    return FlowModel(demixer, system.family, system.prior)


def affordable_refinement(n_components: int, n_rows: int) -> int:
    """Couplings whose parameters are at most a quarter of the number of values; 0 if these are too few."""
    if n_components < 2:
        return 0
    for count in range(_MOST_COUPLINGS, _FEWEST_COUPLINGS - 1, -1):
        if 4 * coupling_parameters(n_components, count, _UNITS) <= n_rows * n_components:
            return count
    return 0


def affordable_layers(n_components: int, n_rows: int) -> int:
    """Most layers whose parameters are at most a quarter of the number of values, at least one."""
    per_layer = n_components * (n_components + 1) + 16 * n_components
    spare = n_rows * n_components / 4 - n_components * (n_components + 1)
    return 1 + max(0, int(spare // per_layer))
