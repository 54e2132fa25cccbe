"""Recipe of `FlowICA` with splines: the stages of couplings, with a network of flowjax in their place."""

from dataclasses import dataclass
from typing import Literal

from identica.estimators.volume_stages import VolumePlan
from identica.networks.spline_flow import SplineFlow, spline_parameters
from identica.typing import Key

KINDS: dict[str, Literal["coupling", "autoregressive"]] = {
    "coupling-splines": "coupling",
    "autoregressive-splines": "autoregressive",
}

_LAYERS, _UNITS = 6, (32, 16, 8)
_FEWEST_LAYERS = 2


@dataclass(frozen=True)
class SplinePlan(VolumePlan):
    """What the stages of a flow of splines depend on; ``couplings`` are its layers.

    Attributes
    ----------
    kind : {"coupling", "autoregressive"}
    """

    kind: Literal["coupling", "autoregressive"] = "coupling"

    def _network(self, key: Key) -> SplineFlow:
        return SplineFlow.random(self.kind, self.n_directions, self.couplings, self.units, key=key)


def affordable_splines(kind: Literal["coupling", "autoregressive"], n: int, n_rows: int) -> tuple[int, int]:
    """Layers and units whose parameters are at most a quarter of the number of values; (0, 0) if none."""
    for units in _UNITS:
        for layers in range(_LAYERS, _FEWEST_LAYERS - 1, -1):
            if 4 * spline_parameters(kind, n, layers, units) <= n_rows * n:
                return layers, units
    return 0, 0
