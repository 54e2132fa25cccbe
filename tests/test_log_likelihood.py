"""`log_likelihood`, `bound_gap` and `bound_decomposition` of estimators, on models whose weights are known."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

from identica import IVAE, VAE, MarginalMLE, VariationalEM
from identica.conditionals import ConstantPrior, DiagonalEncoder
from identica.errors import DataError
from identica.estimators.results import LogLikelihood, Measured
from identica.models import LatentVariableModel, VariationalModel
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.report.bound import bound

D, N = 4, 2


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(200, N)) @ rng.normal(size=(N, D)) + 0.5 * rng.normal(size=(200, D)) + 3


@pytest.fixture(scope="module")
def linear(rows):
    """A linear VAE, fitted for a few steps, so that its encoder is the exact posterior."""
    return VAE(N, hidden_sizes=(), max_iter=100, n_restarts=1, random_state=0).fit(rows)


@pytest.fixture(scope="module")
def off(rows, linear):
    """The same decoder with a diagonal encoder that is off by a known amount."""
    other = VAE(N, hidden_sizes=(), max_iter=1, n_restarts=1, random_state=0).fit(rows)
    features = linear.model_.encoder.features
    weight, bias = posterior_mean_map(linear)
    network = MultilayerPerceptron(
        (np.concatenate([0.8 * weight, np.zeros((D, N))], axis=1).astype(np.float32),),
        (np.concatenate([0.8 * bias + 0.1, np.log([0.15, 0.3])]).astype(np.float32),),
        None,
    )
    model = LatentVariableModel(ConstantPrior(N), linear.model_.model.likelihood)
    other.whitening_, other.model_ = (
        linear.whitening_,
        VariationalModel(model, DiagonalEncoder(features, network)),
    )
    return other


def parts(estimator):
    """W, c, Ψ of the decoder."""
    network, observation = (
        estimator.model_.model.likelihood.network,
        estimator.model_.model.likelihood.observation,
    )
    return network.weights[0], network.biases[0], 1e-5 + np.exp(observation.log_variance)


def posterior_mean_map(estimator):
    weight, bias, noise = (np.asarray(part, float) for part in parts(estimator))
    gain = (weight / noise).T @ np.linalg.inv(np.eye(N) + weight / noise @ weight.T)
    return gain, -bias @ gain


def exact(estimator, X):
    """log p of each row in the units of X, by scipy."""
    weight, bias, noise = (np.asarray(part, float) for part in parts(estimator))
    scale = estimator.whitening_.scale
    center = estimator.whitening_.center + scale * bias
    covariance = (weight.T @ weight + np.diag(noise)) * np.outer(scale, scale)
    return multivariate_normal(center, covariance).logpdf(X)


def test_every_method_finds_the_exact_likelihood(rows, off):
    X = rows[:16]
    truth = exact(off, X)
    found = {
        method: off.log_likelihood(X, method=method, **options)
        for method, options in {
            "auto": {},
            "gauss-hermite": {"n_nodes": 8},
            "qmc": {"n_samples": 256},
            "importance": {"n_samples": 4000},
            "elbo": {"n_samples": 500},
        }.items()
    }
    kinds = {method: result.kind for method, result in found.items()}
    assert kinds == {
        "auto": "exact", "gauss-hermite": "unsigned", "qmc": "lower", "importance": "lower", "elbo": "lower",
    }  # fmt: skip
    for method, tolerance in {
        "auto": 1e-5, "gauss-hermite": 1e-4, "qmc": 5e-3, "importance": 0.05,
    }.items():  # fmt: skip
        np.testing.assert_allclose(found[method].rows, truth, atol=4 * tolerance)
        assert found[method].value == pytest.approx(truth.mean(), abs=tolerance)
        error = 5 * found[method].integration_error + 1e-4
        assert found[method].value == pytest.approx(truth.mean(), abs=error)
    assert found["elbo"].value < truth.mean() - 0.1
    assert found["auto"].standard_error == pytest.approx(truth.std(ddof=1) / 4, rel=1e-4)
    assert found["importance"].pareto_k.shape == found["importance"].effective_sample_size.shape == (16,)
    assert (found["importance"].effective_sample_size < 4000).all()
    assert found["importance"].unreliable_share < 0.2
    assert found["auto"].pareto_k is None


@pytest.mark.slow
def test_a_sandwich_encloses_the_likelihood_of_simulated_rows(rows, linear, off):
    result = off.log_likelihood(rows[:40], method="sandwich", n_temperatures=100)
    sandwich = result.sandwich
    assert result.value == pytest.approx(exact(off, rows[:40]).mean(), abs=0.05)
    assert (sandwich.lower.kind, sandwich.upper.kind) == ("lower", "upper")
    error = 3 * (sandwich.lower.integration_error + sandwich.upper.integration_error)
    assert -error < sandwich.gap < 0.1
    # Simulated rows are those of the model: their mean likelihood is minus its entropy.
    weight, _, noise = (np.asarray(part, float) for part in parts(off))
    covariance = (weight.T @ weight + np.diag(noise)) * np.outer(off.whitening_.scale, off.whitening_.scale)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    assert sandwich.lower.value == pytest.approx(-entropy, abs=4 * sandwich.lower.standard_error)


def test_the_gap_is_split_as_in_the_closed_form(rows, off):
    X = rows[:32]
    gap = off.bound_gap(X, n_samples=4000)
    weight, _, noise = (np.asarray(part, float) for part in parts(off))
    precision = np.eye(N) + weight / noise @ weight.T
    family = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    to_mean, shift = posterior_mean_map(off)
    mean = off.whitening_.standardize(X) @ to_mean + shift
    away, variance = 0.2 * mean - 0.1, np.array([0.15, 0.3])
    total = 0.5 * (
        (np.diag(precision) * variance).sum() - N - np.linalg.slogdet(precision)[1] - np.log(variance).sum()
        + np.einsum("bi,ij,bj->b", away, precision, away)
    )  # fmt: skip
    assert gap.family == "diagonal"
    assert gap.converged == 1
    assert gap.total.value == pytest.approx(total.mean(), abs=4 * gap.total.integration_error)
    assert gap.approximation.value == pytest.approx(
        family, abs=4 * gap.approximation.integration_error + 1e-4
    )
    assert gap.amortisation.value == pytest.approx(
        total.mean() - family, abs=4 * gap.amortisation.integration_error
    )
    assert gap.total.integration_error < 0.05
    assert gap.approximation.value + gap.amortisation.value == pytest.approx(gap.total.value)
    assert gap.log_likelihood.kind == "exact"


def test_three_forms_of_the_bound_agree(rows, off):
    X = rows[:32]
    forms = off.bound_decomposition(X, n_samples=4000)
    truth = exact(off, X).mean() - off.bound_gap(X, n_samples=4000).total.value
    for form in (forms.from_posterior, forms.from_prior, forms.from_entropy):
        assert form.value == pytest.approx(truth, abs=5 * form.integration_error + 0.02)
    difference, error = forms.largest_difference
    assert 0 < difference < 4 * error
    variance = np.array([0.15, 0.3])
    assert forms.entropy.value == pytest.approx(0.5 * np.log(2 * np.pi * np.e * variance).sum(), abs=1e-5)
    # Sampled log p on both sides of the equation, too.
    sampled = off.bound_decomposition(X, n_samples=4000, method="importance")
    assert sampled.log_likelihood.kind == "lower"
    assert sampled.from_posterior.value == pytest.approx(truth, abs=0.1)


def test_draws_are_those_of_the_seed(rows, off):
    X = rows[:16]
    first = off.log_likelihood(X, method="importance", n_samples=50)
    np.testing.assert_array_equal(first.rows, off.log_likelihood(X, method="iwae", n_samples=50).rows)
    other = off.log_likelihood(X, method="importance", n_samples=50, random_state=7)
    assert (first.rows != other.rows).any()
    # The noise of a row is its own.
    np.testing.assert_array_equal(
        off.log_likelihood(X[::-1], method="importance", n_samples=50).rows, first.rows[::-1]
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "guess"}, ValueError, "method must be one of auto, exact, gauss-hermite"),
        (
            {"method": "ais", "n_samples": 5},
            DataError,
            "n_samples has no meaning for method='ais', whose options",
        ),
        ({"method": "importance", "n_samples": 0}, ValueError, "n_samples"),
        ({"method": "qmc", "n_samples": 100}, DataError, "power of two"),
        (
            {"method": "importance", "proposal": "magic"},
            ValueError,
            "proposal must be one of encoder, laplace",
        ),
        ({"method": "ais", "n_chains": 0}, DataError, "n_chains must be a positive integer"),
    ],
)
def test_wrong_options_are_refused(rows, linear, options, error, message):
    with pytest.raises(error, match=message):
        linear.log_likelihood(rows[:5], **options)


def test_an_unknown_family_is_refused(rows, linear):
    with pytest.raises(ValueError, match="family must be 'encoder', 'diagonal' or 'full'"):
        linear.bound_gap(rows[:5], family="banana")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "binary"),
    [
        (VAE(N, max_iter=400, hidden_sizes=(8,), n_restarts=1, random_state=0), False),
        (VAE(N, max_iter=400, hidden_sizes=(8,), n_restarts=1, prior="mixture", random_state=0), False),
        (VAE(N, max_iter=400, hidden_sizes=(8,), n_restarts=1, likelihood="bernoulli", random_state=0), True),
        (VariationalEM(N, max_iter=20, hidden_sizes=(8,), n_restarts=1, random_state=0), False),
        (MarginalMLE(N, max_iter=200, hidden_sizes=(8,), n_restarts=1, random_state=0), False),
        (IVAE(N, max_iter=300, hidden_sizes=(8,), n_restarts=2, random_state=0), False),
    ],
    ids=["vae", "mixture", "bernoulli", "em", "mle", "ivae"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::identica.errors.DataWarning")
def test_methods_agree_for_every_estimator(rows, estimator, binary):
    X = np.tanh(rows - 3) + 0.1 * rows
    X = (rows > 3).astype(float) if binary else X
    u = np.arange(len(X)) % 4
    fitted = estimator.fit(X, u=u)
    X, u = X[:24], u[:24]
    each = [u] if fitted._requires_u is False else [u, None]
    for given in each:
        found = [
            fitted.log_likelihood(X, u=given, method=method, **options)
            for method, options in (
                ("qmc", {}),
                ("gauss-hermite", {}),
                ("importance", {"n_samples": 5000}),
                ("ais", {}),
                ("ais", {"proposal": "prior", "n_temperatures": 2000}),
            )
        ]
        for other in found[1:]:
            error = 4 * np.hypot(found[0].integration_error, other.integration_error)
            assert other.value == pytest.approx(found[0].value, abs=error + 0.02)
        elbo = fitted.log_likelihood(X, u=given, method="elbo", n_samples=500)
        assert elbo.value < found[0].value + 3 * elbo.integration_error
        forms = fitted.bound_decomposition(X, u=given)
        difference, error = forms.largest_difference
        assert difference < 4 * error + 1e-3
        assert forms.posterior_divergence.value > -3 * forms.posterior_divergence.integration_error
    gap = fitted.bound_gap(X, u=u)
    assert gap.amortisation.value > -4 * gap.amortisation.integration_error - 1e-3
    assert gap.approximation.value > -4 * gap.approximation.integration_error - 1e-3
    if isinstance(fitted, VariationalEM):  # every row has a q of its own
        assert gap.amortisation.value < 0.02
    if isinstance(fitted, IVAE):
        with pytest.raises(DataError, match="bound_gap needs u"):
            fitted.bound_gap(X)


def test_findings_tell_the_forms_and_the_gap(rows, off):

    forms, gap = bound(off, pd.DataFrame(rows), None)
    assert forms.name == "forms of the bound"
    assert "log p − KL(q‖posterior)" in forms.text
    assert "They agree within their errors." in forms.text
    assert gap.name == "gap of the bound"
    assert gap.value > 0
    assert "Gaussian with independent components" in gap.text


def test_a_mean_and_its_errors():
    measured = Measured.of(np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 0.04))
    assert measured == Measured(2.5, pytest.approx(np.sqrt(5 / 3) / 2), pytest.approx(0.1))
    result = LogLikelihood.from_rows(np.array([1.0, 3.0]), "lower", pareto_k=np.array([0.2, 0.9]))
    assert (result.value, result.unreliable_share) == (2.0, 0.5)
