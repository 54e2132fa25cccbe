"""Which road to the maximum of the likelihood wins where: direct, by expectation-maximisation, or by a bound?

    python benchmarks/roads.py --out roads.jsonl
    python benchmarks/roads.py --out roads.jsonl --table --picture roads.png

x = f(z) + noise with z ~ N(0, I), f two random smooth layers, columns of unit variance, noise .05 or .5. Every road
learns the same decoder network from the same rows, with the same number of optimiser steps. All are scored on the same
held-out rows by one evaluator, quasi-Monte Carlo points on Laplace's approximation of each row's posterior under the
fitted model, and beside the likelihood of the true model. MCC is printed for completeness: with a Gaussian prior z is
determined up to a rotation at best, and at n = 1 up to a monotone map.

Each finished fit is one line of the output, and what stands there is not run again.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import identica
from identica.conditionals import ConstantPrior, Decoder, GaussianObservation
from identica.data import Dataset
from identica.expectations import QuasiMonteCarlo
from identica.models import LatentVariableModel
from identica.networks import MultilayerPerceptron
from identica.objectives.marginal_likelihood import MarginalLikelihood

DIRECT = ("auto", "gauss-hermite", "adaptive", "qmc", "importance", "monte-carlo")
ROADS = (*(f"mle {name}" for name in DIRECT), "vae", "iwae", "em")
HIDDEN = 16


def generate(n: int, d: int, noise: float, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Rows X (N, d), latents z (N, n), and the true model in the units of X."""
    rng = np.random.default_rng([seed, n, d])
    first, shift = rng.standard_normal((n, HIDDEN)) / np.sqrt(n), rng.standard_normal(HIDDEN)
    last = rng.standard_normal((HIDDEN, d))
    pilot = np.tanh(rng.standard_normal((20_000, n)) @ first + shift) @ last
    center, scale = pilot.mean(axis=0), pilot.std(axis=0)
    last, center = last / scale, center / scale
    z = rng.standard_normal((rows, n))
    X = np.tanh(z @ first + shift) @ last - center + noise * rng.standard_normal((rows, d))
    as32 = lambda a: jnp.asarray(a, jnp.float32)
    network = MultilayerPerceptron((as32(first), as32(last)), (as32(shift), as32(-center)), None, "tanh")
    observation = GaussianObservation(None, "fixed", float(noise**2))
    return X, z, LatentVariableModel(ConstantPrior(n), Decoder(network, observation))


def true_likelihood(model: Any, X: np.ndarray) -> float:
    """Mean log-likelihood of rows under the true model, nats per row."""
    nodes = MarginalLikelihood(QuasiMonteCarlo(2048), "posterior", newton_steps=20)
    integral = jax.jit(lambda x: nodes.integral(model, Dataset(x), key=jax.random.key(0)).rows)
    return float(np.mean(np.asarray(integral(jnp.asarray(X, jnp.float32)), np.float64)))


