"""`FlowICA`: nonlinear ICA by exact likelihood."""

from typing import Any

from identica.data import interleaved
from identica.errors import DataError
from identica.estimators.base import Problem
from identica.estimators.exact import ExactEstimator
from identica.estimators.flow_stages import (
    BATCH_SIZE,
    ROWS_PER_SEGMENT,
    FlowPlan,
    affordable_layers,
    refinable,
)
from identica.estimators.validation import check_count, check_sizes
from identica.families import Family, GaussianLocationScale, GaussianScale, LaplaceScale, PowerLocationScale
from identica.random import named_rng
from identica.training import Stage
from identica.training.loop import MONITOR_ROWS
from identica.typing import IntArray

_DEFAULT_LAYERS = 5
_FAMILIES: dict[str, Family] = {
    "gaussian": GaussianLocationScale(),
    "gaussian-scale": GaussianScale(),
    "laplace": LaplaceScale(),
}


class FlowICA(ExactEstimator):
    """Nonlinear ICA by the exact likelihood of an invertible network, for noiseless mixtures.

    The model is x = f(z) with independent sources z_i given u. For a discrete u the best prior of
    every segment is a closed form of the sources, so that only the inverse of f is learned: an
    invertible network that grows layer by layer, in several restarts, of which the held-out
    likelihood chooses one. Couplings then refine the winner if held-out rows gain from them. No true
    sources are used at any point. With more columns than components, X is first reduced to its leading
    principal components.

    Parameters
    ----------
    n_components : int or None
        Number of sources; None takes as many as X has linearly independent columns.
    prior : {"auto", "gaussian", "gaussian-scale", "laplace"}
        Distribution of each source given u. ``"auto"`` has a location and a scale modulated by u and learns
        the shape: a generalised Gaussian whose power (1 is Laplace, 2 is Gaussian) is a parameter of each
        source. The others fix it: Gaussian with mean and variance modulated by u, Gaussian with modulated
        variance only, or Laplace with modulated scale about 0.
    hidden_sizes : tuple of int or None
        One entry per hidden layer of the network. An invertible network has as many units in every
        layer as there are components, so only the number of entries matters, and they must equal
        the number of components. ``()`` is a linear map. None takes four hidden layers, fewer if
        there are too few rows to determine them, and tries couplings after them.
    max_iter : int
        Optimiser steps over all stages of growth; refinement and polish come on top, in proportion.
    n_restarts : int
        Networks trained side by side.
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
        Seed, held-out objective and status of each restart, and the first network that it grew from.
    effect_of_u_ : array (2, n_components) or None
        How much the distribution of each source differs between values of u on held-out rows, as a total
        variation distance from 0 to 1, and its standard deviation by chance; None with fewer than 50.
    fit_rows_, held_out_rows_, gross_rows_ : int arrays
        Rows that were fitted, held out, and left out as gross spikes.
    seed_, n_iter_, n_features_in_, feature_names_in_, fit_seconds_

    References
    ----------
    Khemakhem, Kingma, Monti, Hyvärinen (2020), Variational autoencoders and nonlinear ICA, theorems
    1 to 3. Sorrenson, Rother, Köthe (2020), Disentanglement by nonlinear ICA with general
    incompressible-flow networks. Li, Hooi, Lee (2020), Identifying through flows for recovering
    latent representations. Dinh, Sohl-Dickstein, Bengio (2017), Density estimation using Real NVP.

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
        prior: str = "auto",
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
        self.prior = prior
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

    def _plan(self, problem: Problem) -> FlowPlan:
        if self.prior not in ("auto", *_FAMILIES):
            raise ValueError(f"prior must be one of auto, {', '.join(_FAMILIES)}, got {self.prior!r}")
        n = problem.n_components
        family = PowerLocationScale.gaussian(n) if self.prior == "auto" else _FAMILIES[self.prior]
        if not problem.discrete and self.prior not in ("auto", "gaussian"):
            raise DataError(
                f"prior={self.prior!r} needs labels as u, got a continuous u; use prior='auto' or 'gaussian', or "
                "cut u into bins"
            )
        self.n_layers_ = self._choose_layers(problem)
        return FlowPlan(
            n_layers=self.n_layers_,
            n_components=problem.n_components,
            family=family,
            n_segments=problem.n_segments if problem.discrete else 0,
            max_iter=self.max_iter,
            restarts=check_count("n_restarts", self.n_restarts),
            held_out=problem.held_out,
            refined=self.hidden_sizes is None and refinable(n, problem.n_rows),
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
