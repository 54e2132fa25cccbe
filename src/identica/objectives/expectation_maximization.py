"""Steps of expectation-maximisation for x = f(z) plus noise with z ~ N(0, I): exact, by quadrature, variational.

Neither the E-step nor the M-step of any can worsen the objective, whose value before both is returned. Expectations
are deterministic throughout, so that no step loses anything (section 4 of Neal and Hinton, 1998).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from identica.conditionals import Decoder, Evidence, GaussianObservation
from identica.conditionals.observations import NOISE_FLOOR
from identica.conditionals.per_row import (
    Nodes,
    PerRow,
    PerRowEncoder,
    bound_of_rows,
    expectation_step,
    laplace_start,
)
from identica.data import Dataset, mean_over_rows
from identica.descent import descend
from identica.models.latent_variable import LatentVariableModel
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array, Key

_VALUES_PER_BLOCK = 2**11
"""Rows times nodes that are looked at together: bounds memory, stays in the processor's cache, and lets the E-steps
of a block end when its own rows have converged (four times as fast as blocks of 2**16)."""

_FEWEST_ROWS = 64


class PerRowModel(eqx.Module):
    """A latent-variable model with one variational distribution per fitted row.

    Attributes
    ----------
    model : LatentVariableModel
    rows : PerRow or None
        Of all fitted rows; None where the posterior needs no parameters.
    nodes : Nodes
    """

    model: LatentVariableModel
    rows: PerRow | None
    nodes: Nodes

    @property
    def decoder(self) -> Decoder:
        """p(x|z)."""
        return self.model.likelihood  # type: ignore[return-value]


# By quadrature on the prior ----------------------------------------------------------------------------


def log_nodes_of(decoder: Decoder, nodes: Nodes, x: Array) -> Array:
    """log π_k + log p(x_i|z_k), nats (K, B)."""
    given = decoder(nodes.points[:, None])
    return jnp.log(nodes.shares)[:, None] + given.log_prob(x)  # type: ignore[return-value]


@dataclass(frozen=True)
class QuadratureUpdate:
    """Bock and Aitkin (1981): responsibilities of nodes of the prior, then a weighted regression on them.

    The likelihood is Σ_k π_k p(x|z_k), so no posterior has to be approximated; nodes must be denser than the
    posterior is wide.

    Attributes
    ----------
    m_steps : int
        Quasi-Newton steps on the decoder in each M-step.
    """

    m_steps: int = 10

    def __call__(self, system: PerRowModel, data: Dataset) -> tuple[PerRowModel, Array]:
        """The next system, and the negative mean log-likelihood of this one."""
        nodes, old = system.nodes.fixed(), jax.lax.stop_gradient(system.decoder)

        def expected(decoder: Decoder, block: Dataset) -> Array:
            # Responsibilities belong to the decoder before the step, and are cheaper to find again than to keep.
            shares = jax.nn.softmax(log_nodes_of(old, nodes, block.x), axis=0)
            return -(shares * log_nodes_of(decoder, nodes, block.x)).sum(0)

        value = quadrature_loss(system, data)
        new = _maximised(expected, system.decoder, data, len(nodes.points), self.m_steps)
        return _with_decoder(system, new), value


def quadrature_loss(system: PerRowModel, data: Dataset) -> Array:
    """−log p(x) by the nodes, mean over rows, nats."""
    nodes = system.nodes.fixed()
    log_p = lambda b: jax.nn.logsumexp(log_nodes_of(system.decoder, nodes, b.x), axis=0)
    return -mean_over_rows(_by_blocks(log_p, data, len(nodes.points)), data.weight)


# Variational -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VariationalUpdate:
    """Variational EM: an M-step on the decoder, then E-steps on each (m_i, s_i) to convergence.

    Attributes
    ----------
    e_steps : int
        Most quasi-Newton steps of a row; they begin where the last E-step ended, so that few are enough.
    tolerance : float
        Nats that a row's last step may leave. Whatever remains, the value is a bound, and none is taken that is
        lower than the last.
    m_steps : int
        Quasi-Newton steps on the decoder.
    follow : bool
        Let every q_i follow each of these steps by an E-step of its own, so that they ascend the bound as a
        function of the decoder alone; its gradient at the best q_i is the M-step's (Salakhutdinov, Roweis and
        Ghahramani, 2003). With q_i held, an M-step can go no further than they are wide.
    """

    e_steps: int = 10
    m_steps: int = 30
    follow: bool = True
    tolerance: float = 1e-5

    def __call__(self, system: PerRowModel, data: Dataset) -> tuple[PerRowModel, Array]:
        """The next system, its q_i at their best, and the negative mean bound of this one."""
        nodes, prior = system.nodes.fixed(), system.model.prior(None)

        def best_rows(decoder: Decoder, part: tuple[Dataset, PerRow]) -> PerRow:
            context = Evidence(part[0].x, None, prior)
            decoder, q = jax.lax.stop_gradient((decoder, part[1]))
            return jax.lax.stop_gradient(
                expectation_step(decoder, context, nodes, q, self.e_steps, self.tolerance)[0]
            )

        def loss(decoder: Decoder, part: tuple[Dataset, PerRow]) -> Array:
            q = best_rows(decoder, part) if self.follow else part[1]
            return -bound_of_rows(decoder, Evidence(part[0].x, None, prior), nodes, q)

        parts, n_nodes = (data, system.rows), len(nodes.points)
        new = _maximised(loss, system.decoder, parts, n_nodes, self.m_steps)
        rows = _by_blocks(lambda part: best_rows(new, part), parts, n_nodes)
        moved = PerRowModel(system.model, rows, system.nodes)
        return _with_decoder(moved, new), bound_loss(system, data)


def bound_loss(system: PerRowModel, data: Dataset) -> Array:
    """The negative bound of rows with the q_i that they have, mean, nats."""
    nodes, prior = system.nodes.fixed(), system.model.prior(None)
    one = lambda p: bound_of_rows(system.decoder, Evidence(p[0].x, None, prior), nodes, p[1])
    bound = _by_blocks(one, (data, system.rows), len(nodes.points))
    return -mean_over_rows(bound, data.weight)


def new_rows_loss(system: PerRowModel, data: Dataset) -> Array:
    """The negative bound of rows whose q_i have yet to be found, mean, nats."""
    nodes, prior = system.nodes.fixed(), system.model.prior(None)
    n = nodes.points.shape[1]
    encoder = PerRowEncoder(system.decoder, nodes, n)

    def one(block: Dataset) -> Array:
        context = Evidence(block.x, None, prior)
        start = laplace_start(system.decoder, context, n)
        return expectation_step(system.decoder, context, nodes, start, encoder.steps)[1]

    return -mean_over_rows(_by_blocks(one, data, len(nodes.points)), data.weight)


def starting_rows(model: LatentVariableModel, x: Array, n: int) -> PerRow:
    """Laplace's approximation of every row, block by block."""
    one = lambda b: laplace_start(model.likelihood, Evidence(b.x, None, model.prior(None)), n)  # type: ignore[arg-type]
    return _by_blocks(one, Dataset(x), 2 * n)


