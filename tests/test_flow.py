"""Flow model, priors and exact likelihoods, against SciPy, quadrature and unblocked sums."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from conftest import make_rows
from identica.conditionals import MixturePrior, ModulatedPrior, NetworkMap, Table
from identica.data import Dataset
from identica.families import GaussianLocationScale, GaussianScale, LaplaceScale, PowerLocationScale
from identica.models import FlowModel
from identica.networks import AffineMap, InvertibleNetwork
from identica.objectives import exact_likelihood
from identica.objectives.exact_likelihood import (
    ExactLikelihood,
    HeldOutLikelihood,
    HeldOutProfile,
    ProfileLikelihood,
    segment_prior,
    segment_statistics,
    shrink,
)

KEY = jax.random.key(0)
MEAN = np.array([[0.5, -1.0], [-0.2, 0.3], [2.0, 0.0]])
VARIANCE = np.array([[0.4, 1.5], [2.0, 0.3], [0.7, 1.0]])
SHARES = np.array([0.2, 0.3, 0.5])


def natural(mean, variance):
    """Natural parameters of Gaussians, by the textbook: μ/s² and −1/(2s²)."""
    return jnp.stack([mean / variance, -0.5 / variance], axis=-1)


@eqx.filter_jit
def segment_table(mean, variance, shares) -> ModulatedPrior:
    """The prior of segments with these moments."""
    family = GaussianLocationScale()
    return ModulatedPrior(family, Table(family.raw_from_natural(natural(mean, variance)), jnp.log(shares)))


@pytest.fixture(scope="module")
def prior():
    return segment_table(*(a.astype(np.float32) for a in (MEAN, VARIANCE, SHARES)))


@pytest.fixture(scope="module")
def network():
    net = InvertibleNetwork.random(2, 3, key=jax.random.key(4))
    return net.followed_by(jnp.array([[1.0, 0.3], [-0.2, 0.8]]), jnp.array([0.2, -0.1]))


@pytest.fixture(scope="module")
def flow(network, prior):
    orientation = AffineMap(np.array([[0.0, -2.0], [0.5, 0.0]], np.float32), np.array([1.0, 0.3], np.float32))
    return FlowModel(network, prior.family, prior, orientation)


density = eqx.filter_jit(lambda model, x, u: model.log_marginal(x, u))


# The model ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segment", [0, 2, None])
def test_the_density_of_a_flow_integrates_to_one(flow, segment):
    side = np.linspace(-14, 14, 560, dtype=np.float32)
    x = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    u = None if segment is None else np.full(len(x), segment, np.int32)
    log_p = np.asarray(density(flow, x, u), np.float64)
    assert np.exp(log_p).sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=5e-3)


def test_the_density_is_the_change_of_variables_written_out(flow):
    x = np.random.default_rng(0).standard_normal((30, 2)).astype(np.float32)
    u = np.arange(30, dtype=np.int32) % 3
    z, jacobian = eqx.filter_jit(
        lambda m, x: (m.latents(x)[0], jax.vmap(jax.jacfwd(lambda v: m.latents(v[None])[0][0]))(x))
    )(flow, x)
    expected = stats.norm.logpdf(z, MEAN[u], np.sqrt(VARIANCE[u])).sum(1) + np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(density(flow, x, u), expected, atol=1e-4)


def test_sources_are_oriented_latents_and_scores_are_their_inverse(flow):
    x = np.random.default_rng(0).standard_normal((30, 2)).astype(np.float32)
    z, sources, back = eqx.filter_jit(lambda m, x: (m.latents(x)[0], m.sources(x), m.scores(m.sources(x))))(
        flow, x
    )
    np.testing.assert_allclose(sources, np.column_stack([-2 * z[:, 1] + 1, 0.5 * z[:, 0] + 0.3]), atol=1e-5)
    np.testing.assert_allclose(back, x, atol=1e-4)


def test_draws_are_what_the_density_says_and_come_with_their_sources(flow):
    u = np.repeat(np.arange(3, dtype=np.int32), 4000)
    sources, _, again = eqx.filter_jit(lambda m, u, key: (*(d := m.sample(u, key=key)), m.sources(d[1])))(
        flow, u, KEY
    )
    np.testing.assert_allclose(again, sources, atol=2e-3)
    latent = np.column_stack([(sources[:, 1] - 0.3) / 0.5, (sources[:, 0] - 1) / -2])
    for segment in range(3):
        for i in range(2):
            law = stats.norm(MEAN[segment, i], np.sqrt(VARIANCE[segment, i]))
            assert stats.kstest(latent[u == segment, i], law.cdf).pvalue > 1e-3


def test_a_flow_without_a_prior_says_so(network):
    bare = FlowModel(network, GaussianLocationScale())
    with pytest.raises(ValueError, match="without a prior has no density"):
        bare.log_marginal(jnp.zeros((1, 2)), None)
    with pytest.raises(ValueError, match="without a prior has no density"):
        bare.sample(jnp.zeros(1, int), key=KEY)


# Densities and draws without u, or with a continuous one ----------------------------------------------


def test_without_u_the_density_is_that_of_the_mixture_over_segments(flow):
    x = np.random.default_rng(0).standard_normal((40, 2)).astype(np.float32)
    given = [density(flow, x, np.full(40, segment, np.int32)) for segment in range(3)]
    np.testing.assert_allclose(density(flow, x, None), np.log(SHARES @ np.exp(given)), atol=1e-4)


def test_with_a_continuous_u_the_flow_averages_over_the_examples(network):
    @eqx.filter_jit
    def make(examples):
        parameters = NetworkMap.random(examples, 2, 2, key=KEY)
        return FlowModel(
            network, GaussianLocationScale(), ModulatedPrior(GaussianLocationScale(), parameters)
        )

    # Far apart, as a network that was not trained tells neighbouring values of u apart hardly.
    examples = 50 * np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32)
    parameters = NetworkMap.random(jnp.asarray(examples), 2, 2, key=KEY)
    family = GaussianLocationScale()
    model = FlowModel(network, family, ModulatedPrior(family, parameters))
    x = np.random.default_rng(1).standard_normal((8, 2)).astype(np.float32)
    given = np.array([density(model, x, np.tile(u, (8, 1))) for u in examples], np.float64)
    assert given.std(0).min() > 1e-3, "the density changes with u"
    np.testing.assert_allclose(density(model, x, None), np.log(np.exp(given).mean(0)), atol=1e-4)


def test_the_mixture_prior_has_the_density_and_moments_of_its_parts():
    weights = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    means = np.array([[-2.0, 0.0, 3.0], [1.0, -1.0, 0.0]])
    variances = np.array([[0.5, 1.0, 0.2], [2.0, 0.1, 1.0]])
    prior = MixturePrior(*(a.astype(np.float32) for a in (np.log(weights), means, variances)))
    z = np.random.default_rng(0).normal(0, 2, (30, 2)).astype(np.float32)
    parts = stats.norm.pdf(z[..., None], means, np.sqrt(variances))
    log_p, draws = eqx.filter_jit(lambda p, z: (p().log_prob(z), p().sample(KEY, (40_000,))))(prior, z)
    np.testing.assert_allclose(log_p, np.log((weights * parts).sum(-1)).sum(1), atol=1e-4)
    mean = (weights * means).sum(1)
    variance = (weights * (variances + means**2)).sum(1) - mean**2
    np.testing.assert_allclose(draws.mean(0), mean, atol=5 * np.sqrt(variance.max() / 40_000))
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.03)
    assert abs(np.corrcoef(np.asarray(draws).T)[0, 1]) < 0.02, "components are drawn independently"


# Objectives -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    made = make_rows(n_per_segment=50)
    x = ((made.X - made.X.mean(0)) / made.X.std(0)).astype(np.float32)
    return Dataset(jnp.asarray(x), jnp.asarray(made.u, jnp.int32))


def value_and_gradient(objective, system, batch):
    # A new function each time, as constants of the module are changed between calls.
    loss = lambda m, b: objective(m, b, key=KEY)[0]
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))(system, batch)
    return float(value), np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


def log_likelihood_at(family_law, z, u, log_det):
    """Mean log-likelihood with SciPy's own maximum-likelihood fit per segment and component."""
    total = 0.0
    for segment in np.unique(u):
        for i in range(z.shape[1]):
            values = z[u == segment, i].astype(np.float64)
            total += family_law(values).logpdf(values).sum()
    return total / len(z) + np.mean(log_det)


