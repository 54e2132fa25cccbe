"""Injective maps from sources to observations, with the matrix laws of the published generators."""

from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Protocol

import numpy as np
from scipy.stats import ortho_group

from identica.errors import DataError
from identica.random import named_rng
from identica.typing import FloatArray

Activation = Literal["xtanh", "leaky"]


class Mixing(Protocol):
    """A map from sources z (..., n) to noiseless observations (..., d)."""

    def __call__(self, z: FloatArray) -> FloatArray: ...


@dataclass(frozen=True)
class Elementwise:
    """An increasing nonlinearity: ``"xtanh"`` is tanh(x) + slope x, ``"leaky"`` is leaky ReLU."""

    kind: Activation
    slope: float

    def __post_init__(self) -> None:
        if self.kind not in ("xtanh", "leaky"):
            raise DataError(f"unknown activation {self.kind!r}; choose 'xtanh' or 'leaky'")

    def __call__(self, x: FloatArray) -> FloatArray:
        if self.kind == "xtanh":
            return np.tanh(x) + self.slope * x
        return np.where(x > 0, x, self.slope * x)


@dataclass(frozen=True)
class LayeredMixing:
    """Alternating matrices (applied from the right) and one elementwise nonlinearity.

    ``scale`` (n,) divides the sources first. With ``nonlinearity_first`` each layer is x <- f(x) W, so the
    last operation is a matrix in both orders. ``biases`` (n,) are added after each matrix.
    """

    matrices: tuple[FloatArray, ...]
    activation: Elementwise
    nonlinearity_first: bool = False
    scale: FloatArray | None = None
    biases: tuple[FloatArray, ...] | None = None

    def __call__(self, z: FloatArray) -> FloatArray:
        x = z if self.scale is None else z / self.scale
        for layer, matrix in enumerate(self.matrices):
            if self.nonlinearity_first or layer > 0:
                x = self.activation(x)
            x = x @ matrix
            if self.biases is not None:
                x = x + self.biases[layer]
        return x


