"""Options of VAE: mixture prior, objectives and gradients, plain networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.linear_model import LinearRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

import identica
from identica import VAE
from identica.conditionals import GaussianMixturePrior
from identica.errors import DataError
from identica.report.collect import collect

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = {"hidden_sizes": (8,), "max_iter": 30, "n_restarts": 1, "random_state": 0}


def clustered(rows=3000, seed=0):
    """Three clusters in two dimensions behind a piecewise affine map to six columns, with noise."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5)), rng.normal(size=(5, 6))
    rng = np.random.default_rng([seed, 1])
    cluster = rng.integers(0, 3, rows)
    z = np.array([[-2.0, 0.0], [2.0, 0.0], [0.0, 2.5]])[cluster] + 0.35 * rng.normal(size=(rows, 2))
    hidden = z @ first
    X = np.where(hidden > 0, hidden, 0.3 * hidden) @ second + 0.15 * rng.normal(size=(rows, 6))
    return X, z, cluster


@pytest.fixture(scope="module")
def mixture_fits():
    X, _, _ = clustered()
    options = {
        "activation": "leaky_relu",
        "hidden_sizes": (16,),
        "max_iter": 1000,
        "n_restarts": 1,
        "random_state": 0,
    }
    return [VAE(2, prior=prior, n_prior_components=3, **options).fit(X) for prior in ("normal", "mixture")]


