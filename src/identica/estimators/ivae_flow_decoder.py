"""Recipe of `IVAE` with as many sources as columns: a flow that grows layer by layer under noise.

A flow's likelihood finds the sources where contrastive features and perceptrons stop early, but a flow that ignores
noise takes it for sources and is bent by it. So noise is learned from the first step on: a shallow
flow explains by noise what it cannot reach yet, and noise falls to its level as layers are added. Few samples a row
are enough to grow; the winner is then tuned with many, since with few the bound favours flows whose posteriors are
nearly Gaussian.
"""

from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.conditionals import Features, GaussianObservation
from identica.conditionals.priors import moments_over_rows
from identica.data import Dataset
from identica.estimators.flow_stages import FlowPlan, affordable_layers
from identica.families import Family
from identica.models import VariationalModel
from identica.models.flow import FlowModel
from identica.models.noisy_flow import NoisyFlow
from identica.models.teacher import FlowTeacher
from identica.objectives.bound import HeldOutBound, importance_weighted
from identica.objectives.exact_likelihood import segment_prior
from identica.objectives.noisy_likelihood import NoisyLikelihood
from identica.objectives.teaching import on_scores
from identica.training import Adam, Stage
from identica.training.compiled import evaluate_population
from identica.training.loop import MONITOR_ROWS
from identica.training.population import stack
from identica.training.stage import unchanged
from identica.typing import Array, Key

_LAYERS = 5
_GROWTH_SHARE = 0.5
"""Share of max_iter for growing the flow, whose steps cost more than those of a network."""

_RESTARTS = 3
"""Most flows that are grown side by side; under noise they mostly end alike."""

_SAMPLES, _BATCH = 8, 512
"""Samples and rows per step of growth."""

_TUNING_SHARE, _TUNING_SAMPLES, _TUNING_BATCH = 1 / 6, 64, 128
"""Share of max_iter, samples and rows per step of what follows growth. Under noise of .3 a few rows have posteriors far
from Gaussian; their bound of 8 samples was .03 to .07 nats too low, and the flow drifted from the true one (.886) until
64 samples were drawn (.899)."""

_ADAM = Adam(rate=1e-2, clip=10.0, warmup=100)
"""A third of this rate stays in the first optimum (.79 instead of .89 with noise of .3)."""

_FIRST_NOISES = (1e-2, 3e-2, 1e-1, 3e-1)
"""Standard deviations of noise, in units of the columns', among which training begins."""

_overall = compiled(moments_over_rows)
_GROWN, _TUNED = NoisyLikelihood(_SAMPLES), NoisyLikelihood(_TUNING_SAMPLES)
_HELD_OUT = HeldOutBound(NoisyLikelihood(16))


