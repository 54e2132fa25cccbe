"""Nonlinear ICA under noise: what `IVAE` reaches of what can be reached, beside other methods.

    python benchmarks/noise.py --out noise.json [--seeds 5] [--components 5] [--times 1,2,4] [--noise .03,.1,.3]

Sources in 40 segments of 500 rows behind two kinds of mixtures: "xtanh", two layers of tanh(x) + x/10 and means that
change with u, and "leaky", three layers of leaky units (slope .1) and means 0; every column carries noise that is a
share of its spread. Every method runs with its defaults on four fifths of each segment and is scored on the rest,
matched on the fitted rows; no truth is used in fitting or selection. The score is (MCC - null) / (ceiling - null),
null the MCC of a random rotation of the true sources and ceiling that of the Bayes oracle. Results are kept in --out,
and finished fits are not run again.
"""

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reference_ivae import ReferenceIVAE
from scored import fit_and_score, held_out_scores, known

import identica
from identica.linear.correlation import segment_codes, segment_means

MIXTURES: dict[str, dict[str, Any]] = {
    "xtanh": {"layers": 2, "uncentered": True},
    "leaky": {"layers": 3, "uncentered": False, "activation": "leaky"},
}
METHODS: dict[str, tuple[str, Callable[..., Any]]] = {
    "ivae": ("IVAE", identica.IVAE),
    "flow": ("FlowICA on principal components", identica.FlowICA),
    "tcl": ("TCL", identica.TCL),
    "vae": ("VAE", identica.VAE),
    "linear": (
        "joint diagonalisation",
        lambda n, **kw: identica.LinearICA(n, method="joint-diagonalization", **kw),
    ),
    "reference": ("reference iVAE", ReferenceIVAE),
}
WITH_U = ("ivae", "reference")
COLLAPSED = 0.1
"""A component that correlates less than this with every source, within segments, has collapsed."""


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of data seeds")
    parser.add_argument("--first", type=int, default=0, help="first data seed")
    parser.add_argument("--components", default="5", help="numbers of sources")
    parser.add_argument("--times", default="1,2,4", help="columns for each source")
    parser.add_argument("--noise", default=".03,.1,.3", help="noise, as a share of each column's spread")
    parser.add_argument("--mixtures", default=",".join(MIXTURES))
    parser.add_argument("--methods", default=",".join(METHODS), help="names with commas between them")
    parser.add_argument("--max-iter", type=int, help="steps, for a quick look; defaults if omitted")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    arguments = parser.parse_args()
    out: Path = arguments.out
    results = json.loads(out.read_text()) if out.exists() else {}
    settings = itertools.product(
        _listed(arguments.mixtures, str),
        _listed(arguments.components, int),
        _listed(arguments.times, int),
        _listed(arguments.noise, float),
    )
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    for (mixture, n, times, noise), seed in itertools.product(settings, seeds):
        for name in ["data", *_listed(arguments.methods, str)]:
            key = f"{mixture} {n} {n * times} {noise:g} {seed} {name}"
            if key in results:
                continue
            data = drawn(mixture, n, times, noise, seed)
            results[key] = known(data) if name == "data" else fitted(name, n, data, arguments.max_iter)
            out.write_text(json.dumps(results, indent=1) + "\n")
            print(key, results[key], flush=True)
    print(table(results))


def drawn(mixture: str, n: int, times: int, noise: float, seed: int) -> Any:
    """The data of one setting."""
    return identica.simulate(
        "iflow",
        seed=seed,
        n_components=n,
        n_features=n * times,
        n_per_segment=500,
        noise=noise,
        **MIXTURES[mixture],
    )


def fitted(name: str, n: int, data: Any, max_iter: int | None) -> dict[str, Any]:
    """Held-out scores of one fit, and what it warned of."""
    options = {} if max_iter is None else {"max_iter": max_iter}
    estimator = METHODS[name][1](n, random_state=0, **options)
    scored = fit_and_score(estimator, data, with_u=name in WITH_U)
    result = {**scored.scores, "seconds": scored.seconds, "warnings": scored.told}
    if name == "ivae":
        result["without_u"] = held_out_scores(data, estimator.transform(data.X))["pearson"]
        result["collapsed"] = len(estimator.collapsed_components_)
        result["weakest"] = weakest_component(data, scored.sources)
    return result


def weakest_component(data: Any, sources: np.ndarray) -> float:
    """Least correlation of a found source with whatever true source it is nearest to, within segments.

    About 0 for a component of which x says nothing: a collapse, whatever the fit itself says of it.
    """
    codes, count = segment_codes(data.u, len(data.u))
    centred = [s - segment_means(s, codes, count)[codes] for s in (np.asarray(sources, float), data.S)]
    n = centred[0].shape[1]
    across = np.abs(np.corrcoef(*(c.T for c in centred))[:n, n:])
    return float(np.nan_to_num(across).max(axis=1).min())


def table(results: dict[str, Any]) -> str:
    """One row for each setting: ceiling, MCC of each method, score of IVAE; means over seeds."""
    settings: dict[str, list[int]] = {}
    for key in results:
        *setting, seed, name = key.split()
        if name == "data":
            settings.setdefault(" ".join(setting), []).append(int(seed))
    lines = [
        "\n| mixture | n | d | noise | seeds | null | ceiling | "
        + " | ".join(title for title, _ in METHODS.values())
        + " | IVAE's score | within u: ceiling, IVAE, score | s |",
        "|---" * (10 + len(METHODS)) + "|",
    ]
    for setting, seeds in settings.items():
        data = [results[f"{setting} {seed} data"] for seed in seeds]
        found = {
            name: [results[k] for seed in seeds if (k := f"{setting} {seed} {name}") in results]
            for name in METHODS
        }
        mean = lambda rows, key: float(np.mean([row[key] for row in rows])) if rows else float("nan")
        null, ceiling = mean(data, "null"), mean(data, "ceiling")
        within_null, within = mean(data, "null_within"), mean(data, "ceiling_within")
        pearson = {name: mean(rows, "pearson") for name, rows in found.items()}
        inner = mean(found["ivae"], "pearson_within")
        mark = "*" if setting.split()[1] == "2" else ""
        cells = [
            *setting.split(), str(len(seeds)), f"{null:.3f}{mark}", f"{ceiling:.3f}",
            *(f"{value:.3f}" for value in pearson.values()),
            f"{(pearson['ivae'] - null) / (ceiling - null):.2f}{mark}",
            f"{within:.3f}, {inner:.3f}, {(inner - within_null) / (within - within_null):.2f}{mark}",
            f"{mean(found['ivae'], 'seconds'):.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    legend = "\n*: two sources score .9 by chance; a score of them says little. –: not run."
    return "\n".join([*lines, legend, _collapses(results)]).replace("nan", "–")


def _collapses(results: dict[str, Any]) -> str:
    """How many fits of IVAE have a component that no source moves, and how many of these say so."""
    fits = [r for key, r in results.items() if key.endswith(" ivae") and "weakest" in r]
    silent = [r for r in fits if r["weakest"] < COLLAPSED and not r["collapsed"]]
    told = sum(r["collapsed"] > 0 for r in fits)
    return f"\n{len(fits)} fits of IVAE: {told} warn of a collapse, {len(silent)} have collapsed without a warning."


def _listed(text: str, kind: Callable[[str], Any]) -> list[Any]:
    return [kind(part.strip()) for part in text.split(",")]


if __name__ == "__main__":
    main()
