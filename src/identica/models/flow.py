"""Flow model: x = f(z) without noise, p(z|u) factorial, so the likelihood is exact."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from identica.conditionals import MixturePrior, ModulatedPrior
from identica.families import Family
from identica.networks.coupling import RefinedNetwork
from identica.networks.invertible import AffineMap, InvertibleNetwork
from identica.networks.spline_flow import SplineFlow
from identica.networks.volume_preserving import VolumePreservingNetwork
from identica.typing import Array, Key


class FlowModel(eqx.Module):
    """A prior and a bijection: log p(x|u) = log p(g(x)|u) + log|det dg/dx| with g = f⁻¹.

    Equation (3) of Sorrenson et al. (2020) and of Li et al. (2020), without their encoders.

    Attributes
    ----------
    demixer : InvertibleNetwork, RefinedNetwork, VolumePreservingNetwork or SplineFlow
        g, from white scores to latents z.
    family : Family
        Of the latents given u.
    prior : ModulatedPrior, MixturePrior or None
        None while a profile likelihood is maximised: the best prior is then a function of g.
    orientation : AffineMap or None
        From latents to sources: the stated order, sign and scale. The prior stays that of the latents.
    """

    demixer: InvertibleNetwork | RefinedNetwork | VolumePreservingNetwork | SplineFlow
    family: Family
    prior: ModulatedPrior | MixturePrior | None = None
    orientation: AffineMap | None = None

    @property
    def network(self) -> InvertibleNetwork:
        """The demixer without its couplings, if it is of the kind that grows."""
        if isinstance(self.demixer, VolumePreservingNetwork | SplineFlow):
            raise TypeError(f"a {type(self.demixer).__name__} holds no network that grows")
        return self.demixer.network if isinstance(self.demixer, RefinedNetwork) else self.demixer

    @property
    def n_components(self) -> int:
        """Number n of latents."""
        if isinstance(self.demixer, SplineFlow):
            return self.demixer.n_components
        volume = isinstance(self.demixer, VolumePreservingNetwork)
        return (self.demixer if volume else self.network).last.bias.shape[-1]  # type: ignore[union-attr]

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
        """log p(x|u), exact, nats (B,); log p(x), averaged over what u was in the fit, if u is None."""
        z, log_det = self.latents(x)
        if u is None and isinstance(self.prior, ModulatedPrior):
            natural, log_weights = self.prior.parts()
            joint = self.prior.family.log_prob(z[:, None, :], natural[None]).sum(-1)
            return jax.nn.logsumexp(joint + log_weights, axis=1) + log_det
        return jnp.asarray(self._prior_given(u).log_prob(z)) + log_det

    def sample(self, u: Array, *, key: Key) -> tuple[Array, Array]:
        """Sources (B, n) and scores x (B, n) drawn given u (B, …)."""
        prior = self._prior_given(u)
        z = jnp.asarray(prior.sample(key, () if prior.batch_shape else (u.shape[0],)))
        sources = z if self.orientation is None else self.orientation(z.T).T
        return sources, self.demixer.inverse(z.T).T

    def _prior_given(self, u: Array | None) -> dist.Distribution:
        if self.prior is None:
            raise ValueError("a flow without a prior has no density; set the prior first")
        return self.prior(u)  # type: ignore[arg-type]
