"""Bounds against closed forms: a linear Gaussian model, for which log p(x|u) is known."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from identica.conditionals import (
    Conditional,
    ConstantPrior,
    Decoder,
    DiagonalEncoder,
    Features,
    GaussianObservation,
    ModulatedPrior,
    ProductOfExperts,
    Table,
)
from identica.data import Dataset
from identica.errors import DataError
from identica.expectations import Pathwise
from identica.families import GaussianLocationScale
from identica.models.contrastive import SegmentClassifier
from identica.models.latent_variable import LatentVariableModel, VariationalModel
from identica.networks.multilayer_perceptron import MultilayerPerceptron
from identica.objectives.bound import Bound, HeldOutBound, WeightedSum, importance_weighted
from identica.objectives.contrastive import PosteriorCrossEntropy, SegmentCrossEntropy
from identica.objectives.reductions import LogMeanExp, Mean

N, D, SEGMENTS = 2, 3, 3
KEY = jax.random.key(0)


def jitted(function, *arguments):
    """One compiled call with the shared key."""
    return eqx.filter_jit(function)(*arguments, key=KEY)


class Problem:
    """x = z W + c + noise, z|u Gaussian, with everything known."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.weight, self.bias = rng.normal(size=(N, D)), rng.normal(size=D)
        self.noise = np.array([0.3, 0.5, 0.2])
        self.mean, self.variance = rng.normal(size=(SEGMENTS, N)), rng.uniform(0.3, 2, size=(SEGMENTS, N))
        self.u = np.array([0, 1, 2, 0, 1])
        self.x = rng.normal(size=(5, D))

    def exact(self):
        """log p(x|u) by scipy."""
        rows = []
        for x, u in zip(self.x, self.u, strict=True):
            covariance = self.weight.T @ np.diag(self.variance[u]) @ self.weight + np.diag(self.noise)
            mean = self.mean[u] @ self.weight + self.bias
            rows.append(stats.multivariate_normal(mean, covariance).logpdf(x))
        return np.array(rows)

    def batch(self):
        return Dataset(jnp.asarray(self.x), jnp.asarray(self.u))

    def system(self, encoder):
        raw = jnp.stack([jnp.asarray(self.mean), jnp.log(jnp.asarray(self.variance))], axis=-1)
        shares = jnp.log(jnp.full(SEGMENTS, 1 / SEGMENTS))
        prior = ModulatedPrior(GaussianLocationScale(), Table(raw, shares))
        network = MultilayerPerceptron((jnp.asarray(self.weight),), (jnp.asarray(self.bias),), None)
        observation = GaussianObservation(jnp.log(jnp.asarray(self.noise) - 1e-5), "diagonal")
        return VariationalModel(LatentVariableModel(prior, Decoder(network, observation)), encoder)

    def true_encoder(self):
        """The product of experts with the likelihood factor that the linear model implies."""
        precision = self.weight @ np.diag(1 / self.noise) @ self.weight.T
        to_mean = np.diag(1 / self.noise) @ self.weight.T @ np.linalg.inv(precision)
        root = np.linalg.cholesky(precision)
        weight = np.concatenate([to_mean, np.zeros((D, N * N + N))], axis=1)
        bias = np.concatenate([-self.bias @ to_mean, root.ravel(), np.zeros(N)])
        network = MultilayerPerceptron((jnp.asarray(weight),), (jnp.asarray(bias),), None)
        return ProductOfExperts(Features(jnp.zeros(D), jnp.eye(D)), network, jnp.zeros(()), N)

    def wrong_encoder(self):
        encoder = self.true_encoder()
        change = lambda e: e.network.biases[0]
        return eqx.tree_at(change, encoder, encoder.network.biases[0] * 0.7 + 0.2)


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(True):
        yield Problem()


def test_bound_equals_the_likelihood_at_the_true_posterior(problem):
    rows = jitted(Bound().rows, problem.system(problem.true_encoder()), problem.batch())
    np.testing.assert_allclose(rows, problem.exact(), rtol=1e-6)
    rows = jitted(importance_weighted(3).rows, problem.system(problem.true_encoder()), problem.batch())
    np.testing.assert_allclose(rows, problem.exact(), rtol=1e-6)


def test_bound_is_below_the_likelihood_and_rises_with_samples(problem):
    system, batch, exact = problem.system(problem.wrong_encoder()), problem.batch(), problem.exact()
    # Many replicates of the batch give the expectation over noise with a small standard error.
    many = Dataset(jnp.tile(batch.x, (4000, 1)), jnp.tile(batch.u, 4000))
    values = []
    for samples in (1, 4, 32):
        rows = jitted(importance_weighted(samples).rows, system, many)
        values.append(np.asarray(rows).reshape(4000, 5).mean(0))
    values = np.array(values)
    assert (values[0] < exact - 0.05).all()
    assert (np.diff(values, axis=0) > 0).all()
    rows = jitted(importance_weighted(200_000).rows, system, batch)
    np.testing.assert_allclose(rows, exact, atol=0.03)


