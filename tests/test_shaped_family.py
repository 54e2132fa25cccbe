"""Sources of any shape that u moves and stretches: against quadrature, and where they are worth it."""

import warnings
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import identica
from identica.data import Dataset
from identica.estimators.flow_stages import settled
from identica.families import PowerLocationScale, ShapedLocationScale
from identica.models import FlowModel
from identica.networks import AffineMap, InvertibleNetwork
from identica.objectives.exact_likelihood import HeldOutProfile, ProfileLikelihood, shrink
from identica.report import learned

CENTRES = np.linspace(-5, 5, 21)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def family() -> ShapedLocationScale:
    """Two components: lopsided beside a Gaussian, two modes beside a power of 1.3."""
    power = PowerLocationScale(jnp.asarray([0.0, np.log(0.65)], jnp.float32))
    heights = np.zeros((2, 21), np.float32)
    heights[0, 6:12] = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5]
    heights[1, [7, 10, 13]] = [1.0, -2.0, 0.8]
    return ShapedLocationScale(power, jnp.asarray(heights), jnp.ones(()))


def density(family, component, location, scale):
    """Of one component, by numerical integration in float64."""
    p = float(family.power.power[component])
    heights = np.asarray(family.heights, np.float64)[component]
    heights = heights / (1 + (heights / 6) ** 4) ** 0.25
    sd = stats.gennorm(p, location, scale).std()

    def unnormalised(z):
        t = (z - location) / sd
        bumps = np.exp(-0.5 * ((t - CENTRES) / 0.5) ** 2) @ heights
        return stats.gennorm.pdf(z, p, location, scale) * np.exp(bumps)

    edges = location + sd * np.array([-60, *np.linspace(-12, 12, 25), 60])
    parts = [integrate.quad(unnormalised, a, b)[0] for a, b in pairwise(edges)]
    return lambda z: unnormalised(z) / sum(parts)


@pytest.mark.parametrize("natural", [(0.0, 1.0), (-2.0, 0.3), (5.0, 4.0)])
@pytest.mark.parametrize("component", [0, 1])
def test_density_and_moments_are_those_of_quadrature(family, component, natural):
    exact = density(family, component, *natural)
    location, scale = natural
    z = location + scale * np.linspace(-4, 4, 17)
    parameters = jnp.broadcast_to(jnp.asarray(natural, jnp.float32), (17, 2, 2))
    found = family.log_prob(jnp.broadcast_to(jnp.asarray(z, jnp.float32)[:, None], (17, 2)), parameters)
    np.testing.assert_allclose(np.asarray(found)[:, component], [np.log(exact(v)) for v in z], atol=2e-3)
    edges = location + scale * np.linspace(-12, 12, 49)
    moment = lambda k: sum(integrate.quad(lambda v: v**k * exact(v), a, b)[0] for a, b in pairwise(edges))
    mean = moment(1)
    found_mean, found_variance = family.mean_and_variance(parameters[0])
    assert float(found_mean[component]) == pytest.approx(mean, abs=5e-3 * scale)
    assert float(found_variance[component]) == pytest.approx(moment(2) - mean**2, rel=1e-2)


@pytest.mark.parametrize("shape", [-20.0, -1.2, -0.7, 20.0])
def test_peaked_and_flat_densities_integrate_to_one(shape):
    """Bumps that lower the peak of a small power: an even grid of nodes found normalisers down to 0."""
    heights = np.zeros((2, 21), np.float32)
    heights[0, 7:14] = -5.0
    heights[1, 9:12] = [1.0, 3.0, -2.0]
    family = ShapedLocationScale(
        PowerLocationScale(jnp.full(2, shape, jnp.float32)), jnp.asarray(heights), jnp.ones(())
    )
    natural = jnp.asarray([[0.0, 1.0], [0.0, 1.0]], jnp.float32)
    for component in range(2):
        exact = density(family, component, 0.0, 1.0)
        sd = float(family.power.mean_and_variance(natural)[1][component]) ** 0.5
        z = sd * np.concatenate([np.geomspace(1e-3, 1.5, 9), -np.geomspace(1e-3, 1.5, 9)])
        found = family.log_prob(
            jnp.broadcast_to(jnp.asarray(z, jnp.float32)[:, None], (18, 2)), natural[None]
        )
        np.testing.assert_allclose(np.asarray(found)[:, component], [np.log(exact(v)) for v in z], atol=1e-2)


