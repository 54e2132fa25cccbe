"""Joint diagonalisation against exact solutions, invariances and a general-purpose optimiser."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import wishart

from identica.errors import DataError
from identica.linear import joint_diagonalize, within_segment_covariances


def amari(p):
    """Amari distance of |B A| from a scaled permutation, by its definition."""
    p = np.abs(p)
    n = len(p)
    rows = (p / p.max(1, keepdims=True)).sum(1) - 1
    columns = (p / p.max(0, keepdims=True)).sum(0) - 1
    return (rows.sum() + columns.sum()) / (2 * n * (n - 1))


def criterion(b, covariances, weights):
    """Pham's criterion by its definition, nats."""
    total = 0.0
    for c, w in zip(covariances, weights, strict=True):
        d = b @ c @ b.T
        total += w * (np.log(np.diag(d)).sum() - np.linalg.slogdet(d)[1])
    return total / np.sum(weights)


def exact_family(n, m, seed):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((n, n))
    variances = rng.uniform(0.5, 3, (m, n)) ** 2
    return mixing, np.einsum("ik,uk,jk->uij", mixing, variances, mixing)


@pytest.mark.parametrize(("n", "m"), [(2, 3), (5, 20), (10, 40), (50, 200)])
def test_exact_families_are_recovered_up_to_permutation_and_scale(n, m):
    mixing, covariances = exact_family(n, m, seed=n)
    b = joint_diagonalize(covariances, np.ones(m))
    # The ridge (1e-10 of the mean) is diagonalised by the same matrix, so recovery is to rounding.
    assert amari(b @ mixing) < 1e-7
    np.testing.assert_allclose(np.diag(b @ covariances.mean(0) @ b.T), 1.0, rtol=1e-8)


def test_sampled_covariances_reach_the_optimum_of_a_general_optimiser():
    n, m = 3, 8
    _, truth = exact_family(n, m, seed=1)
    rng = np.random.default_rng(0)
    covariances = np.stack([wishart.rvs(40, c / 40, random_state=rng) for c in truth])
    weights = rng.uniform(1, 3, m)
    b = joint_diagonalize(covariances, weights, tolerance=1e-10)
    result = minimize(
        lambda v: criterion(v.reshape(n, n), covariances, weights), b.ravel() + 0.02, method="BFGS", tol=1e-10
    )
    assert criterion(b, covariances, weights) == pytest.approx(result.fun, abs=1e-7)


def test_criterion_never_increases_with_more_iterations():
    _, truth = exact_family(6, 12, seed=2)
    rng = np.random.default_rng(3)
    covariances = np.stack([wishart.rvs(15, c / 15, random_state=rng) for c in truth])
    weights = np.ones(12)
    values = [
        criterion(joint_diagonalize(covariances, weights, max_iter=k), covariances, weights)
        for k in range(12)
    ]
    assert np.all(np.diff(values) < 1e-10)
    assert values[-1] < values[0] - 0.1


def test_result_does_not_depend_on_basis_scale_or_order_of_segments():
    _, truth = exact_family(4, 10, seed=4)
    rng = np.random.default_rng(5)
    covariances = np.stack([wishart.rvs(60, c / 60, random_state=rng) for c in truth])
    weights = rng.uniform(1, 2, 10)
    b = joint_diagonalize(covariances, weights)
    change = rng.standard_normal((4, 4)) * np.array([[1e3], [1.0], [1e-3], [1.0]])
    order = rng.permutation(10)
    other = joint_diagonalize((change @ covariances @ change.T)[order], 7 * weights[order])
    assert amari(other @ change @ np.linalg.inv(b)) < 1e-6


