"""Exponential families from four primitives; everything else is derived here, once."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp

from identica.typing import Array, Key

VARIANCE_FLOOR = 1e-5


class Family(eqx.Module):
    """A family of densities of one component whose parameters depend on the auxiliary variable.

    What a model with segments needs: parameters from averages over a segment, the likelihood that they
    attain, densities, moments and draws. `natural` and `raw` have a last axis of size k.
    """

    @property
    @abc.abstractmethod
    def number_of_statistics(self) -> int:
        """Number k of parameters of one component, which is that of its averaged statistics."""

    def deviation_statistic(self, deviation: Array) -> Array:
        """What is averaged of deviations from a segment's mean (…, n), for families that need it."""
        raise NotImplementedError(f"{type(self).__name__} averages its sufficient statistics")

    @abc.abstractmethod
    def natural_parameters(self, raw: Array) -> Array:
        """A smooth map from unconstrained numbers (a network's output) onto valid parameters."""

    @abc.abstractmethod
    def raw_from_natural(self, natural: Array) -> Array:
        """Inverse of `natural_parameters`."""

    @abc.abstractmethod
    def natural_from_expectation(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        """Maximum-likelihood parameters from averaged statistics.

        Parameters
        ----------
        statistics_mean : (…, k)
            Averages over the observations of each group.
        floor : float
            Added to the variance (of z², for scale families to the averaged statistic), so that a
            group that has shrunk to a point keeps a finite likelihood.
        """

    @abc.abstractmethod
    def profile_log_likelihood(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        """Average log-likelihood at the maximum, nats per observation, without the base measure."""

    @abc.abstractmethod
    def log_prob(self, z: Array, natural: Array) -> Array:
        """log p(z) in nats."""

    @abc.abstractmethod
    def mean_and_variance(self, natural: Array) -> tuple[Array, Array]:
        """Mean and variance of z."""

    @abc.abstractmethod
    def sample(self, natural: Array, *, key: Key) -> Array:
        """One draw of z for each parameter vector: (..., k) to (...,)."""


class ExponentialFamily(Family):
    r"""A family of densities :math:`p(z \mid \lambda) = Q(z) \exp(T(z)^\top \lambda - A(\lambda))`.

    One object describes the family; the parameters are arrays that the caller holds, so one object
    serves any number of components and of values of an auxiliary variable. All methods act on the
    last axis (of size k) of `natural`, `raw` and `statistics` and broadcast over the axes before it.

    Four primitives define a family: `sufficient_statistics`, `log_base_measure`,
    `natural_parameters` and `log_partition`. The log-density, the expectation parameters, the
    Fisher information and the Kullback-Leibler divergence follow from them (Wainwright and Jordan,
    2008, section 3). All logarithms are natural: results are in nats.

    Shapes
    ------
    z (...,), natural (..., k), raw (..., k), statistics (..., k).

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from identica.families import GaussianLocationScale
    >>> family = GaussianLocationScale()
    >>> natural = family.natural_from_expectation(jnp.array([1.0, 5.0]), floor=0.0)
    >>> [round(float(v), 3) for v in family.mean_and_variance(natural)]
    [1.0, 4.0]
    """

    # Primitives -----------------------------------------------------------------------------------

    @abc.abstractmethod
    def sufficient_statistics(self, z: Array) -> Array:
        """T(z): values (...,) to statistics (..., k)."""

    @abc.abstractmethod
    def log_base_measure(self, z: Array) -> Array:
        """log Q(z) in nats, of the shape of `z`."""

    @abc.abstractmethod
    def log_partition(self, natural: Array) -> Array:
        """A(λ), the logarithm of the normaliser, in nats."""

    @abc.abstractmethod
    def expected_log_base_measure(self, natural: Array) -> Array:
        """E log Q(z) in nats; the constant itself where Q is constant."""

    # Derived ------------------------------------------------------------------------------------------

    def log_prob(self, z: Array, natural: Array) -> Array:
        """log p(z | λ) in nats."""
        inner = (self.sufficient_statistics(z) * natural).sum(-1)
        return inner - self.log_partition(natural) + self.log_base_measure(z)

    def expectation_parameters(self, natural: Array) -> Array:
        """E T(z), the gradient of the log-partition function."""
        return jax.grad(lambda parameters: self.log_partition(parameters).sum())(natural)

    def fisher_information(self, natural: Array) -> Array:
        """Cov T(z), the Hessian of the log-partition function."""
        return jnp.vectorize(jax.hessian(self.log_partition), signature="(k)->(k,k)")(natural)

    def kl(self, natural: Array, other: Array) -> Array:
        """Kullback-Leibler divergence from p(z | natural) to p(z | other), in nats."""
        slope = self.expectation_parameters(natural)
        difference = self.log_partition(other) - self.log_partition(natural)
        return difference - ((other - natural) * slope).sum(-1)

    def entropy(self, natural: Array) -> Array:
        """Differential entropy in nats."""
        inner = (natural * self.expectation_parameters(natural)).sum(-1)
        return self.log_partition(natural) - inner - self.expected_log_base_measure(natural)

    def profile_log_likelihood(self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR) -> Array:
        """Average log-likelihood at the maximum, in nats per observation, without the base measure.

        The caller adds the average of `log_base_measure`, which the averaged statistics do not hold.
        """
        natural = self.natural_from_expectation(statistics_mean, floor=floor)
        return (statistics_mean * natural).sum(-1) - self.log_partition(natural)


def softly_bounded(value: Array, bound: float) -> Array:
    """The identity for small values, smoothly approaching ±`bound` for large ones.

    A network may extrapolate to any number; an exponential of it must stay finite in float32.
    At a quarter of the bound the result is within a thousandth of the identity.
    """
    return value / (1.0 + (value / bound) ** 4) ** 0.25


def unbounded(value: Array, bound: float) -> Array:
    """Inverse of `softly_bounded`; values at or beyond the bound are pulled just inside."""
    inside = jnp.clip(value, -0.999 * bound, 0.999 * bound)
    return inside / (1.0 - (inside / bound) ** 4) ** 0.25
