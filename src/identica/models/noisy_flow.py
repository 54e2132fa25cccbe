"""A flow whose observations carry noise, in training: z = g(x̃), x = x̃ + noise, x̃ not seen."""

import equinox as eqx
import jax
import numpyro.distributions as dist

from identica.conditionals import (
    Decoder,
    FlowPosterior,
    GaussianObservation,
    ModulatedPrior,
)
from identica.conditionals.encoders import rows_last_moments
from identica.conditionals.flow_posterior import clean_scores, noise_variance
from identica.models.flow import FlowModel
from identica.models.latent_variable import LatentVariableModel, VariationalModel
from identica.models.teacher import FlowTeacher
from identica.networks.flow_mixing import FlowMixing, Surface
from identica.typing import Array, Key

_STEPS = 2
"""Gauss-Newton steps toward the proposal; weights repair what they miss."""


class NoisyFlow(eqx.Module):
    """p(x|u) = ∫ p(g(x̃)|u) |det dg/dx̃| N(x; x̃, noise) dx̃: the latent is the clean observation.

    Of a flow and noise the marginal likelihood is an integral over x̃ that needs g but not its inverse. As the
    noise shrinks it becomes the flow's own likelihood, so that a flow that ignored noise is a start. With more
    columns than sources, x̃ is a point of a surface, and its n coordinates are the latent.

    Attributes
    ----------
    teacher : FlowTeacher
        Scores of x, and a flow of them that has a prior.
    surface : Surface
        From n clean scores to columns.
    observation : GaussianObservation
        The noise of the columns.
    """

    teacher: FlowTeacher
    surface: Surface
    observation: GaussianObservation

    @property
    def flow(self) -> FlowModel:
        """From clean scores to sources, with p(z|u)."""
        return self.teacher.flow

    @property
    def mixing(self) -> FlowMixing:
        """From sources to columns."""
        return FlowMixing(self.flow.demixer, self.surface)  # type: ignore[arg-type]

    def log_weights(self, x: Array, u: Array, count: int, *, key: Key) -> Array:
        """log p(x, x̃_k|u) − log q(x̃_k), nats (K, B): their mean weight estimates p(x|u).

        q is Laplace's approximation, which is not trained: gradients reach the densities only, so that the
        gradient of the logarithm of the mean weight is an importance-sampled Fisher identity.
        """
        fixed: NoisyFlow = jax.lax.stop_gradient(self)
        given = rows_last_moments(fixed._prior(u), len(x))
        still = noise_variance(fixed.observation, x)
        q = clean_scores(fixed.mixing, x.T, self.teacher.scores(x).T, still, given, _STEPS)
        clean, log_q = jax.lax.stop_gradient(q.sample_with_log_prob(key, (count,)))
        z, log_det = self.flow.latents(clean.reshape(-1, clean.shape[-1]))
        log_p = self._prior(u).log_prob(z.reshape(clean.shape)) + log_det.reshape(log_q.shape)
        return log_p + self.observation(self.surface(clean)).log_prob(x) - log_q  # type: ignore[return-value]

    def surface_error(self, x: Array) -> Array:
        """Squared distance of x (B, d) and the surface at the scores of x, summed over columns, (B,)."""
        return ((x - self.surface(self.teacher.scores(x))) ** 2).sum(-1)

    def as_variational(self, overall: Array) -> VariationalModel:
        """The same model with z as latent: prior, decoder, and the posterior that follows from both.

        Parameters
        ----------
        overall : (2, n)
            Mean and variance of the sources over all rows.
        """
        prior: ModulatedPrior = self.flow.prior  # type: ignore[assignment]
        model = LatentVariableModel(prior, Decoder(self.mixing, self.observation))
        encoder = FlowPosterior(self.teacher.features, self.mixing, self.observation, overall)
        return VariationalModel(model, encoder)

    def _prior(self, u: Array) -> dist.Distribution:
        return self.flow.prior(u)  # type: ignore[misc, return-value]
