"""Reading members of a zip archive, or files of a folder, that somebody else made; nothing is extracted."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from geomol.errors import DataError, SecurityError

MAX_MEMBERS = 200_000
MAX_MEMBER = 1 << 30  # bytes, unpacked
MAX_RATIO = 1100  # deflate cannot pack better; more is a forged size


class CloudArchive:
    """The files of a zip archive or of a folder, by their path inside it.

    Raises:
        DataError: no such file or folder, or a damaged archive.
        SecurityError: an archive with more or larger members than any data set has.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        if self.path.is_dir():
            names = (file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file())
            self.names = sorted(names)
            return
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise DataError("the archive cannot be opened", where=str(path), got=str(error)[:120]) from error
        infos = self._zip.infolist()
        self._check(infos)
        self.names = sorted(info.filename for info in infos if not info.is_dir() and not _is_litter(info.filename))

    def _check(self, infos: list[zipfile.ZipInfo]) -> None:
        if len(infos) > MAX_MEMBERS:
            raise SecurityError("too many members", where=str(self.path), expected=f"at most {MAX_MEMBERS}")
        for info in infos:
            if info.file_size > MAX_MEMBER or info.file_size > MAX_RATIO * max(info.compress_size, 1) + 4096:
                raise SecurityError(
                    "a member unpacks beyond the limit",
                    where=f"{self.path}, {info.filename[:100]!r}",
                    expected=f"at most {MAX_MEMBER} bytes and {MAX_RATIO} times its packed size",
                    got=str(info.file_size),
                )

    def __enter__(self) -> CloudArchive:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            DataError: no such file, or a damaged one.
        """
        try:
            return (self.path / name).read_bytes() if self._zip is None else self._zip.read(name)
        except KeyError:
            raise DataError("the archive lacks a file", where=str(self.path), expected=name) from None
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            raise DataError("a file cannot be read", where=f"{self.path}, {name}", got=str(error)[:120]) from error

    def ending(self, suffix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(name, parts of its path) of the files with this suffix, by name."""
        for name in self.names:
            if name.lower().endswith(suffix):
                yield name, PurePosixPath(name).parts


def _is_litter(name: str) -> bool:
    """What file managers leave in archives."""
    parts = PurePosixPath(name).parts
    return "__MACOSX" in parts or any(part.startswith("._") or part == ".DS_Store" for part in parts)