# Exact -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExactUpdate:
    """EM of factor analysis and probabilistic principal components, with a freed prior covariance.

    For x = z W + c + noise of variance Ψ the posterior of z is Gaussian with covariance M⁻¹,
    M = I + W Ψ⁻¹ Wᵀ (Rubin and Thayer, 1982; Tipping and Bishop, 1999). The regression in the M-step also
    finds how widely the posterior means and covariances are spread, R = E z zᵀ; taking its root into W
    (Liu, Rubin and Wu, 1998) costs nothing, never loses likelihood, and takes far fewer steps.
    """

    def __call__(self, system: PerRowModel, data: Dataset) -> tuple[PerRowModel, Array]:
        """The next system, and the negative mean log-likelihood of this one."""
        decoder = system.decoder
        observation: GaussianObservation = decoder.observation  # type: ignore[assignment]
        weight, center, noise = _linear_parts(decoder, data.x.shape[1])
        rows = jnp.ones_like(data.x[:, 0]) if data.weight is None else data.weight
        share = rows / rows.sum()
        mean, covariance, log_p = _exact_posterior(weight, center, noise, data.x)
        # The best c is the mean of the data whatever the rest; it is there after the first step.
        center = share @ data.x
        centred = data.x - center
        mean = mean - share @ mean
        spread = (mean * share[:, None]).T @ mean + covariance
        cross = (mean * share[:, None]).T @ centred
        weight = jnp.linalg.solve(spread, cross)
        variance = share @ centred**2 - (weight * cross).sum(0)
        weight = jnp.linalg.cholesky(spread).T @ weight
        if observation.log_variance is not None:
            variance = variance if observation.noise == "diagonal" else variance.mean()
            log_variance = jnp.log(jnp.maximum(variance - NOISE_FLOOR, 1e-3 * NOISE_FLOOR))
            observation = GaussianObservation(log_variance, observation.noise, observation.variance)
        network = MultilayerPerceptron((weight,), (center,), None, decoder.network.activation)  # type: ignore[union-attr]
        return _with_decoder(system, Decoder(network, observation)), -share @ log_p


