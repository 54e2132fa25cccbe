"""One set of defaults on many generators and fresh data seeds: what `FlowICA` scores, worst seed included.

    python benchmarks/acceptance.py --out acceptance.json [--data icebeem-4,iflow] [--first 1001] [--seeds 5]

A fifth of the rows of every segment is held out and scored, with the matching fixed on the others; true sources
serve scoring only. Scores in sample stand beside held-out ones: a single new row that is thrown far away shows in their
difference and nowhere else. Results are kept in --out, and finished fits are not run again. The first fit of each
shape compiles.
"""

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

import identica
from identica.evaluation.protocol import score_estimate

DATA: dict[str, tuple[str, dict[str, Any]]] = {
    "icebeem-4": ("icebeem", {"layers": 4}),
    "icebeem-2": ("icebeem", {"layers": 2}),
    "icebeem-4-500": ("icebeem", {"layers": 4, "n_per_segment": 500}),
    "icebeem-4-100": ("icebeem", {"layers": 4, "n_per_segment": 100}),
    "iflow": ("iflow", {}),
    "ivae-centred": ("ivae", {}),
    "ivae-uncentred": ("ivae", {"uncentered": True}),
    "laplace-10": ("tcl", {"n_components": 10, "n_segments": 60, "n_per_segment": 500, "layers": 2}),
    "icebeem-10": (
        "icebeem",
        {"n_components": 10, "n_segments": 60, "n_per_segment": 500, "layers": 3},
    ),
    "icebeem-20": (
        "icebeem",
        {"n_components": 20, "n_segments": 100, "n_per_segment": 500, "layers": 3},
    ),
    "icebeem-50": (
        "icebeem",
        {"n_components": 50, "n_segments": 250, "n_per_segment": 400, "layers": 3},
    ),
    "twist": ("radial", {"n_per_segment": 500}),
    "linear": ("linear", {}),
}


def run(name: str, seed: int) -> dict[str, Any]:
    """Scores of one fit, of linear methods beside it, and seconds of the fit."""
    scenario, sizes = DATA[name]
    data = identica.simulate(scenario, seed=seed, **sizes)
    fit_rows, test_rows = data.split(0.2)
    flow = identica.FlowICA(random_state=seed)
    linear = identica.LinearICA(method="joint-diagonalization", random_state=seed)
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flow.fit(data.X[fit_rows], u=data.u[fit_rows])
        seconds = time.perf_counter() - started
        linear.fit(data.X[fit_rows], u=data.u[fit_rows])
    scored = {
        "flow": score_estimate(data.S, flow.transform(data.X), data.u, fit_rows),
        "linear": score_estimate(data.S, linear.transform(data.X), data.u, fit_rows),
    }
    return {
        "scores": scored,
        "nats": [e.score(data.X[test_rows], u=data.u[test_rows]) for e in (flow, linear)],
        "restarts": [r["held_out"] for r in flow.restarts_],
        "couplings": "in use"
        if bool(getattr(getattr(flow.model_.demixer, "couplings", None), "in_use", 0))
        else "",
        "warnings": sorted({str(w.message)[:100] for w in caught}),
        "seconds": seconds,
    }


def table(results: dict[str, Any]) -> str:
    """One row for each kind of data."""
    lines = [
        "\n| data | seeds | Pearson, seed by seed | mean | in sample | Spearman | within u | joint diagonalisation | "
        "seconds |",
        "|---" * 9 + "|",
    ]
    for name in DATA:
        found = {int(k.split()[1]): r for k, r in results.items() if k.split()[0] == name}
        if not found:
            continue
        seeds = sorted(found)
        get = lambda score, part="held_out", of="flow", found=found, seeds=seeds: [
            found[s]["scores"][of][score][part] for s in seeds
        ]
        pearson = get("pearson")
        seconds = [found[s]["seconds"] for s in seeds]
        lines.append(
            f"| {name} | {seeds[0]} to {seeds[-1]} | {', '.join(f'{p:.4f}' for p in pearson)} | "
            f"{np.mean(pearson):.4f} | {np.mean(get('pearson', 'in_sample')):.4f} | {np.mean(get('spearman')):.4f} | "
            f"{np.mean(get('pearson_within')):.4f} | {np.mean(get('pearson', of='linear')):.3f} | "
            f"{min(seconds):.0f} to {max(seconds):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=",".join(DATA), help="names with commas between them")
    parser.add_argument("--seeds", type=int, default=5, help="number of data seeds")
    parser.add_argument("--first", type=int, default=1001, help="first data seed")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    arguments = parser.parse_args()
    out: Path = arguments.out
    results = json.loads(out.read_text()) if out.exists() else {}
    for name in [part.strip() for part in arguments.data.split(",")]:
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            key = f"{name} {seed}"
            if key in results:
                continue
            results[key] = found = run(name, seed)
            out.write_text(json.dumps(results, indent=1) + "\n")
            pearson = found["scores"]["flow"]["pearson"]
            print(
                f"{key}: {pearson['held_out']:.4f}, in sample {pearson['in_sample']:.4f}, {found['seconds']:.0f} s",
                flush=True,
            )
        jax.clear_caches()  # other shapes compile programs of their own, and a process has room for so many
    print(table(results))


if __name__ == "__main__":
    main()
