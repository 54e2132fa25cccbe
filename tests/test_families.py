"""Laws that every exponential family obeys, checked by quadrature, scipy and printed numbers."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from identica.errors import DataError
from identica.families import (
    GaussianLocationScale,
    GaussianScale,
    General,
    GeneralizedGaussian,
    LaplaceScale,
    PowerLocationScale,
    RadialBaseMeasure,
    as_distribution,
)

# Each entry: family, two valid natural parameter vectors, scipy's distributions at both (or None).
ZOO = {
    "gaussian location-scale": (
        GaussianLocationScale(),
        [[0.7 / 1.69, -0.5 / 1.69], [-0.4 / 0.64, -0.5 / 0.64]],
        [stats.norm(0.7, 1.3), stats.norm(-0.4, 0.8)],
    ),
    "gaussian scale": (
        GaussianScale(location=0.3),
        [[-0.5 / 1.69], [-0.5 / 0.64]],
        [stats.norm(0.3, 1.3), stats.norm(0.3, 0.8)],
    ),
    "laplace scale": (
        LaplaceScale(),
        [[-1 / 1.3], [-1 / 0.8]],
        [stats.laplace(0, 1.3), stats.laplace(0, 0.8)],
    ),
    "generalised gaussian 3": (
        GeneralizedGaussian(3.0, location=-0.2),
        [[-(1.3**-3)], [-(0.8**-3)]],
        [stats.gennorm(3, -0.2, 1.3), stats.gennorm(3, -0.2, 0.8)],
    ),
    "generalised gaussian 1.5": (
        GeneralizedGaussian(1.5),
        [[-(1.3**-1.5)], [-(0.8**-1.5)]],
        [stats.gennorm(1.5, 0, 1.3), stats.gennorm(1.5, 0, 0.8)],
    ),
    "polynomial": (General(order=4), [[0.3, 0.8, -0.1, -0.3], [-0.5, -0.2, 0.1, -0.2]], None),
    "callables with a learned base": (
        General(
            statistics=(jnp.tanh, jnp.square),
            base_measure=RadialBaseMeasure(jnp.linspace(-0.5, 1.0, 7) ** 2),
        ),
        [[0.5, -0.6], [-1.0, -0.4]],
        None,
    ),
}


COUNT = 10_000


@dataclass
class Derived:
    """All derived quantities of one family at two parameter vectors, from one compiled call."""

    family: Any
    natural: np.ndarray
    references: Any
    z: np.ndarray
    weights: np.ndarray
    values: dict[str, np.ndarray]

    def expectation(self, which, values):
        """E values(z) under the natural parameters number `which`."""
        return float((values * np.exp(self.values["log_prob"][which]) * self.weights).sum())


@pytest.fixture(scope="module", params=ZOO, ids=lambda name: name.replace(" ", "-"))
def member(request):
    family, naturals, references = ZOO[request.param]

    def derive(family, natural, z):
        expected = family.expectation_parameters(natural)
        raw = family.raw_from_natural(natural)
        many = jnp.broadcast_to(natural[:, None], (2, COUNT, natural.shape[-1]))
        return {
            "log_prob": family.log_prob(z, natural[:, None]),
            "statistics": family.sufficient_statistics(z),
            "expected": expected,
            "information": family.fisher_information(natural),
            "kl": family.kl(natural, natural[::-1]),
            "kl_to_itself": family.kl(natural, natural),
            "entropy": family.entropy(natural),
            "expected_log_base_measure": family.expected_log_base_measure(natural),
            "again_by_raw": family.natural_parameters(raw),
            "again_by_expectation": family.natural_from_expectation(expected, floor=0.0),
            "profile": family.profile_log_likelihood(expected, floor=0.0),
            "moments": jnp.stack(family.mean_and_variance(natural)),
            "draws": family.sufficient_statistics(family.sample(many, key=jax.random.key(0))),
            "numpyro": as_distribution(family, natural).log_prob(z[:, None]).T,
        }

    with jax.enable_x64(True):
        family = jax.tree.map(lambda leaf: leaf.astype(float), family)
        # A composite rule that breaks at the location, where |z| has its kink. The general family is
        # defined on [-8, 8]; the others decay within 40 scales.
        limit = 8.0 if isinstance(family, General) else 40.0
        edges = getattr(family, "location", 0.0) + np.linspace(-limit, limit, 161)
        points, weights = np.polynomial.legendre.leggauss(12)
        half = np.diff(edges)[:, None] / 2
        z = (edges[:-1, None] + half * (1 + points)).ravel()
        values = eqx.filter_jit(derive)(family, jnp.asarray(naturals), jnp.asarray(z))
        values = {name: np.asarray(value) for name, value in values.items()}
    return Derived(family, np.asarray(naturals), references, z, (half * weights).ravel(), values)


def test_unit_mass(member):
    for which in range(2):
        assert member.expectation(which, 1.0) == pytest.approx(1.0, abs=1e-7)


def test_log_density_and_moments_are_scipys(member):
    if member.references is None:
        pytest.skip("scipy has no such distribution")
    for which, reference in enumerate(member.references):
        expected = reference.logpdf(member.z)
        np.testing.assert_allclose(member.values["log_prob"][which], expected, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(member.values["numpyro"][which], expected, rtol=1e-7, atol=1e-7)
        assert member.values["entropy"][which] == pytest.approx(float(reference.entropy()), rel=1e-9)
        moments = [reference.mean(), reference.var()]
        np.testing.assert_allclose(member.values["moments"][:, which], moments, rtol=1e-9, atol=1e-12)


def test_gradient_of_log_partition_is_expected_statistics(member):
    for which in range(2):
        expected = [member.expectation(which, t) for t in member.values["statistics"].T]
        np.testing.assert_allclose(member.values["expected"][which], expected, rtol=1e-6, atol=1e-9)


def test_hessian_of_log_partition_is_covariance_of_statistics(member):
    for which in range(2):
        centred = member.values["statistics"] - member.values["expected"][which]
        expected = [[member.expectation(which, a * b) for a in centred.T] for b in centred.T]
        np.testing.assert_allclose(member.values["information"][which], expected, rtol=1e-6, atol=1e-9)


def test_divergence_entropy_and_moments_are_those_of_quadrature(member):
    log_prob = member.values["log_prob"]
    for which in range(2):
        divergence = member.expectation(which, log_prob[which] - log_prob[1 - which])
        assert member.values["kl"][which] == pytest.approx(divergence, rel=1e-6)
        entropy = member.expectation(which, -log_prob[which])
        assert member.values["entropy"][which] == pytest.approx(entropy, rel=1e-6)
        mean = member.expectation(which, member.z)
        variance = member.expectation(which, (member.z - mean) ** 2)
        np.testing.assert_allclose(member.values["moments"][:, which], [mean, variance], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(member.values["kl_to_itself"], 0.0, atol=1e-12)


def test_round_trips(member):
    np.testing.assert_allclose(member.values["again_by_raw"], member.natural, rtol=1e-9)
    np.testing.assert_allclose(member.values["again_by_expectation"], member.natural, rtol=1e-6)
    expected = -member.values["entropy"] - member.values["expected_log_base_measure"]
    np.testing.assert_allclose(member.values["profile"], expected, rtol=1e-6)


def test_sample_moments(member):
    variances = np.diagonal(member.values["information"], axis1=-2, axis2=-1)
    error = member.values["draws"].mean(1) - member.values["expected"]
    assert (np.abs(error) < 4.5 * np.sqrt(variances / COUNT)).all()


def test_natural_parameters_are_valid_for_any_number(member):
    family = member.family
    size = family.number_of_statistics
    raw = jnp.asarray(np.random.default_rng(0).normal(size=(200, size)), jnp.float32)
    if not isinstance(family, General):
        raw = raw * 10.0 ** jnp.arange(-2, 6, 0.04)[:200, None]
    natural = eqx.filter_jit(family.natural_parameters)(raw.astype(jnp.float32))
    assert natural.dtype == jnp.float32
    assert bool(jnp.isfinite(natural).all())
    assert bool((natural[..., -1] < 0).all())


def test_printed_divergences():
    laplace = LaplaceScale()
    # Equal locations in KL(Laplace(m1, b1) || Laplace(m2, b2)) = log(b2/b1) + b1/b2 - 1 with b = 1.3, 0.8.
    expected = np.log(0.8 / 1.3) + 1.3 / 0.8 - 1
    assert float(laplace.kl(jnp.array([-1 / 1.3]), jnp.array([-1 / 0.8]))) == pytest.approx(
        expected, rel=1e-5
    )
    gaussian = GaussianLocationScale()
    first, second = jnp.array([0.7 / 1.69, -0.5 / 1.69]), jnp.array([-0.4 / 0.64, -0.5 / 0.64])
    expected = 0.5 * (np.log(0.64 / 1.69) + (1.69 + 1.1**2) / 0.64 - 1)
    assert float(gaussian.kl(first, second)) == pytest.approx(expected, rel=1e-5)
    covariance = gaussian.fisher_information(first)
    np.testing.assert_allclose(
        covariance, [[1.69, 2 * 0.7 * 1.69], [2 * 0.7 * 1.69, 2 * 1.69**2 + 4 * 0.49 * 1.69]], rtol=1e-5
    )


def test_profile_in_float32_stays_finite_for_a_constant_segment():
    family = GaussianLocationScale()
    z = jnp.full((3, 50), 3.0, jnp.float32) + jnp.array([0.0, 1e-4, 1.0])[:, None] * jnp.linspace(-1, 1, 50)
    statistics = family.sufficient_statistics(z).mean(1)
    natural = family.natural_from_expectation(statistics)
    assert bool(jnp.isfinite(natural).all())
    np.testing.assert_allclose(family.mean_and_variance(natural)[1][2], np.var(z[2]) + 1e-5, rtol=1e-4)
    slope = jax.grad(lambda s: family.profile_log_likelihood(s).sum())(statistics)
    assert bool(jnp.isfinite(slope).all())


def test_equal_families_share_compiled_functions():
    traces = []

    @jax.jit
    def total(family, natural):
        traces.append(1)
        return family.log_partition(natural).sum()

    natural = jnp.array([[-0.5]])
    total(GaussianScale(0.0), natural)
    total(GaussianScale(0.0), natural)
    assert len(traces) == 1
    total(GaussianScale(1.0), natural)
    assert len(traces) == 2


def test_wrong_configurations_are_refused():
    with pytest.raises(DataError, match="power must be positive"):
        GeneralizedGaussian(0.0)
    with pytest.raises(DataError, match="even number"):
        General(order=3)


# Location and scale free, power learned --------------------------------------------------------------

POWERS = np.array([1.0, 2.0, 4.0])
# The inverse of the soft bound at ±1.6 of log(p/2), written out.
_RAW = np.log(POWERS / 2)
SHAPED = PowerLocationScale(jnp.asarray(_RAW / (1 - (_RAW / 1.6) ** 4) ** 0.25, jnp.float32))
LOCATION, SCALE = np.array([0.5, -1.0, 2.0]), np.array([0.7, 1.5, 3.0])


def test_a_learned_power_gives_the_generalised_normal_of_scipy():
    np.testing.assert_allclose(SHAPED.power, POWERS, rtol=1e-5)
    z = np.linspace(-4, 4, 33)[:, None] + LOCATION
    parameters = jnp.asarray(np.stack([LOCATION, SCALE], axis=-1), jnp.float32)
    law = stats.gennorm(POWERS, LOCATION, SCALE)
    np.testing.assert_allclose(
        SHAPED.log_prob(jnp.asarray(z, jnp.float32), parameters), law.logpdf(z), rtol=1e-4, atol=2e-4
    )
    mean, variance = SHAPED.mean_and_variance(parameters)
    np.testing.assert_allclose(mean, law.mean(), rtol=1e-5)
    np.testing.assert_allclose(variance, law.var(), rtol=1e-4)
    np.testing.assert_allclose(
        SHAPED.natural_parameters(SHAPED.raw_from_natural(parameters)), parameters, rtol=1e-5
    )
    np.testing.assert_array_equal(PowerLocationScale.gaussian(2).power, 2.0)


def test_draws_with_a_learned_power_follow_the_law():
    parameters = jnp.asarray(np.stack([LOCATION, SCALE], axis=-1), jnp.float32)
    draws = as_distribution(SHAPED, parameters).sample(jax.random.key(0), (4000,))
    for i in range(3):
        law = stats.gennorm(POWERS[i], LOCATION[i], SCALE[i])
        assert stats.kstest(np.asarray(draws)[:, i], law.cdf).pvalue > 1e-3


def test_the_best_scale_for_a_power_is_that_of_scipy_and_its_likelihood_the_profile():
    values = np.random.default_rng(0).laplace(LOCATION, SCALE, (500, 3))
    centre = values.mean(0)
    statistic = SHAPED.deviation_statistic(jnp.asarray(values - centre, jnp.float32)).mean(0)
    averages = jnp.stack([jnp.asarray(centre, jnp.float32), statistic], axis=-1)
    found = SHAPED.natural_from_expectation(averages, floor=0.0)
    profile = SHAPED.profile_log_likelihood(averages, floor=0.0)
    for i in range(3):
        fitted = stats.gennorm.fit(values[:, i], fbeta=POWERS[i], floc=centre[i])
        assert float(found[i, 1]) == pytest.approx(fitted[2], rel=1e-3)
        assert float(profile[i]) == pytest.approx(
            stats.gennorm(*fitted).logpdf(values[:, i]).mean(), abs=1e-4
        )


def test_a_family_without_a_closed_entropy_says_so():
    law = as_distribution(SHAPED, jnp.asarray(np.stack([LOCATION, SCALE], axis=-1), jnp.float32))
    with pytest.raises(NotImplementedError, match="PowerLocationScale has no entropy"):
        law.entropy()
