"""Observation families against scipy, their first linear decoders, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from identica import IVAE, VAE
from identica.conditionals import (
    BernoulliObservation,
    CategoricalObservation,
    NegativeBinomialObservation,
    StudentTObservation,
)
from identica.conditionals.encoders import encoded_columns
from identica.conditionals.observations.options import LIKELIHOODS, check_values, observation_of
from identica.errors import DataError

KEY = jax.random.key(0)
CLOSE = {"rtol": 2e-4, "atol": 2e-4}
QUICK = {"hidden_sizes": (8,), "max_iter": 30, "n_restarts": 1, "random_state": 0}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_student_t_density(rng):
    observation = StudentTObservation(jnp.array([-1.0, 0.0, 0.5]), jnp.array([-1.0, 1.0, 3.0]))
    output, x = rng.normal(size=(5, 3)), 4 * rng.normal(size=(5, 3))
    scale = np.sqrt(1e-5 + np.exp(2 * np.array([-1.0, 0.0, 0.5])))
    expected = stats.t.logpdf(x, 1 + np.exp([-1.0, 1.0, 3.0]), output, scale).sum(axis=1)
    np.testing.assert_allclose(observation(jnp.asarray(output)).log_prob(x), expected, **CLOSE)
    np.testing.assert_array_equal(observation.mean(output), output)


@pytest.mark.parametrize("log_concentration", [-1.0, 1.5, 6.0])
def test_negative_binomial_density(log_concentration, rng):
    observation = NegativeBinomialObservation(jnp.full(3, log_concentration))
    output, counts = rng.normal(size=(6, 3)) + 1, rng.integers(0, 30, size=(6, 3))
    mean, r = np.exp(output), np.exp(log_concentration)
    expected = stats.nbinom.logpmf(counts, r, r / (r + mean)).sum(axis=1)
    given = observation(jnp.asarray(output))
    np.testing.assert_allclose(given.log_prob(counts), expected, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(observation.mean(jnp.asarray(output)), mean, rtol=1e-3)


def test_negative_binomial_draws_have_the_stated_moments():
    mean, r = np.array([0.7, 4.0]), 2.5
    observation = NegativeBinomialObservation(jnp.full(2, jnp.log(r)))
    draws = np.asarray(observation(jnp.log(jnp.asarray(mean))).sample(KEY, (20_000,)), np.float64)
    spread = mean + mean**2 / r
    assert (np.abs(draws.mean(axis=0) - mean) < 5 * np.sqrt(spread / 20_000)).all()
    np.testing.assert_allclose(draws.var(axis=0), spread, rtol=0.1)


def test_negative_binomial_bounds_the_mean():
    observation = NegativeBinomialObservation.of_columns(1)
    assert float(observation.mean(jnp.array([1e4]))[0]) < np.exp(12.01)
    assert np.isfinite(observation(jnp.array([[1e4]])).log_prob(jnp.array([[3.0]]))).all()


def test_categorical_density_and_draws(rng):
    sizes = (3, 2, 5)
    observation = CategoricalObservation(sizes)
    assert observation.outputs(3) == 10
    output = rng.normal(size=(4, 10))
    codes = np.stack([rng.integers(0, size, 4) for size in sizes], axis=1).astype(float)
    parts = np.split(output, np.cumsum(sizes)[:-1], axis=1)
    log_shares = [part - np.logaddexp.reduce(part, axis=1, keepdims=True) for part in parts]
    expected = sum(log_shares[j][np.arange(4), codes[:, j].astype(int)] for j in range(3))
    given = observation(jnp.asarray(output))
    np.testing.assert_allclose(given.log_prob(jnp.asarray(codes)), expected, **CLOSE)
    np.testing.assert_array_equal(
        observation.mean(jnp.asarray(output)), np.stack([part.argmax(axis=1) for part in parts], axis=1)
    )
    draws = np.asarray(given.sample(KEY, (20_000,)))
    for j, shares in enumerate(log_shares):
        found = (draws[:, :, j, None] == np.arange(sizes[j])).mean(axis=0)
        np.testing.assert_allclose(found, np.exp(shares), atol=0.02)
    assert (draws.max(axis=(0, 1)) == np.array(sizes) - 1).all()


def test_two_categories_are_bernoulli(rng):
    logits, ones = rng.normal(size=(5, 3)), rng.integers(0, 2, size=(5, 3)).astype(float)
    pairs = np.stack([np.zeros_like(logits), logits], axis=2).reshape(5, 6)
    two = CategoricalObservation((2, 2, 2))(jnp.asarray(pairs)).log_prob(jnp.asarray(ones))
    np.testing.assert_allclose(two, BernoulliObservation()(jnp.asarray(logits)).log_prob(ones), **CLOSE)


def test_codes_become_indicators():
    codes = np.array([[0.0, 2.0], [1.0, 0.0]])
    got = encoded_columns(codes, "one-hot", (2, 3))
    np.testing.assert_array_equal(got, [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]])


def linear_rows(rng, rows=4000):
    z = rng.normal(size=(rows, 2))
    return z, z @ np.array([[0.8, -0.5, 0.0], [0.2, 0.4, -0.7]])


def test_first_decoders_fit_rows_of_their_own_family(rng):
    """From the best constant to the truth, the linear start goes most of the way."""
    z, eta = linear_rows(rng)
    uniform = rng.uniform(size=eta.shape)
    rows = {
        "student-t": eta + 0.3 * stats.t.ppf(uniform, 2.5),
        "bernoulli": (stats.logistic.ppf(uniform) < eta - 2) * 1.0,
        "poisson": stats.poisson.ppf(uniform, np.exp(eta + 0.5)),
        "negative-binomial": stats.nbinom.ppf(uniform, 2.0, 2.0 / (2.0 + np.exp(eta + 0.5))),
        "categorical": np.digitize(eta + stats.logistic.ppf(uniform), [-1.0, 1.0, 2.0]) * 1.0,
    }
    below = stats.logistic.cdf(np.array([-np.inf, -1.0, 1.0, 2.0, np.inf]) - eta[..., None])
    chosen = np.take_along_axis(np.diff(below, axis=2), rows["categorical"].astype(int)[..., None], axis=2)
    truth = {
        "categorical": np.log(chosen[..., 0]),
        "student-t": stats.t.logpdf(rows["student-t"], 2.5, eta, 0.3),
        "bernoulli": stats.bernoulli.logpmf(rows["bernoulli"], 1 / (1 + np.exp(2 - eta))),
        "poisson": stats.poisson.logpmf(rows["poisson"], np.exp(eta + 0.5)),
        "negative-binomial": stats.nbinom.logpmf(
            rows["negative-binomial"], 2.0, 2.0 / (2.0 + np.exp(eta + 0.5))
        ),
    }
    for likelihood, x in rows.items():
        observation = observation_of(likelihood, "diagonal", x)
        weight, bias, start = observation.linear_start(z, x)
        flat, level, constant = observation.linear_start(np.zeros_like(z), x)
        found = np.asarray(start(jnp.asarray(z @ weight + bias)).log_prob(jnp.asarray(x))).mean()
        without = np.asarray(constant(jnp.asarray(z @ flat + level)).log_prob(jnp.asarray(x))).mean()
        best = truth[likelihood].sum(axis=1).mean()
        assert found > without + 0.6 * (best - without), likelihood


def test_rare_ones_start_at_their_share(rng):
    z = rng.normal(size=(5000, 2))
    x = (rng.uniform(size=(5000, 3)) < [0.01, 0.2, 0.97]).astype(float)
    weight, bias, _ = BernoulliObservation().linear_start(z, x)
    shares = (1 / (1 + np.exp(-(z[:4096] @ weight + bias)))).mean(axis=0)
    np.testing.assert_allclose(shares, x.mean(axis=0), atol=1e-3)


@pytest.mark.parametrize(
    ("likelihood", "value", "message"),
    [
        ("bernoulli", 0.5, r"needs values 0 and 1, but column 1 holds 0.5 \(row 2\); threshold X"),
        ("poisson", -1.0, "needs counts 0, 1, 2, … but column 1 holds -1|needs counts"),
        ("negative-binomial", 1.5, "needs counts 0, 1, 2, …, but column 1 holds 1.5"),
        ("categorical", 1.5, "needs codes 0, 1, 2, … in each column, but column 1 holds 1.5.*OrdinalEncoder"),
    ],
)
def test_values_that_a_likelihood_cannot_have_are_named(likelihood, value, message):
    x = np.zeros((4, 2))
    check_values(likelihood, x)
    x[2, 1] = value
    with pytest.raises(DataError, match=message):
        check_values(likelihood, x)


def test_numbers_are_not_taken_for_categories():
    years = np.stack([np.arange(50) % 2, 1990 + np.arange(50) % 10], axis=1).astype(float)
    with pytest.raises(
        DataError, match=r"column 1 holds 10 distinct values up to 1999; number its categories"
    ):
        observation_of("categorical", "diagonal", years)


def test_noise_is_an_option_of_gaussian_observations_only():
    with pytest.raises(ValueError, match="noise='isotropic' is an option of likelihood='gaussian'"):
        observation_of("poisson", "isotropic", np.zeros((3, 2)))
    with pytest.raises(ValueError, match="likelihood must be one of gaussian, student-t"):
        observation_of("cauchy", "diagonal", np.zeros((3, 2)))


def categories(rng, rows=400):
    """Three columns of 3, 2 and 4 categories that two factors decide."""
    _, eta = linear_rows(rng, rows)
    noisy = 3 * eta + rng.logistic(size=eta.shape)
    cuts = ([-1.0, 1.0], [0.0], [-2.0, 0.0, 2.0])
    return np.stack([np.digitize(noisy[:, j], c) for j, c in enumerate(cuts)], axis=1).astype(float)


def test_new_rows_must_not_bring_new_categories(rng):
    X = categories(rng)
    vae = VAE(2, likelihood="categorical", **QUICK).fit(X)
    assert set(np.unique(vae.inverse_transform(vae.transform(X)))) <= {0.0, 1.0, 2.0, 3.0}
    assert (vae.sample(50, random_state=0)[0].max(axis=0) <= [2, 1, 3]).all()
    X[5, 1] = 2
    with pytest.raises(DataError, match="needs categories that occurred in the fit, but column 1 holds 2"):
        vae.transform(X)
    assert observation_of("categorical", "diagonal", X).sizes == (3, 3, 4)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("estimator", [VAE, IVAE])
def test_every_family_through_both_estimators(likelihood, estimator, rng, tmp_path):
    import identica

    u = np.repeat(np.arange(6), 100)
    S = rng.uniform(0.3, 2, (6, 2))[u] * rng.standard_normal((600, 2))
    eta = S @ rng.normal(size=(2, 5)) * 0.6
    X = {
        "gaussian": eta + 0.3 * rng.standard_normal(eta.shape),
        "student-t": eta + 0.2 * rng.standard_t(2, eta.shape),
        "bernoulli": (rng.logistic(size=eta.shape) < eta) * 1.0,
        "poisson": rng.poisson(np.exp(1 + eta)) * 1.0,
        "negative-binomial": rng.poisson(np.exp(1 + eta) * rng.gamma(2, 0.5, eta.shape)) * 1.0,
        "categorical": np.digitize(eta + rng.logistic(size=eta.shape), [-1, 1]) * 1.0,
    }[likelihood]
    fitted = estimator(2, likelihood=likelihood, **{**QUICK, "max_iter": 300}).fit(X, u=u)
    assert np.isfinite(fitted.score(X, u=u))
    assert fitted.inverse_transform(fitted.transform(X[:7])).shape == (7, 5)
    fitted.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(
        again.score_samples(X[:30], u=u[:30]), fitted.score_samples(X[:30], u=u[:30])
    )


@pytest.mark.slow
def test_heavy_tails_and_overdispersion_are_worth_their_parameters():
    """On rows with gross errors (overdispersed counts) the wider family scores better on new rows."""
    rng = np.random.default_rng(1)
    _, eta = linear_rows(rng, 3000)
    eta = np.concatenate([eta, -eta, eta], axis=1)
    options = {"hidden_sizes": (8,), "max_iter": 1000, "n_restarts": 1, "random_state": 0}
    rows = {
        ("gaussian", "student-t"): eta + 0.3 * rng.standard_t(1.8, eta.shape),
        ("poisson", "negative-binomial"): rng.poisson(np.exp(1 + eta) * rng.gamma(1.5, 1 / 1.5, eta.shape)),
    }
    for (narrow, wide), X in rows.items():
        scores = [VAE(2, likelihood=name, **options).fit(X[:2500]).score(X[2500:]) for name in (narrow, wide)]
        assert scores[1] > scores[0] + 1, (wide, scores)
