"""IVAE against models whose likelihood, posterior and sources are known."""

import copy
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import identica
from identica import IVAE
from identica.conditionals import GaussNewtonPosterior
from identica.errors import DataError
from identica.estimators import base, posterior_choice
from identica.metrics import mcc
from identica.models import VariationalModel

SEGMENTS, PER_SEGMENT = 12, 200
QUICK = {"max_iter": 2000, "n_restarts": 2, "random_state": 0}


class LinearData:
    """x = z A + c + noise with Gaussian sources modulated in mean and variance; all of it known."""

    def __init__(self, n=2, d=3, seed=0, noise=0.3):
        rng = np.random.default_rng(seed)
        self.mean = rng.uniform(-2, 2, (SEGMENTS, n))
        self.sd = rng.uniform(0.4, 2.5, (SEGMENTS, n))
        self.u = rng.permutation(np.repeat(np.arange(SEGMENTS), PER_SEGMENT))
        self.S = self.mean[self.u] + self.sd[self.u] * rng.standard_normal((len(self.u), n))
        self.A = rng.normal(size=(n, d))
        self.noise = noise * np.linspace(0.7, 1.3, d)
        self.c = np.array([5.0, -3.0, 100.0])[:d]
        self.X = self.S @ self.A + self.c + self.noise * rng.standard_normal((len(self.u), d))

    def log_likelihood(self):
        """True log p(x|u) of each row."""
        values = np.empty(len(self.X))
        for s in range(SEGMENTS):
            rows = self.u == s
            covariance = self.A.T @ np.diag(self.sd[s] ** 2) @ self.A + np.diag(self.noise**2)
            law = stats.multivariate_normal(self.mean[s] @ self.A + self.c, covariance)
            values[rows] = law.logpdf(self.X[rows])
        return values

    def posterior_mean(self):
        """True E[z|x, u]."""
        means = np.empty_like(self.S)
        for s in range(SEGMENTS):
            rows = self.u == s
            precision = self.A / self.noise**2 @ self.A.T + np.diag(self.sd[s] ** -2)
            shift = (self.X[rows] - self.c) / self.noise**2 @ self.A.T + self.mean[s] / self.sd[s] ** 2
            means[rows] = shift @ np.linalg.inv(precision)
        return means


@pytest.fixture(scope="module")
def data():
    return LinearData()


@pytest.fixture(scope="module")
def linear(data):
    """A linear model, for which every public number has an exact value."""
    return IVAE(2, hidden_sizes=(), **QUICK).fit(data.X, u=data.u)


def curved(n=2, d=4, seed=1, noise=0.05, n_segments=20, per_segment=250):
    """Two layers of leaky ReLU and noise: n sources with moving variances in d columns."""
    rng = np.random.default_rng(seed)
    sd = rng.uniform(0.5, 3, (n_segments, n))
    u = np.repeat(np.arange(n_segments), per_segment)
    S = sd[u] * rng.standard_normal((len(u), n))
    hidden = S / S.std(axis=0) @ np.linalg.qr(rng.normal(size=(d, n)))[0].T * np.sqrt(d / n)
    matrix = np.linalg.qr(rng.normal(size=(d, d)))[0]
    X = np.where(hidden > 0, hidden, 0.2 * hidden) @ matrix
    return X + noise * X.std() * rng.standard_normal(X.shape), u, S


@pytest.fixture(scope="module")
def bent():
    """A short fit, made to find posteriors by Gauss-Newton steps, which longer ones choose by themselves."""
    X, u, S = curved()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior_choice, "_CLEAR", -10.0)
        return X, u, S, IVAE(2, max_iter=1500, n_restarts=2, random_state=0).fit(X, u=u)


# Likelihood and posterior -----------------------------------------------------------------------------


