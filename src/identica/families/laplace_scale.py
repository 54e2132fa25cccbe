"""Laplace with a free scale and a known location."""

import equinox as eqx

from identica.families.power_scale import PowerScale


class LaplaceScale(PowerScale):
    """Laplace family with T(z) = |z − m|, natural parameter −1/b, k = 1.

    A location that moves with u would not be an exponential family.

    Parameters
    ----------
    location : float
        The known location m, shared by all components and segments.
    """

    location: float = eqx.field(default=0.0, static=True)

    @property
    def exponent(self) -> float:
        return 1.0
