"""Item responses of LSAT-6 by every road: does each reach the known maximum of the two-parameter logistic model?

    python benchmarks/item_responses.py [--samples 1,5,50] [--steps 4000]

1000 persons, 5 items (Bock and Lieberman, 1970); one standard normal ability, log-odds linear in it. The maximum of the
likelihood is -2466.6534 (R package ltm: -2466.653). `MarginalMLE` and `VariationalEM` integrate by quadrature; `VAE`
maximises the importance-weighted bound of so many samples, which tends to the likelihood. Printed is the fitted model's
own log-likelihood by Gauss-Hermite quadrature, not the bound. 1000 samples and 6000 steps take tens of minutes.
"""

import argparse
import time
import warnings
from typing import Any

import numpy as np

import identica

COUNTS = [3, 6, 2, 11, 1, 1, 3, 4, 1, 8, 0, 16, 0, 3, 2, 15]
COUNTS += [10, 29, 14, 81, 3, 28, 15, 80, 16, 56, 21, 173, 11, 61, 28, 298]
"""Persons with each pattern of answers, from 00000 to 11111."""


def answers() -> np.ndarray:
    """X (1000, 5): 1 where the answer was right."""
    patterns = np.array([[int(c) for c in f"{code:05b}"] for code in range(32)], float)
    return np.repeat(patterns, COUNTS, axis=0)


def roads(samples: list[int], steps: int) -> dict[str, Any]:
    """Estimators by name."""
    common: dict[str, Any] = {
        "likelihood": "bernoulli",
        "hidden_sizes": (),
        "n_restarts": 1,
        "validation_fraction": 0,
        "precision": "float64",
        "random_state": 0,
    }
    bound: dict[str, Any] = {
        **common,
        "gradient": "dreg",
        "batch_size": 1000,
        "max_iter": steps,
    }
    return {
        "MarginalMLE": identica.MarginalMLE(1, integrator="gauss-hermite", **common),
        "VariationalEM": identica.VariationalEM(
            1, e_step="quadrature", max_iter=200, tolerance=1e-9, **common
        ),
        **{f"IWAE, {k} samples": identica.VAE(1, objective="iwae", samples=k, **bound) for k in samples},
    }


def main() -> None:
    """Fit every road and print its row as it comes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", default="1,5,50", help="of the bounds, with commas between them")
    parser.add_argument("--steps", type=int, default=4000, help="of the bounds' training")
    arguments = parser.parse_args()
    X = answers()
    print("| road | log-likelihood | slopes | intercepts | s |\n|---|---|---|---|---|")
    samples = [int(k) for k in arguments.samples.split(",") if k]
    for name, estimator in roads(samples, arguments.steps).items():
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator.fit(X)
        seconds = time.perf_counter() - started
        value = len(X) * estimator.log_likelihood(X, method="gauss-hermite").value
        network = estimator.model_.model.likelihood.network
        slopes, intercepts = np.abs(network.weights[0][0]), network.biases[0]
        listed = lambda numbers: " ".join(f"{number:.3f}" for number in numbers)
        print(
            f"| {name} | {value:.4f} | {listed(slopes)} | {listed(intercepts)} | {seconds:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
