"""`MarginalMLE`: a latent-variable model by direct maximum likelihood, the integral taken by quadrature."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from identica.compilation import compiled
from identica.conditionals import ConstantPrior, Decoder, Observation
from identica.conditionals.laplace import LaplaceEncoder
from identica.data import Dataset
from identica.estimators.base import Problem
from identica.estimators.integrators import Integrator, choose_integrator
from identica.estimators.ivae_start import encoder_features
from identica.estimators.validation import check_count, check_sizes
from identica.estimators.variational import VariationalEstimator
from identica.expectations import QuasiMonteCarlo
from identica.models import LatentVariableModel, VariationalModel
from identica.objectives.marginal_likelihood import HeldOutLikelihood, Integral, MarginalLikelihood, untrusted
from identica.random import named_key
from identica.training import LBFGS, Adam, Stage
from identica.typing import FloatArray, Key

_BATCH = 256
_SMALL_DATA, _PATIENCE = 2048, 5
"""Below so many rows training ends after so many looks at the held-out rows without gain."""

_FIRST_NOISE = 0.05
"""Added to the first noise variance, in units of the standardised columns, as in `VAE`."""

_POLISH_STEPS, _POLISH_ROWS = 300, 2**16
_JUDGED_ROWS = 1024
_RANKING = MarginalLikelihood(QuasiMonteCarlo(64), "posterior")
"""Restarts are ranked by points on each posterior, never by the nodes that they were fitted to."""

_FINE = MarginalLikelihood(QuasiMonteCarlo(1024), "posterior", newton_steps=16)

_MOST_UNTRUSTED = 0.05
"""Share of rows with one dominant node above which the integral has failed."""

_INSTEAD = {
    "gauss-hermite": "integrator='adaptive' (or 'importance' beyond 5 components), or a larger n_nodes",
    "adaptive": "a larger n_nodes, or integrator='importance'",
    "qmc": "integrator='importance', or a larger n_nodes",
    "monte-carlo": "integrator='importance', or 'qmc' with a larger n_nodes",
    "importance": "a larger n_nodes, or fewer components",
}


class MarginalMLE(VariationalEstimator):
    """Maximum likelihood of x = f(z) plus noise, z ~ N(0, I), with log ∫ p(x|z) p(z) dz by quadrature.

    No encoder and no bound: the integral is a weighted sum over nodes, taken in log space, and its
    gradient is Fisher's identity. There is no amortisation gap and no inner loop; the price is one
    evaluation of the decoder per node. Nodes on the prior are cheap while posteriors are wide and fail
    when they are narrower than the distance of two nodes; nodes on each posterior are found by a few
    Newton steps per row and hold at any noise. `integrator_reason_` says what was chosen and why.

    Without an auxiliary variable the latents are unidentified: any rotation of z explains the data as
    well, so judge the model by its likelihood. u is accepted and ignored. `transform` gives modes of the
    posteriors (exact means for a linear Gaussian decoder), by Laplace's approximation.

    Parameters
    ----------
    n_components : int or None
        Dimension of z; None takes as many as X has linearly independent columns.
    integrator : {"auto", "gauss-hermite", "adaptive", "qmc", "importance", "monte-carlo"}
        Nodes on the prior: a fixed Gauss-Hermite grid, quasi-Monte Carlo with a new randomisation at
        each step, or plain Monte Carlo, for comparison. Nodes on Laplace's approximation of each
        posterior: a Gauss-Hermite grid (``"adaptive"``; beyond 5 components 2n cubature points), or
        randomised quasi-Monte Carlo points as importance samples. ``"auto"`` takes the cheapest that the
        number of components and the width of the posteriors at the start allow.
    n_nodes : int or None
        Nodes per dimension for the grids, in total for the others (a power of two for quasi-Monte
        Carlo); None takes 64, 32, 16 and 8 (Gauss-Hermite) or 15, 7, 5, 4 and 3 (adaptive) for 1, 2, …
        components, 2048 points of the prior, or 64 importance samples.
    likelihood : str
        Distribution of the columns given z, as in `VAE`.
    noise : {"diagonal", "isotropic", "scalar-network", "network"} or float
        As in `IVAE`; learned jointly with the decoder.
    hidden_sizes : tuple of int
        Units of each hidden layer of the decoder; ``()`` is a linear decoder: factor analysis, PPCA, or
        with binary columns the two-parameter logistic model of item response theory.
    max_iter : int
        Optimiser steps. Where nodes are fixed, up to 300 L-BFGS steps on all rows (at most 65,536)
        follow; a linear decoder with fixed nodes takes these alone.
    n_restarts : int
        Decoders trained side by side.
    validation_fraction, outlier_threshold, precision, random_state, callbacks, checkpoint
        As in `IVAE`.

    Attributes
    ----------
    model_ : VariationalModel
        With Laplace's approximation as encoder, or the exact posterior of a linear Gaussian decoder.
    integrator_ : str
        What ``"auto"`` took.
    integrator_reason_ : str
        Why.
    n_nodes_ : int
        Number of nodes in all.
    untrusted_share_ : float
        Share of rows of which one node alone carries most of the weight; above .05 the fit warns.
    integration_error_ : float
        Mean log-likelihood of fitted rows by the integrator's nodes minus that by 1024 points on each
        posterior, nats per row. Far from 0 if the nodes have failed.
    n_components_, converged_, status_, history_, restarts_, fit_rows_, held_out_rows_, gross_rows_
        As in `IVAE`.

    Raises
    ------
    ValueError
        If the integrator, the likelihood or a number is none of those that exist.
    identica.DataError
        If the data do not suit the likelihood, or the nodes not the number of components.

    References
    ----------
    Bock, Aitkin (1981), Marginal maximum likelihood estimation of item parameters. Liu, Pierce (1994), A
    note on Gauss-Hermite quadrature. Correia et al. (2023), Continuous mixtures of tractable
    probabilistic models, for quasi-Monte Carlo.

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("figure1", seed=0, n_per_segment=100)
    >>> fit = identica.MarginalMLE(n_components=1, hidden_sizes=(), random_state=0).fit(data.X)
    >>> fit.integrator_
    'adaptive'
    >>> fit.transform(data.X).shape
    (500, 1)
    """

    _requires_u: ClassVar[bool] = False

    def __init__(
        self,
        n_components: int | None = None,
        *,
        integrator: str = "auto",
        n_nodes: int | None = None,
        likelihood: str = "gaussian",
        noise: str | float = "diagonal",
        hidden_sizes: tuple[int, ...] = (64, 64),
        max_iter: int = 2000,
        n_restarts: int = 2,
        validation_fraction: float = 0.1,
        outlier_threshold: float | None = 50.0,
        precision: str = "float32",
        random_state: Any = None,
        callbacks: Any = None,
        checkpoint: Any = None,
    ):
        self.n_components = n_components
        self.integrator = integrator
        self.n_nodes = n_nodes
        self.likelihood = likelihood
        self.noise = noise
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
        """Ascent on batches, then a polish on all rows where the nodes stay the same."""
        start = self._start(problem)
        restarts = check_count("n_restarts", self.n_restarts)
        chosen = self._integrator(self.integrator, start, problem)
        self.integrator_, self.integrator_reason_ = chosen.name, chosen.reason
        self.n_nodes_ = chosen.likelihood.nodes.count(problem.n_components)
        evaluate = HeldOutLikelihood(chosen.likelihood if chosen.exact else _RANKING)
        linear = not start.hidden_sizes
        stages = []
        # Networks have many optima; a linear decoder has one that matters, which L-BFGS finds at once.
        if not (linear and chosen.deterministic):
            stages.append(
                Stage(
                    "ascent",
                    start.prepare,
                    chosen.likelihood,
                    evaluate,
                    Adam(rate=3e-3, clip=10.0, warmup=200),
                    self.max_iter,
                    restarts=restarts,
                    # Small data are padded; slices of them could miss all real rows.
                    batch_size=_BATCH if problem.data.weight is None else None,
                    patience=_PATIENCE if problem.n_rows < _SMALL_DATA else None,
                )
            )
        if chosen.deterministic:
            prepare = _kept if stages else start.prepare
            stages.append(
                Stage(
                    "polish",
                    prepare,
                    chosen.likelihood,
                    evaluate,
                    LBFGS(),
                    min(_POLISH_STEPS, self.max_iter),
                    batch_size=_POLISH_ROWS,
                    patience=1,
                )
            )
        return stages

    def _start(self, problem: Problem) -> "_Start":
        x = np.asarray(problem.data.x, np.float64)[: problem.n_rows]
        n, dtype = problem.n_components, problem.data.x.dtype
        observation = self._observation(problem)
        features = encoder_features(x, n, **self._encoding(observation), dtype=dtype)
        scores = np.asarray(features(problem.data.x[: problem.n_rows]), np.float64)[:, :n]
        weight, bias, observation = observation.linear_start(scores, x, extra_variance=_FIRST_NOISE)
        sizes = check_sizes(self.hidden_sizes)
        return _Start(observation, sizes, n, x.shape[1], weight.astype(dtype), bias.astype(dtype))

    def _integrator(self, name: str, start: "_Start", problem: Problem) -> Integrator:
        first = start.prepare(None, problem.data, named_key(problem.seed, "integrator"))
        return choose_integrator(name, self.n_nodes, first, problem.data.x[: problem.n_rows])

    def _adopt(self, system: LatentVariableModel, problem: Problem, X: FloatArray) -> None:  # pyright: ignore
        chosen = self._integrator(self.integrator_, self._start(problem), problem)
        decoder = system.likelihood
        assert isinstance(decoder, Decoder)
        encoder = LaplaceEncoder(decoder, problem.n_components)
        super()._adopt(VariationalModel(system, encoder), problem, X)
        self._judge(chosen, system, problem)

    def _judge(self, chosen: Integrator, system: LatentVariableModel, problem: Problem) -> None:
        """Whether the nodes still carry the integral of the fitted model."""
        if chosen.exact:
            self.untrusted_share_, self.integration_error_ = 0.0, 0.0
            return
        n = problem.n_components
        rows = Dataset(problem.data.x[: problem.n_rows][:_JUDGED_ROWS])
        own, fine = _integrals(system, rows, named_key(problem.seed, "judge"), chosen.likelihood)
        self.untrusted_share_ = float(np.mean(untrusted(chosen.likelihood, n, own.largest_share)))
        difference = np.asarray(own.rows, np.float64) - np.asarray(fine.rows, np.float64)
        self.integration_error_ = float(difference.mean())
        if self.untrusted_share_ > _MOST_UNTRUSTED:
            warnings.warn(
                f"MarginalMLE: for {self.untrusted_share_:.0%} of the rows one of {self.n_nodes_} nodes carries "
                f"more than half of the integral: posteriors are narrower than the distance of nodes, and the "
                f"fit has followed the nodes (error {self.integration_error_:+.2g} nats per row). Try "
                f"{_INSTEAD[chosen.name]}",
                ConvergenceWarning,
                stacklevel=4,
            )


@dataclass(frozen=True)
class _Start:
    """The linear decoder of principal components, from which training starts.

    Attributes
    ----------
    observation : Observation
        With the residual variance of principal components.
    hidden_sizes : tuple of int
    n_components, n_columns : int
    weight, bias : arrays (n, outputs) and (outputs,)
        Least-squares decoder of the white scores.
    """

    observation: Observation
    hidden_sizes: tuple[int, ...]
    n_components: int
    n_columns: int
    weight: FloatArray
    bias: FloatArray

    @property
    def prepare(self) -> Callable[[LatentVariableModel | None, Dataset, Key], LatentVariableModel]:
        """The linear decoder plus a small random network, for each restart."""

        def create(system: LatentVariableModel | None, data: Dataset, key: Key) -> LatentVariableModel:
            n = self.n_components
            decoder = Decoder.random(n, self.hidden_sizes, self.n_columns, self.observation, key=key)
            network = decoder.network.with_linear_part(self.weight, self.bias)  # type: ignore[arg-type]
            return LatentVariableModel(ConstantPrior(n), Decoder(network, self.observation))

        return create


def _kept(system: LatentVariableModel | None, data: Dataset, key: Key) -> LatentVariableModel:
    assert system is not None
    return system


@compiled
def _integrals(
    system: LatentVariableModel, rows: Dataset, key: Key, likelihood: MarginalLikelihood
) -> tuple[Integral, Integral]:
    """By the nodes of the fit, and by many points on each posterior."""
    q = _FINE.posterior(system, rows)
    own = likelihood.integral_on(None if likelihood.placement == "prior" else q, system, rows, key=key)
    return own, _FINE.integral_on(q, system, rows, key=key)