def test_mixture_prior_is_the_density_that_em_found():
    rng = np.random.default_rng(0)
    z = np.concatenate(
        [rng.multivariate_normal([-2, 0], [[1, 0.5], [0.5, 0.6]], 300), rng.normal([2, 1], 0.4, (200, 2))]
    )
    prior = GaussianMixturePrior.from_rows(z, 2, seed=0, dtype=np.dtype(np.float32))
    reference = GaussianMixture(2, reg_covar=0.01, random_state=0).fit(z)
    rows = jnp.asarray(z[:40], jnp.float32)
    density = sum(
        w * stats.multivariate_normal(m, c).pdf(z[:40])
        for w, m, c in zip(reference.weights_, reference.means_, reference.covariances_, strict=True)
    )
    np.testing.assert_allclose(prior(None).log_prob(rows), np.log(density), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(
        jnp.exp(prior.log_responsibilities(rows)), reference.predict_proba(z[:40]), atol=1e-3
    )
    draws = np.asarray(prior(None).sample(jax.random.key(0), (20_000,)))
    np.testing.assert_allclose(draws.mean(axis=0), z.mean(axis=0), atol=0.08)
    np.testing.assert_allclose(np.cov(draws.T), np.cov(z.T), atol=0.12)


@pytest.mark.slow
def test_mixture_prior_finds_clusters_and_beats_the_normal_one(mixture_fits):
    normal, mixture = mixture_fits
    fresh, z, cluster = clustered(1000, seed=1)
    assert mixture.score(fresh) > normal.score(fresh) + 0.5
    assert mixture.log_likelihood(fresh[:200]).kind == "lower"
    shares = mixture.cluster_probabilities(fresh)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert adjusted_rand_score(cluster, shares.argmax(axis=1)) > 0.97
    # Up to an affine map is what theory promises, and not more.
    design = np.column_stack([mixture.transform(fresh), np.ones(len(z))])
    left = z - design @ np.linalg.lstsq(design, z, rcond=None)[0]
    assert (1 - left.var(axis=0) / z.var(axis=0) > 0.93).all()


@pytest.mark.slow
def test_draws_of_a_mixture_fall_into_its_clusters(mixture_fits):
    X, _ = mixture_fits[1].sample(4000, random_state=0)
    reference, _, cluster = clustered()
    centres = np.stack([reference[cluster == c].mean(axis=0) for c in range(3)])
    nearest = ((X[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_allclose(np.bincount(nearest) / 4000, np.bincount(cluster) / 3000, atol=0.04)


def test_a_saved_mixture_gives_the_same_numbers(mixture_fits, tmp_path):
    X, fitted = clustered()[0][:30], mixture_fits[1]
    fitted.save(tmp_path / "model")
    again = identica.load(tmp_path / "model")
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    np.testing.assert_array_equal(again.cluster_probabilities(X), fitted.cluster_probabilities(X))
    # A row's clusters do not depend on its neighbours.
    np.testing.assert_array_equal(again.cluster_probabilities(X[7:9]), fitted.cluster_probabilities(X)[7:9])


@pytest.mark.slow
def test_reports_say_what_latents_mean(mixture_fits):
    frame = pd.DataFrame(clustered()[0]).rename(columns=str)
    for fitted, value in zip(mixture_fits, ("not determined", "up to an affine map"), strict=True):
        fitted = VAE(**{**fitted.get_params(), "max_iter": 20}).fit(frame)
        found = {f.name: f for f in collect(fitted, frame).findings}
        assert found["meaning of the latents"].value == value


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    noise = np.array([0.3, 0.5, 0.8, 0.4, 0.6])
    return rng.normal(size=(1500, 2)) @ rng.normal(size=(2, 5)) + noise * rng.normal(size=(1500, 5)) + 3


ROADS = [
    {"gradient": "stl"},
    {"gradient": "score"},
    {"divergence": "analytic", "samples": 2},
    {"divergence": "analytic", "gradient": "score", "samples": 4},
    {"objective": "iwae", "gradient": "dreg"},
    {"objective": "iwae", "gradient": "score"},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", ROADS, ids=str)
def test_every_road_leads_to_factor_analysis(options, factors):
    best = FactorAnalysis(2, tol=1e-5, max_iter=5000, svd_method="lapack").fit(factors).score(factors)
    vae = VAE(
        2, hidden_sizes=(), max_iter=2500, n_restarts=1, validation_fraction=0, random_state=0, **options
    ).fit(factors)
    assert best - 0.03 < vae.log_likelihood(factors).value < best + 0.001


@pytest.mark.slow
def test_restarts_of_one_option_set_repeat_themselves(factors):
    options = {"prior": "mixture", "n_prior_components": 2, "gradient": "stl", **QUICK, "n_restarts": 2}
    first, second = (VAE(2, **options).fit(factors) for _ in range(2))
    np.testing.assert_array_equal(first.transform(factors), second.transform(factors))
    # Restarts begin with clusterings and weights of their own.
    assert first.restarts_[0]["held_out"] != first.restarts_[1]["held_out"]


def test_plain_networks_have_no_shortcut_and_start_near_principal_components(factors):
    options = {**QUICK, "hidden_sizes": (64,), "max_iter": 1}
    vae = VAE(2, shortcut=False, activation="tanh", **options).fit(factors)
    decoder, encoder = vae.model_.model.likelihood.network, vae.model_.encoder.network
    assert decoder.shortcut is None
    assert encoder.shortcut is None
    assert decoder.activation == encoder.activation == "tanh"
    matrix = vae.model_.encoder.features.matrix
    np.testing.assert_allclose(matrix, matrix[0, 0] * np.eye(5))
    # After one step, latents and what they say of the columns are those of PCA, but for what hidden units bend.
    standard = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    pca = PCA(2).fit(standard)
    scores, latents = pca.transform(standard), vae.transform(factors)
    explained = LinearRegression().fit(latents, scores).score(latents, scores)
    assert explained > 0.9
    left = ((factors - vae.inverse_transform(latents)) / factors.std(axis=0)).var(axis=0).mean()
    assert left < 1 - 0.8 * pca.explained_variance_ratio_.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior": "mixture", "divergence": "analytic"}, "use divergence='sampled'"),
        ({"objective": "iwae", "divergence": "analytic"}, "use divergence='sampled'"),
        ({"objective": "iwae", "gradient": "stl"}, "use gradient='dreg'"),
        ({"gradient": "dreg"}, "use gradient='stl'"),
        ({"gradient": "stl", "divergence": "analytic"}, "use divergence='sampled'"),
        ({"gradient": "reinforce"}, "gradient must be one of pathwise, stl, dreg, score"),
        ({"divergence": "renyi"}, "divergence must be one of sampled, analytic"),
        ({"prior": "mixture", "n_prior_components": 0}, "n_prior_components must be a whole number"),
        ({"prior": "mixture", "n_prior_components": 5000}, "take fewer clusters"),
        ({"activation": "sine"}, "activation must be one of"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"learning_rate": -1.0}, "learning_rate must be a positive number"),
        ({"samples": 0}, "samples must be a whole number"),
        ({"likelihood": "poisson", "noise": "isotropic"}, "needs counts|has no meaning"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, factors):
    with pytest.raises(ValueError, match=message):
        VAE(2, **{**QUICK, **options}).fit(factors)


def test_clusters_need_a_mixture(mixture_fits):
    with pytest.raises(DataError, match="fit VAE\\(prior='mixture'\\)"):
        mixture_fits[0].cluster_probabilities(clustered()[0][:5])
