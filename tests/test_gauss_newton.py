"""Posteriors by Gauss-Newton steps: by closed forms where the decoder is linear, by a fine grid where it is not."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import identica
from identica.conditionals import (
    Decoder,
    Evidence,
    Features,
    GaussianObservation,
    GaussNewtonPosterior,
    ModulatedPrior,
    ProductOfExperts,
    Table,
)
from identica.conditionals.observations.real import NOISE_FLOOR
from identica.data import Dataset
from identica.errors import Interrupted
from identica.estimators import posterior_choice
from identica.estimators.posterior_choice import _local_explains_more
from identica.families import GaussianLocationScale
from identica.models import LatentVariableModel, VariationalModel
from identica.models.linear_gaussian import exact_encoder
from identica.models.marginal_posterior import mixture_posterior
from identica.networks import MultilayerPerceptron
from identica.objectives.refined_bound import RefinedBound

MEANS = np.array([[0.5, -1.0], [-0.3, 0.2], [1.0, 0.8]])
VARIANCES = np.array([[0.4, 1.5], [2.0, 0.3], [0.7, 0.9]])
NOISE = np.array([0.02, 0.05, 0.03])
SHARES = np.array([0.5, 0.2, 0.3])
COUNT = 24


def system_of(n: int, hidden_sizes: tuple[int, ...]) -> VariationalModel:
    """A random decoder of three columns, a random encoder, and sources in three segments."""
    family = GaussianLocationScale()
    expected = jnp.asarray(np.stack([MEANS, VARIANCES + MEANS**2], -1))[:, :n]
    raw = family.raw_from_natural(family.natural_from_expectation(expected, floor=0.0))
    prior = ModulatedPrior(family, Table(raw, jnp.log(jnp.asarray(SHARES))))
    network = MultilayerPerceptron.random(n, hidden_sizes, 3, activation="tanh", key=jax.random.key(3))
    decoder = Decoder(network, GaussianObservation(jnp.log(jnp.asarray(NOISE - NOISE_FLOOR)), "diagonal"))
    features = Features(jnp.zeros(3), jnp.eye(3))
    encoder = ProductOfExperts.random(features, (4,), n, key=jax.random.key(5))
    return jax.tree.map(jnp.asarray, VariationalModel(LatentVariableModel(prior, decoder), encoder))


def local(system: VariationalModel) -> GaussNewtonPosterior:
    """The posterior of the system's decoder, with the mean and variance of its prior over all segments."""
    n = system.encoder.n_components
    mean = SHARES @ MEANS[:, :n]
    variance = SHARES @ (VARIANCES[:, :n] + (MEANS[:, :n] - mean) ** 2)
    overall = jnp.asarray(np.stack([mean, variance]), jnp.float32)
    return GaussNewtonPosterior(system.encoder, system.model.likelihood, overall)


def drawn(system: VariationalModel) -> tuple[jax.Array, jax.Array, jax.Array]:
    u = jnp.arange(COUNT) % 3
    z, x = system.model.sample(u, key=jax.random.key(1))
    return z, x, u


@pytest.fixture(scope="module")
def linear():
    return system_of(2, ())


@pytest.fixture(scope="module")
def curved():
    return system_of(1, (8,))


def on_a_grid(system: VariationalModel, x, u) -> tuple[np.ndarray, np.ndarray]:
    """Points, and log p(x, z|u) (rows, points) of a decoder of one latent."""
    points = np.linspace(-9, 9, 40_001)
    f = np.asarray(system.model.likelihood.network(jnp.asarray(points[:, None])), np.float64)
    misfit = ((np.asarray(x, np.float64)[:, None] - f) ** 2 / NOISE + np.log(2 * np.pi * NOISE)).sum(-1)
    mean, variance = MEANS[u, :1], VARIANCES[u, :1]
    prior = (points - mean) ** 2 / variance + np.log(2 * np.pi * variance)
    return points, -0.5 * (misfit + prior)


