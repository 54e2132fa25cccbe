"""Long fits from the command line: interrupted, continued, and judged by whether they converged."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from conftest import run_json
from identica.cli import main
from identica.cli import progress as progress_module
from identica.training import loop

TINY_FLOW = ["--method", "flow", "--restarts", "2", "--max-iter", "60"]


@pytest.fixture(scope="module")
def flow_run(table, tmp_path_factory):
    """A tiny fit of the flow that was never interrupted."""
    folder = tmp_path_factory.mktemp("flow") / "whole"
    tokens = ["fit", str(table), "--u", "u", "--drop", "s*", *TINY_FLOW, "--out", str(folder), "--strict"]
    assert main(tokens) in (0, 4)
    return folder


def test_interrupted_fits_resume_to_the_same_result(table, flow_run, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    fit = ["fit", table, "--u", "u", "--drop", "s*", *TINY_FLOW, "--out", folder]
    record, calls = progress_module.Recorder.__call__, []

    def interrupt(self, progress):
        record(self, progress)
        calls.append(progress)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress_module.Recorder, "__call__", interrupt)
    content = run_json(capsys, *fit, code=130)
    assert f"--out {folder} --resume" in content["error"]["message"]
    monkeypatch.undo()
    seen = run_json(capsys, "inspect", folder)
    assert seen["status"] == "interrupted"
    assert seen["progress"]["fraction"] == pytest.approx(calls[-1].fraction)
    assert "checkpoint" in seen["files"]
    # What must not be done to it.
    assert "--resume to continue" in run_json(capsys, *fit, code=2)["error"]["message"]
    assert (
        "not finished"
        in run_json(capsys, "transform", folder, table, "--out", tmp_path / "a.csv", code=3)["error"][
            "message"
        ]
    )
    assert "not finished" in run_json(capsys, "report", folder, code=3)["error"]["message"]
    assert "seed was 0, now 1" in run_json(capsys, *fit, "--resume", "--seed", 1, code=3)["error"]["message"]
    data = pd.read_csv(table)
    data.loc[0, "x1"] += 1
    data.to_csv(tmp_path / "other.csv", index=False)
    other = ["fit", tmp_path / "other.csv", *fit[2:], "--resume"]
    assert "is not the table" in run_json(capsys, *other, code=3)["error"]["message"]
    # Nothing but the folder is needed to go on.
    run_json(capsys, "fit", "--out", folder, "--resume")
    assert not (folder / "checkpoint").exists()
    for name in ("sources.csv", "history.jsonl", "model/weights.safetensors"):
        assert (folder / name).read_bytes() == (flow_run / name).read_bytes()
    assert run_json(capsys, "fit", "--out", folder, "--resume")["status"]  # finished: says so, does nothing
    assert "--overwrite" in run_json(capsys, *fit, code=2)["error"]["message"]


@pytest.mark.parametrize("place", ["model", "sources.csv", "report.html"])
def test_a_disk_that_fills_after_the_fit_costs_no_training(
    table, flow_run, tmp_path, capsys, monkeypatch, place
):
    folder = tmp_path / "run"
    fit = ["fit", table, "--u", "u", "--drop", "s*", *TINY_FLOW, "--out", folder]
    replace = os.replace

    def full(source, target):
        if place in os.path.relpath(target, folder):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device" in run_json(capsys, *fit, code=3)["error"]["message"]
    monkeypatch.undo()
    assert (folder / "checkpoint" / "checkpoint.safetensors").exists()

    for name, place_of_arrays in (("train_population", 0), ("minimize", 2)):
        original = getattr(loop, name)

        def train(*arguments, original=original, at=place_of_arrays):
            hidden_layers = arguments[at].demixer.maps.bias.shape[1]
            assert hidden_layers == 0, "the fit was finished; only the linear model of the report is trained"
            return original(*arguments)

        monkeypatch.setattr(loop, name, train)
    run_json(capsys, "fit", "--out", folder, "--resume")
    assert not (folder / "checkpoint").exists()
    for name in ("sources.csv", "history.jsonl", "model/weights.safetensors"):
        assert (folder / name).read_bytes() == (flow_run / name).read_bytes()


def test_strict_tells_convergence(table, flow_run, tmp_path, capsys):
    tokens = ["fit", table, "--u", "u", "--drop", "s*", *TINY_FLOW, "--out", tmp_path / "r", "--strict"]
    converged = json.loads((flow_run / "run.json").read_text())["result"]["converged"]
    assert converged is False  # sixty steps are few
    content = run_json(capsys, *tokens, code=4)
    assert content["converged"] is False
    assert content["status"] == "max_iter"
    assert (tmp_path / "r" / "sources.csv").exists()


def test_flow_reports_restarts_training_and_linear_baseline(flow_run):
    report = json.loads((flow_run / "report.json").read_text())
    assert len(report["restarts"]) >= 2
    assert report["held_out"]["linear"]["name"].startswith("linear ICA")
    difference = report["held_out"]["model"]["mean"] - report["held_out"]["linear"]["mean"]
    assert report["held_out"]["difference"]["mean"] == pytest.approx(difference)
    page = (flow_run / "report.html").read_text()
    for heading in (
        "Training curves",
        "Do different starts agree?",
        "How well it describes rows it has not seen",
    ):
        assert heading in page


@pytest.mark.slow
def test_control_c_from_a_terminal(table, tmp_path):
    folder = tmp_path / "run"
    code = "import sys; from identica.cli import main; sys.exit(main(sys.argv[1:]))"
    tokens = ["fit", str(table), "--u", "u", "--drop", "s*", "--max-iter", "100000", "--out", str(folder)]
    process = subprocess.Popen([sys.executable, "-c", code, *tokens], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (folder / "checkpoint").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "Traceback" not in err
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert (folder / "checkpoint" / "checkpoint.safetensors").exists()
