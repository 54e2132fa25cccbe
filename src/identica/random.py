"""One integer seed per fit, and named keys derived from it."""

import zlib
from typing import Any

import jax
import numpy as np

from identica.typing import Key


def draw_seed(random_state: Any) -> int:
    """One integer in [0, 2**31) from scikit-learn's ``random_state`` (int, None or RandomState)."""
    if isinstance(random_state, (int, np.integer)):
        return int(random_state) % 2**31
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    if not hasattr(random_state, "randint"):
        raise ValueError(f"random_state must be an int, None or a RandomState, got {random_state!r}")
    return int(random_state.randint(2**31 - 1))


def named_key(seed: int, *path: str | int) -> Key:
    """A JAX key for a named purpose, for example ``named_key(seed, "stage", 2)``.

    Keys depend on names rather than on the order of calls, so adding a consumer of randomness does
    not change what the others draw.
    """
    key = jax.random.key(seed)
    for part in path:
        key = jax.random.fold_in(key, part if isinstance(part, int) else zlib.crc32(part.encode()))
    return key


def named_rng(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator for a named purpose, independent of `named_key`."""
    entropy = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in path]
    return np.random.default_rng([seed, *entropy])


def host_rng(key: Key) -> np.random.Generator:
    """A NumPy generator that a JAX key begins.

    What is drawn once per restart is drawn on the host: compiling such draws took longer than small fits.
    """
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))