def exact_loss(system: PerRowModel, data: Dataset) -> Array:
    """−log p(x) of the linear Gaussian model, mean over rows, nats."""
    parts = _linear_parts(system.decoder, data.x.shape[1])
    return -mean_over_rows(_exact_posterior(*parts, data.x)[2], data.weight)


def _linear_parts(decoder: Decoder, d: int) -> tuple[Array, Array, Array]:
    observation: GaussianObservation = decoder.observation  # type: ignore[assignment]
    weight, bias = decoder.network.weights[0], decoder.network.biases[0]  # type: ignore[union-attr]
    log_variance = observation.log_variance
    if log_variance is None:
        return weight, bias, jnp.full(d, NOISE_FLOOR + observation.variance, weight.dtype)
    return weight, bias, jnp.broadcast_to(NOISE_FLOOR + jnp.exp(log_variance), (d,))


def _exact_posterior(weight: Array, center: Array, noise: Array, x: Array) -> tuple[Array, Array, Array]:
    """Posterior means (N, n), their common covariance (n, n), and log p(x) (N,) in nats.

    The density is written with residuals at the posterior mean, a sum of squares without cancellation.
    """
    n, d = weight.shape
    scaled = weight / noise
    precision = jnp.eye(n, dtype=x.dtype) + scaled @ weight.T
    factor = jnp.linalg.cholesky(precision)
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.eye(n, dtype=x.dtype), lower=True)
    covariance = inverse.T @ inverse
    mean = (x - center) @ scaled.T @ covariance
    squares = ((x - center - mean @ weight) ** 2 / noise).sum(1) + (mean**2).sum(1)
    log_det = jnp.log(noise).sum() + 2 * jnp.log(jnp.diagonal(factor)).sum()
    return mean, covariance, -0.5 * (squares + log_det + d * jnp.log(2 * jnp.pi))


# What the loop is given --------------------------------------------------------------------------------

_LOSSES = {"exact": exact_loss, "quadrature": quadrature_loss, "variational": new_rows_loss}


@dataclass(frozen=True)
class EMLoss:
    """The objective of a kind of E-step, for the rows it is given.

    Attributes
    ----------
    e_step : {"exact", "quadrature", "variational"}
    """

    e_step: str

    def __call__(self, system: PerRowModel, batch: Dataset, *, key: Key) -> tuple[Array, dict[str, Array]]:
        """−log p(x), or the negative bound, mean over rows, nats."""
        return _LOSSES[self.e_step](system, batch), {}


