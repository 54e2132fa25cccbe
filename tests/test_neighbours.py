"""What the report says about rows that resemble their neighbours."""

import numpy as np
import pytest
from scipy.signal import lfilter

from identica.report.baseline import _mean, blocks_of
from identica.report.neighbours import neighbours

NAMES = ["a0", "a1"]


def slow(rho, n_rows=4000, seed=0):
    noise = np.random.default_rng(seed).normal(size=(n_rows, 2))
    noise[:, 1] = lfilter([1], [1, -rho], noise[:, 1])
    return noise


def test_rows_in_no_order_are_passed_over_unless_they_are_said_to_have_one():
    noise, ids = slow(0.0), np.zeros(4000, dtype=int)
    assert neighbours(noise, None, None, NAMES, True) is None
    found = neighbours(noise, None, ids, NAMES, True)
    assert found is not None
    assert found.verdict == "good"
    assert found.value == pytest.approx(4000, rel=0.3)


@pytest.mark.parametrize("rho", [0.7, 0.95])
def test_the_slowest_source_is_named_with_its_worth(rho):
    found = neighbours(slow(rho, 40_000), None, None, NAMES, True)
    assert found is not None
    assert found.verdict == "warning"
    assert found.value == pytest.approx(40_000 * (1 - rho) / (1 + rho), rel=0.2)
    assert "a1, the slowest source" in found.text
    assert "standard errors up to" in found.text
    without = neighbours(slow(rho), None, None, NAMES, False)
    assert without is not None
    assert "standard errors" not in without.text


def test_what_segments_explain_is_no_resemblance():
    codes = np.repeat(np.arange(8), 500)
    x = slow(0.0) * (1 + codes % 3)[:, None] + 5 * codes[:, None]
    assert neighbours(x, codes, None, NAMES, True) is None
    assert neighbours(x, None, None, NAMES, True) is not None


def test_blocks_are_runs_of_rows_within_a_series():
    sequence = np.array([0, 1, 0, 1, 0, 1, 0, 1, 1, 1])
    rows = np.array([8, 0, 2, 9, 3, 6])  # of series 0 the places 0, 1, 3; of series 1 the places 1, 4, 5
    assert blocks_of(rows, sequence).tolist() == [3, 0, 0, 3, 2, 1]


def test_standard_errors_of_blocks_are_those_of_repeated_draws():
    rho, blocks = 0.8, np.repeat(np.arange(20), 60)
    means, stated = [], []
    for seed in range(150):
        values = np.concatenate([slow(rho, 160, 100 * seed + b)[100:, 1] for b in range(20)])
        means.append(values.mean())
        stated.append(_mean(values, blocks)["standard_error"])
    assert np.median(stated) == pytest.approx(np.std(means), rel=0.2)
    assert _mean(values)["standard_error"] < 0.5 * np.std(means)
