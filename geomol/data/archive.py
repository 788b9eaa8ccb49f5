"""Taking listed files out of a tar archive that is not trusted."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from geomol.errors import DataError, SecurityError

MAX_MEMBER = 1 << 30  # bytes; the largest wanted file has 0.2 GB
MAX_MEMBERS = 1_000_000


def extract_members(archive: Path, wanted: Mapping[str, Path], *, max_member: int = MAX_MEMBER) -> list[Path]:
    """Extract the members named in `wanted` to the paths given there; nothing else of the archive is written.

    The whole archive is read once, and all its entries are judged, before the first file gets its name: an entry that
    leaves its folder, a link or a device anywhere means that nothing is extracted.

    Raises:
        SecurityError: such an entry, or a file beyond the size limit.
        DataError: a wanted member that is missing, or an archive that cannot be read.
    """
    parents = {path.parent for path in wanted.values()}
    for parent in parents:
        parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".extract-", dir=min(parents)))
    try:
        found = _stage(archive, wanted, staging, max_member)
        missing = [name for name in wanted if name not in found]
        if missing:
            raise DataError(
                "the archive lacks a file",
                where=str(archive),
                expected=missing[0],
                got=f"{len(found)} of {len(wanted)}",
            )
        for name, staged in found.items():
            os.replace(staged, wanted[name])
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError) as error:
        if isinstance(error, SecurityError | DataError):
            raise
        raise DataError(
            "the archive cannot be read", where=str(archive), got=f"{type(error).__name__}: {error}"[:120]
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return list(wanted.values())


def _stage(archive: Path, wanted: Mapping[str, Path], staging: Path, max_member: int) -> dict[str, Path]:
    found: dict[str, Path] = {}
    with tarfile.open(archive, mode="r|*") as tar:
        for count, member in enumerate(tar):
            _refuse_unsafe(member, archive, count)
            name = str(PurePosixPath(member.name))
            if name not in wanted or not member.isreg():
                continue
            if member.size > max_member:
                raise SecurityError(
                    "member is too large",
                    where=f"{archive}, {name}",
                    expected=f"at most {max_member} bytes",
                    got=str(member.size),
                )
            source = tar.extractfile(member)
            if source is None or name in found:
                raise SecurityError("member occurs twice or holds no data", where=f"{archive}, {name}")
            found[name] = staging / f"{len(found)}"
            with source, found[name].open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
    return found


def _refuse_unsafe(member: tarfile.TarInfo, archive: Path, count: int) -> None:
    where = f"{archive}, member {member.name[:100]!r}"
    if count >= MAX_MEMBERS:
        raise SecurityError("too many members", where=str(archive), expected=f"at most {MAX_MEMBERS}")
    if not (member.isreg() or member.isdir()):
        raise SecurityError(
            "a link or device in the archive, nothing was extracted", where=where, expected="files and folders"
        )
    path = member.name.replace("\\", "/")
    if path.startswith("/") or ".." in path.split("/") or ":" in path.split("/")[0]:
        raise SecurityError("a path that leaves the archive's folder, nothing was extracted", where=where)
