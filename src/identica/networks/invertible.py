"""An invertible network that can be grown layer by layer: square linear maps and monotone functions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.compilation import compiled
from identica.networks.determinant import log_abs_det
from identica.networks.monotone import MonotoneHinges
from identica.random import host_rng
from identica.typing import Array, Key


class AffineMap(eqx.Module):
    """y = W x + c with square W.

    Attributes
    ----------
    weight : (n, n)
    bias : (n,)
    """

    weight: Array
    bias: Array

    @classmethod
    def random(cls, n: int, *, key: Key) -> "AffineMap":
        """A random orthogonal matrix and a small bias."""
        weight_key, bias_key = jax.random.split(key)
        bias = 0.1 * host_rng(bias_key).standard_normal(n)
        weight = random_orthogonal(n, key=weight_key)
        return cls(weight, bias.astype(weight.dtype))  # type: ignore[arg-type]

    def __call__(self, x: Array) -> Array:
        """(n, B) to (n, B)."""
        return self.weight @ x + self.bias[:, None]

    def log_abs_det(self) -> Array:
        """log|det W|, a scalar (one per layer of a stack)."""
        return log_abs_det(self.weight)

    def inverse(self, y: Array) -> Array:
        """(n, B) to (n, B)."""
        return jnp.linalg.solve(self.weight, y - self.bias[:, None])

    def then(self, weight: Array, bias: Array) -> "AffineMap":
        """This map followed by y ↦ weight · y + bias."""
        return AffineMap(weight @ self.weight, weight @ self.bias + bias)


class InvertibleNetwork(eqx.Module):
    """Linear maps with a monotone function per unit between them: L maps, L − 1 functions.

    Arrays are laid out (n, B), units first: segment sums are then matrix products and elementwise
    work runs along contiguous rows. All layers but the last are stacked along a leading axis and
    scanned. The stack has room for C layers, of which the first ``depth`` are in use: a network that
    grows keeps its shape, and every depth runs the same compiled code.

    Attributes
    ----------
    maps : AffineMap with leaves (C, …)
    functions : MonotoneHinges with leaves (C, …)
    last : AffineMap
    depth : () int
        Hidden layers in use, L − 1.
    """

    maps: AffineMap
    functions: MonotoneHinges
    last: AffineMap
    depth: Array

    @classmethod
    def random(
        cls, n: int, n_layers: int, *, key: Key, most_layers: int | None = None
    ) -> "InvertibleNetwork":
        """L = ``n_layers`` linear maps and L − 1 mildly nonlinear functions, with room to grow."""
        room = (most_layers or n_layers) - 1
        maps_key, functions_key, last_key = jax.random.split(key, 3)
        # One more than there is room for: without any, stacks still have a shape.
        maps = [AffineMap.random(n, key=k) for k in jax.random.split(maps_key, room + 1)]
        functions = [MonotoneHinges.random(n, key=k) for k in jax.random.split(functions_key, room + 1)]
        stacked = [
            jax.tree.map(lambda *leaves: np.stack(leaves)[:room], *parts) for parts in (maps, functions)
        ]
        return cls(*stacked, AffineMap.random(n, key=last_key), np.asarray(n_layers - 1, np.int32))  # type: ignore[arg-type]

    @classmethod
    def linear(cls, last: AffineMap) -> "InvertibleNetwork":
        """One linear map and nothing else."""
        empty = cls.random(last.bias.shape[0], 1, key=jax.random.key(0))
        return cls(empty.maps, empty.functions, last, empty.depth)

    @property
    def n_layers(self) -> int:
        """Number L of linear maps in use."""
        return int(self.depth) + 1

    def _in_use(self) -> Array:
        return jnp.arange(self.maps.bias.shape[0]) < self.depth

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """z (n, B) and log|det dz/dx| (B,) of x (n, B), nats."""

        def layer(carry, parts):
            x, log_det = carry
            in_use, linear, function = parts
            # Layers not in use are computed and dropped: on CPUs that is cheaper than a branch.
            y, log_slope = function(linear(x))
            return (jnp.where(in_use, y, x), log_det + jnp.where(in_use, log_slope.sum(0), 0.0)), None

        start = (x, jnp.zeros(x.shape[1], x.dtype))
        in_use = self._in_use()
        (x, log_det), _ = jax.lax.scan(layer, start, (in_use, self.maps, self.functions), unroll=True)
        # All determinants in one loop: each loop costs more than its arithmetic.
        weights = jnp.concatenate([self.maps.weight, self.last.weight[None]])
        constant = jnp.where(jnp.append(in_use, True), log_abs_det(weights), 0.0).sum()
        return self.last(x), log_det + constant

    def inverse(self, z: Array) -> Array:
        """x (n, B) with z = network(x)."""

        def layer(x, parts):
            in_use, linear, function = parts
            return jnp.where(in_use, linear.inverse(function.inverse(x)), x), None

        stack = (self._in_use(), self.maps, self.functions)
        return jax.lax.scan(layer, self.last.inverse(z), stack, reverse=True)[0]

    def followed_by(self, weight: Array, bias: Array) -> "InvertibleNetwork":
        """The network with y ↦ weight · y + bias merged into its last linear map."""
        return InvertibleNetwork(self.maps, self.functions, self.last.then(weight, bias), self.depth)

    def check_room(self) -> None:
        """Raise a ValueError if no layer can be added.

        The new layer would have been dropped without a word: JAX ignores writes beyond an array.
        """
        room, depth = self.maps.bias.shape[0], int(self.depth)
        if depth >= room:
            raise ValueError(
                f"the network has room for {room + 1} layer(s) and uses them all; draw it with a larger most_layers"
            )

    def grown(self, x: Array, *, key: Key, spread: float = 0.1, turned: bool = True) -> "InvertibleNetwork":
        """One more layer, computing nearly the same function.

        Outputs are standardised and turned by a random rotation Q, a new monotone function of small
        spread follows, and a least-squares linear map undoes both as well as it can. Growing keeps
        what was learned and gives the next stage new directions to bend along; more restarts of networks
        that have full depth from the start stay in poor optima (`benchmarks/ablation.py`).

        Parameters
        ----------
        x : (n, B)
            Rows on which the new linear map is fitted.
        turned : bool
            Without the rotation, the new function starts as the identity and bends each output by itself: a
            layer that mixes many outputs first cannot straighten them.

        Raises
        ------
        ValueError
            If the stack has no room for another layer.
        """
        self.check_room()
        n = x.shape[0]
        rotation_key, function_key = jax.random.split(key)
        rotation = random_orthogonal(n, key=rotation_key) if turned else np.eye(n)
        function = MonotoneHinges.random(n, key=function_key, spread=spread, straight=not turned)
        return _with_layer(self, x, jnp.asarray(rotation, x.dtype), function)


@compiled
def _with_layer(
    network: InvertibleNetwork, x: Array, rotation: Array, function: MonotoneHinges
) -> InvertibleNetwork:
    """Function and rotation after the network, and a linear map that undoes both on x (n, B)."""
    z, _ = network(x)
    mean, sd = z.mean(1), z.std(1)
    before = network.followed_by(rotation / sd, -rotation @ (mean / sd))
    h = rotation @ ((z - mean[:, None]) / sd[:, None])
    y, _ = function(h)
    centered = y - y.mean(1, keepdims=True)
    gram = centered @ centered.T
    ridge = 1e-6 * jnp.trace(gram) / len(gram) * jnp.eye(len(gram), dtype=gram.dtype)
    undo = jnp.linalg.solve(gram + ridge, centered @ (h - h.mean(1, keepdims=True)).T).T
    back = (sd[:, None] * rotation.T) @ undo
    last = AffineMap(back, mean + sd * (rotation.T @ h.mean(1)) - back @ y.mean(1))
    put = lambda stacked, one: stacked.at[network.depth].set(one)
    maps = jax.tree.map(put, network.maps, before.last)
    functions = jax.tree.map(put, network.functions, function)
    return InvertibleNetwork(maps, functions, last, network.depth + 1)


def random_orthogonal(n: int, *, key: Key) -> Array:
    """A matrix (n, n) drawn uniformly from the orthogonal group, on the host."""
    q, r = np.linalg.qr(host_rng(key).standard_normal((n, n)))
    return (q * np.sign(np.diagonal(r))).astype(jax.dtypes.canonicalize_dtype(float))  # type: ignore[return-value]
