"""The family of sources under prior="auto": chosen by held-out rows, and resumed like any fit."""

import warnings
from pathlib import Path

import numpy as np
import pytest

import identica
from identica.errors import Interrupted
from identica.families import LearnedBase, PowerLocationScale
from identica.training import Checkpoint

OPTIONS = {"hidden_sizes": (), "max_iter": 200, "n_restarts": 1, "random_state": 0}


def mixture(two_modes: bool):
    """Linear mixtures of two sources with a location and a scale of their own in each of 8 segments."""
    rng = np.random.default_rng(4)
    u = np.repeat(np.arange(8), 400)
    noise = rng.standard_normal((3200, 2))
    shape = (rng.choice([-1.0, 1.0], (3200, 2)) + 0.3 * noise) / np.sqrt(1.09) if two_modes else noise
    S = rng.uniform(-2, 2, (8, 2))[u] + rng.uniform(0.3, 2, (8, 2))[u] * shape
    return S, S @ np.array([[1.0, 0.6], [-0.4, 1.0]]), u


def fitted(X, u, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return identica.FlowICA(**(OPTIONS | options)).fit(X, u=u)


def test_two_modes_ask_for_a_base_measure_and_a_power_alone_explains_less():
    S, X, u = mixture(two_modes=True)
    chosen = fitted(X, u)
    assert isinstance(chosen.model_.prior.family, LearnedBase)
    power = fitted(X, u, prior="generalized-gaussian")
    assert isinstance(power.model_.prior.family, PowerLocationScale)
    assert chosen.score(X, u=u) > power.score(X, u=u) + 0.01
    assert identica.metrics.mcc(S, chosen.transform(X)) > 0.99
    assert "base measure" in chosen.history_["stage"]


@pytest.mark.slow
def test_gaussian_sources_keep_their_power():
    _, X, u = mixture(two_modes=False)
    chosen = fitted(X, u)
    assert isinstance(chosen.model_.prior.family, PowerLocationScale)
    assert "base measure" not in chosen.history_["stage"]


def test_the_second_checkpoint_goes_with_the_first(tmp_path):
    first = Checkpoint(tmp_path / "run", "a fit", seed=3)
    second = first.beside("base-measure")
    for checkpoint in (first, second):
        checkpoint.write([np.zeros(2)], {"stage": 0}, force=True)
    assert Checkpoint(tmp_path / "run", "a fit", seed=3).beside("base-measure").read() is not None
    first.remove()
    assert not Path(tmp_path / "run").exists()


@pytest.mark.slow
def test_a_fit_interrupted_with_its_base_measure_resumes_to_the_same_bit(tmp_path):
    _, X, u = mixture(two_modes=True)
    whole = fitted(X, u)

    def stop(progress):
        if progress.name == "base measure":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fitted(X, u, callbacks=[stop], checkpoint=tmp_path / "run")
    resumed = fitted(X, u, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(resumed.transform(X), whole.transform(X))
    resumed.save(tmp_path / "model")
    assert not (tmp_path / "run").exists()
