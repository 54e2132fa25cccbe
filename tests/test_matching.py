"""MCC against enumeration of all permutations, SciPy's correlations and known nulls."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ortho_group, pearsonr, spearmanr

from identica import metrics
from identica.errors import DataError

SCIPY = {"pearson": pearsonr, "spearman": spearmanr}


def brute_force(s, s_hat, method):
    """Best mean |correlation| over every injective map between true and estimated columns."""
    n, m = s.shape[1], s_hat.shape[1]
    c = np.array([[abs(SCIPY[method](a, b)[0]) for b in s_hat.T] for a in s.T])
    if m >= n:
        return max(sum(c[i, p[i]] for i in range(n)) for p in permutations(range(m), n)) / n
    return max(sum(c[p[j], j] for j in range(m)) for p in permutations(range(n), m)) / n


def noisy_pair(n, m, rows=80, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.standard_normal((rows, n))
    return s, s @ rng.standard_normal((n, m)) + 0.5 * rng.standard_normal((rows, m)) ** 3


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (4, 4), (2, 5), (5, 2)])
def test_mcc_equals_enumeration(n, m, method):
    s, s_hat = noisy_pair(n, m, seed=10 * n + m)
    s_hat = np.round(s_hat, 1)  # ties, which Spearman must rank by their average
    assert metrics.mcc(s, s_hat, method=method) == pytest.approx(brute_force(s, s_hat, method), abs=1e-12)


def test_permutation_sign_and_scale_do_not_matter():
    s, s_hat = noisy_pair(4, 4, seed=1)
    changed = s_hat[:, [2, 0, 3, 1]] * np.array([-1e-7, 3.0, 1e9, -1.0]) + np.array([0, 5.0, 0, 1e3])
    assert metrics.mcc(s, changed) == pytest.approx(metrics.mcc(s, s_hat), abs=1e-7)
    assert metrics.mcc(s, 1e200 * s) == pytest.approx(1.0)


def test_spearman_ignores_monotone_distortion_and_pearson_does_not():
    s, _ = noisy_pair(3, 3, seed=2)
    assert metrics.mcc(s, np.exp(2 * s), method="spearman") == pytest.approx(1.0)
    assert metrics.mcc(s, np.exp(2 * s)) < 0.8


def test_matching_gives_order_sign_and_one_correlation_per_component():
    s, _ = noisy_pair(3, 3, seed=3)
    found = metrics.match_components(s, s[:, [2, 0, 1]] * [-1, 1, -2])
    assert found.order.tolist() == [1, 2, 0]
    assert found.sign.tolist() == [1, -1, -1]
    np.testing.assert_allclose(found.correlations, 1.0)
    np.testing.assert_allclose(found.apply(s[:, [2, 0, 1]] * [-1, 1, -2]), s * [1, 2, 1])


def test_within_centres_both_tables_by_u_first():
    s, s_hat = noisy_pair(3, 3, rows=120, seed=4)
    labels = np.random.default_rng(5).choice(["rest", "task", "sleep"], 120)
    s = s + 9 * (labels == "task")[:, None]
    centre = [pd.DataFrame(t).groupby(labels).transform("mean").to_numpy() for t in (s, s_hat)]
    expected = brute_force(s - centre[0], s_hat - centre[1], "pearson")
    assert metrics.mcc(s, s_hat, within=labels) == pytest.approx(expected, abs=1e-12)
    numeric = np.unique(labels, return_inverse=True)[1]
    frame = pd.DataFrame({"a": numeric % 2, "b": (numeric // 2).astype(str)})
    assert metrics.mcc(s, s_hat, within=frame) == pytest.approx(expected, abs=1e-12)


def test_an_estimate_that_knows_only_u_scores_pooled_but_not_within():
    rng = np.random.default_rng(6)
    means = rng.uniform(-5, 5, (40, 5))
    u = np.repeat(np.arange(40), 200)
    s = means[u] + rng.uniform(0.5, 3, (40, 5))[u] * rng.standard_normal((8000, 5))
    assert metrics.mcc(s, means[u]) == pytest.approx(0.836, abs=0.03)  # sqrt(Var E[z|u] / Var z)
    assert metrics.mcc(s, means[u], within=u) == 0.0  # exactly constant within u
    assert metrics.mcc(s, means[u], within=u, method="spearman") == 0.0


def test_fit_rows_fix_only_the_assignment_and_the_other_rows_are_scored():
    rng = np.random.default_rng(7)
    s = rng.standard_normal((200, 2))
    s_hat = s.copy()
    s_hat[100:] = -s[100:][:, ::-1]  # order changes half way
    first = np.arange(200) < 100
    cross = np.mean([abs(pearsonr(s[100:, i], s_hat[100:, i])[0]) for i in range(2)])
    assert metrics.mcc(s, s_hat, fit_rows=first) == pytest.approx(cross, abs=1e-12)
    assert cross < 0.3
    assert metrics.mcc(s, s_hat, fit_rows=np.arange(100)) == pytest.approx(cross, abs=1e-12)
    # A sign flip between the halves is not held against the estimate: only the order is fixed.
    flipped = np.where(first[:, None], s, -3 * s)
    assert metrics.mcc(s, flipped, fit_rows=first) == pytest.approx(1.0)


def test_constant_columns_count_zero():
    s, _ = noisy_pair(3, 3, seed=8)
    s_hat = s.copy()
    s_hat[:, 1] = 0.1  # not representable: its mean differs from it by rounding
    found = metrics.match_components(s, s_hat)
    assert found.correlations[1] == 0.0
    assert metrics.mcc(s, s_hat) == pytest.approx(2 / 3)
    assert metrics.mcc(s, np.zeros_like(s), method="spearman") == 0.0
    assert metrics.mcc(np.full((10, 1), 0.3), np.arange(10.0)) == 0.0
    # Long tables, where the sum that gives the mean is itself rounded.
    long = np.random.default_rng(0).standard_normal((200_000, 2))
    assert metrics.mcc(long, np.full_like(long, 0.1)) == 0.0
    u = np.arange(200_000) % 3
    assert metrics.mcc(long, np.stack([0.1 * u, 0.7 - u], axis=1), within=u) == 0.0
    # Little variation around a large value is still variation.
    assert metrics.mcc(s, 1e6 + 1e-3 * s) == pytest.approx(1.0, abs=1e-6)


def test_independence_null_is_reproduced():
    rng = np.random.default_rng(9)
    scores = [metrics.mcc(rng.standard_normal((64, 5)), rng.standard_normal((64, 5))) for _ in range(300)]
    assert np.mean(scores) == pytest.approx(0.178, abs=0.006)


def test_rotation_null_at_two_components_is_reproduced():
    rng = np.random.default_rng(10)
    s = rng.standard_normal((4000, 2))
    scores = [metrics.mcc(s, s @ ortho_group.rvs(2, random_state=rng)) for _ in range(300)]
    assert np.mean(scores) == pytest.approx(2 * np.sqrt(2) / np.pi, abs=0.01)  # mean of max(|cos|, |sin|)


def test_linear_r2_is_the_coefficient_of_determination():
    s, s_hat = noisy_pair(3, 4, rows=300, seed=11)
    design = np.column_stack([np.ones(300), s_hat])
    residual = s - design @ np.linalg.lstsq(design, s, rcond=None)[0]
    assert metrics.linear_r2(s, s_hat) == pytest.approx(1 - np.mean(residual.var(0) / s.var(0)), abs=1e-12)
    assert metrics.linear_r2(s, s @ np.random.default_rng(0).standard_normal((3, 3)) + 2) == pytest.approx(
        1.0
    )
    beta = np.linalg.lstsq(design[:150], s[:150], rcond=None)[0]
    held_out = 1 - ((s[150:] - design[150:] @ beta) ** 2).mean(0) / s[150:].var(0)
    assert metrics.linear_r2(s, s_hat, fit_rows=np.arange(150)) == pytest.approx(held_out.mean(), abs=1e-10)
    assert metrics.linear_r2(np.ones((9, 1)), np.arange(9.0)) == 0.0


def test_amari_distance_is_zero_for_scaled_permutations_and_one_at_most():
    a = np.array([[1.0, 2.0], [0.5, -1.0]])
    assert metrics.amari_distance(np.diag([2.0, -3.0])[[1, 0]] @ np.linalg.inv(a), a) == pytest.approx(
        0, abs=1e-12
    )
    assert metrics.amari_distance(np.ones((3, 3)), np.eye(3)) == pytest.approx(1.0)
    # By hand: rows (1, .5), (.25, 1) give .5 + .25 twice, over 2 n (n - 1) = 4.
    assert metrics.amari_distance(np.array([[1, 0.5], [0.25, 1]]), np.eye(2)) == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("s", "s_hat", "options", "words"),
    [
        (np.ones((5, 2)), np.ones((4, 2)), {}, "4 rows where 5"),
        (np.full((5, 2), np.nan), np.ones((5, 2)), {}, "NaN or infinite in 5 of 5"),
        (np.ones((5, 2)), np.ones((5, 2)), {"method": "rdc"}, "'pearson' or 'spearman'"),
        (np.ones((5, 2, 1)), np.ones((5, 2)), {}, "shape"),
        (np.array([["a"], ["b"]]), np.ones((2, 1)), {}, "real numbers"),
        (np.ones((5, 2)), np.ones((5, 2)), {"within": [0, 0, 1]}, "3 rows"),
        (np.ones((5, 2)), np.ones((5, 2)), {"within": [0, 1, 2, 3, 4]}, "every row has its own"),
        (np.ones((5, 2)), np.ones((5, 2)), {"fit_rows": [0, 9]}, "fit_rows"),
        (np.ones((5, 2)), np.ones((5, 2)), {"fit_rows": [True, False]}, "fit_rows"),
        (np.ones((5, 2)), np.ones((5, 2)), {"fit_rows": np.ones(5, bool)}, "0 to score"),
        (np.ones((1, 2)), np.ones((1, 2)), {}, "two rows"),
    ],
)
def test_wrong_input_is_explained(s, s_hat, options, words):
    with pytest.raises(DataError, match=words):
        metrics.mcc(s, s_hat, **options)


def test_amari_distance_explains_wrong_shapes():
    with pytest.raises(DataError, match="square"):
        metrics.amari_distance(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(DataError, match="zeros"):
        metrics.amari_distance(np.diag([1.0, 0.0]), np.eye(2))
