"""`FlowICA(prior="hmm")` in the setting of HM-NLICA: time series whose states are hidden (Hälvä and Hyvärinen, 2020).

    python benchmarks/hidden_markov.py --rows 20000 --restarts 8 --seeds 3
    python benchmarks/hidden_markov.py --rows 100000 --restarts 20 --layers 2 4 --out hidden_markov.md

Five Gaussian sources of eleven hidden states behind layers of matrices and leaky ReLUs. The last fifth of the
series is kept from all fits and scored. States are matched one to one on the fitted rows. Beside it stand
`FlowICA(prior="gaussian")` that is told the true states, which no method without them can be expected to exceed,
FastICA, and the best linear map. True sources and states are used for scoring only, but for that row.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

import identica
from identica.evaluation.protocol import score_best_linear, score_estimate

SCORES = ("pearson", "spearman", "pearson_within")
COLUMNS = (
    "layers", "data seed", "method", "Pearson", "Spearman", "Pearson within states", "state accuracy", "nats per row",
    "seconds",
)  # fmt: skip


def state_accuracy(true: np.ndarray, found: np.ndarray, fit: np.ndarray) -> float:
    """Share of held-out rows in the right state, under the matching that is best on the fitted rows."""
    table = np.zeros((true.max() + 1, found.max() + 1))
    np.add.at(table, (true[fit], found[fit]), 1)
    rows, columns = linear_sum_assignment(-table)
    partner = dict(zip(columns, rows, strict=True))
    return float(np.mean([partner.get(f, -1) == t for t, f in zip(true[~fit], found[~fit], strict=True)]))


def run(layers: int, seed: int, options: argparse.Namespace) -> list[str]:
    """Rows of the table for one data set."""
    data = identica.simulate("hmm", seed=seed, layers=layers, n_rows=options.rows)
    fit = np.arange(options.rows) < 0.8 * options.rows
    budget: dict[str, Any] = {"n_restarts": options.restarts, "random_state": seed}
    if options.max_iter is not None:
        budget["max_iter"] = options.max_iter
    methods: dict[str, tuple[Any, Any]] = {
        "FlowICA, hidden states": (identica.FlowICA(prior="hmm", n_states=11, **budget), None),
        "FlowICA, told the true states": (identica.FlowICA(prior="gaussian", **budget), data.u),
        "FastICA": (identica.LinearICA(random_state=seed), None),
    }
    lines = []
    for name, (estimator, u) in methods.items():
        if options.only and options.only not in name:
            continue
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator.fit(data.X[fit], u=None if u is None else u[fit])
        seconds = time.perf_counter() - started
        scores = score_estimate(data.S, estimator.transform(data.X), data.u, fit)
        cells = [f"{scores[key]['held_out']:.4f}" for key in SCORES]
        found = ""
        if name == "FlowICA, hidden states":
            found = f"{state_accuracy(data.u, estimator.predict_states(data.X), fit):.4f}"
        nats = f"{estimator.score(data.X[~fit], u=None if u is None else u[~fit]):.3f}"
        lines.append(
            f"| {layers} | {seed} | {name} | {' | '.join(cells)} | {found} | {nats} | {seconds:.0f} |"
        )
        print(lines[-1], flush=True)
    linear = score_best_linear(data.X, data.S, data.u, fit)
    cells = [f"{linear[key]['held_out']:.4f}" if key in linear else "" for key in SCORES]
    lines.append(f"| {layers} | {seed} | best linear map | {' | '.join(cells)} | | | |")
    print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Run all data sets and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--layers", type=int, nargs="+", default=[2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--max-iter", type=int, default=None)
    parser.add_argument("--only", default="", help="run only methods whose name contains this")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    print("\n".join(lines), flush=True)
    for layers in options.layers:
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            lines += run(layers, seed, options)
            if options.out is not None:
                options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
