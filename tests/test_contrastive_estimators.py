"""TCL, PCL and GCL: the optimum of the contrast in closed form, recovery, and what each method assumes."""

import warnings

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from scipy.signal import lfilter
from scipy.special import logsumexp

import identica
from conftest import make_rows
from identica import GCL, PCL, TCL, DataError
from identica.data import Dataset
from identica.errors import DataWarning
from identica.estimators.contrast_checks import departure_from_gaussian
from identica.estimators.pcl import previous_rows
from identica.estimators.variance_profiles import profile_distances
from identica.objectives.contrastive import AllSegments, ContrastiveCrossEntropy, HeldOutContrast, OtherRows
from identica.random import named_key
from identica.report.collect import collect

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = {"max_iter": 20, "n_restarts": 2, "hidden_sizes": (8,), "random_state": 0}
LINEAR = {"hidden_sizes": (), "n_restarts": 1, "random_state": 0}


def autoregression(rng, n_rows, coefficient, innovations):
    """Stationary AR(1) series of unit variance."""
    e = innovations(rng, n_rows) * np.sqrt(1 - coefficient**2)
    return lfilter([1.0], [1.0, -coefficient], e)


def laplace(rng, size):
    return rng.laplace(size=size) / np.sqrt(2)


def normal(rng, size):
    return rng.standard_normal(size)


def mixed(S):
    """A mildly nonlinear, invertible mixture of two sources."""
    turned = S @ np.array([[0.8, 0.6], [-0.6, 0.8]])
    return np.where(turned > 0, turned, 0.3 * turned) @ np.array([[0.6, -0.8], [0.8, 0.6]])


def best_linear(S, X):
    """Mean correlation of the sources with their least-squares prediction: what no linear method exceeds."""
    design = np.column_stack([X, np.ones(len(X))])
    prediction = design @ np.linalg.lstsq(design, S)[0]
    return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(S.T, prediction.T, strict=True)])


# The optimum in closed form ------------------------------------------------------------------------------


def test_the_critic_of_pcl_is_the_log_density_ratio_of_a_gaussian_series():
    """x_t given x_{t−1} is N(a x_{t−1}, 1 − a²): differences of r between contexts are known."""
    a = 0.6
    x = autoregression(np.random.default_rng(0), 6000, a, normal)
    with pytest.warns(DataWarning, match="depend on their past as Gaussian series do"):
        pcl = PCL(max_iter=600, **LINEAR).fit(x[:, None])
    values = np.linspace(-1.2, 1.2, 7)
    now, before = np.meshgrid(values, values, indexing="ij")
    grid = pcl.whitening_.standardize(values[:, None]).astype(np.float32)
    learned = np.asarray(pcl.model_.log_odds(grid, grid))
    truth = stats.norm.logpdf(now, a * before, np.sqrt(1 - a**2))
    # r is free in a function of x, hence rows are centred; that of contexts is not.
    learned, truth = (r - r.mean(axis=1, keepdims=True) for r in (learned, truth - stats.norm.logpdf(now)))
    assert np.abs(learned - truth).max() < 0.35
    assert np.corrcoef(learned.ravel(), truth.ravel())[0, 1] > 0.99


def test_tcl_reaches_the_entropy_of_segments_given_x():
    """Two segments N(±1, 1) in equal shares: the least cross-entropy is H(u|x), by quadrature."""
    rng = np.random.default_rng(0)
    u = np.repeat([0, 1], 4000)
    x = (2 * u - 1 + rng.standard_normal(8000))[:, None]
    tcl = TCL(max_iter=400, **LINEAR).fit(x, u=u)

    def integrand(t):
        log_p = stats.norm.logpdf(t, [-1, 1])
        log_p = log_p - logsumexp(log_p)
        return -(np.exp(log_p) * log_p).sum() * stats.norm.pdf(t, [-1, 1]).mean()

    entropy = integrate.quad(integrand, -8, 8)[0]
    fresh = np.repeat([0, 1], 20_000)
    score = tcl.score((2 * fresh - 1 + rng.standard_normal(40_000))[:, None], u=fresh)
    assert score == pytest.approx(-entropy, abs=0.01)  # standard error .002, cost of fitting 3 / 16000