def test_linear_posterior_is_the_closed_form(linear):
    _, x, u = drawn(linear)
    q = eqx.filter_jit(local(linear))(Evidence(x, u, linear.model.prior(u)))
    network = linear.model.likelihood.network
    weight, bias = (np.asarray(a, np.float64) for a in (network.weights[0], network.biases[0]))
    for i in range(COUNT):
        precision = (weight / NOISE) @ weight.T + np.diag(1 / VARIANCES[u[i]])
        shift = (weight / NOISE) @ (np.asarray(x[i]) - bias) + MEANS[u[i]] / VARIANCES[u[i]]
        np.testing.assert_allclose(q.mean[i], np.linalg.solve(precision, shift), atol=2e-4)
        np.testing.assert_allclose(q.variance[i], np.diag(np.linalg.inv(precision)), rtol=2e-4)


def test_one_sample_gives_the_exact_likelihood_of_a_linear_model(linear):
    _, x, u = drawn(linear)
    loss, _ = eqx.filter_jit(RefinedBound(1, following=0.0))(linear, Dataset(x, u), key=jax.random.key(0))
    network = linear.model.likelihood.network
    weight, bias = (np.asarray(a, np.float64) for a in (network.weights[0], network.biases[0]))
    exact = [
        multivariate_normal.logpdf(
            x[i], MEANS[u[i]] @ weight + bias, weight.T @ np.diag(VARIANCES[u[i]]) @ weight + np.diag(NOISE)
        )
        for i in range(COUNT)
    ]
    assert -float(loss) == pytest.approx(np.mean(exact), abs=1e-4)


def test_without_u_segments_are_weighed_by_their_exact_posterior(linear):
    _, x, _ = drawn(linear)
    network = linear.model.likelihood.network
    weight, bias = (np.asarray(a, np.float64) for a in (network.weights[0], network.biases[0]))
    posterior = eqx.filter_jit(lambda row: mixture_posterior(local(linear), linear.model.prior, row))
    for row in x[:4]:
        logs = [
            np.log(SHARES[k])
            + multivariate_normal.logpdf(
                row, MEANS[k] @ weight + bias, weight.T @ np.diag(VARIANCES[k]) @ weight + np.diag(NOISE)
            )
            for k in range(3)
        ]
        np.testing.assert_allclose(posterior(row).log_weights, logs - logsumexp(logs), atol=0.02)


def test_the_search_ends_at_the_mode(curved):
    _, x, u = drawn(curved)
    q = eqx.filter_jit(local(curved))(Evidence(x, u, curved.model.prior(u)))
    points, log_joint = on_a_grid(curved, x, np.asarray(u))
    reached = np.take_along_axis(
        log_joint, np.abs(points - np.asarray(q.mean, np.float64)).argmin(1)[:, None], 1
    )[:, 0]
    # A local mode may be kept; it must be the highest one nearly everywhere, and no row may be lost.
    short = log_joint.max(1) - reached
    assert (short < 1e-2).mean() >= 0.9
    assert short.max() < 20


def test_weights_make_up_for_what_the_local_posterior_misses(curved):
    _, x, u = drawn(curved)
    points, log_joint = on_a_grid(curved, x, np.asarray(u))
    exact = logsumexp(log_joint, axis=1).mean() + np.log(points[1] - points[0])
    loss, _ = eqx.filter_jit(RefinedBound(4000, following=0.0))(curved, Dataset(x, u), key=jax.random.key(2))
    assert -float(loss) == pytest.approx(exact, abs=0.01)


def test_the_gradient_is_that_of_the_exact_likelihood(curved):
    _, x, u = drawn(curved)
    bias = lambda s: s.model.likelihood.network.biases[0]
    moved = lambda by: eqx.tree_at(bias, curved, bias(curved) + by)
    bound = RefinedBound(2000, following=0.0)
    grad = eqx.filter_jit(jax.grad(lambda by: -bound(moved(by), Dataset(x, u), key=jax.random.key(0))[0]))(
        jnp.zeros(8)
    )
    step = 1e-2
    for i in range(8):
        unit = step * np.eye(8, dtype=np.float32)[i]
        ends = [logsumexp(on_a_grid(moved(s * unit), x, np.asarray(u))[1], axis=1).mean() for s in (1, -1)]
        assert float(grad[i]) == pytest.approx(
            (ends[0] - ends[1]) / (2 * step), abs=0.05 + 0.02 * abs(float(grad[i]))
        )


