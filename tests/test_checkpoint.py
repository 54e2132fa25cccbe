"""Fits that are killed, interrupted or broken off anywhere, and then continued."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import identica
from conftest import make_rows
from identica.data import Dataset
from identica.errors import Interrupted, ModelFileError, Status, StorageError
from identica.training import LBFGS, Adam, Checkpoint, Stage, checkpoint, fit, loop

FILE = "checkpoint.safetensors"


# On a toy, where every line of the loop can be broken off ------------------------------------------


class Point(eqx.Module):
    place: jax.Array


@dataclass(frozen=True)
class Distance:
    def __call__(self, system, batch, *, key):
        target = batch.x.mean(0) + 0.5 * jax.random.normal(key, (2,))
        return ((system.place - target) ** 2).sum() + (system.place**4).sum() / 50, {}


@dataclass(frozen=True)
class Evaluation:
    def __call__(self, system, data, held_out, key):
        return Distance()(system, held_out, key=key)[0]


@jax.jit
def _draw(key):
    return Point(3 * jax.random.normal(key, (2,)))


@jax.jit
def _shift(system, key):
    return Point(system.place + jax.random.normal(key, (2,)))


STAGES = [
    Stage("start", lambda s, d, k: _draw(k), Distance(), Evaluation(), Adam(0.1), 12, restarts=3, keep=2,
          batch_size=16, chunk=4),
    Stage("middle", lambda s, d, k: _shift(s, k), Distance(), Evaluation(), Adam(0.3), 12, restarts=2,
          batch_size=16, chunk=4, patience=2),
    Stage("polish", lambda s, d, k: s, Distance(), Evaluation(), LBFGS(), 4, chunk=2),
]  # fmt: skip
DATA = Dataset(jnp.asarray(np.random.default_rng(0).normal(1, 1, (40, 2)), jnp.float32))


def run(folder=None, stages=STAGES, fingerprint="mine", **kwargs):
    saved = None if folder is None else Checkpoint(folder, fingerprint, every_seconds=0.0)
    return fit(stages, DATA, None, seed=7, checkpoint=saved, **kwargs)


def assert_same(one, other):
    np.testing.assert_array_equal(one.system.place, other.system.place)
    for name in one.history:
        np.testing.assert_array_equal(one.history[name], other.history[name])
    assert one.restarts == other.restarts
    assert one.status is other.status
    assert one.n_steps == other.n_steps


@pytest.fixture(scope="module")
def uninterrupted():
    return run()


def calls_of(monkeypatch, module, name, error: type[BaseException] | OSError = KeyboardInterrupt, at=None):
    """Count calls of a function of the loop, and raise ``error`` in place of call number ``at``."""
    calls, original = [], getattr(module, name)

    def counted(*args, **kwargs):
        calls.append(name)
        if len(calls) - 1 == at:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return calls


BORDERS = ["evaluate_population", "train_population", "minimize", "choose", "init_solver", "stack"]


@pytest.mark.parametrize("name", BORDERS)
def test_ctrl_c_in_any_part_of_any_chunk_leaves_a_fit_that_continues_to_the_bit(
    tmp_path, monkeypatch, uninterrupted, name
):
    with monkeypatch.context() as patch:
        calls = calls_of(patch, loop, name)
        run()
    assert len(calls) >= 1
    for at in range(len(calls)):
        with monkeypatch.context() as patch:
            calls_of(patch, loop, name, at=at)
            with pytest.raises(Interrupted):
                run(tmp_path / str(at))
        assert_same(run(tmp_path / str(at)), uninterrupted)


def test_ctrl_c_in_a_callback_and_again_and_again(tmp_path, uninterrupted):
    def press(progress):
        raise KeyboardInterrupt

    for _ in range(100):
        try:
            result = run(tmp_path, callbacks=[press])
        except Interrupted:
            continue
        assert_same(result, uninterrupted)
        return
    pytest.fail("a fit that is interrupted at each chunk should still get through")


def test_ctrl_c_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch, uninterrupted):
    for at in range(3):
        with monkeypatch.context() as patch:
            calls_of(patch, checkpoint.os, "fsync", at=at)
            with pytest.raises(Interrupted):
                run(tmp_path / str(at))
        assert [p.name for p in (tmp_path / str(at)).iterdir()] == [FILE]
        assert_same(run(tmp_path / str(at)), uninterrupted)


def test_a_full_disk_is_said_and_the_checkpoint_before_still_continues(tmp_path, monkeypatch, uninterrupted):
    with monkeypatch.context() as patch:
        calls_of(patch, checkpoint.os, "replace", OSError(28, "No space left on device"), at=2)
        with pytest.raises(StorageError, match="No space left on device; free some space"):
            run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    assert_same(run(tmp_path), uninterrupted)


def test_the_status_of_the_stages_before_the_polish_survives(tmp_path):
    """A training that had not converged is not made good by a polish after a resume."""
    stages = [STAGES[0], STAGES[2]]
    expected = run(stages=stages)
    assert expected.status is Status.MAX_ITER, "choose a shorter first stage"

    def press(progress):
        if progress.name == "polish":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stage 'polish' at step 2 of 4"):
        run(tmp_path, stages, callbacks=[press])
    assert_same(run(tmp_path, stages), expected)


def interrupted(folder):
    def press(progress):
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="stopped by the user in stage 'start' at step 8 of 12"):
        run(folder, callbacks=[press])
    return folder / FILE


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    interrupted(tmp_path)
    with pytest.raises(ModelFileError, match="belongs to an unfinished fit of other data, options, seed"):
        run(tmp_path, fingerprint="yours")


def stop_in_the_middle(progress):
    return progress.name == "middle"


@pytest.mark.parametrize("callbacks", [(), (stop_in_the_middle,)])
def test_a_finished_fit_is_had_again_without_a_step(tmp_path, monkeypatch, callbacks):
    first = run(tmp_path, callbacks=callbacks)
    assert (first.status is Status.STOPPED) == bool(callbacks)
    with monkeypatch.context() as patch:
        calls = [calls_of(patch, loop, name) for name in ("train_population", "minimize")]
        again = run(tmp_path)
    assert calls == [[], []]
    assert_same(again, first)


def test_the_end_of_another_fit_is_in_nobodys_way(tmp_path, uninterrupted):
    run(tmp_path, fingerprint="yours")
    assert_same(run(tmp_path), uninterrupted)
    assert Checkpoint(tmp_path, "mine", seed=0).remembered_seed() == 0
    # A fit that was overtaken does not take away what is no longer its own.
    Checkpoint(tmp_path, "yours").remove()
    Checkpoint(tmp_path, "mine", seed=8).remove()
    assert (tmp_path / FILE).exists()
    Checkpoint(tmp_path, "mine").remove()
    assert not tmp_path.exists()


def test_a_damaged_checkpoint_is_refused_wherever_the_damage_is(tmp_path):
    path = interrupted(tmp_path)
    whole = path.read_bytes()
    for cut in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ModelFileError, match="delete it to start anew"):
            run(tmp_path)
    for place in np.random.default_rng(0).integers(0, len(whole), 40):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        path.write_bytes(bytes(broken))
        with pytest.raises(ModelFileError):
            run(tmp_path)
    path.write_bytes(b"\x80\x05X\x00\x00")
    with pytest.raises(ModelFileError, match="not a readable checkpoint"):
        run(tmp_path)


def test_removing_a_checkpoint_takes_what_killed_processes_left_but_nothing_else(tmp_path):
    folder = tmp_path / "checkpoint"
    interrupted(folder)
    (folder / f".{FILE}.123.partial").write_bytes(b"half")
    saved = Checkpoint(folder, "mine")
    (folder / "notes.txt").write_text("mine")
    saved.remove()
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    saved.remove()
    assert not folder.exists()


# A whole estimator, in processes of its own ------------------------------------------------------------

CHILD = """
import functools, sys, time, warnings
import numpy as np
import identica
from identica.errors import Interrupted
from identica.estimators import base
sys.path.insert(0, sys.argv[3])
from conftest import make_rows

