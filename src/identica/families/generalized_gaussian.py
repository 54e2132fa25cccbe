"""Generalised Gaussian with a free scale, a known power and a known location."""

import equinox as eqx

from identica.errors import DataError
from identica.families.power_scale import PowerScale


class GeneralizedGaussian(PowerScale):
    """Generalised Gaussian family with T(z) = |z − m|^p, natural parameter −α^(−p), k = 1.

    Parameters
    ----------
    power : float
        The power p > 0: 1 is Laplace, 2 is Gaussian, larger values have lighter tails.
    location : float
        The known location m, shared by all components and segments.

    Raises
    ------
    DataError
        If `power` is not positive.
    """

    power: float = eqx.field(static=True)
    location: float = eqx.field(default=0.0, static=True)

    def __check_init__(self) -> None:
        if not self.power > 0:
            raise DataError(f"power must be positive, got {self.power!r}; 1 is Laplace, 2 is Gaussian.")

    @property
    def exponent(self) -> float:
        return float(self.power)
