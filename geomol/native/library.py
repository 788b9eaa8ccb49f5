"""C sources of this package, compiled on first use by the machine's own compiler and kept in the user's cache.

A library is named after all that it depends on (source, compiler, flags, processor) and after its own content, so that
one file is all there is to write, a damaged one is noticed before it is loaded, and machines may share a home. Where no
compiler is found or it fails, there is no library: what uses one has another way.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

SWITCH = "GEOMOL_NATIVE"  # 0 in this environment variable: no C
FLAGS = ("-std=c11", "-O3", "-fno-math-errno", "-fPIC", "-shared")
# products and sums in one step where the processor can, but not where a result decides something
CONTRACTION = {True: "-ffp-contract=off", False: "-ffp-contract=fast"}
TUNING = (("-march=native",), ())  # the first that the compiler takes
COMPILE_S = 60.0
KEPT_S = 90 * 86400.0  # since its last use

_log = logging.getLogger(__name__)


def library(name: str, *, exact: bool = True) -> ctypes.CDLL | None:
    """The compiled `<name>.c` of this folder; None where it cannot be had, or with `GEOMOL_NATIVE=0`.

    Args:
        name: of the source.
        exact: every operation is rounded by itself, the same on all processors.
    """
    return None if os.environ.get(SWITCH) == "0" else _loaded(name, exact)


def function(name: str, symbol: str, *argument_types: type) -> Callable[..., None] | None:
    """A function of a library that is not `exact`; None where there is none."""
    found = library(name, exact=False)
    return None if found is None else _declared(found, symbol, argument_types)


@cache
def _declared(found: ctypes.CDLL, symbol: str, argument_types: tuple[type, ...]) -> Callable[..., None]:
    out: Any = getattr(found, symbol)
    out.argtypes, out.restype = argument_types, None
    return out  # type: ignore[no-any-return]


@cache
def _loaded(name: str, exact: bool) -> ctypes.CDLL | None:
    source = Path(__file__).with_name(f"{name}.c")
    compiler = find_compiler()
    if compiler is None:
        _log.info("no C compiler: %s is done in Python", name)
        return None
    key = f"{name}-{_fingerprint(compiler, exact)}"
    for folder in _cache_folders():
        found = _from_cache(folder, key)
        if found is not None:
            return found
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f"{key}-", dir=folder) as scratch:
                built = _compile(compiler, source, Path(scratch) / "built.so", exact)
                if built is None:
                    return None
                kept = folder / f"{key}-{_digest(built.read_bytes())}.so"
                os.replace(built, kept)
                _forget_old(folder, name)
                return ctypes.CDLL(str(kept))
        except OSError as error:  # no such place, not ours to write, full, or not for programs
            _log.info("%s cannot be kept in %s: %s", name, folder, error)
    return _for_this_process(compiler, source, exact)


def find_compiler() -> list[str] | None:
    """The command of a C compiler: `$CC`, the one that Python was built with, or what the system calls one."""
    for command in (os.environ.get("CC"), sysconfig.get_config_var("CC"), "cc", "gcc", "clang"):
        words = shlex.split(command or "")
        program = shutil.which(words[0]) if words else None
        if program is not None:
            return [program, *words[1:]]
    return None


def _cache_folders() -> Iterator[Path]:
    """`$XDG_CACHE_HOME/geomol/native` or `~/.cache/geomol/native`; nothing without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        yield (Path(base) if base else Path.home() / ".cache") / "geomol" / "native"
    except RuntimeError:
        return


def _from_cache(folder: Path, key: str) -> ctypes.CDLL | None:
    """The kept library, if its content is what its name says."""
    try:
        for path in sorted(folder.glob(f"{key}-*.so")):
            if path.stem == f"{key}-{_digest(path.read_bytes())}":
                with suppress(OSError):  # may be another user's
                    os.utime(path)  # the time of its last use
                return ctypes.CDLL(str(path))
            _log.info("%s is damaged: compiled again", path)
    except OSError as error:
        _log.info("%s in %s cannot be loaded: %s", key, folder, error)
    return None


def _forget_old(folder: Path, name: str) -> None:
    """Removes libraries of this name that nobody has used for long: of earlier versions, or of other machines."""
    for path in folder.glob(f"{name}-*.so"):
        with suppress(OSError):  # gone meanwhile, or not ours
            if time.time() - path.stat().st_mtime > KEPT_S:
                path.unlink()


def _for_this_process(compiler: list[str], source: Path, exact: bool) -> ctypes.CDLL | None:
    """The library from a temporary folder, which is gone once it is loaded."""
    try:
        with tempfile.TemporaryDirectory(prefix="geomol-") as scratch:
            built = _compile(compiler, source, Path(scratch) / "built.so", exact)
            return None if built is None else ctypes.CDLL(str(built))
    except OSError as error:
        _log.info("%s cannot be loaded: %s", source.name, error)
        return None


def _compile(compiler: list[str], source: Path, target: Path, exact: bool) -> Path | None:
    """The target, or None if the compiler fails."""
    for tuning in TUNING:
        command = [*compiler, *FLAGS, CONTRACTION[exact], *tuning, "-o", str(target), str(source), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=COMPILE_S)
        except (OSError, subprocess.SubprocessError) as error:
            text = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
            _log.info("%s failed: %s %s", shlex.join(command), error, text)
        else:
            return target
    return None


def _fingerprint(compiler: list[str], exact: bool) -> str:
    """Of all that a compiled library depends on."""
    program = Path(compiler[0]).resolve()
    about = program.stat()
    parts = [
        *compiler,
        str(program),
        str(about.st_size),
        str(about.st_mtime_ns),
        *FLAGS,
        CONTRACTION[exact],
        str(TUNING),
        _processor(),
    ]
    return _digest("\0".join(parts).encode() + _sources())


def _sources() -> bytes:
    """All of them: they include each other."""
    return b"\0".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.[ch]")))


def _processor() -> str:
    """What -march=native looks at: the model and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    kept = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part", "isa"))}
    return "\n".join([platform.system(), platform.machine(), platform.processor(), *sorted(kept)])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
