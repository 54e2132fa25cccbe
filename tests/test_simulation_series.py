"""Scenarios pcl, gcl, hmm and pi-vae: their laws, and recomputed baselines from other code."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import kurtosis

from identica.errors import DataError
from identica.simulation import scenario_options, simulate
from identica.simulation.mixings import LayeredMixing
from identica.simulation.oracle import best_linear


def before(X):
    """The row before each row, zeros before the first."""
    return np.vstack([np.zeros_like(X[:1]), X[:-1]])


# ---- pcl


def test_pcl_sources_are_laplace_innovations_smoothed():
    data = simulate("pcl", seed=0, n_components=4, n_segments=50, n_per_segment=1000)
    np.testing.assert_allclose(data.S.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(data.S.std(0), 1)
    innovations = data.S[1:] - 0.7 * data.S[:-1]
    for lag in (1, 2, 5):
        products = (data.S[lag:] * data.S[:-lag]).mean(0)
        np.testing.assert_allclose(products, 0.7**lag, atol=0.03)  # standard error about 0.008
        np.testing.assert_allclose((innovations[lag:] * innovations[:-lag]).mean(0), 0, atol=0.02)
    np.testing.assert_allclose(innovations.var(0), 0.51, rtol=0.05)
    np.testing.assert_allclose(kurtosis(innovations), 3, atol=0.6)  # that of a Laplace law
    np.testing.assert_allclose(kurtosis(simulate("pcl", seed=0, base="gaussian").S[::7, :3]), 0, atol=0.2)
    with pytest.raises(DataError, match="no option 'noise'"):
        simulate("pcl", seed=0, noise=0.1)


@pytest.mark.parametrize(("layers", "expected"), [(1, 1.0), (2, 0.822), (3, 0.702), (5, 0.561)])
def test_pcl_best_linear_by_depth(layers, expected):
    values = [simulate("pcl", seed=seed, layers=layers, n_segments=16).best_linear() for seed in range(3)]
    assert np.mean(values) == pytest.approx(expected, abs=0.03)


# ---- gcl


def test_gcl_is_driven_by_its_sources():
    data = simulate("gcl", seed=1, n_components=5, n_segments=20, n_per_segment=100)
    np.testing.assert_allclose(data.mixing.inverse(data.X), data.S, atol=1e-9)
    # Row by row from the row before, as the recursion says.
    past, present = data.mixing.matrices[0][:5], data.mixing.matrices[0][5:]
    x = before(data.X) @ past + data.S @ present
    for matrix in data.mixing.matrices[1:]:
        x = np.where(x > 0, x, 0.2 * x) @ matrix
    np.testing.assert_allclose(x, data.X, atol=1e-12)
    assert np.abs(data.X).max() < 100
    bound = np.sqrt(6 / ((1 + 0.2**2) * 10))
    assert 0.9 * bound < np.abs(data.mixing.matrices[0]).max() <= bound


def test_gcl_innovations_follow_their_law():
    # Windows of 4000 rows, two slow waves: mean and variance can be read off, and stay within the published range.
    data = simulate("gcl", seed=2, n_components=2, n_segments=25, n_per_segment=4000, n_frequencies=2)
    windows = data.S.reshape(25, 4000, 2)
    means, variances = windows.mean(1), windows.var(1)
    assert -1.1 < means.min() < -0.7
    assert 0.7 < means.max() < 1.1
    low, high = np.exp(-2) / 2, np.exp(2) / 2
    assert 0.9 * low < variances.min() < 2 * low
    assert 0.5 * high < variances.max() < 1.2 * high
    with pytest.raises(DataError, match="frequencies"):
        simulate("gcl", seed=0, n_segments=2, n_per_segment=10)


@pytest.mark.parametrize(("layers", "expected"), [(1, 1.0), (2, 0.791), (3, 0.658)])
def test_gcl_best_linear_by_depth(layers, expected):
    values = []
    for seed in range(3):
        data = simulate("gcl", seed=seed, layers=layers, n_segments=16)
        values.append(best_linear(np.hstack([data.X, before(data.X)]), data.S))
    assert np.mean(values) == pytest.approx(expected, abs=0.03)


# ---- hmm


def test_hmm_states_persist_and_move_on():
    data = simulate("hmm", seed=0)
    steps = np.diff(data.u) % 11
    assert set(steps.tolist()) == {0, 1}
    assert steps.mean() == pytest.approx(0.01, abs=0.001)  # standard error 0.0003
    means, scales = data.law.means, data.law.scales
    np.testing.assert_allclose(np.linalg.norm(means, axis=1), 1)
    assert 0.95 < pdist(means).min() < 1.08  # the best of 100 000 was 1.00 ± 0.015 in other code
    assert 0.001 < (scales**2).min() < (scales**2).max() < (pdist(means).min() / 3.92) ** 2
    for state in range(11):
        rows = data.S[data.u == state]
        np.testing.assert_allclose(rows.mean(0), means[state], atol=0.02)
        np.testing.assert_allclose(rows.std(0), scales[state], rtol=0.1)
    with pytest.raises(DataError, match="n_segments > 2 n_components = 10"):
        simulate("hmm", seed=0, n_segments=10)


def test_hmm_mixing_has_offsets_and_unit_rows():
    mixing = simulate("hmm", seed=0, n_rows=10, layers=2).mixing
    first, second = mixing.matrices
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1)
    z = np.random.default_rng(0).standard_normal((20, 5))
    hidden = z @ first + mixing.biases[0]
    expected = np.where(hidden > 0, hidden, 0.1 * hidden) @ second + mixing.biases[1]
    np.testing.assert_allclose(mixing(z), expected)
    without = LayeredMixing(mixing.matrices, mixing.activation)
    assert not np.allclose(mixing(z), without(z))


def test_hmm_baselines_equal_what_was_recomputed_elsewhere():
    linear, states = {}, []
    for layers in (1, 4):
        drawn = [simulate("hmm", seed=seed, layers=layers, n_rows=20_000) for seed in range(8)]
        linear[layers] = np.mean([data.best_linear() for data in drawn])
        states = [data.u_only() for data in drawn]
    assert linear[1] == pytest.approx(1)
    assert linear[4] == pytest.approx(0.832, abs=0.045)  # 0.05 between data sets
    assert np.mean(states) == pytest.approx(0.922, abs=0.01)


def test_hmm_has_a_ceiling_given_the_states():
    data = simulate("hmm", seed=0, n_components=2, n_segments=5, n_rows=2000, layers=2, noise=0.3)
    assert data.u_only() < data.ceiling(n_rows=100).value < 1


# ---- pi-vae


def test_pi_vae_sources_lie_around_a_curve():
    data = simulate("pi-vae", seed=0)
    assert data.X.shape == (15_000, 100)
    assert data.u.dtype.kind == "f"
    assert 0 <= data.u.min() < 0.01
    assert 2 * np.pi - 0.01 < data.u.max() < 2 * np.pi
    left = data.S - np.column_stack([data.u, 2 * np.sin(data.u)])
    for low in np.arange(0, 6, 0.5):
        rows = (data.u >= low) & (data.u < low + 0.1)
        height = np.abs(np.sin(low + 0.05))
        # About 240 rows: standard error of a variance 9 %.
        np.testing.assert_allclose(left[rows].var(0), [0.6 - 0.3 * height, 0.3 * height], rtol=0.4)
        assert np.abs(left[rows].mean(0)).max() < 0.2
    fit, held_out = data.split(0.2)
    assert (len(fit), len(held_out)) == (12_000, 3000)


def test_pi_vae_observations_are_poisson_counts():
    data = simulate("pi-vae", seed=1)
    assert data.counts
    assert (np.round(data.X) == data.X).all()
    rates = data.mixing(data.S)
    assert np.exp(-2.2) <= rates.min() < rates.max() <= np.exp(2.2)
    # Mean and variance of a Poisson law equal its rate: standardised counts have mean 0 and variance 1.
    standard = (data.X - rates) / np.sqrt(rates)
    np.testing.assert_allclose(standard.mean(0), 0, atol=0.04)
    np.testing.assert_allclose(standard.var(0), 1, atol=0.12)
    with pytest.raises(DataError, match="Gaussian noise only"):
        data.ceiling()
    # Couplings lose nothing: the rates determine the sources, locally in every direction.
    z, step = data.S[::300], 1e-6
    columns = [(data.mixing(z + step * e) - data.mixing(z - step * e)) / (2 * step) for e in np.eye(2)]
    assert np.linalg.svd(np.stack(columns, axis=-1), compute_uv=False).min() > 1e-3


@pytest.mark.parametrize(
    ("sizes", "linear", "alone"), [({}, 0.876, 0.901), ({"n_segments": 5, "n_rows": 10_000}, 0.891, 0.767)]
)
def test_pi_vae_baselines_equal_what_was_recomputed_elsewhere(sizes, linear, alone):
    def held_out_r2(A, S, fit):
        A = np.column_stack([A, np.ones(len(A))])
        rest = S[~fit] - A[~fit] @ np.linalg.lstsq(A[fit], S[fit], rcond=None)[0]
        return np.mean(1 - (rest**2).mean(0) / S[~fit].var(0))

    drawn = [simulate("pi-vae", seed=seed, **sizes) for seed in range(8)]
    fit = np.random.default_rng(0).random(len(drawn[0].X)) > 0.2
    assert np.mean([held_out_r2(data.X, data.S, fit) for data in drawn]) == pytest.approx(linear, abs=0.025)
    # 0.1 between data sets where the classes are random, hence the tolerance.
    means = [data.law.mean(data.u) if not sizes else data.law.means[data.u] for data in drawn]
    r2 = [held_out_r2(mean, data.S, fit) for mean, data in zip(means, drawn, strict=True)]
    assert np.mean(r2) == pytest.approx(alone, abs=0.06 if sizes else 0.005)
    if not sizes:
        assert drawn[0].u_only() == pytest.approx(np.sqrt(r2[0]), abs=0.01)


def test_wrong_sizes_are_explained():
    for sizes, words in [
        ({"n_components": 3}, "n_components=2"),
        ({"n_features": 7}, "even n_features"),
        ({"n_rows": 1}, "n_rows to be an integer >= 2"),
    ]:
        with pytest.raises(DataError, match=words):
            simulate("pi-vae", seed=0, **sizes)
    assert "noise" in scenario_options("hmm")
    assert "noise" not in scenario_options("gcl")
