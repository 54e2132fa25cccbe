"""Exceptions, and the status enumeration whose members are the messages."""

import enum


class IdenticaError(Exception):
    """Base of all errors that identica raises on purpose."""


class DataError(IdenticaError, ValueError):
    """The data cannot be used as given; the message names what was expected, what came, what to try."""


class NonFiniteError(DataError):
    """No restart ever had a finite objective, so there is nothing to return."""


class NotMonotoneError(IdenticaError, ArithmeticError):
    """A step that can only improve the objective made it worse by more than rounding."""


class ModelFileError(DataError):
    """A saved model or checkpoint is damaged, truncated, foreign or of another format."""


class StorageError(IdenticaError, OSError):
    """Writing failed (disk full, no permission); what had been saved before is untouched."""


class Interrupted(KeyboardInterrupt):
    """Training was stopped by Ctrl-C at a chunk border; the checkpoint, if any, is complete."""


class Status(enum.Enum):
    """How a fit, or one restart of it, ended. The value is the message shown to people."""

    CONVERGED = "converged: the held-out objective no longer improved, or the schedule ran to its end"
    MAX_ITER = "stopped at max_iter while the held-out objective was still improving; raise max_iter"
    NON_FINITE = (
        "the objective became non-finite; the last finite parameters were kept. "
        "Likely cause: extreme values in X; try removing gross outliers or precision='float64'"
    )
    STOPPED = "stopped early by a callback"

    @property
    def ok(self) -> bool:
        """Whether the result can be used without a warning."""
        return self in (Status.CONVERGED, Status.STOPPED)


class DataWarning(UserWarning):
    """Something about the data was changed or set aside; the message says what, and how to avoid it."""