def test_likelihood_of_a_linear_model_is_close_to_the_truth(data, linear):
    truth = data.log_likelihood()
    exact = linear.log_likelihood(data.X, u=data.u)
    assert exact.kind == "exact"
    assert exact.value == pytest.approx(truth.mean(), abs=0.05)
    assert exact.standard_error == pytest.approx(truth.std() / np.sqrt(len(truth)), rel=0.1)
    held_out = linear.held_out_rows_
    assert linear.score(data.X[held_out], u=data.u[held_out]) == pytest.approx(
        truth[held_out].mean(), abs=0.1
    )


def test_sources_of_a_linear_model_are_the_true_posterior_means(data, linear):
    truth = data.posterior_mean()
    S = linear.transform(data.X, u=data.u)
    assert mcc(truth, S) > 0.995
    assert mcc(truth, S, within=data.u) > 0.99
    np.testing.assert_allclose(S.std(axis=0), 1.0, atol=0.05)


def test_importance_samples_agree_with_the_exact_likelihood(data, linear):
    exact = linear.log_likelihood(data.X, u=data.u, method="exact").value
    assert linear.log_likelihood(data.X, u=data.u, method="importance").value == pytest.approx(
        exact, abs=1e-3
    )
    assert linear.log_likelihood(data.X, u=data.u, method="elbo").value == pytest.approx(exact, abs=1e-3)


def test_without_u_everything_is_averaged_over_its_posterior(data, linear):
    X = data.X[:40]
    each_u = [np.full(40, s) for s in range(SEGMENTS)]
    shares = np.bincount(data.u[linear.fit_rows_]) / len(linear.fit_rows_)
    joint = np.stack([linear.score_samples(X, u=u) for u in each_u], axis=1) + np.log(shares)
    log_p = np.logaddexp.reduce(joint, axis=1)
    np.testing.assert_allclose(linear.score_samples(X), log_p, atol=2e-3)
    weights = np.exp(joint - log_p[:, None])
    given_u = [linear.posterior(X, u=u) for u in each_u]
    means = np.stack([q.mean for q in given_u], axis=1)
    mean = (weights[..., None] * means).sum(axis=1)
    np.testing.assert_allclose(linear.transform(X), mean, atol=2e-3)
    variances = np.stack([q.std**2 for q in given_u], axis=1) + (means - mean[:, None]) ** 2
    sd = np.sqrt((weights[..., None] * variances).sum(axis=1))
    np.testing.assert_allclose(linear.posterior(X).std, sd, rtol=1e-2)


@pytest.mark.parametrize("with_u", [True, False])
def test_posterior_samples_have_its_moments(data, linear, with_u):
    X, u = data.X[:6], data.u[:6] if with_u else None
    q = linear.posterior(X, u=u)
    draws = q.sample(4000, random_state=0)
    assert draws.shape == (4000, 6, 2)
    np.testing.assert_allclose(draws.mean(axis=0), q.mean, atol=5 * q.std.max() / np.sqrt(4000))
    np.testing.assert_allclose(draws.std(axis=0), q.std, rtol=0.1)
    np.testing.assert_array_equal(draws, q.sample(4000, random_state=0))


def test_samples_of_x_have_the_moments_of_the_data(data, linear):
    segment = 3
    X, S = linear.sample(4000, u=np.full(4000, segment), random_state=1)
    rows = data.X[data.u == segment]
    error = np.sqrt(rows.var(axis=0) / len(rows) + rows.var(axis=0) / 4000)
    assert (np.abs(X.mean(axis=0) - rows.mean(axis=0)) < 4 * error + 0.05).all()
    np.testing.assert_allclose(np.cov(X.T), np.cov(rows.T), atol=0.25 * np.var(rows))
    assert S.shape == (4000, 2)
    everything, _ = linear.sample(6000, random_state=2)
    np.testing.assert_allclose(everything.std(axis=0), data.X.std(axis=0), rtol=0.1)


# The nonlinear model ----------------------------------------------------------------------------------


