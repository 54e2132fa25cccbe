"""The mixing that a flow implies: from sources back to columns."""

import equinox as eqx
import jax

from identica.networks.coupling import RefinedNetwork
from identica.networks.invertible import InvertibleNetwork
from identica.typing import Array


class FlowMixing(eqx.Module):
    """x = g⁻¹(z) · loading + center, with g an invertible network of scores.

    It takes the place of a decoder's network where there are as many sources as columns.

    Attributes
    ----------
    demixer : InvertibleNetwork or RefinedNetwork
        g, from scores to sources.
    loading : (n, d)
        From scores to columns; not trained.
    center : (d,)
        Not trained.
    """

    demixer: InvertibleNetwork | RefinedNetwork
    loading: Array
    center: Array

    def __call__(self, z: Array) -> Array:
        """Columns (…, d) of sources z (…, n)."""
        scores = self.demixer.inverse(z.reshape(-1, z.shape[-1]).T).T
        loading, center = jax.lax.stop_gradient((self.loading, self.center))
        return (scores @ loading + center).reshape(*z.shape[:-1], -1)
