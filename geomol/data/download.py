"""Download that resumes and verifies: nothing reaches its final name before size and hash are right."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

from geomol.errors import DataError, GeomolWarning, OutputError, SecurityError

Progress = Callable[[int, int | None], None]  # (bytes so far, bytes in all if known)

CHUNK = 1 << 18
ATTEMPTS = 5
TIMEOUT = 60.0  # s, for each network operation
UNKNOWN_SIZE_LIMIT = 4 << 30  # bytes
_NETWORK = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


@runtime_checkable
class _Readable(Protocol):
    def read(self, size: int = ..., /) -> bytes: ...


@dataclass(frozen=True)
class Pin:
    """What is known about a remote file; None where nothing trustworthy was published."""

    size: int | None = None
    sha256: str | None = None
    md5: str | None = None


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def verify(path: Path, pin: Pin, *, where: str) -> None:
    """Compare a file with what is known of it.

    Raises:
        DataError: wrong size or hash, with the expected and the found value.
    """
    size = path.stat().st_size
    if pin.size is not None and size != pin.size:
        raise DataError("wrong size", where=where, expected=f"{pin.size} bytes", got=f"{size} bytes")
    for algorithm, expected in (("sha256", pin.sha256), ("md5", pin.md5)):
        if expected is None:
            continue
        found = file_hash(path, algorithm)
        if found != expected.lower():
            raise DataError(
                f"wrong {algorithm} checksum, the file is not used", where=where, expected=expected, got=found
            )
        return  # the stronger one is enough


def fetch(
    urls: tuple[str, ...], target: Path, pin: Pin, *, progress: Progress | None = None, attempts: int = ATTEMPTS
) -> Path:
    """Download to `target`, by way of `target.part`, which a later call continues.

    Each attempt takes the next URL. Where no SHA-256 is known beforehand, the one found is written to
    `target.sha256`, a GeomolWarning says so, and later calls hold the file to it.

    Raises:
        DataError: the network failed, or the file has the wrong size or hash (it is then removed).
        OutputError: the file cannot be written.
        SecurityError: a URL that is not http(s), or more bytes than the limit.
    """
    if target.exists():
        verify(target, _with_recorded(pin, target), where=str(target))
        return target
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fault = _attempts(urls, part, pin, progress, attempts)
        if fault is None:
            _finish(part, target, pin)
            return target
    except OSError as error:
        raise OutputError("cannot write the download", where=str(part), got=error.strerror or str(error)) from error
    raise DataError(
        "the download failed",
        where=urls[0],
        got=f"{type(fault).__name__}: {fault}"[:160],
        remedy="try again: it continues where it stopped",
    )


def _attempts(
    urls: tuple[str, ...], part: Path, pin: Pin, progress: Progress | None, attempts: int
) -> Exception | None:
    """Fill `part` and verify it; returns the last network fault if no attempt came to an end."""
    fault: Exception | None = None
    for attempt in range(attempts):
        url, resumed = urls[attempt % len(urls)], part.exists()
        try:
            _transfer(url, part, pin, progress)
            verify(part, pin, where=url)
        except _NETWORK as error:
            fault = error
        except DataError:
            part.unlink(missing_ok=True)
            if not resumed or attempt + 1 == attempts:
                raise
            # else the first piece may have been of another version: once more from the start
        else:
            return None
    return fault


def _transfer(url: str, part: Path, pin: Pin, progress: Progress | None) -> None:
    if not url.startswith(("https://", "http://")):
        raise SecurityError("only http and https are fetched", where=url)
    have = part.stat().st_size if part.exists() else 0
    if pin.size is not None and have >= pin.size:
        return  # complete, or too long: verify decides
    headers = {"User-Agent": "geomol", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            resumes = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if response.status == 206 and not resumes:
                part.unlink()
                raise ConnectionError("the server sent another range than asked for")
            length = response.headers.get("Content-Length", "")
            start = have if resumes else 0
            total = pin.size or (start + int(length) if length.isdigit() else None)
            with part.open("ab" if resumes else "wb") as file:
                _copy(response, file, start, total, pin.size or UNKNOWN_SIZE_LIMIT, progress)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        if error.code != 416:  # 416: nothing is left to send, so verify decides
            raise


def _copy(
    response: _Readable, file: BinaryIO, start: int, total: int | None, limit: int, progress: Progress | None
) -> None:
    done = start
    while chunk := response.read(CHUNK):
        done += len(chunk)
        if done > limit:
            raise DataError(
                "the server sends more than it should", expected=f"at most {limit} bytes", got=f"{done} so far"
            )
        file.write(chunk)
        if progress is not None:
            progress(done, total)
    file.flush()
    os.fsync(file.fileno())
    if total is not None and done < total:
        raise ConnectionError(f"connection closed after {done} of {total} bytes")


def _recorded(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")


def _with_recorded(pin: Pin, target: Path) -> Pin:
    record = _recorded(target)
    if pin.sha256 is not None or not record.exists():
        return pin
    return Pin(pin.size, record.read_text(encoding="ascii", errors="replace").split()[0], pin.md5)


def record_hash(target: Path, sha256: str) -> None:
    """Write the hash of a file beside it, as `sha256sum` does; loading holds the file to it."""
    _recorded(target).write_text(f"{sha256}  {target.name}\n", encoding="ascii")


def _finish(part: Path, target: Path, pin: Pin) -> None:
    found = pin.sha256 or file_hash(part)
    record_hash(target, found)
    os.replace(part, target)
    if pin.sha256 is None:
        known = (
            "size and MD5 agreed" if pin.md5 and pin.size else "MD5 agreed" if pin.md5 else "nothing to compare with"
        )
        warnings.warn(
            f"{target.name}: no SHA-256 is published ({known}); recorded {found} in {_recorded(target).name}",
            GeomolWarning,
            stacklevel=4,
        )