@pytest.mark.parametrize("critic", ["learned", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_gcl_reaches_the_information_of_a_continuous_u(critic):
    """x = sin(2πu) + noise: of 256 values of u, its own has the probability that the true density gives."""
    rng = np.random.default_rng(0)

    def draw(n):
        u = rng.uniform(size=n)
        return (np.sin(2 * np.pi * u) + 0.5 * rng.standard_normal(n))[:, None], u

    x, u = draw(6000)
    gcl = GCL(critic=critic, max_iter=800, **LINEAR).fit(x, u=u)
    fresh, v = draw(256 * 20)
    best = []
    for part in np.arange(len(v)).reshape(20, 256):
        log_p = stats.norm.logpdf(fresh[part], np.sin(2 * np.pi * v[part]), 0.5)
        best.append((np.diag(log_p) - logsumexp(log_p, axis=1)).mean())
    # Blocks are drawn anew by the score; 20 of them leave a standard error of .004.
    assert gcl.score(fresh, u=v) == pytest.approx(np.mean(best), abs=0.03)
    assert gcl.score(fresh, u=v) < np.mean(best) + 0.015, "no critic can beat the truth"


def test_the_cross_entropy_of_rows_is_that_of_a_softmax_over_them():
    """By hand, and rows of weight 0 are neither asked nor alternatives."""
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GCL(**QUICK).fit(make_rows().X, u=rng.uniform(size=180)).model_
    x, u = (jnp.asarray(rng.standard_normal((9, k)), jnp.float32) for k in (2, 1))
    weight = jnp.asarray([1, 1, 1, 1, 1, 1, 1, 0, 0], jnp.float32)
    r = np.asarray(model.log_odds(x, u), np.float64)[:7, :7]
    by_hand = (logsumexp(r, axis=1) - np.diag(r)).mean()
    objective = ContrastiveCrossEntropy(OtherRows())
    batch = Dataset(x, u, None, weight)
    assert float(objective(model, batch, key=named_key(0))[0]) == pytest.approx(by_hand, abs=1e-5)
    whole = HeldOutContrast(objective, 9)(model, batch, batch, named_key(0))
    assert float(whole) == pytest.approx(by_hand, abs=1e-5)


def test_the_critic_of_a_family_is_bayes_rule():
    """TCL's softmax with Gaussian statistics equals p(u) Π N(h_i; μ, s²) times a free factor of u."""
    rows = make_rows()
    model = TCL(**QUICK).fit(rows.X, u=rows.u).model_
    x = jnp.asarray(rows.X[:5], jnp.float32)
    h, raw = np.asarray(model.encoder(x), np.float64), np.asarray(model.critic.parameters.raw, np.float64)
    expected = stats.norm.logpdf(h[:, None], raw[None, :, :, 0], np.exp(0.5 * raw[None, :, :, 1])).sum(-1)
    expected += raw[..., 2].sum(-1)
    log_odds = np.asarray(model.log_odds(x, jnp.arange(3)), np.float64)
    difference = log_odds - expected
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:1, :1], (5, 3)), atol=5e-3)
    pairing = AllSegments(3)(model, Dataset(x, jnp.asarray(rows.u[:5])))
    assert pairing[1].tolist() == rows.u[:5].tolist()


# Recovery --------------------------------------------------------------------------------------------------


def test_tcl_recovers_sources_that_segments_modulate():
    rng = np.random.default_rng(1)
    u = np.repeat(np.arange(12), 250)
    S = rng.uniform(0.2, 2, (12, 2))[u] * rng.standard_normal((3000, 2))
    X = mixed(S)
    S_hat = TCL(max_iter=600, n_restarts=2, hidden_sizes=(16,), random_state=0).fit(X, u=u).transform(X)
    assert identica.metrics.mcc(S, S_hat) > 0.98 > 0.95 > best_linear(S, X)


def test_pcl_recovers_laplace_series_without_any_u():
    rng = np.random.default_rng(2)
    S = np.column_stack([autoregression(rng, 6000, 0.7, laplace) for _ in range(2)])
    X = mixed(S)
    pcl = PCL(max_iter=1000, n_restarts=2, hidden_sizes=(16,), random_state=0).fit(X)
    # Curves on each source are not resolved, hence ranks.
    assert identica.metrics.mcc(S, pcl.transform(X), method="spearman") > 0.975 > 0.95 > best_linear(S, X)
    assert (pcl.departure_from_gaussian_ > 10).all()


