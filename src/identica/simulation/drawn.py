"""What a scenario draws that is more than segments of independent rows behind one map."""

from dataclasses import dataclass

import numpy as np

from identica.simulation.mixings import Mixing
from identica.simulation.sources import CurveLaw, SegmentLaw
from identica.typing import FloatArray


@dataclass(frozen=True)
class Drawn:
    """Sources with their u, and what they are observed through.

    Attributes
    ----------
    S : array (N, n)
        Sources.
    u : array (N,) of int or float
        Segment, state or window of each row, or a continuous u.
    mixing : callable
        Map from S to noiseless observations.
    law : SegmentLaw, CurveLaw or None
        Law of the rows of S given u; None where rows depend on each other beyond u.
    counts : bool
        Observations are Poisson counts with rates ``mixing(S)``.
    """

    S: FloatArray
    u: np.ndarray
    mixing: Mixing
    law: SegmentLaw | CurveLaw | None
    counts: bool = False
