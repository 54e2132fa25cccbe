"""npy, npz, mat (version 5) and parquet. Arrays of objects are refused: reading them would unpickle."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from identica.cli.tables import Table
from identica.errors import DataError


def read_npy(path: Path) -> Table:
    """One two-dimensional array (columns ``x1, x2, …``) or a structured array (its field names)."""
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise DataError(_refused(path, error)) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an npz archive with the ending .npy; rename it to .npz")
    if array.dtype.names:
        return Table(path, pd.DataFrame({name: array[name] for name in array.dtype.names}))
    if array.ndim != 2:
        raise DataError(f"{path} holds an array of shape {array.shape}; expected (rows, columns)")
    return Table(path, pd.DataFrame(array, columns=[f"x{j + 1}" for j in range(array.shape[1])]))


def read_npz(path: Path) -> Table:
    """All arrays of an archive that have as many rows as its largest table."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise DataError(_refused(path, error)) from error
    return _from_arrays(path, arrays)


def read_mat(path: Path) -> Table:
    """All arrays of a MATLAB file of version 5 to 7.2 that have as many rows as its largest table."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        variables = loadmat(path)
    except NotImplementedError as error:
        raise DataError(
            f"{path} is a MATLAB file of version 7.3; save it again with the option '-v7'"
        ) from error
    except (MatReadError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a MATLAB file of version 5 to 7.2: {error}") from error
    arrays = {name: _plain(value) for name, value in variables.items() if not name.startswith("__")}
    return _from_arrays(path, arrays)


def read_parquet(path: Path) -> Table:
    """A parquet file, through pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"reading {path} needs pyarrow, which is not installed; run: pip install 'identica[io]'"
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from error
    duplicates = [name for name in dict.fromkeys(table.column_names) if table.column_names.count(name) > 1]
    if duplicates:
        raise DataError(f"{path} has several columns named {', '.join(map(repr, duplicates))}")
    return Table(path, table.to_pandas().reset_index(drop=True))


def _from_arrays(path: Path, arrays: dict[str, np.ndarray]) -> Table:
    usable = {
        name: a for name, a in arrays.items() if a.ndim in (1, 2) and a.size and a.dtype.kind in "biufUS"
    }
    # The table is the largest array of numbers with two dimensions; labels and the like go beside it.
    matrices = {name: a for name, a in usable.items() if a.ndim == 2 and a.dtype.kind in "biuf"}
    if not usable:
        found = ", ".join(f"{name} {a.shape} {a.dtype}" for name, a in arrays.items()) or "nothing"
        raise DataError(f"{path} has no array of numbers with shape (rows, columns); it holds {found}")
    largest = max((matrices or usable).values(), key=lambda a: a.size)
    columns: dict[str, Any] = {}
    other: dict[str, int] = {}
    for name, array in usable.items():
        if len(array) != len(largest):
            other[name] = len(array)
        elif array.ndim == 1:
            columns[name] = array
        elif array.shape[1] == 1:
            columns[name] = array[:, 0]
        else:
            columns |= {f"{name}{j + 1}": array[:, j] for j in range(array.shape[1])}
    return Table(path, pd.DataFrame(columns), other=other)


def _plain(value: np.ndarray) -> np.ndarray:
    """MATLAB has no vectors and wraps the strings of a cell array: undo both."""
    if value.dtype.kind == "O" and all(isinstance(v, np.ndarray) and v.size == 1 for v in value.ravel()):
        value = np.array([v.item() for v in value.ravel()]).reshape(value.shape)
    return value.reshape(-1) if value.ndim == 2 and 1 in value.shape else value


def _refused(path: Path, error: Exception) -> str:
    if "allow_pickle" in str(error) or "Object arrays" in str(error) or "pickle" in str(error):
        return (
            f"{path} holds Python objects, and reading those can run code, so identica never does; "
            "save arrays of numbers or strings"
        )
    return f"{path} is damaged or not what its ending says: {error}"