warnings.simplefilter("ignore")
base.Checkpoint = functools.partial(base.Checkpoint, every_seconds=0.0)
rows = make_rows()
flow = identica.FlowICA(max_iter=900, n_restarts=2, hidden_sizes=(2, 2), random_state=3, checkpoint=sys.argv[1],
                        callbacks=[lambda progress: time.sleep(float(sys.argv[4]))])
try:
    flow.fit(rows.X, u=rows.u)
except Interrupted as error:
    print(error)
    sys.exit(130)
flow.save(sys.argv[2])
"""


def child(folder: Path, model: Path, pause: float) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(folder), str(model), str(Path(__file__).parent), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for_new_checkpoint(process: subprocess.Popen, path: Path, seconds: float = 120) -> None:
    before = path.stat().st_mtime_ns if path.exists() else 0
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.stat().st_mtime_ns != before:
            return
        time.sleep(0.01)
    pytest.fail(f"the fit wrote no checkpoint (exit code {process.poll()})")


@pytest.fixture(scope="module")
def reference():
    rows = make_rows()
    flow = identica.FlowICA(max_iter=900, n_restarts=2, hidden_sizes=(2, 2), random_state=3)
    return flow.fit(rows.X, u=rows.u)


def assert_same_model(folder: Path, reference):
    again = identica.load(folder)
    for one, other in zip(jax.tree.leaves(again.model_), jax.tree.leaves(reference.model_), strict=True):
        np.testing.assert_array_equal(one, other)
    X = make_rows().X
    np.testing.assert_array_equal(again.transform(X), reference.transform(X))
    for name, column in reference.history_.items():
        np.testing.assert_array_equal(again.history_[name], column)
    assert again.n_iter_ == reference.n_iter_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_killed_at_any_moment_continues_to_the_same_last_bit(tmp_path, reference):
    folder, model = tmp_path / "checkpoint", tmp_path / "model"
    rng = np.random.default_rng(0)
    for _ in range(2):
        process = child(folder, model, 0.15)
        wait_for_new_checkpoint(process, folder / FILE)
        time.sleep(rng.uniform(0, 0.6))
        assert process.poll() is None, "the fit was over before it could be killed; pause longer"
        process.kill()
        process.communicate()
    process = child(folder, model, 0)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert not folder.exists(), "a saved fit leaves no checkpoint behind"
    assert_same_model(model, reference)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_ctrl_c_says_where_it_stopped_and_the_fit_continues(tmp_path, reference):
    folder, model = tmp_path / "checkpoint", tmp_path / "model"
    process = child(folder, model, 0.15)
    wait_for_new_checkpoint(process, folder / FILE)
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped by the user" in said
    assert not model.exists()
    rows = make_rows()
    flow = identica.FlowICA(
        max_iter=900, n_restarts=2, hidden_sizes=(2, 2), random_state=3, checkpoint=folder
    ).fit(rows.X, u=rows.u)
    flow.save(model)
    assert_same_model(model, reference)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_checkpoint_fits_only_the_same_data_options_and_seed(tmp_path):
    rows = make_rows()

    def press(progress):
        raise KeyboardInterrupt

    options = {
        "max_iter": 900,
        "n_restarts": 2,
        "hidden_sizes": (2, 2),
        "random_state": 3,
        "checkpoint": tmp_path,
    }
    with pytest.raises(Interrupted):
        identica.FlowICA(**options, callbacks=[press]).fit(rows.X, u=rows.u)
    others = [
        ({}, rows.X + 1e-9, {"u": rows.u}),
        ({}, rows.X, {"u": (rows.u + 1) % 3}),
        ({}, rows.X, {"u": rows.u, "sequence": np.arange(len(rows.X)) // 2}),
        ({"random_state": 4}, rows.X, {"u": rows.u}),
        ({"max_iter": 901}, rows.X, {"u": rows.u}),
        ({"validation_fraction": 0.2}, rows.X, {"u": rows.u}),
    ]
    for change, X, more in others:
        with pytest.raises(ModelFileError, match="belongs to an unfinished fit of other data"):
            identica.FlowICA(**(options | change)).fit(X, **more)
    assert (tmp_path / FILE).exists()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_that_could_not_be_saved_is_had_again_at_once(tmp_path, monkeypatch, reference):
    rows, folder, model = make_rows(), tmp_path / "checkpoint", tmp_path / "model"
    options = {"max_iter": 900, "n_restarts": 2, "hidden_sizes": (2, 2), "random_state": 3}

    def fitted():
        return identica.FlowICA(**options, checkpoint=folder).fit(rows.X, u=rows.u)

    flow = fitted()
    with monkeypatch.context() as patch:
        calls_of(patch, checkpoint.os, "fsync", OSError(28, "No space left on device"), at=0)
        with pytest.raises(StorageError, match="No space left"):
            flow.save(model)
    assert (folder / FILE).exists()
    with monkeypatch.context() as patch:
        calls = [calls_of(patch, loop, name) for name in ("train_population", "minimize")]
        flow = fitted()
    assert calls == [[], []]
    flow.save(model)
    assert not folder.exists()
    assert_same_model(model, reference)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_without_a_seed_a_fit_goes_on_with_the_one_it_began_with(tmp_path):
    rows, seen = make_rows(), []

    def press(progress):
        raise KeyboardInterrupt

    options = {"max_iter": 120, "n_restarts": 2, "hidden_sizes": (2, 2)}
    with pytest.raises(Interrupted):
        identica.FlowICA(**options, checkpoint=tmp_path, callbacks=[press]).fit(rows.X, u=rows.u)
    flow = identica.FlowICA(**options, checkpoint=tmp_path, callbacks=[seen.append]).fit(rows.X, u=rows.u)
    assert seen[0].step > 30, "it should not have begun anew"
    same = identica.FlowICA(**options, random_state=flow.seed_).fit(rows.X, u=rows.u)
    np.testing.assert_array_equal(flow.transform(rows.X), same.transform(rows.X))
