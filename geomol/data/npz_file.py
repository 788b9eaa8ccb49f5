"""Opening an .npz that somebody else made: headers first, sizes capped, and never a Python object."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.lib import format as npy

from geomol.errors import InputError, SecurityError, nearest

MAX_BYTES = 8 << 30  # unpacked, all arrays together; the largest (r)MD17 file has 0.2 GB
MAX_MEMBERS = 1000
MAX_RATIO = 2000  # deflate reaches 1030 on constant data, so more than this is a forged size
LARGE = 64 << 20  # bytes; a large array that packs better than LARGE_RATIO is a bomb rather than data
LARGE_RATIO = 500


@dataclass(frozen=True)
class ArrayHeader:
    """Shape and dtype of an array, read without reading the array."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


@runtime_checkable
class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...

    def tell(self) -> int: ...


class NpzFile:
    """The arrays of an npz file: `headers` at once, data by `read`.

    Raises:
        InputError: not an npz file, or one that is cut off or inconsistent.
        SecurityError: arrays of Python objects, or a file that would unpack beyond the limits.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = MAX_BYTES) -> None:
        self.path = Path(path)
        self.headers: dict[str, ArrayHeader] = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                self._check_sizes(archive.infolist(), max_bytes)
                for info in archive.infolist():
                    with archive.open(info) as member:
                        self.headers[info.filename.removesuffix(".npy")] = self._header(member, info)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise InputError("not a readable npz file", where=str(self.path), got=f"{error}") from None

    def _check_sizes(self, members: list[zipfile.ZipInfo], max_bytes: int) -> None:
        where, unpacked = str(self.path), sum(info.file_size for info in members)
        if len(members) > MAX_MEMBERS:
            raise SecurityError(
                "too many arrays", where=where, expected=f"at most {MAX_MEMBERS}", got=str(len(members))
            )
        if unpacked > max_bytes:
            raise SecurityError(
                "unpacks beyond the limit", where=where, expected=f"at most {max_bytes} bytes", got=str(unpacked)
            )
        for info in members:
            ratio = info.file_size / max(info.compress_size, 1)
            limit = LARGE_RATIO if info.file_size > LARGE else MAX_RATIO
            if ratio > limit and info.file_size > 4096:
                expected = f"at most {limit} times its packed size"
                raise SecurityError(
                    f"array {info.filename} is a compression bomb", where=where, expected=expected, got=f"{ratio:.0f}"
                )

    def _header(self, member: _Readable, info: zipfile.ZipInfo) -> ArrayHeader:
        where = f"{self.path}, {info.filename}"
        try:
            version = npy.read_magic(member)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(member)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            raise InputError("not a numpy array", where=where, got=f"{error}"[:100]) from None
        if dtype.hasobject:
            raise SecurityError(
                "holds Python objects, which could run code",
                where=where,
                expected="plain numbers or text",
                got=str(dtype),
            )
        if dtype.names is not None or any(size < 0 for size in shape):
            raise InputError("unusable array", where=where, expected="plain numbers or text", got=f"{dtype} {shape}")
        needed, held = dtype.itemsize * int(np.prod(shape, dtype=object)), info.file_size - member.tell()
        if needed != held:
            raise InputError("array is cut off or padded", where=where, expected=f"{needed} bytes", got=str(held))
        return ArrayHeader(tuple(shape), dtype)

    def first(self, *names: str) -> str | None:
        """The first of these names that the file has."""
        return next((name for name in names if name in self.headers), None)

    def read(self, name: str) -> np.ndarray:
        """One array.

        Raises:
            InputError: no such array, or a damaged one.
        """
        if name not in self.headers:
            raise InputError(f'no array "{name}"', where=str(self.path), remedy=nearest(name, self.headers))
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return np.asarray(arrays[name])
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
            raise InputError(f'array "{name}" cannot be read', where=str(self.path), got=f"{error}"[:100]) from None
