"""Binary digits: bound per epoch of `VAE` beside a plain PyTorch implementation of the same model.

The model is that of Burda, Grosse and Salakhutdinov (2016): 50 latents, two hidden layers of 200 tanh units on
either side, Bernoulli pixels, batches of 20. Both programs get the same rows, the same objective, the same Adam,
schedule and clipping, and initial weights of the same distribution; both are looked at after every epoch by the
16-sample bound of the same held-out rows, and at the end by the 64-sample bound of test rows. A third row is `VAE`
with its linear shortcut, which starts from principal components.

    python benchmarks/mnist.py --data FOLDER_WITH_IDX_FILES       # MNIST, every pixel binarised once
    python benchmarks/mnist.py --data binarized_mnist_packed.npz  # fixed binarisation (train, valid, test; packed bits)
    python benchmarks/mnist.py                                    # the 8 x 8 digits that scikit-learn brings along

Pixels that are on in fewer than 20 fitted rows cannot be learned from; they are modelled as independent in all
rows, and their log-likelihood is added, so that bounds are of all 784 pixels. PyTorch's row is left out where
PyTorch is not installed.
"""

import argparse
import gzip
import json
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from identica import VAE

HIDDEN, LATENTS, BATCH, RATE, WARMUP, CLIP = (200, 200), 50, 20, 1e-3, 200, 10.0
FEWEST_ONES = 20
HELD_OUT_SAMPLES, TEST_SAMPLES = 16, 64


