"""Reading tables, choosing columns, and saying what is wrong with them before any long work."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io

from identica.cli.checks import check_table
from identica.cli.selection import find_columns, select, select_by_name, split_names
from identica.cli.tables import read_table
from identica.errors import DataError


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x1": rng.normal(size=20),
            "x2": rng.normal(size=20) * 1e-7 + 1e5,
            "u": np.repeat(["rest", "task"], 10),
            "s1": rng.normal(size=20),
        }
    )


def write(tmp_path: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_frames_come_back_exactly(tmp_path, frame, ending):
    path = tmp_path / f"table.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    table = read_table(path)
    assert table.names == ["x1", "x2", "u", "s1"]
    for name in ("x1", "x2", "s1"):
        np.testing.assert_array_equal(table.frame[name], frame[name])  # bit for bit, also through text
    assert table.frame["u"].tolist() == frame["u"].tolist()


def test_semicolons_byte_order_mark_and_blank_lines(tmp_path):
    table = read_table(write(tmp_path, "\ufeff\nx1; x2\n1;2\n\n3;4\n"))
    assert table.names == ["x1", "x2"]
    assert table.frame.to_numpy().tolist() == [[1, 2], [3, 4]]
    assert table.places([0, 1]) == ["line 3", "line 5"]


def test_none_is_a_label_and_na_is_missing(tmp_path):
    path = write(tmp_path, "x1,u\n1,None\n2,None\n3,a\n4,a\n")
    assert check_table(read_table(path), u=["u"]).auxiliary().tolist() == ["None", "None", "a", "a"]
    path = write(tmp_path, "x1,u\n1,a\n2,NA\n3,a\n4,b\n")
    with pytest.raises(DataError, match="u column 'u', line 3: expected a label"):
        check_table(read_table(path), u=["u"])


def test_arrays_are_named_after_their_file(tmp_path):
    x = np.arange(12.0).reshape(6, 2)
    np.save(tmp_path / "a.npy", x)
    assert read_table(tmp_path / "a.npy").names == ["x1", "x2"]
    np.savez(tmp_path / "a.npz", X=x, u=np.arange(6), fs=128.0, channels=np.array(["a", "b"]))
    table = read_table(tmp_path / "a.npz")
    assert table.names == ["X1", "X2", "u"]
    assert table.other == {"channels": 2}
    with pytest.raises(DataError, match=r"this array of .* has 2 rows, the table has 6"):
        select(table, u=["channels"])


def test_npz_of_single_columns_is_a_table(tmp_path):
    np.savez(tmp_path / "a.npz", x1=np.arange(5.0), x2=np.arange(5.0) ** 2, u=np.array(list("aabbb")))
    table = read_table(tmp_path / "a.npz")
    assert table.names == ["x1", "x2", "u"]
    assert table.frame["u"].tolist() == list("aabbb")


def test_matlab_vectors_and_cells_of_strings(tmp_path):
    labels = np.array(["rest", "task"] * 4, dtype=object)
    scipy.io.savemat(
        tmp_path / "a.mat", {"X": np.arange(16.0).reshape(8, 2), "u": np.arange(8), "label": labels}
    )
    table = read_table(tmp_path / "a.mat")
    assert table.names == ["X1", "X2", "u", "label"]
    assert table.frame["label"].tolist() == labels.tolist()


def test_matlab_7_3_says_how_to_save(tmp_path):
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    with pytest.raises(DataError, match="'-v7'"):
        read_table(write(tmp_path, header + bytes(512), "a.mat"))


def test_pickles_are_never_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    np.savez(tmp_path / "a.npz", X=np.array([[{}]], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="Python objects"):
            read_table(tmp_path / name)
    with pytest.raises(DataError, match="is a pickle"):
        read_table(write(tmp_path, b"\x80\x04N.", "a.pkl"))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, frame, monkeypatch):
    frame.to_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'identica\[io\]'"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("x1,x2\n", "no rows"),
        ("x1,x2\n1,2\n3,4,5\n", "line 3: expected 2 fields as in the header, got 3"),
        ("x1,x2\n1,2,3\n4,5,6\n", r"line 2: expected 2 fields as in the header, got 3 \(2 such lines\)"),
        ("x1,x2\n1,2\n3\n4,5\n", "line 3: expected 2 fields as in the header, got 1"),
        ("x1,x1\n1,2\n", "several columns are named 'x1'"),
        ("0.5,2\n3,4\n", "line 1: expected column names, got numbers"),
        (",x1\n0,1\n1,2\n", "column 1 has no name; the first looks like a row index"),
        (b"x1,x2\n\xff\xfe,2\n", "is not UTF-8 text"),
    ],
)
def test_broken_files(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=said) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_missing_files_folders_and_unknown_endings(tmp_path):
    write(tmp_path, "x1\n1\n", "recording.csv")
    with pytest.raises(DataError, match=r"did you mean .*recording\.csv"):
        read_table(tmp_path / "recordng.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"ending '\.xlsx'"):
        read_table(write(tmp_path, "x", "a.xlsx"))
    with pytest.raises(DataError, match="damaged"):
        read_table(write(tmp_path, b"PK\x03\x04 no archive", "a.npz"))


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (
            "x1,x2\n1,2\n\n3,abc\n4,x\n",
            {},
            r"column 'x2', line 4: expected a number, got 'abc' \(2 such rows\)",
        ),
        ("x1;x2\n1;2,5\n3;4,5\n", {}, "decimal commas"),
        (
            "x1,x2\n1,2\n3,nan\ninf,5\n",
            {},
            r"column 'x2', line 3: .* got a missing value or NaN \(2 such values",
        ),
        ("x1,x2\n1,2\n3,4\ninf,5\n", {}, "column 'x1', line 4: expected a finite number, got inf"),
        ("x1,x2\n1,2\n3,2\n4,2\n", {}, "column 'x2' is constant .* --drop x2"),
        ("x1,x2,x3\n1,2,3\n3,4,6\n", {}, "has 2 rows and 3 observed columns"),
        ("x1,x2\n1,2\n3,4\n5,7\n", {"n_components": 3}, "--components 3: expected a number from 1 to 2"),
        ("x1,day\n1,2\n3,4\n5,7\n", {"u": ["Day"]}, "--u Day: .* did you mean 'day'"),
        ("x1,day\n1,2\n3,4\n5,7\n", {"drop": ["dya"]}, "--drop dya: .* did you mean 'day'"),
        ("x1,day\n1,2\n3,4\n5,7\n", {"columns": ["z"]}, "--columns z: .* It has x1, day"),
        ("x1,u\n1,a\n3,a\n5,b\n", {"u": ["u"]}, r"segment u = b has only one row \(line 4\)"),
        ("x1,u\n1,a\n3,a\n5,a\n", {"u": ["u"]}, "every row has u = a, so there is one segment only"),
        ("x1,u\n1,0.5\n3,0.5\n5,0.5\n", {"u": ["u"]}, "every row has u = 0.5"),
        ("x1,u\n1,0.5\n3,inf\n5,0.5\n", {"u": ["u"]}, "u column 'u', line 3: .* got inf"),
        ("x1,u\n1,a\n3,a\n5,a\n", {"u": ["u"], "drop": ["x1"]}, "no observed column is left"),
        ("x1,u\n1,a\n3,a\n5,a\n", {"u": ["u"], "columns": ["u,x1"]}, "named in --u and in --columns"),
        ("x1,u\n1,a\n3,a\n5,a\n", {"u": ["u"], "drop": ["u"]}, "named in --u and in --drop"),
    ],
)
def test_unusable_tables_are_refused_by_name(tmp_path, text, options, said):
    with pytest.raises(DataError, match=said):
        check_table(read_table(write(tmp_path, text)), **options)


def test_rows_of_arrays_are_counted_from_one(tmp_path):
    x = np.random.default_rng(0).normal(size=(9, 2))
    x[6, 1] = np.nan
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(DataError, match="column 'x2', row 7"):
        check_table(read_table(tmp_path / "a.npy"))


def test_several_u_columns_make_segments_of_their_combinations(tmp_path):
    text = "x1,a,b\n1,p,1\n2,p,1\n3,p,2\n4,p,2\n5,q,1\n6,q,1\n"
    table = read_table(write(tmp_path, text))
    selection = check_table(table, u=["a,b"])
    assert selection.u == ["a", "b"]
    assert selection.auxiliary().shape == (6, 2)
    lonely = read_table(write(tmp_path, text + "7,q,2\n"))
    with pytest.raises(DataError, match=r"segment a, b = q, 2 has only one row \(line 8\)"):
        check_table(lonely, u=["a,b"])


def test_numbers_with_decimals_need_no_repeats(tmp_path):
    table = read_table(write(tmp_path, "x1,time\n1,0.5\n2,0.75\n3,1.25\n"))
    assert check_table(table, u=["time"]).u == ["time"]


def test_lists_patterns_and_their_order(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    table = read_table(tmp_path / "a.csv")
    assert split_names(["a, b", "c"]) == ["a", "b", "c"]
    assert find_columns(table, ["s*", "x2", "x?"], "--columns") == ["s1", "x2", "x1"]
    chosen = select(table, u=["u"], drop=["s*"])
    assert (chosen.x, chosen.u) == (["x1", "x2"], ["u"])
    assert chosen.observations().dtype == np.float64
    with pytest.raises(DataError, match=r"--drop q\*"):
        select(table, drop=["q*"])


def test_fitted_columns_are_found_by_name(tmp_path, frame):
    frame[["extra", "x2", "x1"]] = frame[["s1", "x2", "x1"]]
    frame[["extra", "x2", "x1"]].to_csv(tmp_path / "a.csv", index=False)
    table = read_table(tmp_path / "a.csv")
    selection = select_by_name(table, ["x1", "x2"])
    np.testing.assert_array_equal(selection.observations(), frame[["x1", "x2"]].to_numpy())
    with pytest.raises(DataError, match=r"lacks X1, .* did you mean to rename 'x1'"):
        select_by_name(table, ["X1", "x2"])


def test_reading_leaves_warnings_as_they_were(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    before = list(warnings.filters)
    read_table(tmp_path / "a.csv")
    assert warnings.filters == before
