"""Trajectories for the page: frames found by scanning, thinned to a budget, written as compact JSON."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from jaxtyping import Float
from numpy import ndarray

from geomol.errors import InputError

MAX_FRAMES = 200
MAX_BYTES = 2_000_000
SCALE = 0.001  # Å per integer unit of the coordinates in the page: finer than a pixel


@dataclass(frozen=True)
class Trajectory:
    """Some frames of a trajectory file.

    `frame_index` are the places of the kept frames among the `num_frames` of the file. `complete` is False when the
    file ends inside a frame (a run that was interrupted); the frames before it are shown.
    """

    symbols: list[str]
    positions: Float[ndarray, "F N 3"]
    cells: Float[ndarray, "F 3 3"] | None
    pbc: tuple[bool, ...]
    frame_index: list[int]
    num_frames: int
    complete: bool
    time_fs: list[float] | None


def read_trajectory(path: Path, *, max_frames: int = MAX_FRAMES, max_bytes: int = MAX_BYTES) -> Trajectory:
    """Read evenly spaced frames of an extxyz file, first and last included.

    Only the kept frames are parsed, so long trajectories are cheap. Frames of a molecule are centred on their mean
    position; periodic frames stay where they are.

    Args:
        max_frames: most frames kept.
        max_bytes: bound on the size of the JSON that `to_json` makes of them.

    Raises:
        InputError: no complete frame, atoms that change between frames, or one frame larger than the budget.
    """
    offsets, sizes, complete = _scan(path)
    if not offsets:
        raise InputError("no complete frame", where=path.name, expected="an extended xyz trajectory")
    bytes_per_frame = 3 * 8 * sizes[0] + 80  # an integer of up to 7 characters and a comma for each coordinate
    affordable = max_bytes // bytes_per_frame
    if affordable < 1:
        raise InputError(
            "a frame is too large for the viewer", where=path.name, expected=f"at most {max_bytes // 24} atoms",
            got=f"{sizes[0]} atoms",
        )  # fmt: skip
    keep = min(len(offsets) - 1, max(1, min(max_frames, affordable)))
    index = sorted({round(i) for i in np.linspace(0, len(offsets) - 2, keep)})
    frames = _parse(path, [(offsets[i], offsets[i + 1]) for i in index])
    numbers = frames[0].numbers
    if any(len(frame) != len(numbers) or (frame.numbers != numbers).any() for frame in frames):
        raise InputError("the atoms change between frames", where=path.name)
    return _collect(frames, index, len(offsets) - 1, complete)


def _collect(frames: list[Atoms], index: list[int], num_frames: int, complete: bool) -> Trajectory:
    periodic = any(frame.pbc.any() for frame in frames)
    positions = np.array([frame.positions for frame in frames])
    if not np.isfinite(positions).all():
        raise InputError("positions that are not finite", where="trajectory")
    if not periodic:
        positions = positions - positions.mean(axis=1, keepdims=True)
    times = [frame.info.get("time_fs") for frame in frames]
    known = all(isinstance(time, (int, float, np.number)) for time in times)
    return Trajectory(
        symbols=list(frames[0].get_chemical_symbols()),
        positions=positions,
        cells=np.array([frame.cell.array for frame in frames]) if periodic else None,
        pbc=tuple(bool(value) for value in frames[0].pbc),
        frame_index=index,
        num_frames=num_frames,
        complete=complete,
        time_fs=[float(time) for time in times] if known else None,
    )


def _scan(path: Path) -> tuple[list[int], list[int], bool]:
    """Byte offset of each complete frame followed by the end of the last one, atoms per frame, ends cleanly?"""
    offsets, sizes, complete = [0], [], True
    with path.open("rb") as file:
        while line := file.readline(64):
            if not line.strip():
                continue
            if not line.strip().isdigit():
                complete = False
                break
            count = int(line)
            last = b"\n"
            for _ in range(count + 1):
                last = file.readline()
                if not last:
                    break
            if not last.endswith(b"\n"):
                complete = False
                break
            offsets.append(file.tell())
            sizes.append(count)
    return (offsets if sizes and sizes[0] else []), sizes, complete


def _parse(path: Path, spans: list[tuple[int, int]]) -> list[Atoms]:
    frames = []
    with path.open("rb") as file:
        for start, stop in spans:
            file.seek(start)
            text = file.read(stop - start).decode("utf-8", errors="replace")
            try:
                frames.append(read(io.StringIO(text), format="extxyz"))
            except Exception as error:  # ASE raises many types on malformed text
                raise InputError("a frame that cannot be read", where=path.name, got=type(error).__name__) from error
    return frames


def to_json(trajectory: Trajectory) -> str:
    """The frames as JSON for the viewer: symbols, integer coordinates in units of `scale` Å, cells, times, indices."""
    rounded = np.rint(trajectory.positions / SCALE).astype(np.int64)
    payload = {
        "symbols": trajectory.symbols,
        "scale": SCALE,
        "frames": [frame.ravel().tolist() for frame in rounded],
        "cells": None if trajectory.cells is None else np.round(trajectory.cells, 3).reshape(-1, 9).tolist(),
        "time_fs": None if trajectory.time_fs is None else [round(time, 3) for time in trajectory.time_fs],
        "index": trajectory.frame_index,
    }
    return json.dumps(payload, separators=(",", ":"), sort_keys=True)
