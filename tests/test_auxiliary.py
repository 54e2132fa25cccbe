"""The auxiliary variable: which kind it is, and its codes and features against pandas, SciPy and NumPy."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats

from identica.auxiliary import AuxiliaryEncoder, auxiliary_columns
from identica.errors import DataError

LABELS = {
    "strings": np.array(["rest", "task", "rest", "sleep", "task"]),
    "integers": np.array([3, -1, 3, 7, -1]),
    "booleans": np.array([True, False, True, True, False]),
    "whole floats": np.array([3.0, -1.0, 3.0, 7.0, -1.0]),
    "objects": np.array(["a", "b", "a", "c", "b"], dtype=object),
    "bytes": np.array([b"a", b"b", b"a", b"c", b"b"]),
    "list": ["rest", "task", "rest", "sleep", "task"],
    "column": np.array([[3], [-1], [3], [7], [-1]]),
    "series": pd.Series(["x", "y", "x", "z", "y"], name="state"),
    "categorical": pd.Series(pd.Categorical(["x", "y", "x", "z", "y"], categories=["z", "y", "x", "w"])),
    "polars series": pl.Series("state", ["x", "y", "x", "z", "y"]),
    "polars frame": pl.DataFrame({"state": ["x", "y", "x", "z", "y"]}),
    "nullable integers": pd.Series([3, -1, 3, 7, -1], dtype="Int64"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_type_become_the_codes_that_numpy_gives(name):
    u = LABELS[name]
    encoder = AuxiliaryEncoder.from_values(u, n_rows=5)
    plain = np.asarray(u).ravel()
    expected = np.unique(plain.astype(str) if plain.dtype == object else plain, return_inverse=True)[1]
    assert encoder.kind == "discrete"
    assert encoder.n_segments == expected.max() + 1
    codes = encoder.encode(u)
    # Which number a label gets is free; which rows share one is not.
    assert len(set(zip(codes.tolist(), expected.tolist(), strict=True))) == encoder.n_segments
    assert codes.dtype == np.int32


def test_labels_of_several_types_in_one_column_stay_apart():
    u = np.array(["rest", 3, "rest", "3", 3], dtype=object)
    codes = AuxiliaryEncoder.from_values(u).encode(u)
    assert (codes[:, None] == codes).tolist() == [[a == b and type(a) is type(b) for b in u] for a in u]


def test_whole_floats_and_integers_are_the_same_labels():
    encoder = AuxiliaryEncoder.from_values(np.array([0, 1, 2, 1]))
    assert encoder.encode(np.array([2.0, 0.0])).tolist() == [2, 0]
    assert encoder.segment_names() == ["0", "1", "2"]


def test_combinations_of_labels_that_occur_are_segments_as_in_pandas_groupby():
    frame = pd.DataFrame({"day": ["mon", "tue", "mon", "tue", "mon"], "run": [1, 2, 2, 2, 1]})
    encoder = AuxiliaryEncoder.from_values(frame)
    assert encoder.encode(frame).tolist() == frame.groupby(["day", "run"]).ngroup().tolist()
    assert encoder.segment_names() == ["mon, 1", "mon, 2", "tue, 2"]
    with pytest.raises(DataError, match=r"combines \['tue', 1\], which did not occur together"):
        encoder.encode(pd.DataFrame({"day": ["tue"], "run": [1]}))


def test_columns_of_a_frame_are_found_by_name_whatever_their_order():
    frame = pd.DataFrame({"day": ["mon", "tue", "mon"], "run": [1, 2, 2]})
    encoder = AuxiliaryEncoder.from_values(frame)
    assert encoder.encode(frame[["run", "day"]]).tolist() == encoder.encode(frame).tolist()
    assert encoder.encode(pl.from_pandas(frame).select("run", "day")).tolist() == [0, 2, 1]


def test_fractional_floats_are_standardised_numbers():
    u = np.random.default_rng(0).normal(5, 3, (40, 2))
    encoder = AuxiliaryEncoder.from_values(u)
    assert (encoder.kind, encoder.n_segments, encoder.n_features) == ("continuous", 0, 2)
    np.testing.assert_allclose(encoder.encode(u), stats.zscore(u, axis=0), atol=1e-12)


def test_a_frame_of_labels_and_numbers_is_one_hot_beside_standardised():
    frame = pd.DataFrame({"state": ["b", "a", "b", "c"], "age": [0.5, 1.0, 2.5, 4.0]})
    for table in (frame, pl.from_pandas(frame)):
        encoder = AuxiliaryEncoder.from_values(table)
        assert (encoder.kind, encoder.n_features) == ("continuous", 4)
        expected = np.column_stack(
            [pd.get_dummies(frame["state"]).to_numpy(float), stats.zscore(frame["age"])]
        )
        np.testing.assert_allclose(encoder.encode(table), expected, atol=1e-12)


def test_one_hot_columns_are_labels_whose_rows_are_the_segments():
    one_hot = np.eye(3)[[2, 0, 1, 1, 0]]
    encoder = AuxiliaryEncoder.from_values(one_hot)
    assert (encoder.kind, encoder.n_segments) == ("discrete", 3)
    codes = encoder.encode(one_hot)
    assert (codes[:, None] == codes).tolist() == (one_hot @ one_hot.T).astype(bool).tolist()


def test_a_number_that_never_changes_does_not_divide_by_zero():
    encoder = AuxiliaryEncoder.from_values(np.full(4, 0.5))
    np.testing.assert_array_equal(encoder.encode(np.array([0.5, 1.5])), [[0.0], [1.0]])


@pytest.mark.parametrize("name", LABELS)
def test_the_description_survives_json(name):
    encoder = AuxiliaryEncoder.from_values(LABELS[name])
    again = AuxiliaryEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    assert again == encoder


SPANS = ["0s", "90s", "1h", "26h"]
TIMES = pd.Series(pd.Timestamp("2021-03-28 00:30") + pd.to_timedelta(SPANS))
AS_TIMES = {
    "pandas": TIMES,
    "with a time zone": TIMES.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"),
    "index": pd.DatetimeIndex(TIMES),
    "whole seconds": TIMES.to_numpy().astype("datetime64[s]"),
    "frame": pd.DataFrame({"when": TIMES}),
    "polars": pl.Series("when", TIMES.dt.to_pydatetime().tolist()),
    "spans": pd.to_timedelta(SPANS),
}


@pytest.mark.parametrize("name", AS_TIMES)
def test_times_are_numbers_in_seconds_whatever_holds_them(name):
    seconds = np.array([0.0, 90.0, 3600.0, 26 * 3600.0])
    encoder = AuxiliaryEncoder.from_values(AS_TIMES[name])
    assert encoder.kind == "continuous"
    encoded = encoder.encode(AS_TIMES[name])
    np.testing.assert_allclose(encoded[:, 0], stats.zscore(seconds), atol=1e-9)
    assert encoder.columns[0].scale == pytest.approx(seconds.std())
    # A description that went through JSON reads new times on the same scale.
    again = AuxiliaryEncoder.from_dict(json.loads(json.dumps(encoder.to_dict())))
    np.testing.assert_array_equal(again.encode(AS_TIMES[name][2:]), encoded[2:])


MISSING = {
    "nan": np.array([0.5, np.nan, 1.0]),
    "inf": np.array([0.5, np.inf, 1.0]),
    "None": np.array(["a", None, "b"], dtype=object),
    "nan among labels": np.array(["a", np.nan, "b"], dtype=object),
    "NA of nullable integers": pd.Series([1, None, 2], dtype="Int64"),
    "NA of strings": pd.Series(["a", None, "b"], dtype="string"),
    "missing string": pd.Series(["a", None, "b"]),
    "polars null": pl.Series("u", [1, None, 2]),
    "no time": pd.Series(pd.to_datetime(["2020-01-01", None, "2020-01-02"])),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_values_are_named_with_their_row(name):
    with pytest.raises(DataError, match=r"missing or not finite in 1 row\(s\), first in row 1"):
        AuxiliaryEncoder.from_values(MISSING[name])


WRONG = {
    "another length": (np.arange(4), "4 rows but X has 3"),
    "three dimensions": (np.zeros((3, 2, 2)), r"shape \(n_samples,\) or \(n_samples, m\), got \(3, 2, 2\)"),
    "no columns": (np.zeros((3, 0)), r"got \(3, 0\)"),
    "a scalar": (np.float64(3), r"got \(\)"),
    "complex numbers": (np.array([1j, 2j, 3j]), "type complex128; use labels or numbers"),
    "columns of one name": (pd.DataFrame(np.eye(3)[:, :2], columns=["a", "a"]), "'a'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_u_is_refused_with_a_reason(name):
    u, message = WRONG[name]
    with pytest.raises(DataError, match=message):
        AuxiliaryEncoder.from_values(u, n_rows=3)


def test_new_values_are_named_not_guessed():
    encoder = AuxiliaryEncoder.from_values(np.array(["rest", "task"]))
    with pytest.raises(
        DataError, match="'u' has values the model was not fitted on: sleep; fitted on rest, task"
    ):
        encoder.encode(np.array(["rest", "sleep"]))
    with pytest.raises(DataError, match="has 2 column"):
        encoder.encode(np.array([["rest", "task"]]))
    numbers = AuxiliaryEncoder.from_values(np.array([0.5, 1.2]))
    with pytest.raises(DataError, match="must hold numbers"):
        numbers.encode(np.array(["a", "b"]))


def test_columns_are_named_after_where_they_came_from():
    assert list(auxiliary_columns(np.zeros((2, 2)))) == ["u0", "u1"]
    assert list(auxiliary_columns(pd.Series([1, 2], name="day"))) == ["day"]
    assert list(auxiliary_columns([1, 2])) == ["u"]
