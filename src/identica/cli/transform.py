"""``identica transform``: sources of new rows."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from identica.cli.output import Common, emit, say, short_warnings
from identica.cli.runs import Run

_COLUMNS = Parameter(negative=())


def transform(
    run: Path,
    table: Path,
    *,
    out: Path,
    u: Annotated[list[str] | None, _COLUMNS] = None,
    common: Common | None = None,
) -> None:
    """Compute the sources of another table with a fitted run.

    Columns are found by name, so their order does not matter and further columns may be there.

    Parameters
    ----------
    run
        Run folder that `identica fit` wrote.
    table
        Table with the columns that the run was fitted on.
    out
        File to write: csv, tsv, npz or parquet.
    u
        Columns of the auxiliary variable; without them, sources are computed from the columns alone.
    """
    common = common or Common()
    import numpy as np
    import pandas as pd

    from identica.cli.checks import check_selection, takes_holes
    from identica.cli.selection import select_by_name
    from identica.cli.tables import read_table
    from identica.cli.writing import check_output, write_frame

    check_output(out)
    estimator, record = Run(run).load()
    selection = select_by_name(read_table(table), record["columns"], u)
    check_selection(selection, fit=False, holes=takes_holes(estimator))
    with short_warnings() as warnings:
        sources = np.asarray(estimator.transform(selection.observations_frame(), u=selection.auxiliary()))
    names = [str(name) for name in estimator.get_feature_names_out()]
    frame = pd.DataFrame(sources, columns=names)
    write_frame(out, frame)
    say(f"{len(frame)} rows, {len(names)} sources: {out}")
    content = {"run": str(run), "n_rows": len(frame), "sources": names, "u": selection.u, "out": str(out)}
    emit(common, "transform", {**content, "warnings": warnings})
