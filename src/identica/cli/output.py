"""What commands say: people read standard error, programs read one JSON object on standard output."""

import json as json_module
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

SCHEMA = 1


class UsageError(Exception):
    """The command was called in a way that cannot work; exit code 2."""


@Parameter(name="*", group="Common options")
@dataclass(frozen=True)
class Common:
    """Options that every command has."""

    json: Annotated[bool, Parameter(negative=())] = False
    """Print one versioned JSON object on standard output."""
    config: Path | None = None
    """TOML file that sets any option of the command; options given here win."""
    debug: Annotated[bool, Parameter(negative=())] = False
    """Show the full traceback of an error."""


def console() -> Console:
    """A console on standard error as it is now, so that redirecting it works."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


SIGNS = {"good": "✓", "warning": "!", "bad": "✗", "info": "·"}
"""Before findings, by their verdicts."""


def say(text: str) -> None:
    """One line for people."""
    console().print(text, markup=False)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """A table for people, which fits a terminal as long as its columns can be wrapped."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    for place, title in enumerate(header):
        left = place == 0 or title in ("score", "mark", "how it was scored")
        whole = place == 0 or title.endswith("(sd)")
        word = max(map(len, [*title.split(), *(row[place] for row in rows)]))
        side = "left" if left else "right"
        table.add_column(title, justify=side, no_wrap=whole, min_width=None if whole else word)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def emit(common: Common, command: str, content: Mapping[str, Any]) -> None:
    """The result of a command for programs, if asked for."""
    if common.json:
        print_json(command, content)


def print_json(command: str, content: Mapping[str, Any]) -> None:
    """Print ``{"schema": 1, "command": …}`` and the content on standard output."""
    json_module.dump({"schema": SCHEMA, "command": command, **plain(content)}, sys.stdout, allow_nan=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """The same value in types JSON knows; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist())
    if hasattr(value, "name") and hasattr(value, "value"):  # enumerations
        return value.name.lower()
    return str(value)


@contextmanager
def short_warnings(*hidden: type[Warning]) -> Iterator[list[str]]:
    """Show warnings as one line each, and collect their texts; leave out ``hidden`` categories."""
    import warnings

    texts: list[str] = []

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        text = str(message)
        if text not in texts:
            texts.append(text)
            say(f"warning: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        noise = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)
        for category in (*noise, *hidden):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show  # type: ignore[assignment]
        yield texts
