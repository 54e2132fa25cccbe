"""What each ingredient of `IVAE` is worth under noise: each taken out once, on the same data, beside all of them.

    python benchmarks/ivae_ablation.py --out ivae_ablation.json [--seeds 5] [--noise .1,.3] [--times 2]

Five sources with means and standard deviations of their own in 40 segments of 500 rows behind two layers of
tanh(x) + x/10, as in noise.py. Every variant is fitted on four fifths of each segment and scored on the rest, matched
on the fitted rows; no truth is used in fitting or selection. Nats are the 64-sample bound of held-out rows. Results
are kept in --out, and finished fits are not run again.
"""

import argparse
import itertools
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from noise import drawn
from scored import fit_and_score

import identica
from identica.estimators import ivae_stages
from identica.estimators.ivae_stages import IVAEPlan
from identica.objectives.bound import WeightedSum, importance_weighted
from identica.objectives.refined_bound import RefinedBound
from identica.training import Stage

SOURCES = 5


VARIANTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "contrastive start": {},
    "restarts (one)": {"n_restarts": 1},
    "second finalist": {},
    "cross-entropy of u": {},
    "letting go of it": {},
    "samples of the bound (one)": {},
    "units of two kinds": {},
    "Gauss-Newton steps": {},
    "polish": {},
    "weighing of draws": {},
    "half of the steps": {"max_iter": 6000},
}


@dataclass(frozen=True)
class VariedPlan(IVAEPlan):
    """The recipe of `IVAE` with one ingredient out."""

    without: str = ""

    def first_stages(self) -> list[Stage]:
        stages = super().first_stages()
        if self.without == "contrastive start":
            stages = [replace(s, steps=1) if s.name == "contrastive start" else s for s in stages]
        if self.without == "second finalist":
            stages[-2:] = [replace(stages[-2], keep=1), replace(stages[-1], restarts=1)]
        return [self._changed(stage, last=False) for stage in stages]

    def last_stages(self, systems: Any, *, local: bool) -> list[Stage]:
        stages = super().last_stages(systems, local=local and self.without != "Gauss-Newton steps")
        if self.without == "polish":
            stages = stages[:-1]
        return [self._changed(stage, last=True) for stage in stages]

    def _changed(self, stage: Stage, *, last: bool) -> Stage:
        """The stage with another bound, or another weight of the cross-entropy of u, where its objective has one."""
        if not isinstance(stage.objective, WeightedSum):
            return stage
        (one, bound), (weight, entropy) = stage.objective.parts
        if self.without == "cross-entropy of u":
            weight = 0.0
        if self.without == "letting go of it" and last:
            weight = 1.0
        if self.without == "samples of the bound (one)" and not isinstance(bound, RefinedBound):
            bound = importance_weighted(1)
        return replace(stage, objective=WeightedSum(((one, bound), (weight, entropy))))


class Variant(identica.IVAE):
    """`IVAE` with one ingredient out."""

    without = ""

    def _network_plan(self, problem: Any, observation: Any) -> IVAEPlan:
        plan = super()._network_plan(problem, observation)
        parts = {field.name: getattr(plan, field.name) for field in fields(plan)}
        return VariedPlan(**parts, without=self.without)

    def _weighs_draws(self) -> bool:
        return self.without != "weighing of draws" and super()._weighs_draws()


def run(variant: str, times: int, noise: float, seed: int) -> dict[str, Any]:
    """Scores, seconds and held-out nats of one fit."""
    data = drawn("xtanh", SOURCES, times, noise, seed)
    estimator = Variant(SOURCES, random_state=seed, decoder="network", **VARIANTS[variant])
    estimator.without = variant
    both = ivae_stages._DECODER_UNITS
    ivae_stages._DECODER_UNITS = "leaky_relu" if variant == "units of two kinds" else both
    try:
        scored = fit_and_score(estimator, data, with_u=True)
    finally:
        ivae_stages._DECODER_UNITS = both
    _, held_out = data.split(0.2)
    nats = estimator.score(data.X[held_out], u=data.u[held_out])
    return {**scored.scores, "nats": nats, "seconds": scored.seconds}


def table(results: dict[str, Any]) -> str:
    """One row for each variant and noise: means over seeds, the worst, and nats against everything."""
    lines = [
        "\n| d | noise | taken out | seeds | Pearson, mean | worst | within u, mean | nats | s |",
        "|---" * 9 + "|",
    ]
    settings = sorted({tuple(key.split(maxsplit=3)[:2]) for key in results})
    for times, noise in settings:
        for variant in VARIANTS:
            seeds = [
                seed
                for key in results
                if key.startswith(f"{times} {noise} ")
                and key.endswith(f" {variant}")
                and f"{times} {noise} {(seed := key.split()[2])} nothing" in results
            ]
            if not seeds:
                continue
            own, all_of_it = (
                [results[f"{times} {noise} {seed} {name}"] for seed in seeds] for name in (variant, "nothing")
            )
            mean = lambda rows, key: float(np.mean([row[key] for row in rows]))
            lines.append(
                f"| {SOURCES * int(times)} | {noise} | {variant} | {len(seeds)} | {mean(own, 'pearson'):.4f} "
                f"| {min(row['pearson'] for row in own):.4f} | {mean(own, 'pearson_within'):.4f} "
                f"| {mean(own, 'nats') - mean(all_of_it, 'nats'):+.3f} | {mean(own, 'seconds'):.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of data seeds")
    parser.add_argument("--first", type=int, default=0, help="first data seed")
    parser.add_argument("--noise", default=".1,.3", help="noise, as a share of each column's spread")
    parser.add_argument("--times", type=int, default=2, help="columns for each source")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    arguments = parser.parse_args()
    out: Path = arguments.out
    results = json.loads(out.read_text()) if out.exists() else {}
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    noises = [float(noise) for noise in arguments.noise.split(",")]
    for seed, noise, variant in itertools.product(seeds, noises, VARIANTS):
        key = f"{arguments.times} {noise:g} {seed} {variant}"
        if key in results:
            continue
        results[key] = run(variant, arguments.times, noise, seed)
        jax.clear_caches()  # every variant compiles programs of its own, and a process has room for so many
        out.write_text(json.dumps(results, indent=1) + "\n")
        print(key, {name: round(value, 4) for name, value in results[key].items()}, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