@dataclass(frozen=True)
class FlowDecoderPlan:
    """What the stages depend on.

    Attributes
    ----------
    features : Features
        From columns to as many scores.
    observation : GaussianObservation
        The noise to be learned, or a fixed one.
    family : Family
        Of the sources given u.
    n_components, n_segments, max_iter, restarts, n_rows : int
        As in `FlowPlan`.
    held_out : Dataset or None
        Rows that choose the first level of noise.
    """

    features: Features
    observation: GaussianObservation
    family: Family
    n_components: int
    n_segments: int
    max_iter: int
    restarts: int
    n_rows: int
    held_out: Dataset | None

    def stages(self) -> list[Stage]:
        """Growth of several flows under noise, fine-tuning of the best, and its change of latents."""
        flow = FlowPlan(
            n_layers=min(_LAYERS, affordable_layers(self.n_components, self.n_rows)),
            n_components=self.n_components,
            family=self.family,
            n_segments=self.n_segments,
            max_iter=max(1, round(_GROWTH_SHARE * self.max_iter)),
            restarts=min(_RESTARTS, self.restarts),
        )
        grown = [self._under_noise(stage) for stage in flow.growth()]
        tuning = replace(
            grown[-1],
            name="flow under noise, fine-tuning",
            prepare=unchanged,
            objective=_TUNED,
            evaluate=HeldOutBound(_TUNED),
            steps=max(1, round(_TUNING_SHARE * self.max_iter)),
            restarts=1,
            batch_size=_TUNING_BATCH,
            cost=grown[-1].cost * _TUNING_SAMPLES / _SAMPLES,
        )
        bound = importance_weighted(16)
        turned = replace(tuning, name="posterior", prepare=_as_variational, steps=0)
        return [*grown, tuning, replace(turned, objective=bound, evaluate=HeldOutBound(bound))]

    def _under_noise(self, stage: Stage) -> Stage:
        """A stage of a flow as one of a flow under noise. Couplings and polish, not here, learn noise by heart."""
        prepare_flow = stage.prepare

        def prepare(system: NoisyFlow | None, data: Dataset, key: Key) -> NoisyFlow:
            blank = FlowTeacher(self.features, None, self.n_components)  # type: ignore[arg-type]
            flow = prepare_flow(None if system is None else system.flow, on_scores(blank, data), key)  # type: ignore[operator]
            teacher = FlowTeacher(self.features, flow, self.n_components)
            if system is None:
                return self._with_noise(teacher, data, key)
            return NoisyFlow(teacher, system.loading, system.observation)

        return replace(
            stage,
            name=f"flow under noise, {stage.name}",
            prepare=prepare,
            objective=_GROWN,
            evaluate=_HELD_OUT,
            solver=_ADAM,
            batch_size=_BATCH,
            sources=None if stage.sources is None else _sources,
        )

    def _with_noise(self, system: FlowTeacher, data: Dataset, key: Key) -> NoisyFlow:
        """The flow with a prior and the most probable of some first levels of noise."""
        if self.n_segments:
            system = _with_prior(system, data, self.family, self.n_segments)
        loading = np.linalg.inv(np.asarray(system.features.matrix, np.float64)).astype(data.x.dtype)
        spread = np.asarray(data.x[: self.n_rows]).std(axis=0)
        observations = [self.observation]
        if self.observation.log_variance is not None:
            observations = [self._at(np.mean(level * spread) ** 2) for level in _FIRST_NOISES]
        systems = [NoisyFlow(system, jnp.asarray(loading), o) for o in observations]
        arrays, static = stack(systems)
        rows = data.head(MONITOR_ROWS)
        held_out = rows if self.held_out is None else self.held_out.head(MONITOR_ROWS)
        losses = np.asarray(evaluate_population(arrays, rows, held_out, key, static, _HELD_OUT))
        return systems[int(np.nanargmin(losses))]

    def _at(self, variance: float) -> GaussianObservation:
        """The observation model with this variance in all columns."""
        like = np.asarray(self.observation.log_variance)
        return GaussianObservation(np.full_like(like, np.log(variance)), self.observation.noise)  # type: ignore[arg-type]


@compiled
def _with_prior(system: FlowTeacher, data: Dataset, family: Family, n_segments: int) -> FlowTeacher:
    flow = FlowModel(system.flow.demixer, family)
    prior = segment_prior(flow, on_scores(system, data), n_segments)
    return FlowTeacher(system.features, FlowModel(flow.demixer, family, prior), system.n_components)


def _sources(system: NoisyFlow, rows: Dataset) -> Array:
    return system.teacher.sources(rows.x)


def _as_variational(system: NoisyFlow | None, data: Dataset, key: Key) -> VariationalModel:
    if system is None:
        raise ValueError("there is no model before training under noise")
    return system.as_variational(_overall(system.flow.prior, data), system.teacher.features.center)  # type: ignore[arg-type]


def allowed(observation: object, n_components: int, n_columns: int, n_rows: int, linear: bool) -> bool:
    """Whether a flow can be the decoder: real columns with constant noise, as many as sources, and enough rows."""
    constant = isinstance(observation, GaussianObservation) and observation.is_constant
    enough = affordable_layers(n_components, n_rows) > 1
    return constant and n_components == n_columns and n_components > 1 and enough and not linear
