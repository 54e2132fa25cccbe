"""The auxiliary variable u: what kind it is, and its encoding as segment codes or numbers."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from identica.errors import DataError
from identica.typing import FloatArray, IntArray

Kind = Literal["discrete", "continuous"]


def auxiliary_columns(u: Any, *, n_rows: int | None = None) -> dict[str, np.ndarray]:
    """Split u into named one-dimensional columns.

    Parameters
    ----------
    u : array-like of shape (N,) or (N, m), Series or data frame
        Labels of any type, numbers, times, or a frame of them.
    n_rows : int, optional
        Expected number of rows.

    Raises
    ------
    DataError
        If u has another number of rows, more than two dimensions, missing values, or columns of one name.
    """
    if hasattr(u, "columns"):
        names = [str(name) for name in u.columns]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise DataError(
                f"u has several columns named {repeated[0]!r}; give each column a name of its own"
            )
        columns = {str(name): _as_array(u[name]) for name in u.columns}
    else:
        array = _as_array(u)
        if array.ndim == 1:
            name = getattr(u, "name", None)
            columns = {str(name) if name is not None else "u": array}
        elif array.ndim == 2 and array.shape[1] > 0:
            columns = {f"u{j}": array[:, j] for j in range(array.shape[1])}
        else:
            raise DataError(
                f"u must have shape (n_samples,) or (n_samples, m), got {array.shape}; "
                "pass one value per row of X"
            )
    for name, values in columns.items():
        if n_rows is not None and len(values) != n_rows:
            raise DataError(
                f"u column {name!r} has {len(values)} rows but X has {n_rows}; u needs one value per row of X"
            )
        bad = _missing(values)
        if bad.any():
            raise DataError(
                f"u column {name!r} is missing or not finite in {int(bad.sum())} row(s), first in row "
                f"{int(np.argmax(bad))}; drop these rows or give them a label of their own"
            )
    return columns


@dataclass(frozen=True)
class Column:
    """One column of u: a label with its categories, or a number with its centre and scale."""

    name: str
    kind: Literal["label", "number"]
    categories: tuple[Any, ...] = ()
    center: float = 0.0
    scale: float = 1.0

    def codes(self, values: np.ndarray) -> IntArray:
        """Position of each value among the categories, int64 (N,)."""
        lookup = {category: code for code, category in enumerate(self.categories)}
        items = [_plain(value) for value in values.tolist()]
        unseen = sorted({str(item) for item in items if item not in lookup})
        if unseen:
            raise DataError(
                f"u column {self.name!r} has values the model was not fitted on: {', '.join(unseen[:5])}"
                f"{', …' if len(unseen) > 5 else ''}; fitted on {_shorten(self.categories)}. "
                "Call without u, or refit with rows of these values"
            )
        return np.fromiter((lookup[item] for item in items), dtype=np.int64, count=len(items))


@dataclass(frozen=True)
class AuxiliaryEncoder:
    """Turns u into what priors take: int codes of segments, or standardised numbers.

    Integers, strings, booleans, categories and floats that are all whole numbers are labels; other
    floats are numbers, and so are times and time spans, in seconds (pass days as strings to have
    labels). If every column is a label, each combination that occurs is one segment
    (``kind="discrete"``). Otherwise labels are one-hot coded and numbers standardised
    (``kind="continuous"``).

    Examples
    --------
    >>> import numpy as np
    >>> encoder = AuxiliaryEncoder.from_values(np.array(["rest", "task", "rest", "task"]))
    >>> encoder.kind, encoder.n_segments, encoder.encode(np.array(["task", "rest"])).tolist()
    ('discrete', 2, [1, 0])
    """

    columns: tuple[Column, ...]
    segments: tuple[tuple[int, ...], ...] = field(default=())

    @classmethod
    def from_values(cls, u: Any, *, n_rows: int | None = None) -> "AuxiliaryEncoder":
        """Learn categories, centres and scales from u."""
        values = auxiliary_columns(u, n_rows=n_rows)
        columns = tuple(_describe(name, column) for name, column in values.items())
        if any(column.kind == "number" for column in columns):
            return cls(columns)
        codes = np.stack([column.codes(values[column.name]) for column in columns], axis=1)
        segments = tuple(tuple(int(c) for c in row) for row in np.unique(codes, axis=0))
        return cls(columns, segments)

    @property
    def kind(self) -> Kind:
        """``"discrete"`` if every column is a label, else ``"continuous"``."""
        return "discrete" if self.segments else "continuous"

    @property
    def n_segments(self) -> int:
        """Number of distinct values of a discrete u; 0 for a continuous one."""
        return len(self.segments)

    @property
    def n_features(self) -> int:
        """Columns of the encoded continuous u."""
        return sum(1 if c.kind == "number" else len(c.categories) for c in self.columns)

    def segment_names(self) -> list[str]:
        """A readable name per segment, in the order of the codes."""
        return [
            ", ".join(str(column.categories[code]) for column, code in zip(self.columns, codes, strict=True))
            for codes in self.segments
        ]

    def encode(self, u: Any, *, n_rows: int | None = None) -> np.ndarray:
        """Codes int32 (N,) of a discrete u, or features float64 (N, m) of a continuous one.

        Raises
        ------
        DataError
            On unseen labels, missing columns, or another number of rows.
        """
        values = auxiliary_columns(u, n_rows=n_rows)
        if len(values) != len(self.columns):
            raise DataError(
                f"u has {len(values)} column(s), the model was fitted with {len(self.columns)}: "
                f"{_shorten([c.name for c in self.columns])}"
            )
        # By name where the names are the fitted ones (a frame with another column order), else by place.
        by_name = set(values) == {column.name for column in self.columns}
        ordered = [values[c.name] for c in self.columns] if by_name else list(values.values())
        if self.kind == "discrete":
            return self._encode_segments(ordered)
        parts: list[FloatArray] = []
        for column, array in zip(self.columns, ordered, strict=True):
            if column.kind == "number":
                parts.append((_as_float(column.name, array)[:, None] - column.center) / column.scale)
            else:
                parts.append(np.eye(len(column.categories))[column.codes(array)])
        return np.concatenate(parts, axis=1)

    def _encode_segments(self, ordered: list[np.ndarray]) -> IntArray:
        codes = np.stack([c.codes(v) for c, v in zip(self.columns, ordered, strict=True)], axis=1)
        lookup = {segment: i for i, segment in enumerate(self.segments)}
        unique, inverse = np.unique(codes, axis=0, return_inverse=True)
        rows = [tuple(int(c) for c in row) for row in unique]
        unseen = [row for row in rows if row not in lookup]
        if unseen:
            names = [c.categories[i] for c, i in zip(self.columns, unseen[0], strict=True)]
            raise DataError(
                f"u combines {names}, which did not occur together in the rows the model was fitted on"
            )
        table = np.array([lookup[row] for row in rows], dtype=np.int32)
        return table[inverse.reshape(-1)]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description."""
        return {"columns": [asdict(c) for c in self.columns], "segments": [list(s) for s in self.segments]}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "AuxiliaryEncoder":
        """The inverse of `to_dict`."""
        columns = tuple(Column(**{**c, "categories": tuple(c["categories"])}) for c in state["columns"])
        return cls(columns, tuple(tuple(s) for s in state["segments"]))


