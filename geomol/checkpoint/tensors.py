"""Named tensors and a JSON manifest in one safetensors file, of which every bit is guarded by a hash.

The metadata of the file has one key, `geomol`, whose value is

    {"sha256": "<of the manifest text>", "manifest": <manifest text>}

and the manifest lists, under "tensors", the SHA-256 of each tensor: of `dtype:d1,d2,...:` followed by its bytes. A bit
flipped anywhere, in a value, a shape, a name or the manifest, is found before a tensor reaches the caller. These hashes
find accidents, not forgery: whoever can write the file can write new hashes. Safety against hostile files comes from
the checks in `header`, and from there being no pickle. Equal content gives byte-identical files: keys are sorted, and
nothing depends on time, place or hash order.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from geomol.checkpoint.atomic import write_atomically
from geomol.checkpoint.header import (
    DTYPES,
    LENGTH_BYTES,
    MANIFEST_KEY,
    METADATA,
    Header,
    damaged,
    header_length,
    parse_header,
)
from geomol.checkpoint.manifest import FORMAT_VERSION, seal, unseal
from geomol.errors import CheckpointError, SecurityError

DEFAULT_FORMAT = "geomol.tensors"
NUM_NAMES_SHOWN = 5

PACKAGE_SUFFIX = ".pt2"  # of compiled code, which `geomol export` writes
_PICKLE_SUFFIXES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
_PICKLE_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    manifest: Mapping[str, object],
    *,
    allow_nonfinite: bool = False,
) -> None:
    """Write tensors and manifest to `path`, whole or not at all (see `atomic`).

    Args:
        path: the file; missing folders are made.
        tensors: by name, of any type that safetensors has, on any device; values are copied, sharing is not kept.
        manifest: JSON-able; "format_version" and "tensors" are filled in here, "format" if it is missing.
        allow_nonfinite: accept NaN and infinity, as a training state must.

    Raises:
        CheckpointError: a tensor or manifest that the format cannot hold, or that holds NaN or infinity.
        SecurityError: a file name that belongs to pickles.
        OutputError: the disk refused; the file that was there is intact.
    """
    target = Path(path)
    refuse_pickle(target, b"")
    write_atomically(target, pack_tensors(tensors, manifest, where=str(target), allow_nonfinite=allow_nonfinite))


def read_tensors(
    path: str | os.PathLike[str], *, allow_nonfinite: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors (on the CPU, as they were stored) and manifest, after every check.

    Raises:
        CheckpointError: missing, unreadable, damaged, foreign, of another format version, or holding NaN or infinity.
        SecurityError: a pickle, by its name or its first bytes.
    """
    where = str(path)
    header, manifest, data = _read(Path(path), with_data=True)
    with memoryview(data) as view:
        start = len(data) - max((entry.stop for entry in header.entries.values()), default=0)
        for name, entry in header.entries.items():
            digest = _tensor_digest(entry.dtype, entry.shape, view[start + entry.start : start + entry.stop])
            if digest != manifest["tensors"][name]:
                raise damaged(f'tensor "{name}" does not match its checksum', where)
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, RuntimeError, TypeError, ValueError, KeyError) as error:
        raise damaged(f"safetensors refuses it ({error})", where) from error
    if not allow_nonfinite:
        _refuse_nonfinite(tensors, where)
    return tensors, manifest


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest alone, without reading the tensors; its own hash and the layout are checked.

    Raises:
        CheckpointError, SecurityError: as `read_tensors`, but for the values of tensors.
    """
    return _read(Path(path), with_data=False)[1]


def pack_tensors(
    tensors: Mapping[str, Tensor], manifest: Mapping[str, object], *, where: str, allow_nonfinite: bool = False
) -> bytes:
    """The bytes of the file that `write_tensors` writes.

    Raises:
        CheckpointError: as `write_tensors`.
    """
    ready = {name: _plain_tensor(name, tensor, where) for name, tensor in tensors.items()}
    if not allow_nonfinite:
        _refuse_nonfinite(ready, where)
    digests = {
        name: _tensor_digest(
            _NAMES[tensor.dtype], tuple(tensor.shape), tensor.reshape(-1).view(torch.uint8).numpy().data
        )
        for name, tensor in ready.items()
    }
    own = {"format_version": FORMAT_VERSION, "tensors": digests}
    sealed = seal({"format": DEFAULT_FORMAT, **manifest, **own}, where)
    data: bytes = safetensors.torch.save(ready, {MANIFEST_KEY: sealed})
    length = header_length(data, len(data), where)  # never write what the reader would refuse
    parse_header(data[LENGTH_BYTES : LENGTH_BYTES + length], len(data) - LENGTH_BYTES - length, where)
    return data


def refuse_pickle(path: Path, start: bytes) -> None:
    """Stop at files that could execute code when unpickled.

    A header of safetensors can begin with the bytes of a pickle (its length is a number), but has `{` in ninth place
    after the zeros of a length below the cap.

    Raises:
        SecurityError: a pickle, by the name of the file or its first bytes.
    """
    is_safetensors = len(start) > LENGTH_BYTES and start[3:9] == b"\0\0\0\0\0{"
    if path.suffix.lower() in _PICKLE_SUFFIXES or (start.startswith(_PICKLE_STARTS) and not is_safetensors):
        raise SecurityError(
            "pickled weights can execute code and are never opened",
            where=str(path),
            expected="a .safetensors file",
            remedy="convert the weights with the program that made them: write its state_dict with safetensors",
        )


def _refuse_package(path: Path) -> None:
    if path.suffix.lower() == PACKAGE_SUFFIX:
        raise CheckpointError(
            "a package of compiled code, which this command cannot use",
            where=str(path),
            expected="a .safetensors file",
            remedy="geomol md, geomol relax and GeomolCalculator.from_package take packages; give the model it is of",
        )


def _read(path: Path, *, with_data: bool) -> tuple[Header, dict[str, Any], bytes]:
    where = str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise CheckpointError("not a file", where=where, expected="a .safetensors file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(LENGTH_BYTES + 1)
            _refuse_package(path)
            refuse_pickle(path, start)
            length = header_length(start, size, where)
            file.seek(0)
            head = file.read(LENGTH_BYTES + length)
            header = parse_header(head[LENGTH_BYTES:], size - len(head), where)
            manifest = unseal(header.sealed, where)
            digests = manifest.get("tensors")
            if not isinstance(digests, dict) or digests.keys() != header.entries.keys():
                raise damaged("the tensors are not those of the manifest", where)
            data = head + file.read(size - len(head)) if with_data else b""
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror or error})", where=where) from error
    except MemoryError as error:
        raise CheckpointError("larger than the memory", where=where) from error
    if with_data and len(data) != size:
        raise damaged("the file changed while it was read", where)
    return header, manifest, data


def _plain_tensor(name: str, tensor: Tensor, where: str) -> Tensor:
    """A contiguous copy on the CPU, which shares memory with nothing."""
    if not isinstance(name, str) or not name or name == METADATA:
        raise CheckpointError(f"{name!r} cannot name a tensor", where=where)
    if tensor.layout is not torch.strided or tensor.dtype not in _NAMES or tensor.is_meta:
        kind = f"{tensor.layout}, {tensor.dtype}, {tensor.device}"
        raise CheckpointError(f'tensor "{name}" cannot be stored', where=where, expected="dense values", got=kind)
    return tensor.detach().resolve_conj().resolve_neg().cpu().clone(memory_format=torch.contiguous_format)


def _tensor_digest(dtype: str, shape: tuple[int, ...], data: memoryview) -> str:
    digest = hashlib.sha256(f"{dtype}:{','.join(map(str, shape))}:".encode())
    digest.update(data)
    return digest.hexdigest()


def _refuse_nonfinite(tensors: Mapping[str, Tensor], where: str) -> None:
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        more = f" and {len(bad) - NUM_NAMES_SHOWN} more" if len(bad) > NUM_NAMES_SHOWN else ""
        names = ", ".join(sorted(bad)[:NUM_NAMES_SHOWN])
        raise CheckpointError(
            f"NaN or infinity in {len(bad)} of {len(tensors)} tensors: {names}{more}",
            where=where,
            remedy="use an earlier checkpoint",
        )


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # float8 has no isfinite
    return bool(torch.isfinite(wide).all())
