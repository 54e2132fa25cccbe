"""`VariationalEM`: against factor analysis, closed forms and published item responses; the bound never falls."""

import numpy as np
import pytest
from scipy import optimize
from sklearn.decomposition import FactorAnalysis
from sklearn.utils.estimator_checks import check_estimator

import identica
from identica import VAE, DataError, VariationalEM
from identica.descent import descend
from identica.training import loop

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ALL_ROWS = {"validation_fraction": 0.0, "random_state": 0}
LINEAR = {"hidden_sizes": (), **ALL_ROWS}
LONG = {"max_iter": 3000, "tolerance": 1e-9}


def factors(n_rows=500, d=8, n=2, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n_rows, d)) * rng.uniform(0.3, 1.2, d)
    return 1 + rng.standard_normal((n_rows, n)) @ rng.standard_normal((n, d)) + noise


X = factors()


def principal_components_likelihood(x, n):
    """Mean log-likelihood of probabilistic PCA at its maximum (Tipping and Bishop, 1999, eq. 8), nats per row."""
    d = x.shape[1]
    values = np.linalg.eigvalsh(np.cov(x.T, ddof=0))[::-1]
    rest = values[n:].mean()
    return -0.5 * (d * np.log(2 * np.pi) + np.log(values[:n]).sum() + (d - n) * np.log(rest) + d)


@pytest.fixture(scope="module")
def reference():
    return FactorAnalysis(2, tol=1e-12, max_iter=20_000, svd_method="lapack").fit(X).score(X)


# Linear: the case in which every road must meet --------------------------------------------------------


@pytest.fixture(scope="module")
def factor_analysis():
    return VariationalEM(2, **LINEAR, **LONG).fit(X)


def test_exact_em_reaches_factor_analysis(factor_analysis, reference):
    found = factor_analysis.log_likelihood(X)
    assert found.kind == "exact"
    assert abs(found.value - reference) < 1e-6  # nats per row
    assert factor_analysis.e_step_ == "exact"
    assert factor_analysis.converged_


def test_its_likelihood_is_that_of_the_gaussian_with_its_covariance(factor_analysis):
    from scipy import stats

    decoder = factor_analysis.model_.model.likelihood
    scale = factor_analysis.whitening_.scale
    weight = np.asarray(decoder.network.weights[0]) * scale
    noise = (1e-5 + np.exp(np.asarray(decoder.observation.log_variance))) * scale**2
    expected = stats.multivariate_normal(X.mean(0), weight.T @ weight + np.diag(noise)).logpdf(X)
    np.testing.assert_allclose(factor_analysis.score_samples(X), expected, atol=1e-4)


def test_exact_em_with_one_noise_reaches_probabilistic_principal_components():
    z = (X - X.mean(0)) / X.std(0)
    fitted = VariationalEM(2, noise="isotropic", **LINEAR, **LONG).fit(z)
    assert abs(fitted.score(z) - principal_components_likelihood(z, 2)) < 1e-6


def test_one_gaussian_per_row_reaches_factor_analysis_too(reference):
    fitted = VariationalEM(2, e_step="variational", max_iter=20, tolerance=1e-7, **LINEAR).fit(X)
    bound = -fitted.history_["loss"][-1] - np.log(X.std(0)).sum()
    assert abs(fitted.log_likelihood(X).value - reference) < 1e-4
    # Diagonal posteriors are exact once columns of W are orthogonal, to which the bound drives them.
    assert abs(bound - reference) < 1e-4


@pytest.mark.slow
def test_the_autoencoder_reaches_factor_analysis_with_hardly_a_gap():
    rows = factors(3000)
    best = FactorAnalysis(2, tol=1e-12, max_iter=20_000, svd_method="lapack").fit(rows).score(rows)
    # Sticking the landing has no variance at the posterior, and all rows at once none from batches.
    options = {
        "gradient": "stl",
        "batch_size": 3000,
        "learning_rate": 1e-2,
        "max_iter": 8000,
        "n_restarts": 1,
    }
    fitted = VAE(2, **options, **LINEAR).fit(rows)
    exact = fitted.log_likelihood(rows, method="exact").value
    bound = -fitted.history_["loss"][-10:].mean() - np.log(rows.std(0)).sum()
    assert abs(exact - best) < 1e-3
    assert abs(exact - bound) < 1e-3