def test_curved_mixtures_are_undone(bent):
    X, u, S, ivae = bent
    joint = identica.LinearICA(2, method="joint-diagonalization", random_state=0).fit(X, u=u)
    linear = mcc(S, joint.transform(X))
    found = mcc(S, ivae.transform(X, u=u))
    assert found > 0.97
    assert found > linear + 0.05
    assert mcc(S, ivae.transform(X)) > 0.96
    assert ivae.score(X, u=u) > joint.score(X, u=u) + 0.3
    assert ivae.collapsed_components_.size == 0


def test_bounds_are_ordered(bent):
    X, u, _, ivae = bent
    X, u = X[::25], u[::25]
    elbo = ivae.log_likelihood(X, u=u, method="elbo")
    best = ivae.log_likelihood(X, u=u)
    assert best.kind == elbo.kind == "lower"
    # The score is an estimate from 64 draws for each of 200 rows, the best one from quasi-random points: random by .01.
    assert elbo.value < ivae.score(X, u=u) < best.value + 0.02
    with pytest.raises(DataError, match="needs a linear Gaussian model"):
        ivae.log_likelihood(X, u=u, method="exact")


def test_posteriors_by_steps_are_better_than_those_of_the_encoder(bent):
    X, u, _, ivae = bent
    X, u = X[::25], u[::25]
    assert isinstance(ivae.model_.encoder, GaussNewtonPosterior)
    assert "posterior" in ivae.history_["stage"]
    encoded = copy.copy(ivae)
    encoded.model_ = VariationalModel(ivae.model_.model, ivae.model_.encoder.encoder)
    by_steps, by_encoder = (e.log_likelihood(X, u=u, method="elbo").value for e in (ivae, encoded))
    assert by_encoder < by_steps < ivae.log_likelihood(X, u=u).value < by_steps + 0.3


def test_reconstruction_comes_back_in_the_units_of_x(bent):
    X, u, _, ivae = bent
    back = ivae.inverse_transform(ivae.transform(X, u=u))
    residual = (X - back).var(axis=0) / X.var(axis=0)
    assert (residual < 0.02).all()  # noise of 5 % of the scale has a share of .0025


def test_rows_are_treated_alike_in_any_order_and_number(bent):
    X, u, _, ivae = bent
    order = np.random.default_rng(0).permutation(300)
    for method in (ivae.transform, ivae.score_samples):
        np.testing.assert_array_equal(
            method(X[:300][order], u=u[:300][order]), method(X[:300], u=u[:300])[order]
        )
        np.testing.assert_array_equal(method(X[:7], u=u[:7]), method(X[:300], u=u[:300])[:7])


def test_a_saved_model_gives_the_same_numbers(bent, tmp_path):
    X, u, _, ivae = bent
    ivae.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    for call in (
        lambda m: m.transform(X[:50], u=u[:50]),
        lambda m: m.transform(X[:50]),
        lambda m: m.score(X[:50]),
    ):
        np.testing.assert_array_equal(call(again), call(ivae))


def test_history_names_the_stages(bent):
    *_, ivae = bent
    stages = list(dict.fromkeys(ivae.history_["stage"]))
    assert [s for s in stages if s != "posterior"][-4:] == ["comparison", "training", "fine-tuning", "polish"]
    assert len(ivae.restarts_) == 2
    assert ivae.converged_ in (True, False)


# Invariance, kinds of data ------------------------------------------------------------------------------


def test_units_do_not_matter(data, linear):
    scaled = IVAE(2, hidden_sizes=(), **QUICK).fit(data.X * [1e-6, 1e3, 1e6], u=data.u)
    S = scaled.transform(data.X * [1e-6, 1e3, 1e6], u=data.u)
    np.testing.assert_allclose(S, linear.transform(data.X, u=data.u), atol=1e-3)


