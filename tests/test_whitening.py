"""Whitening and its density, against SciPy's multivariate normal and scikit-learn's PCA."""

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

from identica.errors import DataError
from identica.linear.whitening import Whitening, column_scale, round_to_grid

GRID = 2.0**-14


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.2, 0.0], [0.5, 1.0, 0.3], [0.0, -0.4, 0.6]])
    return rng.standard_t(6, (500, 3)) @ mixing.T * [3.0, 0.01, 700.0] + [5.0, -2.0, 1e4]


def test_scores_are_white(x):
    scores = Whitening.from_rows(x, None).scores(x)
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(np.cov(scores.T, bias=True), np.eye(3), atol=1e-4)  # the grid


@pytest.mark.parametrize("n", [1, 2, 3])
def test_density_of_gaussian_scores_is_the_multivariate_normal_in_the_users_units(x, n):
    whitening = Whitening.from_rows(x, n)
    log_p = stats.norm.logpdf(whitening.scores(x)).sum(1) + whitening.log_density_of_the_rest(x)
    expected = stats.multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(x)
    np.testing.assert_allclose(log_p, expected, atol=2e-3)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_inverse_is_the_projection_of_principal_component_analysis(x, n):
    whitening = Whitening.from_rows(x, n)
    standard = stats.zscore(x, axis=0)
    pca = PCA(n).fit(standard)
    expected = pca.inverse_transform(pca.transform(standard)) * x.std(0) + x.mean(0)
    scale = x.std(0)
    np.testing.assert_allclose(whitening.inverse(whitening.scores(x)) / scale, expected / scale, atol=1e-3)
    if n == 3:
        np.testing.assert_allclose(whitening.inverse(whitening.scores(x)) / scale, x / scale, atol=1e-9)


@pytest.mark.parametrize(
    ("factor", "shift"),
    [(1e6, 1e5), (1e-6, -3.0), ([1e-3, 1.0, 1e4], [1e5, -1e5, 0.0]), (1e-200, 0.0), (1e200, 0.0)],
)
def test_what_training_sees_does_not_depend_on_units_and_offsets(x, factor, shift):
    units = x * np.asarray(factor) + np.asarray(shift)
    one, other = Whitening.from_rows(x, None), Whitening.from_rows(units, None)
    # Bit for bit, but for values that lie on the border between two points of the grid.
    differ = one.standardize(x, grid=True) != other.standardize(units, grid=True)
    assert differ.mean() < 2e-3
    np.testing.assert_allclose(one.scores(x), other.scores(units), atol=1e-4)


def test_powers_of_two_change_not_a_single_bit(x):
    one, other = Whitening.from_rows(x, None), Whitening.from_rows(x * 2.0**40, None)
    np.testing.assert_array_equal(one.scores(x, grid=True), other.scores(x * 2.0**40, grid=True))


def test_values_near_the_largest_float_neither_overflow_nor_lose_their_density():
    x = np.random.default_rng(0).standard_normal((200, 2))
    one, huge = Whitening.from_rows(x, None), Whitening.from_rows(1e200 * x, None)
    np.testing.assert_allclose(huge.scores(1e200 * x), one.scores(x), atol=1e-4)
    shift = huge.log_density_of_the_rest(1e200 * x) - one.log_density_of_the_rest(x)
    np.testing.assert_allclose(shift, -2 * 200 * np.log(10), rtol=1e-6)


def test_a_large_offset_keeps_the_small_spread():
    small = np.random.default_rng(0).integers(0, 1000, (400, 1)) / 1024
    center, scale = column_scale(small + 2.0**30)  # exactly representable
    assert scale[0] == pytest.approx(small.std(), rel=1e-6)
    assert center[0] == pytest.approx(2.0**30 + small.mean(), rel=1e-15)


def test_dependent_columns_lower_the_rank_and_too_many_components_are_refused(x):
    more = np.column_stack([x, x[:, 0] / 3.0 - x[:, 2], x[:, 1]])
    assert (
        Whitening.from_rows(more, None).n_components == np.linalg.matrix_rank(stats.zscore(more, axis=0)) == 3
    )
    with pytest.raises(DataError, match="n_components=4, but X has only 3 linearly independent columns of 5"):
        Whitening.from_rows(more, 4)
    whitening = Whitening.from_rows(more, 3)
    np.testing.assert_allclose(
        whitening.inverse(whitening.scores(more)) / more.std(0), more / more.std(0), atol=1e-3
    )
    assert np.isfinite(whitening.log_density_of_the_rest(more)).all()


def test_a_small_independent_direction_is_kept():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(500)
    nearly = np.column_stack([base, base + 0.01 * rng.standard_normal(500)])
    whitening = Whitening.from_rows(nearly, None)
    assert whitening.n_components == 2
    np.testing.assert_allclose(np.cov(whitening.scores(nearly).T, bias=True), np.eye(2), atol=5e-3)


def test_arrays_hold_the_whole_state(x):
    one = Whitening.from_rows(x, 2)
    again = Whitening.from_arrays(one.to_arrays())
    assert again.n_components == 2
    np.testing.assert_array_equal(one.scores(x), again.scores(x))


def test_rounding_moves_by_half_a_grid_step_at_most():
    values = np.random.default_rng(0).standard_normal(1000)
    rounded = round_to_grid(values)
    assert np.abs(rounded - values).max() <= GRID / 2
    np.testing.assert_array_equal(rounded / GRID, np.round(rounded / GRID))
