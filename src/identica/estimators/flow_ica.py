"""`FlowICA`: nonlinear ICA by exact likelihood."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from identica.conditionals import ModulatedPrior
from identica.data import interleaved
from identica.errors import DataError, Status
from identica.estimators.base import Problem
from identica.estimators.exact import FEWEST_JUDGED, JUDGED_ROWS, clear_effects
from identica.estimators.flow_stages import (
    BATCH_SIZE,
    ROWS_PER_SEGMENT,
    FlowPlan,
    affordable_layers,
    affordable_refinement,
)
from identica.estimators.growth_rounds import fit_in_rounds
from identica.estimators.hidden_markov_stages import HiddenMarkovPlan
from identica.estimators.hidden_markov_turns import fit_by_turns
from identica.estimators.hidden_states import HiddenStateEstimator
from identica.estimators.noise_check import JUDGED_ROWS as NOISE_ROWS
from identica.estimators.noise_check import noise_gain, warn_of_noise
from identica.estimators.noise_directions import (
    check_number,
    common_density,
    rank_directions,
    with_common_noise,
)
from identica.estimators.shape_choice import FIRST_SHARE, ShapeChoice
from identica.estimators.spline_stages import KINDS, SplinePlan, affordable_splines
from identica.estimators.validation import check_callbacks, check_count, check_sizes
from identica.estimators.volume_stages import VolumePlan, affordable_couplings
from identica.families import (
    Family,
    GaussianLocationScale,
    GaussianScale,
    LaplaceScale,
    LearnedBase,
    PowerLocationScale,
)
from identica.models.flow import FlowModel
from identica.random import named_rng
from identica.training import Callback, Checkpoint, Fit, Stage
from identica.training.loop import MONITOR_ROWS
from identica.training.progress import within
from identica.typing import FloatArray, IntArray

_DEFAULT_LAYERS = 5
_FAMILIES: dict[str, Callable[[int], Family]] = {
    "auto": PowerLocationScale.gaussian,
    "gaussian": lambda n: GaussianLocationScale(),
    "gaussian-scale": lambda n: GaussianScale(),
    "laplace": lambda n: LaplaceScale(),
    "generalized-gaussian": PowerLocationScale.gaussian,
    "general": LearnedBase.gaussian,
    "hmm": lambda n: GaussianLocationScale(),
}
"""Families of n components; those with a learned shape begin as Gaussians."""


class FlowICA(HiddenStateEstimator):
    """Nonlinear ICA by the exact likelihood of an invertible network, for noiseless mixtures.

    The model is x = f(z) with independent sources z_i given u. For a discrete u the best prior of
    every segment is a closed form of the sources, so that only the inverse of f is learned: an
    invertible network that grows layer by layer, in several restarts, of which the held-out
    likelihood chooses one. Couplings then refine the winner if held-out rows gain from them. No true
    sources are used at any point. With more columns than components, X is first reduced to its leading
    principal components; or, with ``volume="preserving"``, all columns stay, and directions of noise that
    u does not modulate are told from the sources.

    Parameters
    ----------
    n_components : int or None
        Number of sources; None takes as many as X has linearly independent columns. With
        ``volume="preserving"`` None finds the number on held-out rows.
    volume : {"free", "preserving"}
        ``"preserving"`` is general incompressible flow (GIN): a map of all columns of X whose Jacobian
        determinant is the same everywhere, with as many latents as X has linearly independent columns. Those
        that u modulates are sources; the others are noise, with one density for all u. It suits sensors
        that are more than the sources, when the noise is mixed in nonlinearly or n is not known.
    network : {"grown", "coupling-splines", "autoregressive-splines"}
        The invertible network with ``volume="free"``: linear maps and monotone functions that grow layer by layer, or
        flows of rational-quadratic splines from full depth on (``pip install 'identica[flows]'``), which bend
        more freely, take longer and find hard mixtures less surely.
    prior : {"auto", "gaussian", "gaussian-scale", "laplace", "generalized-gaussian", "general", "hmm"}
        Distribution of each source given u. ``"generalized-gaussian"`` has a location and a scale modulated by
        u and learns the shape: a power (1 is Laplace, 2 is Gaussian) is a parameter of each source.
        ``"general"`` learns a whole base measure, which may be lopsided or have several modes. ``"auto"`` begins
        with the power; half of the restarts then learn a density beside it that u moves and stretches, and
        afterwards a base measure is tried. Each is kept if rows held out gain from it (labels as u only; base
        measures from 2048 rows on). The others fix the shape: Gaussian with mean and
        variance modulated by u, Gaussian with modulated variance only, or Laplace with modulated scale
        about 0. ``"hmm"`` is for time series without u: the hidden state of a Markov chain takes its place, with
        a Gaussian of each source per state; rows are in order of time (`predict_states`, `state_probabilities`).
    n_states : int or None
        Hidden states with ``prior="hmm"``; None takes one more than twice the components.
    hidden_sizes : tuple of int or None
        One entry per hidden layer of the network. An invertible network has as many units in every
        layer as there are components, so only the number of entries matters, and they must equal
        the number of components. ``()`` is a linear map. None takes four hidden layers, fewer if
        there are too few rows to determine them, and tries couplings after them. With
        ``volume="preserving"``, one entry per coupling: the units of its network's two layers, all equal;
        None takes eight couplings with 32 units, fewer if there are too few rows. With splines likewise, one
        entry per layer; None takes six.
    max_iter : int
        Optimiser steps over all stages of growth; refinement and polish come on top, in proportion.
    n_restarts : int
        Networks trained side by side. Where one of four or more stands alone with the best optimum, as many begin anew,
        up to twice: few mixtures need that, and on those the first round seldom has the best.
    validation_fraction : float
        Share of rows, drawn within segments, held out for choosing restarts; 0 fits on every row.
    outlier_threshold : float or None
        Rows with a value so many robust standard deviations from its column's median are left out of
        the fit, with a warning.
    precision : {"float32", "float64"}
    random_state : int, None or RandomState
        The seed that is used is kept as ``seed_``.
    callbacks : sequence of callables or None
        Called with `identica.training.Progress` between chunks of steps; returning True stops.
    checkpoint : path or None
        Folder in which a running fit saves its state, and from which the same fit resumes, to the same
        last bit. A finished fit stays there until `save`, and is had again at once; a fit of other data
        or options replaces it. With ``random_state=None`` the seed that was begun with is taken over.

    Attributes
    ----------
    model_ : FlowModel
    n_components_, n_layers_ : int
    converged_ : bool
    status_ : identica.errors.Status
    history_ : dict of arrays
        ``stage, step, restart, loss, held_out``, nats per row.
    restarts_ : list of dict
        Seed, held-out objective and status of each restart, the first network that it grew from (origin) and, for
        the network that grows, ``agreement`` and ``least_agreement``: mean and least absolute correlation of its
        sources with those of the best restart, on held-out rows, with a discrete u centred out.
    effect_of_u_ : array (2, n_components) or None
        How much the distribution of each source differs between values of u on held-out rows, as a total
        variation distance from 0 to 1, and its standard deviation by chance; None with fewer than 50.
    modulation_gains_ : array (2, d) or None
        With ``volume="preserving"``, how much u tells about each latent, in nats per row, and the standard
        error: the mean of log p(z_i|u) − log p(z_i) over held-out rows, sources first. Otherwise None.
    noise_gain_ : array (3,) or None
        Level of noise, as a share of each column's standard deviation, that explains held-out rows best; what it
        adds to their likelihood, nats per row; and the standard error. A clear gain gives a warning, which hands
        over to `IVAE`. None with few rows.
    fit_rows_, held_out_rows_, gross_rows_ : int arrays
        Rows that were fitted, held out, and left out as gross spikes.
    states_ : int array (N,)
        With ``prior="hmm"``, the most probable path of hidden states, numbered from the most frequent one.
    transition_matrix_ : array (n_states, n_states)
        With ``prior="hmm"``, the probabilities of moving from one state to another between two rows.
    stationary_distribution_ : array (n_states,)
        With ``prior="hmm"``, the share of time that the chain spends in each state in the long run.
    seed_, n_iter_, n_features_in_, feature_names_in_, fit_seconds_

    References
    ----------
    Khemakhem, Kingma, Monti, Hyvärinen (2020), Variational autoencoders and nonlinear ICA, theorems
    1 to 3. Sorrenson, Rother, Köthe (2020), Disentanglement by nonlinear ICA with general
    incompressible-flow networks. Li, Hooi, Lee (2020), Identifying through flows for recovering
    latent representations. Dinh, Sohl-Dickstein, Bengio (2017), Density estimation using Real NVP.
    Hälvä, Hyvärinen (2020), Hidden Markov nonlinear ICA: unsupervised learning from nonstationary time series.

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("icebeem", seed=0, layers=2, n_segments=10, n_per_segment=100)
    >>> ica = identica.FlowICA(max_iter=200, n_restarts=2, random_state=0).fit(data.X, u=data.u)
    >>> ica.transform(data.X).shape
    (1000, 5)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        volume: str = "free",
        network: str = "grown",
        prior: str = "auto",
        n_states: int | None = None,
        hidden_sizes: tuple[int, ...] | None = None,
        max_iter: int = 2500,
        n_restarts: int = 8,
        validation_fraction: float = 0.1,
        outlier_threshold: float | None = 50.0,
        precision: str = "float32",
        random_state: Any = None,
        callbacks: Any = None,
        checkpoint: Any = None,
    ):
        self.n_components = n_components
        self.volume = volume
        self.network = network
        self.prior = prior
        self.n_states = n_states
        self.hidden_sizes = hidden_sizes
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.validation_fraction = validation_fraction
        self.outlier_threshold = outlier_threshold
        self.precision = precision
        self.random_state = random_state
        self.callbacks = callbacks
        self.checkpoint = checkpoint

    def build(self, problem: Problem) -> list[Stage]:
        """Growth layer by layer, couplings where they help, then a quasi-Newton polish."""
        return self._plan(problem).stages()

    @property
    def _preserving(self) -> bool:
        if self.volume not in ("free", "preserving"):
            raise ValueError(f"volume must be 'free' or 'preserving', got {self.volume!r}")
        return self.volume == "preserving"

    def _n_scores(self) -> int | None:
        return None if self._preserving else self.n_components

    def _plan(self, problem: Problem) -> FlowPlan | VolumePlan:
        if self.prior not in list(_FAMILIES):
            raise ValueError(f"prior must be one of {', '.join(_FAMILIES)}, got {self.prior!r}")
        n = problem.n_components
        family = _FAMILIES[self.prior](n)
        if self.network not in ("grown", *KINDS):
            raise ValueError(f"network must be 'grown' or one of {', '.join(KINDS)}, got {self.network!r}")
        if self._hidden and self._preserving:
            raise ValueError("prior='hmm' needs volume='free', got volume='preserving'")
        if self.network != "grown" and (self._hidden or self._preserving):
            raise ValueError(
                f"network={self.network!r} goes with volume='free' and without prior='hmm'; leave it at 'grown'"
            )
        if self.n_states is not None and not self._hidden:
            raise ValueError(f"n_states={self.n_states!r} is for prior='hmm', got prior={self.prior!r}")
        if not problem.discrete and self.prior in ("gaussian-scale", "laplace"):
            raise DataError(
                f"prior={self.prior!r} needs labels as u, got a continuous u; use prior='auto', 'gaussian' or "
                "'general', or cut u into bins"
            )
        n_segments = problem.n_segments if problem.discrete else 0
        if self._hidden:
            n_segments = self._n_hidden_states(n)
        restarts = check_count("n_restarts", self.n_restarts)
        if self._preserving:
            check_number(self.n_components, n, len(self.held_out_rows_), FEWEST_JUDGED)
            couplings, units = self._choose_couplings(problem)
            self.n_layers_ = couplings + 1
            return VolumePlan(couplings, units, n, family, n_segments, self.max_iter, restarts)
        if self.network != "grown":
            layers, units = self._choose_splines(problem)
            self.n_layers_ = layers + 1
            kind = KINDS[self.network]
            return SplinePlan(layers, units, n, family, n_segments, self.max_iter, restarts, kind)
        self.n_layers_ = self._choose_layers(problem)
        plan = HiddenMarkovPlan if self._hidden else FlowPlan
        return plan(
            n_layers=self.n_layers_,
            n_components=n,
            family=family,
            n_segments=n_segments,
            max_iter=self.max_iter,
            restarts=restarts,
            held_out=problem.held_out,
            couplings=affordable_refinement(n, problem.n_rows) if self.hidden_sizes is None else 0,
            learns_shape=self.prior == "auto" and problem.discrete,
        )

    def _order(self, codes: IntArray) -> IntArray:
        """Enough rows of a segment in every batch, and every segment among the rows that are monitored."""
        segments = int(codes.max()) + 1
        wanted = max(ROWS_PER_SEGMENT, BATCH_SIZE // segments)
        per_segment = max(1, min(wanted, MONITOR_ROWS // segments))
        return interleaved(codes, per_segment, named_rng(self.seed_, "order"))

    def _choose_layers(self, problem: Problem) -> int:
        n = problem.n_components
        if self.hidden_sizes is None:
            return min(_DEFAULT_LAYERS, affordable_layers(n, problem.n_rows))
        sizes = check_sizes(self.hidden_sizes)
        if any(size != n for size in sizes):
            raise ValueError(
                f"hidden_sizes={sizes}, but layers of an invertible network have as many units as there are "
                f"components: use {(n,) * len(sizes)}, or () for a linear map"
            )
        return len(sizes) + 1

    def _choose_couplings(self, problem: Problem) -> tuple[int, int]:
        if problem.n_components < 2:
            return 0, 0
        if self.hidden_sizes is None:
            return affordable_couplings(problem.n_components, problem.n_rows)
        return _equal_sizes(check_sizes(self.hidden_sizes))

    def _train(
        self, problem: Problem, checkpoint: Checkpoint | None, callbacks: Sequence[Callback] | None = None
    ) -> Fit:
        callbacks = check_callbacks(self.callbacks) if callbacks is None else callbacks
        if not self._chooses_shape(problem):
            return self._grow(problem, checkpoint, callbacks)
        first = self._grow(
            problem, checkpoint, [within(callback, 0.0, FIRST_SHARE) for callback in callbacks]
        )
        if first.status is Status.STOPPED:
            return first
        choice = ShapeChoice(problem.n_segments, self.max_iter, problem.data, problem.held_out, self.seed_)  # type: ignore[arg-type]
        return choice.better(first, callbacks, checkpoint)

    def _grow(self, problem: Problem, checkpoint: Checkpoint | None, callbacks: Sequence[Callback]) -> Fit:
        plan = self._plan(problem)
        if not isinstance(plan, FlowPlan):
            return super()._train(problem, checkpoint, callbacks)
        if isinstance(plan, HiddenMarkovPlan):
            return fit_by_turns(plan, problem.data, problem.held_out, self.seed_, callbacks, checkpoint)
        return fit_in_rounds(plan, problem.data, problem.held_out, self.seed_, callbacks, checkpoint)

    def _chooses_shape(self, problem: Problem) -> bool:
        """Whether a learned base measure is tried after the learned power; few rows determine none."""
        ample = problem.held_out is not None and problem.data.weight is None
        return self.prior == "auto" and problem.discrete and ample and not self._preserving

    def _adopt(self, system: FlowModel, problem: Problem, X: FloatArray) -> None:
        super()._adopt(system, problem, X)
        self.noise_gain_ = None
        prior, held_out = self.model_.prior, problem.held_out
        # Few rows fit roughly, and noise would only smooth that; hidden states are not known of single rows.
        few = problem.data.weight is not None or len(self.held_out_rows_) < FEWEST_JUDGED
        known = problem.encoder is not None and isinstance(prior, ModulatedPrior)
        if self._preserving or few or not known or held_out is None:
            return
        judged = held_out.head(min(len(self.held_out_rows_), NOISE_ROWS))
        found = noise_gain(self.model_, self.whitening_, judged, self.seed_)
        self.noise_gain_ = np.asarray(found)
        warn_of_noise(found, self.n_components_)

    def _choose_splines(self, problem: Problem) -> tuple[int, int]:
        """Layers and units; (0, 0) is a linear map."""
        if problem.n_components < 2:
            return 0, 0
        if self.hidden_sizes is None:
            return affordable_splines(KINDS[self.network], problem.n_components, problem.n_rows)
        return _equal_sizes(check_sizes(self.hidden_sizes))

    def _separate(
        self,
        system: FlowModel,
        problem: Problem,
        z: FloatArray,
        held_out: Any,
        effect: FloatArray | None,
        order: IntArray,
    ) -> tuple[FlowModel, IntArray]:
        """Latents that u does not modulate become noise, with one density for all u."""
        self.modulation_gains_ = None
        if not self._preserving:
            return system, order
        prior: Any = system.prior
        common = common_density(system, problem.data)
        rows, u = z[:JUDGED_ROWS].astype(problem.data.x.dtype), problem.data.u
        if effect is not None:
            rows, u = held_out, problem.held_out.u  # type: ignore[union-attr]
        clear = np.ones(len(order), bool) if effect is None else clear_effects(*effect)
        found = rank_directions(prior, common, rows, np.asarray(u[: len(rows)]), clear, self.n_components)
        n = self.n_components_ = found.n_informative
        self.modulation_gains_ = np.stack([found.gains, found.errors])
        # Sources come in the stated order, noise by what little u tells about it.
        sources = order[np.isin(order, found.order[:n])]
        rank = np.argsort(found.order)
        self.modulation_gains_[:, :n] = self.modulation_gains_[:, rank[sources]]
        prior = with_common_noise(prior, common, found.order[n:])
        return FlowModel(system.demixer, system.family, prior), np.concatenate([sources, found.order[n:]])


def _equal_sizes(sizes: tuple[int, ...]) -> tuple[int, int]:
    """Number and units of couplings or layers, whose networks are equally large."""
    if len(set(sizes)) > 1:
        raise ValueError(
            f"hidden_sizes={sizes}, but couplings have networks of equal size: use {(sizes[0],) * len(sizes)}, "
            "or () for a linear map"
        )
    return (len(sizes), sizes[0]) if sizes else (0, 0)
