"""`IVAE`: nonlinear ICA under noise by an identifiable variational autoencoder."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from identica.conditionals import Features, Observation
from identica.errors import DataError, DataWarning
from identica.estimators.base import Problem
from identica.estimators.flow_ica import FlowICA
from identica.estimators.ivae_flow_decoder import FlowDecoderPlan, allowed
from identica.estimators.ivae_stages import IVAEPlan
from identica.estimators.ivae_start import encoder_features, linear_start
from identica.estimators.posterior_choice import train_network
from identica.estimators.validation import check_callbacks, check_count, check_sizes
from identica.estimators.variance_profiles import inseparable_pairs, profile_distances
from identica.estimators.variational import VariationalEstimator
from identica.families import ExponentialFamily, GaussianLocationScale, GaussianScale, LaplaceScale
from identica.models.marginal_posterior import FactorEncoder
from identica.models.teacher import FlowTeacher
from identica.training import Callback, Checkpoint, Fit, Stage
from identica.typing import FloatArray

_FAMILIES: dict[str, ExponentialFamily] = {
    "gaussian": GaussianLocationScale(),
    "gaussian-scale": GaussianScale(),
    "laplace": LaplaceScale(),
}

_MOST_COMPONENTS = 50
_BATCH = 256
_SMALL_BATCH = 512


class IVAE(VariationalEstimator):
    """Identifiable variational autoencoder: noisy nonlinear ICA with an auxiliary variable.

    The model is x = f(z) + noise with sources z_i that are independent given u, each from an exponential
    family whose parameters depend on u. The posterior is a learned Gaussian likelihood factor times
    the prior, with full covariance; under Gaussian noise so small that held-out rows gain, Gauss-Newton steps of the
    decoder go on from there. Training starts from features that tell segments apart, whose
    last linear ambiguity joint diagonalisation resolves (with few segments also from a flow), then
    maximises an importance-weighted bound of the likelihood. Held-out rows choose among the starts; no
    true sources are used at any point.

    Parameters
    ----------
    n_components : int or None
        Number of sources; None takes as many as X has linearly independent columns.
    prior : {"gaussian", "gaussian-scale", "laplace"}
        Distribution of each source given u: Gaussian with mean and variance modulated by u, Gaussian
        with modulated variance only, or Laplace with modulated scale.
    likelihood : {"gaussian", "student-t", "bernoulli", "poisson", "negative-binomial", "categorical"}
        Distribution of the columns given the sources: real numbers with Gaussian noise, or with noise of
        heavy tails (scale and degrees of freedom learned per column); zeros and ones; counts, or counts that
        vary more than Poisson's (learned per column); or codes 0, 1, … of categories in each column.
    noise : {"diagonal", "isotropic", "scalar-network", "network"} or float
        Variance of Gaussian noise, with ``likelihood="gaussian"`` only: one for each column, one for all, or
        a function of z (one per row, or one per column and row), or a fixed number in units of the
        standardised columns.
    decoder : {"auto", "network", "flow"}
        From sources to columns: a network, or the inverse of a flow, which needs as many sources as columns
        and Gaussian noise that is the same for all rows, and finds hard mixtures more surely. The
        posterior then follows from the flow. ``"auto"`` takes the flow where it can and rows are not few.
    missing : {"error", "marginalise"}
        What NaN in X is: an error, or a value that was not observed, with ``likelihood="gaussian"`` or
        ``"student-t"``. The likelihood then runs over what was observed, the encoder is given the conditional
        means of a Gaussian for the rest and is told which they are. A row without any value has the
        prior given u for its posterior. Assumes that whether a value is missing depends on u and
        the observed values only.
    hidden_sizes : tuple of int
        Units of each hidden layer of the encoder and of the decoder, where they are networks; ``()`` is a
        linear model.
    max_iter : int
        Optimiser steps over all stages.
    n_restarts : int
        Contrastive starts, of which the two best are trained to the end.
    validation_fraction : float
        Share of rows, drawn within segments, held out for choosing; 0 fits on every row.
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
    model_ : VariationalModel
    n_components_ : int
    collapsed_components_ : int array
        Components of which x says nothing beyond u.
    explained_shares_ : array of shape (n_components,)
        Share of each source's variance within segments that x explains.
    variance_distances_ : array of shape (2, n_components, n_components) or None
        How differently the variances of two sources change with a discrete u (standard deviation of the
        logarithm of their ratio), and the part that chance makes; see the report. A pair below .3 is hardly
        told apart.
    converged_ : bool
    status_ : identica.errors.Status
    history_ : dict of arrays
        ``stage, step, restart, loss, held_out``, nats per row.
    restarts_ : list of dict
        Seed, held-out objective and status of the starts that were trained longest side by side (two networks, three
        flows), and ``agreement`` and ``least_agreement`` of their sources with those of the best, as in `FlowICA`.
    fit_rows_, held_out_rows_, gross_rows_ : int arrays
        Rows that were fitted, held out, and left out as gross spikes.
    seed_, n_iter_, n_features_in_, feature_names_in_, fit_seconds_

    References
    ----------
    Khemakhem, Kingma, Monti, Hyvärinen (2020), Variational autoencoders and nonlinear ICA. Burda,
    Grosse, Salakhutdinov (2016), Importance weighted autoencoders. Hyvärinen, Morioka (2016),
    Unsupervised feature extraction by time-contrastive learning and nonlinear ICA. Pham (2001), Joint
    approximate diagonalization of positive definite Hermitian matrices.

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("figure1", seed=0, n_per_segment=100)
    >>> ivae = identica.IVAE(n_components=2, max_iter=100, n_restarts=2, random_state=0)
    >>> S = ivae.fit(data.X, u=data.u).transform(data.X, u=data.u)
    >>> S.shape
    (500, 2)
    """

    def __init__(
        self,
        n_components: int | None = None,
        *,
        prior: str = "gaussian",
        likelihood: str = "gaussian",
        noise: str | float = "diagonal",
        missing: str = "error",
        decoder: str = "auto",
        hidden_sizes: tuple[int, ...] = (64, 64),
        max_iter: int = 12000,
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
        self.likelihood = likelihood
        self.noise = noise
        self.missing = missing
        self.decoder = decoder
        self.hidden_sizes = hidden_sizes
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.validation_fraction = validation_fraction
        self.outlier_threshold = outlier_threshold
        self.precision = precision
        self.random_state = random_state
        self.callbacks = callbacks
        self.checkpoint = checkpoint

    def taught_by(self, flow: FlowICA | None) -> "IVAE":
        """Let one start of the next fits come from a flow fitted to the same rows; None takes that back.

        A flow ignores noise; what it found is a far better start of a network under little noise than chance is.
        Where the number of components differs it is not taken, nor for a decoder that is a flow: that grows its own,
        without what the other had learned by heart of the noise.
        """
        self._flow = None if flow is None else (flow.model_, flow.whitening_)
        return self

    def _teacher(self, problem: Problem) -> FlowTeacher | None:
        flow, whitening = getattr(self, "_flow", None) or (None, None)
        if flow is None or whitening is None or flow.n_components != problem.n_components:
            return None
        if self._takes_unknown():  # rows are of another form than those of the flow
            return None
        n, dtype = problem.n_components, problem.data.x.dtype
        scale = problem.whitening.scale / whitening.scale
        center = (whitening.center - problem.whitening.center) / problem.whitening.scale
        kept = whitening.rotation[:, :n] / np.sqrt(whitening.eigenvalues[:n])
        features = Features(jnp.asarray(center, dtype), jnp.asarray(scale[:, None] * kept, dtype))
        return FlowTeacher(features, jax.tree.map(jnp.asarray, flow), n)

    def build(self, problem: Problem) -> list[Stage]:
        """Contrastive start, decoder regression, fine-tuning of the bound, linear polish."""
        observation = self._checked(problem)
        if self._flow_decodes(problem, observation):
            return self._flow_stages(problem, observation)
        return self._network_plan(problem, observation).stages()

    def _checked(self, problem: Problem) -> Observation:
        """The observation model, after a look at what else is asked for."""
        if self.prior not in list(_FAMILIES):
            raise ValueError(f"prior must be one of {', '.join(_FAMILIES)}, got {self.prior!r}")
        n = problem.n_components
        if n > _MOST_COMPONENTS:
            raise DataError(
                f"{n} components are too many for a posterior with full covariance (at most {_MOST_COMPONENTS}); "
                "set n_components to the number of sources you expect"
            )
        return self._observation(problem)

    def _flow_stages(self, problem: Problem, observation: Observation) -> list[Stage]:
        n = problem.n_components
        x = np.asarray(problem.data.x, np.float64)[: problem.n_rows]
        return FlowDecoderPlan(
            features=encoder_features(x, n, dtype=problem.data.x.dtype),
            observation=observation,  # type: ignore[arg-type]
            family=_FAMILIES[self.prior],
            n_components=n,
            n_segments=problem.n_segments if problem.discrete else 0,
            max_iter=self.max_iter,
            restarts=check_count("n_restarts", self.n_restarts),
            n_rows=problem.n_rows,
            held_out=problem.held_out,
        ).stages()

    def _network_plan(self, problem: Problem, observation: Observation) -> IVAEPlan:
        return IVAEPlan(
            start=linear_start(problem, **self._encoding(observation)),
            observation=observation,
            family=_FAMILIES[self.prior],
            n_components=problem.n_components,
            hidden_sizes=check_sizes(self.hidden_sizes),
            n_columns=self.n_features_in_,
            max_iter=self.max_iter,
            restarts=check_count("n_restarts", self.n_restarts),
            discrete=problem.discrete,
            batch_size=_batch_size(problem),
            n_rows=problem.n_rows,
            n_labels=problem.encoder.n_segments if problem.encoder is not None else 0,
            held_out=problem.held_out,
            teacher=self._teacher(problem),
        )

    def _train(
        self, problem: Problem, checkpoint: Checkpoint | None, callbacks: Sequence[Callback] | None = None
    ) -> Fit:
        observation = self._checked(problem)
        if self._flow_decodes(problem, observation):
            return super()._train(problem, checkpoint, callbacks)
        callbacks = check_callbacks(self.callbacks) if callbacks is None else callbacks
        plan = self._network_plan(problem, observation)
        return train_network(plan, problem.data, problem.held_out, self.seed_, callbacks, checkpoint)

    def _flow_decodes(self, problem: Problem, observation: Observation) -> bool:
        """Whether the decoder is the inverse of a flow."""
        if self.decoder not in ("auto", "network", "flow"):
            raise ValueError(f"decoder must be 'auto', 'network' or 'flow', got {self.decoder!r}")
        if self.decoder == "flow" and self._takes_unknown():
            raise DataError(
                "decoder='flow' takes complete rows only; use decoder='network' with missing='marginalise'"
            )
        if self.decoder == "network" or self._takes_unknown():
            return False
        n, d = problem.n_components, problem.data.x.shape[1]
        if not problem.discrete and self.prior != "gaussian":
            return False
        linear = check_sizes(self.hidden_sizes) == ()
        fits = allowed(observation, n, d, problem.n_rows, linear)
        if self.decoder == "auto" and problem.data.weight is not None:
            return False  # few rows determine no flow of full depth
        if self.decoder == "flow" and not fits:
            raise DataError(
                "decoder='flow' needs as many components as columns (2 or more), Gaussian noise that is the same for "
                f"all rows, hidden layers, and more than a few rows; got {n} components, {d} columns, "
                f"likelihood={self.likelihood!r}, noise={self.noise!r}, hidden_sizes={self.hidden_sizes} and "
                f"{problem.n_rows} rows; use decoder='network'"
            )
        return fits

    def _weighs_draws(self) -> bool:
        """Posteriors are proposals, and the true ones not Gaussian."""
        return isinstance(self.model_.encoder, FactorEncoder) and not self.exact_

    def _report_collapse(self, mean: FloatArray, variance: FloatArray, codes: np.ndarray | None) -> None:
        super()._report_collapse(mean, variance, codes)
        self.variance_distances_ = None
        if codes is None or mean.shape[1] < 2 or np.bincount(codes).max() < 3:
            return
        order = np.abs(self.orientation_[0]).argmax(axis=1)
        distance, noise = profile_distances(mean[:, order], variance[:, order], codes)
        self.variance_distances_ = np.stack([distance, noise])
        pairs = inseparable_pairs(distance, noise)
        if pairs:
            shown = ", ".join(f"{i} and {j}" for i, j in pairs[:5]) + (", …" if len(pairs) > 5 else "")
            warnings.warn(
                f"IVAE: the variances of sources {shown} keep nearly one ratio whatever u is. Only differences in how "
                "variances change tell such sources apart: where u changes means alone, any rotation of them explains "
                "the rows as well. Take them for a mixture, or try a u that changes how much sources vary",
                DataWarning,
                stacklevel=5,
            )


def _batch_size(problem: Problem) -> int | None:
    """Rows per step; small data are padded, so their slices must be long enough to hold real rows."""
    rows = problem.data.n_rows
    if problem.data.weight is None:
        return _BATCH
    return None if rows <= _SMALL_BATCH else _SMALL_BATCH