@dataclass(frozen=True)
class EMRanking:
    """What ranks restarts: held-out rows, or the fitted rows with the q_i that they have.

    Attributes
    ----------
    e_step : {"exact", "quadrature", "variational"}
    held_out : bool
        Whether there are held-out rows.
    most_rows : int
        Rows looked at.
    """

    e_step: str
    held_out: bool
    most_rows: int = 4096

    def __call__(self, system: PerRowModel, data: Dataset, rows: Dataset, key: Key) -> Array:
        if self.held_out or self.e_step != "variational":
            return _LOSSES[self.e_step](system, rows.head(self.most_rows) if self.held_out else rows)
        own: PerRow = system.rows  # type: ignore[assignment]
        return bound_loss(PerRowModel(system.model, own.rows(rows.n_rows), system.nodes), rows)


# Pieces ------------------------------------------------------------------------------------------------


def _with_decoder(system: PerRowModel, decoder: Decoder) -> PerRowModel:
    return PerRowModel(LatentVariableModel(system.model.prior, decoder), system.rows, system.nodes)


def _in_blocks(parts: Any, n_nodes: int) -> tuple[object, int]:
    """Row arrays (N, …) as blocks (blocks, rows, …), the last filled up with copies of row 0; and N."""
    n_rows = jax.tree.leaves(parts)[0].shape[0]
    size = min(n_rows, max(_FEWEST_ROWS, _VALUES_PER_BLOCK // n_nodes))
    index = jnp.arange(-(-n_rows // size) * size)
    index = jnp.where(index < n_rows, index, 0)
    return jax.tree.map(lambda leaf: leaf[index].reshape(-1, size, *leaf.shape[1:]), parts), n_rows


def _by_blocks(function: Callable, parts: Any, n_nodes: int):
    """``function`` of row arrays, block by block."""
    blocks, n_rows = _in_blocks(parts, n_nodes)
    done = jax.lax.map(function, blocks)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n_rows], done)


def _maximised(
    loss_of_rows: Callable[[Decoder, Any], Array],
    decoder: Decoder,
    parts: Any,
    n_nodes: int,
    steps: int,
) -> Decoder:
    """The decoder after some quasi-Newton steps on the mean loss of all rows, never worse than before."""
    arrays, static = eqx.partition(decoder, eqx.is_inexact_array)
    vector, unravel = ravel_pytree(arrays)
    data = parts[0] if isinstance(parts, tuple) else parts
    weight = jnp.ones_like(data.x[:, 0]) if data.weight is None else data.weight  # type: ignore[union-attr]
    n_rows = len(weight)
    blocks, _ = _in_blocks((parts, weight), n_nodes)
    # Copies that fill the last block do not count.
    size = jax.tree.leaves(blocks)[-1].shape[1]
    counts = (jnp.arange(jax.tree.leaves(blocks)[-1].size) < n_rows).reshape(-1, size)

    def total(vector: Array, block: object, count: Array) -> Array:
        part, weight = block  # type: ignore[misc]
        losses = loss_of_rows(eqx.combine(unravel(vector), static), part)
        return jnp.where(count & (weight > 0), losses * weight, 0.0).sum()

    def value_and_gradient(vectors: Array) -> tuple[Array, Array]:
        def add(carry: tuple[Array, Array], block: object) -> tuple[tuple[Array, Array], None]:
            value, gradient = jax.value_and_grad(total)(vectors[0], *block)  # type: ignore[misc]
            return (carry[0] + value, carry[1] + gradient), None

        zero = (jnp.zeros((), vector.dtype), jnp.zeros_like(vector))
        (value, gradient), _ = jax.lax.scan(add, zero, (blocks, counts))
        return value[None] / weight.sum(), gradient[None] / weight.sum()

    ended = descend(value_and_gradient, vector[None], steps, memory=steps, tolerance=1e-12)
    return eqx.combine(unravel(ended.x[0]), static)
