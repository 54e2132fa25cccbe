"""Windows, lags and change-points against known truth; autocorrelation against sums and closed forms."""

import numpy as np
import pytest
from scipy.signal import lfilter

import identica
from identica.errors import DataError
from identica.series import autocorrelation, autocorrelation_time, effective_sample_size


def ar1(rho, shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=(shape[0] + 1000, *shape[1:]))
    return lfilter([1], [1, -rho], noise, axis=0)[1000:]


# Windows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_rows", "windows"), [(100, 7), (1000, 1), (12, 12), (997, 40)])
def test_equal_windows_differ_by_a_row_at_most_and_follow_time(n_rows, windows):
    labels = identica.segments(n_rows, windows=windows)
    counts = np.bincount(labels)
    assert len(counts) == windows
    assert counts.max() - counts.min() <= 1
    assert (np.diff(labels) >= 0).all()
    np.testing.assert_array_equal(identica.segments(np.zeros((n_rows, 3)), windows=windows), labels)


def test_windows_stay_within_their_series_even_if_series_are_interleaved():
    sequence = np.random.default_rng(0).permutation(np.repeat(["a", "b", "c"], [50, 100, 250]))
    labels = identica.segments(400, windows=8, sequence=sequence)
    assert len(np.unique(labels)) == 8
    for name, expected in (("a", 1), ("b", 2), ("c", 5)):
        own = labels[sequence == name]
        assert len(np.unique(own)) == expected
        assert (np.diff(own) >= 0).all()
        assert len(np.intersect1d(own, labels[sequence != name])) == 0
    by_length = identica.segments(400, rows=40, sequence=sequence)
    assert [len(np.unique(by_length[sequence == name])) for name in "abc"] == [1, 2, 6]


