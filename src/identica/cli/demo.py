"""``identica demo``: the main job on built-in data, with pictures."""

import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from identica.cli.output import Common, UsageError, emit, say, short_warnings

_FILES = ("figure1.png", "photographs.png", "report.html", "report.json")


def demo(
    *,
    out: Path = Path("identica-demo"),
    quick: Annotated[bool, Parameter(negative=())] = False,
    seed: int = 0,
    common: Common | None = None,
) -> None:
    """Watch it work on built-in data: Figure 1 of the iVAE paper, and two photographs unmixed.

    Takes up to three minutes on two cores, and writes two pictures, a report and its numbers.

    Parameters
    ----------
    out
        Folder to write.
    quick
        Less data and less training: a minute or two on two cores, worse pictures.
    seed
        All randomness derives from it.
    """
    common = common or Common()
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; expected a folder, or a name for a new one")
    if out.is_dir() and any(item.name not in _FILES for item in out.iterdir()):
        raise UsageError(f"--out {out} is a folder with other things in it; choose an empty or a new one")
    from identica.cli.demo_runs import run_figure1, run_photographs
    from identica.report.demo import write_demo
    from identica.report.storage import storage_errors

    started = time.monotonic()
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with short_warnings() as warnings:
        figure1 = run_figure1(quick=quick, seed=seed)
        photographs = run_photographs(quick=quick, seed=seed)
    seconds = time.monotonic() - started
    numbers = write_demo(out, figure1, photographs, seconds=seconds, quick=quick)
    _say_table(numbers)
    say(f"{seconds:.0f} s; pictures and report: {out / 'report.html'}")
    emit(common, "demo", {**numbers, "files": [str(out / name) for name in _FILES], "warnings": warnings})


def _say_table(numbers: dict[str, Any]) -> None:
    from rich.table import Table

    from identica.cli.output import console
    from identica.report.demo import SCORE_NAMES

    for title, key in (
        ("Figure 1: correlation with the true sources (MCC)", "figure1"),
        ("Photographs: correlation with the originals, held-out pixels", "photographs"),
    ):
        table = Table(title=title, title_justify="left")
        methods = numbers[key]["methods"]
        scores = [score for score in SCORE_NAMES if score in methods[0]]
        table.add_column("method")
        for score in scores:
            table.add_column(SCORE_NAMES[score], justify="right")
        for method in methods:
            table.add_row(method["name"], *(f"{method[score]:.3f}" for score in scores))
        console().print(table)
