"""Recipe of `FlowICA` with `volume="preserving"`: general incompressible flow, restarts, then a polish."""

from dataclasses import dataclass

import jax

from identica.conditionals import ModulatedPrior, NetworkMap
from identica.data import Dataset
from identica.estimators.flow_stages import BATCH_SIZE, GROWTH_ROWS, POLISHED_ROWS
from identica.families import Family
from identica.models.flow import FlowModel
from identica.networks.invertible import InvertibleNetwork
from identica.networks.spline_flow import SplineFlow
from identica.networks.volume_preserving import VolumePreservingNetwork, volume_preserving_parameters
from identica.objectives.exact_likelihood import (
    ExactLikelihood,
    HeldOutLikelihood,
    HeldOutProfile,
    ProfileLikelihood,
)
from identica.training import LBFGS, Adam, Stage
from identica.training.stage import unchanged
from identica.typing import Key

_COUPLINGS, _UNITS = 8, (32, 16, 8)
_FEWEST_COUPLINGS = 4
"""Couplings of a default network, the sizes of their networks that are tried, and the fewest of each size."""

_SEARCH, _SURVIVORS = 0.3, 4
"""Share of steps that all restarts take, and how many restarts there are for each that goes on."""

_POLISH = 0.06
"""Iterations of the polish per step."""


@dataclass(frozen=True)
class VolumePlan:
    """What the stages of a volume-preserving flow depend on.

    Attributes
    ----------
    couplings, units : int
        Number of couplings, and units of each of the two layers of their networks; no coupling is a
        linear map.
    n_directions : int
        Number d of latents, noise included.
    family : Family
        Of the latents given u.
    n_segments : int
        Number M of segments; 0 for a continuous u, whose prior is a network.
    max_iter : int
        Steps of the search and of the descent after it.
    restarts : int
        Networks of the search; a quarter of them go on.
    """

    couplings: int
    units: int
    n_directions: int
    family: Family
    n_segments: int
    max_iter: int
    restarts: int

    def stages(self) -> list[Stage]:
        """All restarts for a while, the best quarter of them to the end, the best one polished."""
        if self.n_segments:
            objective, evaluate = ProfileLikelihood(self.n_segments), HeldOutProfile(self.n_segments)
        else:
            objective, evaluate = ExactLikelihood(), HeldOutLikelihood()
        survivors = -(-self.restarts // _SURVIVORS)
        search = max(1, round(_SEARCH * self.max_iter))
        adam = Adam(rate=1e-2, b2=0.99, clip=5.0)
        polish = max(1, round(_POLISH * self.max_iter))
        return [
            Stage(
                "search", self._create, objective, evaluate, adam, search,
                restarts=self.restarts, keep=survivors, batch_size=BATCH_SIZE,
            ),
            Stage(
                "descent", unchanged, objective, evaluate, adam, max(1, self.max_iter - search),
                restarts=survivors, batch_size=BATCH_SIZE,
            ),
            Stage(
                "polish", unchanged, objective, evaluate, LBFGS(), polish, batch_size=POLISHED_ROWS, chunk=50
            ),
        ]  # fmt: skip

    def _create(self, system: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
        network_key, prior_key = jax.random.split(key)
        d = self.n_directions
        network = self._network(network_key) if self.couplings and d > 1 else None
        if network is None:
            network = InvertibleNetwork.random(d, 1, key=network_key)
        prior = None
        if not self.n_segments:
            examples = data.u[:GROWTH_ROWS]
            parameters = NetworkMap.random(examples, d, self.family.number_of_statistics, key=prior_key)
            prior = ModulatedPrior(self.family, parameters)
        return FlowModel(network, self.family, prior)

    def _network(self, key: Key) -> VolumePreservingNetwork | SplineFlow:
        return VolumePreservingNetwork.random(self.n_directions, self.couplings, self.units, key=key)


def affordable_couplings(n_directions: int, n_rows: int) -> tuple[int, int]:
    """Couplings and units whose parameters are at most a quarter of the number of values; (0, 0) if none."""
    most = n_rows * n_directions // 4
    for units in _UNITS:
        for count in range(_COUPLINGS, _FEWEST_COUPLINGS - 1, -1):
            if volume_preserving_parameters(n_directions, count, units) <= most:
                return count, units
    return 0, 0
