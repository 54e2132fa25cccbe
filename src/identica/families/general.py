"""Any sufficient statistics and any base measure, with a numerical log-partition function."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.errors import DataError
from identica.families.base import VARIANCE_FLOOR, ExponentialFamily
from identica.typing import Array, Key

Statistic = Callable[[Array], Array]


class RadialBaseMeasure(eqx.Module):
    """A learned log Q(z): Gaussian bumps on an even grid, zero at first.

    Parameters
    ----------
    weights : (J,)
        Heights of the bumps in nats, learned.
    radius : float
        The centres run from −`radius` to `radius`; the width equals their distance.
    """

    weights: Array
    radius: float = eqx.field(default=5.0, static=True)

    def __call__(self, z: Array) -> Array:
        count = self.weights.shape[0]
        centres = jnp.linspace(-self.radius, self.radius, count, dtype=z.dtype)
        width = 2 * self.radius / (count - 1)
        return jnp.exp(-0.5 * ((z[..., None] - centres) / width) ** 2) @ self.weights


class General(ExponentialFamily):
    """Exponential family with free statistics, normalised by Gauss-Legendre quadrature.

    Statistics are the powers z, …, z^order, or callables. The last natural parameter is kept negative
    by −softplus, so an even power in last place makes the density integrable; the normaliser covers
    [−radius, radius], outside of which the mass must be negligible. Gradients pass through the
    quadrature, so every derived quantity (moments, Fisher information, divergences) is available.

    Parameters
    ----------
    order : int
        Number of powers of z; ignored where `statistics` are given.
    statistics : tuple of callables
        Elementwise functions of z. They are compared by identity: use module-level functions.
    base_measure : equinox.Module or None
        Elementwise log Q(z), possibly with parameters (`RadialBaseMeasure`); None is Q = 1.
    radius : float
        Half-width of the interval of integration.
    nodes : int
        Number of quadrature nodes.

    Raises
    ------
    DataError
        If the last power is odd, which no density on the line has, or a size is not positive.
    """

    base_measure: eqx.Module | None = None
    order: int = eqx.field(default=4, static=True)
    statistics: tuple[Statistic, ...] = eqx.field(default=(), static=True)
    radius: float = eqx.field(default=8.0, static=True)
    nodes: int = eqx.field(default=161, static=True)

    def __check_init__(self) -> None:
        if not self.statistics and (self.order < 2 or self.order % 2):
            raise DataError(
                f"order must be an even number of at least 2, got {self.order}: "
                "with an odd last power the density grows without bound on one side."
            )
        if self.radius <= 0 or self.nodes < 8:
            raise DataError(f"radius must be positive and nodes at least 8, got {self.radius}, {self.nodes}.")

    @property
    def number_of_statistics(self) -> int:
        return len(self.statistics) or self.order

    def sufficient_statistics(self, z: Array) -> Array:
        if self.statistics:
            return jnp.stack([statistic(z) for statistic in self.statistics], axis=-1)
        return jnp.cumprod(jnp.stack([z] * self.order, axis=-1), axis=-1)

    def log_base_measure(self, z: Array) -> Array:
        return jnp.zeros_like(z) if self.base_measure is None else self.base_measure(z)  # type: ignore[operator]

    def natural_parameters(self, raw: Array) -> Array:
        return jnp.concatenate([raw[..., :-1], -jax.nn.softplus(raw[..., -1:])], axis=-1)

    def raw_from_natural(self, natural: Array) -> Array:
        last = -natural[..., -1:]
        inverse = last + jnp.log(-jnp.expm1(-last))
        return jnp.concatenate([natural[..., :-1], inverse], axis=-1)

    def log_partition(self, natural: Array) -> Array:
        return jax.nn.logsumexp(self._log_masses(natural), axis=-1)

    def natural_from_expectation(
        self, statistics_mean: Array, *, floor: float = VARIANCE_FLOOR, iterations: int = 50
    ) -> Array:
        """Damped Newton steps on the concave average log-likelihood; see the base class.

        There is no closed form. `floor` is added to the diagonal of the Fisher information, relative to
        it, so statistics on the border of their range give large but finite parameters.
        """
        steps = jnp.asarray([1.0, 0.5, 0.1, 0.01, 0.0], statistics_mean.dtype)

        def solve(target: Array) -> Array:
            def newton(natural: Array, _: None) -> tuple[Array, None]:
                information = self.fisher_information(natural)
                diagonal = jnp.sqrt(jnp.diagonal(information))
                # Powers of z differ by orders of magnitude, so the system is solved at unit scale.
                scaled = information / (diagonal[:, None] * diagonal) + floor * jnp.eye(target.shape[-1])
                slope = target - self.expectation_parameters(natural)
                direction = jnp.linalg.solve(scaled, slope / diagonal) / diagonal
                candidates = natural + steps[:, None] * direction
                values = candidates @ target - self.log_partition(candidates)
                best = jnp.argmax(jnp.where(jnp.isfinite(values), values, -jnp.inf))
                return candidates[best], None

            start = self.natural_parameters(jnp.zeros_like(target))
            return jax.lax.scan(newton, start, None, length=iterations)[0]

        return jnp.vectorize(solve, signature="(k)->(k)")(statistics_mean)

    def mean_and_variance(self, natural: Array) -> tuple[Array, Array]:
        points, masses = self._points(natural.dtype)[0], self._masses(natural)
        mean = masses @ points
        return mean, (masses * (points - mean[..., None]) ** 2).sum(-1)

    def expected_log_base_measure(self, natural: Array) -> Array:
        return self._masses(natural) @ self.log_base_measure(self._points(natural.dtype)[0])

    def sample(self, natural: Array, *, key: Key) -> Array:
        """Inverse distribution function on the quadrature grid, linear between its nodes."""
        points = self._points(natural.dtype)[0]
        cumulative = jnp.cumsum(self._masses(natural), axis=-1) - 0.5 * self._masses(natural)
        uniform = jax.random.uniform(key, natural.shape[:-1], natural.dtype)
        return jnp.vectorize(jnp.interp, signature="(),(q),(q)->()")(uniform, cumulative, points)

    def _masses(self, natural: Array) -> Array:
        """Probability of each quadrature node, (..., nodes)."""
        return jax.nn.softmax(self._log_masses(natural), axis=-1)

    def _log_masses(self, natural: Array) -> Array:
        points, log_weights = self._points(natural.dtype)
        inner = natural @ self.sufficient_statistics(points).T
        return inner + self.log_base_measure(points) + log_weights

    def _points(self, dtype: jnp.dtype) -> tuple[Array, Array]:
        points, weights = np.polynomial.legendre.leggauss(self.nodes)
        return jnp.asarray(self.radius * points, dtype), jnp.asarray(np.log(self.radius * weights), dtype)
