"""Choice of the sources' family: a learned power first, a learned base measure if held-out rows ask for it.

A power covers Gaussian, Laplace and what lies between and beyond; a base measure may be lopsided or have
several modes, but costs more, and rough fits are warped by it. So it is tried on what the first fit
found, and only where it promises to gain the whole network learns with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.data import Dataset
from identica.errors import NonFiniteError
from identica.estimators.blocks import apply_in_blocks, with_model
from identica.estimators.flow_stages import GROWTH_ROWS, standardised
from identica.families import LearnedBase
from identica.models.flow import FlowModel
from identica.networks.invertible import AffineMap, InvertibleNetwork
from identica.objectives.exact_likelihood import HeldOutProfile, ProfileLikelihood
from identica.random import named_key
from identica.training import LBFGS, Adam, Fit, Stage
from identica.training import fit as run_stages
from identica.training.checkpoint import Checkpoint
from identica.training.compiled import evaluate_population
from identica.training.loop import MONITOR_ROWS
from identica.training.population import stack
from identica.training.progress import Callback, within
from identica.training.stage import unchanged
from identica.typing import Array, Key

FIRST_SHARE = 0.9
"""Of the progress bar, for the fit before the choice."""

_PROMISING = 5e-3
"""Held-out nats per row and component that a base measure has to gain on fixed sources to be tried."""

_WORTHWHILE = 2e-3
"""And what it has to gain in the end to be kept."""

_TRIAL_STEPS, _BATCH = 300, 2000
_SHARE, _POLISH, _PATIENCE = 0.3, 0.02, 3
"""Steps with the base measure and iterations of its polish per step of growth; chunks without gain. The
network was polished before, so that a short one does."""


@dataclass(frozen=True)
class ShapeChoice:
    """What the choice depends on.

    Attributes
    ----------
    n_segments : int
    max_iter : int
        Steps of growth of the first fit.
    data, held_out : Dataset
        Scores of fitted and of held-out rows.
    seed : int
        Of the fit.
    """

    n_segments: int
    max_iter: int
    data: Dataset
    held_out: Dataset
    seed: int

    def better(self, first: Fit, callbacks: Sequence[Callback], checkpoint: Checkpoint | None) -> Fit:
        """The first fit, or one that went on from it with a learned base measure and explains more."""
        n = first.system.n_components
        family = self._promising(first.system)
        if family is None:
            return first
        checkpoint = None if checkpoint is None else checkpoint.beside("base-measure")
        try:
            second = run_stages(
                self._stages(first.system, family),
                self.data,
                self.held_out,
                seed=self.seed,
                callbacks=[within(callback, FIRST_SHARE, 1.0) for callback in callbacks],
                checkpoint=checkpoint,
            )
        except NonFiniteError:
            return first  # a candidate without a finite likelihood has lost
        gain = self._held_out(first.system) - self._held_out(second.system)
        steps = first.n_steps + second.n_steps
        if not gain > _WORTHWHILE * n:
            return replace(first, n_steps=steps)
        return replace(second, restarts=first.restarts).after(first)

    def _promising(self, system: FlowModel) -> LearnedBase | None:
        """The base measure of the sources as they are, if it explains held-out rows clearly better."""
        n = system.n_components
        z, new = (
            apply_in_blocks(with_model(_latents, system), np.asarray(part.x))
            for part in (self.data, self.held_out)
        )
        mean, sd = z.mean(axis=0), z.std(axis=0)
        fitted, held_out = _with_x(self.data, (z - mean) / sd), _with_x(self.held_out, (new - mean) / sd)
        stay = FlowModel(_identity(n), system.family)
        start = FlowModel(_identity(n), LearnedBase.gaussian(n))
        trial = Stage(
            "base measure", lambda *_: start, self._objective, self._evaluate, Adam(rate=2e-2), _TRIAL_STEPS,
            batch_size=_BATCH,
        )  # fmt: skip
        found = run_stages([trial], fitted, held_out, seed=self.seed).system
        rows, seen = fitted.head(MONITOR_ROWS), held_out.head(MONITOR_ROWS)
        before, after = (self._loss(s, rows, seen) for s in (stay, found))
        return found.family if before - after > _PROMISING * n else None

    def _stages(self, system: FlowModel, family: LearnedBase) -> list[Stage]:
        def begin(_: FlowModel | None, data: Dataset, key: Key) -> FlowModel:
            demixer = system.demixer
            # A base measure has a scale of its own. Couplings were standardised before they began.
            if isinstance(demixer, InvertibleNetwork):
                demixer = standardised(demixer, data.head(GROWTH_ROWS).x)
            return FlowModel(demixer, family)

        steps = max(1, round(_SHARE * self.max_iter))
        adam = Adam(rate=5e-3, b2=0.99, clip=5.0)
        train = Stage(
            "base measure", begin, self._objective, self._evaluate, adam, steps,
            batch_size=_BATCH, patience=_PATIENCE,
        )  # fmt: skip
        iterations = max(20, round(_POLISH * self.max_iter))
        polish = replace(train, name="last polish", prepare=unchanged, solver=LBFGS(), steps=iterations)
        return [train, replace(polish, batch_size=2**16, chunk=50, patience=None)]

    @property
    def _objective(self) -> ProfileLikelihood:
        return ProfileLikelihood(self.n_segments)

    @property
    def _evaluate(self) -> HeldOutProfile:
        return HeldOutProfile(self.n_segments)

    def _held_out(self, system: FlowModel) -> float:
        return self._loss(system, self.data.head(MONITOR_ROWS), self.held_out.head(MONITOR_ROWS))

    def _loss(self, system: FlowModel, data: Dataset, held_out: Dataset) -> float:
        arrays, static = stack([system])
        key = named_key(self.seed, "shape")
        return float(np.asarray(evaluate_population(arrays, data, held_out, key, static, self._evaluate))[0])


def _with_x(data: Dataset, x: np.ndarray) -> Dataset:
    """The data set with other rows in place of x."""
    return Dataset(jnp.asarray(x), data.u, data.sequence, data.weight)


@compiled
def _latents(system: FlowModel, x: Array) -> Array:
    return system.latents(x)[0]


def _identity(n: int) -> InvertibleNetwork:
    return InvertibleNetwork.linear(AffineMap(jnp.eye(n), jnp.zeros(n)))
