"""The family whose base measure is learned, against quadrature; and all priors of `FlowICA` end to end."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import identica
from identica import FlowICA
from identica.families import LearnedBase
from identica.metrics import mcc

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

GRID = np.linspace(-25, 25, 200_001)
CENTRES = np.linspace(-5, 5, 11)
HEIGHTS = np.array([0, 0, 0.5, 2.5, 0.5, -1.0, 0, 1.0, 2.0, 0, 0])
NATURAL = [[0.4, -0.3], [3.0, -2.0], [-0.2, -0.08], [40.0, -50.0]]


def log_density(z, natural):
    """Normalised on a grid, in float64; the heights are bounded as the family says."""
    heights = HEIGHTS / (1 + (HEIGHTS / 6) ** 4) ** 0.25
    b = lambda z: np.exp(-0.5 * (z[..., None] - CENTRES) ** 2) @ heights
    inner = lambda z: b(z) + natural[0] * z + natural[1] * z**2
    on_grid = inner(GRID)
    top = on_grid.max()
    return inner(z) - top - np.log(np.exp(on_grid - top).sum() * (GRID[1] - GRID[0]))


@pytest.fixture(scope="module")
def family():
    return LearnedBase(jnp.asarray(HEIGHTS[None], jnp.float32))


@pytest.mark.parametrize("natural", NATURAL)
def test_density_moments_and_divergence_are_those_of_quadrature(family, natural):
    density = np.exp(log_density(GRID, natural)) * (GRID[1] - GRID[0])
    mean = (density * GRID).sum()
    variance = (density * (GRID - mean) ** 2).sum()
    z = np.linspace(mean - 3 * variance**0.5, mean + 3 * variance**0.5, 7)
    given = jnp.asarray([natural], jnp.float32)
    got = eqx.filter_jit(lambda f, z, g: f.log_prob(z[:, None], g))(
        family, jnp.asarray(z, jnp.float32), given
    )
    np.testing.assert_allclose(np.asarray(got)[:, 0], log_density(z, natural), atol=3e-3)
    moments = eqx.filter_jit(lambda f, g: f.mean_and_variance(g))(family, given)
    assert float(moments[0][0]) == pytest.approx(mean, abs=5e-3)
    assert float(moments[1][0]) == pytest.approx(variance, rel=1e-2)
    slope = jax.grad(lambda g: family.log_partition(g).sum())(given)
    np.testing.assert_allclose(slope[0], [mean, variance + mean**2], rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("natural", NATURAL)
def test_parameters_come_back_from_their_expectations_and_the_profile_is_the_likelihood(family, natural):
    with jax.enable_x64(True):
        wide = LearnedBase(jnp.asarray(HEIGHTS[None]))
        expected = wide.expectation_parameters(jnp.asarray([natural]))
        back = wide.natural_from_expectation(expected, floor=0.0)
        np.testing.assert_allclose(back, [natural], rtol=2e-3)
        profile = float(wide.profile_log_likelihood(expected, floor=0.0)[0])
    # Averages of log p over the distribution itself, without the base measure.
    density = np.exp(log_density(GRID, natural)) * (GRID[1] - GRID[0])
    base = np.exp(-0.5 * (GRID[:, None] - CENTRES) ** 2) @ (HEIGHTS / (1 + (HEIGHTS / 6) ** 4) ** 0.25)
    direct = (density * (log_density(GRID, natural) - base)).sum() + 0.5 * np.log(2 * np.pi)
    assert profile == pytest.approx(direct, abs=5e-3)


def test_the_gradient_of_the_profile_is_that_of_finite_differences(family):
    with jax.enable_x64(True):
        wide = LearnedBase(jnp.asarray(HEIGHTS[None]))
        averages = jnp.asarray([[0.5, 1.4]])
        value = jax.jit(lambda heights, a: LearnedBase(heights).profile_log_likelihood(a).sum())
        by_height, by_average = jax.grad(value, (0, 1))(wide.heights, averages)
        for index, step in ((3, 1e-4), (6, 1e-4)):
            moved = [value(wide.heights.at[0, index].add(s), averages) for s in (step, -step)]
            assert float(by_height[0, index]) == pytest.approx(
                float(moved[0] - moved[1]) / (2 * step), abs=1e-5
            )
        for index in (0, 1):
            moved = [value(wide.heights, averages.at[0, index].add(s)) for s in (1e-4, -1e-4)]
            # The floor of the variance moves the maximum by as much as itself.
            assert float(by_average[0, index]) == pytest.approx(float(moved[0] - moved[1]) / 2e-4, abs=5e-5)


def test_draws_follow_the_density(family):
    natural = jnp.broadcast_to(jnp.asarray([0.4, -0.3]), (20_000, 1, 2))
    z = np.asarray(eqx.filter_jit(lambda f, g: f.sample(g, key=jax.random.key(0)))(family, natural))[:, 0]
    cumulative = np.cumsum(np.exp(log_density(GRID, [0.4, -0.3]))) * (GRID[1] - GRID[0])
    distance = np.abs(np.interp(np.sort(z), GRID, cumulative) - (np.arange(len(z)) + 0.5) / len(z)).max()
    assert distance < 0.02


def two_humps(seed: int):
    """Two sources of two modes each, which u weighs, shifts and spreads, behind a matrix."""
    rng = np.random.default_rng(seed)
    u = np.repeat(np.arange(6), 200)
    S = np.empty((1200, 2))
    for k in range(6):
        for i in range(2):
            density = np.exp(log_density(GRID, [rng.uniform(-1, 1), -rng.uniform(0.05, 0.6)]))
            cumulative = np.cumsum(density) / density.sum()
            S[u == k, i] = np.interp(rng.random(200), cumulative, GRID)
    return S @ np.array([[1.0, 0.6], [-0.5, 1.0]]), u, S


@pytest.mark.slow
def test_a_learned_base_describes_two_modes_better_than_a_gaussian():
    X, u, S = two_humps(0)
    options = {"hidden_sizes": (), "max_iter": 400, "n_restarts": 2, "random_state": 0}
    general, gaussian = (FlowICA(prior=p, **options).fit(X, u=u) for p in ("general", "gaussian"))
    held = general.held_out_rows_
    gain = general.score_samples(X[held], u=u[held]) - gaussian.score_samples(X[held], u=u[held])
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5
    assert gain.mean() > 0.1
    assert mcc(S, general.transform(X)) > 0.98


@pytest.mark.slow
def test_a_learned_base_works_end_to_end(rows, tmp_path):
    options = {"hidden_sizes": (2,), "max_iter": 20, "n_restarts": 1, "random_state": 0}
    ica = FlowICA(prior="general", **options).fit(rows.X, u=rows.u)
    assert np.isfinite(ica.score_samples(rows.X, u=rows.u)).all()
    assert np.isfinite(ica.score_samples(rows.X)).all()
    drawn, S = ica.sample(100, random_state=0)
    np.testing.assert_allclose(ica.transform(drawn), S, atol=1e-2)
    ica.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(again.score_samples(rows.X, u=rows.u), ica.score_samples(rows.X, u=rows.u))


def test_the_generalised_gaussian_is_the_default(rows):
    options = {"max_iter": 10, "n_restarts": 1, "hidden_sizes": (), "random_state": 0}
    auto = FlowICA(**options).fit(rows.X, u=rows.u).transform(rows.X)
    named = FlowICA(prior="generalized-gaussian", **options).fit(rows.X, u=rows.u).transform(rows.X)
    np.testing.assert_array_equal(auto, named)
