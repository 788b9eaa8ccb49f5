"""One process per run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from geomol.errors import BusyError, OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def only_process(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Holds the folder for the length of a `with` block; the system lets go of it when a process dies in any way.

    Args:
        folder: made where there is none.
        name: of the file that stands for what is held, where a folder holds several things.

    Raises:
        BusyError: another process is training here. Two would overwrite each other's states.
        OutputError: the folder cannot be written, or its file system knows no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("w")
    except OSError as error:
        raise OutputError("cannot write the run folder", where=str(folder), got=str(error)) from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise BusyError(
                    "another process is training in this folder",
                    where=str(folder),
                    remedy="wait for it, stop it, or choose another name",
                ) from None
            except OSError as error:
                raise OutputError(
                    "the file system of the folder knows no locks",
                    where=str(folder),
                    got=str(error),
                    remedy="choose a folder on a local disk",
                ) from error
        yield
