"""Conditionals against dense linear algebra, scipy and quadrature."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from identica.conditionals import (
    BernoulliObservation,
    ConstantPrior,
    Decoder,
    DiagonalEncoder,
    Evidence,
    Factor,
    Features,
    GaussianObservation,
    ModulatedPrior,
    NetworkMap,
    PoissonObservation,
    PrecisionGaussian,
    ProductOfExperts,
    averaged_statistics,
    log_evidence,
    posterior_of,
)
from identica.errors import DataError
from identica.families import GaussianLocationScale, LaplaceScale
from identica.networks.multilayer_perceptron import MultilayerPerceptron


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def identity_features(d):
    return Features(jnp.zeros(d), jnp.eye(d))


@pytest.mark.parametrize("hidden_sizes", [(), (7,), (7, 5)])
def test_network_is_a_product_of_matrices_and_absorbs_linear_maps(hidden_sizes, rng):
    network = MultilayerPerceptron.random(
        3, hidden_sizes, 2, key=jax.random.key(0), activation="tanh", shortcut=True
    )
    if network.shortcut is not None:
        network = eqx.tree_at(
            lambda m: m.shortcut, network, jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)
        )
    x = rng.normal(size=(4, 3)).astype(np.float32)
    hidden = x
    for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
        hidden = np.tanh(hidden @ np.asarray(weight) + np.asarray(bias))
    expected = hidden @ np.asarray(network.weights[-1])
    if network.shortcut is not None:
        expected = expected + x @ np.asarray(network.shortcut)
    np.testing.assert_allclose(network(x), expected, rtol=1e-5, atol=1e-5)
    weight, bias = rng.normal(size=(2, 2)).astype(np.float32), rng.normal(size=2).astype(np.float32)
    np.testing.assert_allclose(network.followed_by(weight, bias)(x), expected @ weight + bias, atol=1e-5)
    weight, bias = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    y = rng.normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_allclose(network.preceded_by(weight, bias)(y), network(y @ weight + bias), atol=1e-5)


def test_network_refuses_unknown_activation():
    with pytest.raises(DataError, match="activation must be one of"):
        MultilayerPerceptron.random(2, (3,), 1, key=jax.random.key(0), activation="sine")


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_product_of_experts_is_bayes_rule(n, rng):
    """Mean, covariance and evidence against dense numpy."""
    with jax.enable_x64(True):
        rows = 4
        factor = Factor(jnp.asarray(rng.normal(size=(n, rows))), jnp.asarray(rng.normal(size=(n, n, rows))))
        mu, sd = rng.normal(size=(rows, n)), rng.uniform(0.3, 2, size=(rows, n))
        prior = dist.Normal(jnp.asarray(mu), jnp.asarray(sd)).to_event(1)
        posterior = posterior_of(factor, prior)
        evidence = log_evidence(factor, prior, posterior)
        for r in range(rows):
            root, m = np.asarray(factor.root[..., r]), np.asarray(factor.mean[:, r])
            precision = root @ root.T
            covariance = np.linalg.inv(precision + np.diag(sd[r] ** -2))
            mean = covariance @ (precision @ m + mu[r] / sd[r] ** 2)
            np.testing.assert_allclose(posterior.mean[r], mean, rtol=1e-8)
            np.testing.assert_allclose(posterior.covariance_matrix[r], covariance, rtol=1e-8, atol=1e-12)
            np.testing.assert_allclose(posterior.variance[r], np.diag(covariance), rtol=1e-8)
            marginal = stats.multivariate_normal(mu[r], np.linalg.inv(precision) + np.diag(sd[r] ** 2))
            assert float(evidence[r]) == pytest.approx(marginal.logpdf(m), rel=1e-8)


def test_precision_gaussian_density_and_samples(rng):
    covariance = np.array([[1.0, 0.6, 0.1], [0.6, 0.8, -0.2], [0.1, -0.2, 0.5]])
    mean = np.array([0.3, -1.0, 2.0])
    precision = np.linalg.inv(covariance)
    gaussian = PrecisionGaussian.from_precision(
        jnp.asarray(precision)[..., None], jnp.asarray(precision @ mean)[:, None]
    )
    reference = stats.multivariate_normal(mean, covariance)
    z, log_q = gaussian.sample_with_log_prob(jax.random.key(0), (20_000,))
    np.testing.assert_allclose(log_q[:50, 0], reference.logpdf(np.asarray(z[:50, 0])), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gaussian.log_prob(z[:50]), log_q[:50], rtol=1e-4, atol=1e-4)
    z = z[:, 0]
    np.testing.assert_allclose(z.mean(0), mean, atol=4 * np.sqrt(1.0 / 20_000))
    np.testing.assert_allclose(np.cov(np.asarray(z).T), covariance, atol=0.03)
    assert float(gaussian.entropy()[0]) == pytest.approx(reference.entropy(), rel=1e-5)


def test_encoder_changes_its_basis_exactly(rng):
    n, d = 3, 4
    encoder = ProductOfExperts.random(identity_features(d), (8,), n, key=jax.random.key(1))
    # Away from the special values of a fresh encoder: every output must depend on x.
    encoder = eqx.tree_at(
        lambda e: e.network.shortcut, encoder, 0.3 * jax.random.normal(jax.random.key(2), (d, n + n * n + n))
    )
    x = jnp.asarray(rng.normal(size=(6, d)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(n, n)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=n), jnp.float32)
    old, new = encoder.factor(x), encoder.changed_basis(weight, bias).factor(x)
    np.testing.assert_allclose(new.mean.T, old.mean.T @ weight.T + bias, rtol=2e-4, atol=2e-4)
    inverse = np.linalg.inv(np.asarray(weight))
    expected = inverse.T @ np.moveaxis(np.asarray(old.precision), -1, 0) @ inverse
    np.testing.assert_allclose(np.moveaxis(np.asarray(new.precision), -1, 0), expected, rtol=1e-3, atol=1e-3)


def test_fresh_encoder_has_the_stated_precision(rng):
    encoder = ProductOfExperts.random(identity_features(3), (), 2, log_precision=1.5, key=jax.random.key(0))
    encoder = eqx.tree_at(lambda e: e.network.weights, encoder, (jnp.zeros((3, 2 + 4 + 2)),))
    factor = encoder.factor(jnp.zeros((1, 3)))
    np.testing.assert_allclose(factor.precision[..., 0], np.exp(1.5) * np.eye(2), rtol=1e-5)


def test_prior_tables_and_networks(rng):
    codes = np.repeat(np.arange(3), 400)
    z = rng.normal([[1.0, -1.0]], [[0.5, 2.0]], size=(1200, 2)) * (1 + codes[:, None])
    family = GaussianLocationScale()
    averages, counts = averaged_statistics(
        family, jnp.asarray(z, jnp.float32), jnp.zeros((1200, 2)), jnp.asarray(codes), 3
    )
    np.testing.assert_allclose(counts, [400, 400, 400])
    prior = ModulatedPrior.table(family, averages, counts, floor=0.0)
    given = prior(jnp.array([2, 0]))
    np.testing.assert_allclose(given.mean[0], z[codes == 2].mean(0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(given.variance[1], z[codes == 0].var(0), rtol=1e-3)
    np.testing.assert_allclose(jnp.exp(prior.parameters.log_shares), [1 / 3] * 3, rtol=1e-5)

    network = ModulatedPrior(LaplaceScale(), NetworkMap.random(jnp.ones((6, 4)), 3, 1, key=jax.random.key(0)))
    given = network(jnp.ones((5, 4)))
    assert given.batch_shape == (5,)
    assert given.event_shape == (3,)
    assert bool((given.variance > 0).all())
    natural, log_weights = network.parts()
    assert natural.shape == (6, 3, 1)
    assert float(jnp.exp(log_weights).sum()) == pytest.approx(1.0)


def test_averaged_statistics_add_the_variance_of_uncertain_rows():
    mean, variance = jnp.array([[1.0], [3.0]]), jnp.array([[0.5], [1.5]])
    averages, _ = averaged_statistics(GaussianLocationScale(), mean, variance, jnp.zeros(2, int), 1)
    np.testing.assert_allclose(averages[0, 0], [2.0, (1 + 0.5 + 9 + 1.5) / 2], rtol=1e-6)


def test_constant_prior_is_standard_normal():
    prior = ConstantPrior(3)
    z = jnp.array([[0.1, -0.2, 1.0]])
    np.testing.assert_allclose(prior(None).log_prob(z), stats.norm.logpdf(np.asarray(z)).sum(1), rtol=1e-6)


def gaussian_decoder(noise, d=3):
    return Decoder.random(2, (4,), d, GaussianObservation.from_option(noise, d), key=jax.random.key(0))


@pytest.mark.parametrize("noise", ["isotropic", "diagonal", "scalar-network", "network", 0.25])
def test_gaussian_likelihoods(noise, rng):
    decoder = gaussian_decoder(noise)
    z, x = rng.normal(size=(5, 2)).astype(np.float32), rng.normal(size=(5, 3)).astype(np.float32)
    out = np.asarray(decoder.network(z))
    log_variance = {
        "isotropic": np.full((5, 3), -3.0),
        "diagonal": np.full((5, 3), -3.0),
        "scalar-network": np.repeat(out[:, 3:4], 3, axis=1) if noise == "scalar-network" else None,
        "network": out[:, 3:],
        0.25: np.full((5, 3), np.log(0.25)),
    }[noise]
    sd = np.sqrt(1e-5 + np.exp(log_variance))
    np.testing.assert_allclose(
        decoder(z).log_prob(x), stats.norm.logpdf(x, out[:, :3], sd).sum(1), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(decoder.mean(z), out[:, :3], rtol=1e-6)


def test_count_and_binary_likelihoods(rng):
    z = jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
    poisson = Decoder.random(2, (), 3, PoissonObservation(), key=jax.random.key(1))
    counts = rng.integers(0, 5, size=(5, 3))
    rate = np.asarray(poisson.mean(z))
    np.testing.assert_allclose(rate, np.exp(poisson.network(z)), rtol=1e-4)
    np.testing.assert_allclose(
        poisson(z).log_prob(counts), stats.poisson.logpmf(counts, rate).sum(1), rtol=1e-4, atol=1e-4
    )
    assert bool(jnp.isfinite(poisson.mean(1e4 * z)).all())
    bernoulli = Decoder.random(2, (), 3, BernoulliObservation(), key=jax.random.key(1))
    ones = rng.integers(0, 2, size=(5, 3))
    expected = stats.bernoulli.logpmf(ones, np.asarray(bernoulli.mean(z))).sum(1)
    np.testing.assert_allclose(bernoulli(z).log_prob(ones), expected, rtol=1e-4, atol=1e-4)


def test_diagonal_encoder_ignores_u(rng):
    encoder = DiagonalEncoder.random(identity_features(3), (4,), 2, log_variance=-2.0, key=jax.random.key(0))
    x = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    q = encoder(Evidence(x, None, ConstantPrior(2)(None)))
    other = encoder(Evidence(x, jnp.arange(5), dist.Normal(jnp.ones((5, 2)), 2.0).to_event(1)))
    np.testing.assert_array_equal(q.mean, other.mean)
    assert q.batch_shape == (5,)


def test_features_are_not_trained():
    encoder = DiagonalEncoder.random(identity_features(3), (4,), 2, key=jax.random.key(0))
    gradient = jax.grad(lambda e: e(Evidence(jnp.ones((2, 3)), None, ConstantPrior(2)(None))).mean.sum())(
        encoder
    )
    assert float(jnp.abs(gradient.features.matrix).max()) == 0.0
    assert float(jnp.abs(gradient.network.weights[0]).max()) > 0.0


def test_wrong_noise_is_refused():
    with pytest.raises(DataError, match="noise must be"):
        GaussianObservation.from_option("loud", 3)
    with pytest.raises(DataError, match="noise must be"):
        GaussianObservation.from_option(-1.0, 3)
