"""`TCL`, `PCL` and `GCL` on the settings they were published for, beside `FlowICA` and linear methods.

    python benchmarks/contrastive.py --seeds 3 --out contrastive.md
    python benchmarks/contrastive.py --data tcl --full     # 20 sources, 256 segments of 512 rows

One row in five is kept from all fits and scored; true sources are used for scoring only. Scores are those
against s and against |s − mean|, up to which features of time-contrastive learning are determined.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import identica
from identica.evaluation.protocol import score_best_linear, score_estimate
from identica.random import named_rng
from identica.simulation.mixings import Elementwise, LayeredMixing, column_normalised_matrix


@dataclass(frozen=True)
class Data:
    """One data set: rows, u, sources, labels for scores within u, and which rows are fitted."""

    X: np.ndarray
    u: np.ndarray
    S: np.ndarray
    labels: np.ndarray
    fit: np.ndarray


def _tcl(seed: int, full: bool) -> Data:
    sizes = {} if full else {"n_components": 5, "n_segments": 64, "n_per_segment": 300, "layers": 2}
    data = identica.simulate("tcl", seed=seed, **sizes)
    fit = named_rng(seed, "benchmark rows").random(len(data.X)) < 0.8
    return Data(data.X, data.u, data.S, data.u, fit)


def _pcl(seed: int, full: bool) -> Data:
    sizes = {} if full else {"n_components": 5, "n_segments": 20, "n_per_segment": 1000, "layers": 2}
    data = identica.simulate("pcl", seed=seed, **sizes)
    # The end of the series is kept: rows between fitted ones would be no test.
    return Data(data.X, data.u, data.S, data.u, np.arange(len(data.X)) < 0.8 * len(data.X))


def _gcl(seed: int, full: bool) -> Data:
    """Means and log scales are smooth series of u ~ U(0, 1), three frequencies each; Laplace innovations."""
    rng = named_rng(seed, "smooth modulation")
    n, n_rows = (10, 100_000) if full else (4, 20_000)
    u = rng.uniform(size=n_rows)

    def series() -> np.ndarray:
        amplitude, phase = rng.standard_normal((3, n)), rng.uniform(0, 2 * np.pi, (3, n))
        return sum(amplitude[k] * np.sin(2 * np.pi * (k + 1) * u[:, None] + phase[k]) for k in range(3))  # type: ignore[return-value]

    S = 0.5 * series() + np.exp(0.5 * series()) * rng.laplace(size=(n_rows, n)) / np.sqrt(2)
    matrices = tuple(column_normalised_matrix(rng, n, n).T for _ in range(2))
    X = LayeredMixing(matrices, Elementwise("leaky", 0.2))(S)
    return Data(X, u, S, (40 * u).astype(int), rng.random(n_rows) < 0.8)


DATA: dict[str, Callable[[int, bool], Data]] = {"tcl": _tcl, "pcl": _pcl, "gcl": _gcl}
TITLES = {
    "tcl": "TCL: Laplace sources with scales U(0, 1), leaky ReLU",
    "pcl": "PCL: Laplace AR(1) sources, coefficient .7, leaky ReLU; no u",
    "gcl": "GCL: Laplace sources whose means and scales are smooth series of a continuous u, leaky ReLU",
}
METHODS: dict[str, dict[str, Callable[..., Any]]] = {
    "tcl": {
        "TCL": identica.TCL,
        "TCL, critic laplace (published statistics)": lambda **kw: identica.TCL(critic="laplace", **kw),
        "TCL, critic learned": lambda **kw: identica.TCL(critic="learned", **kw),
        "FlowICA": identica.FlowICA,
        "joint diagonalisation": lambda **kw: identica.LinearICA(method="joint-diagonalization", **kw),
        "FastICA": identica.LinearICA,
    },
    "pcl": {"PCL": identica.PCL, "FastICA": identica.LinearICA},
    "gcl": {
        "GCL": identica.GCL,
        "GCL, critic gaussian": lambda **kw: identica.GCL(critic="gaussian", **kw),
        "joint diagonalisation": lambda **kw: identica.LinearICA(method="joint-diagonalization", **kw),
        "FastICA": identica.LinearICA,
    },
}
SCORES = ("pearson", "spearman", "pearson_within", "pearson_magnitudes")


def run(data: Data, method: Callable[..., Any], seed: int, *, with_u: bool) -> dict[str, float]:
    """Held-out scores and seconds of one fit."""
    estimator = method(random_state=seed)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(data.X[data.fit], **({"u": data.u[data.fit]} if with_u else {}))
    seconds = time.perf_counter() - started
    estimate = estimator.transform(data.X)
    rows = np.flatnonzero(data.fit)
    scores = score_estimate(data.S, estimate, data.labels, rows, transformed="magnitudes")
    return {**{key: scores[key]["held_out"] for key in SCORES}, "seconds": seconds}


def table(results: dict[str, list[dict[str, float]]], title: str, seeds: range) -> str:
    """Markdown: one row per method, means over seeds and the worst seed."""
    lines = [
        f"\n{title}; data seeds {seeds.start} to {seeds.stop - 1}\n",
        "| method | Pearson, mean | worst | Spearman | Pearson within u | Pearson of magnitudes | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, runs in results.items():
        mean = {key: np.mean([r.get(key, np.nan) for r in runs]) for key in (*SCORES, "seconds")}
        cells = [mean["pearson"], min(r["pearson"] for r in runs), *(mean[key] for key in SCORES[1:])]
        shown = " | ".join("" if np.isnan(c) else f"{c:.3f}".removeprefix("0") for c in cells)
        lines.append(
            f"| {name} | {shown} | {'' if np.isnan(mean['seconds']) else format(mean['seconds'], '.0f')} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all methods and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=700)
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--methods", nargs="*", default=None, help="only methods of these names")
    parser.add_argument("--full", action="store_true", help="the published sizes")
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    text = ""
    for name in options.data:
        chosen = {k: m for k, m in METHODS[name].items() if options.methods is None or k in options.methods}
        results: dict[str, list[dict[str, float]]] = {}
        for seed in seeds:
            data = DATA[name](seed, options.full)
            for method, make in chosen.items():
                with_u = name != "pcl" and method != "FastICA"
                result = run(data, make, seed, with_u=with_u)
                results.setdefault(method, []).append(result)
                shown = " ".join(f"{key} {value:.4f}" for key, value in result.items())
                print(f"{name}, seed {seed}, {method}: {shown}", flush=True)
            linear = score_best_linear(data.X, data.S, data.labels, np.flatnonzero(data.fit))
            best = {key: linear[key]["held_out"] for key in SCORES if key in linear}
            results.setdefault("best linear map", []).append(best)
        text += table(results, TITLES[name] + (", published size" if options.full else ""), seeds)
    print(text)
    if options.out is not None:
        with open(options.out, "w") as file:
            file.write(text)


if __name__ == "__main__":
    main()
