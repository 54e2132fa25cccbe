"""Gradient estimators against closed forms, quadrature, exact variance laws and each other.

The toy is z ~ N(0, 1), x|z ~ N(z + c, 1/4), x = .8, q = N(.2, .49), with gradients for the mean and the log
standard deviation of q and for c.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from identica.conditionals import ConstantPrior, Decoder, DiagonalEncoder, Features, GaussianObservation
from identica.data import Dataset
from identica.errors import DataError
from identica.expectations import DoublyReparametrized, Pathwise, ScoreFunction, StickingTheLanding
from identica.models.latent_variable import LatentVariableModel, VariationalModel
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.objectives.bound import Bound
from identica.objectives.reductions import LogMeanExp, Mean

X, NOISE, MEAN, LOG_SD = 0.8, 0.5, 0.2, np.log(0.7)
DRAWS = 100_000
KEY = jax.random.key(0)


def log_weight_of(c):
    def log_weight(z, log_q):
        joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z + c[:, None], NOISE).log_prob(X)
        return joint[..., 0] - log_q

    return log_weight


def gradients(expectation, reduce, *, mean=MEAN, log_sd=LOG_SD, draws=DRAWS, log_weight=None):
    """One gradient per row (draws, 3), for mean, log standard deviation and c, and the values (draws,)."""

    def total(mean, log_sd, c):
        q = dist.Normal(mean[:, None], jnp.exp(log_sd)[:, None]).to_event(1)
        rows = expectation(q, log_weight or log_weight_of(c), reduce, key=KEY)
        return rows.sum(), rows

    full = lambda v: jnp.full(draws, v)
    grad = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
    slopes, values = grad(full(mean), full(log_sd), full(0.0))
    return np.stack(slopes, axis=1).astype(np.float64), np.asarray(values, np.float64)


def assert_mean(got, expected, *, deviations=4.5):
    error = got.std(axis=0) / np.sqrt(len(got))
    assert (np.abs(got.mean(axis=0) - expected) < deviations * error + 1e-5).all(), (got.mean(0), expected)


def importance_bound_by_quadrature(mean, log_sd, c):
    """E log of the mean of two weights, by a tensor grid of Gauss-Hermite nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    z = mean + np.exp(log_sd) * nodes
    log_joint = -0.5 * z**2 - 0.5 * ((X - z - c) / NOISE) ** 2 - np.log(2 * np.pi * NOISE)
    log_w = log_joint + 0.5 * nodes**2 + 0.5 * np.log(2 * np.pi) + log_sd
    return weights @ (np.logaddexp(log_w[:, None], log_w[None]) - np.log(2)) @ weights


def slope(function, at, step=1e-4):
    directions = np.eye(3) * step
    return np.array([(function(*(at + d)) - function(*(at - d))) / (2 * step) for d in directions])


FOR_ELBO = [Pathwise, StickingTheLanding, ScoreFunction]
FOR_IWAE = [Pathwise, DoublyReparametrized, ScoreFunction]


@pytest.mark.parametrize("kind", FOR_ELBO)
@pytest.mark.parametrize("samples", [1, 3])
def test_elbo_gradient_is_the_closed_form(kind, samples):
    got, values = gradients(kind(samples), Mean())
    variance = np.exp(2 * LOG_SD)
    expected = [(X - MEAN) / NOISE**2 - MEAN, 1 - variance * (1 + NOISE**-2), (X - MEAN) / NOISE**2]
    assert_mean(got, expected)
    assert_mean(values, -2.0474663)


@pytest.mark.parametrize("kind", FOR_IWAE)
def test_importance_weighted_gradient_is_that_of_quadrature(kind):
    at = np.array([MEAN, LOG_SD, 0.0])
    got, values = gradients(kind(2), LogMeanExp())
    assert_mean(got, slope(importance_bound_by_quadrature, at))
    assert_mean(values, importance_bound_by_quadrature(*at))


def test_five_samples_have_the_known_means_and_variances():
    """Values of 1e7 draws by another program: true gradient (.243, -.038), bias of STL, variances."""
    pathwise, values = gradients(Pathwise(5), LogMeanExp())
    dreg, _ = gradients(DoublyReparametrized(5), LogMeanExp())
    biased, _ = gradients(StickingTheLanding(5), LogMeanExp())
    score, _ = gradients(ScoreFunction(5), LogMeanExp())
    for unbiased in (pathwise, dreg, score):
        error = unbiased[:, :2].std(axis=0) / np.sqrt(DRAWS)
        assert (np.abs(unbiased[:, :2].mean(axis=0) - [0.243, -0.038]) < 4.5 * error + 1e-3).all()
    np.testing.assert_allclose(biased[:, :2].mean(axis=0), [1.04, -0.26], atol=0.02)
    np.testing.assert_allclose(dreg[:, :2].var(axis=0), [0.080, 0.028], rtol=0.05)
    np.testing.assert_allclose(pathwise[:, :2].var(axis=0), [1.59, 0.87], rtol=0.05)
    assert_mean(values, -1.3581, deviations=6)


