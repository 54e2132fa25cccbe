"""``identica inspect``: what a run folder holds."""

from pathlib import Path

from identica.cli.output import SIGNS, Common, emit, say
from identica.cli.runs import Run


def inspect(run: Path, *, common: Common | None = None) -> None:
    """Show what a run folder holds, or how far an interrupted run came.

    Parameters
    ----------
    run
        Run folder that `identica fit` wrote.
    """
    common = common or Common()
    folder = Run(run)
    record = folder.read()
    result = record.get("result", {})
    u = f", u = {', '.join(record['u'])}" if record["u"] else ""
    say(f"{run}: {record['status']}, {record['options']['method']}, seed {record['seed']}")
    say(f"  table    {record['table']} ({record['n_rows']} rows, {len(record['columns'])} columns{u})")
    say(
        f"  started  {record['started']}"
        + (f", finished {record['finished']}" if "finished" in record else "")
    )
    if result:
        say(f"  result   {result['message']}, {result['seconds']:.0f} s")
        for finding in result["findings"]:
            say(f"  {SIGNS[finding['verdict']]} {finding['text']}")
    elif record["status"] == "failed":
        say(f"  error    {record.get('error')}")
    if record["status"] != "done":
        progress = record.get("progress")  # empty where no chunk of training was complete
        if progress:
            say(
                f"  came to  {progress['fraction']:.0%} after {progress['seconds']:.0f} s, stage "
                f"{progress['stage']}, step {progress['step']} of {progress['steps']}"
            )
        else:
            say("  came to  nothing yet")
        saved = folder.checkpoint.is_dir() and any(folder.checkpoint.iterdir())
        say(f"  {'continue' if saved else 'start again'} with: identica fit --out {run} --resume")
    say(f"  files    {', '.join(folder.files())}")
    shown = {key: value for key, value in record.items() if key not in ("command", "format")}
    emit(common, "inspect", {"run": str(run), **shown, "files": folder.files()})
