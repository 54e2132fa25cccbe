"""Null and baseline rows against closed forms, direct simulation and recomputed tables."""

import numpy as np
import pytest

from identica.errors import DataError
from identica.evaluation.baselines import best_linear, chance, rotation_null, u_only
from identica.metrics import mcc


@pytest.mark.parametrize(
    ("n", "rows", "value"), [(5, 64, 0.178), (5, 500, 0.064), (5, 2000, 0.032), (20, 100, 0.20)]
)
def test_chance_equals_the_recomputed_table(n, rows, value):
    assert chance(n, rows).mean == pytest.approx(value, abs=0.004)


def test_chance_equals_direct_simulation_for_few_rows():
    rng = np.random.default_rng(0)
    scores = [mcc(rng.standard_normal((12, 3)), rng.standard_normal((12, 3))) for _ in range(1500)]
    null = chance(3, 12, draws=1500)
    assert null.mean == pytest.approx(np.mean(scores), abs=0.015)
    assert null.upper == pytest.approx(np.quantile(scores, 0.95), abs=0.02)


def test_chance_of_one_component_is_the_mean_absolute_correlation():
    assert chance(1, 400, draws=4000).mean == pytest.approx(np.sqrt(2 / (np.pi * 400)), rel=0.04)


@pytest.mark.parametrize(
    ("n", "mean", "upper"),
    [(2, 0.90, 0.999), (3, 0.83, 0.96), (5, 0.73, 0.84), (10, 0.59, 0.65), (20, 0.47, 0.50)],
)
def test_rotation_null_equals_the_recomputed_table(n, mean, upper):
    s = np.random.default_rng(n).standard_normal((4000, n))
    null = rotation_null(s)
    assert null.mean == pytest.approx(mean, abs=0.02)
    assert null.upper == pytest.approx(upper, abs=0.025)


def test_rotation_null_of_correlated_sources_equals_rotating_the_data():
    rng = np.random.default_rng(1)
    u = np.repeat([0, 1], 1500)
    s = rng.standard_normal((3000, 3)) @ np.array([[1, 0.8, 0], [0, 1, 0.5], [0, 0, 1.0]])
    values, vectors = np.linalg.eigh(np.cov(s.T))
    white = (s - s.mean(0)) @ (vectors / np.sqrt(values)) @ vectors.T
    scores = []
    for _ in range(300):
        q, r = np.linalg.qr(rng.standard_normal((3, 3)))
        scores.append(mcc(s, white @ (q * np.sign(np.diag(r)))))
    # Whitening by covariance and by correlation differ; under a Haar rotation only their product matters.
    assert rotation_null(s, draws=600).mean == pytest.approx(np.mean(scores), abs=0.02)
    shifted = s + 50 * u[:, None]
    assert rotation_null(shifted, within=u).mean == pytest.approx(rotation_null(s, within=u).mean, abs=1e-6)


def test_u_only_equals_the_root_of_the_explained_variance():
    rng = np.random.default_rng(2)
    means = rng.uniform(-5, 5, (40, 5))
    u = np.repeat(np.arange(40), 1000)
    s = means[u] + rng.uniform(0.5, 3, (40, 5))[u] * rng.standard_normal((40000, 5))
    conditional = np.stack([s[u == k].mean(0) for k in range(40)])
    expected = np.sqrt(conditional.var(0) / s.var(0)).mean()  # equal segment sizes
    assert u_only(s, u) == pytest.approx(expected, abs=1e-12)
    assert u_only(s, u.astype(str)) == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(0.83, abs=0.03)
    assert u_only(s, u, fit_rows=np.arange(40000) % 2 == 0) == pytest.approx(expected, abs=0.01)
    assert u_only(s, np.zeros(40000)) == 0.0


def test_best_linear_equals_the_multiple_correlation():
    rng = np.random.default_rng(3)
    s = rng.standard_normal((500, 2))
    x = np.tanh(s @ rng.standard_normal((2, 4))) + 0.3 * rng.standard_normal((500, 4)) + 7
    design = np.column_stack([np.ones(500), x])
    expected = np.sqrt(1 - (s - design @ np.linalg.lstsq(design, s, rcond=None)[0]).var(0) / s.var(0)).mean()
    assert best_linear(x, s) == pytest.approx(expected, abs=1e-12)
    assert best_linear(x * [1e-6, 1, 1e6, 1], s) == pytest.approx(expected, abs=1e-9)
    assert best_linear(s @ [[2.0, 1.0], [0.0, 3.0]], s) == pytest.approx(1.0)
    # Held out, pure noise does not look like skill.
    noise = rng.standard_normal((60, 25))
    assert best_linear(noise, s[:60]) > 0.5
    assert abs(best_linear(noise, s[:60], fit_rows=np.arange(40))) < 0.4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: chance(0, 10), "n >= 1"),
        (lambda: chance(2, 2), "N >= 3"),
        (lambda: rotation_null(np.ones((10, 2))), "constant"),
        (lambda: rotation_null(np.repeat(np.arange(10.0)[:, None], 2, axis=1)), "dependent"),
        (lambda: best_linear(np.ones((4, 1)), np.ones((5, 1))), "5 rows where 4"),
        (lambda: u_only(np.full((4, 1), np.nan), [0, 0, 1, 1]), "NaN"),
    ],
)
def test_wrong_input_is_explained(call, words):
    with pytest.raises(DataError, match=words):
        call()
