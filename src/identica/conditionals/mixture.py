"""p(z) without u: an independent mixture per component, or one Gaussian mixture of all components."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from sklearn.mixture import GaussianMixture

from identica.conditionals.base import Conditional
from identica.conditionals.precision_gaussian import PrecisionGaussian
from identica.conditionals.small_matrices import cholesky_with_inverse, product, transpose
from identica.typing import Array, FloatArray

_SMALLEST_DEVIATION = 1e-2
"""Smallest conditional standard deviation within a cluster, where the latents begin with unit variance."""

_CLUSTERED_ROWS = 8192
"""Most rows from which the first clusters are found."""


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


class GaussianMixturePrior(Conditional):
    """p(z) = Σ_j w_j N(z; m_j, P_j⁻¹) for every context, all of it learned; full covariances.

    Attributes
    ----------
    log_weights : (J,)
        Logarithms of w, up to a constant.
    means : (J, n)
    raw : (J, n, n)
        Cholesky factors of the precisions P_j: what is below the diagonal as it is, and the logarithms of
        the diagonal's entries, which are bounded above.
    """

    log_weights: Array
    means: Array
    raw: Array

    @classmethod
    def from_rows(
        cls, z: FloatArray, n_clusters: int, *, seed: int, dtype: np.dtype
    ) -> "GaussianMixturePrior":
        """The mixture that EM finds in rows z (N, n), from k-means as its start (scikit-learn)."""
        # Variances are floored, so that no first cluster is too narrow for the encoder to leave.
        fitted: Any = GaussianMixture(n_clusters, reg_covar=0.01, random_state=seed).fit(z[:_CLUSTERED_ROWS])
        raw = np.linalg.cholesky(fitted.precisions_)
        diagonal = np.einsum("jii->ji", raw).copy()
        # The inverse of the bound below.
        logs = -np.log(np.maximum(1 / diagonal - _SMALLEST_DEVIATION, 1e-3))
        np.einsum("jii->ji", raw)[:] = logs
        return cls(np.log(fitted.weights_).astype(dtype), fitted.means_.astype(dtype), raw.astype(dtype))

    def factors(self) -> Array:
        """Lower-triangular C_j with P_j = C_j C_jᵀ, as (n, n, J)."""
        diagonal = jnp.diagonal(self.raw, axis1=1, axis2=2)
        bounded = 1 / (_SMALLEST_DEVIATION + jnp.exp(-diagonal))
        below = jnp.tril(self.raw, -1)
        identity = jnp.eye(self.raw.shape[-1], dtype=self.raw.dtype)
        return jnp.moveaxis(below + identity * bounded[:, None, :], 0, -1)

    def __call__(self, context: Array | None = None) -> dist.MixtureSameFamily:
        """The mixture with empty batch shape; it broadcasts against any batch."""
        factor = self.factors()
        # Only samples and moments need the inverse; compiled code of densities leaves it out.
        _, inverse = cholesky_with_inverse(product(factor, transpose(factor)))
        parts = PrecisionGaussian(self.means, factor, inverse)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.log_weights), parts)

    def log_responsibilities(self, z: Array) -> Array:
        """log p(j|z) of rows z (…, n), as (…, J)."""
        mixture = self(None)
        joint = mixture.component_log_probs(z)
        return joint - jnp.asarray(mixture.log_prob(z))[..., None]
