"""Variance of gradient estimators: score function against pathwise, in the toy with exact laws and in a model.

    python benchmarks/gradients.py --out docs/images/gradients.png

Left: q = N(mu, 1) and f = z^2, where the variances of one draw are mu^4 + 14 mu^2 + 15 and 4. Middle: the ELBO of a
linear Gaussian model with n latents and twice as many columns, at a posterior that is somewhat wrong; mean over
components of the variance of the gradient for the mean of q. Right: the importance-weighted bound of the toy
z ~ N(0, 1), x|z ~ N(z, 1/4), x = .8, q = N(.2, .49): signal-to-noise ratio of one draw as samples increase.
"""

import argparse

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist

from identica.expectations import DoublyReparametrized, Pathwise, ScoreFunction, StickingTheLanding
from identica.objectives.reductions import LogMeanExp, Mean

COLOURS = {
    "score function": "#b2182b",
    "score function, 4 samples": "#ef8a62",
    "pathwise": "#2166ac",
    "sticking the landing": "#67a9cf",
    "doubly reparametrised": "#1b7837",
}


def draws(expectation, reduce, log_weight, mean, log_sd, *, seed, count):
    """Gradients for the mean of q, (count, n)."""

    def total(mean):
        q = dist.Normal(mean, jnp.exp(log_sd)).to_event(1)
        return expectation(q, log_weight, reduce, key=jax.random.key(seed)).sum()

    at = jnp.broadcast_to(jnp.asarray(mean, jnp.float32), (count, len(mean)))
    return np.asarray(jax.jit(jax.grad(total))(at), np.float64)


def toy_laws(seed, count):
    """Variance of one draw for some mu, by estimator."""
    means = np.linspace(0, 3, 7)
    square = lambda z, log_q: (z**2).sum(-1)
    kinds = {"score function": ScoreFunction(1), "pathwise": Pathwise(1)}
    return means, {
        name: [float(draws(kind, Mean(), square, [m], 0.0, seed=seed, count=count).var()) for m in means]
        for name, kind in kinds.items()
    }


def models(seed, count):
    """Mean variance over components of the ELBO's gradient, by number of latents and estimator."""
    sizes = [2, 5, 10, 20, 50]
    kinds = {
        "score function": ScoreFunction(1),
        "score function, 4 samples": ScoreFunction(4),
        "pathwise": Pathwise(1),
        "sticking the landing": StickingTheLanding(1),
    }
    found: dict[str, list[float]] = {name: [] for name in kinds}
    agreement = []
    for n in sizes:
        rng = np.random.default_rng([seed, n])
        weight, noise = rng.normal(size=(n, 2 * n)) / np.sqrt(n), 0.5
        x = rng.normal(size=n) @ weight + noise * rng.normal(size=2 * n)
        precision = np.eye(n) + weight @ weight.T / noise**2
        mean = np.linalg.solve(precision, weight @ x / noise**2) + 0.1
        log_sd = -0.5 * jnp.log(jnp.asarray(np.diag(precision)))
        matrix, given = jnp.asarray(weight, jnp.float32), jnp.asarray(x, jnp.float32)

        def log_weight(z, log_q, matrix=matrix, given=given, noise=noise):
            likelihood = dist.Normal(z @ matrix, noise).log_prob(given).sum(-1)
            return likelihood + dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - log_q

        means = {}
        for name, kind in kinds.items():
            rows = draws(kind, Mean(), log_weight, mean, log_sd, seed=seed, count=count)
            found[name].append(float(rows.var(axis=0).mean()))
            means[name] = (rows.mean(axis=0), rows.std(axis=0) / np.sqrt(count))
        difference = means["score function"][0] - means["pathwise"][0]
        error = np.hypot(means["score function"][1], means["pathwise"][1])
        agreement.append(float(np.abs(difference / error).max()))
    return sizes, found, agreement


def signals(seed, count):
    """|mean| / standard deviation of the importance-weighted gradient, by samples and estimator."""
    samples = [1, 2, 5, 10, 20, 50]

    def log_weight(z, log_q):
        joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 0.5).log_prob(0.8)
        return joint[..., 0] - log_q

    kinds = {
        "score function": ScoreFunction,
        "pathwise": Pathwise,
        "doubly reparametrised": DoublyReparametrized,
    }
    log_sd = jnp.log(0.7)
    return samples, {
        name: [
            float(np.abs(rows.mean()) / rows.std())
            for rows in (
                draws(kind(k), LogMeanExp(), log_weight, [0.2], log_sd, seed=seed, count=count)
                for k in samples
            )
        ]
        for name, kind in kinds.items()
    }


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", default="docs/images/gradients.png")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=20_000)
    options = parser.parse_args()
    means, laws = toy_laws(options.seed, options.draws)
    sizes, found, agreement = models(options.seed, options.draws)
    samples, ratios = signals(options.seed, options.draws)
    print("mu", means.tolist(), laws)
    print("latents", sizes, found)
    print("largest difference of means, in standard errors, by latents", agreement)
    print("samples", samples, ratios)

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    fine = np.linspace(0, 3, 100)
    left.plot(fine, fine**4 + 14 * fine**2 + 15, color=COLOURS["score function"])
    left.plot(fine, np.full(100, 4.0), color=COLOURS["pathwise"])
    for name, values in laws.items():
        left.plot(means, values, "o", color=COLOURS[name], label=name)
    left.set(
        yscale="log", xlabel="mean of q", ylabel="variance of one draw", title="f = z²: exact laws, draws"
    )
    for name, values in found.items():
        middle.plot(sizes, values, "o-", color=COLOURS[name], label=name)
    middle.set(xscale="log", yscale="log", xlabel="latents", title="ELBO, linear model", ylabel="variance")
    for name, values in ratios.items():
        right.plot(samples, values, "o-", color=COLOURS[name], label=name)
    right.set(
        xscale="log",
        yscale="log",
        xlabel="samples K",
        ylabel="signal / noise",
        title="importance-weighted bound",
    )
    for axis, ticks in ((middle, sizes), (right, samples)):
        axis.set_xticks(ticks, labels=[str(t) for t in ticks])
        axis.minorticks_off()
    for axis in (left, middle, right):
        axis.legend(fontsize=7, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