def test_gcl_recovers_sources_that_time_modulates():
    rng = np.random.default_rng(3)
    t = rng.uniform(size=4000)
    S = np.exp(np.sin(2 * np.pi * (np.array([1, 2]) * t[:, None]))) * rng.standard_normal((4000, 2))
    X = mixed(S)
    gcl = GCL(max_iter=600, n_restarts=2, hidden_sizes=(16,), critic="gaussian", random_state=0).fit(X, u=t)
    assert identica.metrics.mcc(S, gcl.transform(X)) > 0.97 > 0.95 > best_linear(S, X)


# Assumptions -----------------------------------------------------------------------------------------------


def test_stationary_sources_are_said_to_be_of_no_use_for_tcl():
    rng = np.random.default_rng(0)
    X, u = mixed(laplace(rng, (2000, 2))), np.repeat(np.arange(10), 200)
    with pytest.warns(DataWarning, match="own segment no better.*seem stationary"):
        tcl = TCL(max_iter=100, n_restarts=2, hidden_sizes=(8,), random_state=0).fit(X, u=u)
    effect, noise = tcl.context_effect_
    assert abs(effect) < 4 * noise
    findings = {f.name: f for f in collect(tcl, pd.DataFrame(X), pd.Series(u, name="u")).findings}
    assert findings["effect of contexts"].verdict == "bad"
    assert "held-out log-likelihood" not in findings


@pytest.mark.slow
def test_series_without_memory_are_said_to_be_of_no_use_for_pcl():
    X = mixed(laplace(np.random.default_rng(0), (2000, 2)))
    with pytest.warns(DataWarning, match="no memory") as said:
        PCL(max_iter=60, n_restarts=1, hidden_sizes=(8,), random_state=0).fit(X)
    assert not [w for w in said if "Gaussian" in str(w.message)]


@pytest.mark.slow
def test_gaussian_autoregressions_are_said_to_stay_mixed_by_pcl():
    rng = np.random.default_rng(0)
    S = np.column_stack([autoregression(rng, 3000, a, normal) for a in (0.9, 0.6)])
    with pytest.warns(DataWarning, match="0, 1 depend on their past as Gaussian series do"):
        pcl = PCL(max_iter=200, n_restarts=1, hidden_sizes=(8,), random_state=0).fit(mixed(S))
    assert (pcl.departure_from_gaussian_ < 4).all()
    findings = {f.name: f for f in collect(pcl, pd.DataFrame(mixed(S))).findings}
    assert findings["Gaussian memory"].verdict == "warning"
    assert findings["effect of contexts"].verdict == "good"


@pytest.mark.slow
def test_u_without_effect_is_said_to_be_of_no_use_for_gcl():
    rng = np.random.default_rng(0)
    with pytest.warns(DataWarning, match="own u no better"):
        GCL(max_iter=60, n_restarts=1, hidden_sizes=(8,), random_state=0).fit(
            mixed(normal(rng, (2000, 2))), u=rng.uniform(size=2000)
        )


def test_the_departure_from_gaussian_is_blind_to_curves_and_sees_laplace():
    rng = np.random.default_rng(0)
    gauss, other = (autoregression(rng, 5000, 0.7, law) for law in (normal, laplace))
    now, before = (np.column_stack([gauss, other])[s] for s in (slice(1, None), slice(None, -1)))
    plain = departure_from_gaussian(now, before)
    assert plain[0] < 3.5
    assert plain[1] > 10
    np.testing.assert_allclose(departure_from_gaussian(np.sinh(now), np.sinh(before)), plain, rtol=1e-9)


def test_departures_of_gaussian_series_are_of_the_size_of_chance():
    rng = np.random.default_rng(1)
    z = np.array([[autoregression(rng, 800, 0.6, normal) for _ in range(40)]])[0].T
    values = departure_from_gaussian(z[1:], z[:-1])
    assert (values > 4).sum() == 0
    assert 0.4 < np.median(values) < 1.8  # the larger of two |z|: 1.05


