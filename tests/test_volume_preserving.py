"""Volume-preserving flows: constant determinant, noise told from sources, and the number of sources found."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import identica
from identica import FlowICA
from identica.metrics import mcc
from identica.networks import VolumePreservingNetwork
from identica.networks.volume_preserving import volume_preserving_parameters
from identica.report import learned
from identica.report.collect import collect

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def incompressible(seed: int, n: int, d: int, segments: int, per: int, layers: int, gain: float = 1.0):
    """n Gaussian sources with means and scales of their own per segment and d − n stationary noises, behind
    rotations and additive couplings, whose Jacobian determinant is 1."""
    rng = np.random.default_rng(seed)
    u = np.repeat(np.arange(segments), per)
    mean, sd = rng.uniform(-3, 3, (segments, n)), rng.uniform(0.3, 2, (segments, n))
    S = mean[u] + sd[u] * rng.standard_normal((len(u), n))
    x, half = np.concatenate([S / S.std(0), rng.standard_normal((len(u), d - n))], axis=1), d // 2
    for _ in range(layers):
        x = x @ np.linalg.qr(rng.standard_normal((d, d)))[0]
        inner = np.tanh(
            x[:, :half] @ rng.standard_normal((half, 16)) / half**0.5 + rng.standard_normal(16) / 2
        )
        x[:, half:] += gain * inner @ rng.standard_normal((16, d - half)) / 4
    order = rng.permutation(len(u))
    return (x @ np.linalg.qr(rng.standard_normal((d, d)))[0])[order], u[order], S[order]


@pytest.fixture(scope="module")
def made():
    return incompressible(0, 1, 3, 6, 150, 1, gain=0.7)


@pytest.fixture(scope="module")
def fitted(made):
    X, u, _ = made
    return FlowICA(
        volume="preserving", hidden_sizes=(8, 8), max_iter=250, n_restarts=2, random_state=0, prior="gaussian"
    ).fit(X, u=u)


@pytest.mark.parametrize("n", [2, 5])
def test_the_determinant_is_the_same_everywhere_and_the_inverse_undoes(n):
    network = VolumePreservingNetwork.random(n, 3, 8, key=jax.random.key(0))
    rng = np.random.default_rng(1)
    network = jax.tree.map(lambda a: (a + 0.3 * rng.standard_normal(a.shape)).astype(np.float32), network)
    x = rng.standard_normal((n, 20)).astype(np.float32)
    _, log_det, back = eqx.filter_jit(lambda f, x: (*f(x), f.inverse(f(x)[0])))(network, x)
    one = jax.jit(jax.vmap(jax.jacfwd(lambda column: network(column[:, None])[0][:, 0])))
    expected = np.linalg.slogdet(np.asarray(one(jnp.asarray(x.T)), np.float64))[1]
    np.testing.assert_allclose(expected, expected[0], atol=1e-3)
    np.testing.assert_allclose(log_det, expected, atol=1e-3)
    np.testing.assert_allclose(back, x, atol=2e-3)
    curved = np.asarray(one(jnp.asarray(x.T))).std(0).max()
    assert curved > 0.03, "the map is far from linear"
    count = sum(leaf.size for leaf in jax.tree.leaves(network))
    assert count == volume_preserving_parameters(n, 3, 8)


def test_the_source_is_found_among_the_noise(made, fitted):
    X, u, S = made
    assert fitted.n_components_ == 1
    held = fitted.held_out_rows_
    found = fitted.transform(X)
    assert found.shape == (900, 1)
    assert mcc(S[held], found[held]) > 0.95
    gains, errors = fitted.modulation_gains_
    assert gains.shape == (3,)
    assert gains[0] > 0.2
    assert (np.abs(gains[1:]) < 0.05).all()
    assert (errors > 0).all()
    # The gain, by the definition: means and variances of segments against those of all rows.
    from scipy.stats import norm

    own = fitted.fit_rows_
    z = found[:, 0]
    # Moments of segments are pulled toward those of all rows with the weight of one row.
    pooled = np.array([z[own].mean(), (z[own] ** 2).mean()])
    rows = [z[own][u[own] == k] for k in range(6)]
    moments = np.array([(np.array([r.sum(), (r**2).sum()]) + pooled) / (len(r) + 1) for r in rows])
    centre, spread = moments[:, 0], np.sqrt(moments[:, 1] - moments[:, 0] ** 2)
    direct = norm.logpdf(z[held], centre[u[held]], spread[u[held]])
    direct = direct - norm.logpdf(z[held], z[own].mean(), z[own].std())
    assert gains[0] == pytest.approx(direct.mean(), abs=1e-3)


def test_noise_has_one_density_for_all_u_and_the_density_of_x_is_whole(made, fitted):
    X, _, _ = made
    natural = np.asarray(fitted.model_.prior.natural(jnp.arange(6)))
    noise = np.abs(np.asarray(fitted.model_.orientation.weight))[1:].argmax(1)
    np.testing.assert_array_equal(natural[:, noise], natural[:1, noise].repeat(6, 0))
    # Importance sampling from a wide Gaussian: the density integrates to 1.
    rng = np.random.default_rng(0)
    cov, centre = 2.5 * np.cov(X.T), X.mean(0)
    draws = rng.multivariate_normal(centre, cov, 40_000)
    from scipy.stats import multivariate_normal

    weights = np.exp(fitted.score_samples(draws) - multivariate_normal(centre, cov).logpdf(draws))
    assert weights.mean() == pytest.approx(1, abs=4 * weights.std() / 200)


def test_draws_resemble_the_data_and_the_inverse_has_noise_at_its_mean(made, fitted):
    X, _, _ = made
    drawn, S = fitted.sample(5000, random_state=0)
    assert drawn.shape == (5000, 3)
    assert S.shape == (5000, 1)
    np.testing.assert_allclose(drawn.std(0), X.std(0), rtol=0.15)
    np.testing.assert_allclose(fitted.transform(drawn), S, atol=1e-3)
    back = fitted.inverse_transform(S[:50])
    assert back.shape == (50, 3)
    np.testing.assert_allclose(fitted.transform(back), S[:50], atol=1e-3)


def test_a_saved_model_has_the_same_sources_and_the_report_names_the_noise(made, fitted, tmp_path):
    X, u, _ = made
    fitted.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    np.testing.assert_array_equal(again.score_samples(X, u=u), fitted.score_samples(X, u=u))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X has feature names")
        contents = collect(fitted, pd.DataFrame(X, columns=list("abc")), u)
    finding = next(f for f in contents.findings if f.name == "directions of noise")
    assert finding.value == 2
    assert contents.sources.shape == (900, 1)
    assert learned.noise_directions(None, 1, True) is None
    thin = learned.noise_directions(np.array([[0.5, 0.4], [0.01, 0.01]]), 1, False)
    assert thin is not None
    assert thin.verdict == "warning"


@pytest.mark.slow
def test_with_a_continuous_u_noise_does_not_depend_on_it():
    rng = np.random.default_rng(0)
    u = rng.uniform(-1, 1, 600)
    # Scales change as well: means alone would leave rotations of source and noise (proposition 1 of iVAE).
    S = 2 * np.sin(3 * u) + np.exp(u - 0.7) * rng.standard_normal(600)
    X = np.stack([S, *rng.standard_normal((2, 600))], axis=1) @ rng.standard_normal((3, 3))
    ica = FlowICA(
        volume="preserving", hidden_sizes=(), prior="gaussian", max_iter=300, n_restarts=2, random_state=0
    )
    ica.fit(X, u=u)
    assert ica.n_components_ == 1
    assert mcc(S[:, None], ica.transform(X)) > 0.98
    natural = np.asarray(ica.model_.prior.natural(jnp.linspace(-1, 1, 5)[:, None]))
    noise = np.abs(np.asarray(ica.model_.orientation.weight))[1:].argmax(1)
    np.testing.assert_array_equal(natural[:, noise], natural[:1, noise].repeat(5, 0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"volume": "kept"}, "'free' or 'preserving'"),
        ({"hidden_sizes": (8, 4)}, "equal size"),
        ({"validation_fraction": 0}, "set n_components"),
        ({"n_components": 4}, "3"),
    ],
)
def test_options_that_cannot_be_are_refused(made, options, said):
    X, u, _ = made
    with pytest.raises(ValueError, match=said):
        FlowICA(**{"volume": "preserving", "max_iter": 1, **options}).fit(X, u=u)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "n", "d"), [(1, 2, 4), (2, 5, 10), (3, 3, 8)])
def test_the_number_of_sources_and_the_sources_are_recovered(seed, n, d):
    X, u, S = incompressible(seed, n, d, 20, 500, 4)
    fit, held = np.arange(8000), np.arange(8000, 10000)
    ica = FlowICA(volume="preserving", n_restarts=4, random_state=0).fit(X[fit], u=u[fit])
    assert ica.n_components_ == n
    score = mcc(S[held], ica.transform(X[held]))
    print(f"seed {seed}, {n} of {d}: {score:.4f}, gains {ica.modulation_gains_[0].round(3)}")
    assert score >= 0.95
