"""Counts of spikes: sources on a curve, or in classes, behind couplings and Poisson noise."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from identica.errors import DataError
from identica.random import named_rng
from identica.simulation.drawn import Drawn
from identica.simulation.sources import CurveLaw, SegmentLaw
from identica.typing import FloatArray, IntArray

_HIDDEN = 25
_LAYERS, _BLOCKS = 2, 4


@dataclass(frozen=True)
class RateMixing:
    """Rates of spikes: sources padded with zeros, affine couplings with permutations between, ``exp(gain tanh)``.

    Each coupling takes halves (a, b) to ``(b exp(0.1 tanh S(a)) + T(a), a)`` with one network for S and T.
    """

    nets: tuple[tuple[FloatArray, ...], ...]
    permutations: tuple[IntArray, ...]
    gain: float

    def __call__(self, z: FloatArray) -> FloatArray:
        d = len(self.permutations[0])
        y = np.concatenate([z, np.zeros((*z.shape[:-1], d - z.shape[-1]))], axis=-1)
        for place, net in enumerate(self.nets):
            if place and place % _LAYERS == 0:
                y = y[..., self.permutations[place // _LAYERS - 1]]
            first, second = y[..., : d // 2], y[..., d // 2 :]
            hidden = first
            for matrix in net[:-1]:
                hidden = np.maximum(hidden @ matrix, 0)
            log_gain, shift = np.split(hidden @ net[-1], 2, axis=-1)
            y = np.concatenate([second * np.exp(0.1 * np.tanh(log_gain)) + shift, first], axis=-1)
        return np.exp(self.gain * np.tanh(y))


def pi_vae(
    seed: int,
    *,
    n_components: int = 2,
    n_features: int = 100,
    n_rows: int = 15_000,
    n_segments: int | None = None,
) -> Drawn:
    """Zhou & Wei (2020), pi-VAE, released code: u on a circle, or ``n_segments`` classes (published: 5)."""
    if n_components != 2:
        raise DataError(f"expected n_components=2, which the law of this scenario has, got {n_components}")
    if n_features < 4 or n_features % 2:
        raise DataError(f"expected an even n_features of at least 4, got {n_features}")
    rng = named_rng(seed, "scales")
    if n_segments is None:
        law = CurveLaw()
        u = rng.uniform(0, 2 * np.pi, n_rows)
        S = law.sample(u, named_rng(seed, "sources"))
    else:
        shape = (n_segments, n_components)
        law = SegmentLaw(means=rng.uniform(-5, 5, shape), scales=np.sqrt(rng.uniform(0.5, 3, shape)))
        u = np.arange(n_rows) % n_segments
        S = law.sample(u, named_rng(seed, "sources"))
    mixing = _random_rates(named_rng(seed, "mixing"), n_features, 2.2 if n_segments is None else 2.0)
    return Drawn(S, u, mixing, law, counts=True)


def _random_rates(rng: np.random.Generator, d: int, gain: float) -> RateMixing:
    half = d // 2
    widths = (half, _HIDDEN, _HIDDEN, 2 * half)
    nets = tuple(tuple(_glorot(rng, a, b) for a, b in pairwise(widths)) for _ in range(_LAYERS * _BLOCKS))
    return RateMixing(nets, tuple(rng.permutation(d) for _ in range(_BLOCKS - 1)), gain)


def _glorot(rng: np.random.Generator, rows: int, columns: int) -> FloatArray:
    bound = np.sqrt(6 / (rows + columns))
    return rng.uniform(-bound, bound, (rows, columns))