def test_proportional_variances_are_told_from_others():
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(30), 200)
    common, own = rng.uniform(0.5, 2, (30, 1)), rng.uniform(0.5, 2, (30, 1))
    scale = np.hstack([common, 3 * common, own])[codes]
    noise = 0.04 * np.ones((6000, 3))
    mean = 5 * rng.standard_normal((30, 3))[codes] + scale * rng.standard_normal((6000, 3))
    distance, chance = profile_distances(mean, 0 * noise, codes)
    assert distance[0, 1] < 4 * chance[0, 1]
    truth = np.log(common**2 / own**2).std()
    np.testing.assert_allclose(distance[0, 2], truth, rtol=0.15)
    np.testing.assert_allclose(distance, distance.T)


# Contract --------------------------------------------------------------------------------------------------


def test_rows_before_are_those_of_the_same_series():
    assert previous_rows(np.array([0, 1, 0, 1, 1])).tolist() == [-1, -1, 0, 1, 3]


def test_pcl_never_pairs_rows_of_two_series_nor_fitted_with_held_out_ones():
    rows = make_rows()
    series = np.repeat(["a", "b", "c"], 60)
    pcl = PCL(**QUICK).fit(rows.X, sequence=series)
    before = previous_rows(np.repeat([0, 1, 2], 60))
    assert (np.diff(np.sort(pcl.held_out_rows_)) == 1).all()
    scored = pcl.score(rows.X, sequence=series)
    assert np.isfinite(scored)
    assert (before[[0, 60, 120]] == -1).all()
    with pytest.raises(DataError, match="follow each other"):
        PCL(**QUICK).fit(rows.X, sequence=np.arange(180))


@pytest.mark.parametrize("kind", [TCL, PCL, GCL])
def test_what_the_method_has_not_is_absent_and_says_why(kind):
    assert not any(
        hasattr(kind(), name)
        for name in ("log_likelihood", "score_samples", "inverse_transform", "sample", "posterior")
    )
    with pytest.raises(AttributeError, match=f"{kind.__name__} has no inverse_transform: .*no way back"):
        kind().inverse_transform  # noqa: B018


@pytest.mark.parametrize("kind", [TCL, GCL])
def test_unknown_critics_are_refused(kind):
    rows = make_rows()
    with pytest.raises(ValueError, match=r"critic must be one of gaussian.*got 'cubic'"):
        kind(critic="cubic", **QUICK).fit(rows.X, u=rows.u)
    with pytest.raises(ValueError, match="activation must be one of"):
        kind(activation="step", **QUICK).fit(rows.X, u=rows.u)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "critic"), [(TCL, "learned"), (TCL, "gaussian-scale"), (GCL, "laplace")])
def test_every_critic_takes_labels_and_numbers(kind, critic):
    rows = make_rows()
    for u in (rows.u, rows.u + np.linspace(0, 0.3, 180)):
        estimator = kind(critic=critic, **QUICK).fit(rows.X, u=u)
        assert np.isfinite(estimator.score(rows.X, u=u))
        assert np.isfinite(estimator.transform(rows.X)).all()


def test_more_columns_than_sources_are_all_used():
    rng = np.random.default_rng(1)
    u = np.repeat(np.arange(6), 50)
    S = rng.uniform(0.2, 2, (6, 2))[u] * rng.standard_normal((300, 2))
    X = np.column_stack([S @ rng.standard_normal((2, 3)), np.tanh(S)])
    tcl = TCL(2, **QUICK).fit(X, u=u)
    assert tcl.transform(X).shape == (300, 2)
    assert tcl.model_.encoder.features.matrix.shape == (5, 5)


@pytest.mark.slow
@pytest.mark.parametrize("scales_too", [False, True])
def test_means_alone_are_said_to_be_of_no_use_for_ivae(scales_too):
    rng = np.random.default_rng(0)
    u = np.repeat(np.arange(12), 200)
    scale = rng.uniform(0.5, 2, (12, 2))[u] if scales_too else 1.0
    S = rng.uniform(-2, 2, (12, 2))[u] + scale * rng.standard_normal((2400, 2))
    X = S @ np.array([[1, 0.5], [-0.3, 1]])
    ivae = identica.IVAE(max_iter=800, n_restarts=2, hidden_sizes=(16,), random_state=0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ivae.fit(X, u=u)
    assert bool([w for w in said if "keep nearly one ratio" in str(w.message)]) == (not scales_too)
    findings = {f.name: f for f in collect(ivae, pd.DataFrame(X), pd.Series(u, name="u")).findings}
    assert findings["variance profiles"].verdict == ("good" if scales_too else "warning")
