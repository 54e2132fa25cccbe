"""Priors p(z|u): the same for all rows, or an exponential family modulated by u."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from identica.conditionals.base import Conditional
from identica.data import Dataset
from identica.families import ExponentialFamily, Family, as_distribution
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array, Key

_ONE_HOT_SEGMENTS = 512
"""Up to here a product with one-hot codes is faster than a gather."""


class ConstantPrior(Conditional):
    """p(z) = N(0, I) for every context.

    Attributes
    ----------
    n_components : int
        Dimension n of z.
    """

    n_components: int = eqx.field(static=True)

    def __call__(self, context: Array | None = None) -> dist.Distribution:
        """N(0, I) with empty batch shape; it broadcasts against any batch."""
        return dist.Normal(jnp.zeros(self.n_components), 1.0).to_event(1)


class Table(eqx.Module):
    """One row of raw parameters per value of a discrete u.

    Attributes
    ----------
    raw : (M, n, k)
        Unconstrained parameters.
    log_shares : (M,)
        Logarithm of each value's share of rows, for rows without u.
    """

    raw: Array
    log_shares: Array

    def __call__(self, u: Array) -> Array:
        """Raw parameters (B, n, k) of codes u (B,)."""
        count = self.raw.shape[0]
        if count > _ONE_HOT_SEGMENTS:
            return self.raw[u]
        # The gradient of a gather is a scatter, which CPUs do one element at a time.
        flat = jnp.matmul(
            jax.nn.one_hot(u, count, dtype=self.raw.dtype), self.raw.reshape(count, -1), precision="highest"
        )
        return flat.reshape(*u.shape, *self.raw.shape[1:])


class NetworkMap(eqx.Module):
    """Raw parameters as a network of a continuous u.

    Attributes
    ----------
    network : MultilayerPerceptron
        m inputs, n·k outputs.
    examples : (E, m)
        Values of u from fitted rows, over which rows without u are averaged; not trained.
    n_statistics : int
        Number k of sufficient statistics per component.
    """

    network: MultilayerPerceptron
    examples: Array
    n_statistics: int = eqx.field(static=True)

    @classmethod
    def random(
        cls, examples: Array, n: int, k: int, *, hidden_sizes: tuple[int, ...] = (32, 32), key: Key
    ) -> "NetworkMap":
        """A smooth network that starts near the same parameters for every u."""
        m = examples.shape[1]
        network = MultilayerPerceptron.random(
            m, hidden_sizes, n * k, activation="tanh", last_scale=0.1, key=key
        )
        return cls(network, examples, k)

    def __call__(self, u: Array) -> Array:
        """Raw parameters (B, n, k) of features u (B, m)."""
        raw = self.network(u)
        return raw.reshape(*raw.shape[:-1], -1, self.n_statistics)


class ModulatedPrior(Conditional):
    """p(z|u) = Π_i p(z_i; λ_i(u)) with a family (Khemakhem et al.: exponential) and λ from a table or a network.

    Equation (7) of Khemakhem et al. (2020).

    Attributes
    ----------
    family : Family
        Of every component.
    parameters : Table or NetworkMap
        From u to raw parameters (…, n, k).
    """

    family: Family
    parameters: Table | NetworkMap

    @classmethod
    def table(
        cls, family: Family, statistics_mean: Array, counts: Array, *, floor: float = 1e-4
    ) -> "ModulatedPrior":
        """The table of maximum-likelihood parameters.

        Parameters
        ----------
        family : Family
        statistics_mean : (M, n, k)
            Averaged sufficient statistics.
        counts : (M,)
            Rows of each segment.
        floor : float
            Added to variances.
        """
        natural = family.natural_from_expectation(statistics_mean, floor=floor)
        log_shares = jnp.log(jnp.maximum(counts / counts.sum(), 1e-30))
        return cls(family, Table(family.raw_from_natural(natural), log_shares))

    def natural(self, u: Array) -> Array:
        """Natural parameters (B, n, k) of u."""
        return self.family.natural_parameters(self.parameters(u))

    def parts(self) -> tuple[Array, Array]:
        """p(z) without u as a mixture: natural parameters (M, n, k) and log weights (M,) of its parts.

        The parts are the values of a discrete u with their shares, or the examples of a continuous one.
        """
        parameters = self.parameters
        if isinstance(parameters, Table):
            log_weights = jax.nn.log_softmax(parameters.log_shares)
            return self.family.natural_parameters(parameters.raw), log_weights
        examples = jax.lax.stop_gradient(parameters.examples)
        count = examples.shape[0]
        return self.natural(examples), jnp.full(count, -jnp.log(count), examples.dtype)

    def __call__(self, context: Array) -> dist.Distribution:
        """p(z|u) for u (B,) int or (B, m) float: batch shape (B,), event shape (n,)."""
        return as_distribution(self.family, self.natural(context)).to_event(1)


def averaged_statistics(
    family: ExponentialFamily,
    mean: Array,
    variance: Array,
    codes: Array,
    n_segments: int,
    weight: Array | None = None,
) -> tuple[Array, Array]:
    """Averages of E T(z) over the rows of each segment, for a Gaussian z in every row.

    Parameters
    ----------
    family : ExponentialFamily
    mean, variance : (N, n)
        Moments of z in each row; variance 0 means that z is known.
    codes : (N,) int
        Segment of each row.
    n_segments : int
        Number M of segments.
    weight : (N,), optional
        Row weights.

    Returns
    -------
    averages : (M, n, k)
    counts : (M,)
        Total weight of each segment.

    Notes
    -----
    Expectations are taken by five Gauss-Hermite nodes, which are exact for polynomial statistics of
    degree up to nine, so for the Gaussian families.
    """
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(5)
    node_weights = jnp.asarray(node_weights / node_weights.sum(), mean.dtype)
    z = mean[..., None] + jnp.sqrt(variance)[..., None] * jnp.asarray(nodes, mean.dtype)
    statistics = jnp.einsum("rnqk,q->rnk", family.sufficient_statistics(z), node_weights)
    weight = jnp.ones_like(mean[:, 0]) if weight is None else weight
    totals = jax.ops.segment_sum(statistics * weight[:, None, None], codes, n_segments)
    counts = jax.ops.segment_sum(weight, codes, n_segments)
    return totals / jnp.maximum(counts, 1e-6)[:, None, None], counts


def moments_over_rows(prior: Conditional, data: Dataset) -> Array:
    """Mean and variance of the sources over all rows, from their priors given u, (2, n)."""
    given = prior(data.u)
    weight = jnp.ones(len(data.x), data.x.dtype) if data.weight is None else data.weight
    share = (weight / weight.sum())[:, None]
    mean = (share * given.mean).sum(0)  # type: ignore[operator]
    return jnp.stack([mean, (share * (given.variance + (given.mean - mean) ** 2)).sum(0)])  # type: ignore[operator]
