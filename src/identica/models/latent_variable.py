"""Latent-variable models: a prior p(z|u) and a likelihood p(x|z), with an amortised posterior."""

import equinox as eqx
import jax
import numpyro.distributions as dist

from identica.conditionals import Conditional, Evidence
from identica.typing import Array, Key


class LatentVariableModel(eqx.Module):
    """p(z|u) p(x|z).

    Attributes
    ----------
    prior : Conditional
        From u to the distribution of z.
    likelihood : Conditional
        From z to the distribution of x.
    """

    prior: Conditional
    likelihood: Conditional

    def log_joint(self, z: Array, x: Array, u: Array | None) -> Array:
        """log p(x, z|u) in nats; z (…, B, n), x (B, d), u (B, …) or None."""
        return self.prior(u).log_prob(z) + self.likelihood(z).log_prob(x)  # type: ignore[return-value]

    def sample(self, u: Array | None, *, key: Key, n_rows: int = 1) -> tuple[Array, Array]:
        """Latents z (B, n) and observations x (B, d) given u (B, …).

        Without u, `n_rows` rows are drawn from a prior that needs none.
        """
        prior_key, noise_key = jax.random.split(key)
        prior = self.prior(u)
        z = prior.sample(prior_key, () if prior.batch_shape else (n_rows,))
        return z, self.likelihood(z).sample(noise_key)  # type: ignore[return-value, arg-type]


class VariationalModel(eqx.Module):
    """A latent-variable model with an amortised posterior q(z|x, u): a variational autoencoder.

    Attributes
    ----------
    model : LatentVariableModel
    encoder : Conditional
        From `Evidence` to q(z|x, u).
    """

    model: LatentVariableModel
    encoder: Conditional

    def posterior(self, x: Array, u: Array | None) -> dist.Distribution:
        """q(z|x, u) of rows x (B, d)."""
        return self.encoder(Evidence(x, u, self.model.prior(u)))
