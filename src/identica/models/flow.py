"""Flow model: x = f(z) without noise, p(z|u) factorial, so the likelihood is exact."""

import equinox as eqx
import jax
import jax.numpy as jnp

from identica.families import ExponentialFamily
from identica.networks.invertible import InvertibleNetwork
from identica.typing import Array, Key


class SegmentPrior(eqx.Module):
    """p(z|u) for a discrete u: one row of natural parameters per segment and component.

    Attributes
    ----------
    family : ExponentialFamily
        Of every component.
    natural : (M, n, k)
        Natural parameters.
    shares : (M,)
        Share of each segment among the fitted rows, for data without u.
    """

    family: ExponentialFamily
    natural: Array
    shares: Array

    def natural_parameters(self, u: Array) -> Array:
        """(B, n, k) of segment codes u (B,)."""
        return self.natural[u]

    def log_prob(self, z: Array, u: Array | None) -> Array:
        """log p(z|u) of z (B, n), nats (B,); the mixture over segments if u is None."""
        if u is not None:
            return self.family.log_prob(z, self.natural_parameters(u)).sum(-1)
        joint = self.family.log_prob(z[:, None, :], self.natural[None]).sum(-1)
        return jax.nn.logsumexp(joint + jnp.log(self.shares), axis=1)


class FlowModel(eqx.Module):
    """A prior and a bijection: log p(x|u) = log p(g(x)|u) + log|det dg/dx| with g = f⁻¹.

    Equation (3) of Sorrenson et al. (2020) and of Li et al. (2020), without their encoders.

    Attributes
    ----------
    demixer : InvertibleNetwork
        g, from white scores to sources.
    family : ExponentialFamily
        Of the sources given u.
    prior : SegmentPrior or None
        None while a profile likelihood is maximised: the best prior is then a function of g.
    """

    demixer: InvertibleNetwork
    family: ExponentialFamily
    prior: SegmentPrior | None = None

    def sources(self, x: Array) -> tuple[Array, Array]:
        """z (B, n) and log|det dz/dx| (B,) of scores x (B, n)."""
        z, log_det = self.demixer(x.T)
        return z.T, log_det

    def log_marginal(self, x: Array, u: Array | None) -> Array:
        """log p(x|u), exact, nats (B,)."""
        if self.prior is None:
            raise ValueError("a flow without a prior has no density; set the prior first")
        z, log_det = self.sources(x)
        return self.prior.log_prob(z, u) + log_det  # type: ignore[arg-type]

    def sample(self, u: Array, *, key: Key) -> tuple[Array, Array]:
        """Sources z (B, n) and scores x (B, n) drawn given u (B, …)."""
        if self.prior is None:
            raise ValueError("a flow without a prior cannot be sampled; set the prior first")
        z = self.family.sample(self.prior.natural_parameters(u), key=key)
        return z, self.demixer.inverse(z.T).T
