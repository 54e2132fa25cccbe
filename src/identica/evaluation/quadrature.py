"""log p(x|u) by nodes placed where the posterior is: Gauss-Hermite and randomised quasi-Monte Carlo."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from identica.compilation import compiled
from identica.conditionals.small_matrices import cholesky_with_inverse
from identica.data import Dataset
from identica.evaluation.importance import Weighed, weigh
from identica.evaluation.target import PRIOR_SHARE, Proposal, RowLaw, Target, over_rows
from identica.expectations import LARGEST_NODE_SHARE, GaussHermite, QuasiMonteCarlo
from identica.models import VariationalModel
from identica.typing import Array, Key

_REFINEMENTS = 2
RANDOMISATIONS = 8
"""Independent randomisations from which the error of quasi-Monte Carlo is taken."""


@compiled
def gauss_hermite(system: VariationalModel, x: Array, u: Array | None, keys: Array, order: int) -> Weighed:
    """log p(x|u) by a tensor grid of Gauss-Hermite nodes adapted to each row.

    Nodes are placed by Laplace's approximation (Liu, Pierce, 1994), then twice by the mean and covariance that
    they found themselves (Naylor, Smith, 1982), which suits skewed posteriors better. Deterministic, exact for
    a Gaussian posterior, without a sign otherwise; a posterior of several separate modes is beyond it.

    Parameters
    ----------
    system : VariationalModel
    x : (B, d)
    u : (B, …) or None
    keys : (B, …)
        Not used: nothing is drawn.
    order : int
        Nodes Q in each of the n directions.

    Returns
    -------
    Weighed
        Its variance is the squared difference between Q and Q + 1 nodes, a measure of the error; its
        effective sample size the reciprocal of the largest node's share, which below 2 says that one node
        decides.
    """

    def one(target: Target, _: Key) -> Weighed:
        q = _refined(target, GaussHermite(order))
        logs, _ = _node_logs(target, q, GaussHermite(order))
        value = jax.nn.logsumexp(logs)
        other = jax.nn.logsumexp(_node_logs(target, q, GaussHermite(order + 1))[0])
        largest = jnp.exp(logs.max() - value)
        return Weighed(value, (value - other) ** 2, 1 / largest, jnp.full((), jnp.nan, value.dtype))

    return over_rows(one, system, Dataset(x, u), keys)


@compiled
def quasi_monte_carlo(
    system: VariationalModel, x: Array, u: Array | None, keys: Array, count: int, proposal: Proposal
) -> Weighed:
    """log of the mean weight over Sobol points, shifted at random eight times: a lower bound in expectation.

    Parameters
    ----------
    system : VariationalModel
    x : (B, d)
    u : (B, …) or None
    keys : (B, …)
        Raw key data, one key per row.
    count : int
        Points of each randomisation, a power of two.
    proposal : {"encoder", "laplace", "prior"}
        The Gaussian on which the points are placed. Unless it is the prior's, as many points of the prior's
        are added, and each point weighed by the density of the mixture (Owen, Zhou, 2000): a proposal that is
        too narrow then costs precision and no more.

    Returns
    -------
    Weighed
        The variance comes from the eight randomisations.
    """
    nodes = QuasiMonteCarlo(count)

    def one(target: Target, key: Key) -> Weighed:
        parts = [(0.0, _gaussian(*target.prior.moments()))]
        if proposal != "prior":
            law = target.laplace() if proposal == "laplace" else target.posterior
            q = law.given if isinstance(law, RowLaw) else _gaussian(*law.moments())
            parts = [(math.log1p(-PRIOR_SHARE), q), (math.log(PRIOR_SHARE), parts[0][1])]

        def estimate(key: Key) -> Array:
            logs = []
            for place, (share, q) in enumerate(parts):
                z, _, log_nodes = nodes.placed(q, key=jax.random.fold_in(key, place))
                mixed = jax.nn.logsumexp(jnp.stack([s + q.log_prob(z) for s, q in parts]), axis=0)[:, 0]
                logs.append(share + log_nodes + target.log_joint(z[:, 0]) - mixed)
            return jnp.concatenate(logs)

        logs = jax.lax.map(estimate, jax.random.split(key, RANDOMISATIONS))
        return weigh(jax.nn.logsumexp(logs, axis=1))._replace(
            effective_sample_size=weigh(logs.ravel()).effective_sample_size
        )

    return over_rows(one, system, Dataset(x, u), keys)


def _node_logs(
    target: Target, q: dist.Distribution, nodes: Any, key: Key | None = None
) -> tuple[Array, Array]:
    """Log-weights of nodes (K,), whose log-sum-exp estimates log p(x|u), and the nodes (K, n)."""
    z, log_q, log_nodes = nodes.placed(q, key=key)
    return log_nodes + target.log_joint(z[:, 0]) - log_q[:, 0], z[:, 0]


def _refined(target: Target, nodes: GaussHermite) -> dist.Distribution:
    """A Gaussian with the moments that nodes find, starting from Laplace's approximation."""
    laplace: Any = target.laplace().given
    start = dist.MultivariateNormal(laplace.mean, scale_tril=_root(laplace.covariance_matrix[0])[None])

    def refine(_: Array, moments: tuple[Array, Array]) -> tuple[Array, Array]:
        q = dist.MultivariateNormal(moments[0], scale_tril=moments[1])
        logs, z = _node_logs(target, q, nodes)
        shares = jax.nn.softmax(logs)
        mean = shares @ z
        covariance = jnp.einsum("k,ki,kj->ij", shares, z - mean, z - mean, precision="highest")
        root = _root(covariance)
        # Where one node has most of the weight, the moments are its own and say nothing.
        good = (shares.max() < LARGEST_NODE_SHARE) & jnp.isfinite(root).all()
        return jnp.where(good, mean[None], moments[0]), jnp.where(good, root[None], moments[1])

    moments = jax.lax.fori_loop(0, _REFINEMENTS, refine, (start.loc, start.scale_tril))
    return dist.MultivariateNormal(moments[0], scale_tril=moments[1])


def _root(covariance: Array) -> Array:
    return cholesky_with_inverse(covariance[:, :, None])[0][:, :, 0]


def _gaussian(mean: Array, variance: Array) -> dist.Distribution:
    return dist.Normal(mean[None], jnp.sqrt(variance)[None]).to_event(1)
