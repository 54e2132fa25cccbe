"""Gaussians carried through a flow, by quadrature, by closed forms and by both ways to their density."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from identica.conditionals import CarriedGaussian, PrecisionGaussian
from identica.models.marginal_posterior import log_weights_without_u
from identica.networks import InvertibleNetwork
from test_noisy_flow import CENTER, MATRIX, MEANS, NOISE, VARIANCES, noisy_flow, weights_of


@pytest.fixture(autouse=True)
def doubles():
    with jax.enable_x64(True):
        yield


def carried(n: int, layers: int) -> CarriedGaussian:
    """Three rows around different points, with correlated precision where n allows."""
    rng = np.random.default_rng(7)
    root = np.tril(rng.standard_normal((n, n, 3)).T).T + 2 * np.eye(n)[:, :, None]
    precision = np.einsum("ikb,jkb->ijb", root, root)
    origin = PrecisionGaussian.from_precision(
        jnp.asarray(precision), jnp.asarray(rng.standard_normal((n, 3)))
    )
    return CarriedGaussian(origin, InvertibleNetwork.random(n, layers, key=jax.random.key(2)))


@eqx.filter_jit
def log_density(q, z):
    return q.log_prob(z)


@eqx.filter_jit
def log_weights(model, x, u, count, key):
    z, log_q = model.posterior(x, u).sample_with_log_prob(key, (count,))
    return model.model.log_joint(z, x, u) - log_q


def test_samples_come_with_the_density_of_where_they_are():
    q = carried(2, 3)
    z, log_q = q.sample_with_log_prob(jax.random.key(0), (5,))
    assert z.shape == (5, 3, 2)
    np.testing.assert_allclose(log_q, q.log_prob(z), atol=1e-8)
    placed, log_q = q.from_standard(jnp.asarray([[0.3, -1.0], [2.0, 0.5]]))
    np.testing.assert_allclose(log_q, q.log_prob(placed), atol=1e-8)


def test_density_integrates_to_one():
    q = carried(1, 3)
    middle, reach = np.asarray(q.mean)[:, 0], 12 * np.sqrt(np.asarray(q.variance)[:, 0])
    grid = np.linspace(min(middle - reach), max(middle + reach), 20_001)
    density = np.exp(log_density(q, jnp.broadcast_to(grid[:, None, None], (len(grid), 3, 1))))
    np.testing.assert_allclose(density.sum(axis=0) * (grid[1] - grid[0]), 1.0, atol=1e-5)


def test_moments_are_exact_for_a_linear_carrier_and_near_for_a_bent_one():
    linear = carried(2, 1)
    weight, bias = (np.asarray(a) for a in (linear.carrier.last.weight, linear.carrier.last.bias))
    mean, cov = (np.asarray(a) for a in (linear.origin.mean, linear.origin.covariance_matrix))
    np.testing.assert_allclose(linear.mean, mean @ weight.T + bias, rtol=1e-10)
    np.testing.assert_allclose(linear.covariance_matrix, weight @ cov @ weight.T, rtol=1e-8)
    np.testing.assert_allclose(
        linear.variance, np.diagonal(weight @ cov @ weight.T, axis1=1, axis2=2), rtol=1e-8
    )
    bent = carried(2, 3)
    drawn = np.asarray(bent.sample(jax.random.key(1), (40_000,)))
    spread = drawn.std(axis=0)
    assert (np.abs(bent.mean - drawn.mean(axis=0)) < 0.1 * spread).all()
    assert (np.abs(np.sqrt(bent.variance) / spread - 1) < 0.25).all()


def test_a_flow_bends_what_noise_makes_of_it():
    # Few samples are enough for the likelihood: the proposal has the shape of the posterior.
    rng = np.random.default_rng(0)
    x, u = jnp.asarray(1.5 * rng.standard_normal((40, 2))), jnp.asarray(rng.integers(0, 3, 40))
    system = noisy_flow(3)
    model = system.as_variational(jnp.ones((2, 2)), jnp.asarray(CENTER))
    mean_weight = lambda logs: np.asarray(jax.nn.logsumexp(logs, axis=0)) - np.log(len(logs))
    few, many = (mean_weight(log_weights(model, x, u, count, jax.random.key(3))) for count in (16, 4096))
    exact = mean_weight(weights_of(system, x, u, 4096, jax.random.key(4)))
    np.testing.assert_allclose(many, exact, atol=0.1)
    assert np.mean(exact - few) < 0.03


def test_rows_without_u_have_the_likelihood_of_quadrature():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.standard_normal((5, 1)))
    system = noisy_flow(3, n=1)
    model = system.as_variational(jnp.asarray([[0.4], [1.2]]), jnp.asarray(CENTER[:1]))
    keys = jax.random.key_data(jax.random.split(jax.random.key(5), 5))
    logs = eqx.filter_jit(log_weights_without_u)(model, x, jax.random.wrap_key_data(keys), 4000)
    estimate = jax.nn.logsumexp(logs, axis=1) - np.log(4000)
    grid = np.linspace(-12, 12, 40001)[:, None]
    z, log_det = system.flow.latents(jnp.asarray(grid))
    parts = norm(MEANS[:, 0], np.sqrt(VARIANCES[:, 0])).pdf(np.asarray(z)).mean(axis=1)
    for row in range(5):
        score = (float(x[row, 0]) - CENTER[0]) * MATRIX[0, 0]
        noise = norm(score, np.sqrt(NOISE[0]) * MATRIX[0, 0]).pdf(grid[:, 0])
        density = (parts * np.exp(log_det) * noise).sum() * (grid[1, 0] - grid[0, 0])
        np.testing.assert_allclose(estimate[row], np.log(density * MATRIX[0, 0]), atol=0.02)
