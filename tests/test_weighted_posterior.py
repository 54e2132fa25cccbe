"""Weighted posterior moments against quadrature on a dense grid, for a bent decoder and a poor encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from identica.conditionals import (
    Decoder,
    Features,
    GaussianObservation,
    ModulatedPrior,
    ProductOfExperts,
    Table,
)
from identica.families import GaussianLocationScale
from identica.models.latent_variable import LatentVariableModel, VariationalModel
from identica.models.weighted_posterior import (
    NODES,
    truncated,
    weighted_moments,
    weighted_moments_without_u,
    weighted_samples,
    weighted_samples_without_u,
)
from identica.networks.multilayer_perceptron import MultilayerPerceptron

ROWS, D, SEGMENTS = 12, 3, 2
GRID = np.linspace(-7, 7, 6001)
MEAN, VARIANCE, SHARES = np.array([0.8, -0.5]), np.array([0.6, 1.5]), np.array([0.3, 0.7])


@pytest.fixture(scope="module")
def bent():
    """One source behind a network, rows drawn from it, and an encoder that is only roughly right."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        hidden, out = rng.standard_normal((1, 5)), rng.standard_normal((5, D))
        network = MultilayerPerceptron(
            (jnp.asarray(hidden), jnp.asarray(out)),
            (jnp.asarray(rng.standard_normal(5)), jnp.zeros(D)),
            None,
            "leaky_relu+tanh",
        )
        raw = np.stack([MEAN, np.log(VARIANCE)], axis=-1)[:, None]
        prior = ModulatedPrior(GaussianLocationScale(), Table(jnp.asarray(raw), jnp.log(jnp.asarray(SHARES))))
        decoder = Decoder(network, GaussianObservation(jnp.log(jnp.full(D, 0.3)), "diagonal"))
        model = LatentVariableModel(prior, decoder)
        u = jnp.asarray(np.arange(ROWS) % SEGMENTS)
        z, x = model.sample(u, key=jax.random.key(1))
        x = np.asarray(x)
        # A linear regression of z on x for the mean, and little precision: a wide proposal, as of training by weights.
        design = np.c_[x, np.ones(ROWS)]
        slopes = np.linalg.lstsq(design, np.asarray(z)[:, 0], rcond=None)[0]
        weight = np.concatenate([slopes[:-1, None], np.zeros((D, 2))], axis=1)
        linear = MultilayerPerceptron((jnp.asarray(weight),), (jnp.asarray([slopes[-1], 1.0, -0.7]),), None)
        encoder = ProductOfExperts(Features(jnp.zeros(D), jnp.eye(D)), linear, jnp.zeros(()), 1)
        yield VariationalModel(model, encoder), jnp.asarray(x), u


def by_quadrature(system, x, u):
    """Posterior means and standard deviations (B,) on a grid; u None averages over its values."""
    log_likelihood = np.asarray(
        system.model.likelihood(jnp.asarray(GRID)[:, None, None]).log_prob(jnp.asarray(x)[None])
    )
    normal = -0.5 * (GRID[:, None] - MEAN) ** 2 / VARIANCE - 0.5 * np.log(VARIANCE)
    prior = normal[:, np.asarray(u)] if u is not None else np.log(np.exp(normal) @ SHARES)[:, None]
    weight = softmax(log_likelihood + prior, axis=0)
    mean = weight.T @ GRID
    return mean, np.sqrt(np.array([w @ (GRID - m) ** 2 for w, m in zip(weight.T, mean, strict=True)]))


def test_moments_given_u_are_those_of_quadrature(bent):
    system, x, u = bent
    with jax.enable_x64(True):
        mean, sd = by_quadrature(system, x, u)
        found, variance = weighted_moments(system, x, u)
        crude = np.abs(np.asarray(system.posterior(x, u).mean)[:, 0] - mean).max()
    error = np.abs(np.asarray(found)[:, 0] - mean)
    assert error.max() < 0.02 * sd.max()
    assert error.max() < 0.1 * crude
    np.testing.assert_allclose(np.sqrt(np.asarray(variance)[:, 0]), sd, rtol=0.05)


def test_moments_without_u_are_those_of_quadrature(bent):
    system, x, _ = bent
    with jax.enable_x64(True):
        mean, sd = by_quadrature(system, x, None)
        keys = jax.random.split(jax.random.key(0), ROWS)
        found, variance = weighted_moments_without_u(system, x, keys)
    # Standard errors of 256 weighted draws.
    assert (np.abs(np.asarray(found)[:, 0] - mean) < 5 * sd / np.sqrt(NODES / 2)).all()
    np.testing.assert_allclose(np.sqrt(np.asarray(variance)[:, 0]), sd, rtol=0.3)


@pytest.mark.slow
def test_samples_have_the_moments_of_quadrature(bent):
    system, x, u = bent
    with jax.enable_x64(True):
        mean, sd = by_quadrature(system, x, u)
        z = np.asarray(weighted_samples(system, x, u, jax.random.split(jax.random.key(2), ROWS), 4000))[
            ..., 0
        ]
    assert z.shape == (ROWS, 4000)
    np.testing.assert_allclose(z.mean(axis=1), mean, atol=0.1 * sd.max())
    np.testing.assert_allclose(z.std(axis=1), sd, rtol=0.1)


def test_samples_without_u_have_the_moments_of_quadrature(bent):
    system, x, _ = bent
    with jax.enable_x64(True):
        mean, sd = by_quadrature(system, x, None)
        keys = jax.random.split(jax.random.key(3), ROWS)
        z = np.asarray(weighted_samples_without_u(system, x, keys, 4000))[..., 0]
    assert z.shape == (ROWS, 4000)
    np.testing.assert_allclose(z.mean(axis=1), mean, atol=0.1 * sd.max())
    np.testing.assert_allclose(z.std(axis=1), sd, rtol=0.1)


def test_one_draw_never_decides():
    even, one = jnp.zeros(NODES), jnp.zeros(NODES).at[3].set(100.0)
    np.testing.assert_allclose(truncated(even), even)
    share = softmax(np.asarray(truncated(one)))
    assert share[3] == share.max()
    weights = np.exp(np.asarray(truncated(one), np.float64))
    assert weights.max() <= np.exp(100.0) / np.sqrt(NODES) * 1.01
    assert np.isfinite(np.asarray(truncated(one.at[5].set(jnp.nan)))).sum() == NODES - 1
