"""Held-out rows, gross spikes and the data set, against direct counts, SciPy and NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from identica.data import Dataset, gross_rows, held_out_split, interleaved, mean_over_rows
from identica.errors import DataError


def split(n_rows, fraction, seed=0, **kwargs):
    return held_out_split(n_rows, fraction, np.random.default_rng(seed), **kwargs)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("sizes", [(50, 50), (5, 5, 5, 5, 5, 5, 5, 5), (3, 100), (40,)])
def test_every_row_is_on_one_side_and_every_segment_lends_its_share(sizes, fraction):
    codes = np.random.default_rng(1).permutation(np.repeat(np.arange(len(sizes)), sizes))
    fit_rows, held_out = split(len(codes), fraction, codes=codes)
    assert sorted([*fit_rows, *held_out]) == list(range(len(codes)))
    lent = np.bincount(codes[held_out], minlength=len(sizes))
    exact = fraction * np.array(sizes)
    # Never more than the next whole number, never fewer than two rows left to the fit.
    assert (lent <= np.minimum(np.ceil(exact), np.array(sizes) - 2)).all()
    assert (lent >= np.minimum(np.floor(exact), np.array(sizes) - 2)).all()
    if min(sizes) >= 5:
        assert lent.sum() == round(fraction * len(codes))


def test_short_segments_take_turns_in_lending():
    codes = np.repeat(np.arange(40), 5)
    chosen = {tuple(np.unique(codes[split(200, 0.1, seed, codes=codes)[1]])) for seed in range(4)}
    assert len(chosen) == 4
    assert all(len(segments) == 20 for segments in chosen)


def test_every_row_of_a_segment_is_equally_likely_to_be_held_out():
    hits = np.zeros(20)
    for seed in range(600):
        hits[split(20, 0.2, seed)[1]] += 1
    assert stats.chisquare(hits).pvalue > 1e-3


def test_the_same_seed_holds_out_the_same_rows_and_both_parts_are_shuffled():
    one, two = split(200, 0.1, 3), split(200, 0.1, 3)
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert (np.diff(one[0]) < 0).any()
    assert not np.array_equal(np.sort(one[1]), np.sort(split(200, 0.1, 4)[1]))


def test_of_time_series_one_block_per_segment_is_held_out():
    codes = np.repeat([0, 1, 2], 40)
    _, held_out = split(120, 0.2, codes=codes, sequence=np.zeros(120, dtype=int))
    for segment in range(3):
        rows = np.sort(held_out[codes[held_out] == segment])
        assert len(rows) == 8
        assert (np.diff(rows) == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_where_segments_recur_whole_stretches_of_the_series_are_held_out(seed):
    """Fifty events of twenty lags each: of a row held out, nearly all neighbours are, too."""
    codes = np.tile(np.arange(20), 50)
    _, held_out = split(1000, 0.1, seed, codes=codes, sequence=np.zeros(1000, dtype=int))
    assert len(held_out) == 100
    assert held_out.max() - held_out.min() == 99


def test_blocks_follow_the_series_however_rows_are_interleaved():
    sequence = np.random.default_rng(0).permutation(np.repeat([0, 1], 100))
    _, held_out = split(200, 0.2, sequence=sequence)
    for name in (0, 1):
        place = np.flatnonzero(np.isin(np.flatnonzero(sequence == name), held_out))
        assert len(place) == 0 or (np.diff(place) == 1).all()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_outside_the_unit_interval_is_refused(fraction):
    with pytest.raises(DataError, match=r"validation_fraction must lie in \[0, 1\)"):
        split(10, fraction)


def test_planted_spikes_are_found_as_scipy_finds_them():
    x = np.random.default_rng(0).standard_normal((1000, 3))
    x[[7, 300, 999], [0, 2, 1]] = [60, -1e6, 55]
    robust = np.abs(x - np.median(x, axis=0)) / stats.median_abs_deviation(x, scale="normal")
    expected = np.flatnonzero((robust > 50).any(axis=1))
    assert expected.tolist() == [7, 300, 999]
    np.testing.assert_array_equal(gross_rows(x, 50.0), expected)
    np.testing.assert_array_equal(gross_rows(1e-9 * x + 4, 50.0), expected)


def test_heavy_tails_are_not_spikes():
    x = np.random.default_rng(0).standard_t(0.7, (2000, 2))
    robust = np.abs(x - np.median(x, axis=0)) / stats.median_abs_deviation(x, scale="normal")
    assert (robust > 50).any(axis=1).mean() > 0.01
    assert len(gross_rows(x, 50.0)) == 0


def test_a_column_of_mostly_one_value_is_not_judged():
    x = np.column_stack([np.zeros(300), np.random.default_rng(0).standard_normal(300)])
    x[5, 0] = 1e9
    assert len(gross_rows(x, 50.0)) == 0


def test_rows_and_head_take_every_part_of_a_data_set():
    data = Dataset(np.arange(10).reshape(5, 2), np.arange(5), None, np.ones(5))
    taken = data.rows([3, 1])
    np.testing.assert_array_equal(taken.x, [[6, 7], [2, 3]])
    np.testing.assert_array_equal(taken.u, [3, 1])
    assert taken.sequence is None
    assert data.head(2).n_rows == 2
    assert data.head(7) is data


def test_rows_of_weight_zero_do_not_count():
    values, weight = jnp.array([1.0, 5.0, 99.0]), jnp.array([1.0, 3.0, 0.0])
    assert float(mean_over_rows(values, weight)) == pytest.approx(np.average([1, 5], weights=[1, 3]))
    assert float(mean_over_rows(values, None)) == pytest.approx(35.0)


def test_interleaved_rows_take_turns_by_segment_and_none_is_lost():
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.repeat(np.arange(7), [100, 3, 40, 50, 12, 50, 75]))
    order = interleaved(codes, 10, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(order), np.arange(len(codes)))
    arranged = codes[order]
    borders = np.flatnonzero(np.diff(arranged)) + 1
    runs = np.split(arranged, borders)
    assert sorted(run[0] for run in runs[:7]) == list(range(7)), "every segment has its first turn first"
    assert [len(run) for run in runs[:7]] == [3 if run[0] == 1 else 10 for run in runs[:7]]
    assert max(len(run) for run in runs[7:]) <= 20, "the longest segment does not wait for the end"
    first = order[arranged == 2]
    np.testing.assert_array_equal(first, np.flatnonzero(codes == 2)), "rows of a segment keep their order"


def test_one_segment_may_be_far_longer_than_the_others():
    """It needs memory for its rows only, and batches of the end still hold other segments."""
    codes = np.random.default_rng(0).permutation(
        np.append(np.zeros(200_000, int), np.repeat(np.arange(1, 5001), 12))
    )
    arranged = codes[interleaved(codes, 6, np.random.default_rng(1))]
    assert set(arranged[: 5001 * 6]) == set(range(5001))
    assert len(set(arranged[-20_000:-10_000])) > 100
