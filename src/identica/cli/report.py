"""``identica report``: build the HTML report of a run again."""

from pathlib import Path

from identica.cli.output import Common, emit, say
from identica.cli.runs import Run


def report(run: Path, *, common: Common | None = None) -> None:
    """Build the HTML report of a run again from what is stored; nothing is computed anew.

    Parameters
    ----------
    run
        Run folder that `identica fit` wrote.
    """
    common = common or Common()
    from identica.errors import DataError
    from identica.report.contents import read_contents
    from identica.report.write import write_report

    record = Run(run).read()
    if record["status"] != "done":
        raise DataError(
            f"{run} is not finished (status: {record['status']}), so there is nothing to report yet; "
            f"continue it with: identica fit --out {run} --resume"
        )
    path = write_report(run, read_contents(run))
    say(f"report: {path}")
    emit(common, "report", {"run": str(run), "out": str(path)})
