"""p(z) without u: an independent Gaussian mixture per component."""

import jax.numpy as jnp
import numpyro.distributions as dist

from identica.conditionals.base import Conditional
from identica.typing import Array


class MixturePrior(Conditional):
    """p(z) = Π_i Σ_j w_ij N(z_i; m_ij, v_ij) for every context.

    Attributes
    ----------
    log_weights, means, variances : (n, J)
        Of the J parts of each component's mixture.
    """

    log_weights: Array
    means: Array
    variances: Array

    def __call__(self, context: Array | None = None) -> dist.Distribution:
        """The mixture with empty batch shape; it broadcasts against any batch."""
        parts = dist.Normal(self.means, jnp.sqrt(self.variances))
        return dist.MixtureSameFamily(dist.Categorical(logits=self.log_weights), parts).to_event(1)
