"""Benchmarks beside published numbers: the numbers, the scoring, the summary, the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import identica
from identica.cli import main, reproduce_runs
from identica.cli.reproduce_curves import curve_points
from identica.cli.reproduce_runs import OURS, Case, Data, cases_of, draw
from identica.errors import DataError, NonFiniteError
from identica.evaluation.baselines import best_linear, chance, u_only
from identica.evaluation.protocol import null_scores, score_best_linear, score_estimate, score_u_only
from identica.evaluation.published import CAVEATS, MARKS, SCORES, published_scores
from identica.report.reproduction import markdown, measured_table, read_runs, summarise, write_json
from identica.simulation.scenarios import scenario_options


class StandIn(identica.LinearICA):
    """Linear ICA in place of FlowICA, which takes long to compile."""

    def __init__(self, n_components=None, *, max_iter=100, n_restarts=8, random_state=None, callbacks=None):
        super().__init__(n_components, max_iter=max_iter, random_state=random_state, callbacks=callbacks)
        self.n_restarts = n_restarts


class Broken(StandIn):
    """A fit that never has a finite objective."""

    def fit(self, X, y=None, *, u=None, sequence=None):
        raise NonFiniteError("no restart was finite")


TINY = ("--layers", "2", "--segments", "4", "--rows", "60")


def reproduce(capsys, *tokens, code=0):
    """Exit code checked; the JSON object on standard output, and standard error."""
    capsys.readouterr()
    assert main(["reproduce", *map(str, tokens), "--json"]) == code
    said = capsys.readouterr()
    return json.loads(said.out), said.err


# Published numbers ------------------------------------------------------------------------------------


def test_published_scores_belong_to_settings_that_can_be_simulated():
    for score in SCORES:
        assert score.setting.keys() <= scenario_options(score.benchmark).keys()
        assert 0 <= score.value <= 1
        assert score.sd is None or 0 < score.sd < 0.2
        assert score.mark in MARKS
        assert score.source
        assert score.scoring.startswith("in sample")
    keys = [(s.benchmark, s.method, str(s.setting), s.score, s.scoring, s.source) for s in SCORES]
    assert len(set(keys)) == len(keys)
    assert CAVEATS.keys() == set(reproduce_runs.NAMES)


def test_digitised_curves_rise_with_the_rows():
    # Every curve of the figure does; a mistyped digit seldom would.
    digitised = [score for score in SCORES if score.mark == "F"]
    assert len(digitised) == 4 * 3 * 5
    curves = {}
    for score in digitised:
        key = (score.benchmark, score.setting["layers"], score.method)
        curves.setdefault(key, []).append((score.setting["n_per_segment"], score.value))
    for points in curves.values():
        assert [rows for rows, _ in points] == [100, 200, 500, 1000, 2000]
        assert (np.diff([value for _, value in points]) > 0).all()


def test_the_page_of_benchmarks_prints_the_same_numbers():
    page = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    sections = {part.split("\n")[0]: part for part in page.split("\n### ")}
    for score in (s for s in SCORES if s.mark in ("T", "F")):
        lines = [line for line in sections[score.benchmark].split("\n") if f"| {score.method} |" in line]
        assert any(f"| {score.value:.3f}" in line for line in lines)


@pytest.mark.parametrize("name", ["icebeem", "imca", "iflow", "ivae", "tcl"])
def test_the_full_run_has_the_published_setting(name):
    for case in cases_of(name, quick=False, layers=None, segments=None, rows=None):
        scores, same = published_scores(name, case.options)
        assert same
        assert len(scores) >= 3
        smaller, same = published_scores(name, {**case.options, "n_per_segment": 7})
        assert not same
        assert {s.setting["n_per_segment"] for s in smaller} == {case.options["n_per_segment"]}
    assert published_scores(name, {**case.options, "layers": 9}) == ([], False)


def test_icebeem_is_run_behind_two_and_four_layers():
    cases = cases_of("icebeem", quick=False, layers=None, segments=None, rows=None)
    assert [case.options["layers"] for case in cases] == [2, 4]
    tables = [published_scores("icebeem", case.options)[0] for case in cases]
    values = [[s.value for s in table if s.mark == "F"] for table in tables]
    assert values == [[0.939, 0.918, 0.901], [0.807, 0.737, 0.833]]
    quick = cases_of("icebeem", quick=True, layers=None, segments=None, rows=None)
    assert published_scores("icebeem", quick[0].options)[1]


# Scoring ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    """The iFlow generator, small: means that move with u."""
    simulation = identica.simulate("iflow", seed=3, n_segments=10, n_per_segment=80)
    return simulation, simulation.split(0.2, 3)[0]


def test_linear_and_u_only_rows_equal_the_baseline_functions(data):
    simulation, fit = data
    linear = score_best_linear(simulation.X, simulation.S, simulation.u, fit)
    means = score_u_only(simulation.S, simulation.u, fit)
    X, S, u = simulation.X, simulation.S, simulation.u
    assert linear["pearson"]["held_out"] == pytest.approx(best_linear(X, S, fit_rows=fit), abs=1e-12)
    assert linear["pearson"]["in_sample"] == pytest.approx(best_linear(X[fit], S[fit]), abs=1e-12)
    assert means["pearson"]["held_out"] == pytest.approx(u_only(S, u, fit_rows=fit), abs=1e-12)
    assert means["pearson"]["in_sample"] == pytest.approx(u_only(S[fit], u[fit]), abs=1e-12)
    assert means["pearson_within"] == means["spearman_within"] == {"in_sample": 0.0, "held_out": 0.0}


def test_best_linear_within_u_is_fitted_after_centring(data):
    simulation, fit = data
    X, S, u = simulation.X, simulation.S, simulation.u
    # Indicator columns of the segments do the centring (Frisch, Waugh and Lovell).
    dummies = np.eye(10)[u[fit]]
    weights = np.linalg.lstsq(np.hstack([X[fit], dummies]), S[fit], rcond=None)[0]
    residual = S[fit] - np.hstack([X[fit], dummies]) @ weights
    inner = S[fit] - dummies @ np.linalg.lstsq(dummies, S[fit], rcond=None)[0]
    expected = np.sqrt(1 - (residual**2).sum(0) / (inner**2).sum(0)).mean()
    scores = score_best_linear(X, S, u, fit)
    # Centring uses all rows of a segment, the regression here the fitted ones only: hence the tolerance.
    assert scores["pearson_within"]["in_sample"] == pytest.approx(expected, abs=2e-3)


def test_matching_is_fixed_on_the_fitted_rows():
    rng = np.random.default_rng(0)
    S = rng.standard_normal((400, 3))
    u = np.repeat(np.arange(4), 100)
    fit = np.arange(400) % 2 == 0
    swapped = -(S[:, [1, 2, 0]] ** 3)
    swapped[~fit] = S[~fit]  # right on the held-out rows, but under another matching
    scores = score_estimate(S, swapped, u, fit, transformed="magnitudes")
    assert scores["spearman"]["in_sample"] == pytest.approx(1)
    assert scores["pearson"]["in_sample"] < 0.9
    assert all(score["held_out"] < 0.25 for score in scores.values())
    squares = score_estimate(S, -S + 4, u, fit, transformed="squares")["pearson_squares"]
    assert squares["held_out"] == pytest.approx(1)
    with pytest.raises(DataError, match="squares"):
        score_estimate(S, S, u, fit, transformed="cubes")


def test_nulls_belong_to_the_held_out_rows():
    rng = np.random.default_rng(0)
    S, u = rng.standard_normal((3000, 5)), np.repeat(np.arange(3), 1000)
    null = null_scores(S + 50 * u[:, None], u, np.arange(3000) % 6 != 0)
    assert null["chance"] == pytest.approx(0.064, abs=0.004)  # 500 rows, five components
    assert null["rotation_within"] == pytest.approx(0.73, abs=0.03)
    # Pooled, all sources are nearly one: |cosine| between a random and a fixed direction in five dimensions.
    assert null["rotation"] == pytest.approx(0.375, abs=0.04)
    assert null["rotation_upper"] > null["rotation"]


@pytest.mark.parametrize("layers", [2, 4])
def test_linear_ica_scores_what_was_recomputed_elsewhere(layers):
    """The generator, joint diagonalisation and scoring against numbers from other code."""
    (case,) = cases_of("icebeem", quick=False, layers=[layers], segments=None, rows=500)
    values = []
    for seed in range(3):
        drawn = draw(case, seed)
        ica = identica.LinearICA(5, method="joint-diagonalization", validation_fraction=0.0)
        estimate = ica.fit(drawn.X, u=drawn.u).transform(drawn.X)
        scores = score_estimate(drawn.S, estimate, drawn.u, drawn.fit_rows, transformed=case.transformed)
        values.append([scores[key]["in_sample"] for key in ("pearson", "pearson_squares")])
    published = published_scores("icebeem", {**case.options, "n_per_segment": 2000})[0]
    expected = {
        s.score: s.value for s in published if s.method == "joint diagonalisation" and "20" in s.scoring
    }
    # Behind four layers the standard deviation between data sets is 0.02, and larger for squares.
    measured = np.mean(values, axis=0)
    assert measured[0] == pytest.approx(expected["pearson"], abs=0.03)
    assert measured[1] == pytest.approx(expected["pearson_squares"], abs=0.05)


# Data -------------------------------------------------------------------------------------------------


def test_photographs_are_drawn_from_every_block():
    (case,) = cases_of("photographs", quick=False, layers=None, segments=None, rows=10)
    drawn = draw(case, 2)
    assert (np.bincount(drawn.u[drawn.fit_rows]) == 10).all()
    assert len(np.intersect1d(drawn.fit_rows, drawn.held_out)) == 0
    assert len(drawn.fit_rows) + len(drawn.held_out) == len(drawn.X) == 420 * 630
    assert not np.array_equal(drawn.fit_rows, draw(case, 3).fit_rows)


def test_seeds_have_mixings_of_their_own_and_rows_leave_them():
    small, large = Case("a", "icebeem", {"n_per_segment": 10}), Case("b", "icebeem", {"n_per_segment": 20})
    a, b, c = draw(small, 0), draw(small, 1), draw(large, 0)
    matrix = [identica.simulate("icebeem", seed=seed, n_per_segment=10).mixing.matrices[0] for seed in (0, 1)]
    assert not np.allclose(*matrix)
    assert len(a.held_out) == 40
    assert len(c.held_out) == 80
    assert a.ceiling == b.ceiling == 1


# Summary ----------------------------------------------------------------------------------------------


def made_up_run(seed, value, seconds):
    scores = {"pearson": {"in_sample": value + 0.1, "held_out": value}}
    return {
        "case": "a",
        "seed": seed,
        "n_fitted": 80,
        "n_held_out": 20,
        "methods": {
            OURS: {"scores": scores, "seconds": seconds, "status": "converged"},
            "u only": {"scores": {"pearson": {"in_sample": 0.1, "held_out": 0.1}}},
        },
        "null": {"chance": 0.1, "rotation": 0.7, "rotation_upper": 0.8, "rotation_within": 0.7},
        "ceiling": 1.0,
        "peak_memory_mib": 100.0 + seed,
        "machine": {},
    }


def test_summary_has_mean_worst_and_standard_deviation():
    runs = [made_up_run(1, 0.5, 4.0), made_up_run(0, 0.8, 2.0), made_up_run(2, 0.8, 3.0)]
    summary = summarise(runs)
    ours = summary["methods"][OURS]
    held_out = ours["scores"]["pearson"]["held_out"]
    assert held_out["values"] == [0.8, 0.5, 0.8]
    assert (held_out["mean"], held_out["worst"]) == (pytest.approx(0.7), 0.5)
    assert held_out["sd"] == pytest.approx(np.sqrt(0.03))
    assert ours["seconds"] == {"mean": 3.0, "worst": 4.0}
    assert summary["peak_memory_mib"] == 102.0
    assert "seconds" not in summary["methods"]["u only"]
    header, rows = measured_table(summary)
    assert rows[0] == [OURS, "0.700 (0.173)", "0.500", "0.800", "3.0"]
    assert all(len(row) == len(header) for row in rows)
    text = markdown([("a", "note", [(header, rows)])])
    assert f"| {OURS} | 0.700 (0.173) | 0.500 | 0.800 | 3.0 |" in text
    assert summarise(runs[:1])["methods"][OURS]["scores"]["pearson"]["held_out"]["sd"] is None


def test_stored_runs_of_other_settings_are_not_mixed(tmp_path):
    assert read_runs(tmp_path, {"name": "a"}) == []
    runs = [made_up_run(0, 0.5, 1.0)]
    write_json(tmp_path, {"settings": {"name": "a", "rows": 3}, "runs": runs})
    assert read_runs(tmp_path, {"name": "a", "rows": 3}) == runs
    with pytest.raises(DataError, match=r"\(rows\)"):
        read_runs(tmp_path, {"name": "a", "rows": 4})
    (tmp_path / "reproduction.json").write_text('{"format": 1, "settings"')
    with pytest.raises(DataError, match="damaged"):
        read_runs(tmp_path, {"name": "a"})


# The command ------------------------------------------------------------------------------------------


def test_flow_is_fitted_and_scored(tmp_path, capsys):
    tokens = ("icebeem", *TINY, "--seeds", 1, "--max-iter", 10, "--restarts", 1, "--out", tmp_path / "r")
    content, said = reproduce(capsys, *tokens)
    assert (content["schema"], content["command"], content["name"]) == (1, "reproduce", "icebeem")
    (case,) = content["cases"]
    assert case["options"]["n_segments"] == 4
    assert (case["n_fitted"], case["n_held_out"], case["seeds"]) == (192, 48, [0])
    # The same fit by hand, from the options that the object names.
    simulation = identica.simulate("icebeem", seed=0, **case["options"])
    fit = simulation.split(0.2, 0)[0]
    parameters = content["settings"]["estimator"]["parameters"]
    assert parameters["prior"] == identica.FlowICA().prior
    flow = identica.FlowICA(5, max_iter=10, n_restarts=1, random_state=0)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        flow.fit(simulation.X[fit], u=simulation.u[fit])
    estimate = flow.transform(simulation.X)
    scores = case["methods"][OURS]["scores"]
    for method in ("pearson", "spearman"):
        expected = identica.metrics.mcc(simulation.S, estimate, method=method, fit_rows=fit)
        assert scores[method]["held_out"]["mean"] == pytest.approx(expected, abs=1e-5)
    assert not case["published"]["same_setting"]
    assert {score["value"] for score in case["published"]["scores"]} >= {0.939, 0.918, 0.901}
    assert "no comparison is possible" in said
    assert content["machines"][0]["cores"] >= 1
    assert case["peak_memory_mib"] > 50
    assert (tmp_path / "r" / "reproduction.png").read_bytes().startswith(b"\x89PNG")
    assert "| ICE-BeeM | Pearson | 0.939 | F |" in (tmp_path / "r" / "reproduction.md").read_text()
    stored = json.loads((tmp_path / "r" / "reproduction.json").read_text())
    assert stored["runs"] == content["runs"]


def test_finished_seeds_are_not_run_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(identica, "FlowICA", StandIn)
    out = tmp_path / "r"
    seeds = []
    run_seed = reproduce_runs.run_seed

    def counting(case, seed, *rest):
        seeds.append(seed)
        if len(seeds) == 3:
            raise KeyboardInterrupt
        return run_seed(case, seed, *rest)

    monkeypatch.setattr(reproduce_runs, "run_seed", counting)
    content, _ = reproduce(capsys, "imca", *TINY, "--seeds", 5, "--out", out, code=130)
    assert "2 finished fits are kept" in content["error"]["message"]
    content, said = reproduce(capsys, "imca", *TINY, "--seeds", 3, "--out", out)
    assert seeds == [0, 1, 2, 2]
    assert content["cases"][0]["seeds"] == [0, 1, 2]
    assert "2 finished fits are taken" in said
    assert len(content["cases"][0]["methods"]["FastICA"]["scores"]["pearson"]["held_out"]["values"]) == 3
    content, _ = reproduce(capsys, "imca", *TINY[:-1], 50, "--seeds", 3, "--out", out, code=3)
    assert "other settings (cases)" in content["error"]["message"]
    assert seeds == [0, 1, 2, 2]


def test_failed_fits_count_as_chance(capsys, monkeypatch):
    monkeypatch.setattr(identica, "FlowICA", Broken)
    content, said = reproduce(capsys, "iflow", "--segments", 4, "--rows", 60, "--seeds", 1)
    ours = content["cases"][0]["methods"][OURS]
    assert ours["statuses"] == ["failed"]
    assert ours["scores"]["pearson"]["held_out"]["mean"] == pytest.approx(chance(5, 48).mean)
    assert "1 of 3 fits failed and count as chance" in said


def test_photographs_have_no_published_scores(capsys, monkeypatch):
    monkeypatch.setattr(identica, "FlowICA", StandIn)
    everything = reproduce_runs._draw_photographs

    def fewer(case, seed):
        """All fitted pixels and a few of the others, to score fewer."""
        data = everything(case, seed)
        rows = np.concatenate([data.fit_rows, data.held_out[::200]])
        fit, held_out = np.arange(len(data.fit_rows)), np.arange(len(data.fit_rows), len(rows))
        return Data(data.X[rows], data.u[rows], data.S[rows], fit, held_out, data.ceiling)

    monkeypatch.setattr(reproduce_runs, "_draw_photographs", fewer)
    content, said = reproduce(capsys, "photographs", "--rows", 5, "--seeds", 1)
    (case,) = content["cases"]
    assert case["published"]["scores"] == []
    assert case["methods"]["best linear map"]["scores"]["pearson"]["held_out"]["mean"] > 0.9
    assert "Nobody has published" in said


@pytest.mark.parametrize("quick", [True, False])
def test_every_point_of_a_curve_can_be_drawn(quick):
    for point in curve_points(quick=quick):
        options = {**point.case.options, "n_per_segment": 5}
        data = identica.simulate(point.case.scenario, seed=0, **options)
        assert data.S.shape[1] == point.case.options["n_components"]


def test_curves_move_one_thing_at_a_time():
    points = curve_points(quick=False)
    base = next(p.case for p in points if p.axis == "noise, share of sd(x)" and p.value == 0)
    for point in points:
        moved = {k for k, v in point.case.options.items() if v != base.options[k]} | set(point.case.budget)
        assert len(moved - {"n_segments"} or moved) <= 1
        assert point.value in (*point.case.options.values(), *point.case.budget.values(), 8)
    assert {p.axis for p in points if p.case.title == base.title} >= {"rows per segment", "restarts"}


def test_curves_are_drawn_and_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(identica, "FlowICA", StandIn)
    content, said = reproduce(capsys, "curves", "--quick", "--seeds", 2, "--out", tmp_path)
    assert len(content["cases"]) == 3  # two curves of two points, one of which they share
    clean, noisy = (
        next(c for c in content["cases"] if ("noise 0.1" in c["case"]) == noise and "100 rows" in c["case"])
        for noise in (False, True)
    )
    assert noisy["ceiling"] < clean["ceiling"] == 1
    score = clean["methods"][OURS]["scores"]["pearson"]["held_out"]
    table = (tmp_path / "reproduction.md").read_text()
    assert f"| 100 | {score['mean']:.3f} | {score['worst']:.3f} |" in table
    assert f"| 0 | {score['mean']:.3f} | {score['worst']:.3f} |" in table
    assert "rows per segment" in said
    assert (tmp_path / "reproduction.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["mnist"], "choose one of icebeem"),
        (["icebeem", "--seeds", "0"], "at least 1"),
        (["photographs", "--layers", "2"], "only --rows"),
        (["photographs", "--rows", "900"], "2 to 899"),
        (["curves", "--rows", "900"], "move every size"),
    ],
)
def test_wrong_options_are_explained(tokens, words, capsys):
    assert words in reproduce(capsys, *tokens, code=2)[0]["error"]["message"]


def test_foreign_folders_are_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("")
    message = reproduce(capsys, "icebeem", "--out", tmp_path, code=2)[0]["error"]["message"]
    assert "other things" in message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_quick_run_beats_linear_ica_and_the_published_scores(capsys):
    content, _ = reproduce(capsys, "icebeem", "--quick")
    for case in content["cases"]:
        values = {name: m["scores"]["pearson"]["held_out"]["mean"] for name, m in case["methods"].items()}
        assert values[OURS] > max(values[name] for name in ("FastICA", "joint diagonalisation")) + 0.05
        signed = [s for s in case["published"]["scores"] if s["score"] == "pearson" and s["mark"] == "F"]
        assert len(signed) == 2
        assert values[OURS] > max(s["value"] for s in signed)
