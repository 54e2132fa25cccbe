"""Laplace's approximation of the posterior: a Gaussian at the mode, with the curvature found there."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax

from identica.conditionals.base import Conditional, Evidence
from identica.conditionals.decoder import Decoder
from identica.conditionals.precision_gaussian import PrecisionGaussian
from identica.conditionals.small_matrices import cholesky_with_inverse, product, transpose
from identica.typing import Array

_CANDIDATES = 64
"""Points of the prior among which the search for a mode begins: one far from it may end in another."""

_START_SEED = 7
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-3, 1e-8, 1e8


class LaplaceEncoder(Conditional):
    """q(z|x, u) = N(ẑ, H⁻¹), ẑ the mode of log p(x, z|u) and H the Gauss-Newton curvature there.

    Each row takes the best of the prior's mean and 64 fixed points as a start, then a fixed number of
    damped Gauss-Newton steps, all rows at once; a step that does not raise log p(x, z|u) is undone and
    the damping raised. H = D⁻¹ + Jᵀ A J with D the prior's variance, J the Jacobian of the decoder's
    network and A = −∂² log p(x|η)/∂η² for its outputs η: exact for a linear decoder, positive definite
    wherever log p(x|η) is concave. Where it is not and H is not positive definite, the diagonal of
    Jᵀ A J without its negative entries stands for it. There is nothing to learn, and no gradient passes
    to the likelihood.

    Attributes
    ----------
    likelihood : Decoder
        p(x|z), the same as the model's.
    n_components : int
        Dimension n of z.
    steps : int
        Gauss-Newton steps.

    References
    ----------
    Tierney, Kadane (1986), Accurate approximations for posterior moments. Levenberg (1944), Marquardt
    (1963), for the damping.
    """

    likelihood: Decoder
    n_components: int = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=16)

    def __call__(self, context: Evidence) -> PrecisionGaussian:
        """q(z|x, u) for x (B, d): batch shape (B,), event shape (n,)."""
        mode = self.mode(context)
        prior = self._prior_precision(context)
        information = self._information(mode, lax.stop_gradient(context.x))
        factor, inverse = cholesky_with_inverse(prior + information)
        positive = jnp.isfinite(factor).all((0, 1)) & (jnp.diagonal(factor) > 0).all(-1)
        diagonal = jnp.maximum(jnp.nan_to_num(jnp.diagonal(information).T, posinf=0.0, neginf=0.0), 0)
        root = jnp.sqrt(jnp.diagonal(prior).T + diagonal)[:, None]
        identity = jnp.eye(self.n_components, dtype=mode.dtype)[:, :, None]
        factor = jnp.where(positive, factor, identity * root)
        return PrecisionGaussian(mode, factor, jnp.where(positive, inverse, identity / root))

    def mode(self, context: Evidence) -> Array:
        """ẑ (B, n), the mode of log p(x, z|u) of each row."""
        x = lax.stop_gradient(context.x)
        prior = self._prior_precision(context)
        log_joint = self._log_joint(context)
        start = self._start(context, log_joint)
        identity = jnp.eye(self.n_components, dtype=start.dtype)[:, :, None]

        def step(_: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            z, value, damping = state
            gradient = jax.grad(lambda z: log_joint(z).sum())(z)
            precision = prior + self._information(z, x)
            # Damping relative to the curvature of each direction, which makes steps independent of scale.
            # Without a Cholesky factor the proposal is not a number, and the step is undone.
            _, inverse = cholesky_with_inverse(precision + identity * damping * jnp.abs(precision))
            move = product(transpose(inverse), product(inverse, gradient.T[:, None]))[:, 0].T
            proposal = z + move
            new = log_joint(proposal)
            better = new > value
            z = jnp.where(better[:, None], proposal, z)
            damping = jnp.where(better, damping / 8, damping * 8)
            return z, jnp.where(better, new, value), jnp.clip(damping, _LEAST_DAMPING, _MOST_DAMPING)

        first = (start, log_joint(start), jnp.full(len(x), _FIRST_DAMPING, start.dtype))
        return lax.fori_loop(0, self.steps, step, first)[0]

    def _log_joint(self, context: Evidence) -> Callable[[Array], Array]:
        likelihood, x = lax.stop_gradient((self.likelihood, context.x))

        def log_joint(z: Array) -> Array:
            return context.prior.log_prob(z) + likelihood(z).log_prob(x)  # type: ignore[return-value]

        return log_joint

    def _start(self, context: Evidence, log_joint: Callable[[Array], Array]) -> Array:
        """The best of some fixed points of the prior, (B, n)."""
        rows, dtype = len(context.x), context.x.dtype
        mean, scale = _moments(context.prior, rows, dtype)
        # Drawn on the host, as constants.
        noise = np.random.default_rng(_START_SEED).standard_normal((_CANDIDATES, self.n_components))
        points = jnp.asarray(np.concatenate([np.zeros_like(noise[:1]), noise]), dtype)

        def consider(best: tuple[Array, Array], point: Array) -> tuple[tuple[Array, Array], None]:
            z = mean + scale * point
            value = log_joint(z)
            better = value > best[1]
            return (jnp.where(better[:, None], z, best[0]), jnp.where(better, value, best[1])), None

        first = (mean, jnp.full(rows, -jnp.inf, dtype))
        return lax.scan(consider, first, points)[0][0]

    def _prior_precision(self, context: Evidence) -> Array:
        """D⁻¹ as matrices (n, n, B)."""
        rows, dtype = len(context.x), context.x.dtype
        precision = 1 / lax.stop_gradient(_moments(context.prior, rows, dtype)[1]).T ** 2
        return jnp.eye(self.n_components, dtype=dtype)[:, :, None] * precision[:, None]

    def _information(self, z: Array, x: Array) -> Array:
        """Jᵀ A J (n, n, B) at z (B, n)."""
        likelihood = lax.stop_gradient(self.likelihood)

        def slope(output: Array) -> Array:
            return jax.grad(lambda o: likelihood.observation(o).log_prob(x).sum())(output)  # type: ignore[union-attr]

        output, along = jax.linearize(likelihood.network, z)
        _, bend = jax.linearize(slope, output)
        directions = jnp.eye(self.n_components, dtype=z.dtype)
        columns = jax.vmap(lambda e: along(jnp.broadcast_to(e, z.shape)))(directions)  # J eᵢ, (n, B, outputs)
        information = -jnp.einsum("ibo,jbo->ijb", columns, jax.vmap(bend)(columns), precision="highest")
        return 0.5 * (information + transpose(information))


def _moments(prior: dist.Distribution, rows: int, dtype: Any) -> tuple[Array, Array]:
    """Mean and standard deviation of the prior of each row, both (B, n)."""
    shape = (rows, *prior.event_shape)
    mean = jnp.broadcast_to(jnp.asarray(prior.mean, dtype), shape)
    return mean, jnp.broadcast_to(jnp.sqrt(jnp.asarray(prior.variance, dtype)), shape)
