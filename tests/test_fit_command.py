"""`identica fit`: bad ends, times, time series and windows."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter

import identica
from conftest import run_json
from identica.cli import main
from identica.cli.fit import _CLASSES, _NEEDS_U
from identica.errors import Status


def test_a_fit_that_became_non_finite_is_said_by_the_exit_code(table, tmp_path, capsys, monkeypatch):
    fit = identica.LinearICA.fit

    def broken(self, *args, **kwargs):
        fitted = fit(self, *args, **kwargs)
        fitted.status_, fitted.converged_ = Status.NON_FINITE, False
        return fitted

    tokens = ["fit", table, "--u", "u", "--drop", "s*", "--method", "linear", "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(identica.LinearICA, "fit", broken)
        content = run_json(capsys, *tokens, code=3)
        assert content["status"] == "non_finite"
        assert main([*map(str, tokens), "--overwrite"]) == 3
    assert "the objective became non-finite" in capsys.readouterr().err
    assert (tmp_path / "run" / "sources.csv").exists()


def test_times_are_a_continuous_u(table, tmp_path, capsys):
    data = pd.read_csv(table)
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(len(data)), unit="s")
    data.drop(columns="u").assign(when=times).to_parquet(tmp_path / "t.parquet")
    tokens = ["fit", tmp_path / "t.parquet", "--u", "when", "--drop", "s*", "--method", "linear"]
    run_json(capsys, *tokens, "--out", tmp_path / "run")
    run_json(capsys, "report", tmp_path / "run")
    run_json(capsys, "transform", tmp_path / "run", tmp_path / "t.parquet", "--out", tmp_path / "s.csv")
    run_json(capsys, "evaluate", tmp_path / "run", tmp_path / "t.parquet")
    assert "when (continuous)" in (tmp_path / "run" / "report.html").read_text()


def test_missing_values_are_marginalised_where_asked(table, tmp_path, capsys):
    data = pd.read_csv(table)
    holes = np.random.default_rng(0).random((len(data), 3)) < 0.1
    data[["x1", "x2", "x3"]] = data[["x1", "x2", "x3"]].mask(holes)
    path = tmp_path / "holes.csv"
    data.to_csv(path, index=False)
    tokens = ["fit", path, "--u", "u", "--drop", "s*", "--out", tmp_path / "run"]
    assert main([*map(str, tokens), "--method", "ivae"]) == 3
    assert "--missing marginalise" in capsys.readouterr().err
    assert main([*map(str, tokens), "--missing", "marginalise"]) == 2
    assert "--method flow has no such option" in capsys.readouterr().err
    options = ["--missing", "marginalise", "--components", "2", "--max-iter", "40", "--restarts", "1"]
    run_json(capsys, *tokens, "--method", "ivae", *options)
    run_json(capsys, "transform", tmp_path / "run", path, "--out", tmp_path / "s.csv", "--u", "u")
    assert np.isfinite(pd.read_csv(tmp_path / "s.csv").to_numpy()).all()
    assert np.isfinite(run_json(capsys, "evaluate", tmp_path / "run", path)["log_likelihood"]["mean"])
    # An infinite value is no missing one.
    data.loc[3, "x2"] = np.inf
    data.to_csv(path, index=False)
    assert main([*map(str, tokens), "--method", "ivae", *options, "--overwrite"]) == 3
    assert "expected a finite number, got inf" in capsys.readouterr().err


@pytest.mark.slow
def test_a_noisy_table_of_as_many_columns_as_sources_is_fitted_and_reported(tmp_path, capsys):
    """The decoder is a flow then; one such report failed for want of an entropy in closed form."""
    sizes = ["--n-components", "2", "--n-segments", "10", "--n-per-segment", "300", "--noise", "0.01"]
    assert main(["simulate", "icebeem", *sizes, "--seed", "1", "--out", str(tmp_path / "t.csv")]) == 0
    run, columns = tmp_path / "run", ["--u", "u", "--drop", "s*"]
    tokens = ["fit", tmp_path / "t.csv", *columns, "--method", "ivae", "--max-iter", "300", "--restarts", "1"]
    run_json(capsys, *tokens, "--out", run)
    assert "log p exceeds the bound by" in (run / "report.html").read_text()
    run_json(capsys, "transform", run, tmp_path / "t.csv", "--u", "u", "--out", tmp_path / "s.csv")
    assert np.isfinite(pd.read_csv(tmp_path / "s.csv").to_numpy()).all()
    assert np.isfinite(run_json(capsys, "evaluate", run, tmp_path / "t.csv")["log_likelihood"]["mean"])
    model = identica.load(run / "model")
    assert model.decoder == "auto"
    assert type(model.model_.encoder).__name__ == "FlowPosterior"


# Time series ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two recordings of slow sources whose variance changes with time, mixed linearly."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2400, 3))
    slow = lfilter([1], [1, -0.8], noise, axis=0) * np.repeat(rng.uniform(0.3, 2, (12, 3)), 200, axis=0)
    frame = pd.DataFrame(slow @ rng.normal(size=(3, 3)), columns=["x1", "x2", "x3"])
    path = tmp_path_factory.mktemp("recording") / "recording.csv"
    frame.assign(day=np.repeat(["mon", "tue"], [1600, 800])).to_csv(path, index=False)
    return path


LINEAR = ["--method", "linear"]


def test_windows_are_u_and_blocks_are_held_out(recording, tmp_path, capsys):
    run = tmp_path / "run"
    tokens = ["fit", recording, "--sequence", "day", "--windows", "12", *LINEAR, "--out", run]
    content = run_json(capsys, *tokens)
    data = pd.read_csv(recording)
    x, u = data[["x1", "x2", "x3"]], identica.segments(len(data), windows=12, sequence=data["day"])
    library = identica.LinearICA(method="joint-diagonalization", random_state=0)
    library.fit(x, u=u, sequence=data["day"])
    sources = pd.read_csv(run / "sources.csv")
    np.testing.assert_allclose(sources.to_numpy()[:, :3], library.transform(x), rtol=1e-6)
    assert sources["window"].tolist() == u.tolist()
    held_out = np.sort(library.held_out_rows_)
    assert len(held_out) == 240
    assert (np.diff(held_out) == 1).sum() == 240 - 12
    # Standard errors of blocks, against means of the twelve blocks, which share hardly anything.
    scores = library.score_samples(x.iloc[held_out], u=u[held_out])
    between = scores.reshape(12, 20).mean(axis=1).std(ddof=1) / np.sqrt(12)
    naive = scores.std(ddof=1) / np.sqrt(240)
    stated = content["held_out"]["model"]["standard_error"]
    assert stated > 1.5 * naive
    assert stated == pytest.approx(between, rel=0.5)
    found = {f["name"]: f for f in content["findings"]}["effective sample size"]
    assert found["verdict"] == "info"
    assert found["value"] == pytest.approx(2400 * 0.2 / 1.8, rel=0.3)
    page = (run / "report.html").read_text()
    assert "equal windows of time (12 segments)" in page
    assert "time series by day" in page
    assert "Neighbouring rows resemble each other given u" in page
    # The stored options make the same fit.
    again = run_json(capsys, "fit", "--config", run / "config.toml", "--out", tmp_path / "again")
    assert again["held_out"] == content["held_out"]
    run_json(capsys, "report", run)
    run_json(capsys, "inspect", run)
    run_json(capsys, "evaluate", run, recording)
    run_json(capsys, "sample", run, "--n", 5, "--out", tmp_path / "s.csv")


def test_windows_alone_mean_one_series_and_a_column_of_u_may_have_a_sequence(recording, tmp_path, capsys):
    one = run_json(
        capsys, "fit", recording, "--drop", "day", "--windows", 10, *LINEAR, "--out", tmp_path / "1"
    )
    assert {f["name"]: f for f in one["findings"]}["effective sample size"]["verdict"] == "info"
    data = pd.read_csv(recording).assign(state=np.arange(2400) // 100 % 4)
    data.to_csv(tmp_path / "t.csv", index=False)
    tokens = [
        "fit",
        tmp_path / "t.csv",
        "--u",
        "state",
        "--sequence",
        "day",
        *LINEAR,
        "--out",
        tmp_path / "2",
    ]
    run_json(capsys, *tokens)
    assert json.loads((tmp_path / "2" / "run.json").read_text())["columns"] == ["x1", "x2", "x3"]


def test_the_terminal_tells_what_asks_for_caution(recording, tmp_path, capsys):
    tokens = ["fit", str(recording), "--drop", "day", "--method", "linear", "--out", str(tmp_path / "run")]
    assert main(tokens) == 0
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    assert any(line.startswith("! ") and "Held-out rows were drawn one by one" in line for line in lines)
    assert any(line.startswith("✓ ") for line in lines)


def test_a_series_that_is_not_said_to_be_one_is_noticed(recording, table, tmp_path, capsys):
    tokens = ["--method", "linear", "--out", tmp_path / "run"]
    content = run_json(capsys, "fit", recording, "--drop", "day", *tokens)
    found = {f["name"]: f for f in content["findings"]}["effective sample size"]
    assert found["verdict"] == "warning"
    assert "Held-out rows were drawn one by one" in found["text"]
    content = run_json(capsys, "fit", table, "--u", "u", "--drop", "s*", *tokens, "--overwrite")
    assert "effective sample size" not in {f["name"] for f in content["findings"]}


WRONG = {
    "both": (["--u", "day", "--windows", "3"], 2, "choose one"),
    "one window": (["--drop", "day", "--windows", "1"], 2, "windows"),
    "too many windows": (["--drop", "day", "--windows", "1500"], 3, "some windows have only one"),
    "far too many": (["--drop", "day", "--windows", "9999"], 3, "at most one per row"),
    "unknown sequence": (["--sequence", "dya", "--windows", "3"], 3, "did you mean 'day'"),
    "two sequences": (["--sequence", "x*", "--windows", "3"], 3, "names 3 columns; expected one"),
    "observed sequence": (
        ["--sequence", "x1", "--columns", "x1,x2", "--windows", "3"],
        3,
        "--sequence and in",
    ),
    "nothing": (["--drop", "day", "--method", "flow"], 2, "--windows 20"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_series_and_windows_are_refused(recording, tmp_path, capsys, name):
    tokens, code, said = WRONG[name]
    method = [] if "--method" in tokens else LINEAR
    content = run_json(capsys, "fit", recording, *tokens, *method, "--out", tmp_path / "run", code=code)
    assert said in content["error"]["message"]


def test_missing_ids_of_a_sequence_are_named_by_their_line(recording, tmp_path, capsys):
    data = pd.read_csv(recording)
    data.loc[7, "day"] = None
    data.to_csv(tmp_path / "t.csv", index=False)
    tokens = [
        "fit",
        tmp_path / "t.csv",
        "--sequence",
        "day",
        "--windows",
        6,
        *LINEAR,
        "--out",
        tmp_path / "r",
    ]
    said = run_json(capsys, *tokens, code=3)["error"]["message"]
    assert "sequence column 'day', line 9" in said


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", "tcl", "gcl", "vae", "mle", "em", "autoencoder", "adversarial"])
def test_every_method_writes_a_run(method, table, tmp_path, capsys):
    u = ["--u", "u", "--drop", "s*"] if method in _NEEDS_U else ["--drop", "s*,u"]
    tokens = [*u, "--method", method, "--max-iter", "10", "--out", tmp_path / "run"]
    content = run_json(capsys, "fit", table, *tokens)
    assert set(content["files"]) >= {"model", "sources.csv", "report.html", "report.json"}
    model = identica.load(tmp_path / "run" / "model")
    assert type(model).__name__ == _CLASSES[method]
    data = pd.read_csv(table)
    sources = model.transform(data[["x1", "x2", "x3"]], **({"u": data.u} if method in _NEEDS_U else {}))
    written = pd.read_csv(tmp_path / "run" / "sources.csv")
    np.testing.assert_allclose(written.to_numpy()[:, :3], sources, atol=1e-5)
