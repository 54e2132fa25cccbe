"""How programs are compiled: what runs a few times must be ready soon, what trains may take a little longer.

With its defaults XLA's CPU compiler takes longer over a first fit of usual size than the fit then runs. Optimisation
level 1 takes a quarter less and costs no time later. Without the fusion emitters half of the rest is gone, but where
elementwise functions are most of the work a program is slower (a flow trained a third slower), hence not in
training loops. `benchmarks/compiling.py` measures all this.
"""

import functools
import os
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
from jax.core import Tracer

P = ParamSpec("P")
T = TypeVar("T")

_SOON: dict[str, bool | int] = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
_OFTEN: dict[str, bool | int] = {"xla_backend_optimization_level": 1}


_CROWDED = 0.5

_tracing: ContextVar[bool] = ContextVar("tracing", default=False)


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Compile at the first call with arrays of some shapes, quickly: for what runs a few times.

    Like `equinox.filter_jit`, whose rules hold: arrays are traced, everything else must be hashable.
    """
    return _Compiled(function, _SOON)


def compiled_loop(function: Callable[P, T]) -> Callable[P, T]:
    """Compile at the first call with arrays of some shapes: for loops that train."""
    return _Compiled(function, _OFTEN)


def make_room() -> None:
    """Forget compiled programs if they have used up half of the memory maps that this process may have.

    Every program takes maps. Linux allows a process 65,530, which a dozen fits of different shapes use up, and LLVM
    then ends the process. What is needed again compiles again. Systems without such a limit have nothing to read here.
    """
    try:
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
        with open("/proc/self/maps", "rb") as maps:
            used = sum(1 for _ in maps)
    except (OSError, ValueError):
        return
    if used > _CROWDED * most:
        jax.clear_caches()


class _Compiled:
    """A function that is compiled with options of the backend, which is not asked for before the first call.

    Within another one, or wherever JAX traces it, it is the plain function: options are for whole programs.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, bool | int]):
        self._function, self._options = function, options
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        if traced or _tracing.get():
            return self._function(*args, **kwargs)
        return self._jitted(*args, **kwargs)

    @functools.cached_property
    def _jitted(self) -> Callable[..., Any]:
        @functools.wraps(self._function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            token = _tracing.set(True)  # Python runs this while JAX traces, and at no other time
            try:
                return self._function(*args, **kwargs)
            finally:
                _tracing.reset(token)

        options = _understood(tuple(self._options.items()))
        return eqx.filter_jit(traced, compiler_options=options)  # pyright: ignore[reportCallIssue]


@functools.cache
def _understood(options: tuple[tuple[str, bool | int], ...]) -> dict[str, bool | int] | None:
    """Those that the user has not set in XLA_FLAGS and that this version of the CPU backend knows; None on others.

    They change how long compiling takes and nothing else, so one that a later version has dropped is no error.
    """
    if jax.default_backend() != "cpu":
        return None
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options if name not in flags and _known(name, value)} or None


@functools.cache
def _known(name: str, value: bool | int) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except (RuntimeError, ValueError) as error:  # XLA's own errors are RuntimeErrors
        if name in str(error) or "compile option" in str(error).lower():
            return False
        raise
    return True
