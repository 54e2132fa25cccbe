"""Checkpoints: one file, replaced atomically, that refuses to resume anything but its own fit."""

import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from identica.errors import ModelFileError, StorageError
from identica.typing import PyTree

_FORMAT = 3
_NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint file holds."""

    arrays: list[np.ndarray]
    numbers: dict[str, Any]


@dataclass
class Checkpoint:
    """Where and how often to save a running fit.

    Attributes
    ----------
    folder : Path
        Folder of the file ``checkpoint.safetensors``; made if it is missing.
    fingerprint : str
        Identifies data, options and versions. An unfinished fit with another one is refused; a
        finished one is in nobody's way and is replaced.
    seed : int
        Of the fit, written along; a file with another one is treated like another fingerprint.
    every_seconds : float
        Least time between two writes.
    """

    folder: Path
    fingerprint: str
    seed: int = 0
    every_seconds: float = 2.0
    _last: float = field(default=float("-inf"), repr=False)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.folder) / _NAME

    def beside(self, name: str) -> "Checkpoint":
        """The checkpoint of a second training of the same fit, in a folder of its own inside this one.

        It is removed with this one.
        """
        return Checkpoint(
            Path(self.folder) / name, f"{self.fingerprint}/{name}", self.seed, self.every_seconds
        )

    def write(
        self, state: PyTree, numbers: dict[str, Any], *, force: bool = False, finished: bool = False
    ) -> None:
        """Save ``state`` and JSON-ready ``numbers``, unless the last write was a moment ago.

        ``finished`` says that nothing is left to train; such a state is always written.

        Raises
        ------
        StorageError
            If the disk is full or not writable; the previous checkpoint stays.
        """
        if not (force or finished) and time.monotonic() - self._last < self.every_seconds:
            return
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
        arrays = {f"{i:05d}": leaf.copy(order="C") for i, leaf in enumerate(leaves)}
        text = json.dumps({**numbers, "seed": self.seed, "finished": finished})
        header = {
            "format": str(_FORMAT),
            "fingerprint": self.fingerprint,
            "numbers": text,
            "sha256": _digest(leaves, text + self.fingerprint),
        }
        write_atomically(self.path, save(arrays, metadata=header))
        self._last = time.monotonic()

    def remembered_seed(self) -> int | None:
        """The seed of the fit that was saved here, if it agrees with this one in all else.

        Raises
        ------
        ModelFileError
            If the file is damaged.
        """
        read = self._read()
        return None if read is None or read[1] != self.fingerprint else read[0].numbers["seed"]

    def read(self) -> Saved | None:
        """The saved state, or None if there is none, or only the end of another fit.

        Raises
        ------
        ModelFileError
            If the file is damaged, or is an unfinished fit of other data, options or seed.
        """
        read = self._read()
        if read is None:
            return None
        saved, fingerprint = read
        if fingerprint == self.fingerprint and saved.numbers["seed"] == self.seed:
            return saved
        if saved.numbers["finished"]:
            return None
        raise ModelFileError(
            f"{self.path} belongs to an unfinished fit of other data, options, seed or version; "
            "resume with the same ones, or delete it to start anew"
        )

    def _read(self) -> tuple[Saved, str] | None:
        """The file's content and fingerprint, checked against its checksum."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="numpy") as file:
                header = file.metadata() or {}
                arrays = [file.get_tensor(name) for name in sorted(file.keys())]
            text, fingerprint = header["numbers"], header["fingerprint"]
            numbers = json.loads(text)
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise ModelFileError(
                f"{self.path} is not a readable checkpoint ({error}); delete it to start anew"
            ) from None
        if header.get("format") != str(_FORMAT):
            raise ModelFileError(
                f"{self.path} has format {header.get('format')!r}, this version reads format {_FORMAT}; "
                "resume with the version that wrote it, or delete it to start anew"
            )
        if header.get("sha256") != _digest(arrays, text + fingerprint):
            raise ModelFileError(f"{self.path} is damaged (checksum differs); delete it to start anew")
        return Saved(arrays, numbers), fingerprint

    def restore(self, template: PyTree, saved: Saved) -> PyTree:
        """The saved arrays in the structure of ``template``."""
        leaves, structure = jax.tree.flatten(template)
        shapes = [(leaf.shape, np.asarray(leaf).dtype) for leaf in leaves]
        if shapes != [(array.shape, array.dtype) for array in saved.arrays]:
            raise ModelFileError(f"{self.path} holds arrays of other shapes; delete it to start anew")
        return jax.tree.unflatten(structure, [jax.numpy.asarray(array) for array in saved.arrays])

    def remove(self) -> None:
        """Delete the file once it is no longer needed, with what a killed process left of one.

        What another fit has written in the meantime stays.
        """
        try:
            if self.read() is None and self.path.exists():
                return
        except ModelFileError:
            return
        self.path.unlink(missing_ok=True)
        for later in self.path.parent.glob(f"*/{_NAME}"):
            Checkpoint(later.parent, f"{self.fingerprint}/{later.parent.name}", self.seed).remove()
        for partial in self.path.parent.glob(f".{_NAME}.*.partial"):
            partial.unlink(missing_ok=True)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    Raises
    ------
    StorageError
        If it cannot be written; the old file is untouched and no partial file is left.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            error.errno,
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder",
        ) from None


def _digest(arrays: list[np.ndarray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
