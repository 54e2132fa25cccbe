"""The mixing that a flow implies: from sources back to columns."""

import equinox as eqx
import jax
import numpy as np

from identica.networks.coupling import RefinedNetwork
from identica.networks.invertible import InvertibleNetwork
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.typing import Array, Key


class Surface(eqx.Module):
    """x = s · loading + center + bend(s): where clean observations lie, by n coordinates s.

    With as many coordinates as columns it is all of space, and nothing bends.

    Attributes
    ----------
    loading : (n, d)
        Not trained.
    center : (d,)
        Not trained.
    bend : MultilayerPerceptron or None
        What is not linear.
    """

    loading: Array
    center: Array
    bend: MultilayerPerceptron | None = None

    @classmethod
    def bent(cls, loading: Array, center: Array, hidden_sizes: tuple[int, ...], key: Key) -> "Surface":
        """A surface that begins next to flat."""
        n, d = loading.shape
        bend = MultilayerPerceptron.random(n, hidden_sizes, d, last_scale=0.1, key=key)
        return cls(loading, center, bend)

    def __call__(self, s: Array) -> Array:
        """Columns (…, d) of coordinates (…, n)."""
        loading, center = jax.lax.stop_gradient((self.loading, self.center))
        flat = s @ loading + center
        return flat if self.bend is None else flat + self.bend(s)


class FlowMixing(eqx.Module):
    """x = surface(g⁻¹(z)), with g an invertible network.

    It takes the place of a decoder's network.

    Attributes
    ----------
    demixer : InvertibleNetwork or RefinedNetwork
        g, from coordinates of the surface to sources.
    surface : Surface
    """

    demixer: InvertibleNetwork | RefinedNetwork
    surface: Surface

    def __call__(self, z: Array) -> Array:
        """Columns (…, d) of sources z (…, n)."""
        s = self.demixer.inverse(z.reshape(-1, z.shape[-1]).T).T
        return self.surface(s).reshape(*z.shape[:-1], -1)


def loading_of(matrix: Array) -> np.ndarray:
    """The flat part of a surface whose coordinates are (x − center) · matrix, for matrix (d, n)."""
    return np.linalg.pinv(np.asarray(matrix, np.float64)).astype(np.asarray(matrix).dtype)
