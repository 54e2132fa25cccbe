"""What the compiler's options cost and save: first fits, which compile everything, and second ones.

    python benchmarks/compiling.py --out compiling.md [--repeats 3]

Every fit runs in a process of its own without a cache of compiled programs; the second fit in it has the same shapes
and compiles nothing. Options are measured in turn, so that what else the machine does meets all of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

OPTIONS = {
    "as identica sets them": "",
    "XLA's own": "--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true",
    "level 1": "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=true",
    "level 1, no fusion emitters": "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false",
}
"""Flags that a user sets win over those of `identica.compilation`."""

_FITS = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import identica
method = sys.argv[1]
data = identica.simulate("iflow", seed=0, n_components=5, n_features=5 if method == "FlowICA" else 10,
                         n_per_segment=500, noise=0.0 if method == "FlowICA" else 0.1, layers=2)
seconds = []
for _ in range(2):
    started = time.perf_counter()
    getattr(identica, method)(5, max_iter=1500, random_state=0).fit(data.X, u=data.u)
    seconds.append(time.perf_counter() - started)
print(json.dumps(seconds))
"""


def seconds(method: str, flags: str) -> list[float]:
    """Seconds of the first and of the second fit."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", _FITS, method],
        check=True, capture_output=True, text=True, env={**environment, "XLA_FLAGS": flags},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["IVAE", "FlowICA"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=argparse.FileType("w"), default=sys.stdout)
    arguments = parser.parse_args()
    print("| method | options | first fit, s | second fit, s |\n|---|---|---|---|", file=arguments.out)
    for method in arguments.methods:
        found: dict[str, list[list[float]]] = {name: [] for name in OPTIONS}
        for _ in range(arguments.repeats):
            for name, flags in OPTIONS.items():
                found[name].append(seconds(method, flags))
        for name, pairs in found.items():
            first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"| {method} | {name} | {first:.0f} | {second:.0f} |", file=arguments.out, flush=True)


if __name__ == "__main__":
    main()