@dataclass(frozen=True)
class CouplingMixing:
    """Smooth invertible map: per layer a rotation, an affine coupling, and a sinh-arcsinh per unit.

    Not of the form that layered demixers invert exactly, so it shows what a method does outside the
    family it was built on.
    """

    scale: FloatArray
    rotations: tuple[FloatArray, ...]
    nets: tuple[tuple[FloatArray, FloatArray, FloatArray], ...]
    shapes: tuple[tuple[FloatArray, FloatArray], ...]

    def __call__(self, z: FloatArray) -> FloatArray:
        x = z / self.scale
        for rotation, net, (skew, tail) in zip(self.rotations, self.nets, self.shapes, strict=True):
            first, second = self._halves(x @ rotation)
            log_gain, shift = self._conditioner(first, net)
            x = np.concatenate([first, second * np.exp(log_gain) + shift], axis=-1)
            x = np.sinh(tail * (np.arcsinh(x) + skew))
        return x

    def inverse(self, x: FloatArray) -> FloatArray:
        """Sources (..., n) of noiseless observations (..., n), in closed form."""
        layers = zip(self.rotations, self.nets, self.shapes, strict=True)
        for rotation, net, (skew, tail) in reversed(list(layers)):
            first, second = self._halves(np.sinh(np.arcsinh(x) / tail - skew))
            log_gain, shift = self._conditioner(first, net)
            x = np.concatenate([first, (second - shift) * np.exp(-log_gain)], axis=-1) @ rotation.T
        return x * self.scale

    @staticmethod
    def _halves(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        cut = x.shape[-1] // 2
        return x[..., :cut], x[..., cut:]

    @staticmethod
    def _conditioner(
        first: FloatArray, net: tuple[FloatArray, FloatArray, FloatArray]
    ) -> tuple[FloatArray, FloatArray]:
        inner, bias, outer = net
        out = np.tanh(first @ inner + bias) @ outer
        log_gain, shift = np.split(out, 2, axis=-1)
        return 0.5 * np.tanh(log_gain), shift


@dataclass(frozen=True)
class RadialMixing:
    """``x = A T(z / scale)``: T turns each sphere around the origin by an angle that depends on its radius.

    ``T(y) = exp(theta(|y|) K) y (1 + c r)`` with K skew-symmetric, ``r = |y|^2 / (n + |y|^2)`` and
    ``theta = angle * r``. Turning by radius alone keeps isotropic Gaussian densities unchanged: the classical
    example of what no method without u can undo.
    """

    scale: FloatArray
    skew: FloatArray
    angle: float
    stretch: float
    matrix: FloatArray
    _eigen: tuple[FloatArray, FloatArray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # i K is Hermitian: exp(t K) = V exp(-i t w) V^H with its eigenvalues w.
        object.__setattr__(self, "_eigen", np.linalg.eigh(1j * self.skew))

    def __call__(self, z: FloatArray) -> FloatArray:
        y = z / self.scale
        share = self._share((y**2).sum(-1, keepdims=True))
        return (self._turn(y, self.angle * share) * (1 + self.stretch * share)) @ self.matrix

    def inverse(self, x: FloatArray) -> FloatArray:
        """Sources (..., n) of noiseless observations (..., d): Newton for the radius, then turn back."""
        y = x @ np.linalg.pinv(self.matrix)
        target = np.sqrt((y**2).sum(-1, keepdims=True))
        radius = target / (1 + self.stretch)
        n = y.shape[-1]
        for _ in range(50):
            share = self._share(radius**2)
            slope = 1 + self.stretch * share * (1 + 2 * n / (n + radius**2))
            radius = radius - (radius * (1 + self.stretch * share) - target) / slope
        share = self._share(radius**2)
        return self._turn(y / (1 + self.stretch * share), -self.angle * share) * self.scale

    def _share(self, squared_radius: FloatArray) -> FloatArray:
        return squared_radius / (self.skew.shape[0] + squared_radius)

    def _turn(self, y: FloatArray, angles: FloatArray) -> FloatArray:
        values, vectors = self._eigen
        return (((y @ vectors.conj()) * np.exp(-1j * angles * values)) @ vectors.T).real


@cache
def condition_threshold(rows: int, columns: int) -> float:
    """25th percentile of the condition number of `_uniform_matrices`, from 10 000 draws.

    A constant of the law, drawn from a stream of its own, so that it does not vary with the seed.
    """
    rng = named_rng(0, "condition-threshold", rows, columns)
    draws = [np.linalg.cond(_uniform_matrices(rng, 500, rows, columns)) for _ in range(20)]
    return float(np.quantile(np.concatenate(draws), 0.25))


def column_normalised_matrix(rng: np.random.Generator, rows: int, columns: int) -> FloatArray:
    """Entries U(-1, 1), unit Euclidean norm per column, condition number in the best quarter of its law.

    The matrix law of the released TCL, PCL, iVAE and iFlow generators.
    """
    threshold = condition_threshold(rows, columns)
    while True:
        matrices = _uniform_matrices(rng, 16, rows, columns)
        good = np.linalg.cond(matrices) <= threshold
        if good.any():
            return matrices[good.argmax()]


def orthogonal_matrix(rng: np.random.Generator, size: int) -> FloatArray:
    """Orthogonal matrix (size, size) from the uniform (Haar) law."""
    if size == 1:
        return np.ones((1, 1))
    return np.asarray(ortho_group.rvs(size, random_state=rng))


def random_coupling(rng: np.random.Generator, scale: FloatArray, layers: int) -> CouplingMixing:
    """Random `CouplingMixing` with moderate distortion per layer; needs at least two sources."""
    n, width = len(scale), 16
    half = n // 2
    rotations, nets, shapes = [], [], []
    for _ in range(layers):
        rotations.append(orthogonal_matrix(rng, n))
        inner = rng.standard_normal((half, width)) / np.sqrt(half)
        outer = rng.standard_normal((width, 2 * (n - half))) / np.sqrt(width)
        nets.append((inner, 0.5 * rng.standard_normal(width), outer))
        shapes.append((rng.uniform(-0.4, 0.4, n), rng.uniform(0.8, 1.1, n)))
    return CouplingMixing(scale=scale, rotations=tuple(rotations), nets=tuple(nets), shapes=tuple(shapes))


def random_radial(rng: np.random.Generator, scale: FloatArray, n_features: int, angle: float) -> RadialMixing:
    """Random `RadialMixing` whose planes turn by up to ``angle`` radians; needs at least two sources."""
    n = len(scale)
    basis = orthogonal_matrix(rng, n)
    skew = np.zeros((n, n))
    for plane in range(n // 2):
        rate = rng.choice([-1.0, 1.0]) * rng.uniform(0.6, 1.0)
        skew[2 * plane, 2 * plane + 1], skew[2 * plane + 1, 2 * plane] = rate, -rate
    matrix = column_normalised_matrix(rng, n, n_features)
    return RadialMixing(scale, basis @ skew @ basis.T, angle=angle, stretch=0.5, matrix=matrix)


def _uniform_matrices(rng: np.random.Generator, count: int, rows: int, columns: int) -> FloatArray:
    matrices = rng.uniform(-1, 1, (count, rows, columns))
    return matrices / np.linalg.norm(matrices, axis=1, keepdims=True)