BEST = {
    "gaussian": (GaussianLocationScale(), lambda v: stats.norm(*stats.norm.fit(v))),
    "gaussian-scale": (GaussianScale(), lambda v: stats.norm(*stats.norm.fit(v, floc=0))),
    "laplace": (LaplaceScale(), lambda v: stats.laplace(*stats.laplace.fit(v, floc=0))),
    "power": (
        PowerLocationScale(jnp.full(2, -0.4)),
        lambda v: stats.gennorm(*stats.gennorm.fit(v, fbeta=2 * np.exp(-0.4), floc=v.mean())),
    ),
}


@pytest.mark.parametrize("name", BEST)
def test_the_profile_likelihood_is_the_likelihood_at_the_priors_that_scipy_fits(network, data, name):
    family, law = BEST[name]
    system = FlowModel(network, family)
    z, log_det = eqx.filter_jit(lambda m, x: m.latents(x))(system, data.x)
    loss = eqx.filter_jit(lambda m, b: ProfileLikelihood(8)(m, b, key=KEY)[0])(system, data)
    expected = log_likelihood_at(law, np.asarray(z), np.asarray(data.u), np.asarray(log_det, np.float64))
    assert -float(loss) == pytest.approx(expected, abs=2e-3)


def test_no_prior_beats_the_profile(network, data):
    family = GaussianLocationScale()
    z, log_det = eqx.filter_jit(lambda m, x: m.latents(x))(FlowModel(network, family), data.x)
    z, u = np.asarray(z, np.float64), np.asarray(data.u)

    def minus_log_likelihood(raw):
        mean, log_sd = raw.reshape(2, 3, 2)
        return -stats.norm.logpdf(z, mean[u], np.exp(log_sd[u])).sum(1).mean()

    best = (
        optimize.minimize(minus_log_likelihood, np.zeros(12), method="BFGS").fun - np.asarray(log_det).mean()
    )
    loss = eqx.filter_jit(lambda m, b: ProfileLikelihood(3)(m, b, key=KEY)[0])(
        FlowModel(network, family), data
    )
    assert float(loss) == pytest.approx(best, abs=1e-3)


