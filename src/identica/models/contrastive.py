"""Features and an exponential-family head: the posterior of a segment given x by Bayes' rule."""

import equinox as eqx
import jax
import jax.numpy as jnp

from identica.conditionals import ModulatedPrior, ProductOfExperts, Table
from identica.families import ExponentialFamily, Family
from identica.typing import Array


class Quantizer(eqx.Module):
    """A continuous u as segments: the nearest of fixed centroids.

    Attributes
    ----------
    centroids : (M, m)
        Not trained.
    """

    centroids: Array

    def __call__(self, u: Array) -> Array:
        """Codes (B,) of features u (B, m)."""
        centroids = jax.lax.stop_gradient(self.centroids)
        return jnp.argmin((centroids**2).sum(-1) - 2 * u @ centroids.T, axis=-1)


class SegmentClassifier(eqx.Module):
    """Features h(x) whose distribution given the segment is the model's own prior family.

    p(u|x) = softmax_u[b_u + Σ_i log p(h_i(x); λ_ui)]: what Bayes' rule gives if h are the sources and b
    are the log shares of segments, from which b starts. The usual head of time-contrastive learning,
    a linear map of free statistics, contains this one.

    Attributes
    ----------
    encoder : ProductOfExperts
        h is its mean.
    prior : ModulatedPrior
        Table of λ and b.
    quantizer : Quantizer or None
        Cuts a continuous u into segments; None for a discrete one.
    """

    encoder: ProductOfExperts
    prior: ModulatedPrior
    quantizer: Quantizer | None = None

    def codes(self, u: Array) -> Array:
        """Segment (B,) of each u."""
        return u if self.quantizer is None else self.quantizer(u)

    def log_odds(self, x: Array) -> Array:
        """Unnormalised log p(u|x), nats (B, M)."""
        return segment_log_odds(self.prior, self.encoder.mean(x))


def segment_log_odds(prior: ModulatedPrior, z: Array) -> Array:
    """log p(u) p(z|u) of a table prior up to a constant per row, nats (B, M) for z (B, n)."""
    table = prior.parameters
    if not isinstance(table, Table):
        raise TypeError("only a table prior has segments")
    natural = prior.family.natural_parameters(table.raw)
    return table.log_shares + log_densities(prior.family, z, natural)


def log_densities(family: Family, z: Array, natural: Array) -> Array:
    """log p(z_b; λ_m) for all pairs without the base measure, nats (B, M); one matrix product.

    Parameters
    ----------
    family : ExponentialFamily
    z : (B, n)
    natural : (M, n, k)

    Raises
    ------
    TypeError
        For a family without sufficient statistics.
    """
    if not isinstance(family, ExponentialFamily):
        raise TypeError(f"{type(family).__name__} is no exponential family, whose statistics are needed here")
    statistics = family.sufficient_statistics(z)
    inner = statistics.reshape(len(z), -1) @ natural.reshape(len(natural), -1).T
    return inner - family.log_partition(natural).sum(-1)
