"""Posteriors of a flow under noise: where the clean observation was, and what source that means.

A flow g maps clean observations to sources, z = g(x̃), and noise is added to x̃. So the posterior is best
found among observations, where noise is Gaussian and g need not be inverted: by Gauss and Newton, with the
prior of z carried over by the Jacobian of g.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from identica.conditionals.base import Conditional, Evidence
from identica.conditionals.carried_gaussian import CarriedGaussian
from identica.conditionals.encoders import Factor, Features, rows_last_moments
from identica.conditionals.observations import GaussianObservation
from identica.conditionals.precision_gaussian import PrecisionGaussian
from identica.conditionals.small_matrices import product, transpose
from identica.networks.coupling import RefinedNetwork
from identica.networks.flow_mixing import FlowMixing
from identica.networks.invertible import InvertibleNetwork
from identica.typing import Array

_STEPS = 4
"""Steps of Gauss and Newton of a fitted model; training takes fewer, as its weights repair the rest."""

_CAUTION = 0.7
"""Share of all steps but the last that is taken: the Jacobian changes along the way."""


def clean_scores(
    demixer: InvertibleNetwork | RefinedNetwork,
    scores: Array,
    noise_precision: Array,
    prior: tuple[Array, Array],
    steps: int = _STEPS,
) -> PrecisionGaussian:
    """The posterior of clean scores by Laplace's approximation: batch shape (B,), event shape (n,).

    Gradients pass through the last step only.

    Parameters
    ----------
    demixer : InvertibleNetwork or RefinedNetwork
    scores : (n, B)
        With noise.
    noise_precision : (n, n)
        Inverse covariance of the noise of scores.
    prior : two arrays (n, B)
        Mean and precision of the sources.
    steps : int
        Steps of Gauss and Newton, at least one.
    """
    mean, precision = prior
    pull = noise_precision @ scores

    def step(point: Array) -> PrecisionGaussian:
        z, along = jax.linearize(lambda x: demixer(x)[0], point)
        slopes = columns_of(along, point)
        weighted = slopes * precision
        total = noise_precision[:, :, None] + product(weighted, transpose(slopes))
        wanted = mean - z + (slopes * point[:, None]).sum(0)
        return PrecisionGaussian.from_precision(total, pull + product(weighted, wanted[:, None])[:, 0])

    point = scores
    for _ in range(steps - 1):
        point = point + _CAUTION * (step(point).mean.T - point)
    return step(jax.lax.stop_gradient(point))


class FlowPosterior(Conditional):
    """q(z|x, u): the law of g(s̃), with s̃ normal around the most probable clean scores.

    Nothing is amortised: it follows from the flow and the noise, by Gauss-Newton steps.

    Attributes
    ----------
    features : Features
        From x to scores, as many as columns.
    mixing : FlowMixing
        From sources to x.
    observation : GaussianObservation
        The noise of x.
    overall : (2, n)
        Mean and variance of the sources over all values of u.
    """

    features: Features
    mixing: FlowMixing
    observation: GaussianObservation
    overall: Array

    def __call__(self, context: Evidence) -> CarriedGaussian:
        """q(z|x, u): batch shape (B,), event shape (n,)."""
        moments = rows_last_moments(context.prior, len(context.x))
        return CarriedGaussian(self._clean(context.x, moments)[0], self.mixing.demixer)

    def factor(self, x: Array) -> Factor:
        """What x (B, d) alone says about z, by a flow linearised where z is probable over all u."""
        clean, root = self._clean(x, self._overall(len(x)))
        point = clean.mean.T
        z, along = jax.linearize(lambda s: self.mixing.demixer(s)[0], point)
        _, back = jax.linearize(self.mixing.demixer.inverse, z)
        # Of the inverse: row j holds dx/dz_j.
        slopes = columns_of(back, z)
        spread = product(slopes, jnp.broadcast_to(root[:, :, None], (*root.shape, len(x))))
        return Factor(z + along(self.features(x).T - point), spread)

    def bent(self, x: Array, z: Array) -> tuple[Array, Array]:
        """Sources (K, n) that a linearised flow made of one row x (d,) as the flow itself makes them.

        The second array (K,) is the logarithm of the volume by which that differs.
        """
        demixer = self.mixing.demixer
        point = self._clean(x[None], self._overall(1))[0].mean[0]
        center, along = jax.linearize(lambda s: demixer(s[:, None])[0][:, 0], point)
        slopes = jax.vmap(along)(jnp.eye(len(point), dtype=point.dtype)).T
        clean = point[:, None] + jnp.linalg.solve(slopes, (z - center).T)
        bent, log_volume = demixer(clean)
        return bent.T, log_volume - jnp.linalg.slogdet(slopes)[1]

    def _clean(self, x: Array, moments: tuple[Array, Array]) -> tuple[PrecisionGaussian, Array]:
        """The posterior of clean scores, and the root of the noise's precision among scores."""
        root = noise_root(self.mixing.loading, self.observation)
        return clean_scores(self.mixing.demixer, self.features(x).T, root @ root.T, moments), root

    def _overall(self, n_rows: int) -> tuple[Array, Array]:
        mean, variance = self.overall
        shape = (len(mean), n_rows)
        return jnp.broadcast_to(mean[:, None], shape), jnp.broadcast_to(1 / variance[:, None], shape)


def columns_of(along: Callable[[Array], Array], point: Array) -> Array:
    """Columns (n, m, B) of the matrices of a linear map that acts on (n, B), one matrix for each row of data."""
    directions = jnp.eye(len(point), dtype=point.dtype)
    return jax.vmap(lambda e: along(jnp.broadcast_to(e[:, None], point.shape)))(directions)


def noise_root(loading: Array, observation: GaussianObservation) -> Array:
    """R (n, n) with R Rᵀ the inverse covariance of the noise of scores; x = scores · loading + center."""
    loading = jax.lax.stop_gradient(loading)
    return loading / jnp.sqrt(observation(jnp.zeros(loading.shape[1], loading.dtype)).variance)