def test_gradient_is_that_of_the_closed_form(problem):
    """ELBO of N(m, s²) against a linear Gaussian model: expected gradient in closed form."""
    features = Features(jnp.zeros(D), jnp.eye(D))
    network = MultilayerPerceptron(
        (jnp.asarray(np.random.default_rng(2).normal(size=(D, 2 * N)) * 0.3),), (jnp.zeros(2 * N),), None
    )
    system = problem.system(DiagonalEncoder(features, network))
    batch = problem.batch()

    def closed_form(system):
        q = system.posterior(batch.x, batch.u)
        prior = system.model.prior(batch.u)
        decoder = system.model.likelihood
        noise = 1e-5 + jnp.exp(decoder.observation.log_variance)
        spread = (q.variance @ (decoder.network.weights[0] ** 2) / noise).sum(-1)
        likelihood = decoder(q.mean).log_prob(batch.x) - 0.5 * spread
        divergence = 0.5 * (
            jnp.log(prior.variance / q.variance)
            + (q.variance + (q.mean - prior.mean) ** 2) / prior.variance
            - 1
        ).sum(-1)
        return -(likelihood - divergence).mean()

    loss = lambda system, bound: bound(system, batch, key=KEY)[0]
    expected = eqx.filter_grad(closed_form)(system)
    for divergence in ("sampled", "analytic"):
        bound = Bound(Pathwise(20_000), Mean(), divergence=divergence)
        got = eqx.filter_jit(eqx.filter_grad(loss))(system, bound)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=0.03 * max(1.0, float(jnp.abs(b).max())))


def test_beta_weighs_the_divergence(problem):
    system, batch = problem.system(problem.wrong_encoder()), problem.batch()
    one, two = Bound(), Bound(beta=2.0)
    likelihood = jitted(Bound(beta=0.0).rows, system, batch)
    divergence = likelihood - jitted(one.rows, system, batch)
    np.testing.assert_allclose(jitted(two.rows, system, batch), likelihood - 2 * divergence, rtol=1e-8)


def test_weights_leave_padding_out(problem):
    system, batch = problem.system(problem.wrong_encoder()), problem.batch()
    padded = Dataset(
        jnp.concatenate([batch.x, jnp.full((2, D), 99.0)]),
        jnp.concatenate([batch.u, jnp.zeros(2, batch.u.dtype)]),
        weight=jnp.array([1.0] * 5 + [0.0] * 2),
    )
    rows = jitted(Bound().rows, system, padded)[:5]
    assert float(jitted(Bound(), system, padded)[0]) == pytest.approx(-float(rows.mean()), rel=1e-9)
    assert float(jitted(PosteriorCrossEntropy(), system, padded)[0]) == pytest.approx(
        float(jitted(PosteriorCrossEntropy(), system, batch)[0]), rel=1e-9
    )


def test_held_out_bound_and_weighted_sum(problem):
    system, batch = problem.system(problem.wrong_encoder()), problem.batch()
    bound = Bound()
    value = float(jitted(bound, system, batch)[0])
    assert float(HeldOutBound(bound)(system, batch, batch, KEY)) == pytest.approx(value)
    entropy = float(jitted(PosteriorCrossEntropy(), system, batch)[0])
    both = WeightedSum(((1.0, bound), (0.5, PosteriorCrossEntropy())))
    assert float(jitted(both, system, batch)[0]) == pytest.approx(value + 0.5 * entropy)
    assert hash(both) == hash(WeightedSum(((1.0, Bound()), (0.5, PosteriorCrossEntropy()))))


def test_cross_entropy_is_bayes_rule(problem):
    system = problem.system(problem.wrong_encoder())
    mean = np.asarray(system.encoder.mean(jnp.asarray(problem.x)))
    joint = np.stack(
        [
            stats.norm.logpdf(mean, problem.mean[s], np.sqrt(problem.variance[s])).sum(1)
            for s in range(SEGMENTS)
        ],
        axis=1,
    )
    log_posterior = joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)
    expected = -log_posterior[np.arange(5), problem.u].mean()
    batch = problem.batch()
    assert float(jitted(PosteriorCrossEntropy(), system, batch)[0]) == pytest.approx(expected, rel=1e-6)
    classifier = SegmentClassifier(system.encoder, system.model.prior)
    assert float(jitted(SegmentCrossEntropy(), classifier, batch)[0]) == pytest.approx(expected, rel=1e-6)


def test_model_samples_have_the_stated_moments(problem):
    model = problem.system(problem.true_encoder()).model
    z, x = model.sample(jnp.full(20_000, 1), key=KEY)
    np.testing.assert_allclose(z.mean(0), problem.mean[1], atol=0.05)
    covariance = problem.weight.T @ np.diag(problem.variance[1]) @ problem.weight + np.diag(problem.noise)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), covariance, atol=0.15)
    free = LatentVariableModel(ConstantPrior(N), model.likelihood)
    assert free.sample(None, key=KEY, n_rows=7)[1].shape == (7, D)


def test_reductions():
    weights = jnp.log(jnp.array([[1.0, 2.0], [3.0, 2.0]]))
    np.testing.assert_allclose(LogMeanExp()(weights), np.log([2.0, 2.0]), rtol=1e-6)
    np.testing.assert_allclose(Mean()(weights), [0.5 * np.log(3), np.log(2)], rtol=1e-6)


def test_wrong_options_are_refused():
    with pytest.raises(DataError, match="samples must be at least 1"):
        Pathwise(0)
    with pytest.raises(DataError, match="needs reduction=Mean"):
        Bound(reduction=LogMeanExp(), divergence="analytic")

    class Discrete(Conditional):
        def __call__(self, context):
            import numpyro.distributions as dist

            return dist.Bernoulli(0.5)

    with pytest.raises(DataError, match="reparametrised"):
        Pathwise()(Discrete()(None), lambda z, q: z, Mean(), key=KEY)
