"""Flows under noise, by closed forms where the flow is linear and by dense quadrature where it is not."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

import identica
from identica.conditionals import Features, GaussianObservation, ModulatedPrior, Table
from identica.conditionals.observations.real import NOISE_FLOOR
from identica.data import Dataset
from identica.errors import DataError, DataWarning
from identica.estimators.noise_check import NoiseGain, noise_gain, warn_of_noise
from identica.families import GaussianLocationScale
from identica.linear.whitening import Whitening
from identica.models.flow import FlowModel
from identica.models.noisy_flow import NoisyFlow
from identica.models.teacher import FlowTeacher
from identica.networks import InvertibleNetwork, MonotoneHinges

COUNT = 20_000
MEANS = np.array([[0.5, -1.0], [-0.3, 0.2], [1.0, 0.8]])
VARIANCES = np.array([[0.4, 1.5], [2.0, 0.3], [0.7, 0.9]])
NOISE = np.array([0.02, 0.05])
MATRIX = np.array([[1.3, 0.2], [-0.4, 0.8]])
CENTER = np.array([0.1, -0.2])


def noisy_flow(n_layers: int, n: int = 2) -> NoisyFlow:
    """A random flow of scores (x − center) · matrix, with Gaussian sources in three segments."""
    family = GaussianLocationScale()
    network = InvertibleNetwork.random(n, n_layers, key=jax.random.key(4))
    expected = jnp.asarray(np.stack([MEANS, VARIANCES + MEANS**2], -1))[:, :n]
    raw = family.raw_from_natural(family.natural_from_expectation(expected, floor=0.0))
    prior = ModulatedPrior(family, Table(raw, jnp.log(jnp.full(3, 1 / 3))))
    features = Features(jnp.asarray(CENTER[:n]), jnp.asarray(MATRIX[:n, :n]))
    teacher = FlowTeacher(features, FlowModel(network, family, prior), n)
    observation = GaussianObservation(jnp.log(jnp.asarray(NOISE[:n] - NOISE_FLOOR)), "diagonal")
    return NoisyFlow(teacher, jnp.linalg.inv(jnp.asarray(MATRIX[:n, :n])), observation)


@eqx.filter_jit
def weights_of(system, x, u, count, key):
    return system.log_weights(x, u, count, key=key)


@eqx.filter_jit
def variational_weights(model, x, u, count, key):
    z, log_q = model.posterior(x, u).sample_with_log_prob(key, (count,))
    return model.model.log_joint(z, x, u) - log_q


@eqx.filter_jit
def posterior_of(model, x, u):
    q = model.posterior(x, u)
    return q.mean, q.covariance_matrix


@pytest.fixture
def rows():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        yield jnp.asarray(rng.standard_normal((6, 2))), jnp.asarray([0, 1, 2, 0, 1, 2])


def test_linear_flow_has_the_closed_form_likelihood(rows):
    # s̃ = W⁻¹(z − c) is Gaussian, and so is s: weights are all equal to its density.
    x, u = rows
    system = noisy_flow(1)
    logs = weights_of(system, x, u, 5, jax.random.key(0))
    last = system.flow.network.last
    back = np.linalg.inv(np.asarray(last.weight))
    noise = MATRIX.T @ np.diag(NOISE) @ MATRIX
    scores = (np.asarray(x) - CENTER) @ MATRIX
    volume = np.linalg.slogdet(MATRIX)[1]
    for row, code in enumerate(np.asarray(u)):
        mean = back @ (MEANS[code] - np.asarray(last.bias))
        cov = back @ np.diag(VARIANCES[code]) @ back.T + noise
        expected = multivariate_normal(mean, cov).logpdf(scores[row])
        np.testing.assert_allclose(logs[:, row], expected + volume, atol=1e-8)


def test_gradients_pass_through_the_proposal(rows):
    # Of a linear flow every draw has the same weight, whatever its parameters: gradients are those of the closed form,
    # without the error of draws that stay where they are.
    x, u = rows
    system = noisy_flow(1)

    @jax.jit
    def closed_form(weight):
        back = jnp.linalg.inv(weight)
        noise = jnp.asarray(MATRIX.T @ np.diag(NOISE) @ MATRIX)
        means = (jnp.asarray(MEANS)[u] - system.flow.network.last.bias) @ back.T
        cov = jnp.einsum("ij,bj,kj->bik", back, jnp.asarray(VARIANCES)[u], back) + noise
        scores = (x - jnp.asarray(CENTER)) @ jnp.asarray(MATRIX)
        return jax.scipy.stats.multivariate_normal.logpdf(scores, means, cov).sum()

    place = lambda s: s.teacher.flow.demixer.last.weight
    drawn = lambda w: eqx.tree_at(place, system, w).log_weights(x, u, 3, key=jax.random.key(0)).mean(0).sum()
    found = eqx.filter_jit(jax.grad(drawn))(place(system))
    np.testing.assert_allclose(found, jax.grad(closed_form)(place(system)), rtol=1e-6)


def test_linear_posterior_is_the_closed_form(rows):
    x, u = rows
    system = noisy_flow(1)
    model = system.as_variational(jnp.ones((2, 2)), jnp.asarray(CENTER))
    means, covariances = posterior_of(model, x, u)
    last = system.flow.network.last
    # x = (W⁻¹(z − c)) · matrix⁻¹ + center + noise is linear in z.
    weight = np.linalg.inv(MATRIX).T @ np.linalg.inv(np.asarray(last.weight))
    offset = CENTER - weight @ np.asarray(last.bias)
    for row, code in enumerate(np.asarray(u)):
        precision = weight.T @ np.diag(1 / NOISE) @ weight + np.diag(1 / VARIANCES[code])
        pull = weight.T @ ((np.asarray(x[row]) - offset) / NOISE) + MEANS[code] / VARIANCES[code]
        np.testing.assert_allclose(means[row], np.linalg.solve(precision, pull), rtol=1e-7)
        np.testing.assert_allclose(covariances[row], np.linalg.inv(precision), rtol=1e-6)


def test_importance_samples_agree_with_quadrature(rows):
    # One column: the integral over the clean score, on a dense grid.
    x, u = rows[0][:, :1], rows[1]
    system = noisy_flow(3, n=1)
    logs = weights_of(system, x, u, COUNT, jax.random.key(1))
    estimate = jax.nn.logsumexp(logs, axis=0) - np.log(COUNT)
    grid = np.linspace(-12, 12, 40001)[:, None]
    z, log_det = system.flow.latents(jnp.asarray(grid))
    noise_sd = np.sqrt(NOISE[0]) * MATRIX[0, 0]
    for row, code in enumerate(np.asarray(u)):
        clean = norm(MEANS[code, 0], np.sqrt(VARIANCES[code, 0])).pdf(np.asarray(z[:, 0])) * np.exp(log_det)
        score = (float(x[row, 0]) - CENTER[0]) * MATRIX[0, 0]
        density = (clean * norm(score, noise_sd).pdf(grid[:, 0])).sum() * (grid[1, 0] - grid[0, 0])
        expected = np.log(density) + np.log(MATRIX[0, 0])
        np.testing.assert_allclose(estimate[row], expected, atol=0.02)


@pytest.mark.slow
def test_both_forms_of_the_model_have_one_likelihood(rows):
    # With the clean observation as latent, and with z as latent and the flow's inverse as decoder.
    x, u = rows
    system = noisy_flow(3)
    logs = weights_of(system, x, u, COUNT, jax.random.key(2))
    first = jax.nn.logsumexp(logs, axis=0) - np.log(COUNT)
    model = system.as_variational(jnp.ones((2, 2)), jnp.asarray(CENTER))
    logs = variational_weights(model, x, u, COUNT, jax.random.key(3))
    second = jax.nn.logsumexp(logs, axis=0) - np.log(COUNT)
    np.testing.assert_allclose(first, second, atol=0.05)


def test_inverse_has_the_derivatives_of_the_inverse():
    with jax.enable_x64(True):
        function = MonotoneHinges.random(3, key=jax.random.key(0))
        y = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4)))
        x = function.inverse(y)
        np.testing.assert_allclose(function(x)[0], y, atol=1e-10)
        slope = jax.grad(lambda y: function.inverse(y).sum())(y)
        np.testing.assert_allclose(slope, jnp.exp(-function(x)[1]), rtol=1e-8)

        def loss(f):
            return (f.inverse(y) ** 2).sum()

        by_place = jax.grad(loss)(function).hinge_places
        step = 1e-6
        moved = jnp.zeros_like(function.hinge_places).at[1, 0, 1].set(step)
        ends = [
            loss(MonotoneHinges(**(vars(function) | {"hinge_places": function.hinge_places + s * moved})))
            for s in (1, -1)
        ]
        np.testing.assert_allclose(by_place[1, 0, 1], (ends[0] - ends[1]) / (2 * step), rtol=1e-5)


@pytest.fixture(scope="module")
def small():
    data = identica.simulate(
        "iflow", seed=3, n_components=2, n_segments=6, n_per_segment=20, noise=0.1, layers=2
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = identica.IVAE(decoder="flow", max_iter=60, n_restarts=1, random_state=0).fit(
            data.X, u=data.u
        )
    return data, estimator


def test_square_data_are_decoded_by_a_flow(small, tmp_path):
    data, estimator = small
    stages = list(dict.fromkeys(estimator.history_["stage"]))
    assert stages == ["flow under noise, 2 layers", "flow under noise, fine-tuning", "posterior"]
    with_u, without = estimator.transform(data.X, u=data.u), estimator.transform(data.X)
    assert with_u.shape == without.shape == (120, 2)
    # What is decoded from the posterior mean is near the observation.
    error = (estimator.inverse_transform(with_u) - data.X) / data.X.std(axis=0)
    assert np.sqrt((error**2).mean()) < 0.5
    estimator.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(data.X, u=data.u), with_u)


def test_the_gap_of_a_flow_is_found_without_a_closed_entropy(small):
    # Reports ask for it, and an independent estimate of log p(x|u) less the bound is what it has to be.
    data, estimator = small
    gap = estimator.bound_gap(data.X, u=data.u)
    parts = gap.approximation.value + gap.amortisation.value
    np.testing.assert_allclose(gap.total.value, parts, atol=0.02)
    likelihood = estimator.log_likelihood(data.X, u=data.u, method="iwae", n_samples=500).value
    bound = estimator.log_likelihood(data.X, u=data.u, method="elbo").value
    np.testing.assert_allclose(gap.total.value, likelihood - bound, atol=0.05)


def test_flow_decoder_is_refused_where_it_cannot_be(small):
    data, _ = small
    with pytest.raises(DataError, match="as many components as columns"):
        identica.IVAE(n_components=1, decoder="flow", max_iter=5).fit(data.X, u=data.u)
    with pytest.raises(ValueError, match="decoder must be"):
        identica.IVAE(decoder="inverse", max_iter=5).fit(data.X, u=data.u)


@pytest.mark.slow
def test_noise_costs_little_where_the_flow_knows_of_it():
    # Of a ceiling of .958; a network alone finds .71 here, and was once preferred.
    data = identica.simulate("iflow", seed=402, noise=0.05)
    fit, test = data.split(0.2, 0)
    ivae = identica.IVAE(random_state=0).fit(data.X[fit], u=data.u[fit])
    flow = identica.FlowICA(random_state=0).fit(data.X[fit], u=data.u[fit])
    scores = [
        identica.metrics.mcc(data.S[test], e.transform(data.X[test], u=data.u[test])) for e in (ivae, flow)
    ]
    assert scores[0] > 0.93
    assert scores[0] > scores[1] + 0.05


def test_noise_check_is_the_difference_of_two_closed_forms():
    # A linear flow: the gain is that of a Gaussian with the noise added to one without.
    with jax.enable_x64(True):
        system = noisy_flow(1)
        rng = np.random.default_rng(5)
        x, u = rng.standard_normal((400, 2)), rng.integers(0, 3, 400)
        whitening = Whitening.from_rows(x @ np.array([[1.0, 0.5], [0.0, 0.4]]), None)
        found = noise_gain(system.flow, whitening, Dataset(jnp.asarray(x), jnp.asarray(u)), 0)
        last = system.flow.network.last
        back = np.linalg.inv(np.asarray(last.weight))
        gains = []
        for row, code in zip(x, u, strict=True):
            mean = back @ (MEANS[code] - np.asarray(last.bias))
            cov = back @ np.diag(VARIANCES[code]) @ back.T
            noise = (found.level**2 + NOISE_FLOOR) * np.diag(1 / whitening.eigenvalues)
            with_noise = multivariate_normal(mean, cov + noise).logpdf(row)
            gains.append(with_noise - multivariate_normal(mean, cov).logpdf(row))
        np.testing.assert_allclose(found.gain, np.mean(gains), atol=1e-8)
        np.testing.assert_allclose(found.error, np.std(gains, ddof=1) / 20, rtol=1e-6)


def test_a_clear_gain_hands_over_and_a_small_one_does_not():
    with pytest.warns(DataWarning, match="IVAE"):
        warn_of_noise(NoiseGain(0.04, 0.2, 0.02), 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_noise(NoiseGain(0.04, 0.2, 0.08), 5)
        warn_of_noise(NoiseGain(0.01, 0.01, 0.0001), 5)
        warn_of_noise(NoiseGain(0.01, -0.3, 0.01), 5)
