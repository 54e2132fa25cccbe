"""Coupling and autoregressive flows of rational-quadratic splines, by the library flowjax."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from identica.networks.invertible import AffineMap
from identica.typing import Array, Key

KNOTS, INTERVAL = 8, 5.0
"""Knots of each spline, and the half-width of the interval that it bends; outside it is the identity."""


class SplineFlow(eqx.Module):
    """A linear map, then layers of splines whose parameters are networks of other components.

    Durkan, Bekasov, Murray, Papamakarios (2019), *Neural spline flows*: in a coupling half of the components give
    the splines of the other half; in an autoregressive layer each component's spline depends on those before it,
    which bends more and is inverted one component after the other. What flowjax built is held as its arrays, and
    built again from the numbers below, so that a saved model needs no types of another library.

    Attributes
    ----------
    first : AffineMap
    leaves : tuple of arrays
        Arrays of the flow, in flowjax's order; those of integers are permutations, which are not trained.
    kind : {"coupling", "autoregressive"}
    n_components, layers, units : int
        Number n of components, of layers, and of units in the layer of their networks.
    """

    first: AffineMap
    leaves: tuple[Array, ...]
    kind: Literal["coupling", "autoregressive"] = eqx.field(static=True)
    n_components: int = eqx.field(static=True)
    layers: int = eqx.field(static=True)
    units: int = eqx.field(static=True)

    @classmethod
    def random(
        cls, kind: Literal["coupling", "autoregressive"], n: int, layers: int, units: int, *, key: Key
    ) -> "SplineFlow":
        """A random rotation and nearly straight splines of n ≥ 2 components.

        Raises
        ------
        ImportError
            If flowjax is not installed.
        """
        first_key, flow_key = jax.random.split(key)
        arrays = eqx.filter(_build(kind, n, layers, units, flow_key), eqx.is_array)
        return cls(AffineMap.random(n, key=first_key), tuple(jax.tree.leaves(arrays)), kind, n, layers, units)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """z (n, B) and log|det dz/dx| (B,) of x (n, B), nats."""
        z, log_det = jax.vmap(self._bijection().inverse_and_log_det, in_axes=1, out_axes=(1, 0))(
            self.first(x)
        )
        return z, log_det + self.first.log_abs_det()

    def inverse(self, z: Array) -> Array:
        """x (n, B) with z = flow(x)."""
        return self.first.inverse(jax.vmap(self._bijection().transform, in_axes=1, out_axes=1)(z))

    def _bijection(self) -> Any:
        import paramax  # pyright: ignore[reportMissingImports]

        structure, rest = _blueprint(
            self.kind,
            self.n_components,
            self.layers,
            self.units,
            bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        )
        return paramax.unwrap(eqx.combine(jax.tree.unflatten(structure, self.leaves), rest))


@cache
def _blueprint(kind: str, n: int, layers: int, units: int, wide: bool) -> tuple[Any, Any]:
    """Structure of the arrays, and all else that flowjax builds: both follow from the numbers."""

    def build() -> Any:
        with jax.enable_x64(wide):
            return _build(kind, n, layers, units, jax.random.key(0))

    # flowjax keeps arrays inside functions, which must be real ones. This may be called while compiled code is
    # traced; another thread is outside of that.
    with ThreadPoolExecutor(1) as outside:
        arrays, rest = eqx.partition(outside.submit(build).result(), eqx.is_array)
    return jax.tree.structure(arrays), rest


def _build(kind: str, n: int, layers: int, units: int, key: Key) -> Any:
    try:
        from flowjax.bijections import RationalQuadraticSpline  # pyright: ignore[reportMissingImports]
        from flowjax.distributions import Normal  # pyright: ignore[reportMissingImports]
        from flowjax.flows import coupling_flow, masked_autoregressive_flow  # pyright: ignore
    except ImportError as error:
        raise ImportError(
            "networks of splines need the package flowjax, which is not installed; run: "
            "pip install 'identica[flows]'. Or leave network at 'grown'"
        ) from error
    make = coupling_flow if kind == "coupling" else masked_autoregressive_flow
    transformer = RationalQuadraticSpline(knots=KNOTS, interval=INTERVAL)
    flow = make(
        key, base_dist=Normal(jnp.zeros(n)), transformer=transformer, flow_layers=layers, nn_width=units
    )
    return flow.bijection


def spline_parameters(kind: Literal["coupling", "autoregressive"], n: int, layers: int, units: int) -> int:
    """About how many numbers a `SplineFlow` trains."""
    outputs = 3 * KNOTS - 1
    inside, bent = (n // 2, n - n // 2) if kind == "coupling" else (n, n)
    return n * (n + 1) + layers * (inside * units + units + bent * outputs * (units + 1))
