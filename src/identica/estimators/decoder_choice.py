"""Choice of the decoder of `IVAE` where there are two: the inverse of a flow first, a network if noise is not small.

A flow finds hard mixtures more surely, as it learns them without noise first. That start is bent where noise is
large, and a network that never ignored noise can explain rows better. Both are fitted then, and
held-out rows choose by bounds with so many samples that how well a posterior proposes hardly matters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from identica.data import Dataset
from identica.errors import NonFiniteError, Status
from identica.estimators.blocks import apply_in_blocks, row_keys, with_model
from identica.estimators.variational import row_bounds
from identica.models import VariationalModel
from identica.objectives.reductions import LogMeanExp
from identica.training import Fit
from identica.training.checkpoint import Checkpoint
from identica.training.progress import Callback, within

FIRST_SHARE = 0.5
"""Of the progress bar, for the flow."""

_SMALL_NOISE = 0.02
"""Noise, as a share of the columns' spread, below which a flow needs no rival: both find the same there."""

_SAMPLES, _ROWS = 256, 2048
"""Of the bound that decides, for each held-out row, and most rows."""


@dataclass(frozen=True)
class DecoderChoice:
    """What the choice depends on.

    Attributes
    ----------
    data, held_out : Dataset
        Fitted and held-out rows.
    seed : int
        Of the fit.
    """

    data: Dataset
    held_out: Dataset
    seed: int

    def better(
        self,
        first: Fit,
        rival: Callable[[Sequence[Callback], Checkpoint | None], Fit],
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint | None,
    ) -> Fit:
        """The first fit, whose decoder is a flow, or its rival, whose decoder is a network, if that explains more."""
        if first.status is Status.STOPPED or _noise_of(first.system, self.data.x.shape[1]) < _SMALL_NOISE:
            return first
        try:
            second = rival(
                [within(callback, FIRST_SHARE, 1.0) for callback in callbacks],
                None if checkpoint is None else checkpoint.beside("network"),
            )
        except NonFiniteError:
            return first  # a candidate without a finite bound has lost
        better = second if self._loss(second.system) < self._loss(first.system) else first
        status = Status.STOPPED if second.status is Status.STOPPED else better.status
        return replace(second, system=better.system, restarts=better.restarts, status=status).after(first)

    def _loss(self, system: VariationalModel) -> float:
        rows = self.held_out.head(_ROWS)
        x, u, weight = (None if a is None else np.asarray(a) for a in (rows.x, rows.u, rows.weight))
        bounds = with_model(row_bounds, system, _SAMPLES, LogMeanExp())
        return -float(np.average(apply_in_blocks(bounds, x, u, row_keys(self.seed, x)), weights=weight))  # type: ignore[arg-type]


def _noise_of(system: VariationalModel, n_columns: int) -> float:
    """Standard deviation of the noise, in units of the columns', as the root of its mean variance."""
    observation = system.model.likelihood.observation  # type: ignore[attr-defined]
    return float(np.sqrt(np.mean(np.asarray(observation(jnp.zeros((1, n_columns))).variance))))
