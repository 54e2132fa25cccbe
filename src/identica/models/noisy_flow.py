"""A flow whose observations carry noise, in training: z = g(x̃), x = x̃ + noise, x̃ not seen."""

import equinox as eqx
import jax.numpy as jnp
import numpyro.distributions as dist

from identica.conditionals import (
    Decoder,
    FlowPosterior,
    GaussianObservation,
    ModulatedPrior,
)
from identica.conditionals.encoders import rows_last_moments
from identica.conditionals.flow_posterior import clean_scores, noise_root
from identica.models.flow import FlowModel
from identica.models.latent_variable import LatentVariableModel, VariationalModel
from identica.models.teacher import FlowTeacher
from identica.networks.coupling import RefinedNetwork
from identica.networks.flow_mixing import FlowMixing
from identica.networks.invertible import InvertibleNetwork
from identica.typing import Array, Key

_STEPS = 2
"""Gauss-Newton steps toward the proposal; weights repair what they miss."""


class NoisyFlow(eqx.Module):
    """p(x|u) = ∫ p(g(x̃)|u) |det dg/dx̃| N(x; x̃, noise) dx̃: the latent is the clean observation.

    Of a flow and noise the marginal likelihood is an integral over x̃ that needs g but not its inverse. As the
    noise shrinks it becomes the flow's own likelihood, so that a flow that ignored noise is a start.

    Attributes
    ----------
    teacher : FlowTeacher
        Scores of x, and a flow of them that has a prior.
    loading : (n, d)
        From scores back to standardised columns, d = n; not trained.
    observation : GaussianObservation
        The noise of the columns.
    """

    teacher: FlowTeacher
    loading: Array
    observation: GaussianObservation

    @property
    def flow(self) -> FlowModel:
        """From clean scores to sources, with p(z|u)."""
        return self.teacher.flow

    @property
    def _demixer(self) -> InvertibleNetwork | RefinedNetwork:
        return self.flow.demixer  # type: ignore[return-value]

    def log_weights(self, x: Array, u: Array, count: int, *, key: Key) -> Array:
        """log p(x, x̃_k|u) − log q(x̃_k), nats (K, B): their mean weight estimates p(x|u).

        q is Laplace's approximation, and gradients pass through its last step. Without them training cared for the
        densities at draws that stay where they are, flows became such that q missed their posteriors, and the bound
        fell while it was trained (ten sources: −.7 to −3.2 nats within one depth).
        """
        scores = self.teacher.scores(x)
        root = noise_root(self.loading, self.observation)
        given = rows_last_moments(self._prior(u), len(x))
        q = clean_scores(self._demixer, scores.T, root @ root.T, given, _STEPS)
        clean, log_q = q.sample_with_log_prob(key, (count,))
        z, log_det = self.flow.latents(clean.reshape(-1, clean.shape[-1]))
        log_p = self._prior(u).log_prob(z.reshape(clean.shape)) + log_det.reshape(log_q.shape)
        # log|det R| without that of the loading makes a density of scores one of columns.
        sd = jnp.sqrt(self.observation(jnp.zeros_like(self.loading[0])).variance)
        noise = dist.Normal(0.0, 1.0).log_prob((scores - clean) @ root).sum(-1) - jnp.log(sd).sum()
        return log_p + noise - log_q

    def as_variational(self, overall: Array, center: Array) -> VariationalModel:
        """The same model with z as latent: prior, decoder, and the posterior that follows from both.

        Parameters
        ----------
        overall : (2, n)
            Mean and variance of the sources over all rows.
        center : (d,)
            Of the standardised columns: scores are of x − center.
        """
        mixing = FlowMixing(self._demixer, self.loading, center)
        prior: ModulatedPrior = self.flow.prior  # type: ignore[assignment]
        model = LatentVariableModel(prior, Decoder(mixing, self.observation))  # type: ignore[arg-type]
        encoder = FlowPosterior(self.teacher.features, mixing, self.observation, overall)
        return VariationalModel(model, encoder)

    def _prior(self, u: Array) -> dist.Distribution:
        return self.flow.prior(u)  # type: ignore[misc, return-value]