def lags_one_by_one(n_rows, events, before, after, width, sequence):
    labels = []
    for row in range(n_rows):
        lags = [row - e for e in events if sequence[e] == sequence[row] and -before <= row - e < after]
        lags.sort(key=lambda lag: (abs(lag), -lag))
        labels.append(1 + (lags[0] + before) // width if lags else 0)
    return labels


@pytest.mark.parametrize("seed", range(5))
def test_lags_to_events_as_counted_one_by_one(seed):
    rng = np.random.default_rng(seed)
    before, after, width = int(rng.integers(0, 12)), int(rng.integers(1, 15)), int(rng.integers(1, 5))
    events = np.sort(rng.choice(300, 15, replace=False))
    sequence = np.repeat([0, 1, 2], [90, 10, 200])
    expected = lags_one_by_one(300, events, before, after, width, sequence)
    options = {"before": before, "after": after, "rows": width, "sequence": sequence}
    assert identica.segments(300, events=events, **options).tolist() == expected
    mask = np.isin(np.arange(300), events)
    assert identica.segments(300, events=mask, **options).tolist() == expected
    assert max(expected) > 1


# Change-points --------------------------------------------------------------------------------------


def mixed(lengths, d, seed, draw="laplace"):
    rng = np.random.default_rng(seed)
    u = np.repeat(np.arange(len(lengths)), lengths)
    sd = np.exp(rng.choice([-1, 1], (len(lengths), d)) * 0.8)
    while (np.abs(np.diff(sd, axis=0)).max(axis=1) < 1e-9).any():
        sd = np.exp(rng.choice([-1, 1], (len(lengths), d)) * 0.8)
    return getattr(rng, draw)(size=(len(u), d)) * sd[u] @ rng.normal(size=(d, d)), u


@pytest.mark.parametrize(("draw", "seed"), [("normal", 0), ("normal", 1), ("laplace", 0), ("laplace", 1)])
def test_change_points_of_the_variance_are_found_where_they_are(draw, seed):
    lengths = [400, 250, 700, 300, 1350]
    X, _ = mixed(lengths, 4, seed, draw)
    found = np.flatnonzero(np.diff(identica.segments(X, changes=True))) + 1
    assert len(found) == 4
    np.testing.assert_allclose(found, np.cumsum(lengths)[:-1], atol=15)


def test_a_change_of_the_mean_alone_is_found_in_its_series():
    x = np.random.default_rng(0).normal(size=(900, 2))
    x[500:, 0] += 2
    sequence = np.repeat([5, 3], [300, 600])
    labels = identica.segments(x, changes=True, sequence=sequence)
    borders = np.flatnonzero(np.diff(labels)) + 1
    assert borders[0] == 300, "another series is another segment"
    np.testing.assert_allclose(borders[1:], [500], atol=3)


@pytest.mark.parametrize("name", ["normal", "laplace", "slow", "very slow", "constant column"])
def test_where_nothing_changes_there_is_one_segment(name):
    rng = np.random.default_rng(3)
    for _ in range(3):
        x = {
            "normal": lambda: rng.normal(size=(2000, 3)),
            "laplace": lambda: rng.laplace(size=(2000, 3)),
            "slow": lambda: ar1(0.9, (4000, 3), int(rng.integers(99))),
            "very slow": lambda: ar1(0.99, (8000, 3), int(rng.integers(99))),
            "constant column": lambda: np.column_stack([rng.normal(size=2000), np.ones(2000)]),
        }[name]()
        assert identica.segments(x, changes=True).max() == 0


def test_units_of_columns_do_not_move_change_points():
    X, _ = mixed([300, 300, 300], 3, 0)
    labels = identica.segments(X, changes=True)
    np.testing.assert_array_equal(identica.segments(X * [1e-9, 1, 1e9] + 7, changes=True), labels)


def test_more_penalty_gives_fewer_segments_and_min_rows_is_kept():
    X, _ = mixed([100] * 12, 3, 0, "normal")
    number = [identica.segments(X, changes=True, penalty=p).max() + 1 for p in (0.5, 1.0, 3.0, 30.0)]
    assert number == sorted(number, reverse=True)
    assert number[0] > 6
    assert number[-1] == 1
    assert np.bincount(identica.segments(X, changes=True, min_rows=150)).min() >= 150


WRONG = {
    "nothing asked": ({}, ValueError, "exactly one of"),
    "two things asked": ({"windows": 2, "changes": True}, ValueError, "exactly one of"),
    "no windows": ({"windows": 0}, ValueError, "windows must be a whole number"),
    "too many windows": ({"windows": 21}, DataError, "at most one per row"),
    "fewer windows than series": (
        {"windows": 1, "sequence": [0, 1] * 10},
        DataError,
        "one window per series",
    ),
    "sequence of another length": ({"windows": 2, "sequence": [0]}, DataError, r"shape \(1,\) but X has 20"),
    "an event outside": ({"events": [20], "after": 2, "rows": 1}, DataError, "between rows 0 and 19"),
    "events as times": ({"events": [0.5], "after": 2, "rows": 1}, DataError, "must be row numbers or a mask"),
    "no end of the window": ({"events": [3], "rows": 1}, ValueError, "after must be a whole number"),
    "too short for a covariance": ({"changes": True, "min_rows": 3}, DataError, "too few for a covariance"),
    "a free change": ({"changes": True, "penalty": 0}, ValueError, "penalty must be a positive number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_requests_are_refused_with_a_reason(name):
    options, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        identica.segments(np.random.default_rng(0).normal(size=(20, 2)), **options)
    with pytest.raises(DataError, match=r"shape \(\)|needs the rows X"):
        identica.segments(20, changes=True)


def test_nonlinear_data_are_unmixed_with_windows_as_with_the_true_segments():
    """End to end: u made of windows separates what linear ICA can separate."""
    data = identica.simulate("linear", seed=0, n_segments=10, n_per_segment=200)
    order = np.argsort(data.u, kind="stable")
    ica = identica.LinearICA(method="joint-diagonalization", random_state=0)
    ica.fit(data.X[order], u=identica.segments(data.X, rows=100))
    assert identica.metrics.mcc(data.S, ica.transform(data.X)) > 0.98


# Autocorrelation ------------------------------------------------------------------------------------


def test_autocorrelation_is_the_sum_over_pairs_within_series():
    x = np.random.default_rng(0).normal(size=(60, 2)).cumsum(axis=0)
    sequence = np.random.default_rng(1).permutation(np.repeat([4, 7, 1], [10, 30, 20]))
    centred = x - x.mean(axis=0)
    expected = np.zeros((30, 2))
    for name in (4, 7, 1):
        own = centred[sequence == name]
        for lag in range(len(own)):
            expected[lag] += (own[lag:] * own[: len(own) - lag]).sum(axis=0)
    np.testing.assert_allclose(autocorrelation(x, sequence), expected / expected[0], atol=1e-12)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9, 0.98])
def test_effective_sample_size_of_a_first_order_process_is_the_closed_form(rho):
    n = 200_000
    estimates = effective_sample_size(ar1(rho, (n, 4)))
    np.testing.assert_allclose(estimates / n, (1 - rho) / (1 + rho), rtol=0.15)
    assert np.mean(estimates) / n == pytest.approx((1 - rho) / (1 + rho), rel=0.08)


def test_many_short_series_are_worth_what_their_means_say():
    """The variance of the overall mean, measured over repetitions, is that of N / τ independent rows."""
    rho, length, n_series = 0.6, 50, 40
    sequence = np.repeat(np.arange(n_series), length)
    means, worth = [], []
    for seed in range(200):
        x = np.concatenate([ar1(rho, (length, n_series), seed).T.reshape(-1, 1)])
        means.append(x.mean() / np.sqrt(1 / (1 - rho**2)))
        worth.append(effective_sample_size(x, sequence)[0])
    assert np.median(worth) == pytest.approx(1 / np.var(means), rel=0.25)


def test_a_constant_column_and_a_single_row_are_no_trouble():
    np.testing.assert_array_equal(autocorrelation_time(np.ones((50, 1))), [1.0])
    np.testing.assert_array_equal(autocorrelation_time(np.ones((1, 2))), [1.0, 1.0])
