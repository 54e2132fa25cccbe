"""How `IVAE` with a network for decoder finds posteriors: by its encoder, or from there by Gauss-Newton steps.

Where noise is small an encoder errs by more than the posterior is wide, its bound is nats below the likelihood, and
what it learns from is mostly its own error. Where noise is large posteriors are no local Gaussians, and an
encoder that was trained to propose draws is better. Held-out rows tell which is the case, once there is a decoder.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from identica.data import Dataset
from identica.errors import Status
from identica.estimators.ivae_stages import IVAEPlan
from identica.models import VariationalModel
from identica.objectives.bound import HeldOutBound, importance_weighted
from identica.objectives.refined_bound import RefinedBound
from identica.random import named_key
from identica.training import Fit
from identica.training import fit as run_stages
from identica.training.checkpoint import Checkpoint
from identica.training.compiled import evaluate_population
from identica.training.population import stack
from identica.training.progress import Callback, within

_FIRST_SHARE = 0.6
"""Of the progress bar, for what comes before the choice."""

_CLEAR = 0.02
"""Nats per row that Gauss-Newton steps must gain."""

_BY_ENCODER, _BY_STEPS = (
    HeldOutBound(bound) for bound in (importance_weighted(64), RefinedBound(64, steps=8, following=0.0))
)
_ROWS = 2048
"""Most held-out rows that decide."""


def train_network(
    plan: IVAEPlan,
    data: Dataset,
    held_out: Dataset | None,
    seed: int,
    callbacks: Sequence[Callback],
    checkpoint: Checkpoint | None,
) -> Fit:
    """Run the plan's stages, the last of them by the posteriors that explain held-out rows better."""
    if not plan.refines:
        return run_stages(
            plan.stages(), data, held_out, seed=seed, callbacks=callbacks, checkpoint=checkpoint
        )
    first = run_stages(
        plan.first_stages(),
        data,
        held_out,
        seed=seed,
        callbacks=[within(callback, 0.0, _FIRST_SHARE) for callback in callbacks],
        checkpoint=checkpoint,
    )
    if first.status is Status.STOPPED:
        return first
    local = _local_explains_more(first.system, data if held_out is None else held_out, seed)
    second = run_stages(
        plan.last_stages(first.kept, local=local),
        data,
        held_out,
        seed=seed,
        callbacks=[within(callback, _FIRST_SHARE, 1.0) for callback in callbacks],
        checkpoint=None if checkpoint is None else checkpoint.beside("tuning"),
    )
    restarts = second.restarts if len(second.restarts) > 1 else first.restarts
    return replace(second, restarts=restarts).after(first)


def _local_explains_more(system: VariationalModel, held_out: Dataset, seed: int) -> bool:
    arrays, static = stack([system])
    rows, key = held_out.head(_ROWS), named_key(seed, "posterior")
    encoded, local = (
        float(np.asarray(evaluate_population(arrays, rows, rows, key, static, bound))[0])
        for bound in (_BY_ENCODER, _BY_STEPS)
    )
    return local < encoded - _CLEAR
