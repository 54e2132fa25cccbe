"""Posteriors of a decoder under Gaussian noise: a network says where to begin, Gauss and Newton where to end.

Where noise is small a posterior is narrower than what an encoder errs by, and its ELBO is nats below the
likelihood. The decoder itself tells the rest.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax

from identica.conditionals.base import Conditional, Evidence
from identica.conditionals.decoder import Decoder
from identica.conditionals.encoders import Factor, ProductOfExperts, posterior_of, rows_last_moments
from identica.conditionals.observations import GaussianObservation, Observation
from identica.conditionals.precision_gaussian import PrecisionGaussian
from identica.conditionals.small_matrices import cholesky_with_inverse, product, transpose
from identica.typing import Array

_STEPS = 8
"""Of a fitted model."""

_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-3, 1e-6, 1e6

_NOTHING = 1e-4
"""Share of the overall prior's precision that x alone is said to add: its factor needs a mean where x says nothing."""


class GaussNewtonPosterior(Conditional):
    """q(z|x, u) = N(ẑ, P⁻¹): ẑ near the mode of log p(x, z|u), P the Gauss-Newton curvature there.

    With J the Jacobian of the decoder at ẑ and Ψ the noise, P = D_u⁻¹ + Jᵀ Ψ⁻¹ J, D_u the prior's variance. An
    amortised posterior is where the search begins, and nothing else of it is left.

    Attributes
    ----------
    encoder : ProductOfExperts
        Where to begin.
    likelihood : Decoder
        The same as the model's; its noise is Gaussian and the same for all rows.
    overall : (2, n)
        Mean and variance of the sources over all values of u, for what x alone says.

    References
    ----------
    Tierney, Kadane (1986), Accurate approximations for posterior moments. Levenberg (1944), Marquardt
    (1963), for the damping.
    """

    encoder: ProductOfExperts
    likelihood: Decoder
    overall: Array

    def __call__(self, context: Evidence) -> PrecisionGaussian:
        """q(z|x, u): batch shape (B,), event shape (n,)."""
        start = self.encoder(context).mean.T
        return local_posterior(
            self.likelihood, context.x, rows_last_moments(context.prior, len(context.x)), start, _STEPS
        )

    def factor(self, x: Array) -> Factor:
        """What x (B, d) alone says about z, by the decoder linearised where z is probable over all u."""
        mean, variance = self.overall
        prior = dist.Normal(mean, jnp.sqrt(variance)).to_event(1)
        moments = rows_last_moments(prior, len(x))
        start = posterior_of(self.encoder.factor(x), prior).mean.T
        local = _refined(self.likelihood, x, moments, start, _STEPS)
        identity = jnp.eye(len(mean), dtype=x.dtype)[:, :, None]
        information = local.information + _NOTHING * moments[1][:, None] * identity
        factor, inverse = cholesky_with_inverse(information)
        move = product(transpose(inverse), product(inverse, local.pull[:, None]))[:, 0]
        return Factor(local.point + move, factor)


class _Local(eqx.Module):
    """What a decoder linearised at a point says of it, in units of the noise.

    Attributes
    ----------
    point : (n, B)
    pull : (n, B)
        Jᵀ Ψ⁻¹ (x − f).
    information : (n, n, B)
        Jᵀ Ψ⁻¹ J.
    misfit : (B,)
        |x − f|² / noise, halved.
    """

    point: Array
    pull: Array
    information: Array
    misfit: Array


def local_posterior(
    likelihood: Decoder, x: Array, moments: tuple[Array, Array], start: Array, steps: int
) -> PrecisionGaussian:
    """The Gaussian at the point that Gauss and Newton reach in so many steps, and one more.

    No gradient passes through those steps. It passes through the last one, with which the posterior moves as decoder
    and noise do: if draws stayed where they are, a precise decoder could hardly change.

    Parameters
    ----------
    likelihood : Decoder
    x : (B, d)
    moments : two arrays (n, B)
        Mean and precision of the prior.
    start : (n, B)
    steps : int
    """
    fixed = lax.stop_gradient((likelihood, x, moments, start))
    point = lax.stop_gradient(_refined(*fixed, steps).point)
    mean, precision = moments
    local = _linearised(likelihood, x, point)
    identity = jnp.eye(len(point), dtype=x.dtype)[:, :, None]
    shift = product(local.information, point[:, None])[:, 0] + local.pull + precision * mean
    return PrecisionGaussian.from_precision(local.information + precision[:, None] * identity, shift)


def _refined(likelihood: Decoder, x: Array, moments: tuple[Array, Array], start: Array, steps: int) -> _Local:
    """Damped Gauss-Newton steps of all rows at once; a step of a row that does not raise log p(x, z|u) is undone."""
    mean, precision = moments
    identity = jnp.eye(len(start), dtype=x.dtype)[:, :, None]
    loss = lambda local: local.misfit + 0.5 * (precision * (local.point - mean) ** 2).sum(0)

    def step(_: Array, state: tuple[_Local, Array]) -> tuple[_Local, Array]:
        local, damping = state
        curvature = local.information + precision[:, None] * identity
        # Relative to the curvature of each direction, which makes steps independent of scale.
        _, inverse = cholesky_with_inverse(curvature * (1 + damping * identity))
        slope = local.pull - precision * (local.point - mean)
        move = product(transpose(inverse), product(inverse, slope[:, None]))[:, 0]
        proposal = _linearised(likelihood, x, local.point + move)
        better = loss(proposal) < loss(local)
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), proposal, local)
        damping = jnp.where(better, damping / 8, damping * 32)
        return kept, jnp.clip(damping, _LEAST_DAMPING, _MOST_DAMPING)

    first = (_linearised(likelihood, x, start), jnp.full(len(x), _FIRST_DAMPING, x.dtype))
    return lax.fori_loop(0, steps, step, first)[0]


def _linearised(likelihood: Decoder, x: Array, point: Array) -> _Local:
    observation = likelihood.observation
    sd = jnp.sqrt(observation(jnp.zeros_like(x[:1])).variance)
    value, along = jax.linearize(likelihood.network, point.T)
    directions = jnp.eye(len(point), dtype=x.dtype)
    slopes = jax.vmap(lambda e: along(jnp.broadcast_to(e, point.T.shape)))(directions) / sd
    residual = (x - value) / sd
    pull = jnp.einsum("ibd,bd->ib", slopes, residual, precision="highest")
    information = jnp.einsum("ibd,jbd->ijb", slopes, slopes, precision="highest")
    return _Local(point, pull, information, 0.5 * (residual**2).sum(-1))


def is_local(observation: Observation) -> bool:
    """Whether the posterior can be found so: Gaussian noise, the same for all rows."""
    return isinstance(observation, GaussianObservation) and observation.is_constant