def test_draws_have_the_stated_moments(family):
    natural = jnp.broadcast_to(jnp.asarray([[1.0, 2.0], [0.0, 0.5]], jnp.float32), (40_000, 2, 2))
    z = np.asarray(family.sample(natural, key=KEY))
    mean, variance = (np.asarray(a) for a in family.mean_and_variance(natural[0]))
    np.testing.assert_allclose(z.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(z.var(axis=0), variance, rtol=0.03)
    np.testing.assert_allclose(stats.skew(z), family.skewness(jnp.float32), atol=0.05)


def test_a_shape_that_is_not_used_is_the_power_and_stays_so(family):
    idle = ShapedLocationScale(family.power, family.heights, jnp.zeros(()))
    natural = jnp.asarray([[1.0, 2.0], [0.0, 0.5]], jnp.float32)
    z = jnp.linspace(-3, 3, 10)[:, None] * jnp.ones(2)
    np.testing.assert_allclose(idle.log_prob(z, natural), family.power.log_prob(z, natural), rtol=1e-6)
    gradient = jax.grad(lambda f: f.log_prob(z, natural).sum())(idle)
    assert not np.asarray(gradient.heights).any()
    assert not np.asarray(gradient.in_use).any()
    network = InvertibleNetwork.linear(AffineMap(jnp.eye(2), jnp.zeros(2)))
    assert settled(FlowModel(network, idle)).family is idle.power
    assert settled(FlowModel(network, family)).family is family


@pytest.mark.parametrize("rows", [300, 9000])
def test_profile_likelihood_is_the_mean_density_at_every_segments_parameters(family, rows):
    """In one block of rows and in several."""
    rng = np.random.default_rng(0)
    u = rng.integers(0, 4, rows).astype(np.int32)
    x = (rng.normal(size=(rows, 2)) * np.array([0.5, 1, 2, 3])[u][:, None] + u[:, None]).astype(np.float32)
    network = InvertibleNetwork.linear(AffineMap(jnp.asarray([[1.0, 0.3], [-0.2, 0.8]]), jnp.zeros(2)))
    system, data = FlowModel(network, family), Dataset(jnp.asarray(x), jnp.asarray(u))
    z = x @ np.array([[1.0, 0.3], [-0.2, 0.8]], np.float32).T
    mean = np.stack([z[u == j].mean(axis=0) for j in range(4)])
    power = np.asarray(family.power.power)
    size = np.stack([(np.abs(z[u == j] - mean[j]) ** power).mean(axis=0) for j in range(4)])
    scale = (power * size) ** (1 / power)
    natural = np.stack([mean, scale], axis=-1).astype(np.float32)
    log_det = np.log(abs(np.linalg.det([[1.0, 0.3], [-0.2, 0.8]])))
    expected = -(np.asarray(family.log_prob(jnp.asarray(z), natural[u])).sum(1).mean() + log_det)
    loss = ProfileLikelihood(4)(system, data, key=KEY)[0]
    assert float(loss) == pytest.approx(expected, abs=2e-3)
    held_out = HeldOutProfile(4)(system, data, data, KEY)
    assert float(held_out) == pytest.approx(expected, abs=2e-2)  # segments are shrunk a little
    priced = HeldOutProfile(4, shape_price=0.5)(system, data, data, KEY)
    assert float(priced - held_out) == pytest.approx(1.0, abs=1e-5)
    assert shrink(jnp.ones((1, 2, 2)), jnp.ones(1)).shape == (1, 2, 2)


def skewed(law: str):
    """Linear mixtures of two sources with a location and a scale of their own in each of 10 segments."""
    rng = np.random.default_rng(5)
    u = np.repeat(np.arange(10), 400)
    noise = rng.gamma(2.0, 1.0, (4000, 2)) if law == "gamma" else rng.normal(size=(4000, 2))
    standard = (noise - noise.mean(axis=0)) / noise.std(axis=0)
    S = rng.uniform(-2, 2, (10, 2))[u] + rng.uniform(0.3, 2, (10, 2))[u] * standard
    return S, np.tanh(0.3 * S) @ np.array([[1.0, 0.6], [-0.4, 1.0]]), u


@pytest.mark.parametrize(("law", "kind"), [("gamma", ShapedLocationScale), ("normal", PowerLocationScale)])
def test_held_out_rows_decide_whether_sources_have_a_shape(law, kind, tmp_path):
    S, X, u = skewed(law)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = identica.FlowICA(max_iter=600, n_restarts=4, random_state=0).fit(X, u=u)
    assert isinstance(flow.model_.prior.family, kind)
    assert identica.metrics.mcc(S, flow.transform(X), within=u) > 0.95
    text = learned.shape(flow.model_, ["a", "b"]).text
    assert ("skewness" in text) == (law == "gamma")
    flow.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(X), flow.transform(X))
    np.testing.assert_array_equal(again.score_samples(X, u=u), flow.score_samples(X, u=u))
