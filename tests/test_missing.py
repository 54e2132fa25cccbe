"""Missing values: moments and conditional means by other routes, likelihoods of what was seen, refusals."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

import identica
from conftest import make_rows
from identica import IVAE, VAE, DataError
from identica.conditionals import GaussianObservation, MaskedObservation
from identica.conditionals.observations.masked import SeenEntries, with_mask
from identica.linear.missing import IncompleteGaussian
from identica.report.collect import collect

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = {"max_iter": 30, "n_restarts": 1, "hidden_sizes": (), "random_state": 0}
ROWS = make_rows(n_columns=3)


def with_holes(X, share=0.15, seed=0):
    X = np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X)
    X[3] = np.nan
    return X


@pytest.fixture(scope="module")
def fitted():
    X = with_holes(ROWS.X)
    ivae = IVAE(2, missing="marginalise", **QUICK).fit(X, u=ROWS.u)
    vae = VAE(2, missing="marginalise", noise="isotropic", **QUICK).fit(X)
    return X, ivae, vae


# The Gaussian ----------------------------------------------------------------------------------------


def test_moments_are_those_of_the_closed_form_where_one_column_has_holes():
    """Anderson (1957): with one incomplete column the likelihood factors into two regressions."""
    rng = np.random.default_rng(0)
    X = rng.multivariate_normal([0, 1], [[1, 0.7], [0.7, 1.5]], 500)
    X[X[:, 0] > 0.3, 1] = np.nan  # missing at random: the mean of what was seen is far off
    seen = ~np.isnan(X[:, 1])
    (slope, level), left = np.polyfit(X[seen, 0], X[seen, 1], 1, full=True)[:2]
    mean, variance = X[:, 0].mean(), X[:, 0].var()
    fit = IncompleteGaussian.from_rows(X, iterations=1000, tolerance=1e-10)
    np.testing.assert_allclose(fit.mean, [mean, level + slope * mean], atol=1e-4)
    expected = [[variance, slope * variance], [slope * variance, left[0] / seen.sum() + slope**2 * variance]]
    np.testing.assert_allclose(fit.covariance, expected, atol=1e-4)


def test_complete_rows_have_their_own_moments_and_stay_as_they_are():
    X = np.random.default_rng(1).standard_normal((50, 3))
    fit = IncompleteGaussian.from_rows(X)
    np.testing.assert_allclose(fit.mean, X.mean(0), atol=1e-12)
    np.testing.assert_allclose(fit.covariance, np.cov(X.T, bias=True), atol=1e-12)
    assert fit.filled(X) is X


def test_unknown_entries_are_filled_in_by_conditional_means():
    rng = np.random.default_rng(2)
    root = rng.standard_normal((4, 4))
    gaussian = IncompleteGaussian(rng.standard_normal(4), root @ root.T + np.eye(4))
    X = with_holes(rng.standard_normal((40, 4)), 0.4)
    filled = gaussian.filled(X)
    for row, full in zip(X, filled, strict=True):
        o, m = ~np.isnan(row), np.isnan(row)
        C = gaussian.covariance
        expected = gaussian.mean[m] + C[np.ix_(m, o)] @ np.linalg.solve(
            C[np.ix_(o, o)], (row - gaussian.mean)[o]
        )
        np.testing.assert_allclose(full[m], expected, atol=1e-4)
        np.testing.assert_array_equal(full[o], row[o])


# The likelihood --------------------------------------------------------------------------------------


def test_the_density_of_seen_entries_is_the_complete_one_integrated_over_the_others():
    complete = dist.Normal(jnp.array([0.5, -1.0]), jnp.array([0.7, 1.3])).to_event(1)
    grid = np.linspace(-15, 15, 3001)
    rows = np.stack([np.full_like(grid, 0.2), grid], 1)
    integral = np.exp(np.asarray(complete.log_prob(jnp.asarray(rows)))).sum() * (grid[1] - grid[0])
    row = jnp.asarray(with_mask(np.array([[0.2, 99.0]]), np.array([[True, False]])))
    assert float(SeenEntries(complete).log_prob(row)[0]) == pytest.approx(np.log(integral), abs=1e-4)
    drawn = SeenEntries(complete).sample(jax.random.key(0), (5,))
    assert drawn.shape == (5, 4)
    np.testing.assert_array_equal(drawn[:, 2:], 1)


def test_a_linear_start_is_that_of_the_values():
    rng = np.random.default_rng(3)
    z, x = rng.standard_normal((30, 2)), rng.standard_normal((30, 4))
    complete = GaussianObservation.from_option("diagonal", 4)
    masked = MaskedObservation(complete).linear_start(z, with_mask(x, np.ones((30, 4), bool)))
    for a, b in zip(masked[:2], complete.linear_start(z, x)[:2], strict=True):
        np.testing.assert_array_equal(a, b)


def linear_parts(estimator):
    decoder = estimator.model_.model.likelihood
    weight, bias = (
        np.asarray(a, np.float64) for a in (decoder.network.weights[0], decoder.network.biases[0])
    )
    noise = 1e-5 + np.exp(np.asarray(decoder.observation.complete.log_variance, np.float64)) * np.ones(3)
    return weight, bias, noise


def test_the_score_of_a_linear_model_is_the_gaussian_density_of_what_was_seen(fitted):
    X, _, vae = fitted
    weight, bias, noise = linear_parts(vae)
    scale, center = vae.whitening_.scale, vae.whitening_.center
    expected = []
    for row in X[:40]:
        o = ~np.isnan(row)
        mean = center[o] + scale[o] * bias[o]
        covariance = (weight.T @ weight + np.diag(noise))[np.ix_(o, o)] * np.outer(scale[o], scale[o])
        expected.append(multivariate_normal(mean, covariance).logpdf(row[o]) if o.any() else 0.0)
    rows = vae.log_likelihood(X[:40], method="qmc", n_samples=256).rows
    np.testing.assert_allclose(rows, expected, atol=0.02)
    assert (vae.score_samples(X[:40]) < np.array(expected) + 1.0).all()
    assert vae.score(X[:40]) <= np.mean(expected) + 0.02


def test_a_row_without_any_value_has_the_prior_for_its_posterior(fitted):
    X, ivae, vae = fitted
    given = ivae.model_.model.prior(jnp.asarray(ROWS.u[3:4]))
    weight, bias = ivae.orientation_
    expected = np.asarray(given.mean, np.float64) @ weight.T + bias
    np.testing.assert_allclose(ivae.transform(X[3:4], u=ROWS.u[3:4]), expected, atol=1e-3)
    spread = np.sqrt(np.asarray(given.variance, np.float64) @ (weight**2).T)
    np.testing.assert_allclose(ivae.posterior(X[3:4], u=ROWS.u[3:4]).std, spread, rtol=1e-3)
    assert ivae.score_samples(X[3:4], u=ROWS.u[3:4])[0] == pytest.approx(0, abs=1e-4)
    assert ivae.score_samples(X[3:4])[0] == pytest.approx(0, abs=0.05)
    shares = np.bincount(ROWS.u[ivae.fit_rows_]) / len(ivae.fit_rows_)
    everywhere = np.asarray(ivae.model_.model.prior(jnp.arange(3)).mean, np.float64) @ weight.T + bias
    np.testing.assert_allclose(ivae.transform(X[3:4])[0], shares @ everywhere, atol=0.02)
    np.testing.assert_allclose((vae.transform(X[3:4]) - vae.orientation_[1])[0], 0, atol=1e-5)


def test_values_that_are_known_say_more_than_those_that_are_not(fitted):
    X, ivae, _ = fitted
    assert ivae.posterior(X, u=ROWS.u).std[3].mean() > ivae.posterior(ROWS.X, u=ROWS.u).std.mean()
    assert ivae.sample(4, random_state=0)[0].shape == (4, 3)
    assert ivae.inverse_transform(ivae.transform(X)).shape == X.shape


# The estimators --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [1, 2])
def test_what_is_loaded_gives_the_same_bits(fitted, which, tmp_path):
    X, estimator = fitted[0], fitted[which]
    estimator.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(X), estimator.transform(X))


def test_units_change_nothing(fitted):
    X, ivae, _ = fitted
    factor, shift = np.array([1e3, 1e-2, 1.0]), np.array([1e3, -1.0, 0.0])
    other = IVAE(2, missing="marginalise", **QUICK).fit(X * factor + shift, u=ROWS.u)
    np.testing.assert_allclose(other.transform(X * factor + shift), ivae.transform(X), atol=1e-3)
    volume = (~np.isnan(X)) @ np.log(factor)
    rows = other.score_samples(X * factor + shift, u=ROWS.u)
    np.testing.assert_allclose(rows + volume, ivae.score_samples(X, u=ROWS.u), atol=0.02)


def test_what_cannot_be_is_said():
    X = with_holes(ROWS.X)
    with pytest.raises(ValueError, match="contains NaN"):
        IVAE(2, **QUICK).fit(X, u=ROWS.u)
    with pytest.raises(ValueError, match="missing must be one of error, marginalise, got 'drop'"):
        IVAE(2, missing="drop", **QUICK).fit(ROWS.X, u=ROWS.u)
    marginalising = {"missing": "marginalise", **QUICK}
    with pytest.raises(ValueError, match="infinity"):
        VAE(2, **marginalising).fit(np.where(np.isnan(X), np.inf, X))
    with pytest.raises(DataError, match=r"1 column\(s\) without any observed value: 1"):
        VAE(2, **marginalising).fit(np.where(np.arange(3) == 1, np.nan, X))
    with pytest.raises(DataError, match="not for 'poisson'"):
        VAE(2, likelihood="poisson", **marginalising).fit(np.where(np.isnan(X), X, 1.0 + (X > 0)))
    with pytest.raises(DataError, match="decoder='flow' takes complete rows only"):
        IVAE(decoder="flow", **marginalising).fit(X, u=ROWS.u)


@pytest.mark.slow
def test_the_report_takes_rows_with_holes(fitted):
    X, ivae, _ = fitted
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ivae = IVAE(2, missing="marginalise", **QUICK).fit(frame, u=ROWS.u)
        contents = collect(ivae, frame, pd.Series(ROWS.u, name="u"))
    assert np.isfinite(contents.loadings).all()
    findings = {f.name: f for f in contents.findings}
    assert findings["missing values"].value == pytest.approx(np.isnan(X).mean())
    assert "takes complete rows" in findings["gain over linear ICA"].text
