"""The run folder: what lies where, and the record ``run.json`` of what was done."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from identica.cli.output import UsageError, plain
from identica.errors import DataError
from identica.report.storage import storage_errors, write_text

FORMAT = 1


@dataclass(frozen=True)
class Run:
    """Paths of one run folder.

    Attributes
    ----------
    folder : Path
        The folder that ``fit --out`` names.
    """

    folder: Path

    @property
    def model(self) -> Path:
        """Folder of the fitted model."""
        return self.folder / "model"

    @property
    def sources(self) -> Path:
        """Recovered sources, one row per row of the table, followed by u."""
        return self.folder / "sources.csv"

    @property
    def history(self) -> Path:
        """Training curves, one JSON object per line."""
        return self.folder / "history.jsonl"

    @property
    def config(self) -> Path:
        """Resolved options; ``fit --config`` reads it back."""
        return self.folder / "config.toml"

    @property
    def checkpoint(self) -> Path:
        """Folder of the state of an unfinished fit."""
        return self.folder / "checkpoint"

    @property
    def record(self) -> Path:
        """What was done to which data, and how it ended."""
        return self.folder / "run.json"

    def files(self) -> list[str]:
        """Names of the results that exist."""
        names = ["model", "sources.csv", "report.html", "report.json", "history.jsonl", "run.json"]
        return [name for name in [*names, "config.toml", "checkpoint"] if (self.folder / name).exists()]

    def read(self) -> dict[str, Any]:
        """The record.

        Raises
        ------
        DataError
            If the folder is no run folder, or its record is damaged.
        """
        if not self.folder.is_dir():
            raise DataError(f"{self.folder} is not a folder; expected a run folder that `identica fit` wrote")
        if not self.record.exists():
            raise DataError(f"{self.folder} has no run.json; expected a run folder that `identica fit` wrote")
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            if record["format"] != FORMAT:
                raise DataError(f"{self.record} has format {record['format']}, this version reads {FORMAT}")
        except (ValueError, KeyError, TypeError, OSError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.record} is damaged ({error}); fit again with --overwrite") from error
        return record

    def write(self, record: dict[str, Any]) -> None:
        """Replace the record.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        write_text(self.record, json.dumps(plain({"format": FORMAT, **record}), indent=2) + "\n")

    def load(self) -> tuple[Any, dict[str, Any]]:
        """The fitted model and the record of a finished run.

        Raises
        ------
        DataError
            If the run is unfinished, or the model is damaged.
        """
        record = self.read()
        if record["status"] != "done":
            raise DataError(
                f"{self.folder} is not finished (status: {record['status']}); continue it with: "
                f"identica fit --out {self.folder} --resume"
            )
        from identica import load

        return load(self.model), record

    def prepare(self, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
        """Make the folder ready for a fit; the record of the run to resume, if there is one.

        Raises
        ------
        UsageError
            If the folder holds something that must not be overwritten without being asked to.
        StorageError
            If the folder cannot be made.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"--out {self.folder} is a file; expected a folder, or a name for a new one")
        if self.folder.is_dir() and any(self.folder.iterdir()):
            if not self.record.exists():
                raise UsageError(
                    f"--out {self.folder} is a folder with other things in it; choose an empty or a new one"
                )
            if overwrite:
                with storage_errors(self.checkpoint):
                    shutil.rmtree(self.checkpoint, ignore_errors=True)
                return None
            status = self.read()["status"]
            if resume:
                return self.read()
            if status == "done":
                raise UsageError(
                    f"--out {self.folder} holds a finished run; choose another folder, or add --overwrite"
                )
            raise UsageError(
                f"--out {self.folder} holds an unfinished run (status: {status}); add --resume to continue "
                "it, or --overwrite to start anew"
            )
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        return None


def to_toml(options: dict[str, Any]) -> str:
    """Options as TOML; None is left out, which means the default."""
    lines = [
        # JSON's strings, numbers, booleans and lists of strings are TOML's too.
        f"{key.replace('_', '-')} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in options.items()
        if value is not None and value != []
    ]
    return "\n".join(lines) + "\n"


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    import platform
    from importlib.metadata import version

    names = ["identica", "jax", "numpy", "scikit-learn"]
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