# Quadrature ------------------------------------------------------------------------------------------

# Bock and Lieberman (1970): 1000 answers to section 6 of the Law School Admission Test, by pattern 00000 … 11111.
COUNTS = [3, 6, 2, 11, 1, 1, 3, 4, 1, 8, 0, 16, 0, 3, 2, 15, 10, 29, 14, 81, 3, 28, 15, 80, 16, 56, 21, 173]
COUNTS += [11, 61, 28, 298]
PATTERNS = np.array([[i >> (4 - j) & 1 for j in range(5)] for i in range(32)], float)
ANSWERS = np.repeat(PATTERNS, COUNTS, axis=0)


def two_parameter_likelihood(slopes, intercepts):
    """Log-likelihood of all 1000 rows by 61 Gauss-Hermite nodes, in NumPy."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    odds = intercepts + nodes[:, None] * slopes
    log_p = -np.logaddexp(0, -odds) @ PATTERNS.T - np.logaddexp(0, odds) @ (1 - PATTERNS).T
    return np.array(COUNTS) @ np.log(weights / weights.sum() @ np.exp(log_p))


def test_item_responses_by_quadrature_as_published():
    fitted = VariationalEM(
        1, likelihood="bernoulli", e_step="quadrature", max_iter=200, tolerance=1e-9, **LINEAR
    ).fit(ANSWERS)
    network = fitted.model_.model.likelihood.network
    slopes, intercepts = np.asarray(network.weights[0])[0], np.asarray(network.biases[0])
    assert abs(two_parameter_likelihood(slopes, intercepts) - -2466.653377) < 1e-4
    assert abs(-1000 * fitted.history_["loss"][-1] - -2466.653377) < 1e-4
    np.testing.assert_allclose(np.abs(slopes), [0.82566, 0.72274, 0.89087, 0.68837, 0.65686], atol=2e-3)
    np.testing.assert_allclose(intercepts, [2.77323, 0.99020, 0.24915, 1.28476, 2.05327], atol=2e-3)


# Networks ----------------------------------------------------------------------------------------------


def curve(likelihood, n_rows=150, seed=1):
    rng = np.random.default_rng(seed)
    t = rng.standard_normal(n_rows)
    mean = np.stack([t, t**2 - 1, np.sin(2 * t), -0.5 * t], axis=1)
    if likelihood == "gaussian":
        return mean + 0.2 * rng.standard_normal(mean.shape)
    if likelihood == "poisson":
        return rng.poisson(np.exp(0.7 * np.clip(mean, -2, 2) + 1)).astype(float)
    return (rng.uniform(size=mean.shape) < 1 / (1 + np.exp(-2 * mean))).astype(float)


@pytest.mark.parametrize(
    ("likelihood", "follow"),
    [
        ("gaussian", True),
        ("gaussian", False),
        pytest.param("bernoulli", True, marks=pytest.mark.slow),
        pytest.param("poisson", True, marks=pytest.mark.slow),
    ],
)
def test_the_bound_never_falls_and_rises(likelihood, follow, monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "_check_monotone", lambda name, step, rise, dtype: seen.append(rise))
    rows = curve(likelihood)
    options = {"likelihood": likelihood, "follow": follow, "hidden_sizes": (8,), "max_iter": 4}
    fitted = VariationalEM(1, **options, **ALL_ROWS).fit(rows)
    assert len(seen) == 2
    assert max(seen) < 1e-8  # of all steps, each compared with the one before, relative
    loss = fitted.history_["loss"][1:]
    assert (np.diff(loss) <= 1e-8).all()
    assert loss[0] - loss[-1] > 1e-3


def test_a_network_explains_a_curve_that_no_line_does():
    rows, new = curve("gaussian"), curve("gaussian", seed=2)
    line = VariationalEM(1, **LINEAR).fit(rows).score(new)
    bent = VariationalEM(1, hidden_sizes=(8,), max_iter=6, **ALL_ROWS).fit(rows).score(new)
    assert bent > line + 0.5  # nats per new row


def test_the_e_step_of_new_rows_finds_the_best_gaussian_of_each():
    rows, new = curve("bernoulli"), curve("bernoulli", seed=3)[:5]
    fitted = VariationalEM(
        1, likelihood="bernoulli", hidden_sizes=(8,), n_nodes=40, max_iter=2, **ALL_ROWS
    ).fit(rows)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    network = fitted.model_.model.likelihood.network
    weight, bias = fitted.orientation_

    def negative_bound(q, x):
        z = q[0] + np.exp(q[1]) * nodes
        hidden = z[:, None] @ np.asarray(network.weights[0]) + np.asarray(network.biases[0])
        hidden = hidden / (1 + np.exp(-hidden))
        odds = hidden @ np.asarray(network.weights[1]) + np.asarray(network.biases[1])
        odds = odds + z[:, None] @ np.asarray(network.shortcut)
        log_p = -(np.logaddexp(0, -odds) @ x + np.logaddexp(0, odds) @ (1 - x))
        return 0.5 * (np.exp(2 * q[1]) + q[0] ** 2 - 1) - q[1] - log_p @ weights / weights.sum()

    posterior = fitted.posterior(new)
    for x, mean, std in zip(new, posterior.mean[:, 0], posterior.std[:, 0], strict=True):
        best = optimize.minimize(
            negative_bound, [(mean - bias[0]) / weight[0, 0], -0.5], args=(x,), tol=1e-10
        )
        assert mean == pytest.approx(best.x[0] * weight[0, 0] + bias[0], abs=1e-4)
        assert std == pytest.approx(np.exp(best.x[1]) * abs(weight[0, 0]), rel=1e-4)


def test_rows_far_from_each_other_do_not_change_each_others_posterior():
    fitted = VariationalEM(1, hidden_sizes=(8,), max_iter=2, **ALL_ROWS).fit(curve("gaussian"))
    new = curve("gaussian", seed=4)[:10]
    with_far = np.concatenate([new, 100 * new])
    np.testing.assert_array_equal(fitted.transform(with_far)[:10], fitted.transform(new))


def test_saved_and_loaded_it_says_the_same(tmp_path):
    rows = curve("gaussian")
    fitted = VariationalEM(1, hidden_sizes=(8,), max_iter=2, **ALL_ROWS).fit(rows)
    fitted.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(rows), fitted.transform(rows))
    np.testing.assert_array_equal(again.score_samples(rows), fitted.score_samples(rows))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"e_step": "exact"}, "e_step='exact' needs a linear Gaussian decoder"),
        ({"e_step": "quadrature", "n_components": 4}, "takes up to 3 components, got 4"),
        ({"e_step": "sampled"}, "e_step must be one of auto, exact, quadrature, variational"),
        ({"m_steps": 0}, "m_steps must be a whole number of at least 1"),
        ({"tolerance": -1}, "tolerance must be a positive number"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        VariationalEM(**{"n_components": 2, **options}).fit(X)
    assert issubclass(DataError, ValueError)


# Descent -----------------------------------------------------------------------------------------------


def test_many_small_problems_descend_as_scipy_does_and_never_uphill():
    import jax
    import jax.numpy as jnp

    def rosenbrock(x):
        return (100 * (x[..., 1:] - x[..., :-1] ** 2) ** 2 + (1 - x[..., :-1]) ** 2).sum(-1)

    with jax.enable_x64(True):
        start = jnp.asarray(np.random.default_rng(0).uniform(-2, 2, (20, 3)))
        both = jax.vmap(jax.value_and_grad(rosenbrock))
        ended = descend(both, start, 300, tolerance=1e-16)
        assert bool(ended.converged.all())
        found = np.asarray(ended.x)
        for begin, x in zip(np.asarray(start), found, strict=True):
            theirs = optimize.minimize(lambda v: float(rosenbrock(v)), begin, method="BFGS", tol=1e-9)
            assert rosenbrock(x) <= theirs.fun + 1e-8
        values = [np.asarray(descend(both, start, k).value) for k in (0, 1, 2, 5, 20)]
        assert (np.diff(values, axis=0) <= 0).all()
        # A problem's path does not depend on those beside it, not by a bit.
        others = start.at[4:].set(3 - start[4:])
        np.testing.assert_array_equal(
            np.asarray(descend(both, others, 300, tolerance=1e-16).x)[:4], found[:4]
        )


@pytest.mark.slow
def test_scikit_learn_finds_nothing_to_complain_about():
    check_estimator(VariationalEM(max_iter=10, hidden_sizes=(8,)))
