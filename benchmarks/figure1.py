"""Figure 1 of the iVAE paper over many data sets: what u is worth, and what methods without it can recover.

    python benchmarks/figure1.py --seeds 20 --out figure1.json [--picture docs/images/figure1.png]

Two sources, five segments, a mild smooth mixture (`simulate("figure1")`; Khemakhem et al., 2020). Every method runs
with its defaults on the same four fifths of each segment and is scored on the rest, matched on the fitted rows; no
truth is used in fitting or selection. Two sources make scores look high, so the table has what a random
rotation of the true sources scores (null) and what the Bayes oracle does (ceiling). Results are kept in --out, and
finished fits are not run again; a fit that fails is kept with its error.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scored import fit_and_score, known

import identica
from identica.evaluation.matching import match_components
from identica.report.figures import segment_colours, thin

METHODS: dict[str, tuple[str, Callable[..., Any]]] = {
    "ivae": ("IVAE", identica.IVAE),
    "flow": ("FlowICA", identica.FlowICA),
    "tcl": ("TCL", identica.TCL),
    "vae": ("VAE", identica.VAE),
    "beta-vae": ("VAE, β = 4", lambda n, **kw: identica.VAE(n, beta=4.0, **kw)),
    "autoencoder": ("Autoencoder", identica.Autoencoder),
    "adversarial": ("AdversarialICA", identica.AdversarialICA),
    "fastica": ("FastICA", identica.LinearICA),
    "joint-diagonalization": (
        "joint diagonalisation",
        lambda n, **kw: identica.LinearICA(n, method="joint-diagonalization", **kw),
    ),
}
WITH_U = ("ivae", "flow", "tcl", "joint-diagonalization")
_SHOWN = 1500


def main() -> None:
    """Run what is not there yet, print the table, and draw the picture if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of data seeds")
    parser.add_argument("--first", type=int, default=0, help="first data seed")
    parser.add_argument("--methods", default=",".join(METHODS), help="names with commas between them")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    parser.add_argument("--picture", type=Path, help="PNG: sources of the first seed, scores of all")
    parser.add_argument("--max-iter", type=int, help="steps, for a quick look; defaults if omitted")
    arguments = parser.parse_args()
    out: Path = arguments.out
    content = json.loads(out.read_text()) if out.exists() else {"max_iter": arguments.max_iter, "results": {}}
    if content["max_iter"] != arguments.max_iter:
        parser.error(f"{out} holds results with --max-iter {content['max_iter']}; choose another file")
    results = content["results"]
    wanted = [name.strip() for name in arguments.methods.split(",")]
    for name in wanted:
        if name not in METHODS:
            parser.error(f"--methods {name}: choose among {', '.join(METHODS)}")
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for name in ["data", *wanted]:
            key = f"{seed} {name}"
            if key in results:
                continue
            results[key] = (
                known(identica.simulate("figure1", seed=seed))
                if name == "data"
                else fitted(name, seed, arguments.max_iter)
            )
            out.write_text(json.dumps(content) + "\n")
            shown = {k: v for k, v in results[key].items() if k != "sources"}
            print(key, shown, flush=True)
    print(table(results))
    if arguments.picture is not None:
        draw(results, arguments.first).savefig(arguments.picture, dpi=130, metadata={"Software": None})


def fitted(name: str, seed: int, max_iter: int | None) -> dict[str, Any]:
    """Held-out scores of one fit, and a sample of its sources in the order and with the signs of the truth."""
    data = identica.simulate("figure1", seed=seed)
    fit_rows, _ = data.split(0.2)
    options: dict[str, Any] = {} if max_iter is None else {"max_iter": max_iter}
    estimator = METHODS[name][1](2, random_state=0, **options)
    try:
        scored = fit_and_score(estimator, data, with_u=name in WITH_U)
    except identica.IdenticaError as error:
        return {"error": str(error)}
    rows = thin(len(data.X), _SHOWN)
    matched = match_components(data.S[fit_rows], scored.sources[fit_rows]).apply(scored.sources)
    return {
        **scored.scores,
        "seconds": scored.seconds,
        "status": estimator.status_.name.lower(),
        "sources": np.round(matched[rows], 3).tolist(),
    }