def read_digits(path: str | None, rows: int, test_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Binary rows to fit and to test, and what they are."""
    rng = np.random.default_rng(seed)
    if path is None:
        pixels = load_digits().data / 16.0
        binary = (rng.random(pixels.shape) < pixels).astype(np.float64)
        order = rng.permutation(len(binary))
        cut = len(binary) - min(test_rows, len(binary) // 5)
        # Fewer than 2048 rows would be taken all together; so every image is binarised four times.
        fitted = np.repeat(pixels[order[:cut]], 4, axis=0)
        train = (rng.random(fitted.shape) < fitted).astype(np.float64)
        return train, binary[order[cut:]], "scikit-learn's digits, 8 x 8, binarised four times"
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as file:
            parts = [np.unpackbits(file[name], axis=1)[:, :784] for name in ("train", "test")]
        name = "MNIST, fixed binarisation"
    else:
        files = ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
        parts = []
        for name in files:
            raw = np.frombuffer(gzip.decompress((Path(path) / name).read_bytes()), np.uint8, offset=16)
            parts.append(rng.random((len(raw) // 784, 784)) < raw.reshape(-1, 784) / 255.0)
        name = "MNIST, binarised once"
    train, test = (
        part[rng.permutation(len(part))[:size]].astype(np.float64)
        for part, size in zip(parts, (rows, test_rows), strict=True)
    )
    return train, test, name


def left_out_pixels(train: np.ndarray, test: np.ndarray, left_out: np.ndarray) -> float:
    """Mean log-likelihood per test row of independent pixels, nats."""
    share = (train[:, left_out].sum(axis=0) + 0.5) / (len(train) + 1)
    return float(
        (test[:, left_out] * np.log(share) + (1 - test[:, left_out]) * np.log1p(-share)).sum(1).mean()
    )


def fit_identica(
    train: np.ndarray, test: np.ndarray, options: argparse.Namespace, **more
) -> tuple[dict, VAE]:
    """Bound per epoch, seconds and test bound of `VAE`."""
    times: list[float] = []
    steps = round((1 - options.held_out / len(train)) * len(train)) // BATCH
    estimator = VAE(
        options.latents,
        objective=options.objective,
        samples=options.samples,
        divergence="analytic" if options.objective == "elbo" else "sampled",
        likelihood="bernoulli",
        hidden_sizes=HIDDEN,
        batch_size=BATCH,
        learning_rate=RATE,
        max_iter=options.epochs * steps,
        n_restarts=1,
        validation_fraction=options.held_out / len(train),
        random_state=options.seed,
        callbacks=[lambda progress: times.append(progress.seconds)],
        **more,
    )
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(train)
    processor = time.process_time() - started
    history = estimator.history_
    every = max(1, (len(history["step"]) - 1) // options.epochs)
    bounds = -history["held_out"][1:][every - 1 :: every]
    result = {
        "bounds": bounds.tolist(),
        "seconds": float(times[-1]),
        "processor_seconds": processor,
        "epoch_seconds": float(np.median(np.diff(times)) * every),
        "test": float(estimator.score_samples(test).mean()),
    }
    return result, estimator


def fit_torch(
    train: np.ndarray, held_out: np.ndarray, test: np.ndarray, options: argparse.Namespace
) -> dict | None:
    """The same by plain PyTorch; None if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    from torch import nn

    torch.manual_seed(options.seed)
    center = torch.tensor(train.mean(axis=0), dtype=torch.float32)
    scale = float(np.sqrt(train.var(axis=0).mean()))
    d, n = train.shape[1], options.latents

    def network(inputs: int, outputs: int) -> nn.Sequential:
        sizes = (inputs, *HIDDEN, outputs)
        layers: list[nn.Module] = []
        for i, (rows, columns) in enumerate(pairwise(sizes)):
            layer = nn.Linear(rows, columns)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.Tanh()] if i < len(HIDDEN) else [layer]
        return nn.Sequential(*layers)

    encoder, decoder = network(d, 2 * n), network(n, d)
    with torch.no_grad():
        decoder[-1].bias.copy_(torch.logit(center.clamp(1e-3, 1 - 1e-3)))
    weights = [*encoder.parameters(), *decoder.parameters()]
    adam = torch.optim.Adam(weights, lr=RATE)
    x_train, x_held, x_test = (torch.tensor(x, dtype=torch.float32) for x in (train, held_out, test))
    steps = options.epochs * (len(train) // BATCH)
    warmup = min(WARMUP, steps // 10)

    def factor(step: int) -> float:
        if step < warmup:
            return 0.1 + 0.9 * step / warmup
        return 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * (step - warmup) / (steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(adam, factor)

    def pieces(x, k):
        mean, log_variance = encoder((x - center) / scale).chunk(2, dim=-1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn(k, *mean.shape)
        log_odds = decoder(z)
        log_likelihood = (x * log_odds - nn.functional.softplus(log_odds)).sum(-1)
        return mean, log_variance, z, log_likelihood

    def log_weights(x, k):
        mean, log_variance, z, log_likelihood = pieces(x, k)
        log_q = -0.5 * (log_variance + (z - mean) ** 2 / log_variance.exp()).sum(-1)
        return log_likelihood - 0.5 * (z**2).sum(-1) - log_q

    def loss(x):
        if options.objective == "elbo":
            mean, log_variance, _, log_likelihood = pieces(x, options.samples)
            divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)
            return (divergence - log_likelihood.mean(0)).mean()
        return -(torch.logsumexp(log_weights(x, options.samples), 0) - np.log(options.samples)).mean()

    def bound(x, k):
        with torch.no_grad():
            parts = [torch.logsumexp(log_weights(rows, k), 0) - np.log(k) for rows in x.split(500)]
        return float(torch.cat(parts).mean())

    bounds, times, started, processor = [], [0.0], time.perf_counter(), time.process_time()
    for _ in range(options.epochs):
        for rows in torch.randperm(len(x_train)).split(BATCH):
            if len(rows) < BATCH:
                continue
            adam.zero_grad(set_to_none=True)
            loss(x_train[rows]).backward()
            nn.utils.clip_grad_norm_(weights, CLIP)
            adam.step()
            schedule.step()
        bounds.append(bound(x_held, HELD_OUT_SAMPLES))
        times.append(time.perf_counter() - started)
    return {
        "bounds": bounds,
        "seconds": times[-1],
        "processor_seconds": time.process_time() - processor,
        "epoch_seconds": float(np.median(np.diff(times))),
        "test": bound(x_test, TEST_SAMPLES),
    }


def table(results: dict[str, dict], extra: float, extra_held_out: float) -> str:
    """Markdown: bounds at some epochs, test bound, seconds."""
    epochs = len(next(iter(results.values()))["bounds"])
    shown = sorted({e for e in (1, 2, 5, 10, 20, 50, 100, 200, epochs) if e <= epochs})
    lines = [
        f"| program | {' | '.join(f'epoch {e}' for e in shown)} | test | s per epoch | s in all | processor s |",
        "|---|" + "---|" * (len(shown) + 4),
    ]
    for name, r in results.items():
        values = " | ".join(f"{r['bounds'][e - 1] + extra_held_out:.2f}" for e in shown)
        lines.append(
            f"| {name} | {values} | {r['test'] + extra:.2f} | {r['epoch_seconds']:.2f} | {r['seconds']:.0f} "
            f"| {r['processor_seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Fit all programs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default=None, help="folder of MNIST's idx files, or a packed npz file")
    parser.add_argument("--rows", type=int, default=10_500, help="rows to fit and to hold out")
    parser.add_argument("--held-out", type=int, default=500)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--objective", choices=("elbo", "iwae"), default="elbo")
    parser.add_argument("--samples", type=int, default=1, help="samples per row and step")
    parser.add_argument("--latents", type=int, default=LATENTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", default=None, help="file for all numbers")
    options = parser.parse_args()
    train, test, name = read_digits(options.data, options.rows, options.test_rows, options.seed)
    options.held_out = min(options.held_out, len(train) // 10)
    ones = train.sum(axis=0)
    kept = (ones >= FEWEST_ONES) & (ones <= len(train) - FEWEST_ONES)
    options.latents = min(options.latents, int(kept.sum()) // 2)
    x_train, x_test = train[:, kept], test[:, kept]

    results = {}
    results["identica, the same model"], estimator = fit_identica(
        x_train, x_test, options, shortcut=False, activation="tanh"
    )
    results["identica, with its linear start"], _ = fit_identica(x_train, x_test, options)
    print(json.dumps(results), file=sys.stderr)
    fitted, held_out = estimator.fit_rows_, estimator.held_out_rows_
    torch = fit_torch(x_train[fitted], x_train[held_out], x_test, options)
    if torch is not None:
        results["PyTorch, the same model"] = torch
        print(json.dumps(torch), file=sys.stderr)
    extra = left_out_pixels(train, test, ~kept)
    extra_held_out = left_out_pixels(train, train[held_out], ~kept)
    what = (
        "ELBO" if options.objective == "elbo" else f"importance-weighted bound of {options.samples} samples"
    )
    print(
        f"{name}: {len(fitted)} rows fitted, {len(held_out)} held out, {len(test)} to test, {train.shape[1]} pixels "
        f"({int(kept.sum())} learned), {options.latents} latents, {what}, seed {options.seed}\n"
    )
    print(table(results, extra, extra_held_out))
    if options.json is not None:
        Path(options.json).write_text(
            json.dumps({"results": results, "left_out_pixels": extra, "options": vars(options)}, indent=1)
        )


if __name__ == "__main__":
    main()