def test_the_gradient_through_the_profile_is_that_at_the_fixed_best_prior(network, data):
    """The envelope theorem: at the maximum, the prior's own change does not contribute."""
    bare = FlowModel(network, GaussianLocationScale())
    counts, means, _ = eqx.filter_jit(lambda m, b: segment_statistics(m, b, 3))(bare, data)
    variance = means[..., 1] - means[..., 0] ** 2
    best = segment_table(means[..., 0], variance, counts / counts.sum())
    _, profiled = value_and_gradient(ProfileLikelihood(3), bare, data)
    with_prior = lambda m, b, key: ExactLikelihood()(FlowModel(m.demixer, m.family, best), b, key=key)
    _, fixed = value_and_gradient(with_prior, bare, data)
    np.testing.assert_allclose(profiled, fixed, atol=5e-4)


@pytest.mark.parametrize(
    ("kind", "weighted"),
    [
        pytest.param("profile", True, marks=pytest.mark.slow),
        pytest.param("exact", False, marks=pytest.mark.slow),
        ("power", True),
    ],
)
def test_blocks_of_rows_sum_to_the_whole_in_value_and_gradient(monkeypatch, flow, data, kind, weighted):
    objective = ExactLikelihood() if kind == "exact" else ProfileLikelihood(3)
    if kind == "power":  # two passes: means first, deviations from them second
        flow = FlowModel(flow.demixer, PowerLocationScale(jnp.asarray([-0.5, 0.3])))
    weight = (
        jnp.asarray(np.random.default_rng(0).integers(0, 3, data.n_rows), jnp.float32) if weighted else None
    )
    batch = Dataset(data.x, data.u, weight=weight)
    whole = value_and_gradient(objective, flow, batch)
    monkeypatch.setattr(exact_likelihood, "BLOCK_ROWS", 64)  # 150 rows: three blocks, the last one short
    blocks = value_and_gradient(objective, flow, batch)
    assert blocks[0] == pytest.approx(whole[0], abs=1e-5)
    np.testing.assert_allclose(blocks[1], whole[1], atol=1e-4)