def table(results: dict[str, Any]) -> str:
    """Mean and worst score of each method over the seeds that are there."""
    seeds = sorted({int(key.split()[0]) for key in results})
    data = [results[f"{seed} data"] for seed in seeds if f"{seed} data" in results]
    mean = lambda name: float(np.mean([d[name] for d in data]))
    lines = [
        f"\n{len(seeds)} data seeds ({seeds[0]} to {seeds[-1]}), held-out rows",
        "\n| method | u | Pearson, mean | worst | Spearman | within u, mean | worst | fits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (title, _) in METHODS.items():
        found = [results[f"{seed} {name}"] for seed in seeds if f"{seed} {name}" in results]
        done = [r for r in found if "error" not in r]
        if not done:
            continue
        pearson, within = ([r[k] for r in done] for k in ("pearson", "pearson_within"))
        spearman = np.mean([r["spearman"] for r in done])
        lines.append(
            f"| {title} | {'yes' if name in WITH_U else 'no'} | {np.mean(pearson):.3f} | {min(pearson):.3f} | "
            f"{spearman:.3f} | {np.mean(within):.3f} | {min(within):.3f} | {len(done)} of {len(found)} |"
        )
    lines.append(f"| best linear map | | {mean('best_linear'):.3f} | | | | | |")
    lines.append(f"| ceiling | | {mean('ceiling'):.3f} | | | {mean('ceiling_within'):.3f} | | |")
    lines.append(f"| null: a random rotation | | {mean('null'):.3f} | | | {mean('null_within'):.3f} | | |")
    return "\n".join(lines)


def draw(results: dict[str, Any], seed: int) -> Figure:
    """True sources and what each method recovered of one seed, coloured by segment; below, scores of all seeds."""
    data = identica.simulate("figure1", seed=seed)
    rows = thin(len(data.X), _SHOWN)
    panels = [("true sources", None, data.S[rows])]
    for name, (title, _) in METHODS.items():
        result = results.get(f"{seed} {name}")
        if result is not None and "error" not in result:
            panels.append((title, result, np.asarray(result["sources"])))
    columns = -(-len(panels) // 2)
    colours = np.array(segment_colours(int(data.u.max()) + 1), dtype=object)
    order = np.random.default_rng(0).permutation(len(rows))  # no segment lies on top
    with matplotlib.rc_context({"font.size": 11, "font.family": "sans-serif"}):
        figure = Figure(figsize=(2.5 * columns, 9.4), layout="constrained")
        above, below = np.ravel(figure.subfigures(2, 1, height_ratios=[6.1, 3.3]))
        axes = above.subplots(2, columns, squeeze=False).ravel()
        for ax, (title, result, values) in zip(axes, panels, strict=False):
            ax.scatter(
                *values[order].T, s=6, c=colours[data.u[rows][order]].tolist(), linewidths=0, alpha=0.7
            )
            low, high = np.percentile(values, [0.5, 99.5], axis=0)
            margin = 0.08 * (high - low)
            ax.set(
                xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1])
            )
            ax.set(xticks=[], yticks=[])
            score = "" if result is None else f"\nMCC {result['pearson']:.3f}"
            ax.set_title(f"{title}{score}", fontsize=11, fontweight="bold" if result is None else "normal")
            ax.set_box_aspect(1)
            for spine in ax.spines.values():
                spine.set(color="#b9bec6", linewidth=0.8)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        _draw_scores(below.subplots(), results)
    return figure


def _draw_scores(ax: Axes, results: dict[str, Any]) -> None:
    """One dot for each method and data set, and what a random rotation of the true sources scores."""
    names = [name for name in METHODS if any(key.endswith(f" {name}") for key in results)]
    seeds = sorted({int(key.split()[0]) for key in results})
    for place, name in enumerate(names):
        scores = [
            r["pearson_within"]
            for s in seeds
            if "error" not in (r := results.get(f"{s} {name}", {"error": ""}))
        ]
        spread = np.linspace(-0.16, 0.16, len(scores)) if len(scores) > 1 else np.zeros(len(scores))
        ax.scatter(
            place + spread,
            scores,
            s=26,
            color="#3b6fb6" if name in WITH_U else "#c2703d",
            linewidths=0,
            alpha=0.8,
        )
    null = float(np.mean([results[f"{s} data"]["null_within"] for s in seeds if f"{s} data" in results]))
    ax.axhline(null, color="#6b7280", linewidth=0.9, linestyle="--")
    ax.text(
        len(names) - 0.5,
        null - 0.012,
        "random rotation of the truth",
        ha="right",
        va="top",
        color="#6b7280",
        fontsize=9,
    )
    ax.set_xticks(
        range(len(names)),
        [METHODS[name][0] + ("\nwith u" if name in WITH_U else "\nwithout u") for name in names],
    )
    ax.set(ylabel="MCC within segments", xlim=(-0.5, len(names) - 0.5), ylim=(None, 1.015))
    ax.set_title(f"{len(seeds)} data sets", fontsize=11, loc="left", fontweight="bold")
    ax.tick_params(axis="x", length=0, labelsize=9.5)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


if __name__ == "__main__":
    main()
