"""`identica fit`: bad ends, times, time series and windows."""

import json

import numpy as np
import pandas as pd
import pytest

import identica
from identica.cli import main
from identica.errors import Status


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A small simulated table: x1 to x3, u, s1 to s3."""
    path = tmp_path_factory.mktemp("data") / "sim.csv"
    sizes = ["--n-components", "3", "--n-segments", "6", "--n-per-segment", "40"]
    assert main(["simulate", "icebeem", *sizes, "--seed", "3", "--out", str(path)]) == 0
    return path


def run_json(capsys, *tokens, code=0):
    """Exit code checked, and the one JSON object on standard output."""
    capsys.readouterr()
    assert main([*map(str, tokens), "--json"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


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
