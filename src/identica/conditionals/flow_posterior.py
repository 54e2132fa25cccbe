"""Posteriors of a flow under noise: where the clean observation was, and what source that means.

A flow g maps clean observations to sources, z = g(x̃), and noise is added to x̃. So the posterior is best
found among observations, where noise is Gaussian and g need not be inverted: by Gauss and Newton, with the
prior of z carried over by the Jacobian of g.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from identica.conditionals.base import Conditional, Evidence
from identica.conditionals.encoders import Factor, Features, posterior_of, rows_last_moments
from identica.conditionals.observations import GaussianObservation
from identica.conditionals.precision_gaussian import PrecisionGaussian
from identica.conditionals.small_matrices import cholesky_with_inverse, product, transpose
from identica.networks.flow_mixing import FlowMixing
from identica.typing import Array

_STEPS = 4
"""Steps of Gauss and Newton of a fitted model; training takes fewer, as its weights repair the rest."""

_CAUTION = 0.7
"""Share of all steps but the last that is taken: the Jacobian changes along the way."""


def clean_scores(
    mixing: FlowMixing,
    x: Array,
    start: Array,
    noise_variance: Array,
    prior: tuple[Array, Array],
    steps: int = _STEPS,
) -> PrecisionGaussian:
    """The posterior of clean scores by Laplace's approximation: batch shape (B,), event shape (n,).

    Parameters
    ----------
    mixing : FlowMixing
    x : (d, B)
        With noise.
    start : (n, B)
        Scores from which the search begins.
    noise_variance : (d,)
    prior : two arrays (n, B)
        Mean and precision of the sources.
    steps : int
        Steps of Gauss and Newton, at least one.
    """
    mean, precision = prior

    def step(point: Array) -> PrecisionGaussian:
        z, slopes = _linearised(lambda s: mixing.demixer(s)[0], point)
        columns, reach = _linearised(lambda s: mixing.surface(s.T).T, point)
        total, pull = 0.0, 0.0
        for value, jacobian, wanted, weight in (
            (z, slopes, mean, precision),
            (columns, reach, x, 1 / noise_variance[:, None]),
        ):
            weighted = jacobian * weight
            aim = wanted - value + (jacobian * point[:, None]).sum(0)
            total = total + product(weighted, transpose(jacobian))
            pull = pull + product(weighted, aim[:, None])[:, 0]
        return PrecisionGaussian.from_precision(total, pull)  # type: ignore[arg-type]

    point = start
    for _ in range(steps - 1):
        point = point + _CAUTION * (step(point).mean.T - point)
    return step(point)


class FlowPosterior(Conditional):
    """q(z|x, u) ∝ N(m(x); z, Λ(x)⁻¹) p(z|u), with m and Λ from the flow at the most probable clean observation.

    Nothing is amortised: both follow from the flow and the noise, by Gauss-Newton steps.

    Attributes
    ----------
    features : Features
        From x to scores, of which the first n are coordinates of the surface.
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

    def __call__(self, context: Evidence) -> PrecisionGaussian:
        """q(z|x, u): batch shape (B,), event shape (n,)."""
        moments = rows_last_moments(context.prior, len(context.x))
        return posterior_of(self._factor(context.x, moments), context.prior)

    def factor(self, x: Array) -> Factor:
        """What x (B, d) alone says about z, by a flow linearised where z is probable over all u."""
        mean, variance = self.overall
        shape = (len(mean), len(x))
        return self._factor(
            x, (jnp.broadcast_to(mean[:, None], shape), jnp.broadcast_to(1 / variance[:, None], shape))
        )

    def _factor(self, x: Array, moments: tuple[Array, Array]) -> Factor:
        mixing, variance = self.mixing, noise_variance(self.observation, x)
        start = self.features(x)[:, : len(self.overall[0])].T
        point = clean_scores(mixing, x.T, start, variance, moments).mean.T
        z = mixing.demixer(point)[0]
        _, back = _linearised(mixing.demixer.inverse, z)
        columns, reach = _linearised(lambda s: mixing.surface(s.T).T, point)
        sd = jnp.sqrt(variance)[:, None]
        # dx/dz_j in units of the noise is row j; what it says of z is its square.
        spread = product(back, reach / sd)
        precision = product(spread, transpose(spread))
        level = jnp.trace(precision) * 8 * jnp.finfo(x.dtype).eps
        root, inverse = cholesky_with_inverse(precision + level * jnp.eye(len(z), dtype=x.dtype)[:, :, None])
        shift = product(spread, ((x.T - columns) / sd)[:, None])
        return Factor(z + product(transpose(inverse), product(inverse, shift))[:, 0], root)


def _linearised(function: Callable[[Array], Array], point: Array) -> tuple[Array, Array]:
    """Values (m, B) of a function of (n, B), and its Jacobians (n, m, B): row j holds d/dpoint_j."""
    value, along = jax.linearize(function, point)
    directions = jnp.eye(len(point), dtype=point.dtype)
    return value, jax.vmap(lambda e: along(jnp.broadcast_to(e[:, None], point.shape)))(directions)


def noise_variance(observation: GaussianObservation, like: Array) -> Array:
    """Variances (d,) of noise that is the same for all rows (…, d)."""
    return observation(jnp.zeros(like.shape[-1], like.dtype)).variance  # type: ignore[return-value]
