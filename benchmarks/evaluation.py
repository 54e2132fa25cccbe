"""Methods for log p(x) side by side: their error where dense quadrature knows the truth, and what they cost.

    python benchmarks/evaluation.py [--rows 64] [--seed 0] [--json FILE]

A random tanh decoder (16 hidden units, 20 columns) draws its own rows; processor seconds are those of a second
call, without compilation. Beyond two components the truth lies between the bounds of annealing from both sides.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logsumexp

from identica.conditionals import ConstantPrior, Decoder, DiagonalEncoder, Features, GaussianObservation
from identica.evaluation.annealed import Annealing, annealed, reverse_annealed
from identica.evaluation.importance import evidence_lower_bound, importance
from identica.evaluation.quadrature import gauss_hermite, quasi_monte_carlo
from identica.models import LatentVariableModel, VariationalModel
from identica.networks import MultilayerPerceptron

_COLUMNS, _HIDDEN = 20, 16


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    records = [
        record
        for n, noise in ((2, 0.5), (2, 0.15), (10, 0.3))
        for record in evaluate(n, noise, arguments.rows, arguments.seed)
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


def evaluate(n: int, noise: float, n_rows: int, seed: int) -> list[dict]:
    """One record per method: mean error, largest error of a row, predicted error, processor seconds."""
    system = model_with_linear_encoder(n, noise, seed)
    z, x = system.model.sample(None, key=jax.random.key(seed + 1), n_rows=n_rows)
    keys = jax.random.key_data(jax.random.split(jax.random.key(seed + 2), n_rows))
    truth = dense_quadrature(system, np.asarray(x)) if n == 2 else None
    methods = {
        "ELBO": lambda: evidence_lower_bound(system, x, None, keys, 64),
        "importance, encoder, 512": lambda: importance(system, x, None, keys, 512),
        "importance, encoder, 5000": lambda: importance(system, x, None, keys, 5000),
        "importance, Laplace, 5000": lambda: importance(system, x, None, keys, 5000, "laplace"),
        "quasi-Monte Carlo, 8 × 2 × 512": lambda: quasi_monte_carlo(system, x, None, keys, 512, "laplace"),
        "AIS from the encoder, 500": lambda: annealed(system, x, None, keys, Annealing()),
        "AIS from the prior, 500": lambda: annealed(system, x, None, keys, Annealing(start="prior")),
        "AIS from the prior, 2000": lambda: annealed(system, x, None, keys, Annealing(2000, start="prior")),
        "reverse AIS, 2000 (upper)": lambda: reverse_annealed(
            system, x, None, keys, z, Annealing(2000, start="prior")
        ),
    }
    if n == 2:
        methods["Gauss-Hermite, 20 × 20"] = lambda: gauss_hermite(system, x, None, keys, 20)
    records = []
    print(
        f"\nn = {n}, noise {noise}, {n_rows} rows" + ("" if truth is None else f", log p {truth.mean():.4f}")
    )
    for name, method in methods.items():
        jax.block_until_ready(method())
        started = time.process_time()
        found = jax.tree.map(np.asarray, jax.block_until_ready(method()))
        seconds = time.process_time() - started
        values = found.value if truth is None else found.value - truth
        record = {
            "n": n, "noise": noise, "method": name, "value": float(values.mean()),
            "largest": None if truth is None else float(np.abs(values).max()),
            "predicted": float(np.sqrt(found.variance.sum()) / n_rows),
            "unreliable": float((found.pareto_k > 0.7).mean()), "seconds": seconds,
        }  # fmt: skip
        largest = "" if truth is None else f"largest {record['largest']:.4f}  "
        print(
            f"{name:32s} {record['value']:+.4f}  {largest}predicted {record['predicted']:.4f}  "
            f"k > .7: {record['unreliable']:.0%}  {seconds:.2f} s",
            flush=True,
        )
        records.append(record)
    return records


def model_with_linear_encoder(n: int, noise: float, seed: int) -> VariationalModel:
    """A random decoder, with the regression of z on x, and its residual variance, as a mediocre encoder."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(n, _HIDDEN)), rng.normal(size=(_HIDDEN, _COLUMNS)) / np.sqrt(_HIDDEN)
    biases = jnp.asarray(rng.normal(size=_HIDDEN)), jnp.asarray(0.3 * rng.normal(size=_COLUMNS))
    network = MultilayerPerceptron((jnp.asarray(first), jnp.asarray(second)), biases, None, "tanh")
    observation = GaussianObservation(jnp.full(_COLUMNS, np.log(noise**2 - 1e-5)), "diagonal")
    model = LatentVariableModel(ConstantPrior(n), Decoder(network, observation))
    z, x = (np.asarray(part) for part in model.sample(None, key=jax.random.key(seed + 9), n_rows=4000))
    design = np.c_[x, np.ones(len(x))]
    slope = np.linalg.lstsq(design, z, rcond=None)[0]
    spread = 2 * np.log((z - design @ slope).std(axis=0))
    weight = jnp.asarray(np.c_[slope[:-1], np.zeros((_COLUMNS, n))])
    encoder = MultilayerPerceptron((weight,), (jnp.asarray(np.r_[slope[-1], spread]),), None)
    features = Features(jnp.zeros(_COLUMNS), jnp.eye(_COLUMNS))
    return VariationalModel(model, DiagonalEncoder(features, encoder))


def dense_quadrature(
    system: VariationalModel, x: np.ndarray, width: float = 6.5, points: int = 601
) -> np.ndarray:
    """log p(x) by the rectangle rule on a square grid."""
    grid = np.linspace(-width, width, points)
    z = jnp.asarray(np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2))
    log_joint = jax.jit(lambda z, row: system.model.log_joint(z[:, None], row[None], None)[:, 0])
    rows = [logsumexp(np.asarray(log_joint(z, jnp.asarray(row)))) for row in x]
    return np.array(rows) + 2 * np.log(grid[1] - grid[0])


if __name__ == "__main__":
    with jax.enable_x64(True):
        main()
