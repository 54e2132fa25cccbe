"""The command line application: its commands, its configuration file, its exit codes."""

import sys
import tomllib
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError

from identica.cli.output import UsageError, console, print_json, say

DONE, FAILURE, USAGE, BAD_DATA, NOT_CONVERGED, INTERRUPTED = 0, 1, 2, 3, 4, 130

# Commands are named, not imported: what they need is loaded when one runs.
_COMMANDS = {
    "demo": "Watch it work on built-in data: Figure 1 of the iVAE paper, and two photographs unmixed.",
    "fit": "Fit a model to a table and write sources, model and report to a run folder.",
    "transform": "Compute the sources of another table with a fitted run.",
    "compare": "Fit several methods to the same rows and rank them by rows that none has seen.",
    "evaluate": "Score a fitted run on another table, and against true sources where they are known.",
    "sample": "Draw new rows and their sources from a fitted run.",
    "simulate": "Write a simulated data set whose sources are known.",
    "reproduce": "Rerun a published benchmark and print its scores beside the published ones.",
    "inspect": "Show what a run folder holds, or how far an interrupted run came.",
    "report": "Build the HTML report of a run again from what is stored.",
}

_HELP = """Recover the independent sources behind nonlinear mixtures, and know how far to trust them.

Try `identica demo` first. With a table of your own: `identica fit TABLE --u COLUMN --out RUN`.

Exit codes: 0 done, 1 failure, 2 usage, 3 bad data, 4 not converged under --strict, 130 interrupted."""


class NotConverged(Exception):
    """The result is written, but ``--strict`` was asked for and the fit did not converge; exit code 4."""

    code = NOT_CONVERGED


class NotFinite(NotConverged):
    """The result is written, but training went wrong: its objective became non-finite; exit code 3."""

    code = BAD_DATA


def build() -> App:
    """The application with all its commands."""
    app = App(
        name="identica",
        help=_HELP,
        help_format="markdown",
        version=_version,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, text in _COMMANDS.items():
        app.command(f"identica.cli.{name}:{name}", name=name, help=text)
    return app


def run(tokens: list[str]) -> int:
    """Run one command and return its exit code; errors become one short message."""
    command = next((token for token in tokens if token in _COMMANDS), "")
    debug = "--debug" in tokens

    def fail(code: int, error: BaseException, text: str) -> int:
        if debug:
            console().print_exception()
        say(f"identica: {text}")
        if "--json" in tokens:
            name = type(error).__name__
            print_json(command, {"error": {"type": name, "message": text}, "exit_code": code})
        return code

    try:
        app = build()
        config = _config_path(tokens, command)
        if config is not None:
            app.config = _Config(config)
        app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        hint = f"Try: identica {command} --help".replace("  ", " ")
        return fail(USAGE, error, f"{_first_paragraph(error)}\n{hint}")
    except UsageError as error:
        return fail(USAGE, error, str(error))
    except KeyboardInterrupt as error:
        return fail(INTERRUPTED, error, str(error) or "interrupted")
    except NotConverged as error:
        say(f"identica: {error}")  # the JSON object of the result is out already
        return error.code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else FAILURE
    except BrokenPipeError:
        # The reader of standard output went away, as `head` does.
        sys.stdout = None
        return FAILURE
    except Exception as error:
        from identica.errors import DataError, IdenticaError, StorageError

        if isinstance(error, DataError | StorageError):
            return fail(BAD_DATA, error, str(error))
        if isinstance(error, IdenticaError):
            return fail(FAILURE, error, str(error))
        more = "" if debug else "\nTry: the same command with --debug shows where"
        return fail(FAILURE, error, f"{type(error).__name__}: {error}{more}")
    return DONE


class _Config:
    """Options from a TOML file, at its top level or in a table named like the command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, app: App, commands: tuple[str, ...], arguments: Any) -> None:
        from cyclopts.config import Dict

        if not commands:
            return
        options = _read_toml(self.path)
        own = options.get(commands[0], {})
        if not isinstance(own, dict):
            raise UsageError(f"{self.path}: [{commands[0]}] must be a table of options")
        merged = {key: value for key, value in options.items() if key not in _COMMANDS} | own
        Dict(merged, use_commands_as_keys=False, source=str(self.path))(app, (), arguments)


def _config_path(tokens: list[str], command: str) -> Path | None:
    """The file of ``--config``; without one, a resumed fit takes the options it was started with."""
    if (config := _value(tokens, "--config")) is not None:
        return Path(config)
    out = _value(tokens, "--out")
    if command == "fit" and "--resume" in tokens and out is not None:
        stored = Path(out) / "config.toml"
        return stored if stored.exists() else None
    return None


def _value(tokens: list[str], option: str) -> str | None:
    for position, token in enumerate(tokens):
        if token == option and position + 1 < len(tokens):
            return tokens[position + 1]
        if token.startswith(f"{option}="):
            return token.partition("=")[2]
    return None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not TOML: {error}") from error


def _first_paragraph(error: CycloptsError) -> str:
    return str(error).strip().split("\n\n")[0]


def _version() -> str:
    from importlib.metadata import version

    return version("identica")
