"""Flow model: x = f(z) without noise, p(z|u) factorial, so the likelihood is exact."""

import equinox as eqx

from identica.families import ExponentialFamily
from identica.models.priors import MixturePrior, NetworkPrior, SegmentPrior
from identica.networks.invertible import AffineMap, InvertibleNetwork
from identica.typing import Array, Key


class FlowModel(eqx.Module):
    """A prior and a bijection: log p(x|u) = log p(g(x)|u) + log|det dg/dx| with g = f⁻¹.

    Equation (3) of Sorrenson et al. (2020) and of Li et al. (2020), without their encoders.

    Attributes
    ----------
    demixer : InvertibleNetwork
        g, from white scores to latents z.
    family : ExponentialFamily
        Of the latents given u.
    prior : SegmentPrior, NetworkPrior, MixturePrior or None
        None while a profile likelihood is maximised: the best prior is then a function of g.
    orientation : AffineMap or None
        From latents to sources: the stated order, sign and scale. The prior stays that of the latents.
    """

    demixer: InvertibleNetwork
    family: ExponentialFamily
    prior: SegmentPrior | NetworkPrior | MixturePrior | None = None
    orientation: AffineMap | None = None

    def latents(self, x: Array) -> tuple[Array, Array]:
        """z (B, n) and log|det dz/dx| (B,) of scores x (B, n)."""
        z, log_det = self.demixer(x.T)
        return z.T, log_det

    def sources(self, x: Array) -> Array:
        """Sources (B, n) of scores x (B, n)."""
        z = self.demixer(x.T)[0]
        return (z if self.orientation is None else self.orientation(z)).T

    def scores(self, sources: Array) -> Array:
        """Scores x (B, n) of sources (B, n): the mixing."""
        z = sources.T if self.orientation is None else self.orientation.inverse(sources.T)
        return self.demixer.inverse(z).T

    def log_marginal(self, x: Array, u: Array | None) -> Array:
        """log p(x|u), exact, nats (B,)."""
        if self.prior is None:
            raise ValueError("a flow without a prior has no density; set the prior first")
        z, log_det = self.latents(x)
        return self.prior.log_prob(z, u) + log_det

    def sample(self, u: Array, *, key: Key) -> tuple[Array, Array]:
        """Sources (B, n) and scores x (B, n) drawn given u (B, …)."""
        if self.prior is None:
            raise ValueError("a flow without a prior cannot be sampled; set the prior first")
        z = self.prior.sample(u, key=key)
        sources = z if self.orientation is None else self.orientation(z.T).T
        return sources, self.demixer.inverse(z.T).T