@pytest.mark.parametrize("family", [GaussianLocationScale(), PowerLocationScale(jnp.asarray([-0.5, 0.3]))])
def test_scatter_and_one_hot_sums_over_segments_agree(monkeypatch, flow, data, family):
    flow = FlowModel(flow.demixer, family)
    weight = jnp.asarray(np.random.default_rng(0).integers(0, 3, data.n_rows), jnp.float32)
    batch = Dataset(data.x, data.u, weight=weight)
    one_hot = value_and_gradient(ProfileLikelihood(3), flow, batch)
    monkeypatch.setattr(exact_likelihood, "_ONE_HOT_SEGMENTS", 1)
    scatter = value_and_gradient(ProfileLikelihood(3), flow, batch)
    assert scatter[0] == pytest.approx(one_hot[0], abs=1e-5)
    np.testing.assert_allclose(scatter[1], one_hot[1], atol=1e-4)


def test_segment_statistics_are_averages_over_the_rows_of_each_segment(flow, data):
    statistics = eqx.filter_jit(lambda m, b: (*segment_statistics(m, b, 5), m.latents(b.x)[0]))
    counts, means, _, z = statistics(flow, data)
    u = np.asarray(data.u)
    np.testing.assert_array_equal(counts, [50, 50, 50, 0, 0])
    for segment in range(3):
        expected = np.stack([z[u == segment].mean(0), (z[u == segment] ** 2).mean(0)], axis=-1)
        np.testing.assert_allclose(means[segment], expected, atol=1e-4)
    assert (np.asarray(means[3:]) == 0).all()


def test_weights_count_rows_and_zero_leaves_them_out(flow, data):
    weight = np.random.default_rng(0).integers(0, 3, data.n_rows)
    repeated = np.repeat(np.arange(data.n_rows), weight)
    for objective in (ProfileLikelihood(3), ExactLikelihood()):
        loss = eqx.filter_jit(lambda m, b, objective=objective: objective(m, b, key=KEY)[0])
        one = loss(flow, Dataset(data.x, data.u, weight=jnp.asarray(weight, jnp.float32)))
        assert float(one) == pytest.approx(float(loss(flow, data.rows(repeated))), abs=1e-5)


def test_shrinking_leaves_long_segments_alone_and_pools_short_ones():
    means = np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32)
    counts = np.array([1.0, 9.0, 1e8], np.float32)
    pooled = np.tensordot(counts / counts.sum(), means, 1)
    shrunk = shrink(jnp.asarray(means), jnp.asarray(counts))
    for segment, weight in enumerate([1 / 2, 9 / 10, 1.0]):
        np.testing.assert_allclose(
            shrunk[segment], weight * means[segment] + (1 - weight) * pooled, atol=1e-5
        )
    np.testing.assert_allclose(np.tensordot(counts, shrunk, 1) / counts.sum(), pooled, atol=1e-5)


def test_held_out_rows_are_scored_under_priors_of_the_fitted_rows(flow, data):
    fitted, held_out = data.rows(slice(0, 110)), data.rows(slice(110, None))
    bare = FlowModel(flow.demixer, flow.family)
    loss = eqx.filter_jit(lambda m: HeldOutProfile(3)(m, fitted, held_out, KEY))(bare)
    prior = eqx.filter_jit(lambda m: segment_prior(m, fitted, 3))(bare)
    fitted_flow = FlowModel(flow.demixer, flow.family, prior)
    assert float(loss) == pytest.approx(-float(density(fitted_flow, held_out.x, held_out.u).mean()), abs=1e-5)
    exact = eqx.filter_jit(lambda m: HeldOutLikelihood()(m, fitted, held_out, KEY))(fitted_flow)
    assert float(exact) == pytest.approx(float(loss), abs=1e-5)
    # By hand: variances of the segments, shrunk with the weight of one row.
    z = np.asarray(eqx.filter_jit(lambda m, x: m.latents(x)[0])(bare, fitted.x), np.float64)
    u = np.asarray(fitted.u)
    counts = np.bincount(u)[:, None]
    first, second = (np.stack([(z[u == s] ** p).mean(0) for s in range(3)]) for p in (1, 2))
    w = counts / (counts + 1)
    first, second = (w * m + (1 - w) * (z**p).mean(0) for p, m in ((1, first), (2, second)))
    mean, variance = prior.family.mean_and_variance(prior.parts()[0])
    np.testing.assert_allclose(mean, first, atol=1e-3)
    np.testing.assert_allclose(variance, second - first**2, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.exp(prior.parameters.log_shares), counts[:, 0] / 110, atol=1e-6)
