"""One split of a table, and the fits and scores of several methods on it."""

import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from identica.cli.compare_methods import Method
from identica.cli.selection import Selection
from identica.errors import DataError, IdenticaError
from identica.report.baseline import rows_of
from identica.typing import FloatArray, IntArray


@dataclass(frozen=True)
class Comparison:
    """Rows to fit on, rows to score on, and what all methods share.

    Attributes
    ----------
    selection : Selection
    x : data frame (N, d)
    u : Series, data frame or None
    sequence : Series or None
    S : array (N, n) or None
        True sources, for scoring only.
    fit_rows, held_out : int arrays
    shared : dict
        ``components, likelihood, budget, held_out, seed`` and the digest of the table.
    """

    selection: Selection
    x: pd.DataFrame
    u: Any
    sequence: Any
    S: FloatArray | None
    fit_rows: IntArray
    held_out: IntArray
    shared: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, selection: Selection, S: FloatArray | None, *, held_out: float, seed: int, **shared: Any
    ) -> "Comparison":
        """Split the rows: within every segment, in blocks for time series."""
        from identica.auxiliary import AuxiliaryEncoder
        from identica.data import held_out_split
        from identica.random import named_rng

        x, u, ids = selection.observations_frame(), selection.auxiliary(), selection.sequence_ids()
        encoder = None if u is None else AuxiliaryEncoder.from_values(u, n_rows=len(x))
        codes = encoder.encode(u) if encoder is not None and encoder.kind == "discrete" else None
        series = None if ids is None else pd.factorize(ids)[0]
        rng = named_rng(seed, "comparison")
        fit_rows, test = held_out_split(len(x), held_out, rng, codes=codes, sequence=series)
        if len(test) < 2:
            raise DataError(
                f"--held-out {held_out:g} leaves {len(test)} of {len(x)} rows to score on; expected at least 2"
            )
        shared |= {"held_out": held_out, "seed": seed}
        return cls(selection, x, u, ids, S, np.sort(fit_rows), np.sort(test), shared)

    def settings(self) -> dict[str, Any]:
        """All that results have to share to stand in one table."""
        import identica

        return {
            "columns": self.selection.x,
            "u": self.selection.u,
            "windows": self.selection.windows,
            "sequence": self.selection.sequence,
            "n_fitted": len(self.fit_rows),
            "n_held_out": len(self.held_out),
            "truth": self.S is not None,
            "version": identica.__version__,
            **self.shared,
        }

    def run(self, method: Method, callback: Callable[[Any], bool | None]) -> dict[str, Any]:
        """Fit one method and score it; a method that fails says why, and the others go on.

        Returns
        -------
        dict
            ``method, class, takes_u, log_likelihood, bound, gap`` (nats per held-out row), ``mcc`` (held out),
            ``seconds, peak_memory_mib, status, warnings, error``; None where there is none.
        """
        estimator = self._estimator(method, callback)
        u = self.u if method.takes_u else None
        result: dict[str, Any] = {
            "method": method.name,
            "class": type(estimator).__name__,
            "takes_u": method.takes_u,
            **dict.fromkeys(
                ("log_likelihood", "bound", "gap", "mcc", "seconds", "peak_memory_mib", "status", "error")
            ),
        }
        forget_peak_memory()
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                estimator.fit(
                    self._rows(self.fit_rows), u=rows_of(u, self.fit_rows), **self._series(self.fit_rows)
                )
                result["seconds"] = time.perf_counter() - started
                result["peak_memory_mib"] = peak_memory_since()
                result["status"] = estimator.status_.name.lower()
                result |= self._scores(estimator, rows_of(u, self.held_out))
                result["mcc"] = self._mcc(estimator, u)
            except (IdenticaError, np.linalg.LinAlgError) as error:
                result |= {"status": "failed", "error": str(error)}
        ours = {str(w.message) for w in caught if issubclass(w.category, UserWarning)}
        return {**result, "warnings": sorted(ours)}

    def _estimator(self, method: Method, callback: Callable[[Any], bool | None]) -> Any:
        import identica

        cls = getattr(identica, method.estimator)
        known = cls._get_param_names()
        given = {"random_state": self.shared["seed"], **self.shared["budget"], "callbacks": [callback]}
        if self.shared["likelihood"] != "gaussian":
            given["likelihood"] = self.shared["likelihood"]
        given = {key: value for key, value in given.items() if key in known}
        return cls(self.shared["components"], **{**given, **method.options})

    def _rows(self, rows: IntArray) -> pd.DataFrame:
        return self.x.iloc[rows]

    def _series(self, rows: IntArray) -> dict[str, Any]:
        return {} if self.sequence is None else {"sequence": self.sequence.iloc[rows]}

    def _scores(self, estimator: Any, u: Any) -> dict[str, Any]:
        """Log-likelihood by the best evaluator of the method, the bound it was trained on, and their gap."""
        if not hasattr(estimator, "log_likelihood"):
            return {}
        x = self._rows(self.held_out)
        best = estimator.log_likelihood(x, u=u)
        scores: dict[str, Any] = {
            "log_likelihood": {
                "value": best.value,
                "standard_error": best.standard_error,
                "kind": best.kind,
            }
        }
        if best.kind != "exact" or getattr(estimator, "exact_", False):
            bound = estimator.log_likelihood(x, u=u, method="elbo").value
            scores |= {"bound": bound, "gap": best.value - bound}
        return scores

    def _mcc(self, estimator: Any, u: Any) -> dict[str, float] | None:
        if self.S is None:
            return None
        from identica.metrics import mcc

        estimate = np.asarray(estimator.transform(self.x, **({} if u is None else {"u": u})), np.float64)
        labels = self._labels()
        scores = {
            method: float(mcc(self.S, estimate, method=method, fit_rows=self.fit_rows))
            for method in ("pearson", "spearman")
        }
        if labels is not None:
            scores["pearson_within_u"] = float(mcc(self.S, estimate, within=labels, fit_rows=self.fit_rows))
        return scores

    def _labels(self) -> IntArray | None:
        from identica.auxiliary import AuxiliaryEncoder

        if self.u is None:
            return None
        encoder = AuxiliaryEncoder.from_values(self.u, n_rows=len(self.x))
        return encoder.encode(self.u) if encoder.kind == "discrete" else None


_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def forget_peak_memory() -> None:
    """Let the system count the largest resident memory anew, where it can (Linux)."""
    with suppress(OSError):
        _RESET.write_text("5")


def peak_memory_since() -> float | None:
    """Largest resident memory since `forget_peak_memory`, MiB; None where the system does not tell."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) / 2**10