def test_draws_move_with_the_decoder():
    """With draws that stay where they are, gradients of single rows under little noise are mostly noise."""
    system = system_of(1, (8,))
    _, x, u = drawn(system)
    bias = lambda s: s.model.likelihood.network.biases[0]
    value = lambda by, key, samples: RefinedBound(samples, following=0.0)(
        eqx.tree_at(bias, system, bias(system) + by), Dataset(x, u), key=key
    )[0]
    grad = eqx.filter_jit(jax.grad(lambda by, key: value(by, key, 2)))
    draws = np.stack([grad(jnp.zeros(8), jax.random.key(i)) for i in range(40)])

    def held(by, key):
        q = local(system)(Evidence(x, u, system.model.prior(u)))
        z, log_q = jax.lax.stop_gradient(q.sample_with_log_prob(key, (2,)))
        changed = eqx.tree_at(bias, system, bias(system) + by)
        weights = changed.model.log_joint(z, x, u) - log_q
        return -jax.nn.logsumexp(weights, axis=0).mean()

    still = eqx.filter_jit(jax.grad(held))
    others = np.stack([still(jnp.zeros(8), jax.random.key(i)) for i in range(40)])
    assert draws.var(0).sum() < 0.2 * others.var(0).sum()


def test_only_the_encoder_learns_to_follow(curved):
    _, x, u = drawn(curved)
    grads = [
        eqx.filter_jit(
            eqx.filter_grad(
                lambda s, f=f: RefinedBound(3, following=f)(s, Dataset(x, u), key=jax.random.key(0))[0]
            )
        )(curved)
        for f in (0.0, 1.0)
    ]
    for alone, followed in zip(*(jax.tree.leaves(g.model) for g in grads), strict=True):
        np.testing.assert_allclose(alone, followed, rtol=1e-4, atol=1e-5)
    assert all(float(jnp.abs(g).max()) == 0 for g in jax.tree.leaves(grads[0].encoder))
    assert float(jnp.abs(grads[1].encoder.network.weights[0]).max()) > 0


def test_steps_are_taken_where_held_out_rows_gain(linear):
    _, x, u = drawn(linear)
    assert _local_explains_more(linear, Dataset(x, u), 0)  # by a random encoder
    exact = exact_encoder(linear.model.likelihood)
    assert not _local_explains_more(VariationalModel(linear.model, exact), Dataset(x, u), 0)


OPTIONS = {"max_iter": 1000, "n_restarts": 2, "random_state": 0}


@pytest.fixture(scope="module")
def quiet():
    """Two sources in four columns under little noise, and a short fit that was made to take Gauss-Newton steps."""
    data = identica.simulate(
        "iflow", seed=3, n_components=2, n_features=4, n_segments=20, n_per_segment=100, layers=2, noise=0.02
    )
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(posterior_choice, "_CLEAR", -10.0)
        yield data, identica.IVAE(2, **OPTIONS).fit(data.X, u=data.u)


@pytest.mark.slow
def test_a_fit_goes_on_from_before_and_after_the_choice(quiet, tmp_path):
    data, ivae = quiet
    fractions = []

    def fitted(last: str | None) -> identica.IVAE:
        def stop(progress):
            fractions.append(progress.fraction)
            if progress.name == last:
                raise KeyboardInterrupt

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return identica.IVAE(2, **OPTIONS, checkpoint=tmp_path, callbacks=[stop]).fit(data.X, u=data.u)

    for last in ("training", "fine-tuning"):
        with pytest.raises(Interrupted, match=last):
            fitted(last)
    again = fitted(None)
    np.testing.assert_array_equal(again.transform(data.X, u=data.u), ivae.transform(data.X, u=data.u))
    assert list(again.history_["stage"]) == list(ivae.history_["stage"])
    assert max(fractions) == 1.0
