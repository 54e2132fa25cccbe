"""log p(x) by every method, against closed forms and dense quadrature."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from identica.conditionals import (
    ConstantPrior,
    Decoder,
    DiagonalEncoder,
    Features,
    GaussianObservation,
    ModulatedPrior,
    Table,
)
from identica.conditionals.laplace import LaplaceEncoder
from identica.errors import DataError
from identica.evaluation import annealed as annealing_module
from identica.evaluation import bound_gap, quadrature
from identica.evaluation import importance as importance_module
from identica.evaluation.annealed import Annealing, hamiltonian_move
from identica.families import GaussianLocationScale, LaplaceScale
from identica.models import LatentVariableModel, VariationalModel
from identica.models.linear_gaussian import exact_encoder, exact_log_marginal
from identica.networks.multilayer_perceptron import MultilayerPerceptron


def on_host(function):
    """The function with NumPy arrays as results."""
    return lambda *arguments: jax.tree.map(np.asarray, function(*arguments))


annealed, reverse_annealed = map(on_host, (annealing_module.annealed, annealing_module.reverse_annealed))
bound_parts, fitted_bound = map(on_host, (bound_gap.bound_parts, bound_gap.fitted_bound))
gauss_hermite = on_host(quadrature.gauss_hermite)
quasi_monte_carlo = on_host(quadrature.quasi_monte_carlo)
evidence_lower_bound, importance, importance_upper, thermodynamic_bounds = (
    on_host(getattr(importance_module, name))
    for name in ("evidence_lower_bound", "importance", "importance_upper", "thermodynamic_bounds")
)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def keys_of(rows, seed=0):
    return jax.random.key_data(jax.random.split(jax.random.key(seed), rows))


def linear_decoder(weight, noise, bias=0.0):
    """x = z W + c + noise of variances `noise`."""
    weight, d = np.asarray(weight, float), np.shape(weight)[1]
    network = MultilayerPerceptron((jnp.asarray(weight),), (jnp.broadcast_to(jnp.asarray(bias), d),), None)
    return Decoder(network, GaussianObservation(jnp.log(jnp.broadcast_to(noise, d) - 1e-5), "diagonal"))


def constant_encoder(mean, variance, d):
    """q that is the same for every x."""
    bias = jnp.asarray(np.concatenate([mean, np.log(variance)]))
    network = MultilayerPerceptron((jnp.zeros((d, len(bias))),), (bias,), None)
    return DiagonalEncoder(Features(jnp.zeros(d), jnp.eye(d)), network)


def curved(noise, n=2, d=20, hidden=16, seed=0, encoder=None):
    """A random tanh decoder, whose posteriors are curved where noise is large and narrow where it is small."""
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=(n, hidden)), rng.normal(size=(hidden, d)) / np.sqrt(hidden))
    biases = (rng.normal(size=hidden), 0.3 * rng.normal(size=d))
    network = MultilayerPerceptron(
        tuple(map(jnp.asarray, weights)), tuple(map(jnp.asarray, biases)), None, "tanh"
    )
    decoder = Decoder(network, GaussianObservation(jnp.full(d, np.log(noise**2 - 1e-5)), "diagonal"))
    return VariationalModel(
        LatentVariableModel(ConstantPrior(n), decoder), encoder or LaplaceEncoder(decoder, n)
    )


def dense_quadrature(system, x, width=6.5, points=521):
    """log p(x) by the rectangle rule on a grid, in two dimensions; the decoder is evaluated by NumPy."""
    grid = np.linspace(-width, width, points)
    z = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    network, observation = system.model.likelihood.network, system.model.likelihood.observation
    (w1, w2), (c1, c2) = (map(np.asarray, leaves) for leaves in (network.weights, network.biases))
    mean = np.tanh(z @ w1 + c1) @ w2 + c2
    variance = 1e-5 + np.exp(np.asarray(observation.log_variance))
    log_prior = -0.5 * (z**2).sum(1) - np.log(2 * np.pi)
    rows = []
    for row in x:
        log_p = -0.5 * (((row - mean) ** 2 / variance).sum(1) + np.log(2 * np.pi * variance).sum())
        rows.append(logsumexp(log_p + log_prior) + 2 * np.log(grid[1] - grid[0]))
    return np.array(rows)


# The test case of which all values are known ----------------------------------------------------------

LOG_P, ELBO, EUBO = -1.2865103088617775, -2.0474663, -0.9368336
TVO_LEFT, TVO_RIGHT, IWAE_5, UPPER_5 = -1.3446041, -1.2335408, -1.3581, -1.2242
COPIES = 4096


@pytest.fixture
def known():
    """z ~ N(0, 1), x|z ~ N(z, .25), x = .8, q = N(.2, .49); the one row many times over."""
    model = LatentVariableModel(ConstantPrior(1), linear_decoder([[1.0]], 0.25))
    system = VariationalModel(model, constant_encoder([0.2], [0.49], 1))
    return system, jnp.full((COPIES, 1), 0.8), keys_of(COPIES)


def assert_mean(values, expected, tolerance=1e-4):
    """The mean of independent values is the expected one, within four standard errors."""
    values = np.asarray(values)
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values)) + tolerance


def test_known_lower_bounds(known):
    system, x, keys = known
    elbo = evidence_lower_bound(system, x, None, keys, 64)
    assert_mean(elbo.value, ELBO)
    # The predicted variance is that over repetitions.
    assert np.mean(elbo.variance) == pytest.approx(np.var(elbo.value), rel=0.1)
    assert_mean(importance(system, x, None, keys, 5).value, IWAE_5, 2e-4)
    many = importance(system, x, None, keys, 512)
    assert_mean(many.value, LOG_P, 2e-3)
    assert np.mean(many.variance) == pytest.approx(np.var(many.value), rel=0.2)
    # ESS/K tends to (∫ p)²/∫ p²/q, for q = N(.2, .49) and the posterior N(.64, .2).
    z = np.linspace(-12, 12, 200_001)
    posterior, q = (multivariate_normal.pdf(z, m, v) for m, v in ((0.64, 0.2), (0.2, 0.49)))
    share = 1 / np.trapezoid(posterior**2 / q, z)
    assert np.mean(many.effective_sample_size) / 512 == pytest.approx(share, rel=0.03)
    assert np.mean(many.pareto_k) < 0.5


def test_known_upper_bounds(known):
    system, x, keys = known
    z = 0.64 + np.sqrt(0.2) * np.random.default_rng(1).standard_normal((COPIES, 1))
    assert_mean(importance_upper(system, x, None, keys, jnp.asarray(z), 1).value, EUBO)
    assert_mean(importance_upper(system, x, None, keys, jnp.asarray(z), 5).value, UPPER_5, 2e-4)


def test_known_thermodynamic_sums(known):
    system, x, keys = known
    left, right = thermodynamic_bounds(system, x[:256], None, keys[:256], 4096, 10)
    assert_mean(left, TVO_LEFT, 1e-3)
    assert_mean(right, TVO_RIGHT, 1e-3)


@pytest.mark.slow
def test_known_value_by_nodes_and_annealing(known):
    system, x, keys = known
    assert gauss_hermite(system, x[:2], None, keys[:2], 3).value == pytest.approx(LOG_P, abs=1e-10)
    assert quasi_monte_carlo(system, x[:2], None, keys[:2], 1024, "laplace").value == pytest.approx(
        LOG_P, abs=1e-3
    )
    annealing = Annealing(n_temperatures=10, n_chains=4)
    lower = np.asarray(annealed(system, x[:512], None, keys[:512], annealing).value)
    z = 0.64 + np.sqrt(0.2) * np.random.default_rng(2).standard_normal((512, 1))
    upper = np.asarray(reverse_annealed(system, x[:512], None, keys[:512], jnp.asarray(z), annealing).value)
    # Weights are unbiased whatever the number of temperatures: E w = p, and E 1/w = 1/p backwards.
    assert_mean(np.exp(lower - LOG_P), 1.0)
    assert_mean(np.exp(LOG_P - upper), 1.0)
    assert lower.mean() < LOG_P < upper.mean()


# A linear Gaussian model, in which everything has a closed form ----------------------------------------


@pytest.mark.slow
def test_closed_forms_of_linear_models():
    rng = np.random.default_rng(0)
    weight, bias, noise = rng.normal(size=(3, 5)), rng.normal(size=5), rng.uniform(1e-3, 1, 5)
    x, u = rng.normal(size=(6, 5)), np.array([0, 1, 0, 1, 1, 0])
    decoder = linear_decoder(weight, noise, bias)

    def law(mean, variance):
        return multivariate_normal(
            mean @ weight + bias, weight.T @ np.diag(variance) @ weight + np.diag(noise)
        )

    plain = LatentVariableModel(ConstantPrior(3), decoder)
    expected = law(np.zeros(3), np.ones(3)).logpdf(x)
    np.testing.assert_allclose(exact_log_marginal(plain, x, None), expected, rtol=1e-9)
    mean, variance = rng.normal(size=(2, 3)), rng.uniform(0.3, 2, (2, 3))
    raw = jnp.stack([jnp.asarray(mean), jnp.log(jnp.asarray(variance))], axis=-1)
    shares = np.array([0.3, 0.7])
    prior = ModulatedPrior(GaussianLocationScale(), Table(raw, jnp.log(jnp.asarray(shares))))
    given = np.stack([law(m, v).logpdf(x) for m, v in zip(mean, variance, strict=True)])
    model = LatentVariableModel(prior, decoder)
    np.testing.assert_allclose(exact_log_marginal(model, x, u), given[u, np.arange(6)], rtol=1e-6)
    mixed = logsumexp(given + np.log(shares)[:, None], axis=0)
    np.testing.assert_allclose(exact_log_marginal(model, x, None), mixed, rtol=1e-6)
    # Without u, importance samples, quasi-Monte Carlo points and chains agree with the mixture.
    system = VariationalModel(model, exact_encoder(decoder))
    args = system, jnp.asarray(x), None, keys_of(6)
    np.testing.assert_allclose(importance(*args, 2000).value, mixed, atol=0.05)
    np.testing.assert_allclose(quasi_monte_carlo(*args, 512, "laplace").value, mixed, atol=0.05)
    chains = annealed(*args, Annealing(100, 16))
    np.testing.assert_allclose(chains.value, mixed, atol=0.1)
    heavy = ModulatedPrior(LaplaceScale(), Table(raw[..., 1:], prior.parameters.log_shares))
    assert exact_log_marginal(LatentVariableModel(heavy, decoder), x, u) is None


# Section 5 of the literature's decomposition: for the best diagonal q the gap is that of Hadamard's inequality.
GAP = 0.0974807130


def test_gap_of_a_linear_model_is_that_of_the_closed_form():
    correlation = np.sqrt(1 - np.exp(-2 * GAP))
    off = correlation * np.sqrt(2 * 3)
    precision = np.array([[2.0, off], [off, 3.0]])
    assert 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]) == pytest.approx(GAP)
    weight = np.linalg.cholesky(precision - np.eye(2))
    decoder = linear_decoder(weight, 1.0)
    model = LatentVariableModel(ConstantPrior(2), decoder)
    x = np.random.default_rng(0).normal(size=(8, 2)) @ weight.T
    exact = exact_log_marginal(model, x, None)
    poor = VariationalModel(model, constant_encoder([0.4, -0.3], [0.1, 0.9], 2))
    diagonal = fitted_bound(poor, jnp.asarray(x), None, keys_of(8), 20_000, False, 200)
    # The same for every x, and found from any start.
    error = np.sqrt(np.asarray(diagonal.best[1]))
    assert (np.abs(exact - diagonal.best[0] - GAP) < 4 * error).all()
    assert (exact - diagonal.best[0]).mean() == pytest.approx(GAP, abs=0.003)
    # KL between Gaussians says what the encoder's own q loses.
    covariance, mean = np.linalg.inv(precision), x @ weight.T @ np.linalg.inv(precision)
    q_mean, q_variance = np.array([0.4, -0.3]), np.array([0.1, 0.9])
    away = mean - q_mean
    divergence = 0.5 * (
        np.trace(precision @ np.diag(q_variance)) - 2 + np.einsum("bi,ij,bj->b", away, precision, away)
        + np.linalg.slogdet(covariance)[1] - np.log(q_variance).sum()
    )  # fmt: skip
    np.testing.assert_allclose(exact - diagonal.bound[0], divergence, atol=0.1)
    np.testing.assert_allclose(diagonal.gain[0], divergence - GAP, atol=0.1)
    assert np.asarray(diagonal.converged).all()
    full = fitted_bound(poor, jnp.asarray(x), None, keys_of(8), 200, True, 200)
    # The search ends where less than 1e-6 nats are left, and samples see the square root of that.
    np.testing.assert_allclose(full.best[0], exact, atol=5e-4)
    best = fitted_bound(
        VariationalModel(model, exact_encoder(decoder)), jnp.asarray(x), None, keys_of(8), 200, True, 200
    )
    np.testing.assert_allclose(best.gain[0], 0, atol=1e-6)


def test_parts_of_the_bound_are_those_of_the_closed_form():
    weight, noise = np.array([[1.0, -0.5, 0.3], [0.2, 0.8, -0.6]]), np.array([0.3, 0.5, 0.2])
    q_mean, q_variance = np.array([0.3, -0.2]), np.array([0.2, 0.4])
    model = LatentVariableModel(ConstantPrior(2), linear_decoder(weight, noise))
    system = VariationalModel(model, constant_encoder(q_mean, q_variance, 3))
    x = np.random.default_rng(0).normal(size=(4, 3))
    parts = bound_parts(system, jnp.asarray(x), None, keys_of(4), 20_000)
    spread = ((x - q_mean @ weight) ** 2 + (q_variance[:, None] * weight**2).sum(0)) / noise
    reconstruction = -0.5 * (spread + np.log(2 * np.pi * noise)).sum(1)
    divergence = 0.5 * (q_variance + q_mean**2 - 1 - np.log(q_variance)).sum()
    entropy = 0.5 * np.log(2 * np.pi * np.e * q_variance).sum()
    expected = (
        reconstruction,
        divergence,
        reconstruction - divergence - entropy,
        entropy,
        reconstruction - divergence,
    )
    for (value, variance), truth in zip(parts, expected, strict=True):
        error = np.abs(np.asarray(value) - truth)
        assert (error < 4.5 * np.sqrt(np.asarray(variance)) + 1e-9).all()
    assert not np.any(parts.prior_divergence[1])
    assert not np.any(parts.entropy[1])


# A nonlinear decoder ------------------------------------------------------------------------------------


def check_agreement(noise, rows, samples, annealing, tolerance):
    """All methods against dense quadrature, in nats per row, and bounds on their proper sides."""
    system = curved(noise)
    z, x = system.model.sample(None, key=jax.random.key(5), n_rows=rows)
    truth = dense_quadrature(system, np.asarray(x))
    args = system, x, None, keys_of(rows)
    grid = gauss_hermite(*args, 24)
    np.testing.assert_allclose(grid.value, truth, atol=0.02)
    assert abs(np.mean(grid.value - truth)) < 0.002
    points = quasi_monte_carlo(*args, 1024, "laplace")
    assert abs(np.mean(points.value - truth)) < tolerance
    assert np.abs(points.value - truth).mean() < tolerance
    weighed = importance(*args, samples, "laplace")
    assert abs(np.mean(weighed.value - truth)) < tolerance
    chains = annealed(*args, annealing)
    assert abs(np.mean(chains.value - truth)) < tolerance
    upper = reverse_annealed(*args, z, annealing)
    elbo = evidence_lower_bound(*args, 200)
    loose, few = importance_upper(*args, z, 1), importance(*args, 20)

    def error(*estimates):
        return 4 * np.sqrt(sum(np.sum(e.variance) for e in estimates)) / rows

    mean = truth.mean()
    assert np.mean(elbo.value) < np.mean(few.value) + error(elbo, few)
    assert np.mean(elbo.value) < mean < np.mean(loose.value)
    assert np.mean(few.value) < mean + error(few)
    assert np.mean(chains.value) < mean + error(chains)
    assert np.mean(upper.value) > mean - error(upper)
    assert abs(np.mean(upper.value) - mean) < tolerance


@pytest.mark.slow
def test_methods_agree_on_a_nonlinear_model():
    check_agreement(0.3, 16, 2000, Annealing(400, 16), 0.04)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.15, 0.5])
def test_methods_agree_within_two_hundredths_of_a_nat(noise):
    check_agreement(noise, 100, 5000, Annealing(1000, 32), 0.02)


@pytest.mark.slow
def test_a_proposal_that_is_too_narrow_is_found_out_and_survived():
    decoder = linear_decoder([[1.0, 0.5]], 0.5)
    model = LatentVariableModel(ConstantPrior(1), decoder)
    system = VariationalModel(model, constant_encoder([0.0], [0.01], 2))
    x = np.random.default_rng(0).normal(size=(8, 2))
    exact = exact_log_marginal(model, x, None)
    args = system, jnp.asarray(x), None, keys_of(8)
    poor = importance(*args, 1000)
    assert np.median(poor.pareto_k) > 0.7
    assert np.mean(poor.value) < exact.mean() - 0.1
    np.testing.assert_allclose(importance(*args, 5000, "laplace").value, exact, atol=0.05)
    # The narrow Gaussian gets points of the prior beside it.
    np.testing.assert_allclose(quasi_monte_carlo(*args, 1024, "encoder").value, exact, atol=0.05)
    # Moves carry chains out of it.
    np.testing.assert_allclose(annealed(*args, Annealing(300, 32)).value, exact, atol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["encoder", "laplace", "prior"])
def test_annealing_encloses_the_exact_value_in_ten_dimensions(start):
    rng = np.random.default_rng(3)
    decoder = linear_decoder(rng.normal(size=(10, 15)) / 2, 0.1)
    model = LatentVariableModel(ConstantPrior(10), decoder)
    system = VariationalModel(model, constant_encoder(np.zeros(10), np.full(10, 0.3), 15))
    z, x = model.sample(None, key=jax.random.key(0), n_rows=16)
    exact = exact_log_marginal(model, np.asarray(x), None).mean()
    annealing = Annealing(300, 16, 3, start)
    lower = annealed(system, x, None, keys_of(16), annealing)
    upper = reverse_annealed(system, x, None, keys_of(16, 1), z, annealing)
    below, above = (3 * np.sqrt(np.sum(e.variance)) / 16 for e in (lower, upper))
    room = (
        0.01 if start == "laplace" else 0.5
    )  # Laplace's approximation is exact here, the others are far away
    assert exact - room < np.mean(lower.value) < exact + below + 1e-6
    assert exact - above - 1e-6 < np.mean(upper.value) < exact + room


def test_moves_leave_their_target_alone():
    # A skewed law in one dimension, whose moments quadrature knows.
    def log_density(z):
        return -0.5 * z[:, 0] ** 2 - jnp.exp(0.8 * z[:, 0])

    grid = np.linspace(-10, 10, 4001)
    weight = np.exp(np.asarray(log_density(jnp.asarray(grid[:, None]))))
    weight /= weight.sum()
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.choice(grid, size=(40_000, 1), p=weight))
    move = eqx.filter_jit(lambda z, e, a: hamiltonian_move(log_density, z, jnp.asarray(1.4), e, a, 3))
    chances = []
    for _ in range(5):
        z, chance = move(z, jnp.asarray(rng.normal(size=z.shape)), jnp.asarray(rng.random(len(z))))
        chances.append(float(chance.mean()))
    assert 0.5 < np.mean(chances) < 0.97  # refusals matter here
    for power in (1, 2, 3):
        truth, spread = weight @ grid**power, np.sqrt(weight @ grid ** (2 * power))
        assert float((z**power).mean()) == pytest.approx(truth, abs=5 * spread / np.sqrt(len(z)))


def test_a_schedule_rises_from_nothing_to_one():
    for start in ("encoder", "prior"):
        beta = Annealing(50, 4, 1, start).schedule()
        assert (beta[0], beta[-1]) == (0, 1)
        assert (np.diff(beta) > 0).all()
    with pytest.raises(DataError, match="n_chains must be a positive integer, got 0"):
        Annealing(10, 0)
    with pytest.raises(DataError, match="start must be one of encoder, laplace, prior"):
        Annealing(start="zero")
