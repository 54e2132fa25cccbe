"""Recipe of `IVAE`: contrastive start, decoder regression, fine-tuning of the bound, linear polish."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm

from identica.conditionals import (
    Decoder,
    ModulatedPrior,
    NetworkMap,
    Observation,
    ProductOfExperts,
)
from identica.conditionals.gauss_newton import is_local
from identica.data import Dataset
from identica.estimators import ivae_refinement
from identica.estimators.flow_stages import affordable_layers
from identica.estimators.ivae_flow_start import continue_with, enter, flow_start
from identica.estimators.ivae_refinement import in_turned_latents, with_local_posterior
from identica.estimators.ivae_start import LINEAR_ROWS, Start, unmixing_of
from identica.estimators.ivae_systems import (
    begin_with,
    encoder_mean,
    posterior_mean,
    posterior_moments,
    real_rows,
    released,
    segment_table,
    with_mean_part,
)
from identica.families import ExponentialFamily
from identica.models import LatentVariableModel, VariationalModel
from identica.models.contrastive import SegmentClassifier
from identica.models.teacher import FlowTeacher
from identica.objectives.bound import HeldOutBound, WeightedSum, importance_weighted
from identica.objectives.contrastive import (
    HeldOutCrossEntropy,
    PosteriorCrossEntropy,
    SegmentCrossEntropy,
)
from identica.objectives.teaching import HeldOutOnContender, OnContender
from identica.random import host_rng
from identica.training import Adam, Stage
from identica.training.compiled import evaluate_population
from identica.training.loop import MONITOR_ROWS
from identica.training.population import stack
from identica.training.stage import Prepare, unchanged
from identica.typing import Array, Key

_CONTRASTIVE, _DECODER, _COMPARED, _CONTINUED = 0.2, 0.04, 0.2, 0.27
"""Shares of max_iter for starts, their decoders, and training several of them, then the best; the rest is fine-tuning.
What comes before fine-tuning finds the sources, and under noise of .3 half as many steps did not always: .82 instead of
.95. Steps moved from comparison to starts lose (.92)."""

_CARRIED = 4
"""Contrastive starts that are compared by the bound: cross-entropy does not rank them under noise of .3, and among two
the best one was not always (.867 and .932 of a ceiling of .96, with four .945 and .943)."""

_FINALISTS = 2
"""Of these, those that are fine-tuned: before, bounds that differ by .01 nats may rank them wrongly (.829 before one of
.922, which ended .04 nats better)."""

_TRAINING_SAMPLES, _TUNING_SAMPLES, _RATE = 5, 20, 8e-3
"""Samples of the bound before fine-tuning and in it: with few, it favours sources with Gaussian posteriors."""

_DECODER_UNITS = "leaky_relu+tanh"
"""With units of one kind, decoders of mixtures of the other kind missed the likelihood by .05 to .7 nats per row."""

_TRAINING, _TUNING = (
    WeightedSum(((1.0, importance_weighted(samples)), (weight, PosteriorCrossEntropy())))
    for samples, weight in ((_TRAINING_SAMPLES, 1.0), (_TUNING_SAMPLES, ivae_refinement.CROSS_ENTROPY))
)
_ADAM = Adam(rate=_RATE, clip=10.0, warmup=200)

RANKING = HeldOutBound(importance_weighted(16))
"""What chooses among starts and weights."""

_SMALL_DATA, _PATIENCE = 2048, 3
"""Below so many rows a stage ends after so many looks at the held-out rows without gain."""

_LARGEST_COVARIANCES = 2**23
"""Most numbers in the posterior covariances from which the polish is found."""

_EXAMPLES = 128
"""Values of a continuous u over which rows without u are averaged."""


@dataclass(frozen=True)
class IVAEPlan:
    """What the stages of an iVAE depend on.

    Attributes
    ----------
    start : Start
    observation : Observation
        Family of x given z.
    family : ExponentialFamily
        Of the sources given u.
    n_components : int
    hidden_sizes : tuple of int
        Of the encoder and of the decoder.
    n_columns : int
        Number d of columns.
    max_iter : int
        Steps over all stages.
    restarts : int
        Contrastive starts.
    discrete : bool
        Whether u consists of labels.
    batch_size : int or None
        Rows per step of fine-tuning; None takes all.
    n_rows : int
        Fitted rows.
    n_labels : int
        Distinct values of a discrete u.
    held_out : Dataset or None
        Rows that decide whether the polish is kept.
    teacher : FlowTeacher or None
        A flow of the same rows, from whose sources one start comes.
    """

    start: Start
    observation: Observation
    family: ExponentialFamily
    n_components: int
    hidden_sizes: tuple[int, ...]
    n_columns: int
    max_iter: int
    restarts: int
    discrete: bool
    batch_size: int | None
    n_rows: int
    n_labels: int
    held_out: Dataset | None
    teacher: FlowTeacher | None = None

    def stages(self) -> list[Stage]:
        """Starts, decoder, fine-tuning and polish."""
        first = self.first_stages()
        return [*first, *self._tuning(unchanged, first[-1].restarts)]

    def first_stages(self) -> list[Stage]:
        """Starts, their decoders, and training of those that are worth fine-tuning."""
        contrastive = max(1, round(_CONTRASTIVE * self.max_iter))
        decoder = max(1, round(_DECODER * self.max_iter))
        starts, continued = self._starts(_ADAM, contrastive)
        # The mean of the encoder is held while its precision, the decoder and the prior catch up. The
        # objective is that of the comparison, so that both stages share compiled code.
        bound = Stage(
            "decoder",
            continued,
            _TRAINING,
            RANKING,
            _ADAM,
            decoder,
            restarts=len(continued),
            keep=len(continued),
            batch_size=self.batch_size,
            chunk=250,
            patience=self._patience,
            independent=True,
            group=2,
            cost=_TRAINING_SAMPLES,
        )
        steps = [max(1, round(share * self.max_iter)) for share in (_COMPARED, _CONTINUED)]
        comparison = replace(
            bound, name="comparison", prepare=released, steps=steps[0], keep=_FINALISTS, independent=False
        )
        training = replace(
            comparison,
            name="training",
            prepare=unchanged,
            steps=steps[1],
            restarts=min(_FINALISTS, len(continued)),
            sources=posterior_mean,
            group=1,
        )
        return [*starts, bound, comparison, training]

    def last_stages(self, systems: Sequence[VariationalModel], *, local: bool) -> list[Stage]:
        """Fine-tuning of the systems that the first stages kept, best first, and polish of the best.

        With `local`, posteriors are found by Gauss-Newton steps, and the encoder says where they begin. Noise is small
        then, and the best one is known.
        """
        begin = tuple(begin_with(system) for system in systems[: 1 if local else None])
        tuning, polish = self._tuning(begin, len(begin))
        if not local:
            return [tuning, polish]
        tuning = replace(tuning, objective=ivae_refinement.TRAINING, evaluate=ivae_refinement.HELD_OUT)
        return [tuning, replace(polish, name="posterior", prepare=with_local_posterior), polish]

    @property
    def refines(self) -> bool:
        """Whether posteriors can be found by Gauss-Newton steps; under a linear decoder they are known anyway."""
        return self.hidden_sizes != () and is_local(self.observation)

    def _tuning(self, begin: Prepare | tuple[Prepare, ...], restarts: int) -> list[Stage]:
        used = sum(
            max(1, round(share * self.max_iter)) for share in (_CONTRASTIVE, _DECODER, _COMPARED, _CONTINUED)
        )
        tuning = Stage(
            "fine-tuning",
            begin,
            _TUNING,
            RANKING,
            _ADAM,
            max(1, self.max_iter - used),
            restarts=restarts,
            batch_size=self.batch_size,
            sources=posterior_mean,
            group=1,
            cost=_TUNING_SAMPLES,
            chunk=250,
            patience=self._patience,
        )
        return [tuning, Stage("polish", self._polished, _TRAINING, RANKING, _ADAM, 0)]

    @property
    def _patience(self) -> int | None:
        """Small data are soon learnt by heart; what follows lowers the held-out objective no more."""
        return _PATIENCE if self.n_rows < _SMALL_DATA else None

    def _starts(self, adam: Adam, steps: int) -> tuple[list[Stage], tuple[Prepare, ...]]:
        """Stages that find starts, and how each start goes on.

        Telling segments apart needs many of them. Below four times as many as Theorem 1 asks for, one
        start comes from a flow instead, whose likelihood needs fewer.
        """
        wide = None if self.batch_size is None else 2 * self.batch_size
        carried = min(_CARRIED, self.restarts)
        classify = Stage(
            "contrastive start",
            self._classifier,
            SegmentCrossEntropy(),
            HeldOutCrossEntropy(),
            adam,
            steps,
            restarts=self.restarts,
            keep=carried,
            batch_size=wide,
            patience=self._patience,
        )
        unknowns = self.n_components * self.family.number_of_statistics
        # A flow of one layer is linear and knows no more than the linear start.
        helps = self.n_labels < 4 * unknowns and affordable_layers(self.n_components, self.n_rows) > 1
        if self.teacher is None and not (self.discrete and self.hidden_sizes and helps):
            return [classify], (self._autoencoder,) * carried
        lessons = flow_start(
            self.start.features,
            self.n_components,
            self.family,
            self.start.n_segments,
            self.max_iter,
            self.restarts,
            self.n_rows,
            lambda data, key: self._classifier(None, data, key),
            self.teacher,
        )
        contest = replace(
            classify,
            prepare=enter(self._classifier),
            objective=OnContender(classify.objective),
            evaluate=HeldOutOnContender(classify.evaluate),
            keep=1,
        )
        own, taught = (continue_with(which, self._autoencoder) for which in ("classifier", "taught"))
        return [*lessons, contest], (own, taught)

    @property
    def _classifier(self) -> Callable[[SegmentClassifier | None, Dataset, Key], SegmentClassifier]:
        """Linear sources turned by a random rotation, plus a small random network; prior to match.

        The angle of the rotation varies: some restarts begin near the linear solution, others anywhere.
        """

        def create(system: SegmentClassifier | None, data: Dataset, key: Key) -> SegmentClassifier:
            start, n = self.start, self.n_components
            rng = host_rng(key)
            square = rng.standard_normal((n, n))
            turn = expm(4.0 * rng.random() ** 2 * (square - square.T) / np.sqrt(n))
            encoder = ProductOfExperts.random(start.features, self.hidden_sizes, n, key=key)
            encoder = with_mean_part(encoder, start.unmixing @ turn)
            prior = self._table(encoder_mean(encoder, data.x), data)
            return SegmentClassifier(encoder, prior, start.quantizer)

        return create

    @property
    def _autoencoder(self) -> Callable[[SegmentClassifier | None, Dataset, Key], VariationalModel]:
        """The classifier's encoder, its features turned to sources; a prior; a nearly linear decoder."""

        def create(system: SegmentClassifier | None, data: Dataset, key: Key) -> VariationalModel:
            if system is None:
                raise ValueError("the contrastive stage comes first")
            decoder_key, prior_key = jax.random.split(key)
            rows, dtype, n = real_rows(data), data.x.dtype, self.n_components
            all_features = np.asarray(encoder_mean(system.encoder, data.x), np.float64)
            h, codes = all_features[:rows], np.asarray(self.start.codes(data.u))[:rows]
            # Contrastive features are sources up to a linear map, which the covariances resolve.
            turn = unmixing_of(h, codes, self.start.n_segments)
            turn = turn / (h @ turn.T).std(axis=0)[:, None]
            shift = -(h @ turn.T).mean(axis=0)
            z = all_features @ turn.T + shift
            if self.discrete:
                prior = self._table(z.astype(dtype), data)
            else:
                examples = jnp.asarray(np.asarray(data.u)[:rows][:_EXAMPLES])
                parameters = NetworkMap.random(examples, n, self.family.number_of_statistics, key=prior_key)
                prior = ModulatedPrior(self.family, parameters)
            x = np.asarray(data.x, np.float64)[:rows]
            weight, bias, observation = self.observation.linear_start(z[:rows], x)
            decoder = Decoder.random(
                n, self.hidden_sizes, self.n_columns, observation, activation=_DECODER_UNITS, key=decoder_key
            )
            network = decoder.network.with_linear_part(  # type: ignore[union-attr]
                jnp.asarray(weight, dtype), jnp.asarray(bias, dtype)
            )
            model = LatentVariableModel(prior, Decoder(network, observation))
            return VariationalModel(model, system.encoder.with_mean_changed(turn, shift).holding(True))

        return create

    @property
    def _polished(self) -> Callable[[VariationalModel | None, Dataset, Key], VariationalModel]:
        """Joint diagonalisation of cov_u(E) + mean P⁻¹: the last linear step, if training missed it.

        The prior is re-estimated in the turned latents. The result is kept if the held-out bound does not
        drop. A continuous u has no segments to compare, and its model stays as it is.
        """

        def create(system: VariationalModel | None, data: Dataset, key: Key) -> VariationalModel:
            if system is None:
                raise ValueError("there is nothing to polish before the first stage")
            if not self.discrete:
                return system
            n, dtype = self.n_components, data.x.dtype
            part = data.head(max(1, min(LINEAR_ROWS, _LARGEST_COVARIANCES // n**2)))
            mean, covariance = (np.asarray(a, np.float64) for a in posterior_moments(system, part.x, part.u))
            rows = real_rows(part)
            codes = np.asarray(part.u)[:rows]
            if np.bincount(codes).max() < 2:
                return system
            turn = unmixing_of(mean[:rows], codes, self.start.n_segments, covariance[:rows].mean(axis=0))
            turn = turn / (mean[:rows] @ turn.T).std(axis=0)[:, None]
            variance = np.einsum("ij,bjk,ik->bi", turn, covariance, turn)
            prior = self._table((mean @ turn.T).astype(dtype), part, variance.astype(dtype))
            decoder = system.model.likelihood
            back = np.linalg.inv(turn).T.astype(dtype)
            network = jax.tree.map(np.asarray, decoder.network).preceded_by(back, np.zeros(n, dtype))  # type: ignore[attr-defined]
            model = LatentVariableModel(prior, Decoder(network, decoder.observation))  # type: ignore[attr-defined]
            turned = in_turned_latents(system, turn, model, data)
            arrays, static = stack([turned, system])
            rows = data.head(MONITOR_ROWS)
            held_out = rows if self.held_out is None else self.held_out.head(MONITOR_ROWS)
            losses = evaluate_population(arrays, rows, held_out, key, static, RANKING)
            return turned if losses[0] < losses[1] else system

        return create

    def _table(self, mean: Array, data: Dataset, variance: Array | None = None) -> ModulatedPrior:
        """The prior of latents with these moments in every row, each segment's own."""
        variance = jnp.zeros_like(mean) if variance is None else variance
        codes = self.start.codes(data.u)
        return segment_table(self.family, mean, variance, codes, data.weight, self.start.n_segments)
