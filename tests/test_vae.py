"""VAE against closed-form linear models and against what it must beat."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning

import identica
from identica import VAE
from identica.errors import DataError

OPTIONS = {"hidden_sizes": (), "validation_fraction": 0, "random_state": 0, "n_restarts": 1}


@pytest.fixture(scope="module")
def factors():
    """Two factors in five columns, with different noise in each column."""
    rng = np.random.default_rng(0)
    noise = np.array([0.3, 0.5, 0.8, 0.4, 0.6])
    return rng.normal(size=(1500, 2)) @ rng.normal(size=(2, 5)) + noise * rng.normal(size=(1500, 5)) + 3


@pytest.fixture(scope="module")
def analysed(factors):
    return VAE(2, max_iter=1000, **OPTIONS).fit(factors)


@pytest.fixture(scope="module")
def best(factors):
    """Log-likelihood of factor analysis at its maximum, nats per row, by EM in another library."""
    return FactorAnalysis(2, tol=1e-5, max_iter=5000, svd_method="lapack").fit(factors).score(factors)


def test_diagonal_noise_is_factor_analysis(factors, analysed, best):
    found = analysed.log_likelihood(factors)
    assert found.kind == "exact"
    assert best - 1e-3 < found.value < best + 1e-5
    assert analysed.score(factors) == pytest.approx(found.value, abs=1e-3)


def test_few_rows_with_defaults_reach_the_maximum(factors):
    X = factors[:500]
    maximum = FactorAnalysis(2, tol=1e-5, max_iter=5000, svd_method="lapack").fit(X).score(X)
    vae = VAE(2, hidden_sizes=(), validation_fraction=0, random_state=0).fit(X)
    assert maximum - 1e-3 < vae.log_likelihood(X).value < maximum + 1e-5


def test_isotropic_noise_is_probabilistic_pca(factors):
    vae = VAE(2, noise="isotropic", max_iter=1000, **OPTIONS).fit(factors)
    scale = factors.std(axis=0)
    expected = PCA(2).fit(factors / scale).score(factors / scale) - np.log(scale).sum()
    assert vae.log_likelihood(factors).value == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_importance_weighted_objective_finds_the_same_maximum(factors, best):
    vae = VAE(2, objective="iwae", max_iter=2500, **OPTIONS).fit(factors)
    assert vae.log_likelihood(factors).value == pytest.approx(best, abs=0.02)


def test_u_is_accepted_and_changes_nothing(factors, analysed):
    u = np.arange(len(factors)) % 3
    np.testing.assert_array_equal(analysed.transform(factors, u=u), analysed.transform(factors))
    with_u = VAE(2, max_iter=50, **OPTIONS).fit(factors, u=u)
    without = VAE(2, max_iter=50, **OPTIONS).fit(factors)
    np.testing.assert_array_equal(with_u.transform(factors), without.transform(factors))


def test_draws_look_like_the_data(factors, analysed):
    X, S = analysed.sample(20_000, random_state=0)
    np.testing.assert_allclose(X.mean(axis=0), factors.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(np.cov(X.T), np.cov(factors.T), atol=0.15)
    np.testing.assert_allclose(np.cov(S.T), np.diag(np.diag(np.cov(S.T))), atol=0.05)
    again, _ = analysed.sample(20_000, random_state=0)
    np.testing.assert_array_equal(X, again)


def ring(rows=3000, seed=0):
    """A noisy ring in three columns: nothing linear describes it."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, rows)
    circle = np.stack([np.cos(angle), np.sin(angle), np.cos(angle) * np.sin(angle)], axis=1)
    return circle + 0.1 * rng.normal(size=(rows, 3))


@pytest.fixture(scope="module")
def curved():
    X = ring()
    return X, VAE(2, max_iter=1500, n_restarts=1, random_state=0).fit(X)


def test_a_network_beats_the_best_linear_model(curved):
    X, vae = curved
    fresh = ring(seed=1)
    linear = FactorAnalysis(2).fit(X).score(fresh)
    elbo = vae.log_likelihood(fresh, method="elbo")
    best = vae.log_likelihood(fresh)
    assert best.kind == "lower"
    assert elbo.value < vae.score(fresh) < best.value
    assert vae.score(fresh) > linear + 0.3


def bent(rows, seed):
    """A parabola with noise, as many columns as sources, and its log-density in closed form."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, rows))
    truth = norm.logpdf(a).mean() + norm.logpdf(0.3 * b, scale=0.3).mean()
    return np.stack([a, a**2 + 0.3 * b], axis=1), truth


@pytest.mark.slow
def test_as_many_components_as_columns_still_bend():
    # Principal components leave no residual here; a start without noise would stay near them.
    X, _ = bent(4000, 0)
    fresh, truth = bent(2000, 1)
    gaussian = multivariate_normal(X.mean(axis=0), np.cov(X.T)).logpdf(fresh).mean()
    found = VAE(max_iter=1500, n_restarts=1, random_state=0).fit(X).score(fresh)
    assert gaussian + 1.0 < found < truth


def test_a_saved_model_gives_the_same_numbers(curved, tmp_path):
    X, vae = curved
    vae.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(X[:20]), vae.transform(X[:20]))
    np.testing.assert_array_equal(again.score_samples(X[:20]), vae.score_samples(X[:20]))


def test_a_large_beta_closes_components(factors):
    with pytest.warns(ConvergenceWarning, match="posterior collapse"):
        vae = VAE(2, beta=50.0, max_iter=1500, **{**OPTIONS, "hidden_sizes": (4,)}).fit(factors)
    assert vae.collapsed_components_.size == 2


@pytest.mark.slow
def test_binary_rows_beat_independent_columns():
    rng = np.random.default_rng(0)
    log_odds = 3 * rng.normal(size=(2500, 2)) @ rng.normal(size=(2, 12))
    X = (rng.logistic(size=log_odds.shape) < log_odds).astype(float)
    vae = VAE(2, likelihood="bernoulli", max_iter=1500, n_restarts=1, random_state=0).fit(X[:2000])
    share = X[:2000].mean(axis=0)
    independent = (X[2000:] * np.log(share) + (1 - X[2000:]) * np.log(1 - share)).sum(axis=1).mean()
    truth = -np.logaddexp(0, np.where(X > 0, -log_odds, log_odds))[2000:].sum(axis=1).mean()
    assert independent + 1 < vae.score(X[2000:]) < truth


def test_few_rows_end_early_with_the_weights_that_held_out_rows_chose():
    X, _ = bent(60, 0)
    fresh, _ = bent(2000, 1)
    vae = VAE(n_restarts=1, random_state=0).fit(X)
    held_out = vae.history_["held_out"]
    assert vae.n_iter_ < 4000
    assert vae.restarts_[0]["held_out"] == held_out.min()
    # Learning by heart would cost far more than a Gaussian does.
    gaussian = multivariate_normal(X.mean(axis=0), np.cov(X.T)).logpdf(fresh).mean()
    assert vae.score(fresh) > gaussian


def test_wrong_options_are_refused(factors):
    with pytest.raises(ValueError, match="objective must be one of"):
        VAE(2, objective="mse").fit(factors)
    with pytest.raises(DataError, match="has no meaning"):
        VAE(2, objective="iwae", beta=2.0).fit(factors)
    with pytest.raises(ValueError, match="prior must be"):
        VAE(2, prior="uniform").fit(factors)
