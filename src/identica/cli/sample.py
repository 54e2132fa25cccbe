"""``identica sample``: new rows from a fitted run."""

from pathlib import Path
from typing import Annotated, Any, cast

from cyclopts import Parameter, validators

from identica.cli.output import Common, emit, say, short_warnings
from identica.cli.runs import Run


def sample(
    run: Path,
    *,
    out: Path,
    n: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1000,
    at: Annotated[list[str] | None, Parameter(negative=())] = None,
    seed: int = 0,
    common: Common | None = None,
) -> None:
    """Draw new rows and their sources from a fitted run.

    Values of u are drawn from the rows the run was fitted on, unless --at fixes them.

    Parameters
    ----------
    run
        Run folder that `identica fit` wrote.
    out
        File to write: csv, tsv, npz or parquet.
    n
        Number of rows.
    at
        Value of a column of u, as in --at segment=3; other columns are drawn from rows that have it.
    seed
        All randomness derives from it.
    """
    common = common or Common()
    import numpy as np
    import pandas as pd

    from identica.cli.writing import check_output, write_frame

    check_output(out)
    folder = Run(run)
    estimator, record = folder.load()
    u = _draw_u(folder, record, at or [], n, seed)
    with short_warnings() as warnings:
        x, sources = estimator.sample(n, u=u, random_state=seed)
    names = [str(name) for name in estimator.get_feature_names_out()]
    parts = [
        pd.DataFrame(np.asarray(x), columns=record["columns"]),
        pd.DataFrame(np.asarray(sources), columns=names),
    ]
    if u is not None:
        parts.append(pd.DataFrame(u).reset_index(drop=True))
    write_frame(out, pd.concat(parts, axis=1))
    say(f"{n} rows: {out}")
    columns = [str(name) for part in parts for name in part.columns]
    emit(
        common,
        "sample",
        {"run": str(run), "n_rows": n, "columns": columns, "out": str(out), "warnings": warnings},
    )


def _draw_u(folder: Run, record: dict[str, Any], at: list[str], n: int, seed: int) -> Any:
    """Rows of u as they occurred in the fit, so that only combinations that exist are drawn."""
    import numpy as np
    import pandas as pd

    from identica.cli.tables import read_table
    from identica.errors import DataError

    if not record["u"]:
        if at:
            raise DataError(f"--at {at[0]}: {folder.folder} was fitted without u")
        return None
    stored = cast(pd.DataFrame, read_table(folder.sources).frame[record["u"]])
    for item in at:
        name, equals, value = item.partition("=")
        if not equals or name not in record["u"]:
            raise DataError(
                f"--at {item}: expected COLUMN=VALUE with a column of u ({', '.join(record['u'])})"
            )
        column = cast(pd.Series, stored[name])
        numeric = column.dtype.kind in "iufb"
        try:
            matches = np.asarray(column == (float(value) if numeric else value))
        except ValueError:
            matches = np.zeros(len(column), dtype=bool)
        if not matches.any():
            values = ", ".join(str(v) for v in column.drop_duplicates().head(8))
            raise DataError(f"--at {item}: no row of the fit has this value; {name} has {values}, …")
        stored = stored.loc[matches]
    rows = np.random.default_rng(seed).integers(len(stored), size=n)
    drawn = stored.iloc[rows].reset_index(drop=True)
    return drawn[record["u"][0]] if len(record["u"]) == 1 else drawn
