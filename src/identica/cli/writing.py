"""Results to files: the ending names the format, and a file is there in full or not at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from identica.cli.output import UsageError, plain
from identica.report.storage import storage_errors, write_text, write_with

ENDINGS = (".csv", ".tsv", ".npz", ".parquet")


def check_output(path: Path) -> None:
    """Refuse an unknown ending or a missing folder before any work is done.

    Raises
    ------
    UsageError
        The file cannot be written like this.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"--out {path}: expected a file that ends in {', '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--out {path}: the folder {path.absolute().parent} does not exist")
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder; expected a file")


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write named columns without an index, as csv, tsv, npz (one array per column) or parquet.

    Raises
    ------
    StorageError
        The file cannot be written; an older one is then untouched.
    DataError
        parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        columns = {str(name): _array(frame[name].to_numpy()) for name in frame.columns}
        write_with(path, lambda file: np.savez_compressed(file, allow_pickle=False, **columns))
    elif suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            from identica.errors import DataError

            raise DataError(
                f"writing {path} needs pyarrow, which is not installed; run: pip install 'identica[io]'"
            ) from error
        write_with(path, lambda file: frame.to_parquet(file, index=False))
    else:
        separator = "\t" if suffix == ".tsv" else ","
        write_with(path, lambda file: frame.to_csv(file, index=False, sep=separator))


def write_history(path: Path, history: dict[str, Any]) -> None:
    """One JSON object per entry of a training history.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    keys = list(history)
    rows = zip(*(np.asarray(history[key]).tolist() for key in keys), strict=True)
    lines = [json.dumps(plain(dict(zip(keys, row, strict=True)))) for row in rows]
    with storage_errors(path):
        write_text(path, "\n".join(lines) + ("\n" if lines else ""))


def _array(array: np.ndarray) -> np.ndarray:
    return array.astype(np.str_) if array.dtype.kind == "O" else array
