"""Everything about a table that can be wrong, said before the long work starts.

The estimators check again for themselves; here the message can name file, column and line.
"""

import re
from typing import cast

import numpy as np
import pandas as pd

from identica.cli.selection import Selection, select
from identica.cli.tables import Table
from identica.errors import DataError
from identica.typing import FloatArray


def check_table(
    table: Table,
    *,
    u: list[str] | None = None,
    drop: list[str] | None = None,
    columns: list[str] | None = None,
    sequence: str | None = None,
    windows: int | None = None,
    n_components: int | None = None,
    fit: bool = True,
    holes: bool = False,
) -> Selection:
    """Choose columns and check them.

    Parameters
    ----------
    table : Table
        What was read.
    u, drop, columns : list of str, optional
        Names, comma lists or patterns of auxiliary, ignored and observed columns.
    sequence : str, optional
        Column that says which time series a row belongs to.
    windows : int, optional
        Number of equal windows of time that serve as u.
    n_components : int, optional
        Number of components asked for.
    fit : bool
        Whether a model is to be fitted, which asks more of the table than applying one does.
    holes : bool
        Whether observed values may be missing.

    Raises
    ------
    DataError
        Naming the file, the column, the line and the value at fault.
    """
    selection = select(table, u=u, drop=drop, columns=columns, sequence=sequence, windows=windows)
    check_selection(selection, n_components=n_components, fit=fit, holes=holes)
    return selection


def check_selection(
    selection: Selection, *, n_components: int | None = None, fit: bool = True, holes: bool = False
) -> None:
    """`check_table` for columns already chosen."""
    table = selection.table
    for name in selection.x:
        _check_numeric(table, name)
    x = selection.observations()
    _check_finite(table, selection.x, x, holes)
    if selection.u or selection.sequence:
        _check_auxiliary_complete(selection)
    if not fit:
        return
    _check_constant(table, selection.x, x)
    if len(x) < x.shape[1]:
        raise DataError(
            f"{table.path} has {len(x)} rows and {x.shape[1]} observed columns; expected at least as many "
            "rows as columns. If the table lies on its side, transpose it; else choose fewer with --columns"
        )
    if n_components is not None and not 1 <= n_components <= x.shape[1]:
        raise DataError(
            f"--components {n_components}: expected a number from 1 to {x.shape[1]}, the number of observed "
            f"columns ({', '.join(selection.x[:8])}{', …' if len(selection.x) > 8 else ''})"
        )
    if selection.u:
        _check_segments(selection)
    elif selection.windows:
        _check_windows(selection)


def takes_holes(estimator: object) -> bool:
    """Whether observed values may be missing in what a fitted model is applied to."""
    return getattr(estimator, "missing", None) == "marginalise"


def _check_numeric(table: Table, name: str) -> None:
    values = table.column(name)
    if pd.api.types.is_bool_dtype(values) or (
        pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_complex_dtype(values)
    ):
        return
    advice = f"if it is no observation, use --u {name} or --drop {name}"
    if pd.api.types.is_complex_dtype(values) or not _is_text(values):
        raise DataError(f"{table.path}: column {name!r} has type {values.dtype}; expected numbers; {advice}")
    numbers = cast(pd.Series, pd.to_numeric(values, errors="coerce"))
    bad = np.flatnonzero(np.asarray(numbers.isna() & values.notna()))
    row = int(bad[0]) if len(bad) else 0
    value = str(values.iloc[row])
    if re.fullmatch(r"\s*[-+]?\d+,\d+\s*", value):
        advice = "decimal commas are not read: write decimal points"
    more = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
    raise DataError(
        f"{table.path}: column {name!r}, {table.place(row)}: expected a number, got {value!r}{more}; {advice}"
    )


def _is_text(values: pd.Series) -> bool:
    return pd.api.types.is_string_dtype(values) or pd.api.types.is_object_dtype(values)


