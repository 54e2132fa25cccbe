"""``identica simulate``: a data set whose sources are known."""

from pathlib import Path
from typing import Any

from identica.cli.output import Common, UsageError, emit, say


def simulate(
    name: str, *, out: Path, seed: int = 0, common: Common | None = None, **option: float | str
) -> None:
    """Write a simulated data set: observed columns x1, x2, …, then u, then true sources s1, s2, ….

    Any further option is passed to the scenario: identica simulate tcl --out data.csv --n 5

    Parameters
    ----------
    name
        Scenario, for example figure1, icebeem, iflow, tcl or linear.
    out
        File to write: csv, tsv, npz or parquet.
    seed
        All randomness derives from it.
    option
        Sizes of the scenario.
    """
    common = common or Common()
    import identica
    from identica.cli.writing import check_output, write_frame

    check_output(out)
    sizes: dict[str, Any] = {
        key.replace("-", "_"): int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in option.items()
    }
    try:
        simulation = identica.simulate(name, seed=seed, **sizes)
    except (TypeError, ValueError, KeyError) as error:
        text = error.args[0] if error.args else error
        raise UsageError(f"simulate {name}: {text}") from error
    frame = frame_of(simulation)
    write_frame(out, frame)
    columns = [str(column) for column in frame.columns]
    say(f"{name}: {len(frame)} rows, columns {', '.join(columns)}: {out}")
    content = {"name": name, "seed": seed, "options": sizes, "n_rows": len(frame), "columns": columns}
    emit(common, "simulate", {**content, "out": str(out)})


def frame_of(simulation: Any) -> Any:
    """The arrays of a simulation as one table: ``x1, …``, ``u`` (or ``u1, …``), ``s1, …``."""
    import numpy as np
    import pandas as pd

    columns: dict[str, Any] = {f"x{j + 1}": x for j, x in enumerate(np.asarray(simulation.X).T)}
    if simulation.u is not None:
        u = np.asarray(simulation.u)
        columns |= {"u": u} if u.ndim == 1 else {f"u{j + 1}": v for j, v in enumerate(u.T)}
    sequence = getattr(simulation, "sequence", None)
    if sequence is not None:
        columns["sequence"] = np.asarray(sequence)
    columns |= {f"s{j + 1}": s for j, s in enumerate(np.asarray(simulation.S).T)}
    return pd.DataFrame(columns)
