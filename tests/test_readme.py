"""What the README shows, runs."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    printed = [float(line) for line in capsys.readouterr().out.split()]
    assert len(printed) == 2
    assert printed[1] > 0.95, "the mean correlation that the README's example prints"
    assert (tmp_path / "model" / "config.json").exists()


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from identica.cli.app import run
    from identica.simulation.scenarios import simulate

    monkeypatch.chdir(tmp_path)
    data = simulate("linear", seed=0, n_segments=5, n_per_segment=60, n_components=7)
    table = pd.DataFrame(data.X, columns=[f"x{j}" for j in range(7)]).assign(segment=data.u)
    table.to_csv("recording.csv", index=False)
    table.drop(columns="segment").to_csv("other.csv", index=False)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("identica ")]
    assert len(lines) == 2
    for line in lines:
        short = ["--max-iter", "20", "--restarts", "1"] if " fit " in line else []
        assert run([*shlex.split(line)[1:], *short]) == 0, line
    assert len(pd.read_csv("sources.csv")) == len(table)
    assert (tmp_path / "run" / "report.html").exists()


def test_first_commands_are_those_of_ci() -> None:
    first, second = blocks("sh")[0].splitlines()
    script = (ROOT / ".ci" / "run").read_text()
    assert first in script
    assert second in script


def test_links_lead_somewhere() -> None:
    local = [link for link in re.findall(r"\]\(([^)#]+)", README) if not link.startswith("http")]
    assert local
    for link in local:
        assert (ROOT / link).exists(), link
