"""Multilayer perceptrons that act on the last axis of a whole batch."""

from collections.abc import Callable
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from identica.errors import DataError
from identica.random import host_rng
from identica.typing import Array, FloatArray, Key


def _kinked_and_saturating(h: Array) -> Array:
    first = (h.shape[-1] + 1) // 2
    return jnp.concatenate([_leaky_relu(h[..., :first]), jnp.tanh(h[..., first:])], axis=-1)


def _leaky_relu(h: Array) -> Array:
    return jnp.where(h > 0, h, 0.1 * h)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "leaky_relu": _leaky_relu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    # Squareplus (Barron, 2021): smooth as softplus, without a transcendental function per unit.
    "squareplus": lambda h: 0.5 * (h + jnp.sqrt(h * h + 1.0)),
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    # Half of the units of each: whatever the true map is made of, units of its kind are there.
    "leaky_relu+tanh": _kinked_and_saturating,
}


class MultilayerPerceptron(eqx.Module):
    """y = x S + W_L a(… a(x W_1 + c_1) …) + c_L, with an optional linear shortcut S.

    No hidden layer gives the linear map x W_1 + c_1. Rows are multiplied from the left, so a batch
    of any leading shape is one matrix product per layer.

    Attributes
    ----------
    weights : tuple of (inputs, outputs) arrays, one per layer
    biases : tuple of (outputs,) arrays
    shortcut : (inputs, outputs) array or None
    activation : str
        Name in `ACTIVATIONS`.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    shortcut: Array | None
    activation: str = eqx.field(static=True, default="silu")

    @classmethod
    def random(
        cls,
        n_inputs: int,
        hidden_sizes: tuple[int, ...],
        n_outputs: int,
        *,
        key: Key,
        activation: str = "silu",
        shortcut: bool = False,
        last_scale: float = 1.0,
    ) -> "MultilayerPerceptron":
        """Glorot-uniform weights and zero biases; a shortcut starts at zero.

        Weights are drawn on the host, so that making a network compiles nothing.

        Parameters
        ----------
        n_inputs, n_outputs : int
        hidden_sizes : tuple of int
            Units of each hidden layer; ``()`` is a linear map (which needs no shortcut and gets none).
        key : Key
        activation : str
            Name in `ACTIVATIONS`.
        shortcut : bool
            Add a linear map from input to output.
        last_scale : float
            Factor on the last layer's initial weights; small values start near the shortcut.

        Raises
        ------
        DataError
            If the activation is unknown or a layer has no unit.
        """
        if activation not in ACTIVATIONS:
            raise DataError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        sizes = (n_inputs, *hidden_sizes, n_outputs)
        if any(size < 1 for size in sizes):
            raise DataError(f"every layer needs at least one unit, got sizes {sizes}")
        rng = host_rng(key)
        dtype = jax.dtypes.canonicalize_dtype(float)
        weights = []
        for rows, columns in pairwise(sizes):
            limit = np.sqrt(6 / (rows + columns))
            weights.append(rng.uniform(-limit, limit, (rows, columns)).astype(dtype))
        weights[-1] = (last_scale * weights[-1]).astype(dtype)
        linear = np.zeros((n_inputs, n_outputs), dtype) if shortcut and hidden_sizes else None
        biases = tuple(np.zeros(size, dtype) for size in sizes[1:])
        return cls(tuple(weights), biases, linear, activation)  # type: ignore[arg-type]

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return self.biases[-1].shape[0]

    def __call__(self, x: Array) -> Array:
        """(…, inputs) to (…, outputs)."""
        out = self._hidden(x) @ self.weights[-1] + self.biases[-1]
        return out if self.shortcut is None else out + x @ self.shortcut

    def _hidden(self, x: Array) -> Array:
        """What the last layer sees."""
        activate = ACTIVATIONS[self.activation]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = activate(x @ weight + bias)
        return x

    def with_last_layer_fitted(self, x: FloatArray, y: FloatArray, ridge: float) -> "MultilayerPerceptron":
        """The network without shortcut whose last layer predicts y (N, outputs) from x (N, inputs) by ridge regression.

        Random hidden layers and a fitted last one begin a network near any map that is given by examples. Runs
        on the host, once.

        Parameters
        ----------
        x, y : (N, inputs) and (N, outputs)
        ridge : float
            Added to the variances of hidden units, as a share of their mean.
        """
        dtype = np.asarray(self.biases[-1]).dtype
        hidden = np.asarray(self._hidden(jnp.asarray(x, dtype)), np.float64)
        center, level = hidden.mean(axis=0), y.mean(axis=0)
        centred = hidden - center
        covariance = centred.T @ centred / len(x)
        scale = ridge * max(float(np.diagonal(covariance).mean()), np.finfo(np.float64).tiny)
        weight = np.linalg.solve(
            covariance + scale * np.eye(len(covariance)), centred.T @ (y - level) / len(x)
        )
        last = (
            (*self.weights[:-1], weight.astype(dtype)),
            (*self.biases[:-1], (level - center @ weight).astype(dtype)),
        )
        return MultilayerPerceptron(*last, None, self.activation)  # type: ignore[arg-type]

    def followed_by(self, weight: Array, bias: Array | float = 0.0) -> "MultilayerPerceptron":
        """The network with y ↦ y · weight + bias merged into its last layer."""
        return MultilayerPerceptron(
            (*self.weights[:-1], self.weights[-1] @ weight),
            (*self.biases[:-1], self.biases[-1] @ weight + bias),
            None if self.shortcut is None else self.shortcut @ weight,
            self.activation,
        )

    def preceded_by(self, weight: Array, bias: Array) -> "MultilayerPerceptron":
        """The network with x ↦ x · weight + bias merged into its first layer."""
        first = self.biases[0] + bias @ self.weights[0]
        biases = (first, *self.biases[1:])
        shortcut = self.shortcut
        if shortcut is not None:
            biases = (*biases[:-1], biases[-1] + bias @ shortcut)
            shortcut = weight @ shortcut
        return MultilayerPerceptron(
            (weight @ self.weights[0], *self.weights[1:]), biases, shortcut, self.activation
        )

    def with_linear_part(self, weight: Array, bias: Array) -> "MultilayerPerceptron":
        """The network whose shortcut (whose only layer, if it is linear) and last bias are replaced."""
        biases = (*self.biases[:-1], bias)
        if self.shortcut is None:
            return MultilayerPerceptron((*self.weights[:-1], weight), biases, None, self.activation)
        return MultilayerPerceptron(self.weights, biases, weight, self.activation)
