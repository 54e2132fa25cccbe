"""Counts and binary columns: `IVAE` with the likelihood of the data, beside methods that know less.

    python benchmarks/discrete.py --out discrete.json [--seeds 3] [--data curve,classes,binary]

"curve": pi-VAE's published simulation (Zhou and Wei, 2020), two sources on a curve, u its angle, 100 Poisson counts,
15,000 rows. "classes": the same with u one of five classes, 10,000 rows. "binary": Supplement C of Khemakhem et al.
(2020), ten sources with scales of their own in 20 segments of 3000 rows, 100 binary columns of log-odds s A. Every
method runs with its defaults on four fifths of the rows (of each segment) and is scored on the rest; no truth is used
in fitting or selection. R² is that of a linear regression of the true sources on the found ones, fitted on the fitted
rows, as CEBRA and pi-VAE are scored; it asks less than the correlations one by one. Results are kept in --out, and
finished fits are not run again.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from scored import fit_and_score, held_out_scores
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

import identica

DATA: dict[str, tuple[int, str]] = {
    "curve": (2, "poisson"),
    "classes": (2, "poisson"),
    "binary": (10, "bernoulli"),
}
"""Number of sources and likelihood."""

METHODS: dict[str, tuple[str, Callable[[int, str], Any]]] = {
    "ivae": ("IVAE", lambda n, law: identica.IVAE(n, likelihood=law, random_state=0)),
    "vae": ("VAE", lambda n, law: identica.VAE(n, likelihood=law, random_state=0)),
    "gaussian": ("IVAE of √x, Gaussian noise", lambda n, law: identica.IVAE(n, random_state=0)),
    "linear": (
        "joint diagonalisation of √x",
        lambda n, law: identica.LinearICA(n, method="joint-diagonalization", random_state=0),
    ),
}
ROOTS = ("gaussian", "linear")
"""Methods that see √(x + 3/8), whose variance hardly depends on the rate; of binary columns it is as good as x."""


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, help="number of data seeds")
    parser.add_argument("--first", type=int, default=0, help="first data seed")
    parser.add_argument("--data", default=",".join(DATA))
    parser.add_argument("--methods", default=",".join(METHODS), help="names with commas between them")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    arguments = parser.parse_args()
    out: Path = arguments.out
    results = json.loads(out.read_text()) if out.exists() else {}
    for kind in arguments.data.split(","):
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            for name in ["data", *arguments.methods.split(",")]:
                key = f"{kind} {seed} {name}"
                if key in results:
                    continue
                data = drawn(kind, seed)
                results[key] = without_fit(data) if name == "data" else fitted(name, kind, data)
                out.write_text(json.dumps(results, indent=1) + "\n")
                print(key, results[key], flush=True)
    print(table(results))


def drawn(kind: str, seed: int) -> Any:
    """One data set."""
    if kind == "curve":
        return identica.simulate("pi-vae", seed=seed)
    if kind == "classes":
        return identica.simulate("pi-vae", seed=seed, n_segments=5, n_rows=10_000)
    data = identica.simulate(
        "linear", seed=seed, n_components=10, n_features=100, n_segments=20, n_per_segment=3000
    )
    share = np.random.default_rng(seed).random(data.X.shape)
    return replace(data, X=(share < expit(data.X)).astype(float))


def without_fit(data: Any) -> dict[str, float]:
    """What leading principal components of √x and u alone say of the sources."""
    fit_rows, _ = data.split(0.2)
    roots = np.sqrt(data.X + 0.375)
    scores = PCA(data.S.shape[1]).fit(roots[fit_rows]).transform(roots)
    return {"r2_pca": linear_r2(data, scores), "u_only": float(data.u_only(fit_rows))}


def fitted(name: str, kind: str, data: Any) -> dict[str, Any]:
    """Held-out scores of one fit."""
    n, law = DATA[kind]
    seen = replace(data, X=np.sqrt(data.X + 0.375)) if name in ROOTS else data
    with_u = name in ("ivae", "gaussian")
    estimator = METHODS[name][1](n, law)
    scored = fit_and_score(estimator, seen, with_u=with_u)
    result: dict[str, Any] = {**scored.scores, "r2": linear_r2(data, scored.sources)}
    if with_u:
        alone = estimator.transform(seen.X)
        result |= {
            "without_u": held_out_scores(data, alone)["pearson"],
            "r2_without_u": linear_r2(data, alone),
        }
    return result | {"seconds": scored.seconds, "warnings": scored.told}


def linear_r2(data: Any, found: np.ndarray) -> float:
    """Share of the true sources' variance that a linear regression on the found ones explains, held out."""
    fit_rows, score_rows = data.split(0.2)
    model = LinearRegression().fit(found[fit_rows], data.S[fit_rows])
    return float(model.score(found[score_rows], data.S[score_rows]))


def table(results: dict[str, Any]) -> str:
    """One row for each kind of data and method: means over seeds."""
    lines = [
        "\n| data | method | seeds | R² | R² without u | Pearson | Spearman | within u | Pearson without u | s |",
        "|---" * 10 + "|",
    ]
    seeds: dict[tuple[str, str], list[Any]] = {}
    for key, result in results.items():
        kind, _, name = key.split()
        seeds.setdefault((kind, name), []).append(result)
    for (kind, name), rows in seeds.items():
        mean = lambda key, rows=rows: _shown([row[key] for row in rows if key in row])
        if name == "data":
            lines.append(
                f"| {kind} | principal components of √x | {len(rows)} | – | {mean('r2_pca')} |" + " – |" * 5
            )
            lines.append(f"| {kind} | u only | {len(rows)} | – | – | {mean('u_only')} |" + " – |" * 4)
            continue
        scores = ("r2", "r2_without_u", "pearson", "spearman", "pearson_within", "without_u")
        if "without_u" not in rows[0]:  # a method that is not given u
            scores = ("", "r2", "", "spearman", "pearson_within", "pearson")
        cells = [kind, METHODS[name][0], str(len(rows)), *map(mean, scores)]
        lines.append("| " + " | ".join(cells) + f" | {np.mean([row['seconds'] for row in rows]):.0f} |")
    return "\n".join(lines)


def _shown(values: list[float]) -> str:
    return f"{np.mean(values):.3f}" if values else "–"


if __name__ == "__main__":
    main()
