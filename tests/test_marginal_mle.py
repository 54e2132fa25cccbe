"""MarginalMLE against published item-response fits, closed forms, other libraries and a dense grid."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning

from identica import VAE, MarginalMLE
from identica.conditionals import ConstantPrior, Decoder, GaussianObservation
from identica.errors import DataError
from identica.estimators.integrators import choose_integrator
from identica.models import LatentVariableModel

QUICK = {"hidden_sizes": (4,), "max_iter": 30, "n_restarts": 1, "random_state": 0}


@pytest.fixture(scope="module")
def lsat():
    """Bock and Lieberman (1970): 1000 answers to 5 items."""
    counts = [3, 6, 2, 11, 1, 1, 3, 4, 1, 8, 0, 16, 0, 3, 2, 15]
    counts += [10, 29, 14, 81, 3, 28, 15, 80, 16, 56, 21, 173, 11, 61, 28, 298]
    patterns = [[int(digit) for digit in f"{i:05b}"] for i in range(32)]
    X = np.repeat(np.array(patterns, float), counts, axis=0)
    assert X.sum(axis=0).tolist() == [924, 709, 553, 763, 870]
    return X


@pytest.fixture(scope="module")
def factors():
    """Two factors, six columns, noise of its own in each."""
    rng = np.random.default_rng(5)
    loadings = rng.standard_normal((2, 6))
    noise = rng.uniform(0.3, 0.8, 6)
    return rng.standard_normal((1500, 2)) @ loadings + noise * rng.standard_normal((1500, 6))


@pytest.mark.parametrize("integrator", ["auto", pytest.param("adaptive", marks=pytest.mark.slow)])
def test_item_response_model_reaches_the_published_optimum(lsat, integrator):
    """2PL of LSAT-6: −2466.653377, R package ltm: −2466.653."""
    fit = MarginalMLE(
        1,
        integrator=integrator,
        likelihood="bernoulli",
        hidden_sizes=(),
        validation_fraction=0,
        precision="float64",
        random_state=0,
    ).fit(lsat)
    assert fit.integrator_ == ("gauss-hermite" if integrator == "auto" else "adaptive")
    assert -1000 * fit.history_["loss"][-1] == pytest.approx(-2466.653377, abs=1e-4)
    network = fit.model_.model.likelihood.network
    slopes, intercepts = np.abs(network.weights[0][0]), network.biases[0]
    assert np.allclose(slopes, [0.82566, 0.72274, 0.89087, 0.68837, 0.65686], atol=1e-3)
    assert np.allclose(intercepts, [2.77323, 0.99020, 0.24915, 1.28476, 2.05327], atol=1e-3)
    assert len(np.unique(np.sign(network.weights[0][0]))) == 1
    assert fit.untrusted_share_ == 0
    # By importance sampling, without the integrator's nodes.
    found = fit.log_likelihood(lsat)
    assert 1000 * found.value == pytest.approx(-2466.653, abs=1.0)


@pytest.mark.slow
def test_importance_weighted_training_tends_to_the_same_optimum(lsat):
    """The more samples, the nearer: the bound's maximum is that of the likelihood in the limit."""
    reached = []
    for samples in (1, 5, 50):
        fit = VAE(
            1,
            likelihood="bernoulli",
            objective="iwae" if samples > 1 else "elbo",
            samples=samples,
            gradient="dreg" if samples > 1 else "pathwise",
            hidden_sizes=(),
            validation_fraction=0,
            batch_size=1000,
            n_restarts=1,
            precision="float64",
            random_state=0,
        ).fit(lsat)
        reached.append(1000 * fit.log_likelihood(lsat, method="gauss-hermite").value)
    assert reached == sorted(reached)
    assert -2466.653377 - 0.01 < reached[-1] < -2466.653377 + 1e-3


def test_linear_decoder_is_factor_analysis(factors):
    fit = MarginalMLE(2, hidden_sizes=(), noise="diagonal", random_state=0, validation_fraction=0).fit(
        factors
    )
    truth = FactorAnalysis(2, tol=1e-10, max_iter=10_000).fit(factors).score(factors)
    assert fit.integrator_ == "adaptive"
    assert "Gaussian" in fit.integrator_reason_
    found = fit.log_likelihood(factors)
    assert found.kind == "exact"
    assert found.value == pytest.approx(truth, abs=1e-3)
    assert found.value < truth + 1e-6


def test_linear_decoder_with_one_noise_is_probabilistic_pca(factors):
    """On standardised columns, whose closed form is Tipping and Bishop's (1999), equation 8."""
    X = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    fit = MarginalMLE(2, hidden_sizes=(), noise="isotropic", random_state=0, validation_fraction=0).fit(X)
    values = np.sort(np.linalg.eigvalsh(X.T @ X / len(X)))[::-1]
    rest = values[2:].mean()
    truth = -0.5 * (6 * np.log(2 * np.pi) + np.log(values[:2]).sum() + 4 * np.log(rest) + 6)
    assert fit.log_likelihood(X).value == pytest.approx(truth, abs=1e-3)
    weight = fit.model_.model.likelihood.network.weights[0]
    variance = np.exp(fit.model_.model.likelihood.observation.log_variance) + 1e-5
    covariance = weight.T @ weight + variance * np.eye(6)
    direct = multivariate_normal(np.zeros(6), covariance).logpdf(X - X.mean(axis=0)).mean()
    assert fit.log_likelihood(X).value == pytest.approx(direct, abs=1e-3)


