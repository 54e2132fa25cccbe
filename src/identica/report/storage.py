"""Writing files so that a reader sees the old content or the new, never half of it."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from identica.errors import StorageError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the place of ``path`` if no error occurs.

    Raises
    ------
    StorageError
        Disk full, no permission, no such folder. What stood at ``path`` is untouched.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("done")
    >>> target.read_text()
    'done'
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        with storage_errors(path):
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
            temporary = Path(name)
            os.close(handle)
            # mkstemp makes private files; results get the permissions an ordinary new file would have.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            yield temporary
            with open(temporary, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            temporary = None
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def storage_errors(path: str | Path) -> Iterator[None]:
    """Turn an operating system error while writing ``path`` into a `StorageError` that names it."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"writing {path} failed: {error.strerror or error}. What had been saved before is untouched; "
            "free some space or choose another place with --out"
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """Write text atomically, UTF-8.

    Raises
    ------
    StorageError
        The text could not be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_with(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write(temporary_path)`` write the file, then put it in place."""
    with replacing(path) as temporary:
        write(temporary)


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