def _check_finite(table: Table, names: list[str], x: FloatArray, holes: bool) -> None:
    bad = np.isinf(x) if holes else ~np.isfinite(x)
    if not bad.any():
        return
    rows, columns = np.nonzero(bad)
    row, column = int(rows[0]), int(columns[0])
    value = "a missing value or NaN" if np.isnan(x[row, column]) else f"{x[row, column]}"
    more = ""
    if len(rows) > 1:
        more = (
            f" ({len(rows)} such values in {len(np.unique(rows))} rows and {len(np.unique(columns))} columns)"
        )
    raise DataError(
        f"{table.path}: column {names[column]!r}, {table.place(row)}: expected a finite number, got "
        f"{value}{more}; remove these rows, fill them, leave the column out with --drop"
        + (", or fit with --method ivae --missing marginalise" if np.isnan(x[row, column]) else "")
    )


def _check_constant(table: Table, names: list[str], x: FloatArray) -> None:
    constant = [j for j in range(x.shape[1]) if np.all(x[:, j] == x[0, j])]
    if constant:
        which = ",".join(names[j] for j in constant)
        first = constant[0]
        raise DataError(
            f"{table.path}: column {names[first]!r} is constant (every row holds {x[0, first]:g}) and says "
            f"nothing about sources; leave it out with --drop {which}"
        )


def _check_auxiliary_complete(selection: Selection) -> None:
    table = selection.table
    for name in [*selection.u, *([selection.sequence] if selection.sequence else [])]:
        role = "sequence" if name == selection.sequence else "u"
        values = table.column(name)
        bad = values.isna().to_numpy()
        if pd.api.types.is_float_dtype(values):
            bad = bad | ~np.isfinite(values.to_numpy(dtype=np.float64, na_value=np.nan))
        if bad.any():
            row = int(np.argmax(bad))
            more = f" ({int(bad.sum())} such rows)" if bad.sum() > 1 else ""
            got = "nothing" if values.isna().iloc[row] else values.iloc[row]
            raise DataError(
                f"{table.path}: {role} column {name!r}, {table.place(row)}: expected a label or a finite number, "
                f"got {got}{more}; remove these rows or give them a label of their own"
            )


def _check_windows(selection: Selection) -> None:
    table, windows = selection.table, selection.windows
    counts = selection.auxiliary().value_counts()  # says what is wrong with too few or too many windows
    if counts.min() < 2:
        raise DataError(
            f"--windows {windows}: {table.path} has {table.n_rows} rows, so some windows have only one; expected "
            "at least two rows in each, and better a hundred"
        )


def _check_segments(selection: Selection) -> None:
    from identica.auxiliary import AuxiliaryEncoder

    table, u = selection.table, selection.auxiliary()
    if all(table.column(name).nunique() == 1 for name in selection.u):
        same = ", ".join(f"{name} = {table.column(name).iloc[0]}" for name in selection.u)
        raise DataError(
            f"{table.path}: every row has {same}, so there is one segment only; sources are told apart by "
            "how they change with u, which needs at least two values and better many. Without --u, --method "
            "linear or vae can be fitted"
        )
    encoder = AuxiliaryEncoder.from_values(u, n_rows=table.n_rows)
    if encoder.kind != "discrete":
        return
    codes = encoder.encode(u)
    counts = np.bincount(codes, minlength=encoder.n_segments)
    if counts.min() >= 2:
        return
    small = np.flatnonzero(counts < 2)
    segment = encoder.segment_names()[small[0]]
    row = int(np.argmax(codes == small[0]))
    more = f" ({len(small)} of {len(counts)} segments are so small)" if len(small) > 1 else ""
    raise DataError(
        f"{table.path}: segment {', '.join(selection.u)} = {segment} has only one row ({table.place(row)})"
        f"{more}; expected at least two rows for each value of u; merge rare values, remove their rows, or, "
        "if u is a number rather than a label, write it with decimals; if it is a time, use --windows instead"
    )