def test_labels_may_be_words(data, linear):
    words = np.array([f"segment {chr(97 + s)}" for s in data.u])
    named = IVAE(2, hidden_sizes=(), **QUICK).fit(data.X, u=words)
    np.testing.assert_allclose(
        named.transform(data.X, u=words), linear.transform(data.X, u=data.u), atol=1e-5
    )


@pytest.mark.slow
def test_continuous_u(data):
    rng = np.random.default_rng(3)
    u = rng.uniform(-1, 1, 3000)
    sd = np.exp(np.stack([np.sin(3 * u), np.cos(4 * u)], axis=1))
    S = np.stack([2 * u, np.cos(2 * u)], axis=1) + sd * rng.standard_normal((3000, 2))
    X = S @ data.A + 0.2 * rng.standard_normal((3000, 3))
    ivae = IVAE(2, hidden_sizes=(), **QUICK).fit(X, u=u)
    assert mcc(S, ivae.transform(X, u=u)) > 0.97
    assert mcc(S, ivae.transform(X)) > 0.95
    assert ivae.score(X, u=u) > ivae.score(X)
    assert ivae.sample(5, random_state=0)[0].shape == (5, 3)


@pytest.mark.slow
def test_counts():
    rng = np.random.default_rng(0)
    sd = rng.uniform(0.3, 1.5, (10, 2))
    u = np.repeat(np.arange(10), 250)
    S = sd[u] * rng.standard_normal((2500, 2))
    loading = rng.normal(size=(2, 12)) * 0.5
    X = rng.poisson(np.exp(1.0 + S @ loading))
    ivae = IVAE(2, likelihood="poisson", hidden_sizes=(), **QUICK).fit(X, u=u)
    assert mcc(S, ivae.transform(X, u=u)) > 0.9
    # Given the truth, log p(x|z) bounds what any model of x can say on average.
    truth = stats.poisson.logpmf(X, np.exp(1.0 + S @ loading)).sum(axis=1)
    score = ivae.score(X, u=u)
    assert truth.mean() - 6 < score < truth.mean()


@pytest.mark.slow
def test_binary_columns():
    rng = np.random.default_rng(0)
    u = np.repeat(np.arange(8), 100)
    S = rng.uniform(0.5, 3, (8, 2))[u] * rng.standard_normal((800, 2))
    log_odds = S @ rng.normal(size=(2, 16))
    X = (log_odds + rng.logistic(size=(800, 16)) > 0).astype(float)
    ivae = IVAE(2, likelihood="bernoulli", hidden_sizes=(), **QUICK).fit(X, u=u)
    means = ivae.inverse_transform(ivae.transform(X, u=u))
    assert means.min() >= 0
    assert means.max() <= 1
    assert ((means > 0.5) == X).mean() > ((log_odds > 0) == X).mean() - 0.03


def test_values_outside_the_likelihood_are_refused(data):
    with pytest.raises(DataError, match="values 0 and 1"):
        IVAE(2, likelihood="bernoulli", **QUICK).fit(data.X, u=data.u)
    with pytest.raises(DataError, match="needs counts"):
        IVAE(2, likelihood="poisson", **QUICK).fit(data.X, u=data.u)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["isotropic", "scalar-network", "network", 0.1])
def test_kinds_of_noise(noise, data):
    ivae = IVAE(2, hidden_sizes=(4,), noise=noise, max_iter=40, n_restarts=1, random_state=0)
    ivae.fit(data.X, u=data.u)
    assert np.isfinite(ivae.score(data.X, u=data.u))
    assert ivae.inverse_transform(ivae.transform(data.X[:5])).shape == (5, 3)


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["gaussian-scale", "laplace"])
def test_scale_families(prior, data):
    rng = np.random.default_rng(5)
    draw = rng.laplace if prior == "laplace" else rng.standard_normal
    S = data.sd[data.u] * draw(size=data.S.shape)
    X = S @ data.A + 0.2 * rng.standard_normal((len(S), 3))
    ivae = IVAE(2, prior=prior, hidden_sizes=(), **QUICK).fit(X, u=data.u)
    assert mcc(S, ivae.transform(X, u=data.u)) > 0.97


