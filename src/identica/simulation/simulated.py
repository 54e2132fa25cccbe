"""A simulated data set with its truth, and what can be attained on it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from identica.errors import DataError
from identica.simulation import oracle
from identica.simulation.mixings import Mixing
from identica.simulation.sources import CurveLaw, SegmentLaw
from identica.simulation.splitting import hold_out_rows
from identica.typing import FloatArray, IntArray


@dataclass(frozen=True)
class Simulation:
    """A data set with its truth.

    Attributes
    ----------
    X : array (N, d)
        Observations, ``mixing(S)`` plus noise.
    u : array (N,) of int
        Segment label of each row, in order of the segments or of time; a continuous u is float.
    S : array (N, n)
        True sources.
    name, seed, options
        What `simulate` was called with, defaults included.
    noise_std : array (d,)
        Standard deviation of the Gaussian noise of each channel; zeros where there is none.
    mixing : callable
        Map from sources (..., n) to noiseless observations (..., d); of the scenario gcl, from the whole series.
    law : SegmentLaw, CurveLaw or None
        Law of the sources given u, with ``means`` and ``scales`` (M, n); None where rows depend on each other.
    counts : bool
        Whether X are Poisson counts with rates ``mixing(S)``.
    """

    X: FloatArray
    u: np.ndarray
    S: FloatArray
    name: str
    seed: int
    options: dict[str, Any]
    noise_std: FloatArray
    mixing: Mixing
    law: SegmentLaw | CurveLaw | None
    counts: bool = False

    def best_linear(self, fit_rows: Any = None) -> float:
        """Mean correlation of the sources with their least-squares prediction from X: a linear ceiling."""
        return oracle.best_linear(self.X, self.S, fit_rows=fit_rows)

    def u_only(self, fit_rows: Any = None) -> float:
        """Mean correlation of the sources with E[z | u]: what is known without looking at X."""
        if isinstance(self.law, CurveLaw):
            means = self.law.mean(self.u)
            pairs = zip(self.S.T, means.T, strict=True)
            return float(np.mean([np.corrcoef(z, mean)[0, 1] for z, mean in pairs]))
        return oracle.u_only(self.S, self.u, fit_rows=fit_rows)

    def ceiling(self, n_rows: int = 400, seed: int = 0) -> oracle.Ceiling:
        """Bayes-oracle MCC: the most that any estimator can reach on these data; exactly 1 without noise.

        ``n_rows`` random rows are used; the cost grows in proportion. See `oracle.Ceiling` for the fields.

        Raises
        ------
        DataError
            X are counts, for which it is not worked out.
        """
        if self.counts:
            raise DataError(
                f"the ceiling is worked out for Gaussian noise only, and {self.name} makes counts"
            )
        if not isinstance(self.law, SegmentLaw):
            # Scenarios without such a law have no noise: the sources are a function of x.
            return oracle.Ceiling(1.0, 1.0, 0.0, np.inf, 1.0)
        return oracle.ceiling(
            self.law, self.mixing, self.noise_std, self.X, self.u, self.S, n_rows=n_rows, seed=seed
        )

    def split(self, held_out: float = 0.2, seed: int = 0) -> tuple[IntArray, IntArray]:
        """Row numbers to fit on and to hold out, the same share of every segment, each sorted.

        Raises
        ------
        DataError
            ``held_out`` outside (0, 1), or segments too short to leave a row on both sides.
        """
        labels = self.u if self.u.dtype.kind == "i" else np.zeros(len(self.u), dtype=np.int64)
        return hold_out_rows(labels, held_out, seed)
