"""Peak memory of a whole `FlowICA` fit against the number of rows and of restarts.

    python benchmarks/memory.py --rows 250000 1000000 4000000 --restarts 2 8 --out memory.md

Each fit runs in a process of its own, whose largest resident size the operating system reports: Python, JAX and
its compiled programs, the data and everything the fit makes of them. A few steps suffice, as nothing grows with
their number. Bytes per value are the slope against the number of values N · d from one number of rows to the next.
"""

import argparse
import json
import subprocess
import sys

COLUMNS, SEGMENTS, STEPS = 10, 100, 20

_FIT = """
import json, resource, sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
rows, columns, segments, steps, restarts = map(int, sys.argv[1:])
import identica
rng = np.random.default_rng(0)
u = np.arange(rows) % segments
X = rng.standard_normal((rows, columns))
X *= rng.uniform(0.5, 2, (segments, columns))[u]
for part in np.array_split(X, 64):  # mixed in place, so that making the data costs no more than the data
    part[:] = np.tanh(part @ (np.eye(columns) + 0.1)) + 0.1 * part
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
identica.FlowICA(max_iter=steps, n_restarts=restarts, random_state=0).fit(X, u=u)
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "before": before / 2**20,
                  "seconds": time.perf_counter() - started}))
"""


def measure(rows: int, restarts: int) -> dict[str, float]:
    """Peak and earlier resident size in GiB, and seconds, of one fit."""
    arguments = map(str, (rows, COLUMNS, SEGMENTS, STEPS, restarts))
    done = subprocess.run(
        [sys.executable, "-c", _FIT, *arguments], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[250_000, 1_000_000, 4_000_000])
    parser.add_argument("--restarts", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--out", type=argparse.FileType("w"), default=sys.stdout)
    options = parser.parse_args()
    print(
        "| rows | restarts | peak, GiB | bytes per value | seconds |\n|---|---|---|---|---|", file=options.out
    )
    for restarts in options.restarts:
        last = None
        for rows in options.rows:
            here = measure(rows, restarts)
            slope = ""
            if last is not None:
                slope = f"{(here['peak'] - last[1]) * 2**30 / ((rows - last[0]) * COLUMNS):.0f}"
            last = (rows, here["peak"])
            print(
                f"| {rows:,} | {restarts} | {here['peak']:.2f} | {slope} | {here['seconds']:.0f} |",
                file=options.out,
                flush=True,
            )


if __name__ == "__main__":
    main()
