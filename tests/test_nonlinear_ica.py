"""`NonlinearICA`: the candidates' table by direct scoring, delegation to the winner, and what is left out."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

import identica
from identica import IVAE, FlowICA, LinearICA, NonlinearICA
from identica.errors import DataWarning, NonFiniteError
from identica.report import learned
from identica.report.collect import collect

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:u tells nothing"),
]

LINEAR = ("fastica", "joint-diagonalization")


@pytest.fixture(scope="module")
def frame(rows):
    return pd.DataFrame(rows.X, columns=["left", "right"])


@pytest.fixture(scope="module")
def fitted(frame, rows):
    return NonlinearICA(max_iter=20, n_restarts=2, random_state=0).fit(frame, u=rows.u)


def test_the_table_is_that_of_direct_scores_on_one_split(fitted, frame, rows):
    table = {row["name"]: row for row in fitted.candidates_}
    assert set(table) == {"fastica", "joint-diagonalization", "flow", "ivae"}
    held = np.sort(fitted.held_out_rows_)
    shared = {"random_state": fitted.seed_}
    direct = {
        "fastica": LinearICA(**shared),
        "joint-diagonalization": LinearICA(method="joint-diagonalization", **shared),
        "flow": FlowICA(max_iter=20, n_restarts=2, **shared),
    }
    scores = {}
    for name, estimator in direct.items():
        estimator.fit(frame, u=rows.u)
        np.testing.assert_array_equal(np.sort(estimator.held_out_rows_), held)
        scores[name] = estimator.score_samples(frame.iloc[held], u=rows.u[held])
        assert table[name]["held_out"] == pytest.approx(scores[name].mean(), abs=1e-9)
        assert table[name]["kind"] == "exact"
    assert table["ivae"]["kind"] == "lower"
    values = [row["held_out"] for row in fitted.candidates_]
    assert values == sorted(values, reverse=True)
    assert fitted.candidates_[0]["difference"] == 0
    paired = scores["fastica"] - fitted.score_samples(frame.iloc[held], u=rows.u[held])
    assert table["fastica"]["difference"] == pytest.approx(paired.mean(), abs=1e-6)
    error = paired.std(ddof=1) / np.sqrt(len(paired))
    assert table["fastica"]["difference_error"] == pytest.approx(error, rel=1e-3)


def test_the_winner_does_everything_else(fitted, frame, rows):
    best = fitted.best_
    S = fitted.transform(frame, u=rows.u)
    np.testing.assert_array_equal(S, best.transform(frame, u=rows.u))
    np.testing.assert_array_equal(
        fitted.posterior(frame, u=rows.u).mean, best.posterior(frame, u=rows.u).mean
    )
    np.testing.assert_array_equal(fitted.inverse_transform(S), best.inverse_transform(S))
    assert fitted.score(frame, u=rows.u) == best.score(frame, u=rows.u)
    assert fitted.log_likelihood(frame, u=rows.u).value == best.log_likelihood(frame, u=rows.u).value
    np.testing.assert_array_equal(fitted.sample(5, random_state=1)[0], best.sample(5, random_state=1)[0])
    assert fitted.model_ is best.model_
    assert fitted.status_ is best.status_
    assert list(fitted.get_feature_names_out()) == ["nonlinearica0", "nonlinearica1"]
    assert not hasattr(clone(fitted), "model_")
    with pytest.raises(NotFittedError):
        clone(fitted).transform(frame)
    with pytest.raises(ValueError, match="feature names"):
        fitted.transform(frame[["right", "left"]])


def test_a_saved_one_has_its_winner_and_its_table(fitted, frame, rows, tmp_path):
    fitted.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    assert type(again.best_) is type(fitted.best_)
    assert again.candidates_ == fitted.candidates_
    np.testing.assert_array_equal(again.transform(frame), fitted.transform(frame))
    np.testing.assert_array_equal(again.score_samples(frame, u=rows.u), fitted.score_samples(frame, u=rows.u))
    assert again.get_params()["candidates"] == fitted.get_params()["candidates"]


@pytest.mark.slow
def test_the_report_tells_what_was_chosen(fitted, frame, rows):
    contents = collect(fitted, frame, rows.u)
    finding = next(f for f in contents.findings if f.name == "choice of method")
    assert finding.value == fitted.candidates_[0]["name"]
    for row in fitted.candidates_[1:]:
        assert f"{row['name']} {row['difference']:+.3f}" in finding.text


def test_words_about_noise_follow_the_table():
    def row(name, difference, kind="exact", error=None):
        return {
            "name": name,
            "held_out": -1.0,
            "difference": difference,
            "difference_error": 0.01,
            "kind": kind,
            "error": error,
        }

    noisy = learned.choice([row("ivae", 0.0, "lower"), row("flow", -0.3)])
    close = learned.choice([row("ivae", 0.0, "lower"), row("flow", -0.015)])
    clean = learned.choice([row("flow", 0.0), row("ivae", -0.3, "lower"), row("fastica", None, None, "no u")])
    assert noisy is not None and close is not None and clean is not None  # noqa: PT018
    assert "Noise: even a lower bound" in noisy.text
    assert "Noise:" not in close.text
    assert "not clearly better than flow" in close.text
    assert "does not rule out noise" in clean.text
    assert "fastica could not be fitted: no u" in clean.text
    assert learned.choice(None) is None


def test_linear_rows_under_heavy_noise_go_to_the_best_by_likelihood(rows):
    ica = NonlinearICA(candidates=LINEAR, random_state=0).fit(rows.X, u=rows.u)
    assert isinstance(ica.best_, LinearICA)
    assert len(ica.candidates_) == 2


def test_a_candidate_that_fails_is_named_and_left_out(rows, monkeypatch):
    def fail(self, *args, **options):
        raise NonFiniteError("nothing was finite")

    monkeypatch.setattr(FlowICA, "fit", fail)
    with pytest.warns(DataWarning, match="'flow' was left out: nothing was finite"):
        ica = NonlinearICA(candidates=("flow", "fastica"), random_state=0).fit(rows.X, u=rows.u)
    assert [row["name"] for row in ica.candidates_] == ["fastica", "flow"]
    assert ica.candidates_[1]["error"] == "nothing was finite"
    assert ica.candidates_[1]["held_out"] is None
    with pytest.raises(NonFiniteError, match="nothing was finite"):
        NonlinearICA(candidates=("flow",)).fit(rows.X, u=rows.u)


def test_what_cannot_be_is_refused_and_what_is_doubtful_is_said(rows):
    with pytest.raises(ValueError, match="candidates must be some of"):
        NonlinearICA(candidates=("flows",)).fit(rows.X, u=rows.u)
    with pytest.raises(ValueError, match="candidates must be some of"):
        NonlinearICA(candidates=()).fit(rows.X, u=rows.u)
    with pytest.raises(ValueError, match="requires y to be passed"):
        NonlinearICA().fit(rows.X)
    with pytest.warns(DataWarning, match="compared on the rows"):
        NonlinearICA(candidates=LINEAR, validation_fraction=0, random_state=0).fit(rows.X, y=rows.u)


@pytest.mark.slow
def test_a_flow_is_a_better_start_than_chance_under_little_noise():
    """iFlow's generator with 5 % noise: sources of an iVAE that a short flow taught, and of one without."""
    data = identica.simulate("iflow", seed=402, n_per_segment=300, noise=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        flow = FlowICA(max_iter=800, n_restarts=4, random_state=0).fit(data.X, u=data.u)
        taught, alone = (
            IVAE(decoder="network", max_iter=2000, n_restarts=2, random_state=0)
            .taught_by(teacher)
            .fit(data.X, u=data.u)
            for teacher in (flow, None)
        )
    scores = [
        identica.metrics.mcc(data.S, e.transform(data.X, u=data.u), within=data.u) for e in (taught, alone)
    ]
    print(scores)
    assert scores[0] > scores[1] + 0.03
