"""Tables from files: named columns, and where in the file a row stands. Never a pickle."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pandas as pd

from identica.errors import DataError


@dataclass(frozen=True)
class Table:
    """A table with named columns, read from a file.

    Attributes
    ----------
    path : Path
        Where it came from.
    frame : pandas.DataFrame of shape (N, columns)
        The columns; index 0 to N - 1.
    other : dict of str to int
        Arrays of the file that are no columns because they have another number of rows.
    lines : callable, optional
        Line of the file for each row index, for text files; worked out only when an error needs it.
    """

    path: Path
    frame: pd.DataFrame
    other: dict[str, int] = field(default_factory=dict)
    lines: Callable[[list[int]], list[int]] | None = None

    @property
    def names(self) -> list[str]:
        """Column names in the order of the file."""
        return [str(name) for name in self.frame.columns]

    @property
    def n_rows(self) -> int:
        """Number of rows N."""
        return len(self.frame)

    def column(self, name: str) -> pd.Series:
        """One column by name."""
        return cast(pd.Series, self.frame[name])

    def places(self, rows: list[int]) -> list[str]:
        """How a person finds these rows: the line of a text file, else the row counted from 1."""
        if self.lines is None:
            return [f"row {row + 1}" for row in rows]
        return [f"line {line}" for line in self.lines(rows)]

    def place(self, row: int) -> str:
        """`places` for one row."""
        return self.places([row])[0]


def read_table(path: str | Path) -> Table:
    """Read csv, tsv, npy, npz, mat (version 5) or parquet.

    Arrays without column names are numbered from 1: an npy file gives ``x1, x2, …``; a two-dimensional
    array ``X`` of an npz or mat file gives ``X1, X2, …`` and a one-dimensional array keeps its name.

    Parameters
    ----------
    path : str or Path
        The file; its ending names the format.

    Raises
    ------
    DataError
        The file is missing, empty, of an unknown format, ragged, without column names, or damaged.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "table.csv"
    >>> _ = file.write_text("x1,x2,u\\n1.5,2,a\\n3,4.5,b\\n")
    >>> table = read_table(file)
    >>> table.names, table.n_rows, table.place(1)
    (['x1', 'x2', 'u'], 2, 'line 3')
    """
    path = Path(path)
    readers = _readers()
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a table file ({_endings()})")
    if not path.exists():
        raise DataError(f"{path} does not exist{_similar_file(path)}; expected a table file ({_endings()})")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle", ".joblib"):
        raise DataError(
            f"{path} is a pickle, which can run code when it is read, so identica never does; "
            "save the table as csv, npz or parquet instead"
        )
    if suffix not in readers:
        raise DataError(f"{path} has the ending {suffix or '(none)'!r}; expected one of {_endings()}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; expected a header line and rows")
    try:
        table = readers[suffix](path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    duplicates = [name for name in dict.fromkeys(table.names) if table.names.count(name) > 1]
    if duplicates:
        raise DataError(
            f"{path} has several columns named {', '.join(map(repr, duplicates))}; give each its own name"
        )
    if table.n_rows == 0:
        raise DataError(f"{path} has column names but no rows")
    return table


def _readers() -> dict[str, Callable[[Path], Table]]:
    from identica.cli import binary_tables, text_tables

    return {
        ".csv": text_tables.read_csv,
        ".tsv": text_tables.read_tsv,
        ".npy": binary_tables.read_npy,
        ".npz": binary_tables.read_npz,
        ".mat": binary_tables.read_mat,
        ".parquet": binary_tables.read_parquet,
    }


def _endings() -> str:
    return ", ".join(_readers())


def _similar_file(path: Path) -> str:
    from difflib import get_close_matches

    folder = path.parent
    if not folder.is_dir():
        return f" (nor does the folder {folder})"
    near = get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1, cutoff=0.7)
    return f"; did you mean {folder / near[0]}?" if near else ""