def test_a_pair_with_proportional_variances_stays_finite_and_the_rest_is_recovered():
    rng = np.random.default_rng(6)
    mixing = rng.standard_normal((4, 4))
    variances = rng.uniform(0.5, 3, (12, 4)) ** 2
    variances[:, 1] = 2 * variances[:, 0]
    b = joint_diagonalize(np.einsum("ik,uk,jk->uij", mixing, variances, mixing), np.ones(12))
    assert np.isfinite(b).all()
    assert np.linalg.cond(b @ mixing) < 1e3
    # Sources 2 and 3 come out alone; 0 and 1 may be mixed with one another only.
    gain = np.abs(b @ mixing)
    gain = gain / gain.max(1, keepdims=True)
    order = np.argsort(gain[:, :2].max(1))
    assert gain[order[:2], :2].max() < 1e-5
    assert gain[order[2:], 2:].max() < 1e-5


def test_short_segments_singular_covariances_stay_finite_and_useful():
    n, m, rows = 10, 400, 6  # fewer rows than channels in every segment
    rng = np.random.default_rng(7)
    mixing = rng.standard_normal((n, n))
    scales = rng.uniform(0.2, 3, (m, n))
    codes = np.repeat(np.arange(m), rows)
    s = scales[codes] * rng.standard_normal((m * rows, n)) + rng.uniform(-5, 5, (m, n))[codes]
    covariances, counts = within_segment_covariances(s @ mixing.T, codes, m)
    assert np.linalg.eigvalsh(covariances).min() > 0
    b = joint_diagonalize(covariances, counts)
    # Random matrices have an Amari distance of about 0.3 at n = 10.
    assert amari(b @ mixing) < 0.08


def test_within_segment_covariances_equal_numpy_without_shrinkage():
    rng = np.random.default_rng(8)
    x = rng.standard_normal((60, 3)) @ rng.standard_normal((3, 3)) + 4
    codes = rng.permutation(np.repeat([0, 1, 3], [30, 29, 1]))
    covariances, counts = within_segment_covariances(x, codes, 5, shrink=False)
    assert counts.tolist() == [30, 29, 0, 1, 0]
    for segment in (0, 1):
        np.testing.assert_allclose(covariances[segment], np.cov(x[codes == segment].T), rtol=1e-12)
    shrunk, _ = within_segment_covariances(x, codes, 5)
    pooled = (29 * covariances[0] + 28 * covariances[1]) / 57
    np.testing.assert_allclose(shrunk[2], pooled, rtol=1e-12)  # nothing known: the pooled covariance
    share = (3 / 32) ** 2
    np.testing.assert_allclose(shrunk[0], (1 - share) * covariances[0] + share * pooled, rtol=1e-12)


def test_fifty_channels_and_many_segments_need_few_iterations():
    mixing, covariances = exact_family(50, 1000, seed=9)
    b = joint_diagonalize(covariances, np.ones(1000), max_iter=15)
    assert amari(b @ mixing) < 1e-7


@pytest.mark.parametrize(
    ("covariances", "weights", "words"),
    [
        (np.eye(3), np.ones(3), "shape"),
        (np.full((2, 3, 3), np.nan), np.ones(2), "finite"),
        (np.stack([np.eye(3)] * 2), np.zeros(2), "positive sum"),
        (np.stack([np.ones((3, 3))] * 2), np.ones(2), "PCA"),
        (-np.stack([np.eye(3)] * 2), np.ones(2), "negative variance"),
    ],
)
def test_wrong_input_is_explained(covariances, weights, words):
    with pytest.raises(DataError, match=words):
        joint_diagonalize(covariances, weights)


@pytest.mark.parametrize(
    ("x", "codes", "m", "words"),
    [
        (np.ones((4, 2)), np.zeros(3, int), 1, "one integer segment code per row"),
        (np.ones((4, 2)), np.array([0, 1, 2, 3]), 3, "0..2"),
        (np.ones((4, 2)), np.zeros(4), 1, "integer"),
        (np.ones((4, 2)), np.arange(4), 4, "two rows"),
        (np.full((4, 2), np.inf), np.zeros(4, int), 1, "finite"),
    ],
)
def test_wrong_segments_are_explained(x, codes, m, words):
    with pytest.raises(DataError, match=words):
        within_segment_covariances(x, codes, m)
