"""`LinearICA`: what y means to it, and Picard beside FastICA."""

import sys

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import identica
from identica.errors import DataError

OPTIONS = {"max_iter": 50, "validation_fraction": 0.0, "random_state": 0}


@pytest.mark.parametrize(
    "estimator", [identica.LinearICA(**OPTIONS), identica.VAE(n_restarts=1, **OPTIONS)], ids=["linear", "vae"]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_y_is_not_u_where_u_is_not_needed(rows, estimator):
    """scikit-learn's tools pass y to every score; an estimator that takes no y must not read it as u."""
    other = np.random.default_rng(0).normal(size=len(rows.X))
    estimator.fit(rows.X, u=rows.u)
    expected = estimator.score(rows.X)
    assert estimator.score(rows.X, other) == expected
    assert estimator.score(rows.X, rows.u) == expected


def test_y_is_u_where_u_is_needed(rows):
    ica = identica.LinearICA(method="joint-diagonalization", **OPTIONS).fit(rows.X, rows.u)
    assert ica.score(rows.X, rows.u) == ica.score(rows.X, u=rows.u)
    assert ica.score(rows.X, rows.u) != ica.score(rows.X)
    with pytest.raises(DataError, match="values the model was not fitted on"):
        ica.score(rows.X, rows.u + 7)


def super_gaussian(n_rows=4000, seed=0):
    """Sources of which two are heavy-tailed and one is flat, mixed linearly, and the mixing matrix."""
    rng = np.random.default_rng(seed)
    S = np.column_stack([rng.laplace(size=n_rows), rng.standard_t(5, n_rows), rng.uniform(-1, 1, n_rows)])
    A = rng.normal(size=(3, 3))
    return S, S @ A.T + 3, A


def test_a_missing_picard_is_said_with_the_extra_that_brings_it(rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "picard", None)
    with pytest.raises(DataError, match=r"pip install 'identica\[picard\]'"):
        identica.LinearICA(method="picard", **OPTIONS).fit(rows.X)


def test_picard_recovers_sources_and_ends_where_fastica_does():
    pytest.importorskip("picard")
    S, X, A = super_gaussian()
    options = {"max_iter": 300, "random_state": 0}
    picard = identica.LinearICA(method="picard", **options).fit(X)
    assert picard.converged_
    assert identica.metrics.mcc(S, picard.transform(X)) > 0.999
    # Sources are a linear map of X: the product of unmixing and mixing is a scaled permutation.
    product = np.abs(picard.components_ @ A)
    largest = np.sort(product / product.max(axis=1, keepdims=True), axis=1)[:, -2]
    assert (largest < 0.05).all()
    fastica = identica.LinearICA(method="fastica", **options).fit(X)
    assert identica.metrics.mcc(picard.transform(X), fastica.transform(X)) > 0.999
    held_out = X[picard.held_out_rows_]
    difference = picard.score_samples(held_out) - fastica.score_samples(held_out)
    assert abs(difference.mean()) < 0.01


def test_picard_says_when_it_did_not_converge():
    pytest.importorskip("picard")
    with pytest.warns(ConvergenceWarning, match="stopped at max_iter"):
        ica = identica.LinearICA(method="picard", max_iter=2, random_state=0).fit(super_gaussian()[1])
    assert not ica.converged_


def test_picard_takes_a_single_column():
    pytest.importorskip("picard")
    X = np.random.default_rng(0).laplace(size=(300, 1))
    ica = identica.LinearICA(method="picard", random_state=0).fit(X)
    assert abs(np.corrcoef(ica.transform(X)[:, 0], X[:, 0])[0, 1]) == pytest.approx(1)


@pytest.mark.parametrize("method", ["fastica", "picard", "joint-diagonalization"])
def test_the_likelihood_is_a_density_of_the_observations(method):
    """It integrates to 1 over the plane of x, by sums over a grid, whatever the method."""
    if method == "picard":
        pytest.importorskip("picard")
    rng = np.random.default_rng(1)
    u = np.repeat([0, 1, 2], 400)
    X = (rng.laplace(size=(1200, 2)) * np.array([[1, 2], [3, 1], [0.5, 1]])[u]) @ np.array([[2, 1], [0.5, 1]])
    ica = identica.LinearICA(method=method, random_state=0).fit(X, u=u)
    side = np.linspace(-60, 60, 601)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    given = {"u": np.full(len(grid), 1)} if method == "joint-diagonalization" else {}
    mass = np.exp(ica.score_samples(grid, **given)).sum() * (side[1] - side[0]) ** 2
    assert mass == pytest.approx(1, abs=0.01)
