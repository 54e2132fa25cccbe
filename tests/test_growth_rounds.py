"""Rounds of growth: a best restart that stands alone is not believed, and nothing of any round is lost."""

import warnings
from dataclasses import replace

import equinox as eqx
import numpy as np
import pytest

import identica
from identica.data import Dataset
from identica.errors import Interrupted, Status
from identica.estimators import growth_rounds
from identica.estimators.growth_rounds import SAME_OPTIMUM, confirmed, joined
from identica.training import Fit

NO_ROWS = Dataset(np.zeros((0, 2)))


def a_fit(losses, origins, *, status=Status.CONVERGED, name="") -> Fit:
    records = [
        {"seed": i, "held_out": loss, "status": "converged", "origin": origin}
        for i, (loss, origin) in enumerate(zip(losses, origins, strict=True))
    ]
    return Fit(name, {"step": np.arange(3), "loss": np.arange(3.0)}, records, status, 10)


def test_restarts_of_one_origin_do_not_confirm_each_other():
    n, near, far = 3, 0.9 * 3 * SAME_OPTIMUM, 1.1 * 3 * SAME_OPTIMUM
    assert not confirmed([], n)
    assert not confirmed([a_fit([1.0, 1.0, 5.0], [2, 2, 0])], n)
    assert confirmed([a_fit([1.0, 1.0 + near, 5.0], [2, 1, 0])], n)
    assert not confirmed([a_fit([1.0, 1.0 + far, 5.0], [2, 1, 0])], n)
    # Those of another round are others, whatever their numbers; a better optimum has to be confirmed itself.
    assert confirmed([a_fit([1.0, 5.0], [0, 1]), a_fit([1.0 + near, 7.0], [0, 1])], n)
    assert not confirmed([a_fit([1.0, 5.0], [0, 1]), a_fit([0.5, 1.0], [0, 1])], n)


def test_rounds_are_joined_with_the_best_of_all():
    rounds = [a_fit([2.0, 3.0], [1, 0], name="first"), a_fit([1.0, 4.0], [1, 0], name="second")]
    fit = joined(rounds, NO_ROWS, None)
    assert fit.system == "second"
    assert fit.n_steps == 20
    assert fit.history["step"].tolist() == [0, 1, 2, 0, 1, 2]
    assert [r["seed"] for r in fit.restarts] == [0, 1, 2, 3]
    assert [r["origin"] for r in fit.restarts] == [1, 0, 3, 2]
    assert (
        joined([rounds[1], a_fit([9.0], [0], status=Status.STOPPED)], NO_ROWS, None).status is Status.STOPPED
    )


def test_only_the_best_of_another_round_is_compared_with_the_best_of_all():
    rng = np.random.default_rng(0)
    rows = Dataset(rng.standard_normal((500, 2)))
    systems = [Turned(np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])) for a in (0.6, 0.0)]
    rounds = [
        replace(a_fit([2.0, 3.0], [1, 0]), system=systems[0]),
        replace(a_fit([1.0, 4.0], [1, 0]), system=systems[1]),
    ]
    rounds[1].restarts[0]["agreement"] = rounds[1].restarts[0]["least_agreement"] = 1.0
    first, second, best, last = joined(rounds, rows, lambda system, rows: rows.x @ system.matrix).restarts
    assert first["agreement"] == pytest.approx(np.cos(0.6), abs=0.05)
    assert second["agreement"] is None
    assert best["agreement"] == 1.0
    assert "agreement" not in last


class Turned(eqx.Module):
    matrix: np.ndarray


def fitted(rows, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"max_iter": 40, "n_restarts": 4, "random_state": 0, "prior": "gaussian"} | options
        return identica.FlowICA(**options).fit(rows.X, u=rows.u)


@pytest.fixture(scope="module")
def three_rounds(rows):
    """A fit whose best restart is never confirmed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth_rounds, "SAME_OPTIMUM", -1.0)
        yield fitted(rows)


def test_a_best_restart_that_stands_alone_begins_other_rounds(rows, three_rounds, monkeypatch):
    names = set(three_rounds.history_["stage"].tolist())
    assert any(name.endswith("round 2") for name in names)
    assert any(name.endswith("round 3") for name in names)
    assert not any(name.endswith("round 4") for name in names)
    assert len(three_rounds.restarts_) == 12
    losses = [r["held_out"] for r in three_rounds.restarts_]
    assert len(set(losses)) > 4  # rounds draw new starts
    monkeypatch.setattr(growth_rounds, "SAME_OPTIMUM", np.inf)
    one = fitted(rows)
    assert not any("round" in name for name in one.history_["stage"].tolist())
    assert [r["held_out"] for r in one.restarts_] == losses[:4]
    few = fitted(rows, n_restarts=3)
    assert len(few.restarts_) == 3


def test_progress_rises_to_the_end_over_rounds(rows, monkeypatch):
    monkeypatch.setattr(growth_rounds, "SAME_OPTIMUM", -1.0)
    seen: list[float] = []
    fitted(rows, callbacks=[lambda progress: seen.append(progress.fraction)])
    assert np.all(np.diff(seen) >= 0)
    assert seen[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["round 2", "polish"])
def test_a_fit_that_is_interrupted_goes_on_to_the_same_last_bit(
    rows, three_rounds, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(growth_rounds, "SAME_OPTIMUM", -1.0)

    def stop(progress):
        if progress.name.endswith(name):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fitted(rows, callbacks=[stop], checkpoint=tmp_path / "run")
    resumed = fitted(rows, checkpoint=tmp_path / "run")
    np.testing.assert_array_equal(resumed.transform(rows.X), three_rounds.transform(rows.X))
    assert resumed.restarts_ == three_rounds.restarts_
    resumed.save(tmp_path / "model")
    assert not (tmp_path / "run").exists()


def test_a_callback_stops_the_fit_in_any_round(rows, monkeypatch):
    monkeypatch.setattr(growth_rounds, "SAME_OPTIMUM", -1.0)
    stopped = fitted(rows, callbacks=[lambda progress: progress.name.endswith("round 2")])
    assert stopped.status_ is Status.STOPPED
    assert np.isfinite(stopped.score(rows.X, u=rows.u))
