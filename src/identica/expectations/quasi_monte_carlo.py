"""Randomised quasi-Monte Carlo, and plain Monte Carlo with nodes that all rows share."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from identica.errors import DataError
from identica.expectations.nodes import WeightedNodes, checked_count
from identica.typing import Array, Key

_BASE_SEED = 20_210_701
_MOST_SAMPLES = 2**20


@dataclass(frozen=True)
class QuasiMonteCarlo(WeightedNodes):
    """Sobol points through the normal quantile, randomised by a digital shift that the key draws.

    The base point set is scrambled once, on the host; a shift of all its binary digits (an exclusive or
    with random bits, one word per dimension) keeps it a net and makes each point uniform. So every key
    gives an unbiased estimate of the integral, at the cost of a few operations inside compiled code. The
    error of an estimate comes from at least eight keys, never from the spread of the points of one.

    Attributes
    ----------
    samples : int
        Number K of points, a power of two.

    Raises
    ------
    DataError
        If `samples` is no power of two between 1 and 2²⁰.

    References
    ----------
    Owen (1995), Randomly permuted (t, m, s)-nets. L'Ecuyer, Lemieux (2002), Recent advances in
    randomized quasi-Monte Carlo methods, for digital shifts.

    Examples
    --------
    >>> import jax, numpyro.distributions as dist
    >>> from identica.objectives.reductions import Mean
    >>> q = dist.Normal([[0.5, -1.0]], 2.0).to_event(1)
    >>> square = lambda z, log_q: (z**2).sum(-1)
    >>> value = QuasiMonteCarlo(1024)(q, square, Mean(), key=jax.random.key(0))
    >>> bool(abs(value[0] - 9.25) < 0.1)
    True
    """

    samples: int = 1024

    def __post_init__(self) -> None:
        checked_count("samples", self.samples, most=_MOST_SAMPLES)
        if self.samples & (self.samples - 1):
            raise DataError(f"samples must be a power of two for quasi-Monte Carlo, got {self.samples}")

    def count(self, n: int) -> int:
        return self.samples

    def standard(self, n: int, dtype: Any, *, key: Key | None = None) -> tuple[Array, Array]:
        if key is None:
            raise DataError("quasi-Monte Carlo is randomised and needs a key")
        shift = jax.random.bits(key, (n,), jnp.uint32)
        bits = jnp.asarray(_sobol_bits(n, self.samples)) ^ shift
        points = jax.scipy.special.ndtri(_uniform(bits, dtype))
        return points, _equal_weights(self.samples, dtype)


@dataclass(frozen=True)
class MonteCarlo(WeightedNodes):
    """Independent draws of N(0, I), the same for all rows; for comparison with better nodes.

    Attributes
    ----------
    samples : int
        Number K of draws.
    """

    samples: int = 1024

    def __post_init__(self) -> None:
        checked_count("samples", self.samples, most=_MOST_SAMPLES)

    def count(self, n: int) -> int:
        return self.samples

    def standard(self, n: int, dtype: Any, *, key: Key | None = None) -> tuple[Array, Array]:
        if key is None:
            raise DataError("Monte Carlo is random and needs a key")
        return jax.random.normal(key, (self.samples, n), dtype), _equal_weights(self.samples, dtype)


@cache
def _sobol_bits(n: int, count: int) -> np.ndarray:
    """A scrambled Sobol set as binary fractions of 2³², (K, n) uint32."""
    sobol = qmc.Sobol(n, scramble=True, bits=32, rng=np.random.default_rng(_BASE_SEED))
    points = sobol.random_base2(count.bit_length() - 1)
    return (points * 2.0**32).astype(np.uint64).astype(np.uint32)


def _uniform(bits: Array, dtype: Any) -> Array:
    """Words as numbers strictly between 0 and 1.

    In float32 only 23 bits are taken: the middle of the last of 2²³ cells is the largest number below 1
    that still has its mirror image near 0.
    """
    if jnp.finfo(dtype).nmant < 32:
        return ((bits >> 9).astype(dtype) + 0.5) * 2.0**-23
    return (bits.astype(dtype) + 0.5) * 2.0**-32


def _equal_weights(count: int, dtype: Any) -> Array:
    return jnp.full(count, -np.log(count), dtype)
