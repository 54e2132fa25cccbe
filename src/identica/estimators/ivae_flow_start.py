"""A start of `IVAE` from an exact-likelihood flow, for few segments: noise ignored first, modelled after.

Telling segments apart needs many of them; a flow's likelihood does not. So one start learns a flow of
the leading scores, teaches its sources to the encoder, and then competes with the contrastive starts.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from identica.compilation import compiled
from identica.conditionals import Features, ModulatedPrior, averaged_statistics
from identica.data import Dataset
from identica.estimators.flow_stages import FlowPlan, affordable_layers
from identica.families import ExponentialFamily
from identica.models.contrastive import SegmentClassifier
from identica.models.teacher import Contender, FlowTeacher, Pupil
from identica.objectives.exact_likelihood import shrink
from identica.objectives.teaching import Distance, HeldOutDistance, HeldOutOnScores, OnScores, on_scores
from identica.training import LBFGS, Adam, Stage
from identica.typing import Array, Key

FLOW_LAYERS, FLOW_RESTARTS = 3, 4
_FLOW_STEPS, _TEACHING_STEPS = 900, 1500
"""Steps of both parts for the default max_iter of `_REFERENCE`; fewer in proportion."""

_REFERENCE = 6000


def flow_start(
    features: Features,
    n_components: int,
    family: ExponentialFamily,
    n_segments: int,
    max_iter: int,
    restarts: int,
    n_rows: int,
    first_classifier: Any,
    teacher: FlowTeacher | None = None,
) -> list[Stage]:
    """Stages that end in a `Pupil`: growth of a flow, then its lessons.

    ``n_segments`` is 0 for a continuous u; ``first_classifier(data, key)`` makes an untrained one. A
    ``teacher`` with standardised sources, trained elsewhere, leaves the lessons only.
    """
    share = min(1.0, max_iter / _REFERENCE)
    plan = FlowPlan(
        n_layers=min(FLOW_LAYERS, affordable_layers(n_components, n_rows)),
        n_components=n_components,
        family=family,
        n_segments=n_segments,
        max_iter=max(1, round(_FLOW_STEPS * share)),
        restarts=min(FLOW_RESTARTS, restarts),
    )
    # Without the polish: an approximate flow is start enough.
    stages = [
        on_scores_of(s, features, n_components) for s in plan.stages() if not isinstance(s.solver, LBFGS)
    ]

    def enrol(system: FlowTeacher | None, data: Dataset, key: Key) -> Pupil:
        if teacher is not None:
            return Pupil(teacher, first_classifier(data, key))
        if system is None:
            raise ValueError("the flow comes before its pupil")
        return Pupil(_standardised(system, data.x, data.weight), first_classifier(data, key))

    steps = max(1, round(_TEACHING_STEPS * share))
    solver = Adam(rate=3e-3, clip=10.0)
    lessons = Stage("flow's lessons", enrol, Distance(), HeldOutDistance(), solver, steps, batch_size=512)
    return [lessons] if teacher is not None else [*stages, lessons]


def enter(create: Any) -> Any:
    """``prepare`` of contrastive restarts: each a new classifier, beside the one that the flow taught."""

    def prepare(system: Pupil | None, data: Dataset, key: Key) -> Contender:
        if system is None:
            raise ValueError("the flow's lessons come before the contrastive start")
        taught = _with_prior_of_features(system.classifier, data.x, data.u, data.weight)
        return Contender(create(None, data, key), taught)

    return prepare


def continue_with(which: str, create: Any) -> Any:
    """``prepare`` that goes on with a contender's ``"classifier"`` or with its ``"taught"`` one."""

    def prepare(system: Contender | None, data: Dataset, key: Key) -> Any:
        return create(None if system is None else getattr(system, which), data, key)

    return prepare


def on_scores_of(stage: Stage, features: Features, n: int) -> Stage:
    """A stage of a flow as a stage of a teacher, which sees the scores of x."""
    prepare_flow = stage.prepare

    def prepare(system: FlowTeacher | None, data: Dataset, key: Key) -> FlowTeacher:
        blank = FlowTeacher(features, None, n)  # type: ignore[arg-type]
        flow = prepare_flow(None if system is None else system.flow, on_scores(blank, data), key)  # type: ignore[operator]
        return FlowTeacher(features, flow, n)

    return replace(
        stage,
        name=f"flow start, {stage.name}",
        prepare=prepare,
        objective=OnScores(stage.objective),
        evaluate=HeldOutOnScores(stage.evaluate),
        sources=None,
        cost=1.0,
    )


@compiled
def _standardised(teacher: FlowTeacher, x: Array, weight: Array | None) -> FlowTeacher:
    """The teacher with sources of zero mean and unit variance."""
    z = teacher.sources(x)
    w = jnp.ones(len(z), z.dtype) if weight is None else weight
    mean = (w @ z) / w.sum()
    sd = jnp.sqrt(w @ (z - mean) ** 2 / w.sum())
    flow = teacher.flow
    demixer = flow.network.followed_by(jnp.diag(1 / sd), -mean / sd)
    return FlowTeacher(teacher.features, type(flow)(demixer, flow.family, flow.prior), teacher.n_components)


@compiled
def _with_prior_of_features(
    classifier: SegmentClassifier, x: Array, u: Array, weight: Array | None
) -> SegmentClassifier:
    h = classifier.encoder.mean(x)
    family: ExponentialFamily = classifier.prior.family  # type: ignore[assignment]
    segments = classifier.prior.parameters.raw.shape[0]  # type: ignore[union-attr]
    codes = classifier.codes(u)
    averages, counts = averaged_statistics(family, h, jnp.zeros_like(h), codes, segments, weight)
    prior = ModulatedPrior.table(family, shrink(averages, counts), counts)
    return SegmentClassifier(classifier.encoder, prior, classifier.quantizer)
