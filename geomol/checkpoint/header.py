"""The header of a safetensors file, checked by rules narrower than those of the format before anything else reads it.

Layout: 8 bytes with the length n of the header (little-endian), n bytes of JSON, then the tensors without gaps. The
format allows headers of 100 MB; here a file of 60 bytes can never ask for more than it holds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from geomol.errors import CheckpointError

MAX_HEADER_BYTES = 1_000_000
MAX_TENSORS = 10_000
MAX_RANK = 64  # of torch
METADATA = "__metadata__"
MANIFEST_KEY = "geomol"
LENGTH_BYTES = 8

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Entry:
    """One tensor: its type, its shape, and its bytes as a range of the data that follows the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a file says about itself: the tensors, and the sealed manifest as text."""

    entries: dict[str, Entry]
    sealed: str


def header_length(start: bytes, file_bytes: int, where: str) -> int:
    """Length of the header from the first 8 bytes.

    Raises:
        CheckpointError: longer than the cap or than the file.
    """
    if len(start) < LENGTH_BYTES:
        raise damaged("the file ends before its header begins", where)
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            "not a model or training state: its header is too long",
            where=where,
            expected=f"at most {MAX_HEADER_BYTES} bytes",
            got=str(length),
        )
    if LENGTH_BYTES + length > file_bytes:
        raise damaged("the file ends inside its header", where)
    return length


def parse_header(text: bytes, data_bytes: int, where: str) -> Header:
    """Read the JSON header and check that the tensors fill the data, in bounds, without gap or overlap.

    Raises:
        CheckpointError: anything else.
    """
    record = parse_json(text, where)
    if not isinstance(record, dict):
        raise damaged("the header is not an object", where)
    metadata = record.pop(METADATA, None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get(MANIFEST_KEY), str):
        raise CheckpointError(
            "a safetensors file without a manifest of geomol",
            where=where,
            remedy="only files written by geomol can be read",
        )
    if len(record) > MAX_TENSORS:
        raise CheckpointError("too many tensors", where=where, expected=f"at most {MAX_TENSORS}", got=str(len(record)))
    entries = {name: _entry(name, value, where) for name, value in record.items()}
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position:
            raise damaged(f'tensor "{name}" leaves a gap or overlaps another', where)
        position = entry.stop
    if position != data_bytes:
        raise CheckpointError(
            "damaged: the data has the wrong length", where=where, expected=f"{position} bytes", got=str(data_bytes)
        )
    return Header(entries, metadata[MANIFEST_KEY])


def parse_json(text: bytes | str, where: str) -> object:
    """Strict JSON: no duplicate keys, no NaN, no unbounded nesting or digits.

    Raises:
        CheckpointError: anything else.
    """
    try:
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise damaged("the header is not readable JSON", where) from error
    return value


def damaged(what: str, where: str) -> CheckpointError:
    """The error for a file whose content contradicts itself."""
    return CheckpointError(f"damaged: {what}", where=where, remedy="use a copy or an earlier state")


def _entry(name: str, value: object, where: str) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise damaged(f'tensor "{name}" has no valid entry', where)
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise damaged(f'tensor "{name}" has an unknown type', where)
    if not (_is_sizes(shape) and _is_sizes(offsets) and len(offsets) == 2 and len(shape) <= MAX_RANK):
        raise damaged(f'tensor "{name}" has no valid shape or place', where)
    start, stop = offsets
    if stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise damaged(f'tensor "{name}" does not fill its place', where)
    return Entry(dtype, tuple(shape), start, stop)


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key occurs twice")
    return record


def _no_constant(name: str) -> Iterator[None]:
    raise ValueError(f"{name} is not JSON")
