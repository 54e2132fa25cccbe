"""Shared data and fitted models. Compiling is most of the cost, so both are made once per session."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Compiled code is kept between runs. The variables are read when JAX is imported, hence here and not
# in a fixture, and processes started by tests inherit them. What is cached is the executable itself, so results keep
# their last bit.
_CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Three quarters of the time that tests take is the compiler's, optimising programs that run for a moment.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")


@dataclass(frozen=True)
class Rows:
    """Observations, the segment of each row, and the sources behind them."""

    X: np.ndarray
    u: np.ndarray
    S: np.ndarray


@pytest.fixture(scope="module", autouse=True)
def drop_compiled_programs():
    """Forget compiled programs after each file: each holds memory maps, of which a process has only so many."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


def make_rows(n_columns: int = 2, n_segments: int = 3, n_per_segment: int = 60, seed: int = 0) -> Rows:
    """A smooth invertible mixture of Gaussian sources whose means and variances change with u."""
    rng = np.random.default_rng(seed)
    u = np.repeat(np.arange(n_segments), n_per_segment)
    mean = rng.uniform(-1.5, 1.5, (n_segments, n_columns))
    sd = rng.uniform(0.3, 1.5, (n_segments, n_columns))
    S = mean[u] + sd[u] * rng.standard_normal((len(u), n_columns))
    mixing = np.eye(n_columns) + 0.4 * rng.standard_normal((n_columns, n_columns))
    mixed = S @ mixing.T
    X = mixed + 0.3 * np.tanh(mixed[:, ::-1])
    order = rng.permutation(len(u))
    return Rows(X[order], u[order], S[order])


@pytest.fixture(scope="session")
def rows() -> Rows:
    """Two columns, three segments of sixty rows."""
    return make_rows()


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """A small simulated table: x1 to x3, u, s1 to s3."""
    from identica.cli import main

    path = tmp_path_factory.mktemp("data") / "sim.csv"
    sizes = ["--n-components", "3", "--n-segments", "6", "--n-per-segment", "40"]
    assert main(["simulate", "icebeem", *sizes, "--seed", "3", "--out", str(path)]) == 0
    return path


def run_json(capsys, *tokens, code=0) -> dict[str, Any]:
    """Run a command: its exit code checked, and the one JSON object on standard output."""
    from identica.cli import main

    capsys.readouterr()
    assert main([*map(str, tokens), "--json"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    content = json.loads(lines[0])
    assert content["schema"] == 1
    assert content["command"] == tokens[0]
    return content
