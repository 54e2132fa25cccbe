"""One variational distribution per row: q_i = N(m_i, diag s_i²), found by optimisation and not by a network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

from identica.conditionals.base import Conditional, Evidence
from identica.conditionals.decoder import Decoder
from identica.conditionals.laplace import LaplaceEncoder
from identica.descent import descend
from identica.typing import Array

_MEMORY = 10


class PerRow(eqx.Module):
    """The parameters of q_i of B rows.

    Attributes
    ----------
    mean : (B, n)
        m_i.
    log_scale : (B, n)
        log s_i.
    """

    mean: Array
    log_scale: Array

    def rows(self, stop: int) -> "PerRow":
        """The first rows."""
        return PerRow(self.mean[:stop], self.log_scale[:stop])


class Nodes(eqx.Module):
    """Weighted points of N(0, I), at which expectations under every q_i are taken; they never change.

    Attributes
    ----------
    points : (K, n)
    shares : (K,)
        Weights, which sum to 1.
    """

    points: Array
    shares: Array

    def fixed(self) -> "Nodes":
        """The same nodes, through which no gradient passes."""
        return lax.stop_gradient(self)

    def placed(self, q: PerRow) -> Array:
        """m + s t of every row and node, (K, B, n)."""
        return q.mean + jnp.exp(q.log_scale) * self.points[:, None]


class PerRowEncoder(Conditional):
    """q(z|x, u) = N(m, diag s²) with m and s that maximise the bound of their own row.

    No network is learned and none can be wrong: the gap that amortisation leaves is zero. Each row starts
    at Laplace's approximation and takes quasi-Newton steps on its own bound, all rows of a batch at once,
    until a step would gain less than `TOLERANCE` nats. No gradient passes to the likelihood.

    Attributes
    ----------
    likelihood : Decoder
        p(x|z), the same as the model's.
    nodes : Nodes
        At which the expected log-likelihood is taken.
    n_components : int
    steps : int
        Most quasi-Newton steps.
    """

    likelihood: Decoder
    nodes: Nodes
    n_components: int = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=100)

    def __call__(self, context: Evidence) -> dist.Distribution:
        """q(z|x, u) for x (B, d): batch shape (B,), event shape (n,)."""
        likelihood, x = lax.stop_gradient((self.likelihood, context.x))
        moments = lax.stop_gradient((context.prior.mean, context.prior.variance))
        prior = dist.Normal(moments[0], jnp.sqrt(moments[1])).to_event(1)
        context = Evidence(x, None, prior)
        q = laplace_start(likelihood, context, self.n_components)
        q = expectation_step(likelihood, context, self.nodes.fixed(), q, self.steps)[0]
        return dist.Normal(q.mean, jnp.exp(q.log_scale)).to_event(1)


TOLERANCE = {"float32": 1e-6, "float64": 1e-10}
"""Gain of a step, in nats, below which a row has converged."""


def laplace_start(likelihood: Decoder, context: Evidence, n: int) -> PerRow:
    """The diagonal Gaussian nearest to Laplace's approximation: its mode, and one over its precisions."""
    laplace = LaplaceEncoder(likelihood, n)(context)
    return PerRow(laplace.mean, -0.5 * jnp.log((laplace.factor**2).sum(1).T))


def bound_of_rows(likelihood: Decoder, context: Evidence, nodes: Nodes, q: PerRow) -> Array:
    """E_q log p(x|z) − KL(q ‖ p(z|u)) of each row, nats (B,), for a Gaussian prior.

    The divergence is exact, the expectation is that of the nodes.
    """
    given: dist.Distribution = likelihood(nodes.placed(q))
    expected = jnp.tensordot(nodes.shares, given.log_prob(context.x), axes=1)  # type: ignore[arg-type]
    mean, variance = context.prior.mean, context.prior.variance
    ratio = jnp.exp(2 * q.log_scale) / variance
    divergence = 0.5 * (ratio + (q.mean - mean) ** 2 / variance - 1 - jnp.log(ratio)).sum(-1)
    return expected - divergence


def expectation_step(
    likelihood: Decoder,
    context: Evidence,
    nodes: Nodes,
    start: PerRow,
    steps: int,
    tolerance: float | None = None,
) -> tuple[PerRow, Array]:
    """The E-step: q_i that maximise their own bounds, and these bounds (B,), never below those of the start.

    A row ends when a step would gain less than ``tolerance`` nats, `TOLERANCE` if it is None. Steps are taken
    in units of the starting standard deviations, in which curvatures are near 1.
    """
    n = start.mean.shape[1]
    scale = jnp.exp(start.log_scale)

    def placed(step: Array) -> PerRow:
        return PerRow(start.mean + scale * step[:, :n], start.log_scale + step[:, n:])

    def loss(step: Array) -> tuple[Array, Array]:
        value = -bound_of_rows(likelihood, context, nodes, placed(step))
        return value.sum(), value

    def value_and_gradient(step: Array) -> tuple[Array, Array]:
        (_, value), gradient = jax.value_and_grad(loss, has_aux=True)(step)
        return value, gradient

    origin = jnp.zeros((len(start.mean), 2 * n), start.mean.dtype)
    tolerance = TOLERANCE[str(origin.dtype)] if tolerance is None else tolerance
    ended = descend(value_and_gradient, origin, steps, memory=_MEMORY, tolerance=tolerance)
    return placed(ended.x), -ended.value
