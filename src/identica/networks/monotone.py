"""Elementwise monotone functions with linear tails, for invertible networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.random import host_rng
from identica.typing import Array, Key

_MOST_STEPS = 60


class MonotoneHinges(eqx.Module):
    r"""A strictly increasing function per unit: a line, soft hinges and one soft step.

    .. math::
        f(x) = e^a x + \sum_k e^{r_k} \tfrac12 (q_k + \sqrt{q_k^2 + ε_k^2})
             + \sum_k e^{l_k} \tfrac12 (p_k - \sqrt{p_k^2 + δ_k^2}) + e^b s \, v / \sqrt{1 + v^2}

    with q = x − t, p = x − t', v = (x − t_b)/s. Hinges change the slope to the right (r) or to the
    left (l) of a learned place over a learned width, the step adds a bump of slope. Tails are linear,
    so nothing saturates, and no transcendental function is evaluated per sample but one logarithm of
    the slope. Every term has a positive slope: f is invertible for all parameter values.

    Attributes
    ----------
    slope : (n,)
        a, the logarithm of the slope of the line.
    hinge_slopes, hinge_places, hinge_widths : (n, 2, H)
        For H hinges to the right (index 0) and H to the left (index 1): logarithm of the slope,
        place, logarithm of the width.
    step : (n, 3)
        b, t_b and log s of the step.
    """

    slope: Array
    hinge_slopes: Array
    hinge_places: Array
    hinge_widths: Array
    step: Array

    @classmethod
    def random(
        cls, n: int, *, key: Key, hinges: int = 2, spread: float = 0.3, straight: bool = False
    ) -> "MonotoneHinges":
        """Smooth, mildly nonlinear functions of n units that differ by ``spread``.

        The left tail bends as often as the right one, so that functions start out nearly odd. Straight
        ones start as almost the identity.
        """
        rng, dtype = host_rng(key), jax.dtypes.canonicalize_dtype(float)
        ladder = np.arange(hinges)
        step = np.zeros((n, 3))
        step[:, 0] = -3.0 + spread * rng.standard_normal(n)
        step[:, 1] = 0.1 * rng.standard_normal(n)
        hinge_slopes = spread * rng.standard_normal((n, 2, hinges)) + (-3.0 if straight else -0.5)
        parts = {
            "slope": np.full(n, 0.0 if straight else -3.0),
            "hinge_slopes": hinge_slopes,
            "hinge_places": np.stack([ladder, -ladder]) + 0.1 * rng.standard_normal((n, 2, hinges)),
            "hinge_widths": np.full((n, 2, hinges), -2.0),
            "step": step,
        }
        return cls(**{name: part.astype(dtype) for name, part in parts.items()})  # type: ignore[arg-type]

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Values and log-slopes, both (n, B), of x (n, B)."""
        line = jnp.exp(self.slope)[:, None]
        value, slope = line * x, line
        for k in range(self.hinge_slopes.shape[2]):
            for side, sign in ((0, 1.0), (1, -1.0)):
                weight = 0.5 * jnp.exp(self.hinge_slopes[:, side, k])[:, None]
                width = jnp.exp(self.hinge_widths[:, side, k])[:, None]
                q = x - self.hinge_places[:, side, k][:, None]
                root = jnp.sqrt(q * q + width * width)
                value = value + weight * (q + sign * root)
                slope = slope + weight * (1.0 + sign * q / root)
        height, place, scale = jnp.exp(self.step[:, 0]), self.step[:, 1], jnp.exp(self.step[:, 2])
        v = (x - place[:, None]) / scale[:, None]
        inverse_root = jax.lax.rsqrt(1.0 + v * v)
        value = value + (height * scale)[:, None] * v * inverse_root
        slope = slope + height[:, None] * inverse_root**3
        return value, jnp.log(slope)

    def inverse(self, y: Array) -> Array:
        """x (n, B) with f(x) = y, by bisection and Newton's steps; differentiable in y and in all parameters."""
        function, target = jax.lax.stop_gradient((self, y))
        x = function._inverted(target)
        # One step of Newton's from the solution leaves its value, and has the derivatives of the inverse.
        value, log_slope = self(x)
        return x - (value - y) * jax.lax.stop_gradient(jnp.exp(-log_slope))

    def _inverted(self, y: Array) -> Array:
        # |f(x) − f(0)| grows at least like the smaller tail slope, which brackets the solution.
        total = jnp.exp(self.slope) + jnp.exp(self.hinge_slopes).sum((1, 2))
        reach = 1.0 + jnp.abs(y) / jnp.exp(self.slope)[:, None]
        zero, _ = self(jnp.zeros_like(y))
        reach = reach + (jnp.abs(zero) + total[:, None]) / jnp.exp(self.slope)[:, None]

        def going(state):
            _, _, _, moved, count = state
            return (count < _MOST_STEPS) & (moved > 0).any()

        def step(state):
            x, low, high, moved, count = state
            value, log_slope = self(x)
            above = value > y
            low, high = jnp.where(above, low, x), jnp.where(above, x, high)
            newton = x - (value - y) * jnp.exp(-log_slope)
            # Halve the bracket where Newton leaves it or hardly moves less than before.
            good = (newton >= low) & (newton <= high) & (jnp.abs(newton - x) <= 0.7 * moved)
            new = jnp.where(good, newton, 0.5 * (low + high))
            move = jnp.abs(new - x)
            done = (moved == 0) | (move <= 4 * jnp.finfo(x.dtype).eps * (1 + jnp.abs(x)))
            return jnp.where(moved == 0, x, new), low, high, jnp.where(done, 0.0, move), count + 1

        first = (jnp.zeros_like(y), -reach, reach, 2 * reach, 0)
        return jax.lax.while_loop(going, step, first)[0]
