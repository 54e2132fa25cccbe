"""The marginal likelihood log ∫ p(x|z) p(z) dz by quadrature, in log space and block by block."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from identica.conditionals import Decoder, Evidence
from identica.conditionals.laplace import LaplaceEncoder
from identica.data import Dataset, mean_over_rows
from identica.expectations import LARGEST_NODE_SHARE, WeightedNodes, place
from identica.models.latent_variable import LatentVariableModel
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.objectives.bound import EVALUATION_ROWS
from identica.typing import Array, Key

_BLOCK_VALUES = 2**20
"""Most values that one block of nodes, rows and columns holds."""


class Integral(NamedTuple):
    """Estimates of log p(x) with what tells whether to trust them.

    Attributes
    ----------
    rows : (B,)
        log p(x) of each row, nats.
    largest_share : (B,)
        Largest normalised weight of one node, r_s = softmax_s(log π_s w_s).
    """

    rows: Array
    largest_share: Array


@dataclass(frozen=True)
class MarginalLikelihood:
    """−mean_i log Σ_s π_s p(x_i|z_is) p(z_is)/q_i(z_is), nats per row.

    With nodes on the prior q = p the sum is a mixture of S distributions; with nodes adapted to each
    observation q_i is Laplace's approximation of its posterior. By Fisher's identity the automatic
    gradient is Σ_s r_is ∇ log p(x_i, z_is); nodes are held while it is taken, so it is that of the
    integral up to the error of the nodes, not that of the node's own motion.

    Blocks of nodes are reduced one after another and recomputed in the backward pass, so that memory is
    bounded by 2²⁰ values per block whatever the number of nodes. Squared distances are taken as sums of
    squared differences: expanded into squares and products they cancel in float32 at hundreds of
    columns with small noise.

    Attributes
    ----------
    nodes : WeightedNodes
        Quadrature or randomised points of N(0, I).
    placement : {"prior", "posterior"}
        Where the nodes go: on p(z), the same for all rows, or on a Gaussian fitted to each posterior.
    newton_steps : int
        Of the search for each posterior's mode.
    """

    nodes: WeightedNodes
    placement: Literal["prior", "posterior"] = "prior"
    newton_steps: int = 10

    def __call__(
        self, system: LatentVariableModel, batch: Dataset, *, key: Key
    ) -> tuple[Array, dict[str, Array]]:
        """The negative mean log-likelihood of a batch, to be minimised."""
        return -mean_over_rows(self.integral(system, batch, key=key).rows, batch.weight), {}

    def integral(self, system: LatentVariableModel, batch: Dataset, *, key: Key) -> Integral:
        """log p(x|u) of each row, with the largest share of one node."""
        q = None if self.placement == "prior" else self.posterior(system, batch)
        return self.integral_on(q, system, batch, key=key)

    def posterior(self, system: LatentVariableModel, batch: Dataset) -> dist.Distribution:
        """The Gaussian on which the nodes of each row are placed."""
        prior = system.prior(batch.u)
        encoder = LaplaceEncoder(_decoder(system), prior.event_shape[0], self.newton_steps)
        return jax.lax.stop_gradient(encoder(Evidence(batch.x, batch.u, prior)))

    def integral_on(
        self, q: dist.Distribution | None, system: LatentVariableModel, batch: Dataset, *, key: Key
    ) -> Integral:
        """`integral` with nodes of q, or of the prior if q is None."""
        prior = system.prior(batch.u)
        on_prior = q is None
        q = prior if q is None else q
        points, log_nodes = self.nodes.standard(prior.event_shape[0], batch.x.dtype, key=key)

        def log_terms(block: tuple[Array, Array]) -> tuple[Array, Array]:
            points, log_nodes = block
            z, log_q = place(q, points)
            z, log_q = jax.lax.stop_gradient((z, log_q))
            terms = log_nodes[:, None] + system.likelihood(z).log_prob(batch.x)
            if not on_prior:
                terms = terms + prior.log_prob(z) - log_q
            return jax.nn.logsumexp(terms, axis=0), jax.lax.stop_gradient(terms.max(axis=0))

        size = self._block_size(system, batch, shared=on_prior and not prior.batch_shape)
        if size >= len(points):
            rows, largest = log_terms((points, log_nodes))
        else:
            blocks = _in_blocks(points, size, 0.0), _in_blocks(log_nodes, size, -jnp.inf)
            partial, largest = jax.lax.map(jax.checkpoint(log_terms), blocks)
            rows, largest = jax.nn.logsumexp(partial, axis=0), largest.max(axis=0)
        return Integral(rows, jnp.exp(largest - jax.lax.stop_gradient(rows)))

    def _block_size(self, system: LatentVariableModel, batch: Dataset, *, shared: bool) -> int:
        """Nodes per block; a network of nodes that rows share is evaluated without the rows."""
        rows, width = batch.x.shape
        network = system.likelihood.network if isinstance(system.likelihood, Decoder) else None
        if not shared and isinstance(network, MultilayerPerceptron):
            width = max(width, *(bias.shape[-1] for bias in network.biases))
        return max(1, _BLOCK_VALUES // (rows * width))


@dataclass(frozen=True)
class HeldOutLikelihood:
    """The negative log-likelihood of held-out rows by its own nodes, which ranks restarts and weights."""

    likelihood: MarginalLikelihood

    def __call__(self, system: LatentVariableModel, data: Dataset, held_out: Dataset, key: Key) -> Array:
        return self.likelihood(system, held_out.head(EVALUATION_ROWS), key=key)[0]


def untrusted(likelihood: MarginalLikelihood, n: int, largest_share: Array) -> Array:
    """Whether one node carries most of the weight of a row although it should not, (B,) bool.

    Few nodes around a mode give the one at the centre a large weight by design, so a share counts only
    beyond twice the largest weight that a node has.
    """
    _, log_nodes = likelihood.nodes.standard(n, jnp.float32, key=jax.random.key(0))
    designed = 2 * math.exp(float(log_nodes.max()))
    return largest_share > max(LARGEST_NODE_SHARE, min(designed, 1 - 1e-3))


def _in_blocks(values: Array, size: int, fill: float) -> Array:
    """Values (K, …) as (blocks, size, …), filled up."""
    extra = -len(values) % size
    padded = jnp.pad(values, [(0, extra)] + [(0, 0)] * (values.ndim - 1), constant_values=fill)
    return padded.reshape(-1, size, *values.shape[1:])


def _decoder(system: LatentVariableModel) -> Decoder:
    if not isinstance(system.likelihood, Decoder):
        raise TypeError("nodes adapted to each observation need a neural decoder")
    return system.likelihood
