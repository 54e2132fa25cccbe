"""What each ingredient of `FlowICA` is worth: each taken out once, on the same data, beside all of them.

    python benchmarks/ablation.py --seeds 2 --out ablation.md

True sources are used for scoring only. Restarts found: those within .05 nats of the best likelihood that any
variant reached on those data, a count that can be had without the truth. "flat" spends the same restart-steps on
the full depth from the start. Where restarts disagree, every variant but one goes on for up to three rounds, so that a
worse one costs more seconds, too.
"""

import argparse
import time
import warnings
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import numpy as np

import identica
from identica.estimators import growth_rounds
from identica.estimators.base import Problem
from identica.estimators.flow_stages import FlowPlan
from identica.estimators.growth_rounds import MOST_ROUNDS
from identica.evaluation.protocol import score_estimate
from identica.random import named_rng
from identica.training import LBFGS, Stage

DATA = {
    "icebeem, L=4, 500 rows": ("icebeem", {"layers": 4, "n_per_segment": 500}),
    "icebeem, L=5, 1000 rows": ("icebeem", {"layers": 5, "n_per_segment": 1000}),
    "iflow, 500 rows": ("iflow", {"n_per_segment": 500}),
    "Laplace, d=10, 60 segments": (
        "tcl",
        {"n_components": 10, "n_segments": 60, "n_per_segment": 300, "layers": 2},
    ),
    "twist": ("radial", {"n_per_segment": 500}),
}


@dataclass(frozen=True)
class VariedPlan(FlowPlan):
    """The recipe of `FlowICA` with one ingredient out."""

    without: str = ""

    def growth(self) -> list[Stage]:
        stages = super().growth()
        if self.without == "rate":
            stages = [replace(s, solver=replace(s.solver, rate=s.solver.rate / 2)) for s in stages]
        if self.without == "late choice":
            stages = [replace(s, keep=1) if i == 0 else s for i, s in enumerate(stages)]
        return stages

    def finish(self, grown: Any = None) -> list[Stage]:
        stages = super().finish(grown)
        if self.without == "polish":
            stages = [replace(s, steps=0) if isinstance(s.solver, LBFGS) else s for s in stages]
        return stages


class Variant(identica.FlowICA):
    """`FlowICA` with one ingredient out."""

    without = ""

    def _plan(self, problem: Problem) -> FlowPlan:
        plan = super()._plan(problem)
        parts = {field.name: getattr(plan, field.name) for field in fields(plan)}
        if self.without == "growth":
            parts["first_depth"] = plan.n_layers
        if self.without == "three layers":
            parts["first_depth"] = 2
        if self.without == "couplings":
            parts["couplings"] = 0
        return VariedPlan(**parts, without=self.without)


VARIANTS = {
    "everything": ("", {}),
    "no growth (flat)": ("growth", {}),
    "growth from two layers": ("three layers", {}),
    "half the rate": ("rate", {}),
    "no further rounds": ("rounds", {}),
    "no learned shape": ("", {"prior": "gaussian"}),
    "no couplings": ("couplings", {}),
    "no polish": ("polish", {}),
    "choice after the first stage": ("late choice", {}),
    "one restart": ("", {"n_restarts": 1}),
}


def run(name: str, options: dict, variant: str, seed: int) -> dict:
    """Scores, seconds and held-out nats of one fit."""
    without, changed = VARIANTS[variant]
    data = identica.simulate(name, seed=seed, **options)
    rng = named_rng(seed, "ablation")
    test = rng.random(len(data.X)) < 0.2
    estimator = Variant(random_state=seed, **changed)
    estimator.without = without
    growth_rounds.MOST_ROUNDS = 1 if without == "rounds" else MOST_ROUNDS
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(data.X[~test], u=data.u[~test])
    seconds = time.perf_counter() - started
    scores = score_estimate(data.S, estimator.transform(data.X), data.u, np.flatnonzero(~test))
    return {
        "pearson": scores["pearson"]["held_out"],
        "spearman": scores["spearman"]["held_out"],
        "nats": estimator.score(data.X[test], u=data.u[test]),
        "restarts": [r["held_out"] for r in estimator.restarts_],
        "seconds": seconds,
    }


def table(results: dict[str, dict[str, list[dict]]]) -> str:
    """Markdown: one row per variant, per data set its Pearson, nats against everything, restarts found."""
    lines = []
    for data, variants in results.items():
        best = np.min([[min(r["restarts"]) for r in runs] for runs in variants.values()], axis=0)
        base = np.array([r["nats"] for r in variants["everything"]])
        lines += [
            f"\n{data}\n",
            "| without | Pearson, mean | worst | Spearman, mean | nats per row | restarts found | seconds |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, runs in variants.items():
            pearson = [r["pearson"] for r in runs]
            found = sum(sum(h < b + 0.05 for h in r["restarts"]) for r, b in zip(runs, best, strict=True))
            total = sum(len(r["restarts"]) for r in runs)
            loss = np.mean([r["nats"] for r in runs] - base)
            lines.append(
                f"| {name} | {np.mean(pearson):.4f} | {min(pearson):.4f} | "
                f"{np.mean([r['spearman'] for r in runs]):.4f} | {loss:+.3f} | {found} of {total} | "
                f"{np.mean([r['seconds'] for r in runs]):.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run all variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=500)
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    results: dict[str, dict[str, list[dict]]] = {}
    for data in options.data:
        name, sizes = DATA[data]
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for variant in options.variants:
                result = run(name, sizes, variant, seed)
                jax.clear_caches()  # every variant compiles programs of its own, and a process has room for so many
                results.setdefault(data, {}).setdefault(variant, []).append(result)
                print(
                    f"{data}, seed {seed}, {variant}: {result['pearson']:.4f} {result['seconds']:.0f} s",
                    flush=True,
                )
    text = table(results)
    print(text)
    if options.out is not None:
        with open(options.out, "w") as file:
            file.write(text)


if __name__ == "__main__":
    main()
