"""What missing values cost: IVAE on complete rows, and on the same rows with a share of entries unknown.

    python benchmarks/missing.py [--seeds 3] [--first 11] [--share 0.1] [--out missing.json]

Five Gaussian sources, ten columns, 40 segments of 500 rows, noise of a tenth of each column's spread (the scenario
`ivae` of `simulate`, three layers). Entries are missing completely at random. Scores are correlations after
matching on fitted rows; no truth is used in fitting or selection. With --out results are kept, and finished fits
are not run again.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

import identica
from identica.metrics import mcc


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of data seeds")
    parser.add_argument("--first", type=int, default=11, help="first data seed")
    parser.add_argument("--share", type=float, default=0.1, help="share of entries that are missing")
    parser.add_argument("--out", type=Path, help="JSON file of results")
    arguments = parser.parse_args()
    out: Path | None = arguments.out
    records = json.loads(out.read_text()) if out is not None and out.exists() else {}
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for share in (0.0, arguments.share):
            name = f"seed {seed}, share {share:g}"
            if name not in records:
                records[name] = {"seed": seed, "share": share, **fitted(seed, share)}
                print(name, records[name], flush=True)
                if out is not None:
                    out.write_text(json.dumps(records, indent=1) + "\n")
    print("\n| seed | missing | Pearson | within u | without u | held-out bound | seconds |")
    print("|---|---|---|---|---|---|---|")
    for r in records.values():
        print(
            f"| {r['seed']} | {r['share']:.0%} | {r['pooled']:.3f} | {r['within']:.3f} | {r['without_u']:.3f} | "
            f"{r['held_out']:.2f} | {r['seconds']:.0f} |"
        )
    pairs = [
        (records.get(f"seed {r['seed']}, share 0"), r)
        for r in records.values()
        if r["share"] == arguments.share
    ]
    losses = [a["pooled"] - b["pooled"] for a, b in pairs if a is not None]
    print(f"\nloss: {np.mean(losses):.3f} on average, {max(losses):.3f} at most")


def fitted(seed: int, share: float) -> dict[str, float]:
    """Scores of one fit."""
    data = identica.simulate(
        "ivae", seed=seed, n_components=5, n_features=10, n_segments=40, n_per_segment=500, noise=0.1
    )
    unknown = np.random.default_rng([seed, 1]).random(data.X.shape) < share
    X = np.where(unknown, np.nan, data.X)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ivae = identica.IVAE(5, missing="marginalise" if share else "error", random_state=0)
        ivae.fit(X, u=data.u)
    seconds = time.perf_counter() - started
    with_u, without_u = ivae.transform(X, u=data.u), ivae.transform(X)
    rows = {"fit_rows": ivae.fit_rows_}
    held_out = ivae.held_out_rows_
    return {
        "pooled": float(mcc(data.S, with_u, **rows)),
        "within": float(mcc(data.S, with_u, within=data.u, **rows)),
        "without_u": float(mcc(data.S, without_u, **rows)),
        "held_out": float(ivae.score(X[held_out], u=data.u[held_out])),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
