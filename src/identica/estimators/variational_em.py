"""`VariationalEM`: nonlinear factor analysis with one variational distribution per observation."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.conditionals import ConstantPrior, Decoder, GaussianObservation, Observation
from identica.conditionals.per_row import Nodes, PerRow, PerRowEncoder
from identica.data import Dataset
from identica.errors import DataError
from identica.estimators.base import Problem
from identica.estimators.exact import as_numpy
from identica.estimators.ivae_start import encoder_features
from identica.estimators.validation import check_count, check_sizes
from identica.estimators.variational import VariationalEstimator
from identica.expectations import GaussHermite, WeightedNodes
from identica.expectations.balanced import Balanced
from identica.models import LatentVariableModel, VariationalModel
from identica.objectives.expectation_maximization import (
    EMLoss,
    EMRanking,
    ExactUpdate,
    PerRowModel,
    QuadratureUpdate,
    VariationalUpdate,
    starting_rows,
)
from identica.random import named_rng
from identica.training import EM, Stage
from identica.typing import FloatArray, Key

_E_STEPS = ("auto", "exact", "quadrature", "variational")
_CHUNKS = {"exact": 10, "quadrature": 10, "variational": 2}
"""Steps between two looks at the held-out rows, whose variational distributions must be found anew."""

_PATIENCE = 3
_FIRST_NOISE = 0.05
"""Added to the first noise variance, as in `VAE`: almost without noise a network stays near the linear map."""

_PRIOR_NODES = {1: 41, 2: 21, 3: 11}
_POSTERIOR_NODES = {1: 9, 2: 4}
"""Gauss-Hermite nodes per dimension; on posteriors of more dimensions, `_BALANCED` balanced points."""

_BALANCED = 32


class VariationalEM(VariationalEstimator):
    """Nonlinear factor analysis: x = f(z) plus noise with z ~ N(0, I), by expectation-maximisation.

    Every observation has a variational distribution N(m_i, diag s_i²) of its own. E-steps optimise each to
    convergence, M-steps the decoder and the noise, and expectations are taken at fixed nodes, so no step
    ever lowers the bound; that is checked. There is no encoder and no gap from one: new rows have
    their own E-step. A linear Gaussian decoder (``hidden_sizes=()``) is factor analysis with
    ``noise="diagonal"`` and probabilistic principal components with ``noise="isotropic"``; its E-step and
    its likelihood are exact. Latents are unidentified, as in `VAE`.

    Parameters
    ----------
    n_components : int or None
        Dimension of z; None takes as many as X has linearly independent columns.
    e_step : {"auto", "exact", "quadrature", "variational"}
        The exact posterior (linear Gaussian decoders); responsibilities of Gauss-Hermite nodes of the prior
        (Bock and Aitkin, 1981; up to three components, noise that is not small), which maximise the
        likelihood itself; or one Gaussian per observation. ``"auto"`` is exact where that can be had, and
        variational elsewhere.
    n_nodes : int or None
        Nodes per dimension of the E-step by quadrature (None: 41, 21, 11), or points on each posterior.
    likelihood : str
        Distribution of the columns given z, as in `VAE`.
    noise : {"diagonal", "isotropic", "scalar-network", "network"} or float
        As in `IVAE`.
    hidden_sizes : tuple of int
        Units of each hidden layer of the decoder; ``()`` is a linear model.
    max_iter : int
        Steps of expectation-maximisation.
    m_steps : int
        Quasi-Newton steps on the decoder in each M-step.
    follow : bool
        Let the variational distributions follow every one of these steps. False holds them, which is EM in
        the narrow sense: cheaper steps, but each goes no further than posteriors are wide, and with
        little noise hundreds of them gain less than ten that follow.
    tolerance : float
        Ten steps (two, if variational) that gain less, in nats per row of held-out rows, are steps without
        gain; three times in a row they end the fit.
    n_restarts : int
        Models fitted side by side. The first begins with the principal components, the others, if the decoder is
        a network, with directions drawn at random.
    validation_fraction, outlier_threshold, precision, random_state, callbacks, checkpoint
        As in `IVAE`. ``validation_fraction=0`` judges by the fitted rows.

    Attributes
    ----------
    model_ : VariationalModel
    e_step_ : str
        The E-step that was used.
    history_ : dict of arrays
        ``loss`` is the negative bound (the negative log-likelihood, if the E-step is exact or by
        quadrature) of the fitted rows after an E-step, as the model sees them: it never rises.
    collapsed_components_ : int array
        Components of which x says nothing.
    n_components_, converged_, status_, restarts_, fit_rows_, held_out_rows_, gross_rows_
        As in `IVAE`.

    Raises
    ------
    identica.errors.NotMonotoneError
        If a step lowered the bound by more than rounding.

    References
    ----------
    Neal, Hinton (1998), A view of the EM algorithm. Rubin, Thayer (1982), EM algorithms for ML factor
    analysis. Tipping, Bishop (1999), Probabilistic principal component analysis. Bock, Aitkin (1981).

    Examples
    --------
    >>> import identica
    >>> data = identica.simulate("linear", seed=0, n_segments=5, n_per_segment=50)
    >>> fitted = identica.VariationalEM(2, hidden_sizes=(), random_state=0).fit(data.X)
    >>> fitted.e_step_, fitted.log_likelihood(data.X).kind
    ('exact', 'exact')
    """

    _requires_u: ClassVar[bool] = False

    def __init__(
        self,
        n_components: int | None = None,
        *,
        e_step: str = "auto",
        n_nodes: int | None = None,
        likelihood: str = "gaussian",
        noise: str | float = "diagonal",
        hidden_sizes: tuple[int, ...] = (32, 32),
        max_iter: int = 100,
        m_steps: int = 30,
        follow: bool = True,
        tolerance: float = 1e-5,
        n_restarts: int = 1,
        validation_fraction: float = 0.1,
        outlier_threshold: float | None = 50.0,
        precision: str = "float64",
        random_state: Any = None,
        callbacks: Any = None,
        checkpoint: Any = None,
    ):
        self.n_components = n_components
        self.e_step = e_step
        self.n_nodes = n_nodes
        self.likelihood = likelihood
        self.noise = noise
        self.hidden_sizes = hidden_sizes
        self.max_iter = max_iter
        self.m_steps = m_steps
        self.follow = follow
        self.tolerance = tolerance
        self.n_restarts = n_restarts
        self.validation_fraction = validation_fraction
        self.outlier_threshold = outlier_threshold
        self.precision = precision
        self.random_state = random_state
        self.callbacks = callbacks
        self.checkpoint = checkpoint

    def build(self, problem: Problem) -> list[Stage]:
        """One stage of expectation-maximisation on all rows."""
        m_steps, restarts = check_count("m_steps", self.m_steps), check_count("n_restarts", self.n_restarts)
        if not isinstance(self.follow, (bool, np.bool_)):
            raise ValueError(f"follow must be True or False, got {self.follow!r}")
        tolerance = self.tolerance
        if (
            isinstance(tolerance, bool)
            or not isinstance(tolerance, (int, float, np.number))
            or not tolerance > 0
        ):
            raise ValueError(f"tolerance must be a positive number, got {tolerance!r}")
        starts, kind = self._starts(problem, restarts)
        updates = {
            "exact": ExactUpdate(),
            "quadrature": QuadratureUpdate(m_steps=m_steps),
            "variational": VariationalUpdate(m_steps=m_steps, follow=bool(self.follow)),
        }
        self.e_step_ = kind
        return [
            Stage(
                "EM",
                starts,
                EMLoss(kind),
                EMRanking(kind, problem.held_out is not None),
                EM(updates[kind]),
                self.max_iter,
                # From principal components, exact steps lead every restart to the same place.
                restarts=1 if kind == "exact" else restarts,
                chunk=_CHUNKS[kind],
                patience=_PATIENCE,
                tolerance=float(tolerance),
            )
        ]

    def _starts(self, problem: Problem, restarts: int) -> tuple[tuple["_Start", ...], str]:
        """Principal components first; for further restarts of a network other directions, drawn at random.

        EM leaves a direction that it began with only slowly, and the widest need not be the one to bend.
        """
        x = np.asarray(problem.data.x, np.float64)[: problem.n_rows]
        n, dtype = problem.n_components, problem.data.x.dtype
        observation, sizes = self._observation(problem), check_sizes(self.hidden_sizes)
        kind = self._kind(observation, sizes, n)
        features = encoder_features(x, n, **self._encoding(observation), dtype=dtype)
        scores = np.asarray(features(problem.data.x[: problem.n_rows]), np.float64)
        extra = _FIRST_NOISE if sizes else 1e-3
        nodes, starts = self._nodes(kind, n), []
        for restart in range(restarts if sizes else 1):
            z = scores[:, :n]
            if restart:
                rng = named_rng(problem.seed, "directions", restart)
                z = scores @ np.linalg.qr(rng.standard_normal((scores.shape[1], n)))[0]
                z = z / z.std(axis=0)
            weight, bias, own = observation.linear_start(z, x, extra_variance=extra)
            parts = weight.astype(dtype), bias.astype(dtype)
            starts.append(_Start(own, sizes, n, x.shape[1], *parts, nodes, kind))
        return tuple(starts), kind

    def _kind(self, observation: Observation, sizes: tuple[int, ...], n: int) -> str:
        if self.e_step not in _E_STEPS:
            raise ValueError(f"e_step must be one of {', '.join(_E_STEPS)}, got {self.e_step!r}")
        gaussian = isinstance(observation, GaussianObservation)
        exact = not sizes and gaussian and observation.noise not in ("scalar-network", "network")
        if self.e_step == "exact" and not exact:
            raise DataError(
                "e_step='exact' needs a linear Gaussian decoder (hidden_sizes=(), likelihood='gaussian', constant "
                "noise); use e_step='variational', or 'quadrature' for up to three components"
            )
        if self.e_step == "quadrature" and n not in _PRIOR_NODES:
            raise DataError(
                f"e_step='quadrature' takes up to {max(_PRIOR_NODES)} components, got {n}; use e_step='variational'"
            )
        if self.e_step != "auto":
            return self.e_step
        return "exact" if exact else "variational"

    def _nodes(self, kind: str, n: int) -> WeightedNodes:
        given = None if self.n_nodes is None else check_count("n_nodes", self.n_nodes)
        if kind == "quadrature":
            return GaussHermite(given or _PRIOR_NODES[n])
        if n in _POSTERIOR_NODES:
            return GaussHermite(given or _POSTERIOR_NODES[n])
        return Balanced(given or _BALANCED)

    def _adopt(self, system: PerRowModel, problem: Problem, X: FloatArray) -> None:  # pyright: ignore
        n, nodes = problem.n_components, system.nodes
        if self.e_step_ == "quadrature":
            # Nodes of the prior are for sums over the prior; posteriors have their own.
            nodes = _as_nodes(self._posterior_nodes(n), n, problem.data.x.dtype)
        encoder = PerRowEncoder(system.decoder, nodes, n)
        super()._adopt(VariationalModel(system.model, encoder), problem, X)

    def _posterior_nodes(self, n: int) -> WeightedNodes:
        return GaussHermite(_POSTERIOR_NODES[n]) if n in _POSTERIOR_NODES else Balanced(_BALANCED)


@dataclass(frozen=True, eq=False)
class _Start:
    """Some linear directions as a first decoder, with every row at Laplace's approximation.

    Attributes
    ----------
    observation : Observation
        With the residual variance of these directions.
    hidden_sizes : tuple of int
    n_components, n_columns : int
    weight, bias : arrays (n, outputs) and (outputs,)
        Least-squares decoder of the scores.
    nodes : WeightedNodes
    kind : str
        Of the E-step.
    """

    observation: Observation
    hidden_sizes: tuple[int, ...]
    n_components: int
    n_columns: int
    weight: FloatArray
    bias: FloatArray
    nodes: WeightedNodes
    kind: str

    def __call__(self, system: PerRowModel | None, data: Dataset, key: Key) -> PerRowModel:
        n = self.n_components
        decoder = Decoder.random(n, self.hidden_sizes, self.n_columns, self.observation, key=key)
        network = decoder.network.with_linear_part(self.weight, self.bias)  # type: ignore[arg-type]
        model = LatentVariableModel(ConstantPrior(n), Decoder(network, self.observation))
        rows: PerRow | None = None
        if self.kind == "variational":
            rows = as_numpy(_starting_rows(model, data.x, n))
        return PerRowModel(model, rows, _as_nodes(self.nodes, n, data.x.dtype))


def _as_nodes(nodes: WeightedNodes, n: int, dtype: Any) -> Nodes:
    points, log_shares = nodes.standard(n, dtype, key=None)
    return as_numpy(Nodes(points, jnp.exp(log_shares)))


@compiled
def _starting_rows(model: LatentVariableModel, x: jax.Array, n: int) -> PerRow:
    return starting_rows(model, x, n)