def test_decoder_gradients_do_not_depend_on_the_estimator():
    """c is no parameter of q: on the same samples, all give the same gradient."""
    expected, values = gradients(Pathwise(4), LogMeanExp(), draws=50)
    for kind in (DoublyReparametrized, ScoreFunction):
        got, same = gradients(kind(4), LogMeanExp(), draws=50)
        np.testing.assert_allclose(got[:, 2], expected[:, 2], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(same, values, rtol=1e-5)


@pytest.mark.parametrize(
    ("expectation", "reduce"),
    [
        (StickingTheLanding(1), Mean()),
        (StickingTheLanding(3), Mean()),
        (DoublyReparametrized(3), LogMeanExp()),
        (ScoreFunction(3), Mean()),
        (ScoreFunction(3), LogMeanExp()),
    ],
)
def test_no_draw_has_a_gradient_at_the_posterior(expectation, reduce):
    precision = 1 + NOISE**-2
    got, values = gradients(
        expectation, reduce, mean=X / NOISE**2 / precision, log_sd=-0.5 * np.log(precision), draws=50
    )
    np.testing.assert_allclose(got[:, :2], 0, atol=2e-5)
    np.testing.assert_allclose(values, -1.2865103, rtol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 1.0, 2.0])
def test_variance_laws_of_a_square(mean):
    """q = N(μ, 1), f = z²: μ⁴ + 14 μ² + 15 for the score function, 4 for pathwise, mean 2 μ for both."""
    square = lambda z, log_q: (z**2)[..., 0]
    score, _ = gradients(ScoreFunction(1), Mean(), mean=mean, log_sd=0.0, log_weight=square)
    pathwise, _ = gradients(Pathwise(1), Mean(), mean=mean, log_sd=0.0, log_weight=square)
    assert_mean(score[:, 0], 2 * mean)
    assert_mean(pathwise[:, 0], 2 * mean)
    assert score[:, 0].var() == pytest.approx(mean**4 + 14 * mean**2 + 15, rel=0.06)
    assert pathwise[:, 0].var() == pytest.approx(4, rel=0.03)


def test_baseline_of_other_samples_lowers_the_variance():
    with_others, _ = gradients(ScoreFunction(4), Mean())
    alone, _ = gradients(ScoreFunction(1), Mean())
    # Four independent single samples, averaged, are what four samples without a baseline would be.
    without = alone[: DRAWS // 4 * 4].reshape(-1, 4, 3).mean(axis=1)
    assert (with_others[:, :2].var(axis=0) < 0.8 * without[:, :2].var(axis=0)).all()


def test_score_function_of_a_network_agrees_with_pathwise_and_has_far_higher_variance():
    """An autoencoder with a curved decoder, ten columns, KL in closed form (the two estimators of the ELBO
    that differ only in how they are differentiated)."""
    rng = np.random.default_rng(0)
    as_jax = lambda a: jnp.asarray(a, jnp.float32)
    decoder = MultilayerPerceptron(
        (as_jax(rng.normal(size=(2, 6))), as_jax(0.5 * rng.normal(size=(6, 10)))),
        (as_jax(rng.normal(size=6)), jnp.zeros(10)),
        None,
        "tanh",
    )
    observation = GaussianObservation(jnp.log(0.3), "isotropic")
    network = MultilayerPerceptron((as_jax(0.2 * rng.normal(size=(10, 4))),), (jnp.full(4, -0.5),), None)
    encoder = DiagonalEncoder(Features(jnp.zeros(10), jnp.eye(10)), network)
    system = VariationalModel(LatentVariableModel(ConstantPrior(2), Decoder(decoder, observation)), encoder)
    batch = Dataset(as_jax(rng.normal(size=(3, 10))))

    @eqx.filter_jit
    def draws(expectation):
        bound = Bound(expectation, divergence="analytic")
        biases = lambda s: s.encoder.network.biases[0]

        def loss(value, key):
            return bound(eqx.tree_at(biases, system, value), batch, key=key)[0]

        return jax.lax.map(
            lambda key: jax.grad(loss)(biases(system), key), jax.random.split(KEY, 30_000), batch_size=500
        )

    pathwise, score = (np.asarray(draws(kind(1)), np.float64) for kind in (Pathwise, ScoreFunction))
    assert_mean(score, pathwise.mean(axis=0))
    assert (score.var(axis=0) > 10 * pathwise.var(axis=0)).all()


def test_score_function_needs_no_derivative_of_samples():
    """A binary latent, for which the gradient is the enumerated one."""

    def total(log_odds):
        q = dist.Bernoulli(logits=log_odds[:, None]).to_event(1)
        return ScoreFunction(2)(q, lambda z, log_q: ((z - 0.3) ** 2)[..., 0], Mean(), key=KEY).sum()

    got = np.asarray(jax.jit(jax.grad(total))(jnp.full(20_000, 0.4)), np.float64)
    p = 1 / (1 + np.exp(-0.4))
    assert_mean(got, ((1 - 0.3) ** 2 - 0.3**2) * p * (1 - p))


def test_estimators_that_do_not_fit_an_objective_are_refused():
    with pytest.raises(DataError, match="use gradient='dreg'"):
        Bound(StickingTheLanding(5), LogMeanExp())
    with pytest.raises(DataError, match="use gradient='stl'"):
        Bound(DoublyReparametrized(5), Mean())
    with pytest.raises(DataError, match="use divergence='sampled'"):
        Bound(StickingTheLanding(1), divergence="analytic")
    with pytest.raises(DataError, match="use objective='elbo'"):
        Bound(Pathwise(5), LogMeanExp(), beta=2.0)
    Bound(StickingTheLanding(1), LogMeanExp())
    with pytest.raises(DataError, match="score-function"):
        Pathwise(1)(dist.Bernoulli(0.5), lambda z, log_q: z, Mean(), key=KEY)
