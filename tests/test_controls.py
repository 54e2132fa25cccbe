"""Controls: what autoencoders reach, what the adversary sees, and that reports call neither identifiable."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA

from identica import AdversarialICA, Autoencoder
from identica.conditionals import Features
from identica.data import Dataset
from identica.models import AutoencoderModel, FeatureNetwork
from identica.networks import MultilayerPerceptron
from identica.objectives.adversarial import (
    AdversarialReconstruction,
    dependence,
    discriminator_accuracy,
    discriminator_loss,
    shuffled_columns,
)
from identica.report.collect import collect

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = {"max_iter": 30, "n_restarts": 2, "hidden_sizes": (8,), "random_state": 0}


def linear_network(weight, bias) -> MultilayerPerceptron:
    return MultilayerPerceptron((jnp.asarray(weight),), (jnp.asarray(bias),), None)


def test_a_linear_autoencoder_spans_principal_components():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 3)) @ rng.standard_normal((3, 5)) + 0.3 * rng.standard_normal((400, 5))
    Z = (X - X.mean(0)) / X.std(0)
    pca = PCA(2).fit(Z)
    control = Autoencoder(2, validation_fraction=0, **{**QUICK, "hidden_sizes": ()}).fit(X)
    error = ((Z - pca.inverse_transform(pca.transform(Z))) ** 2).mean()
    assert control.reconstruction_error_ == pytest.approx(error, abs=1e-4)
    assert control.score(X) == pytest.approx(-error, abs=1e-4)
    back = control.inverse_transform(control.transform(X))
    np.testing.assert_allclose((((X - back) / X.std(0)) ** 2).mean(), error, atol=1e-4)


def test_a_curve_needs_hidden_layers():
    rng = np.random.default_rng(1)
    t = rng.uniform(-2, 2, 600)
    X = np.c_[t, t**2, np.sin(2 * t)] + 0.01 * rng.standard_normal((600, 3))
    options = {**QUICK, "max_iter": 600, "n_restarts": 1, "hidden_sizes": (16,)}
    curved = Autoencoder(1, **options).fit(X)
    linear = Autoencoder(1, **{**options, "hidden_sizes": ()}).fit(X)
    assert curved.score(X) > -0.2
    assert linear.score(X) < -0.4


@pytest.mark.parametrize("padded", [False, True])
def test_columns_are_permuted_each_by_itself_among_rows_that_count(padded):
    z = jnp.asarray(np.random.default_rng(0).standard_normal((64, 3)))
    weight = None
    counts = np.ones(64, bool)
    if padded:
        counts = np.random.default_rng(1).random(64) < 0.7
        weight = jnp.asarray(counts * 1.0)
    shuffled = np.asarray(shuffled_columns(z, weight, jax.random.key(0)))
    before = np.asarray(z)[counts]
    np.testing.assert_array_equal(np.sort(shuffled[counts], axis=0), np.sort(before, axis=0))
    places = [[int(np.flatnonzero(before[:, i] == v)[0]) for v in shuffled[counts, i]] for i in range(3)]
    assert len({tuple(p) for p in places}) == 3
    assert places[0] != sorted(places[0])


def test_dependence_is_the_squared_distance_correlation():
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal(80), rng.standard_normal(80)
    z = np.c_[a, a**2 + 0.1 * b]
    A, B = (squareform(pdist(c[:, None])) for c in z.T)
    A, B = (D - D.mean(0) - D.mean(1)[:, None] + D.mean() for D in (A, B))
    expected = (A * B).mean() / np.sqrt((A * A).mean() * (B * B).mean())
    assert float(dependence(jnp.asarray(z))) == pytest.approx(expected, rel=1e-4)
    padding = np.r_[z, rng.standard_normal((20, 2))]
    weight = jnp.asarray(np.r_[np.ones(80), np.zeros(20)])
    assert float(dependence(jnp.asarray(padding), weight)) == pytest.approx(expected, rel=1e-4)
    assert float(dependence(jnp.asarray(np.c_[a, 3 * a + 1]))) == pytest.approx(1, abs=1e-5)
    assert float(dependence(jnp.asarray(z[:, :1]))) == 0
    assert float(dependence(jnp.asarray(z[:1]))) == 0
    assert float(dependence(jnp.asarray(np.c_[a, np.ones(80)]))) == 0


def test_the_best_discriminator_of_gaussians_has_the_loss_that_quadrature_gives():
    """z ~ N(0, [[1, r], [r, 1]]): log p(z) − log p(z1) p(z2) is the best log-odds, on a grid too."""
    r = 0.8
    grid = np.linspace(-7, 7, 401)
    one, other = np.meshgrid(grid, grid, indexing="ij")
    log_odds = -0.5 * np.log(1 - r**2) + r / (1 - r**2) * (one * other - 0.5 * r * (one**2 + other**2))
    product = np.exp(-0.5 * (one**2 + other**2)) / (2 * np.pi)
    joint = product * np.exp(log_odds)
    cell = (grid[1] - grid[0]) ** 2
    losses = joint * np.logaddexp(0, -log_odds) + product * np.logaddexp(0, log_odds)
    best = 0.5 * losses.sum() * cell
    accuracy = 0.5 * (joint[log_odds > 0].sum() + product[log_odds <= 0].sum()) * cell

    class Best(MultilayerPerceptron):
        def __call__(self, z):
            a, b = z[:, :1], z[:, 1:]
            return -0.5 * jnp.log(1 - r**2) + r / (1 - r**2) * (a * b - 0.5 * r * (a**2 + b**2))

    features = Features(jnp.zeros(2), jnp.eye(2))
    encoder = FeatureNetwork(features, linear_network(np.eye(2), np.zeros(2)))
    model = AutoencoderModel(encoder, linear_network(np.eye(2), np.zeros(2)), Best((), (), None))
    rng = np.random.default_rng(3)
    z = jnp.asarray(rng.multivariate_normal([0, 0], [[1, r], [r, 1]], 100_000))
    assert float(discriminator_loss(model, z, None, jax.random.key(0))) == pytest.approx(best, abs=3e-3)
    assert float(discriminator_accuracy(model, z, None, jax.random.key(1))) == pytest.approx(
        accuracy, abs=3e-3
    )


def test_the_encoder_climbs_what_the_discriminator_descends():
    rng = np.random.default_rng(4)
    x = jnp.asarray(rng.standard_normal((50, 2)) @ np.array([[1.0, 0.7], [0, 0.7]]))

    def network(n, m, key):
        return MultilayerPerceptron.random(n, (5,), m, key=jax.random.key(key))

    features = Features(jnp.zeros(2), jnp.eye(2))
    model = AutoencoderModel(FeatureNetwork(features, network(2, 2, 0)), network(2, 2, 1), network(2, 1, 2))
    model = jax.tree.map(jnp.asarray, model)
    key = jax.random.key(0)

    def game(m):
        return discriminator_loss(m, m.encoder(x), None, key)

    def error(m):
        return m.errors(x).mean()

    total = jax.grad(lambda m: AdversarialReconstruction(0.3)(m, Dataset(x), key=key)[0])(model)
    of_game, of_error = jax.grad(game)(model), jax.grad(error)(model)

    def close(a, b):
        np.testing.assert_allclose(a, b, atol=1e-6)

    jax.tree.map(close, total.discriminator, of_game.discriminator)
    jax.tree.map(close, total.decoder, of_error.decoder)
    descended = jax.tree.map(lambda e, g: e - 0.3 * g, of_error.encoder.network, of_game.encoder.network)
    jax.tree.map(close, total.encoder.network, descended)
    assert max(float(jnp.abs(w).max()) for w in of_game.encoder.network.weights) > 1e-3


@pytest.mark.slow
def test_the_adversary_makes_dependent_columns_independent():
    rng = np.random.default_rng(5)
    S = rng.uniform(-1, 1, (3000, 2))
    X = np.c_[S[:, 0] + 0.4 * S[:, 1], S[:, 1] + 0.5 * S[:, 0] ** 2]
    plain = Autoencoder(2, **{**QUICK, "hidden_sizes": (32,)}).fit(X)
    adversarial = AdversarialICA(2, **{**QUICK, "hidden_sizes": (32,), "max_iter": 3000}).fit(X)
    assert plain.dependence_ > 0.02
    assert adversarial.dependence_ < 0.6 * plain.dependence_
    assert abs(adversarial.discriminator_accuracy_ - 0.5) < 0.1
    assert adversarial.reconstruction_error_ < 0.05


@pytest.mark.parametrize("kind", [Autoencoder, AdversarialICA])
def test_reports_say_that_sources_mean_nothing(kind, rows):
    frame = pd.DataFrame(rows.X, columns=["left", "right"])
    control = kind(**QUICK).fit(frame)
    contents = collect(control, frame, pd.Series(rows.u, name="u"))
    findings = {f.name: f for f in contents.findings}
    assert findings["meaning of the latents"].verdict == "warning"
    assert (
        "is not identifiable: these sources are one of endlessly many"
        in findings["meaning of the latents"].text
    )
    assert "agreement of restarts" not in findings
    assert findings["held-out reconstruction"].value == control.reconstruction_error_
    assert contents.scores is None
    from identica.report.write import report_page

    page = " ".join(report_page(contents).split())
    assert "The sources mean nothing: the model is not identifiable." in page
    assert "nats per row" not in page
    assert not hasattr(control, "score_samples")
    with pytest.raises(AttributeError, match=f"{kind.__name__} has no log_likelihood: .*no density"):
        control.log_likelihood(frame)