def _as_array(values: Any) -> np.ndarray:
    """NumPy's view of a column; pandas' times with a time zone as times in UTC rather than as objects."""
    if str(getattr(values, "dtype", "")).startswith("datetime64[") and hasattr(values, "dt"):
        return values.to_numpy(dtype="datetime64[ns]")
    return np.asarray(values)


def _seconds(times: np.ndarray) -> FloatArray:
    """Times since 1970, or time spans, in seconds; to the microsecond."""
    unit = "datetime64[us]" if times.dtype.kind == "M" else "timedelta64[us]"
    return times.astype(unit).astype(np.int64) / 1e6


def _describe(name: str, values: np.ndarray) -> Column:
    if values.dtype.kind in "mM":
        values = _seconds(values)
        center, scale = float(values.mean()), float(values.std())
        return Column(name, "number", center=center, scale=scale if scale > 0 else 1.0)
    if values.dtype.kind == "f" and not np.all(values == np.round(values)):
        center, scale = float(values.mean()), float(values.std())
        return Column(name, "number", center=center, scale=scale if scale > 0 else 1.0)
    if values.dtype.kind not in "fiubOUST":
        raise DataError(f"u column {name!r} has type {values.dtype}; use labels or numbers")
    distinct = {_plain(value) for value in values.tolist()}
    try:
        ordered = sorted(distinct)
    except TypeError:  # labels of several types, for example "rest" and 3
        ordered = sorted(distinct, key=lambda item: (type(item).__name__, str(item)))
    return Column(name, "label", categories=tuple(ordered))


def _plain(value: Any) -> Any:
    """One spelling per label: 1, 1.0 and "1" from a text file differ only in type for numbers."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else str(value)


def _missing(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return ~np.isfinite(values)
    if values.dtype.kind in "mM":
        return np.isnat(values)
    if values.dtype.kind == "O":
        return np.array([_is_missing(value) for value in values.tolist()], dtype=bool)
    return np.zeros(len(values), dtype=bool)


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except TypeError:  # pandas.NA: whether it equals itself is not known
        return True


def _as_float(name: str, values: np.ndarray) -> FloatArray:
    if values.dtype.kind in "mM":
        return _seconds(values)
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        raise DataError(f"u column {name!r} must hold numbers, got {values[:3].tolist()}") from None


def _shorten(items: Any, most: int = 6) -> str:
    items = [str(item) for item in items]
    return ", ".join(items[:most]) + (f", … ({len(items)} in all)" if len(items) > most else "")
