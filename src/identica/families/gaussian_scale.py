"""Gaussian with a free variance and a known mean."""

import equinox as eqx

from identica.families.power_scale import PowerScale


class GaussianScale(PowerScale):
    """Gaussian family with T(z) = (z − m)², natural parameter −1/(2 s²), k = 1.

    Parameters
    ----------
    location : float
        The known mean m, shared by all components and segments.
    """

    location: float = eqx.field(default=0.0, static=True)

    @property
    def exponent(self) -> float:
        return 2.0
