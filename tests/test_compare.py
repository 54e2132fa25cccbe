"""`identica compare`: one split for all methods, scores that can be had by hand, a ranked table."""

import json

import numpy as np
import pandas as pd
import pytest

import identica
from conftest import make_rows
from identica.cli import compare_methods, main
from identica.cli.compare_methods import METHODS, Method, chosen_methods
from identica.cli.output import UsageError
from identica.report.comparison import comparison_table, draw_comparison


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rows = make_rows(n_columns=2, n_segments=4, n_per_segment=100)
    frame = pd.DataFrame(np.column_stack([rows.X, rows.S]), columns=["x1", "x2", "s1", "s2"])
    frame["u"] = rows.u
    path = tmp_path_factory.mktemp("compare") / "rows.csv"
    frame.to_csv(path, index=False)
    return path


def compare(capsys, *tokens, code=0):
    capsys.readouterr()
    assert main(["compare", *map(str, tokens), "--json"]) == code
    said = capsys.readouterr()
    return json.loads(said.out), said.err


LINEAR = ("--methods", "fastica,joint-diagonalization")


def test_scores_are_those_of_the_estimator_on_rows_that_it_has_not_seen(table, tmp_path, capsys):
    content, said = compare(capsys, table, "--u", "u", "--truth", "s*", *LINEAR, "--out", tmp_path / "c")
    settings = content["settings"]
    assert (settings["n_fitted"], settings["n_held_out"], settings["columns"]) == (320, 80, ["x1", "x2"])
    values = [method["log_likelihood"]["value"] for method in content["methods"]]
    assert values == sorted(values, reverse=True)
    frame = pd.read_csv(table)
    by_name = {method["method"]: method for method in content["methods"]}
    # The same split by hand.
    from identica.cli.checks import check_table
    from identica.cli.compare_runs import Comparison
    from identica.cli.tables import read_table

    selection = check_table(read_table(table), u=["u"], drop=["s*"])
    shared = {"components": 2, "likelihood": "gaussian", "budget": {}, "digest": ""}
    split = Comparison.of(selection, None, held_out=0.2, seed=0, **shared)
    assert not set(split.fit_rows) & set(split.held_out)
    assert (frame.u.iloc[split.held_out].value_counts() == 20).all()
    X, S = frame[["x1", "x2"]], frame[["s1", "s2"]].to_numpy()
    expected = identica.LinearICA(2, random_state=0).fit(X.iloc[split.fit_rows])
    fastica = by_name["fastica"]
    scores = expected.score_samples(X.iloc[split.held_out])
    assert fastica["log_likelihood"]["value"] == pytest.approx(scores.mean(), abs=1e-6)
    assert fastica["log_likelihood"]["standard_error"] == pytest.approx(
        scores.std(ddof=1) / np.sqrt(80), rel=1e-6
    )
    mcc = identica.metrics.mcc(S, expected.transform(X), fit_rows=split.fit_rows)
    assert fastica["mcc"]["pearson"] == pytest.approx(mcc, abs=1e-6)
    assert by_name["joint-diagonalization"]["takes_u"]
    assert "p(x|u)" in said
    assert fastica["gap"] is None
    written = {path.name for path in (tmp_path / "c").iterdir()}
    assert written == {"comparison.json", "comparison.md", "comparison.png"}
    assert (tmp_path / "c" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert f"{fastica['mcc']['pearson']:.4f}" in (tmp_path / "c" / "comparison.md").read_text()


def test_a_failure_is_told_and_the_others_go_on(table, capsys, monkeypatch):
    class Broken(identica.LinearICA):
        def fit(self, X, y=None, *, u=None, sequence=None):
            raise identica.DataError("no such luck")

    monkeypatch.setattr(identica, "FlowICA", Broken)
    content, said = compare(capsys, table, "--u", "u", "--drop", "s*", "--methods", "flow,fastica")
    assert [method["method"] for method in content["methods"]] == ["fastica", "flow"]
    assert content["methods"][1]["status"] == "failed"
    assert "flow failed: no such luck" in said
    assert "MCC" not in said


def test_finished_methods_are_not_run_again(table, tmp_path, capsys, monkeypatch):
    first = ("--u", "u", "--drop", "s*", "--out", tmp_path / "c")
    before, _ = compare(capsys, table, *first, "--methods", "fastica")
    content, said = compare(capsys, table, *first, *LINEAR)
    assert "1 finished methods are taken" in said
    seconds = {method["method"]: method["seconds"] for method in content["methods"]}
    assert seconds["fastica"] == before["methods"][0]["seconds"]
    message = compare(capsys, table, *first, *LINEAR, "--seed", 3, code=3)[0]["error"]["message"]
    assert "other settings (seed)" in message


def test_true_columns_reach_no_method(table, capsys):
    content, _ = compare(capsys, table, "--u", "u", "--truth", "s1,s2", "--methods", "fastica")
    assert content["settings"]["columns"] == ["x1", "x2"]


@pytest.mark.parametrize(
    ("tokens", "code", "words"),
    [
        (["--methods", "tsne"], 2, "there is no such method"),
        (["--methods", "flow"], 2, "add --u COLUMN"),
        (["--likelihood", "poisson", "--methods", "fastica"], 2, "no --likelihood poisson"),
        (["--u", "u", "--windows", "3"], 2, "choose one"),
        (["--truth", "t"], 3, "no such column"),
    ],
)
def test_wrong_options_are_explained(table, tokens, code, words, capsys):
    assert words in compare(capsys, table, *tokens, code=code)[0]["error"]["message"]


def test_every_method_exists_and_suits_what_it_is_run_on():
    for method in METHODS:
        assert set(method.options) <= set(getattr(identica, method.estimator)._get_param_names())
    without = {m.name for m in chosen_methods(None, has_u=False, likelihood="gaussian")}
    assert {"fastica", "vae"} <= without
    assert not without & {"flow", "ivae", "joint-diagonalization"}
    counts = {m.name for m in chosen_methods(["all"], has_u=True, likelihood="poisson")}
    assert {"ivae", "vae"} <= counts
    assert not counts & {"fastica", "flow"}
    with pytest.raises(UsageError, match="order of time"):
        compare_methods.chosen_methods(["later"], **WITH_LATER)


LATER = Method("later", "LinearICA", needs="sequence")
WITH_LATER = {"has_u": True, "likelihood": "gaussian"}


@pytest.fixture(autouse=True)
def with_a_method_that_needs_time(monkeypatch):
    monkeypatch.setattr(compare_methods, "METHODS", (*METHODS, LATER))


def result(**changes):
    nothing = dict.fromkeys(("log_likelihood", "bound", "gap", "mcc", "seconds", "peak_memory_mib", "error"))
    return {"method": "a", "takes_u": False, "status": "converged", "warnings": [], **nothing, **changes}


def test_table_marks_bounds_and_leaves_out_what_nobody_has():
    score = {"value": -1.23456, "standard_error": 0.01, "kind": "lower"}
    scored = result(log_likelihood=score, bound=-1.5, gap=0.26544, takes_u=True)
    header, rows = comparison_table([scored, result(method="b")])
    assert header == ["method", "density of", "nats per row", "bound", "gap", "status"]
    assert rows[0] == ["a", "x given u", "≥ -1.235 ± 0.010", "-1.500", "0.265", "converged"]
    assert rows[1][1:3] == ["–", "–"]
    assert len(draw_comparison([scored, result(method="b")]).axes) == 1
    assert len(draw_comparison([result(mcc={"pearson": 0.5, "spearman": 0.5})]).axes) == 2