EACH = ("gauss-hermite", "adaptive", "qmc", "importance", "monte-carlo")


@pytest.mark.parametrize("integrator", [pytest.param(name, marks=pytest.mark.slow) for name in EACH])
def test_every_integrator_fits_and_says_what_it_did(factors, integrator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        nodes = 5 if integrator in ("gauss-hermite", "adaptive") else 64
        fit = MarginalMLE(2, integrator=integrator, n_nodes=nodes, **QUICK).fit(factors[:300])
    assert fit.integrator_ == integrator
    assert fit.n_nodes_ == (25 if nodes == 5 else 64)
    assert "asked for" in fit.integrator_reason_
    assert 0 <= fit.untrusted_share_ <= 1
    assert np.isfinite(fit.integration_error_)
    assert fit.transform(factors[:5]).shape == (5, 2)
    assert np.isfinite(fit.score(factors))


@pytest.fixture
def curve():
    """A curve in 8 columns with noise .02."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((500, 1))
    return np.sin(z * np.arange(1, 9) / 3) + 0.02 * rng.standard_normal((500, 8))


@pytest.mark.slow
def test_nodes_that_cannot_resolve_the_posteriors_are_named(curve):
    """Five fixed nodes lie far apart."""
    with pytest.warns(ConvergenceWarning, match="integrator='adaptive'"):
        fit = MarginalMLE(1, integrator="gauss-hermite", n_nodes=5, **QUICK).fit(curve)
    assert fit.untrusted_share_ > 0.5
    assert fit.integration_error_ < -0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_nodes_on_each_posterior_resolve_it(curve):
    fit = MarginalMLE(1, **QUICK).fit(curve)
    assert fit.integrator_ == "adaptive"
    assert "narrow" in fit.integrator_reason_
    assert fit.untrusted_share_ < 0.05
    assert abs(fit.integration_error_) < 0.05


def start(n, variance, d=8, hidden=(4,), slope=1.0, learned=True):
    """A model before training, and rows of it."""
    observation = GaussianObservation(np.full(d, np.log(variance), np.float32), "diagonal")
    if not learned:
        observation = GaussianObservation(None, "fixed", variance)
    decoder = Decoder.random(n, hidden, d, observation, key=jax.random.key(1))
    rng = np.random.default_rng(1)
    weight = slope * rng.standard_normal((n, d)).astype(np.float32)
    network = decoder.network.with_linear_part(weight, np.zeros(d, np.float32))
    rows = rng.standard_normal((100, n)) @ weight + np.sqrt(variance) * rng.standard_normal((100, d))
    return LatentVariableModel(ConstantPrior(n), Decoder(network, observation)), jnp.asarray(rows, np.float32)


@pytest.mark.parametrize(
    ("case", "integrator", "reason"),
    [
        (
            {"n": 1, "variance": 1.0, "slope": 0.2, "learned": False},
            "gauss-hermite",
            "wider than the distance of",
        ),
        ({"n": 1, "variance": 1.0, "slope": 0.2}, "adaptive", "too narrow for fixed nodes"),
        ({"n": 1, "variance": 1e-3}, "adaptive", "too narrow for fixed nodes"),
        ({"n": 3, "variance": 1.0}, "adaptive", "too narrow"),
        ({"n": 4, "variance": 1.0, "slope": 0.1, "learned": False}, "qmc", "too many for a grid"),
        ({"n": 5, "variance": 0.01}, "importance", "too little for points of the prior"),
        ({"n": 5, "variance": 0.01, "hidden": ()}, "adaptive", "nodes on them exact"),
    ],
)
def test_choice_follows_the_number_of_components_and_the_noise(case, integrator, reason):
    model, rows = start(**case)
    chosen = choose_integrator("auto", None, model, rows)
    assert chosen.name == integrator
    assert reason in chosen.reason
    assert chosen.exact is (case.get("hidden") == ())


def test_wrong_options_are_named(factors):
    with pytest.raises(ValueError, match="integrator must be one of"):
        MarginalMLE(2, integrator="simpson", **QUICK).fit(factors)
    with pytest.raises(DataError, match="power of two"):
        MarginalMLE(2, integrator="qmc", n_nodes=100, **QUICK).fit(factors)
    with pytest.raises(DataError, match="no grid for 6 components"):
        MarginalMLE(6, integrator="gauss-hermite", **QUICK).fit(factors)
    with pytest.raises(ValueError, match="n_nodes"):
        MarginalMLE(2, n_nodes=0, **QUICK).fit(factors)
