"""Recipe of `IVAE` with as many sources as columns: a flow that ignores noise, then the same flow under noise.

A flow's likelihood finds the sources where contrastive features and perceptrons stop early, but noise bends
it. Its inverse is the decoder that a noisy model needs, and where noise is small both models are one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.conditionals import Features, GaussianObservation
from identica.conditionals.priors import moments_over_rows
from identica.data import Dataset
from identica.estimators.flow_stages import FlowPlan, affordable_layers
from identica.estimators.ivae_flow_start import on_scores_of
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
from identica.typing import Key

_LAYERS = 5
_FLOW_SHARE, _COMPARED_SHARE, _NOISE_SHARE = 0.3, 0.08, 0.4
"""Shares of max_iter for growing the flow, for several flows under noise, and for the best of these; a network for
decoder needs more."""

_CARRIED = 3
"""Flows that are compared under noise: as long as noise is ignored, the likelihood ranks them badly."""

_SAMPLES, _BATCH, _EPOCHS = 8, 512, 100
"""Samples and rows per step of training under noise, and how often it sees a row at most."""

_FIRST_NOISES = (1e-2, 3e-2, 1e-1, 3e-1)
"""Standard deviations of noise, in units of the columns', among which training under noise begins."""

_PATIENCE = 8
"""Chunks without gain after which training under noise ends: where there is none, nothing is gained."""

_overall = compiled(moments_over_rows)
_NOISY = NoisyLikelihood(_SAMPLES)
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
        """Growth of several flows, training of these under noise, then of the best, and the change of latents."""
        adam = Adam(rate=3e-3, clip=10.0, warmup=100)
        compared, steps = (max(1, round(s * self.max_iter)) for s in (_COMPARED_SHARE, _NOISE_SHARE))
        steps = min(steps, -(-_EPOCHS * self.n_rows // _BATCH))
        carried = min(_CARRIED, self.restarts)
        *earlier, last = self._growth()
        first = Stage(
            "noise, compared",
            self._with_noise,
            _NOISY,
            _HELD_OUT,
            adam,
            min(compared, steps),
            restarts=carried,
            batch_size=_BATCH,
        )
        noisy = replace(first, name="noise", prepare=unchanged, steps=steps, restarts=1, patience=_PATIENCE)
        bound = importance_weighted(16)
        turned = replace(noisy, name="posterior", prepare=_as_variational, steps=0)
        turned = replace(turned, objective=bound, evaluate=HeldOutBound(bound))
        return [*earlier, replace(last, keep=carried), first, noisy, turned]

    def _growth(self) -> list[Stage]:
        """Stages of flows of the scores: without couplings and polish, which learn noise by heart."""
        n = self.n_components
        flow = FlowPlan(
            n_layers=min(_LAYERS, affordable_layers(n, self.n_rows)),
            n_components=n,
            family=self.family,
            n_segments=self.n_segments,
            max_iter=max(1, round(_FLOW_SHARE * self.max_iter)),
            restarts=self.restarts,
        )
        return [on_scores_of(stage, self.features, n, "flow, ") for stage in flow.growth()]

    @property
    def _with_noise(self) -> Callable[[FlowTeacher | None, Dataset, Key], NoisyFlow]:
        """The flow with a prior and the most probable of some first levels of noise."""

        def create(system: FlowTeacher | None, data: Dataset, key: Key) -> NoisyFlow:
            if system is None:
                raise ValueError("the flow comes before the noise")
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

        return create

    def _at(self, variance: float) -> GaussianObservation:
        """The observation model with this variance in all columns."""
        like = np.asarray(self.observation.log_variance)
        return GaussianObservation(np.full_like(like, np.log(variance)), self.observation.noise)  # type: ignore[arg-type]


@compiled
def _with_prior(system: FlowTeacher, data: Dataset, family: Family, n_segments: int) -> FlowTeacher:
    flow = FlowModel(system.flow.demixer, family)
    prior = segment_prior(flow, on_scores(system, data), n_segments)
    return FlowTeacher(system.features, FlowModel(flow.demixer, family, prior), system.n_components)


def _as_variational(system: NoisyFlow | None, data: Dataset, key: Key) -> VariationalModel:
    if system is None:
        raise ValueError("there is no model before training under noise")
    return system.as_variational(_overall(system.flow.prior, data), system.teacher.features.center)  # type: ignore[arg-type]


def allowed(observation: object, n_components: int, n_columns: int, n_rows: int, linear: bool) -> bool:
    """Whether a flow can be the decoder: real columns with constant noise, as many as sources, and enough rows."""
    constant = isinstance(observation, GaussianObservation) and observation.is_constant
    enough = affordable_layers(n_components, n_rows) > 1
    return constant and n_components == n_columns and n_components > 1 and enough and not linear