def test_collapsed_components_are_named(linear):
    """Posterior means that follow u alone say nothing that u does not."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], 500)
    mean = np.stack([codes + 0.01 * rng.standard_normal(1500), rng.standard_normal(1500)], axis=1)
    variance = np.stack([np.full(1500, 1.0), np.full(1500, 0.2)], axis=1)
    ivae = clone(linear)
    ivae.orientation_ = (np.array([[0.0, 1.0], [1.0, 0.0]]), np.zeros(2))
    with pytest.warns(ConvergenceWarning, match=r"component\(s\) 1 is about 0: posterior collapse"):
        ivae._report_collapse(mean, variance, codes)
    np.testing.assert_array_equal(ivae.collapsed_components_, [1])
    np.testing.assert_allclose(ivae.explained_shares_, [1 / 1.2, 1e-4 / (1 + 1e-4)], rtol=0.1)


@pytest.mark.slow
def test_same_seed_same_result_and_small_data():
    data = LinearData(seed=2)
    X, u = data.X[:60], data.u[:60] % 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first = IVAE(max_iter=30, n_restarts=2, random_state=1).fit(X, u=u).transform(X)
        second = IVAE(max_iter=30, n_restarts=2, random_state=1).fit(X, u=u).transform(X)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (60, 3)


@pytest.mark.parametrize(
    ("rows", "flow", "patient"), [(60, False, True), (600, True, True), (3000, True, False)]
)
def test_recipe_follows_the_number_of_rows(monkeypatch, rows, flow, patient):
    """Sixty rows afford no layer beyond a linear one, and few rows are learnt by heart long before the end."""

    class PlannedError(Exception):
        pass

    def refuse(stages, *args, **kwargs):
        raise PlannedError(stages)

    monkeypatch.setattr(base, "run_stages", refuse)
    monkeypatch.setattr(posterior_choice, "run_stages", refuse)
    rng = np.random.default_rng(0)
    with pytest.raises(PlannedError) as plan:
        IVAE(decoder="network", random_state=0).fit(rng.standard_normal((rows, 3)), u=np.arange(rows) % 3)
    stages = plan.value.args[0]
    assert any(stage.name.startswith("flow start") for stage in stages) == flow
    assert all((stage.patience is not None) == patient for stage in stages if stage.name == "comparison")
    # A flow's own stages run to the end: their held-out likelihood rises late.
    assert all(stage.patience is None for stage in stages if stage.name.startswith("flow"))
    # Where rows are not few, the decoder of square data is a flow.
    with pytest.raises(PlannedError) as plan:
        IVAE(random_state=0).fit(rng.standard_normal((rows, 3)), u=np.arange(rows) % 3)
    grown = any(stage.name.startswith("flow under noise") for stage in plan.value.args[0])
    assert grown == (rows == 3000)


def test_wrong_parameters_are_refused(data):
    with pytest.raises(ValueError, match="prior must be one of"):
        IVAE(2, prior="cauchy", **QUICK).fit(data.X, u=data.u)
    with pytest.raises(ValueError, match="likelihood must be one of"):
        IVAE(2, likelihood="cauchy", **QUICK).fit(data.X, u=data.u)
    with pytest.raises(DataError, match="noise must be"):
        IVAE(2, noise="loud", **QUICK).fit(data.X, u=data.u)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "least"),
    [(0.1, 0.97), (0.3, 0.90)],
)
def test_measured_recipe(noise, least):
    """Five sources in ten columns, forty segments; measured ceilings are about .99 and .93."""
    X, u, S = curved(n=5, d=10, seed=3, noise=noise, n_segments=40, per_segment=500)
    ivae = IVAE(5, random_state=0).fit(X, u=u)
    assert mcc(S, ivae.transform(X, u=u)) > least
