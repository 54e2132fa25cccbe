"""The demonstration: its pictures, its numbers, and that it shows what it claims."""

import json

import numpy as np
import pytest

import identica
from identica.cli import demo_runs, main
from identica.metrics import mcc
from identica.report.demo import Figure1Demo, PhotographDemo, match_scale
from identica.simulation.photographs import mix, photographs


def demo_json(capsys, *tokens, code=0):
    """Exit code checked, and the JSON object on standard output."""
    capsys.readouterr()
    assert main(["demo", *map(str, tokens), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_demo_writes_pictures_and_numbers(tmp_path, capsys, monkeypatch):
    """The demonstration around stand-in fits; the real ones take minutes and are tested as slow."""

    def figure1(*, quick, seed):
        simulation = identica.simulate("figure1", seed=seed, n_per_segment=50)
        linear = identica.LinearICA(2, method="fastica", random_state=0).fit(simulation.X)
        attempts = [
            demo_runs.attempt(name, simulation.S, linear.transform(simulation.X)) for name in ("iVAE", "VAE")
        ]
        return Figure1Demo(simulation.S, simulation.X, simulation.u, attempts)

    def photos(*, quick, seed):
        pictures = photographs(seed=seed)
        attempts = [demo_runs.attempt(name, pictures.S, pictures.X) for name in ("FastICA", "FlowICA")]
        return PhotographDemo(pictures, attempts, 100, 200)

    monkeypatch.setattr(demo_runs, "run_figure1", figure1)
    monkeypatch.setattr(demo_runs, "run_photographs", photos)
    content = demo_json(capsys, "--out", tmp_path / "demo")
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"figure1.png", "photographs.png", "report.html", "report.json"}
    assert (tmp_path / "demo" / "photographs.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert stored["photographs"] == content["photographs"]
    pictures = photographs()
    assert content["photographs"]["methods"][0]["pearson"] == pytest.approx(mcc(pictures.S, pictures.X))
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    (tmp_path / "demo" / "thesis.tex").write_text("")
    assert "other things" in demo_json(capsys, "--out", tmp_path / "demo", code=2)["error"]["message"]


def test_photographs_are_mixed_invertibly():
    pictures = photographs(seed=1)
    assert pictures.X.shape == (420 * 630, 2)
    np.testing.assert_allclose(pictures.S.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(pictures.S.std(axis=0), 1)
    np.testing.assert_array_equal(np.bincount(pictures.u), np.full(294, 900))
    block = pictures.image(pictures.u)[:30, 30:60]
    assert (block == block[0, 0]).all()
    # The Jacobian keeps its sign everywhere, so no two pairs of grey values are mixed to one.
    points = pictures.S[::500]
    h = 1e-6
    columns = [(mix(points + h * e) - mix(points - h * e)) / (2 * h) for e in np.eye(2)]
    assert (np.linalg.det(np.stack(columns, axis=2)) > 0.2 * 0.1**2 * 0.99).all()


@pytest.mark.slow
def test_quick_demo_beats_linear_ica(tmp_path, capsys):
    content = demo_json(capsys, "--quick", "--out", tmp_path / "demo")
    photographs = {m["name"]: m for m in content["photographs"]["methods"]}
    assert photographs["identica (FlowICA)"]["rescaled"] > photographs["FastICA"]["rescaled"] + 0.01


def test_matched_scales_undo_rising_curves_and_nothing_else():
    rng = np.random.default_rng(0)
    truth = rng.gamma(2.0, size=(500, 2))
    np.testing.assert_array_equal(match_scale(truth, np.log(truth) ** 3 + 5), truth)
    mixed = truth @ np.array([[1.0, 0.5], [0.2, 1.0]])
    matched = match_scale(truth, mixed)
    np.testing.assert_array_equal(np.sort(matched, axis=0), np.sort(truth, axis=0))
    assert mcc(truth, matched) < 0.95
    assert mcc(mixed, matched, method="spearman") == pytest.approx(1)