def estimator(road: str, n: int, steps: int, seed: int) -> Any:
    """The estimator of a road, with what all have in common."""
    common: dict[str, Any] = {
        "hidden_sizes": (32, 32),
        "noise": "isotropic",
        "random_state": seed,
        "outlier_threshold": None,
        "n_restarts": 1,
    }
    if road.startswith("mle "):
        return identica.MarginalMLE(n, integrator=road[4:], max_iter=steps, **common)
    if road == "em":
        return identica.VariationalEM(n, max_iter=max(20, steps // 20), **common)
    return identica.VAE(n, objective="iwae" if road == "iwae" else "elbo", max_iter=steps, **common)


def run(road: str, n: int, d: int, noise: float, rows: int, steps: int, seed: int) -> dict[str, Any]:
    """One fit, measured."""
    X, z, model = generate(n, d, noise, rows + 1000, seed)
    fit, held_out = X[:rows], X[rows:]
    one = estimator(road, n, steps, seed)
    started = time.process_time(), time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one.fit(fit)
    seconds = time.process_time() - started[0], time.perf_counter() - started[1]
    score = one.log_likelihood(held_out, method="qmc")
    return {
        "road": road,
        "n": n,
        "d": d,
        "noise": noise,
        "rows": rows,
        "steps": steps,
        "seed": seed,
        "log_likelihood": score.value,
        "standard_error": score.standard_error,
        "true": true_likelihood(model, held_out),
        "bound": one.log_likelihood(held_out, method="elbo").value,
        "mcc": float(identica.metrics.mcc(z[rows:], one.transform(held_out))),
        "cpu_seconds": seconds[0],
        "seconds": seconds[1],
        "integrator": getattr(one, "integrator_", None),
        "untrusted": getattr(one, "untrusted_share_", None),
        "integration_error": getattr(one, "integration_error_", None),
        "warned": any("carries" in str(w.message) for w in caught),
    }


def settings(options: argparse.Namespace) -> Iterator[tuple[Any, ...]]:
    """All that is asked for and makes sense, each with its road."""
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for n in options.n:
            for d in options.d:
                for noise in options.noise:
                    for road in options.roads:
                        grid = road == "mle gauss-hermite" and n > 4
                        if d >= n and not grid:
                            yield road, n, d, noise, options.rows, options.steps, seed


def table(records: list[dict[str, Any]]) -> str:
    """Two tables of all roads: nats per row above the true model with processor seconds, and MCC.

    A cross in the first stands where a fit warned of its nodes.
    """

    def nats(own: list[dict[str, Any]]) -> str:
        gap = np.mean([r["log_likelihood"] - r["true"] for r in own])
        cross = " ×" if any(r["warned"] for r in own) else ""
        return f"{gap:+.3f}{cross} ({np.mean([r['cpu_seconds'] for r in own]):.0f} s)"

    def correlation(own: list[dict[str, Any]]) -> str:
        return f"{np.mean([r['mcc'] for r in own]):.3f}".removeprefix("0")

    return "\n\n".join(_table(records, cell) for cell in (nats, correlation))


def _table(records: list[dict[str, Any]], cell: Callable[[list[dict[str, Any]]], str]) -> str:
    keys = sorted({(r["n"], r["d"], r["noise"]) for r in records})
    roads = [road for road in ROADS if any(r["road"] == road for r in records)]
    lines = ["| n | d | noise | true | " + " | ".join(roads) + " |", "|---" * (4 + len(roads)) + "|"]
    for key in keys:
        same = [r for r in records if (r["n"], r["d"], r["noise"]) == key]
        found = [[r for r in same if r["road"] == road] for road in roads]
        true = np.mean([r["true"] for r in same])
        cells = " | ".join(cell(own) if own else "" for own in found)
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {true:.2f} | {cells} |")
    return "\n".join(lines)


def draw(records: list[dict[str, Any]], d: int) -> Figure:
    """What each road costs and what it leaves: one panel for each n and noise, with d columns."""
    shown = [r for r in records if r["d"] == d]
    columns, rows = sorted({r["n"] for r in shown}), sorted({r["noise"] for r in shown})
    roads = [road for road in ROADS if any(r["road"] == road for r in shown)]
    colours = {road: matplotlib.colormaps["tab10"](i) for i, road in enumerate(roads)}
    with matplotlib.rc_context({"font.size": 10, "font.family": "sans-serif"}):
        figure = Figure(figsize=(3.6 * len(columns), 2.9 * len(rows) + 0.7), layout="constrained")
        axes = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey="row")
        for i, noise in enumerate(rows):
            for j, n in enumerate(columns):
                ax = axes[i, j]
                ax.axhline(0.0, color="#b9bec6", linewidth=0.8)
                for road in roads:
                    own = [r for r in shown if (r["road"], r["n"], r["noise"]) == (road, n, noise)]
                    if own and road != "mle auto":  # one of the others, drawn as that
                        gap = np.mean([r["log_likelihood"] - r["true"] for r in own])
                        seconds = np.mean([r["cpu_seconds"] for r in own])
                        marker = "o" if road.startswith("mle") else "s"
                        ax.scatter(max(seconds, 1.0), gap, s=55, color=colours[road], marker=marker, zorder=2)
                ax.set_xscale("log")
                ax.set_yscale("symlog", linthresh=0.1)
                ax.set_title(
                    f"{n} latent{'s' if n > 1 else ''}, noise {noise:g}", fontweight="bold", fontsize=10
                )
                for side in ("top", "right"):
                    ax.spines[side].set_visible(False)
        figure.supxlabel("processor seconds")
        figure.supylabel("nats per row above the true model (0 is as good)")
        handles = [
            matplotlib.lines.Line2D(
                [], [], linestyle="", color=colours[r], marker="o" if r.startswith("mle") else "s", label=r
            )
            for r in roads
            if r != "mle auto"
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False)
    return figure


def main() -> None:
    """Run what is missing, print each result as it comes, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("roads.jsonl"))
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    parser.add_argument("--picture", type=Path, help="PNG of costs and gaps, for --pictured columns")
    parser.add_argument("--pictured", type=int, default=10)
    parser.add_argument("--n", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--d", type=int, nargs="+", default=[2, 10, 100])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.05, 0.5])
    parser.add_argument("--roads", nargs="+", default=list(ROADS), choices=ROADS)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=40)
    options = parser.parse_args()
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    records = [json.loads(line) for line in lines]
    names = ("road", "n", "d", "noise", "rows", "steps", "seed")
    done = {tuple(r[name] for name in names) for r in records}
    for setting in [] if options.table else settings(options):
        if setting in done:
            continue
        record = run(*setting)
        with options.out.open("a") as file:
            file.write(json.dumps(record) + "\n")
        records.append(record)
        gap = record["log_likelihood"] - record["true"]
        print(*setting, f"{gap:+.4f} nats, {record['cpu_seconds']:.0f} s", flush=True)
    print(table(records))
    if options.picture is not None:
        draw(records, options.pictured).savefig(options.picture, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
