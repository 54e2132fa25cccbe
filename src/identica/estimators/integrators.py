"""Which nodes `MarginalMLE` integrates with: by name, or chosen from the posterior at the start."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.conditionals import Decoder, Evidence, GaussianObservation, StudentTObservation
from identica.conditionals.laplace import LaplaceEncoder
from identica.errors import DataError
from identica.estimators.validation import check_count
from identica.expectations import GaussHermite, MonteCarlo, QuasiMonteCarlo, WeightedNodes
from identica.expectations.spherical import SphericalCubature
from identica.models import LatentVariableModel
from identica.models.linear_gaussian import exact_encoder
from identica.objectives.marginal_likelihood import MarginalLikelihood
from identica.typing import Array

INTEGRATORS = ("auto", "gauss-hermite", "adaptive", "qmc", "importance", "monte-carlo")

_NODES_OF = {
    "gauss-hermite": {1: 64, 2: 32, 3: 16, 4: 8},
    "adaptive": {1: 15, 2: 7, 3: 5, 4: 4, 5: 3},
}
"""Default nodes per dimension; beyond, the grid is too large."""

_SAMPLES = {"qmc": 2048, "monte-carlo": 2048, "importance": 64}

_ROWS = 256
"""Rows whose posteriors decide."""

_NARROWEST = 2.0
"""Nodes on the prior are exact to about 1e-3 nats while √Q posterior standard deviations exceed this
(Q nodes per dimension). At x = (.9, .3, -.7) = (1, .5, -.8) z + noise: .213 √64 = 1.7, error 5e-3;
.342 √32 = 1.9, 7e-4; .588 √16 = 2.4, 1e-6; .073 √256 = 1.2, 6e-2."""

_FALLING_NOISE, _NARROWING = 10.0, 2.0
"""By how much posteriors may narrow in training, as a network explains more than the line it starts from: with
noise that is learned, and without. A parabola's fell from .57 to .05, and 64 nodes on the prior lost .1 nats."""

_FEWEST_EFFECTIVE = 64
"""Points of the prior that fall into a typical posterior, for quasi-Monte Carlo to be trusted."""

_LARGEST_QMC_DIMENSION = 8


@dataclass(frozen=True)
class Integrator:
    """How the integral is taken, and why so.

    Attributes
    ----------
    name : str
        One of `INTEGRATORS`, "auto" resolved.
    likelihood : MarginalLikelihood
        The objective with these nodes.
    deterministic : bool
        Whether its nodes are the same at every step.
    exact : bool
        Whether the nodes integrate without error.
    reason : str
        One sentence.
    """

    name: str
    likelihood: MarginalLikelihood
    deterministic: bool
    exact: bool
    reason: str


def choose_integrator(name: str, n_nodes: Any, start: LatentVariableModel, x: Array) -> Integrator:
    """The integrator of this name, or for "auto" the cheapest that the posteriors at the start allow.

    Parameters
    ----------
    name : str
        One of `INTEGRATORS`.
    n_nodes : int or None
        Nodes per dimension for grids, in total for samples; None takes defaults.
    start : LatentVariableModel
        The model before training.
    x : (N, d)
        Rows as the model sees them.

    Raises
    ------
    ValueError
        If the name is unknown.
    DataError
        If the number of nodes does not suit.
    """
    if name not in INTEGRATORS:
        raise ValueError(f"integrator must be one of {', '.join(INTEGRATORS)}, got {name!r}")
    if n_nodes is not None:
        check_count("n_nodes", n_nodes)
    n = start.prior(None).event_shape[0]
    linear_gaussian = exact_encoder(start.likelihood) is not None
    if name != "auto":
        exact = name == "adaptive" and linear_gaussian
        reason = f"{name} was asked for"
    elif linear_gaussian:
        name, exact = "adaptive", True
        reason = (
            "the decoder is linear with Gaussian noise, so posteriors are Gaussian and nodes on them exact"
        )
    else:
        exact = False
        name, reason = _chosen(start, x, n, n_nodes)
    nodes = SphericalCubature() if exact and n_nodes is None else _nodes(name, n, n_nodes)
    placement = "posterior" if name in ("adaptive", "importance") else "prior"
    deterministic = name in ("gauss-hermite", "adaptive")
    return Integrator(name, MarginalLikelihood(nodes, placement), deterministic, exact, reason)


def _chosen(start: LatentVariableModel, x: Array, n: int, n_nodes: int | None) -> tuple[str, str]:
    width, share = _posterior_size(start, x[:_ROWS], n)
    size = f"at the start a typical posterior has standard deviation {width:.2g} where it is narrowest"
    order = n_nodes or _NODES_OF["gauss-hermite"].get(n, 1)
    narrowing = _FALLING_NOISE if _learns_noise(start) else _NARROWING
    if n <= 2 and width * math.sqrt(order) >= _NARROWEST * narrowing:
        return "gauss-hermite", f"n = {n} and {size}, wider than the distance of {order} nodes per dimension"
    if n <= 3:
        return "adaptive", f"n = {n} and {size}, too narrow for fixed nodes on the prior, so nodes follow it"
    effective = (n_nodes or _SAMPLES["qmc"]) * share / narrowing**n
    if n <= _LARGEST_QMC_DIMENSION and effective >= _FEWEST_EFFECTIVE:
        return (
            "qmc",
            f"n = {n} is too many for a grid, and posteriors are wide enough for points of the prior",
        )
    return "importance", (
        f"n = {n} is too many for a grid, and a posterior takes {share:.1g} of the prior's volume, too little "
        "for points of the prior: they are drawn from Laplace's approximation of each posterior"
    )


def _posterior_size(start: LatentVariableModel, x: Array, n: int) -> tuple[float, float]:
    """Smallest standard deviation of a typical posterior, and its volume relative to the prior's."""
    variance, diagonal = (np.asarray(a, np.float64) for a in _posterior(start, x, n))
    narrowest = np.sqrt(variance).min(axis=1)
    log_det = np.log(diagonal).sum(axis=1)
    return float(np.median(narrowest)), float(np.exp(-np.median(log_det)))


@compiled
def _posterior(start: LatentVariableModel, x: Array, n: int) -> tuple[Array, Array]:
    q = LaplaceEncoder(_decoder(start), n)(Evidence(x, None, start.prior(None)))
    return q.variance, jnp.diagonal(q.factor)


def _learns_noise(start: LatentVariableModel) -> bool:
    """Whether the likelihood has a scale that falls as the decoder learns."""
    observation = getattr(start.likelihood, "observation", None)
    if isinstance(observation, GaussianObservation):
        return observation.noise != "fixed"
    return isinstance(observation, StudentTObservation)


def _nodes(name: str, n: int, n_nodes: int | None) -> WeightedNodes:
    if name in _NODES_OF:
        order = n_nodes or _NODES_OF[name].get(n)
        if order is None and name == "adaptive":
            return SphericalCubature()
        if order is None:
            raise DataError(
                f"integrator='gauss-hermite' has no grid for {n} components that is fine enough; use "
                "integrator='qmc' or 'importance', or at most 4 components"
            )
        return GaussHermite(order)
    samples = n_nodes or _SAMPLES[name]
    # Points with equal weights that fill the posterior evenly are better draws of it, too.
    return MonteCarlo(samples) if name == "monte-carlo" else QuasiMonteCarlo(samples)


def _decoder(model: LatentVariableModel) -> Decoder:
    decoder = model.likelihood
    if not isinstance(decoder, Decoder):
        raise TypeError("an integrator needs a neural decoder")
    return decoder
