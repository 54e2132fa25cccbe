"""`identica reproduce speech`: recordings, their mixing, scores, sound. Real ones where IDENTICA_DATA has them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

import identica
from identica.cli import main
from identica.cli.reproduce_runs import OURS, cases_of, draw
from identica.errors import DataError
from identica.simulation.speech import Recordings, mix_speech, read_recordings, window_sizes
from identica.simulation.splitting import hold_out_rows

RATE = 500  # windows of 0.1 s have 50 samples


class StandIn(identica.LinearICA):
    """Linear ICA in place of FlowICA, which takes long to compile."""

    def __init__(self, n_components=None, *, max_iter=100, n_restarts=8, random_state=None, callbacks=None):
        super().__init__(n_components, max_iter=max_iter, random_state=random_state, callbacks=callbacks)
        self.n_restarts = n_restarts


def made_up(n=3, windows=12, seed=0):
    """Noise whose loudness changes from window to window, with digital silence in the last row."""
    rng = np.random.default_rng(seed)
    loudness = np.exp(rng.uniform(2, 7, (n, windows)))
    waves = np.round(np.repeat(loudness, 50, axis=1) * rng.laplace(size=(n, 50 * windows)))
    waves[-1] = 256 * np.round(waves[-1] / 256)  # eight bits
    waves[-1, 100:200] = 0
    return np.clip(waves, -32768, 32767).astype(np.int16)


@pytest.fixture
def file(tmp_path):
    """A file of the expected form, with a short rest behind the last window."""
    path = tmp_path / "data" / "speakers.npz"
    path.parent.mkdir()
    waves = np.hstack([made_up(), made_up()[:, :20]])
    np.savez(path, sources=waves, fs=np.array(RATE), speakers=np.array(["anna", "b/c", "dora"]), digit=waves)
    return path


def reproduce(capsys, *tokens, code=0):
    """Exit code checked; the JSON object on standard output, and standard error."""
    capsys.readouterr()
    assert main(["reproduce", "speech", *map(str, tokens), "--json"]) == code
    said = capsys.readouterr()
    return json.loads(said.out), said.err


# Recordings -------------------------------------------------------------------------------------------


def test_recordings_are_read_from_a_file_or_its_folder(file):
    recordings = read_recordings(file)
    assert recordings.rate == RATE
    assert recordings.names == ("anna", "b/c", "dora")
    np.testing.assert_array_equal(recordings.waveforms[:, :600], made_up())
    assert recordings.steps.tolist() == [1, 1, 256]
    again = read_recordings(file.parent)
    assert again.digest == recordings.digest
    assert Recordings(recordings.waveforms[:, ::-1], RATE, recordings.names).digest != recordings.digest


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"fs": np.array(RATE)}, "no 'sources'"),
        ({"sources": made_up()}, "no 'fs'"),
        ({"sources": made_up().astype(float), "fs": np.array(RATE)}, "expected integers"),
        ({"sources": made_up()[0], "fs": np.array(RATE)}, "expected integers"),
        ({"sources": made_up().T, "fs": np.array(RATE)}, "more samples than speakers"),
        ({"sources": made_up() * np.array([[1], [0], [1]], "i2"), "fs": np.array(RATE)}, "row 2 .* constant"),
        ({"sources": made_up(), "fs": np.array(0.5)}, "samples per second"),
        ({"sources": made_up(), "fs": np.array(RATE), "speakers": np.array(["a"])}, "3 names"),
        ({"sources": np.array([[None, "x"]], dtype=object), "fs": np.array(RATE)}, "cannot be read"),
    ],
)
def test_other_files_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=words):
        read_recordings(tmp_path / "a.npz")


def test_missing_and_ambiguous_files_are_refused(tmp_path, file):
    with pytest.raises(DataError, match="does not exist"):
        read_recordings(tmp_path / "none.npz")
    with pytest.raises(DataError, match="found none"):
        read_recordings(tmp_path)
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(DataError, match="cannot be read"):
        read_recordings(tmp_path / "text.npz")
    (file.parent / "other.npz").write_bytes(file.read_bytes())
    with pytest.raises(DataError, match=r"other\.npz, speakers\.npz"):
        read_recordings(file.parent)


# Mixing -----------------------------------------------------------------------------------------------


def test_sources_are_the_waveforms_up_to_half_a_quantisation_step():
    waves = made_up()
    data = mix_speech(Recordings(waves.astype(np.int64), RATE, ("a", "b", "c")), seed=4)
    np.testing.assert_allclose(data.S.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(data.S.std(0), 1)
    for place, step in enumerate((1, 1, 256)):
        # Undone by the straight line through the waveform, what is left is the dither: uniform, one step wide.
        slope, offset = np.polyfit(waves[place], data.S[:, place], 1)
        dither = (data.S[:, place] - offset) / slope - waves[place]
        assert np.abs(dither).max() < 0.56 * step  # the line is fitted: its own error is about 0.03
        assert dither.std() == pytest.approx(step / np.sqrt(12), rel=0.05)
    variances = data.S.reshape(12, 50, 3).var(1)
    assert (variances > 0).all()  # silent windows too, so that no log-variance is infinite
    assert np.unique(data.u, return_counts=True)[1].tolist() == [50] * 12


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_mixing_is_undone_by_its_inverse(layers):
    recordings = Recordings(made_up().astype(np.int64), RATE, ("a", "b", "c"))
    data = mix_speech(recordings, seed=1, layers=layers)
    x = data.X
    for place, matrix in enumerate(reversed(data.mixing.matrices)):
        x = x @ np.linalg.inv(matrix)
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1)
        if place < layers - 1:
            x = np.where(x > 0, x, x / 0.2)
    np.testing.assert_allclose(x, data.S, atol=1e-9)
    other = mix_speech(recordings, seed=2, layers=layers)
    assert not np.allclose(other.mixing.matrices[0], data.mixing.matrices[0])


def test_windows_are_a_tenth_of_a_second_unless_chosen():
    recordings = Recordings(made_up().astype(np.int64), RATE, ("a", "b", "c"))
    assert window_sizes(recordings) == (50, 12)
    assert window_sizes(recordings, n_per_segment=70) == (70, 8)
    assert mix_speech(recordings, seed=0, n_segments=4).X.shape == (200, 3)
    with pytest.raises(DataError, match="2 to 12 windows"):
        window_sizes(recordings, n_segments=13)
    with pytest.raises(DataError, match="2 to 300 samples"):
        window_sizes(recordings, n_per_segment=301)
    with pytest.raises(DataError, match="layers"):
        mix_speech(recordings, seed=0, layers=0)


def test_one_row_in_five_of_every_window_is_held_out():
    u = np.repeat([3, 1, 2], [10, 20, 15])
    fit, held_out = hold_out_rows(u, 0.2, 5)
    assert np.array_equal(np.sort(np.concatenate([fit, held_out])), np.arange(45))
    assert np.bincount(u[held_out]).tolist() == [0, 4, 3, 2]
    with pytest.raises(DataError, match="segment 1"):
        hold_out_rows(np.array([0, 0, 0, 1]), 0.4)


# The command ------------------------------------------------------------------------------------------


def test_without_a_file_it_says_what_it_needs(capsys, tmp_path, file):
    message = reproduce(capsys, code=2)[0]["error"]["message"]
    for words in ("--data", "`sources`", "`fs`", "Free Spoken Digit Dataset", "CC BY-SA 4.0", "8000"):
        assert words in message
    message = reproduce(capsys, "--data", tmp_path / "none.npz", code=3)[0]["error"]["message"]
    assert "does not exist" in message
    assert "`sources`" in message
    assert (
        "2 to 12 windows"
        in reproduce(capsys, "--data", file, "--segments", 99, code=3)[0]["error"]["message"]
    )
    assert main(["reproduce", "tcl", "--data", str(file)]) == 2
    assert "needs no --data" in capsys.readouterr().err


def test_sound_and_scores_are_written(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(identica, "FlowICA", StandIn)
    out = tmp_path / "out"
    content, said = reproduce(capsys, "--data", file, "--layers", 2, "--seeds", 2, "--out", out)
    (case,) = content["cases"]
    assert case["options"]["data"] == read_recordings(file).digest
    assert (case["n_fitted"], case["n_held_out"], case["n_seeds"]) == (480, 120, 2)
    assert case["published"]["scores"] == []
    assert {"FastICA", "joint diagonalisation", "best linear map"} < case["methods"].keys()
    assert "Nobody has published" in said
    scores = case["methods"][OURS]["scores"]
    assert {"pearson", "spearman"} < scores.keys()
    assert {"in_sample", "held_out"} == scores["pearson"].keys()
    sizes = {"layers": None, "segments": None, "rows": None, "data": file}
    assert [quick.options["layers"] for quick in cases_of("speech", quick=True, **sizes)] == [2, 3]
    assert cases_of("speech", quick=True, **sizes)[0].options["n_segments"] == 12  # as many as there are
    # What is heard is what was scored: the first data set.
    folder = out / "sound" / "2-layers"
    labels = ("1-anna", "2-b-c", "3-dora")
    names = {f"{kind}-{label}.wav" for label in labels for kind in ("source", "recovered")}
    assert {path.name for path in folder.iterdir()} == names | {f"mixture-{n}.wav" for n in (1, 2, 3)}
    (only,) = cases_of("speech", quick=False, **sizes | {"layers": [2]})
    truth = draw(only, 0)
    correlations = []
    for place, label in enumerate(labels):
        rate, mixture = wavfile.read(folder / f"mixture-{place + 1}.wav")
        assert rate == RATE
        assert mixture.dtype == np.int16
        assert np.abs(mixture).max() == round(0.9 * 32767)
        assert np.corrcoef(mixture, truth.X[:, place])[0, 1] > 0.9999
        recovered = wavfile.read(folder / f"recovered-{label}.wav")[1]
        correlations.append(np.corrcoef(recovered[truth.held_out], truth.S[truth.held_out, place])[0, 1])
    assert np.mean(correlations) == pytest.approx(scores["pearson"]["held_out"]["values"][0], abs=1e-3)
    # The same command continues; other recordings are not mixed with these.
    assert (
        "2 finished fits are taken"
        in reproduce(capsys, "--data", file.parent, "--layers", 2, "--seeds", 2, "--out", out)[1]
    )
    np.savez(file, sources=made_up(seed=1), fs=np.array(RATE))
    refused, _ = reproduce(capsys, "--data", file, "--layers", 2, "--seeds", 2, "--out", out, code=3)
    assert "other settings (cases)" in refused["error"]["message"]


REAL = Path(os.environ.get("IDENTICA_DATA", "")) / "fsdd_speech"


@pytest.mark.slow
@pytest.mark.skipif(
    not (os.environ.get("IDENTICA_DATA") and REAL.exists()),
    reason="IDENTICA_DATA names no folder with fsdd_speech",
)
def test_six_speakers_are_unmixed(capsys):
    recordings = read_recordings(REAL)
    assert recordings.waveforms.shape == (6, 369331)
    assert window_sizes(recordings) == (800, 461)
    content, _ = reproduce(capsys, "--quick", "--seeds", 1, "--layers", 2, "--data", REAL)
    methods = content["cases"][0]["methods"]
    values = {name: method["scores"]["pearson"]["held_out"]["mean"] for name, method in methods.items()}
    # Also expected of the full run; two restarts of 200 steps on 60 windows scored 0.995.
    assert values[OURS] > 0.97
    assert values["FastICA"] < values[OURS] - 0.1
