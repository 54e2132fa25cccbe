"""The integral of a latent-variable model against closed forms, and nodes of all kinds against each other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from identica.conditionals import (
    BernoulliObservation,
    ConstantPrior,
    Decoder,
    Evidence,
    GaussianObservation,
    LaplaceEncoder,
)
from identica.data import Dataset
from identica.expectations import GaussHermite, MonteCarlo, QuasiMonteCarlo
from identica.expectations.spherical import SphericalCubature
from identica.models import LatentVariableModel
from identica.networks import MultilayerPerceptron
from identica.objectives import marginal_likelihood
from identica.objectives.marginal_likelihood import MarginalLikelihood, untrusted

KEY = jax.random.key(0)


def linear_model(weight, noise):
    """x = z W + noise of variances `noise`, in the default precision."""
    n, d = weight.shape
    observation = GaussianObservation(jnp.log(jnp.asarray(noise) - 1e-5), "diagonal")
    network = MultilayerPerceptron((jnp.asarray(weight),), (jnp.zeros(d),), None)
    return LatentVariableModel(ConstantPrior(n), Decoder(network, observation))


def curved_model(n, d, variance, hidden=(8,), scale=0.7):
    """A random smooth decoder whose bends matter."""
    rng = np.random.default_rng(4)
    observation = GaussianObservation(jnp.full(d, np.log(variance)), "diagonal")
    network = Decoder.random(n, hidden, d, observation, activation="tanh", key=jax.random.key(4)).network
    drawn = jax.tree.map(lambda a: jnp.asarray(scale * rng.standard_normal(a.shape)), network)
    return LatentVariableModel(ConstantPrior(n), Decoder(drawn, observation))


@eqx.filter_jit
def integral(likelihood, model, rows):
    return likelihood.integral(model, rows, key=KEY)


@eqx.filter_jit
def laplace(model, rows, steps=16):
    encoder = LaplaceEncoder(model.likelihood, model.prior.n_components, steps)
    q = encoder(Evidence(rows.x, None, model.prior(None)))
    return q.mean, q.covariance_matrix


def rows_of(model, n_rows, seed=1):
    return Dataset(model.sample(None, key=jax.random.key(seed), n_rows=n_rows)[1])


NODES = {
    "cubature": SphericalCubature(),
    "grid": GaussHermite(3),
    "sobol": QuasiMonteCarlo(16),
}


@pytest.mark.parametrize("name", NODES)
def test_nodes_on_gaussian_posteriors_are_exact(name):
    rng = np.random.default_rng(0)
    weight, noise = rng.standard_normal((3, 6)), rng.uniform(0.05, 0.5, 6)
    with jax.enable_x64(True):
        model = linear_model(weight, noise)
        rows = rows_of(model, 5)
        value = integral(MarginalLikelihood(NODES[name], "posterior"), model, rows).rows
    truth = multivariate_normal(np.zeros(6), weight.T @ weight + np.diag(noise)).logpdf(rows.x)
    assert np.allclose(value, truth, atol=1e-9)


def test_gradient_is_that_of_the_closed_form():
    rng = np.random.default_rng(0)
    weight, noise = jnp.asarray(rng.standard_normal((3, 6))), jnp.asarray(rng.uniform(0.05, 0.5, 6))
    with jax.enable_x64(True):
        weight, noise = np.asarray(weight, np.float64), np.asarray(noise, np.float64)
        rows = rows_of(linear_model(weight, noise), 5)
        objective = MarginalLikelihood(SphericalCubature(), "posterior")

        def closed(weight, noise):
            covariance = weight.T @ weight + jnp.diag(noise)
            return -dist.MultivariateNormal(jnp.zeros(6), covariance).log_prob(rows.x).mean()

        loss = lambda w, v: objective(linear_model(w, v), rows, key=KEY)[0]
        found = jax.jit(jax.grad(loss, (0, 1)))(weight, noise)
        truth = jax.grad(closed, (0, 1))(weight, noise)
    for a, b in zip(found, truth, strict=True):
        assert np.allclose(a, b, atol=1e-10)


def test_laplace_finds_the_posterior_of_a_linear_model():
    weight, noise = np.array([[1.0, 0.5, -0.8], [0.2, -1.0, 0.3]]), np.array([0.1, 0.2, 0.05])
    with jax.enable_x64(True):
        model = linear_model(weight, noise)
        rows = rows_of(model, 4)
        mean, found = laplace(model, rows)
        covariance = np.linalg.inv(np.eye(2) + weight / noise @ weight.T)
        assert np.allclose(found, covariance, atol=1e-12)
        assert np.allclose(mean, np.asarray(rows.x) / noise @ weight.T @ covariance, atol=1e-8)


def test_laplace_finds_modes_of_a_curved_model():
    """The gradient of log p(x, z) vanishes there, and no point of a dense grid is higher."""
    with jax.enable_x64(True):
        model = curved_model(1, 4, 0.01)
        rows = rows_of(model, 64)
        mode, _ = laplace(model, rows, steps=30)
        slope = jax.jit(jax.grad(lambda z: model.log_joint(z, rows.x, None).sum()))(mode)
        grid = jnp.linspace(-5, 5, 4001)[:, None, None]
        best = jax.jit(lambda z: model.log_joint(z, rows.x, None))(grid).max(0)
        found = model.log_joint(mode, rows.x, None)
    assert np.abs(slope).max() < 1e-4
    assert np.all(np.asarray(found) > np.asarray(best) - 1e-3)


@pytest.mark.slow
def test_blocks_change_neither_value_nor_gradient(monkeypatch):
    with jax.enable_x64(True):
        model = curved_model(2, 5, 0.05)
        rows = rows_of(model, 7)

        def both(placement):
            objective = MarginalLikelihood(GaussHermite(9), placement)
            return jax.value_and_grad(lambda w: objective(_with_bias(model, w), rows, key=KEY)[0])(
                jnp.zeros(5)
            )

        for placement in ("prior", "posterior"):
            whole = both(placement)
            with monkeypatch.context() as patch:
                patch.setattr(marginal_likelihood, "_BLOCK_VALUES", 10 * 7 * 8)
                parts = both(placement)
            assert np.isclose(whole[0], parts[0], rtol=1e-12)
            assert np.allclose(whole[1], parts[1], rtol=1e-9)


def _with_bias(model, shift):
    network = model.likelihood.network
    network = network.followed_by(jnp.eye(network.n_outputs), shift)
    return LatentVariableModel(model.prior, Decoder(network, model.likelihood.observation))


@pytest.mark.slow
def test_all_nodes_agree_on_a_curved_model():
    """n = 2, d = 20: nodes of every kind against a sum over a fine grid, in NumPy."""
    with jax.enable_x64(True):
        model = curved_model(2, 20, 0.5, scale=0.5)
        rows = rows_of(model, 20)
        step = np.linspace(-6, 6, 301)
        z = np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)
        centre = np.asarray(jax.jit(lambda z: model.likelihood.mean(z))(z))
        log_prior = -0.5 * (z**2).sum(axis=1) - np.log(2 * np.pi) + 2 * np.log(step[1] - step[0])
        variance = 0.5 + 1e-5
        log_given = [-0.5 * ((x - centre) ** 2).sum(axis=1) / variance for x in np.asarray(rows.x)]
        truth = logsumexp(np.stack(log_given) + log_prior, axis=1) - 10 * np.log(2 * np.pi * variance)

        def error(nodes, placement):
            return np.asarray(integral(MarginalLikelihood(nodes, placement), model, rows).rows) - truth

        assert np.abs(error(GaussHermite(128), "prior")).max() < 1e-2
        assert np.abs(error(GaussHermite(25), "posterior")).max() < 1e-2
        assert abs(error(QuasiMonteCarlo(4096), "posterior").mean()) < 0.02
        assert abs(error(QuasiMonteCarlo(2**15), "prior").mean()) < 0.02
        # What is left of plain Monte Carlo: few points of the prior fall into a posterior.
        assert np.abs(error(MonteCarlo(2**10), "prior")).mean() > 0.02


def test_nothing_underflows_at_784_columns():
    """The naive product of densities is 0 in float32; the sum of its logarithms is exact."""
    rng = np.random.default_rng(3)
    weight, sigma = rng.standard_normal((2, 784)).astype(np.float32), 0.01
    noise = np.full(784, sigma**2, np.float32)
    model = linear_model(weight, noise)
    rows = rows_of(model, 6)
    assert rows.x.dtype == jnp.float32
    density = jnp.exp(model.likelihood(jnp.zeros((1, 2))).log_prob(rows.x))
    assert float(density.max()) == 0
    objective = MarginalLikelihood(GaussHermite(5), "posterior")
    loss = lambda w: objective(linear_model(w, noise), rows, key=KEY)[0]
    value, slope = jax.jit(jax.value_and_grad(loss))(jnp.asarray(weight))
    covariance = weight.astype(np.float64).T @ weight + sigma**2 * np.eye(784)
    truth = multivariate_normal(np.zeros(784), covariance).logpdf(np.asarray(rows.x, np.float64))
    assert float(-value) == pytest.approx(truth.mean(), rel=2e-4)
    assert np.isfinite(slope).all()
    on_prior = integral(MarginalLikelihood(QuasiMonteCarlo(256)), model, rows)
    assert np.isfinite(on_prior.rows).all()
    assert untrusted(MarginalLikelihood(QuasiMonteCarlo(256)), 2, on_prior.largest_share).all()


def test_one_dominant_node_is_noticed():
    direction, row = np.array([[1.0, 0.5, -0.8]]), np.array([[0.9, 0.3, -0.7]])
    with jax.enable_x64(True):
        for sigma, failed in [(1.0, False), (0.1, True), (0.01, True)]:
            model, rows = linear_model(direction, np.full(3, sigma**2)), Dataset(jnp.asarray(row))
            likelihood = MarginalLikelihood(GaussHermite(32))
            share = integral(likelihood, model, rows).largest_share
            assert bool(untrusted(likelihood, 1, share)[0]) is failed
            adapted = MarginalLikelihood(GaussHermite(3), "posterior")
            share = integral(adapted, model, rows).largest_share
            assert not untrusted(adapted, 1, share)[0]


def test_binary_columns_agree_with_enumeration_over_a_fine_grid():
    with jax.enable_x64(True):
        decoder = Decoder.random(1, (), 3, BernoulliObservation(), key=KEY)
        weight, bias = jnp.array([[1.0, -0.7, 4.0]]), jnp.array([0.3, -0.4, 0.8])
        model = LatentVariableModel(
            ConstantPrior(1), Decoder(decoder.network.with_linear_part(weight, bias), decoder.observation)
        )
        rows = Dataset(jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
        z = np.linspace(-10, 10, 20001)
        p = 1 / (1 + np.exp(-(z[:, None] * np.asarray(weight) + np.asarray(bias))))
        given = np.prod(np.where(np.asarray(rows.x)[:, None] == 1, p, 1 - p), axis=-1)
        truth = np.log(np.trapezoid(given * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), z, axis=1))
        for nodes, placement in [(GaussHermite(120), "prior"), (GaussHermite(40), "posterior")]:
            value = integral(MarginalLikelihood(nodes, placement), model, rows).rows
            assert np.allclose(value, truth, atol=1e-7)
