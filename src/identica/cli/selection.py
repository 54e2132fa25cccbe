"""Which columns are observed, which are the auxiliary variable u, and which says the time series."""

from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from identica.cli.tables import Table
from identica.errors import DataError
from identica.typing import FloatArray


@dataclass(frozen=True)
class Selection:
    """The chosen columns of a table.

    Attributes
    ----------
    table : Table
    x, u : list of str
        Observed and auxiliary columns; ``u`` may be empty.
    sequence : str or None
        Column of time-series ids.
    windows : int or None
        Number of equal windows of time that serve as u.
    """

    table: Table
    x: list[str]
    u: list[str]
    sequence: str | None = None
    windows: int | None = None

    def observations(self) -> FloatArray:
        """X as float64 (N, d)."""
        return np.ascontiguousarray(self.table.frame[self.x].to_numpy(dtype=np.float64))

    def observations_frame(self) -> pd.DataFrame:
        """X as a float64 data frame, so that estimators learn the column names."""
        return pd.DataFrame(self.observations(), columns=self.x)

    def auxiliary(self) -> Any:
        """u as a named Series, a data frame of several columns, or None."""
        if self.windows is not None:
            from identica.series import segments

            ids = self.sequence_ids()
            return pd.Series(segments(self.table.n_rows, windows=self.windows, sequence=ids), name="window")
        if not self.u:
            return None
        return self.table.frame[self.u[0]] if len(self.u) == 1 else self.table.frame[self.u]

    def sequence_ids(self) -> pd.Series | None:
        """Time-series ids, one series where windows are cut from the whole table, or None."""
        if self.sequence is not None:
            return self.table.column(self.sequence)
        return None if self.windows is None else pd.Series(np.zeros(self.table.n_rows, dtype=np.int64))


def split_names(values: list[str] | None) -> list[str]:
    """Column names from repeated options and comma lists: ``["a,b", "c"]`` gives a, b and c."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def find_columns(table: Table, wanted: list[str], option: str) -> list[str]:
    """Columns by name or by pattern (``s*``), in the order asked for.

    Raises
    ------
    DataError
        A name that the table does not have; near names are suggested.
    """
    found: list[str] = []
    for name in wanted:
        if name in table.names:
            matches = [name]
        elif any(sign in name for sign in "*?["):
            matches = [column for column in table.names if fnmatchcase(column, name)]
        else:
            matches = []
        if not matches:
            raise DataError(_unknown(table, name, option))
        found += [column for column in matches if column not in found]
    return found


def select(
    table: Table,
    *,
    u: list[str] | None = None,
    drop: list[str] | None = None,
    columns: list[str] | None = None,
    sequence: str | None = None,
    windows: int | None = None,
) -> Selection:
    """Choose columns: observed are ``columns``, or all that are neither u, sequence nor dropped.

    Raises
    ------
    DataError
        Unknown names, a column in two roles, or no column left.
    """
    auxiliary = find_columns(table, split_names(u), "--u")
    dropped = find_columns(table, split_names(drop), "--drop")
    series = find_columns(table, [sequence] if sequence else [], "--sequence")
    if len(series) > 1:
        raise DataError(f"--sequence {sequence} names {len(series)} columns; expected one")
    if columns:
        observed = find_columns(table, split_names(columns), "--columns")
        observed = [name for name in observed if name not in dropped]
        twice = [name for name in observed if name in (*auxiliary, *series)]
        if twice:
            other = "--u" if twice[0] in auxiliary else "--sequence"
            raise DataError(
                f"column {twice[0]!r} is named in {other} and in --columns; it is either observed or auxiliary"
            )
    else:
        observed = [name for name in table.names if name not in (*auxiliary, *series, *dropped)]
    both = [name for name in auxiliary if name in dropped]
    if both:
        raise DataError(f"column {both[0]!r} is named in --u and in --drop; leave one of them out")
    if not observed:
        raise DataError(f"no observed column is left in {table.path}; it has {_shorten(table.names)}")
    return Selection(table, observed, auxiliary, series[0] if series else None, windows)


def select_by_name(table: Table, x: list[str], u: list[str] | None = None) -> Selection:
    """The columns that a fitted run needs, wherever they stand in a new table.

    Raises
    ------
    DataError
        A needed column is missing.
    """
    missing = [name for name in x if name not in table.names]
    if missing:
        lower = [name for name in table.names if name.lower() == missing[0].lower()]
        near = lower or get_close_matches(missing[0], table.names, n=1, cutoff=0.6)
        hint = f"; did you mean to rename {near[0]!r}?" if near else "."
        raise DataError(
            f"{table.path} lacks {_shorten(missing)}, which the model was fitted on{hint} "
            f"The table has {_shorten(table.names)}"
        )
    return Selection(table, x, find_columns(table, split_names(u), "--u"))


def _unknown(table: Table, name: str, option: str) -> str:
    if name in table.other:
        return (
            f"{option} {name}: this array of {table.path} has {table.other[name]} rows, the table has "
            f"{table.n_rows}; it needs one value per row"
        )
    near = get_close_matches(name, table.names, n=3, cutoff=0.6)
    lower = [column for column in table.names if column.lower() == name.lower()]
    hint = f"; did you mean {' or '.join(map(repr, lower or near))}?" if lower or near else "."
    return f"{option} {name}: {table.path} has no such column{hint} It has {_shorten(table.names)}"


def _shorten(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
