"""Smooth mixings of many kinds that are not made of layers of `FlowICA`'s own: does it recover sources behind them?

    python benchmarks/smooth.py --out smooth.json [--kinds sine,swirl] [--seeds 2] [--rows 500]

Gaussian sources with means U(-3, 3) and standard deviations U(.3, 2) of their own in 40 segments. A fifth of the rows
is held out; true sources are used for scoring only. The best linear map is a least-squares fit to the true sources,
which no linear method exceeds. Results are kept in --out, and finished fits are not run again.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression

import identica
from identica.evaluation.protocol import score_estimate

Rows = np.ndarray
SEGMENTS = 40


def rotation(rng: np.random.Generator, n: int) -> Rows:
    """A random orthogonal matrix."""
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def sine(z: Rows, rng: np.random.Generator) -> Rows:
    """Three layers z + .4 A sin(1.5 B z) with rotations A and B."""
    n = z.shape[1]
    for _ in range(3):
        outer, inner = rotation(rng, n), rotation(rng, n)
        z = z + 0.4 * np.sin(1.5 * z @ inner) @ outer
    return z @ rotation(rng, n)


def residual(z: Rows, rng: np.random.Generator) -> Rows:
    """Three residual layers, tanh networks with 32 units and a Lipschitz constant of .96."""
    n = z.shape[1]
    for _ in range(3):
        first, last = rng.standard_normal((n, 32)), rng.standard_normal((32, n))
        first *= 1.5 / np.linalg.norm(first, 2)
        last *= 0.64 / np.linalg.norm(last, 2)
        z = z + np.tanh(z @ first + rng.standard_normal(32)) @ last
        z = z / z.std(axis=0)
    return z


def coupling(z: Rows, rng: np.random.Generator) -> Rows:
    """Four affine couplings with random tanh networks of 16 units, rotations between."""
    n = z.shape[1]
    half = n // 2
    for _ in range(4):
        z = z[:, rng.permutation(n)]
        a, b = z[:, :half], z[:, half:]
        first, last = rng.standard_normal((half, 16)), rng.standard_normal((16, 2 * (n - half))) / 4
        scale, shift = np.split(np.tanh(a @ first + rng.standard_normal(16)) @ last, 2, axis=1)
        z = np.concatenate([a, b * np.exp(0.6 * np.tanh(scale)) + shift], axis=1) @ rotation(rng, n)
    return z


def cubic(z: Rows, rng: np.random.Generator) -> Rows:
    """A cubic of each column, a matrix, an area sine of each column; rotations around."""
    n = z.shape[1]
    z = z @ rotation(rng, n)
    z = z + 0.15 * z**3
    z = np.arcsinh(2 * (z / z.std(axis=0)) @ (rotation(rng, n) * rng.uniform(0.6, 1.6, n)))
    return z @ rotation(rng, n)


def swirl(z: Rows, rng: np.random.Generator) -> Rows:
    """Twice: pairs of columns turned by an angle that falls with their distance from the centre."""
    n = z.shape[1]
    for _ in range(2):
        z = z @ rotation(rng, n)
        for i in range(0, n - 1, 2):
            angle = 1.6 * np.exp(-(z[:, i] ** 2 + z[:, i + 1] ** 2) / 4)
            c, s = np.cos(angle), np.sin(angle)
            z[:, i], z[:, i + 1] = c * z[:, i] - s * z[:, i + 1], s * z[:, i] + c * z[:, i + 1]
    return z @ rotation(rng, n)


def mobius(z: Rows, rng: np.random.Generator) -> Rows:
    """An inversion in a sphere about a point at distance 6: the conformal maps of more than two dimensions."""
    centre = rng.standard_normal(z.shape[1])
    shifted = z - 6 * centre / np.linalg.norm(centre)
    return 20 * shifted / (shifted**2).sum(axis=1, keepdims=True) @ rotation(rng, z.shape[1])


def softplus(z: Rows, rng: np.random.Generator) -> Rows:
    """Three layers of log(1 + e^{3x})/3 + .2 x with matrices of condition number about 2."""
    n = z.shape[1]
    for _ in range(3):
        z = z @ (rotation(rng, n) * rng.uniform(0.7, 1.4, n))
        z = np.logaddexp(0, 3 * z) / 3 + 0.2 * z
        z = (z - z.mean(axis=0)) / z.std(axis=0)
    return z @ rotation(rng, n)


KINDS: dict[str, Callable[[Rows, np.random.Generator], Rows]] = {
    f.__name__: f for f in (sine, residual, coupling, cubic, swirl, mobius, softplus)
}


def run(kind: str, n: int, per_segment: int, seed: int) -> dict[str, Any]:
    """Held-out scores of one fit, of the best linear map beside it, and seconds."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    u = np.repeat(np.arange(SEGMENTS), per_segment)
    mean, sd = rng.uniform(-3, 3, (SEGMENTS, n)), rng.uniform(0.3, 2, (SEGMENTS, n))
    S = mean[u] + sd[u] * rng.standard_normal((len(u), n))
    X = KINDS[kind](S / S.std(axis=0), rng)
    test = rng.random(len(u)) < 0.2
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = identica.FlowICA(random_state=seed).fit(X[~test], u=u[~test])
    seconds = time.perf_counter() - started
    fitted = np.flatnonzero(~test)
    scores = score_estimate(S, flow.transform(X), u, fitted)
    linear = score_estimate(S, LinearRegression().fit(X[~test], S[~test]).predict(X), u, fitted)
    names = ("pearson", "spearman", "pearson_within")
    return {
        **{name: scores[name]["held_out"] for name in names},
        "linear": linear["pearson"]["held_out"],
        "linear_within": linear["pearson_within"]["held_out"],
        "seconds": seconds,
    }


def table(results: dict[str, Any]) -> str:
    """One row for each kind and number of rows."""
    lines = [
        "\n| mixing | sources | rows per segment | seeds | Pearson, seed by seed | Spearman, mean | within u, mean | "
        "best linear map, within u | s |",
        "|---" * 9 + "|",
    ]
    settings = list(dict.fromkeys(tuple(key.split()[:3]) for key in results))
    for setting in settings:
        found = [results[key] for key in results if tuple(key.split()[:3]) == setting]
        mean = lambda name, found=found: float(np.mean([r[name] for r in found]))
        pearson = ", ".join(f"{r['pearson']:.4f}" for r in found)
        lines.append(
            f"| {' | '.join(setting)} | {len(found)} | {pearson} | "
            f"{mean('spearman'):.4f} | {mean('pearson_within'):.4f} | {mean('linear'):.3f}, "
            f"{mean('linear_within'):.3f} | {mean('seconds'):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="names with commas between them")
    parser.add_argument("--components", type=int, default=5)
    parser.add_argument("--rows", type=int, default=500, help="rows per segment")
    parser.add_argument("--seeds", type=int, default=1, help="number of data seeds")
    parser.add_argument("--first", type=int, default=0, help="first data seed")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    arguments = parser.parse_args()
    out: Path = arguments.out
    results = json.loads(out.read_text()) if out.exists() else {}
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for kind in [name.strip() for name in arguments.kinds.split(",")]:
            key = f"{kind} {arguments.components} {arguments.rows} {seed}"
            if key in results:
                continue
            results[key] = run(kind, arguments.components, arguments.rows, seed)
            out.write_text(json.dumps(results, indent=1) + "\n")
            print(key, {name: round(value, 4) for name, value in results[key].items()}, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
