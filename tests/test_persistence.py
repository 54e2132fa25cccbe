"""Saved models: what comes back, and what a damaged, foreign or hostile folder does."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

import identica
from conftest import make_rows
from identica import (
    GCL,
    IVAE,
    PCL,
    TCL,
    VAE,
    AdversarialICA,
    Autoencoder,
    FlowICA,
    LinearICA,
    MarginalMLE,
    VariationalEM,
)
from identica.errors import ModelFileError, StorageError
from identica.estimators import persistence
from identica.training import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
ROWS = make_rows()
FRAME = pd.DataFrame(ROWS.X, columns=["left", "right"])
STATES = np.array(["rest", "task", "sleep"])[ROWS.u]
NUMBERS = pd.DataFrame({"t": np.linspace(0.1, 2, len(ROWS.X)), "state": STATES})
QUICK = {"max_iter": 20, "n_restarts": 2, "random_state": 0}

# One per class and per form of its model: prior of segments, of a network, and without u.
FITS = {
    "flow": lambda: FlowICA(**QUICK).fit(FRAME, u=STATES),
    "flow of numbers": lambda: FlowICA(hidden_sizes=(), **QUICK).fit(FRAME, u=NUMBERS),
    "linear with u": lambda: LinearICA(method="joint-diagonalization", random_state=0).fit(
        ROWS.X, u=ROWS.u == 1
    ),
    "linear without u": lambda: LinearICA(random_state=np.random.RandomState(0), callbacks=[print]).fit(
        FRAME
    ),
    "ivae": lambda: IVAE(hidden_sizes=(), **QUICK).fit(FRAME, u=STATES),
    "ivae of numbers": lambda: IVAE(hidden_sizes=(), **QUICK).fit(FRAME, u=NUMBERS),
    "tcl": lambda: TCL(hidden_sizes=(8,), **QUICK).fit(FRAME, u=STATES),
    "tcl of numbers": lambda: TCL(hidden_sizes=(8,), **QUICK).fit(FRAME, u=NUMBERS),
    "pcl": lambda: PCL(hidden_sizes=(8,), **QUICK).fit(FRAME),
    "gcl of numbers": lambda: GCL(hidden_sizes=(8,), **QUICK).fit(FRAME, u=NUMBERS),
    "vae": lambda: VAE(hidden_sizes=(8,), **QUICK).fit(FRAME),
    "autoencoder": lambda: Autoencoder(1, hidden_sizes=(8,), **QUICK).fit(FRAME),
    "adversarial": lambda: AdversarialICA(hidden_sizes=(8,), **QUICK).fit(FRAME),
    "marginal-mle": lambda: MarginalMLE(hidden_sizes=(8,), **QUICK).fit(FRAME),
    "variational-em": lambda: VariationalEM(1, hidden_sizes=(4,), max_iter=2, random_state=0).fit(FRAME),
}
U = {
    "flow": STATES,
    "flow of numbers": NUMBERS,
    "linear with u": ROWS.u == 1,
    "linear without u": None,
    "ivae": STATES,
    "ivae of numbers": NUMBERS,
    "tcl": STATES,
    "tcl of numbers": NUMBERS,
    "pcl": None,
    "gcl of numbers": NUMBERS,
    "autoencoder": None,
    "adversarial": None,
    "marginal-mle": None,
    "variational-em": None,
    "vae": None,
}


@pytest.fixture(scope="module")
def fits():
    made = {}

    def get(name):
        if name not in made:
            made[name] = FITS[name]()
        return made[name]

    return get


@pytest.fixture
def saved(tmp_path, fits):
    """A saved linear model; quick to make, and all classes share the code that reads it."""
    folder = tmp_path / "model"
    fits("linear without u").save(folder)
    return folder


RELATED = (
    "adversarial",
    "autoencoder",
    "tcl of numbers",
    "pcl",
    "marginal-mle",
    "variational-em",
    "ivae of numbers",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in RELATED else name for name in FITS]
)
def test_what_is_loaded_is_what_was_saved_to_the_last_bit(tmp_path, fits, name):
    one, u = fits(name), U[name]
    one.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    X = FRAME if hasattr(one, "feature_names_in_") else ROWS.X
    assert type(again) is type(one)
    assert {k for k in vars(one) if k.endswith("_")} == {k for k in vars(again) if k.endswith("_")}
    np.testing.assert_array_equal(again.transform(X), one.transform(X))
    assert again.score(X, u=u) == one.score(X, u=u)
    if hasattr(one, "score_samples"):  # contrastive methods have no density of X
        np.testing.assert_array_equal(again.score_samples(X, u=u), one.score_samples(X, u=u))
        np.testing.assert_array_equal(again.score_samples(X), one.score_samples(X))
        for a, b in zip(again.sample(20, random_state=1), one.sample(20, random_state=1), strict=True):
            np.testing.assert_array_equal(a, b)
        S = one.transform(X)
        np.testing.assert_array_equal(again.inverse_transform(S), one.inverse_transform(S))
    for a, b in zip(jax.tree.leaves(again.model_), jax.tree.leaves(one.model_), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)
    for attribute in (
        "status_",
        "converged_",
        "n_iter_",
        "seed_",
        "restarts_",
        "auxiliary_",
        "n_features_in_",
    ):
        assert getattr(again, attribute) == getattr(one, attribute)
    for key, column in one.history_.items():
        np.testing.assert_array_equal(again.history_[key], column)
    np.testing.assert_array_equal(again.get_feature_names_out(), one.get_feature_names_out())
    kept = {k: v for k, v in one.get_params().items() if k not in ("callbacks", "checkpoint", "random_state")}
    assert {k: again.get_params()[k] for k in kept} == kept


def test_a_loaded_model_is_checked_against_new_data_like_the_first(tmp_path, fits):
    fits("flow").save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    with pytest.raises(ValueError, match="feature names should match"):
        again.transform(FRAME.rename(columns={"left": "up"}))
    with pytest.raises(identica.DataError, match="not fitted on: dream; fitted on rest, sleep, task"):
        again.score(FRAME, u=np.full(len(FRAME), "dream"))


def test_a_loaded_model_can_be_saved_fitted_and_pickled_again(tmp_path, saved):
    again = identica.load(saved)
    again.save(tmp_path / "second")
    assert (tmp_path / "second" / WEIGHTS).read_bytes() == (saved / WEIGHTS).read_bytes()
    copy = pickle.loads(pickle.dumps(again))
    np.testing.assert_array_equal(copy.transform(FRAME), again.transform(FRAME))
    assert np.isfinite(again.fit(FRAME).score(FRAME))


def test_the_folder_holds_two_files_of_which_one_is_json(saved):
    assert sorted(p.name for p in saved.iterdir()) == [CONFIG, WEIGHTS]
    config = json.loads((saved / CONFIG).read_text())
    assert config["format"] == 1
    assert config["class"] == "LinearICA"
    assert config["weights_sha256"] == hashlib.sha256((saved / WEIGHTS).read_bytes()).hexdigest()
    assert {"identica", "jax"} <= set(config["versions"])


# Damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_flipped_bit_is_noticed_wherever_it_is(saved, file):
    whole = (saved / file).read_bytes()
    step = max(1, len(whole) // 60)
    for place in [*range(0, len(whole), step), len(whole) - 1]:
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 8)
        (saved / file).write_bytes(bytes(broken))
        try:
            same = json.loads(bytes(broken)) == json.loads(whole) if file == CONFIG else False
        except ValueError:
            same = False
        if not same:  # a flipped bit in white space can leave the same content
            with pytest.raises(ModelFileError):
                identica.load(saved)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_truncated_file_is_noticed(saved, file):
    whole = (saved / file).read_bytes()
    for length in (0, 1, 8, len(whole) // 2, len(whole) - 1):
        (saved / file).write_bytes(whole[:length])
        with pytest.raises(ModelFileError, match="damaged"):
            identica.load(saved)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(saved, file):
    (saved / file).unlink()
    with pytest.raises(ModelFileError, match=file):
        identica.load(saved)


def test_folders_that_are_no_models_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="is not a saved model"):
        identica.load(tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match="is not a saved model"):
        identica.load(tmp_path)
    (tmp_path / CONFIG).write_text('{"architectures": ["Other"]}')
    with pytest.raises(ModelFileError, match="not the configuration of an identica model"):
        identica.load(tmp_path)
    for text in ("[1, 2]", "3", "null", '"text"'):
        (tmp_path / CONFIG).write_text(text)
        with pytest.raises(ModelFileError):
            identica.load(tmp_path)
    (tmp_path / CONFIG).write_text("[" * 100_000)
    with pytest.raises(ModelFileError, match="damaged"):
        identica.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelFileError):
        identica.load(tmp_path / "file")


def rewrite(folder: Path, change) -> None:
    """Edit a configuration and give it a valid checksum, as an attacker would."""
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    body = {k: v for k, v in config.items() if k not in ("format", "sha256")}
    config["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (folder / CONFIG).write_text(json.dumps(config))


def test_an_edited_configuration_is_noticed(saved):
    text = (saved / CONFIG).read_text()
    (saved / CONFIG).write_text(text.replace('"fastica"', '"picard"'))
    with pytest.raises(ModelFileError, match="was edited"):
        identica.load(saved)


def put(path, value):
    def change(config):
        *parents, last = path
        for key in parents:
            config = config[key]
        config[last] = value

    return change


def drop(key):
    return lambda config: config.pop(key)


HOSTILE = {
    "newer format": (put(["format"], 2), "format 2, this version reads format 1; update identica"),
    "unknown class": (
        put(["class"], "os.system"),
        "'os.system', which this version does not know: AdversarialICA, .*FlowICA",
    ),
    "class of another kind": (put(["class"], ["LinearICA"]), ""),
    "no class": (drop("class"), ""),
    "no parameters": (drop("parameters"), ""),
    "no fitted": (drop("fitted"), ""),
    "parameters of another kind": (put(["parameters"], [1]), ""),
    "unknown parameter": (put(["parameters", "colour"], 3), ""),
    "unknown type": (put(["fitted", "model_", "type"], "Popen"), "unknown type 'Popen'"),
    "other fields": (put(["fitted", "whitening_", "fields"], {"center": 1}), "has fields"),
    "unknown function": (put(["fitted", "seed_"], {"function": "system"}), ""),
    "unknown array": (put(["fitted", "mean_"], {"array": "secret"}), "lack the array 'secret'"),
    "unknown member": (put(["fitted", "status_", "member"], "GREAT"), ""),
    "unknown node": (put(["fitted", "seed_"], {"code": "1+1"}), ""),
    "empty node": (put(["fitted", "seed_"], {}), ""),
    "ragged strings": (put(["fitted", "seed_"], {"strings": ["a"], "shape": [2]}), ""),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_forged_configuration_is_refused(saved, kind):
    change, message = HOSTILE[kind]
    rewrite(saved, change)
    with pytest.raises(
        ModelFileError,
        match=message or r"is not a readable model|does not know|unknown (type|form)|of unknown form",
    ):
        identica.load(saved)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (self.path,)

    def __init__(self, path):
        self.path = str(path)


def test_a_pickle_in_place_of_the_weights_is_never_executed(tmp_path, saved):
    target = tmp_path / "executed"
    content = pickle.dumps(Bomb(target))
    (saved / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged"):
        identica.load(saved)
    rewrite(saved, put(["weights_sha256"], hashlib.sha256(content).hexdigest()))
    with pytest.raises(ModelFileError, match="not a readable model"):
        identica.load(saved)
    assert not target.exists()
    pickle.loads(content)
    assert target.exists(), "the pickle would have done harm"


# Writing ----------------------------------------------------------------------------------------------


def test_saving_again_replaces_the_model(saved, fits):
    fits("flow").save(saved)
    assert isinstance(identica.load(saved), FlowICA)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["model"]


def test_a_folder_of_something_else_is_left_alone(tmp_path, saved, fits):
    estimator = fits("linear without u")
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.txt").write_text("years of work")
    with pytest.raises(StorageError, match="is not a saved model; choose another name"):
        estimator.save(other)
    (other / CONFIG).write_text("{}")
    with pytest.raises(StorageError, match="is not a saved model; choose another name"):
        estimator.save(other)
    assert (other / "chapter1.txt").read_text() == "years of work"
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="is not a saved model"):
        estimator.save(tmp_path / "file")
    # A model to which someone added notes is not theirs alone to lose either.
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="is not a saved model"):
        estimator.save(saved)
    assert (saved / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    estimator.save(tmp_path / "empty")
    assert isinstance(identica.load(tmp_path / "empty"), LinearICA)


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("every", [False, True])
def test_a_disk_that_fails_leaves_the_old_model_readable(monkeypatch, saved, fits, at, every):
    """os.replace moves two files, the old folder and the new one; each may fail, and so may all after it."""
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    calls, replace = [], os.replace

    def failing(source, target):
        calls.append(target)
        if len(calls) - 1 == at or (every and len(calls) - 1 > at):
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(StorageError, match="No space left on device"):
            fits("flow").save(saved)
    assert len(calls) > at
    if every and at == 3:  # the old folder could not be moved back; it must not be lost
        (old,) = [p for p in saved.parent.iterdir() if p.is_dir()]
        assert {p.name: p.read_bytes() for p in old.iterdir()} == before
        return
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["model"], "no rubbish is left"
    assert isinstance(identica.load(saved), LinearICA)


def test_a_full_disk_while_writing_leaves_the_old_model_and_says_so(monkeypatch, saved, fits):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device; free some space"):
            fits("flow").save(saved)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]
    assert isinstance(identica.load(saved), LinearICA)


def test_every_registered_class_is_public():
    for name, kind in persistence.estimator_classes().items():
        assert getattr(identica, name) is kind
