"""`GaussianMixture`: against scikit-learn from the same start, the closed form, and its own monotonicity."""

import numpy as np
import pytest
from scipy import stats
from sklearn.mixture import GaussianMixture as Reference
from sklearn.utils.estimator_checks import check_estimator

import identica
from identica import DataError, GaussianMixture
from identica.errors import NotMonotoneError
from identica.training import loop

KINDS = {"full": "full", "diagonal": "diag", "spherical": "spherical"}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_solver = pytest.mark.parametrize("solver", ["em", "gradient"])


def geyser(seed=0):
    """272 rows with the moments of short and long eruptions of Old Faithful (minutes)."""
    rng = np.random.default_rng(seed)
    short = rng.multivariate_normal([2.04, 54.5], [[0.07, 0.44], [0.44, 33.7]], 97)
    long = rng.multivariate_normal([4.29, 80.0], [[0.17, 0.94], [0.94, 36.0]], 175)
    return rng.permutation(np.concatenate([short, long]))


X = geyser()
FIRST = np.array([[2.5, 60.0], [4.0, 75.0]])


def reference(kind, X=X):
    """scikit-learn's EM run to the end from `FIRST`, equal weights and the covariance of all rows."""
    precision = np.linalg.inv(np.cov(X.T, ddof=0))
    one = {"full": precision, "diagonal": 1 / X.var(axis=0), "spherical": 1 / X.var(axis=0).mean()}[kind]
    return Reference(
        2,
        covariance_type=KINDS[kind],
        means_init=FIRST,
        weights_init=[0.5, 0.5],
        precisions_init=np.stack([one, one]),
        reg_covar=0,
        tol=1e-12,
        max_iter=20_000,
    ).fit(X)


@each_solver
@each_kind
def test_agrees_with_scikit_learn_from_the_same_start(kind, solver):
    theirs = reference(kind)
    ours = GaussianMixture(2, covariance=kind, solver=solver, start=FIRST, floor=1e-9).fit(X)
    assert len(X) * abs(ours.score(X) - theirs.score(X)) < 1e-4  # nats of all rows together
    order = np.argsort(-theirs.weights_)
    np.testing.assert_allclose(ours.weights_, theirs.weights_[order], atol=1e-3)
    np.testing.assert_allclose(ours.means_, theirs.means_[order], rtol=1e-3)
    np.testing.assert_allclose(ours.covariances_, theirs.covariances_[order], rtol=0.02, atol=2e-3)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X)[:, order], atol=1e-3)
    assert ours.converged_


@each_kind
def test_one_component_is_the_gaussian_in_closed_form_in_one_step(kind):
    fitted = GaussianMixture(1, covariance=kind, floor=1e-9, random_state=0).fit(X)
    covariance = np.cov(X.T, ddof=0)
    if kind != "full":
        variance = np.diag(covariance)
        covariance = np.diag(variance if kind == "diagonal" else np.full(2, variance.mean()))
    expected = stats.multivariate_normal(X.mean(axis=0), covariance).logpdf(X)
    np.testing.assert_allclose(fitted.score_samples(X), expected, rtol=1e-8)
    assert fitted.n_iter_ == 1
    assert fitted.converged_


@each_kind
def test_no_step_of_em_lowers_the_likelihood(kind, monkeypatch):
    # Every step is compared with the one before it in the compiled loop; here the limit is 1e-8 at most.
    assert loop.LARGEST_RISE["float64"] <= 1e-8
    seen = []
    monkeypatch.setattr(loop, "_check_monotone", lambda name, step, rise, dtype: seen.append(rise))
    fitted = GaussianMixture(3, covariance=kind, start="random", random_state=1).fit(X)
    assert len(seen) == fitted.n_iter_ / 10
    assert max(seen) < 1e-10
    losses = fitted.history_["loss"].reshape(-1, 4)[1:]
    assert (np.diff(losses, axis=0) < 1e-10).all()
    assert losses[0].max() - losses[-1].min() > 0.01  # there was something to climb


def test_an_update_that_lowers_the_likelihood_is_an_error(monkeypatch):
    from identica.objectives.mixture_likelihood import MixtureUpdate

    right = MixtureUpdate.__call__

    def wrong(self, model, data):
        new, value = right(self, model, data)
        return type(new)(new.log_weights, new.means + 0.5, new.roots, new.floor), value

    monkeypatch.setattr(MixtureUpdate, "__call__", wrong)
    with pytest.raises(NotMonotoneError, match="made the objective worse"):
        GaussianMixture(4, random_state=0, floor=1.1e-6).fit(X)


def test_a_component_on_one_row_stops_at_the_floor():
    far = np.concatenate([X, [[40.0, 700.0]]])
    fitted = GaussianMixture(3, floor=1e-4, random_state=0).fit(far)
    smallest = np.linalg.eigvalsh(fitted.covariances_ / np.outer(far.std(0), far.std(0)))[:, 0]
    assert np.isclose(smallest.min(), 1e-4, rtol=1e-6)


def test_units_of_the_columns_change_nothing():
    a = GaussianMixture(2, n_restarts=1, random_state=0).fit(X)
    b = GaussianMixture(2, n_restarts=1, random_state=0).fit(X * [60.0, 1e-3] + [5.0, -2.0])
    np.testing.assert_allclose(a.weights_, b.weights_, rtol=1e-6)
    np.testing.assert_allclose(b.score(X * [60.0, 1e-3] + [5.0, -2.0]) + np.log(0.06), a.score(X), rtol=1e-6)


@each_kind
def test_draws_have_the_moments_of_the_mixture(kind):
    fitted = GaussianMixture(2, covariance=kind, start=FIRST).fit(X)
    drawn, which = fitted.sample(40_000, random_state=1)
    np.testing.assert_allclose(np.bincount(which) / len(which), fitted.weights_, atol=0.01)
    for k in range(2):
        part = drawn[which == k]
        full = fitted.covariances_[k] * np.eye(2) if kind != "full" else fitted.covariances_[k]
        np.testing.assert_allclose(part.mean(0), fitted.means_[k], rtol=0.02)
        sd = np.sqrt(np.diag(full))
        np.testing.assert_allclose(np.cov(part.T) / np.outer(sd, sd), full / np.outer(sd, sd), atol=0.03)


def test_saved_and_loaded_it_says_the_same(tmp_path):
    fitted = GaussianMixture(2, start=FIRST).fit(X)
    fitted.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(again.score_samples(X), fitted.score_samples(X))
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    exact = fitted.log_likelihood(X)
    assert exact.kind == "exact"
    assert exact.value == pytest.approx(fitted.score(X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance": "tied"}, "covariance must be one of spherical, diagonal, full"),
        ({"solver": "newton"}, "solver must be one of em, gradient"),
        ({"start": "zeros"}, "start must be one of k-means, random or means"),
        ({"start": np.zeros((3, 2))}, r"shape \(2, 2\), got \(3, 2\)"),
        ({"floor": 0.0}, "floor must be a positive number"),
        ({"n_components": 500}, "X has 272 rows"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(**{"n_components": 2, **options}).fit(X)
    with pytest.raises(DataError, match="constant column"):
        GaussianMixture(2).fit(np.column_stack([X, np.ones(len(X))]))


@pytest.mark.slow
def test_scikit_learn_finds_nothing_to_complain_about():
    check_estimator(GaussianMixture())
