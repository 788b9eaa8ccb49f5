"""The errors a user can meet: one base class, one line each, with what, where, expected, got and remedy.

Every error that geomol raises on bad input derives from `GeomolError`. The command line prints `str(error)` and ends
with `exit_code`; the traceback is shown with `--debug` only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar, Self


class GeomolError(Exception):
    """Base of all errors of geomol.

    Args:
        what: the fault, as a sentence without a full stop.
        where: file, frame, line or atom at which it was found.
        expected: what would have been right.
        got: the value found.
        remedy: what the user can do about it.
    """

    exit_code: ClassVar[int] = 2

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.got, self.remedy = what, where, expected, got, remedy
        parts = [what if where is None else f"{where}: {what}"]
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {got}")
        text = ", ".join(parts)
        super().__init__(text if remedy is None else f"{text}; {remedy}")

    def within(self, place: str) -> Self:
        """The same error, found inside `place`."""
        where = place if self.where is None else f"{place}, {self.where}"
        return type(self)(self.what, where=where, expected=self.expected, got=self.got, remedy=self.remedy)


class InputError(GeomolError, ValueError):
    """A structure, label or file that cannot mean what it says."""


class ModelDomainError(GeomolError, ValueError):
    """A valid structure that this model was not made for (an element it never saw, a charge it ignores)."""


class ConfigError(GeomolError, ValueError):
    """A setting that is unknown, of the wrong type or out of range."""


class CapacityError(GeomolError, MemoryError):
    """A request that would exceed the memory budget. Nothing is ever truncated to fit."""


class DataError(GeomolError):
    """A data file that is missing, incomplete or has the wrong checksum."""


class SecurityError(GeomolError):
    """A file that could execute code, write outside its folder or exhaust the machine."""


class CheckpointError(GeomolError):
    """A model or training-state file that is damaged, foreign or of another format version."""


class ResumeError(GeomolError):
    """A run that cannot be continued because data, split or configuration changed."""


class BusyError(ResumeError):
    """A folder that another process is writing now."""


class OutputError(GeomolError, OSError):
    """Output that could not be written (disk full, read-only); the last good state is intact."""

    exit_code = 74


class MDInstabilityError(GeomolError, RuntimeError):
    """A simulation that left the physical domain; the last good frame is on disk."""

    exit_code = 3


class TrainingDivergedError(GeomolError, RuntimeError):
    """A loss that became NaN or infinite; the last good state is on disk."""

    exit_code = 3


class GeomolWarning(UserWarning):
    """Something a user should know that does not make the result wrong."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean "x"? known: ...` for a misspelt name, for use as a remedy."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f'did you mean "{close[0]}"? ' if close else ""
    return f"{hint}known: {', '.join(names)}"
