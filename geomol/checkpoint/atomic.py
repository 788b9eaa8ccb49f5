"""Files that are replaced whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from geomol.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK = 1 << 24  # bytes per write call: an interrupted write stops within a fraction of a second


@contextlib.contextmanager
def staged(path: Path, data: bytes) -> Iterator[Path]:
    """Give a complete copy of `data` beside `path`, on the disk, ready to be renamed onto it.

    The copy has the permissions that a new file of the user gets. It is gone when the block ends, renamed or removed.
    Copies that killed processes left behind are removed first; one that another process is writing is left alone.

    Raises:
        OutputError: writing, or anything in the block, met a full or read-only disk; `path` is as it was before.
    """
    temp: Path | None = None
    handle: int | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        temp, handle = _create_beside(path)
        _write_all(handle, data)
        os.fsync(handle)
        yield temp
    except OSError as error:
        raise OutputError(
            f"could not be written ({error.strerror or error})",
            where=str(path),
            remedy="free some space or choose another folder; what was there before is intact",
        ) from error
    finally:
        if handle is not None:
            os.close(handle)
        if temp is not None:
            temp.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: temporary file, fsync, rename, fsync of the folder.

    A process killed at any moment leaves the old content or the new one.

    Raises:
        OutputError: see `staged`.
    """
    with staged(path, data) as temp:
        os.replace(temp, path)
        sync_folder(path.parent)


def keep_as(path: Path, other: Path) -> None:
    """Let `other` hold the content of `path`, which stays, by a hard link that is renamed onto `other`.

    Where the file system has no hard links, `path` itself is renamed: its content exists under `other` alone then.
    """
    remove_abandoned(other)
    link = _temp_name(other)
    try:
        os.link(path, link)
    except OSError:  # FAT and some network file systems
        os.replace(path, other)
    else:
        try:
            os.replace(link, other)
        finally:
            link.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` last through a power cut."""
    if sys.platform == "win32":  # a folder cannot be opened there, and needs no sync
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` whose writers are gone (a writer holds a lock until it is done)."""
    for name in glob.glob(f".{glob.escape(path.name)}.*.tmp", root_dir=path.parent):
        with contextlib.suppress(OSError):
            handle = os.open(path.parent / name, os.O_RDONLY)
            try:
                if _lock(handle, wait=False):
                    (path.parent / name).unlink()
            finally:
                os.close(handle)


def _temp_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _create_beside(path: Path) -> tuple[Path, int]:
    while True:
        temp = _temp_name(path)
        handle = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(handle, wait=True)
        if os.fstat(handle).st_nlink:  # 0: another writer took it for abandoned before the lock was held
            return temp, handle
        os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool:
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by a writer, or a file system without locks: leave the file alone
        return False
    return True


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest[:CHUNK]) :]
