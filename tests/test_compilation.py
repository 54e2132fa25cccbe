"""Compiled functions give what the plain ones give, and options of the compiler are the user's where he sets them."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from identica import compilation
from identica.compilation import compiled, compiled_loop


@pytest.mark.parametrize("decorate", [compiled, compiled_loop])
def test_results_are_those_of_the_plain_function_and_one_shape_is_traced_once(decorate):
    traced = []

    def plain(x, power, *, shift):
        traced.append(x.shape)
        return jnp.sin(x) ** power + shift

    fast = decorate(plain)
    x = jnp.linspace(0.0, 1.0, 7)
    for _ in range(2):
        np.testing.assert_allclose(fast(x, 2, shift=x), np.sin(x) ** 2 + np.asarray(x), rtol=1e-6)
    assert traced == [(7,)]
    assert fast.__name__ == "plain"


def test_compiled_functions_within_one_another_compile_with_the_options_that_users_have():
    """Tests set flags of their own, with which no options are passed; JAX takes options for whole programs only."""
    code = """
import jax, jax.numpy as jnp
from identica import compilation
from identica.compilation import compiled, compiled_loop

x = jnp.arange(3.0)
if jax.default_backend() == "cpu":
    assert compilation._understood(tuple(compilation._SOON.items()))
inner = compiled(lambda x: jnp.sin(x) + jnp.cos(jnp.zeros(3)))
constant = compiled(lambda: jnp.cos(jnp.ones(3)))
outer = compiled_loop(lambda x: inner(x) * inner(jnp.ones(3)) + constant())
expected = (jnp.sin(x) + 1) * (jnp.sin(1.0) + 1) + jnp.cos(1.0)
assert jnp.allclose(outer(x), expected), outer(x)
assert jnp.allclose(jax.vmap(inner)(jnp.stack([x, x]))[1], jnp.sin(x) + 1)
assert jnp.allclose(inner(x), jnp.sin(x) + 1)
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_options_that_the_user_sets_are_left_to_him(monkeypatch):
    compilation._understood.cache_clear()
    options = tuple(compilation._SOON.items())
    monkeypatch.setenv("XLA_FLAGS", "")
    expected = dict(options) if jax.default_backend() == "cpu" else None
    assert compilation._understood(options) == expected
    compilation._understood.cache_clear()
    monkeypatch.setenv("XLA_FLAGS", " ".join(f"--{name}=3" for name, _ in options))
    assert compilation._understood(options) is None
    compilation._understood.cache_clear()


def test_an_option_that_the_compiler_does_not_know_is_left_out():
    assert not compilation._known("xla_no_such_option_exists", True)


def test_programs_are_forgotten_where_memory_maps_run_short(monkeypatch):
    traced = []
    fast = compiled(lambda x: traced.append(1) or x + 1)
    x = jnp.zeros(3)
    fast(x)
    compilation.make_room()
    fast(x)
    assert len(traced) == 1
    monkeypatch.setattr(compilation, "_CROWDED", 0.0)
    compilation.make_room()
    np.testing.assert_array_equal(fast(x), 1.0)
    # Only Linux has the limit.
    assert len(traced) == (2 if os.path.exists("/proc/sys/vm/max_map_count") else 1)


def test_importing_asks_for_no_backend():
    code = (
        "import identica, identica.training.compiled\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
