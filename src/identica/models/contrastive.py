"""Features h(x) and a critic that says how well they go with a context: a segment, a value of u, the past."""

import equinox as eqx
import jax
import jax.numpy as jnp

from identica.conditionals import Features, ModulatedPrior, NetworkMap, ProductOfExperts, Table
from identica.families import ExponentialFamily, Family
from identica.networks.componentwise import ComponentwiseNetwork
from identica.networks.multilayer_perceptron import MultilayerPerceptron
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


class FeatureNetwork(eqx.Module):
    """h(x): a network with a linear shortcut behind fixed scores of x.

    Attributes
    ----------
    features : Features
    network : MultilayerPerceptron
        n outputs.
    """

    features: Features
    network: MultilayerPerceptron

    def __call__(self, x: Array) -> Array:
        """(B, d) to (B, n)."""
        return self.network(self.features(x))


class Critic(eqx.Module):
    """r(h, c) = Σ_i [T_i(h_i) · λ_i(c) + b_i(c)]: a sum over components, each bilinear in statistics and context.

    One form for all: the linear softmax of time-contrastive learning (c a segment, λ a table, T = |h|
    or those of an exponential family), the critic Σ_i ψ_i(h_i, u) of generalised contrastive learning
    (λ a network of u), and B_i(h_i(t), h_i(t−1)) of permutation-contrastive learning (λ_i a network of the
    i-th feature of the row before). With learned T, k products approximate any smooth function of two
    arguments. All pairs of B rows and C contexts cost one matrix product.

    Attributes
    ----------
    statistics : ExponentialFamily or ComponentwiseNetwork
        T: those of a family, or k learned functions of each component.
    parameters : Table, NetworkMap or ComponentwiseNetwork
        From contexts to k raw parameters and the bias b of each component (C, n, k + 1). Raw parameters of a
        family become natural ones, and its log-partition is part of b.
    """

    statistics: ExponentialFamily | ComponentwiseNetwork
    parameters: Table | NetworkMap | ComponentwiseNetwork

    def __call__(self, h: Array, context: Array) -> Array:
        """r for all pairs, nats (B, C), of features (B, n) and contexts (C,) int or (C, m) float."""
        raw = self.parameters(context)
        bias = raw[..., -1].sum(-1)
        if isinstance(self.statistics, ExponentialFamily):
            return log_densities(self.statistics, h, self.statistics.natural_parameters(raw[..., :-1])) + bias
        return self.statistics(h).reshape(len(h), -1) @ raw[..., :-1].reshape(len(raw), -1).T + bias


class ContrastiveModel(eqx.Module):
    """Features, the critic that trains them, and the linear map from features to sources.

    Attributes
    ----------
    encoder : FeatureNetwork
        h.
    critic : Critic
    demixing : (n, n)
        Sources are h · demixing; found after training, not by it.
    quantizer : Quantizer or None
        Cuts a continuous u into segments where contexts are segments.
    past : bool
        Contexts are rows of x themselves (those before), which the critic sees through h.
    """

    encoder: FeatureNetwork
    critic: Critic
    demixing: Array
    quantizer: Quantizer | None = None
    past: bool = eqx.field(static=True, default=False)

    def codes(self, u: Array) -> Array:
        """Segment (B,) of each u."""
        return u if self.quantizer is None else self.quantizer(u)

    def log_odds(self, x: Array, context: Array) -> Array:
        """log p(c|x) of all pairs up to a function of x and the contexts' frequency, nats (B, C)."""
        return self.critic(self.encoder(x), self.encoder(context) if self.past else context)

    def sources(self, x: Array) -> Array:
        """(B, d) to (B, n)."""
        return self.encoder(x) @ jax.lax.stop_gradient(self.demixing)
