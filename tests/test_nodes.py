"""Weighted nodes: quadrature and quasi-Monte Carlo against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

from identica.conditionals import ConstantPrior, PrecisionGaussian
from identica.errors import DataError
from identica.expectations import GaussHermite, MonteCarlo, QuasiMonteCarlo, place
from identica.expectations.gauss_hermite import hermite_rule
from identica.objectives.reductions import LogMeanExp, Mean

# z ~ N(0, 1), x|z ~ N(a z, σ² I): reference 1.2.
DIRECTION, ROW = np.array([1.0, 0.5, -0.8]), np.array([0.9, 0.3, -0.7])
TABLE = {1.0: (5e-3, -1e-6), 0.5: (8e-2, -4e-2), 0.3: (-0.12, -0.56), 0.1: (-7.2, -8.1), 0.03: (-1e2, -1e2)}


def exact(sigma: float) -> float:
    covariance = np.outer(DIRECTION, DIRECTION) + sigma**2 * np.eye(3)
    return float(multivariate_normal(np.zeros(3), covariance).logpdf(ROW))


def linear_log_joint(sigma):
    def log_joint(z, log_q):
        likelihood = dist.Normal(z * DIRECTION, sigma).to_event(1).log_prob(jnp.asarray(ROW))
        return likelihood + dist.Normal(0.0, 1.0).log_prob(z[..., 0]) - log_q

    return log_joint


@pytest.mark.parametrize("order", [1, 2, 5, 64, 256, 512])
def test_rule_integrates_moments(order):
    t, log_w = hermite_rule(order)
    assert np.isclose(np.exp(log_w).sum(), 1, atol=1e-12)
    for power, moment in [(2, 1.0), (4, 3.0), (6, 15.0)]:
        if 2 * order > power:
            assert np.isclose((np.exp(log_w) * t**power).sum(), moment, rtol=1e-9)


@pytest.mark.parametrize("sigma", TABLE)
def test_prior_nodes_fail_as_the_posterior_narrows_and_adapted_nodes_do_not(sigma):
    with jax.enable_x64(True):
        prior = ConstantPrior(1)()
        for order, error in zip((8, 16), TABLE[sigma], strict=True):
            value = GaussHermite(order)(prior, linear_log_joint(sigma), LogMeanExp())
            assert float(value[0]) - exact(sigma) == pytest.approx(error, rel=0.5)
        precision = 1 + DIRECTION @ DIRECTION / sigma**2
        mean = DIRECTION @ ROW / sigma**2 / precision
        posterior = dist.Normal(jnp.array([[mean]]), precision**-0.5).to_event(1)
        value = GaussHermite(8)(posterior, linear_log_joint(sigma), LogMeanExp())
        assert float(value[0]) == pytest.approx(exact(sigma), abs=1e-10)


def test_probit_closed_form():
    """∫ Φ(a + b z) φ(z) dz = Φ(a / √(1 + b²))."""
    a, b = 0.3, 1.7
    with jax.enable_x64(True):
        log_phi = lambda z, log_q: jax.scipy.stats.norm.logcdf(a + b * z[..., 0])
        value = GaussHermite(64)(ConstantPrior(1)(), log_phi, LogMeanExp())
    assert float(jnp.exp(value[0])) == pytest.approx(norm.cdf(a / np.sqrt(1 + b**2)), abs=1e-10)
    assert float(jnp.exp(value[0])) == pytest.approx(0.5604483489935432, abs=1e-10)


def test_gradient_is_fishers_identity():
    """d/da log Φ(a/√(1+b²)) from the nodes equals the closed form."""
    a, b = 0.3, 1.7
    with jax.enable_x64(True):

        def value(a):
            log_phi = lambda z, log_q: jax.scipy.stats.norm.logcdf(a + b * z[..., 0])
            return GaussHermite(64)(ConstantPrior(1)(), log_phi, LogMeanExp())[0]

        slope = jax.grad(value)(a)
    s = np.sqrt(1 + b**2)
    assert float(slope) == pytest.approx(norm.pdf(a / s) / s / norm.cdf(a / s), abs=1e-10)


def gaussians():
    """The same two correlated Gaussians in two forms, and two independent ones."""
    mean = jnp.array([[0.5, -1.0], [0.0, 2.0]])
    root = jnp.array([[[1.0, 0.0], [0.7, 0.5]], [[0.3, 0.0], [-0.2, 2.0]]])
    covariance = root @ jnp.swapaxes(root, 1, 2)
    precision = jnp.moveaxis(jnp.linalg.inv(covariance), 0, -1)
    shift = jnp.einsum("ijb,bj->ib", precision, mean)
    full = dist.MultivariateNormal(mean, scale_tril=root)
    return {
        "covariance": (full, mean, covariance),
        "precision": (PrecisionGaussian.from_precision(precision, shift), mean, covariance),
        "independent": (
            dist.Normal(mean, jnp.array([[1.0, 2.0], [0.5, 0.1]])).to_event(1),
            mean,
            jnp.stack([jnp.diag(jnp.array([1.0, 4.0])), jnp.diag(jnp.array([0.25, 0.01]))]),
        ),
    }


@pytest.mark.parametrize("form", ["covariance", "precision", "independent"])
def test_nodes_are_placed_with_their_densities(form):
    with jax.enable_x64(True):
        q, mean, covariance = gaussians()[form]
        z, log_q, log_nodes = GaussHermite(4).placed(q)
        assert z.shape == (16, 2, 2)
        weights = np.exp(log_nodes)
        assert np.allclose(np.einsum("k,kbi->bi", weights, z), mean, atol=1e-12)
        centred = np.asarray(z) - mean
        assert np.allclose(np.einsum("k,kbi,kbj->bij", weights, centred, centred), covariance, atol=1e-12)
        for row in range(2):
            density = multivariate_normal(mean[row], covariance[row]).logpdf(z[:, row])
            assert np.allclose(log_q[:, row], density, atol=1e-10)


def test_nodes_of_the_prior_are_shared_by_rows():
    z, log_q, _ = QuasiMonteCarlo(8).placed(ConstantPrior(3)(), key=jax.random.key(0))
    assert z.shape == (8, 1, 3)
    assert log_q.shape == (8, 1)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_quasi_monte_carlo_is_unbiased_and_better_than_monte_carlo(precision):
    """E exp(z₁ z₂ / 4) = (1 − 1/16)^(−1/2); 64 keys give the error of the mean."""
    with jax.enable_x64(precision == "float64"):
        prior, truth = ConstantPrior(2)(), -0.5 * np.log(15 / 16)
        keys = jax.random.split(jax.random.key(1), 64)

        def errors(nodes):
            def one(key):
                return nodes(prior, lambda z, _: 0.25 * z[..., 0] * z[..., 1], LogMeanExp(), key=key)[0]

            return np.exp(np.asarray(jax.vmap(one)(keys), np.float64) - truth) - 1

        quasi, plain = errors(QuasiMonteCarlo(512)), errors(MonteCarlo(512))
    assert len(np.unique(quasi)) == 64
    assert abs(quasi.mean()) < 4 * quasi.std(ddof=1) / 8
    assert quasi.std() < plain.std() / 3


def test_quasi_monte_carlo_is_finite_in_float32():
    points = [QuasiMonteCarlo(2**14).standard(4, jnp.float32, key=jax.random.key(k))[0] for k in range(4)]
    values = np.concatenate([np.asarray(p) for p in points])
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 5.6
    assert np.allclose(values.std(axis=0), 1, atol=0.01)


def test_mean_over_adapted_nodes_is_an_expectation_under_q():
    with jax.enable_x64(True):
        q = dist.Normal(jnp.array([[0.4]]), 1.3).to_event(1)
        value = GaussHermite(40)(q, lambda z, _: jnp.sin(z[..., 0]) ** 2, Mean())
    truth = quad(lambda z: np.sin(z) ** 2 * norm.pdf(z, 0.4, 1.3), -12, 12)[0]
    assert float(value[0]) == pytest.approx(truth, abs=1e-10)


def test_what_cannot_be_done_is_refused():
    laplace = dist.Laplace(jnp.zeros(2), 1.0).to_event(1)
    with pytest.raises(DataError, match="need a Gaussian"):
        place(laplace, jnp.zeros((3, 2)))
    with pytest.raises(DataError, match="power of two"):
        QuasiMonteCarlo(1000)
    with pytest.raises(DataError, match="at least 1"):
        GaussHermite(0)
    with pytest.raises(DataError, match="use fewer nodes"):
        GaussHermite(64).standard(4, jnp.float32)
    with pytest.raises(DataError, match="needs a key"):
        QuasiMonteCarlo(8)(ConstantPrior(1)(), lambda z, _: z[..., 0], Mean())
