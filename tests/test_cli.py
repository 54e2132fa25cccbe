"""The command line: every command executed, its files, its JSON and its exit codes."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import identica
from conftest import run_json
from identica.cli import main
from identica.cli import progress as progress_module
from identica.cli.output import plain
from identica.metrics import mcc
from identica.training.progress import Progress


@pytest.fixture(scope="module")
def linear_run(table, tmp_path_factory):
    """A finished run of linear ICA."""
    folder = tmp_path_factory.mktemp("runs") / "linear"
    assert (
        main(["fit", str(table), "--u", "u", "--drop", "s*", "--method", "linear", "--out", str(folder)]) == 0
    )
    return folder


@pytest.mark.parametrize("tokens", [["--help"], ["fit", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(tokens):
    code = (
        f"import sys; from identica.cli import main; main({tokens}); "
        "print([m for m in ('jax', 'sklearn', 'pandas', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_every_command(capsys):
    main(["--help"])
    out = capsys.readouterr().out
    for command in ("demo", "fit", "transform", "evaluate", "sample", "simulate", "inspect", "report"):
        assert re.search(rf"\b{command}\b", out)
        assert main([command, "--help"]) == 0


def test_entry_point_is_installed(table, tmp_path):
    script = Path(sys.executable).with_name("identica")
    if not script.exists():
        pytest.skip("the package is not installed with its console script")
    done = subprocess.run(
        [script, "transform", tmp_path, table, "--out", tmp_path / "a.csv"], capture_output=True
    )
    assert done.returncode == 3
    assert done.stdout == b""
    assert b"has no run.json" in done.stderr
    assert b"Traceback" not in done.stderr


def test_fit_writes_a_run(table, linear_run, capsys):
    names = {path.name for path in linear_run.iterdir()}
    assert names == {
        "model", "sources.csv", "report.html", "report.json", "history.jsonl", "run.json", "config.toml"
    }  # fmt: skip
    record = json.loads((linear_run / "run.json").read_text())
    assert record["status"] == "done"
    assert record["columns"] == ["x1", "x2", "x3"]
    assert record["u"] == ["u"]
    assert record["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert record["versions"]["identica"] == identica.__version__
    data, sources = pd.read_csv(table), pd.read_csv(linear_run / "sources.csv")
    assert list(sources.columns) == ["linearica0", "linearica1", "linearica2", "u"]
    assert sources["u"].tolist() == data["u"].tolist()
    # The same numbers as the library gives.
    x = data[["x1", "x2", "x3"]]
    library = identica.LinearICA(method="joint-diagonalization", random_state=0).fit(x, u=data["u"])
    np.testing.assert_allclose(sources.to_numpy()[:, :3], library.transform(x), rtol=1e-6)
    held_out = library.held_out_rows_
    scores = library.score_samples(x.iloc[held_out], u=data["u"].iloc[held_out])
    report = json.loads((linear_run / "report.json").read_text())
    assert report["held_out"]["model"]["mean"] == pytest.approx(scores.mean(), rel=1e-6)
    history = [json.loads(line) for line in (linear_run / "history.jsonl").read_text().splitlines()]
    assert len(history) == len(library.history_["step"])


def test_config_file_sets_options_and_flags_win(table, linear_run, tmp_path, capsys):
    stored = tomllib.loads((linear_run / "config.toml").read_text())
    assert stored["method"] == "linear"
    assert stored["u"] == ["u"]
    content = run_json(
        capsys, "fit", "--config", linear_run / "config.toml", "--out", tmp_path / "again", "--seed", "5"
    )
    assert content["seed"] == 5
    again = tomllib.loads((tmp_path / "again" / "config.toml").read_text())
    assert again | {"seed": 0, "out": stored["out"]} == stored
    nested = tmp_path / "nested.toml"
    nested.write_text(
        f'[fit]\nmethod = "linear"\nu = ["u"]\ndrop = "s*"\ntable = "{table}"\n[sample]\nn = 7\n'
    )
    assert main(["fit", "--config", str(nested), "--out", str(tmp_path / "nested")]) == 0
    assert main(["sample", str(linear_run), "--config", str(nested), "--out", str(tmp_path / "n.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "n.csv")) == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methd = 'linear'", "methd"),
        ("method = 'liner'", "liner"),
        ("method = ", "is not TOML"),
        ("fit = 3", "must be a table"),
    ],
)
def test_broken_config_files_are_usage_errors(table, tmp_path, capsys, text, said):
    config = tmp_path / "c.toml"
    config.write_text(text)
    assert main(["fit", str(table), "--u", "u", "--config", str(config), "--out", str(tmp_path / "r")]) == 2
    assert said in capsys.readouterr().err


def test_transform_finds_columns_by_name(table, linear_run, tmp_path, capsys):
    data = pd.read_csv(table)
    shuffled = data[["s2", "x3", "x1", "x2"]].assign(extra="text")
    shuffled.to_csv(tmp_path / "new.csv", index=False)
    content = run_json(capsys, "transform", linear_run, tmp_path / "new.csv", "--out", tmp_path / "new.npz")
    assert content["sources"] == ["linearica0", "linearica1", "linearica2"]
    with np.load(tmp_path / "new.npz") as archive:
        recovered = np.stack([archive[name] for name in archive.files], axis=1)
    np.testing.assert_array_equal(recovered, pd.read_csv(linear_run / "sources.csv").to_numpy()[:, :3])
    data.drop(columns="x2").to_csv(tmp_path / "less.csv", index=False)
    failed = run_json(
        capsys, "transform", linear_run, tmp_path / "less.csv", "--out", tmp_path / "a.csv", code=3
    )
    assert "lacks x2" in failed["error"]["message"]
    assert failed["exit_code"] == 3
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("ending", ["csv", "tsv", "npz", "parquet"])
def test_outputs_can_be_read_back(table, linear_run, tmp_path, ending):
    out = tmp_path / f"sources.{ending}"
    assert main(["transform", str(linear_run), str(table), "--out", str(out)]) == 0
    from identica.cli.tables import read_table

    written = read_table(out).frame
    np.testing.assert_array_equal(written, pd.read_csv(linear_run / "sources.csv")[written.columns])


def test_evaluate_gives_the_librarys_scores(table, linear_run, tmp_path, capsys):
    content = run_json(
        capsys, "evaluate", linear_run, table, "--truth", "s1,s2,s3", "--out", tmp_path / "rows.csv"
    )
    data, model = pd.read_csv(table), identica.load(linear_run / "model")
    x = data[["x1", "x2", "x3"]]
    rows = model.score_samples(x, u=data["u"])
    assert content["training_table"] is True
    assert content["log_likelihood"]["mean"] == pytest.approx(rows.mean())
    assert content["log_likelihood"]["standard_error"] == pytest.approx(rows.std(ddof=1) / np.sqrt(len(rows)))
    np.testing.assert_allclose(pd.read_csv(tmp_path / "rows.csv")["log_likelihood"], rows)
    truth, estimate = data[["s1", "s2", "s3"]].to_numpy(), model.transform(x)
    assert content["mcc"]["pearson"] == pytest.approx(mcc(truth, estimate))
    assert content["mcc"]["spearman"] == pytest.approx(mcc(truth, estimate, method="spearman"))
    assert content["mcc"]["pearson_within_u"] == pytest.approx(mcc(truth, estimate, within=data["u"]))
    data[["s1", "s2", "s3"]].to_csv(tmp_path / "truth.csv", index=False)
    other = run_json(capsys, "evaluate", linear_run, table, "--truth", tmp_path / "truth.csv")
    assert other["mcc"] == content["mcc"]
    data[["s1"]][:10].to_csv(tmp_path / "short.csv", index=False)
    run_json(capsys, "evaluate", linear_run, table, "--truth", tmp_path / "short.csv", code=2)


def test_evaluate_takes_a_method(table, linear_run, capsys):
    plain = run_json(capsys, "evaluate", linear_run, table)
    exact = run_json(capsys, "evaluate", linear_run, table, "--method", "exact")
    assert (exact["method"], exact["kind"], exact["integration_error"]) == ("exact", "exact", 0)
    assert exact["log_likelihood"] == plain["log_likelihood"]
    # A model without noise has no integral to take.
    run_json(capsys, "evaluate", linear_run, table, "--method", "ais", code=2)
    run_json(capsys, "evaluate", linear_run, table, "--method", "guess", code=2)


def test_evaluate_names_gross_spikes(table, linear_run, tmp_path, capsys):
    data = pd.read_csv(table)
    data.loc[17, "x2"] = 1e7
    data.to_csv(tmp_path / "spiked.csv", index=False)
    content = run_json(capsys, "evaluate", linear_run, tmp_path / "spiked.csv")
    assert content["without_gross_spikes"]["n_rows"] == len(data) - 1
    assert content["without_gross_spikes"]["mean"] > content["log_likelihood"]["mean"] + 1
    main(["evaluate", str(linear_run), str(tmp_path / "spiked.csv")])
    assert "(line 19)" in capsys.readouterr().err


def test_sample_draws_from_the_model(table, linear_run, tmp_path, capsys):
    out = tmp_path / "new.csv"
    content = run_json(capsys, "sample", linear_run, "--n", 4000, "--out", out)
    new, old = pd.read_csv(out), pd.read_csv(table)
    assert content["columns"] == list(new.columns)
    assert list(new.columns) == ["x1", "x2", "x3", "linearica0", "linearica1", "linearica2", "u"]
    # Gaussian within segments: variances of 240 fitted rows are known to about 9 %.
    for name in ("x1", "x2", "x3"):
        assert new[name].std() == pytest.approx(old[name].std(), rel=0.3)
    again = tmp_path / "again.csv"
    main(["sample", str(linear_run), "--n", "4000", "--out", str(again)])
    assert again.read_bytes() == out.read_bytes()
    main(["sample", str(linear_run), "--n", "50", "--at", "u=2", "--out", str(out)])
    assert set(pd.read_csv(out)["u"]) == {2}
    for wrong in ("u=99", "v=1", "u"):
        run_json(capsys, "sample", linear_run, "--at", wrong, "--out", out, code=3)


def test_simulate_writes_the_librarys_data(tmp_path, capsys):
    out = tmp_path / "a.npz"
    content = run_json(capsys, "simulate", "figure1", "--n-per-segment", 20, "--seed", 4, "--out", out)
    simulation = identica.simulate("figure1", seed=4, n_per_segment=20)
    assert content["options"] == {"n_per_segment": 20}
    assert content["columns"] == ["x1", "x2", "u", "s1", "s2"]
    with np.load(out) as archive:
        np.testing.assert_array_equal(archive["x2"], simulation.X[:, 1])
        np.testing.assert_array_equal(archive["s1"], simulation.S[:, 0])
        np.testing.assert_array_equal(archive["u"], simulation.u)
    assert "nosuch" in run_json(capsys, "simulate", "nosuch", "--out", out, code=2)["error"]["message"]
    run_json(capsys, "simulate", "figure1", "--n-perhaps", 2, "--out", out, code=2)
    run_json(capsys, "simulate", "figure1", "--out", tmp_path / "a.xlsx", code=2)
    run_json(capsys, "simulate", "figure1", "--out", tmp_path / "none" / "a.csv", code=2)


def test_inspect_and_report(linear_run, capsys, tmp_path):
    content = run_json(capsys, "inspect", linear_run)
    assert content["status"] == "done"
    assert "sources.csv" in content["files"]
    before = (linear_run / "report.html").read_text()
    (linear_run / "report.html").unlink()
    run_json(capsys, "report", linear_run)
    assert (linear_run / "report.html").read_text() == before
    assert "has no run.json" in run_json(capsys, "inspect", tmp_path, code=3)["error"]["message"]


def test_nothing_but_json_on_standard_output(table, tmp_path, capsys):
    main(["fit", str(table), "--u", "u", "--drop", "s*", "--method", "linear", "--out", str(tmp_path / "r")])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "held-out" in captured.err or "kept out" in captured.err


@pytest.mark.parametrize(
    ("tokens", "code", "said"),
    [
        (["fit", "{table}", "--u", "u"], 2, "--out"),
        (["fit", "--u", "u", "--out", "{out}"], 2, "table"),
        (["fit", "{table}", "--out", "{out}"], 2, "--method flow needs --u"),
        (["fit", "{table}", "--u", "u", "--out", "{out}", "--components", "two"], 2, "two"),
        (["fit", "{table}", "--u", "u", "--out", "{out}", "--components", "0"], 2, "0"),
        (["fit", "{table}", "--u", "u", "--out", "{out}", "--metod", "flow"], 2, "--metod"),
        (["fit", "{table}", "--u", "u", "--out", "{table}"], 2, "is a file"),
        (["fit", "{table}", "--u", "u", "--out", "{data}"], 2, "other things"),
        (["fit", "{table}", "--u", "u", "--out", "{out}", "--resume", "--overwrite"], 2, "choose one"),
        (
            ["fit", "{table}", "--method", "linear", "--restarts", "3", "--drop", "u", "--out", "{out}"],
            2,
            "restarts",
        ),
        (["fit", "{table}", "--u", "w", "--out", "{out}"], 3, "--u w"),
        (["fit", "{table}x", "--u", "u", "--out", "{out}"], 3, "did you mean"),
        (
            ["fit", "{table}", "--u", "u", "--drop", "s*", "--components", "4", "--out", "{out}"],
            3,
            "from 1 to 3",
        ),
        (["transform", "{data}", "{table}", "--out", "{out}.csv"], 3, "has no run.json"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_exit_codes_of_mistakes(table, tmp_path, capsys, tokens, code, said):
    out = tmp_path / "run"
    tokens = [t.format(table=table, data=table.parent, out=out) for t in tokens]
    assert main(tokens) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_unexpected_failures_are_short_unless_debugged(table, tmp_path, capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(identica.LinearICA, "fit", broken)
    tokens = [
        "fit",
        str(table),
        "--u",
        "u",
        "--drop",
        "s*",
        "--method",
        "linear",
        "--out",
        str(tmp_path / "r"),
    ]
    assert main(tokens) == 1
    err = capsys.readouterr().err
    assert "RuntimeError: a bug" in err
    assert "Traceback" not in err
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "failed"
    assert main([*tokens, "--overwrite", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.undo()
    assert main([*tokens, "--resume"]) == 0  # a failed run can be continued


def test_full_disks_leave_earlier_files_alone(table, linear_run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "kept.csv"
    out.write_text("precious")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    content = run_json(capsys, "transform", linear_run, table, "--out", out, code=3)
    assert content["error"]["type"] == "StorageError"
    assert "No space left" in content["error"]["message"]
    assert out.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.csv"]
    tokens = [
        "fit",
        table,
        "--u",
        "u",
        "--drop",
        "s*",
        "--method",
        "linear",
        "--out",
        linear_run,
        "--overwrite",
    ]
    before = {path.name: path.read_bytes() for path in linear_run.iterdir() if path.is_file()}
    assert run_json(capsys, *tokens, code=3)["error"]["type"] == "StorageError"
    assert {path.name: path.read_bytes() for path in linear_run.iterdir() if path.is_file()} == before


def test_progress_on_a_terminal_and_elsewhere(monkeypatch, capsys):
    states = [Progress(0, 2, "grow", 10 * i, 100, i / 10, 1.0, 1.5, float(i)) for i in range(1, 11)]
    with progress_module.ProgressDisplay("fitting", every=0.5) as display:
        for state in states:
            display(state)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "50%" in lines[0]
    assert "stage 1/2 grow, held-out 1.500" in lines[0]
    stream = io.StringIO()
    terminal = Console(file=stream, force_terminal=True, width=120)
    monkeypatch.setattr(progress_module, "console", lambda: terminal)
    with progress_module.ProgressDisplay("fitting") as display:
        for state in states:
            display(state)
    assert "100%" in stream.getvalue()


def test_json_has_no_nan():
    value = {
        "a": np.float64("nan"),
        "b": [np.int64(3), float("inf")],
        "c": np.array([1.5]),
        4: True,
        "d": Path("x"),
    }
    assert plain(value) == {"a": None, "b": [3, None], "c": [1.5], "4": True, "d": "x"}
