"""csv and tsv: pandas reads them; a slower second look, made only after an error, finds the line."""

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from identica.cli.tables import Table
from identica.errors import DataError

# pandas' own list has "None" too, which is a likely name for a condition.
_MISSING = ["", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "<NA>"]


def read_csv(path: Path) -> Table:
    """A table with comma, semicolon or tab between fields, whichever the header line has."""
    header = _first_line(path)
    separator = max(",;\t", key=header.count)
    return _read(path, separator)


def read_tsv(path: Path) -> Table:
    """A table with tabs between fields."""
    return _read(path, "\t")


def _read(path: Path, separator: str) -> Table:
    names = _names(path, separator)
    options: dict[str, Any] = {
        "sep": separator,
        "encoding": "utf-8-sig",
        "skipinitialspace": True,
        "index_col": False,
        "keep_default_na": False,
        "na_values": _MISSING,
        "low_memory": False,
        "names": names,
        "header": 0,
    }
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options["float_precision"] = "round_trip"  # later versions always read numbers exactly
    try:
        with warnings.catch_warnings():
            # Rows longer than the header are cut with only a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, **options)
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        _check_widths(path, separator, len(names))
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    # Short rows are filled up with missing values at their end, without a word.
    if len(frame) and frame.iloc[:, -1].isna().any():
        _check_widths(path, separator, len(names))
    return Table(path, frame, lines=lambda rows: _lines(path, separator, rows))


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each record that is not blank, header included."""
    with open(path, encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=separator, skipinitialspace=True)
        start = 1
        try:
            for fields in reader:
                if fields and not (len(fields) == 1 and not fields[0].strip()):
                    yield start, fields
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}, line {start}: {error}") from error


def _first_line(path: Path) -> str:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return next((line for line in stream if line.strip()), "")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def _names(path: Path, separator: str) -> list[str]:
    try:
        line, fields = next(_records(path, separator), (0, []))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    if not fields:
        raise DataError(f"{path} is empty; expected a header line and rows")
    names = [name.strip() for name in fields]
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path}, line {line}: expected column names, got numbers ({', '.join(names[:4])}); "
            "put a line with one name per column on top"
        )
    unnamed = [position + 1 for position, name in enumerate(names) if not name]
    if unnamed:
        index = "; the first looks like a row index: write the table without it" if unnamed[0] == 1 else ""
        raise DataError(f"{path}, line {line}: column {unnamed[0]} has no name{index}")
    # pandas refuses duplicates in `names`, and its message has no file in it.
    duplicates = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if duplicates:
        raise DataError(
            f"{path}, line {line}: several columns are named {', '.join(map(repr, duplicates))}; "
            "give each its own name"
        )
    return names


def _check_widths(path: Path, separator: str, width: int) -> None:
    ragged = [(line, len(fields)) for line, fields in _records(path, separator) if len(fields) != width]
    if ragged:
        line, found = ragged[0]
        more = f" ({len(ragged)} such lines)" if len(ragged) > 1 else ""
        raise DataError(
            f"{path}, line {line}: expected {width} fields as in the header, got {found}{more}; "
            "fill or remove the row, and put quotes around text that contains the separator"
        )


def _lines(path: Path, separator: str, rows: list[int]) -> list[int]:
    wanted, found = set(rows), {}
    for row, (line, _) in enumerate(_records(path, separator), start=-1):
        if row in wanted:
            found[row] = line
            if len(found) == len(wanted):
                break
    return [found[row] for row in rows]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
