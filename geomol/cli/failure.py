"""How a command ends when it fails: one line on standard error and a code that says what kind of failure it was.

2    bad input: a file, a setting, a model that does not fit; nothing was written
3    the simulation or training left its domain; the last good state is on disk
70   a fault of geomol's own
74   output could not be written (disk full, read-only, quota)
130  interrupted
"""

from __future__ import annotations

import sys
import traceback
from typing import TextIO

import typer
from ase.calculators.calculator import PropertyNotImplementedError

from geomol.errors import GeomolError

BAD_INPUT = 2
INTERNAL = 70
OUTPUT_FAILED = 74
INTERRUPTED = 130

# A path that is not what the command needs is the user's to correct; any other failure of the system is not.
_WRONG_PATH = (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError)


def explain(error: BaseException) -> tuple[str, int]:
    """The line to print for an error, without "error: ", and the exit code."""
    if isinstance(error, GeomolError):
        return str(error), error.exit_code
    if isinstance(error, typer.TyperException):
        return f"{error.format_message()} See geomol --help.", error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{text}", BAD_INPUT if isinstance(error, _WRONG_PATH) else OUTPUT_FAILED
    if isinstance(error, ModuleNotFoundError):
        return f"this needs the package {error.name}; pip install {error.name}", BAD_INPUT
    if isinstance(error, PropertyNotImplementedError):
        return str(error), BAD_INPUT
    if isinstance(error, MemoryError):
        return f"out of memory: {error}; try a smaller batch", BAD_INPUT
    return f"{type(error).__name__}: {error}; this is a fault of geomol, please report it with --debug", INTERNAL


def report_failure(error: BaseException, *, debug: bool) -> int:
    """Print the one line for `error`, after the traceback if `debug`; return the exit code."""
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    line, code = explain(error)
    print("error:", " ".join(line.split()), file=sys.stderr)
    return code


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning as one line, without the source line that raised it: what `warnings.showwarning` calls in a command."""
    print("warning:", " ".join(str(message).split()), file=file or sys.stderr)
