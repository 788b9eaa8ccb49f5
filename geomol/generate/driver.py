"""Sampling runs that may be long: batches by size, progress, and a folder from which an interrupted run goes on."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from geomol.checkpoint.atomic import write_atomically
from geomol.diffusion import Denoiser
from geomol.errors import OutputError, ResumeError
from geomol.generate.request import Request
from geomol.generate.sampling import Sample, SampleSettings, sample_batch

# what reading a file of arrays that is cut off or spoilt can raise
_DAMAGE = (OSError, ValueError, LookupError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, struct.error)


@dataclass(frozen=True)
class SampleProgress:
    """How far a run is: molecules finished, those of them made in this call, and how many are wanted."""

    done: int
    made: int
    wanted: int


def run_key(model_hash: str, settings: SampleSettings, requests: Sequence[Request]) -> str:
    """What must agree for a run to go on: model, way of sampling and requests, whatever the batch size."""
    digest = hashlib.sha256(
        f"{model_hash} {settings.sampler} {settings.steps} {settings.churn} {settings.guidance}".encode()
    )
    for r in requests:
        digest.update(f"{r.size} {r.seed} {sorted(r.context.items())}".encode())
        if r.numbers is not None:
            digest.update(np.ascontiguousarray(r.numbers, dtype=np.int64).tobytes())
        for part in (r.scaffold, r.lead):
            if part is not None:
                digest.update(np.ascontiguousarray(part.numbers, dtype=np.int64).tobytes())
                digest.update(np.ascontiguousarray(part.pos, dtype=np.float64).tobytes())
        digest.update(b"" if r.lead is None else str(r.lead.level).encode())
    return digest.hexdigest()


def sample(
    denoiser: Denoiser,
    requests: Sequence[Request],
    settings: SampleSettings,
    *,
    folder: Path | None = None,
    key: str = "",
    trajectories: Collection[int] = (),
    on_progress: Callable[[SampleProgress], None] | None = None,
) -> list[Sample]:
    """Molecules for all requests, in their order.

    Args:
        denoiser: in evaluation mode.
        requests: see `make_requests`.
        settings: how.
        folder: where finished batches are kept until all are done; a later call with the same `key` goes on from them.
        key: see `run_key`.
        trajectories: positions in `requests` of which the way from noise is kept as well.
        on_progress: called after each batch.

    Raises:
        ResumeError: the folder belongs to another run.
        OutputError: it cannot be written.
    """
    settings.check()
    done = {} if folder is None else _open(folder, key)
    kept = len(done)
    wanted = [i for i in range(len(requests)) if i not in done]
    # molecules with a trajectory in batches of their own, and all of similar size, so that little is padded
    wanted.sort(key=lambda i: (i not in trajectories, requests[i].size))
    split = sum(i in trajectories for i in wanted)
    for part in (wanted[:split], wanted[split:]):
        for start in range(0, len(part), settings.batch_size):
            rows = part[start : start + settings.batch_size]
            made = sample_batch(
                denoiser, [requests[i] for i in rows], settings, trajectories=bool(set(rows) & set(trajectories))
            )
            batch = dict(zip(rows, made, strict=True))
            if folder is not None:
                _store(folder, batch)
            done |= batch
            if on_progress is not None:
                on_progress(SampleProgress(len(done), len(done) - kept, len(requests)))
    return [replace(done[i], request=request) for i, request in enumerate(requests)]


def _open(folder: Path, key: str) -> dict[int, Sample]:
    """What an earlier call has finished.

    Raises:
        ResumeError: another run's folder.
    """
    record = folder / "run.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # a folder without finished batches, as a refused request leaves it, belongs to nobody
        if any(folder.glob("batch-*.npz")):
            if not record.exists() or json.loads(record.read_text(encoding="utf-8"))["key"] != key:
                raise ResumeError(
                    "unfinished molecules of another request are kept here",
                    where=str(folder),
                    remedy="repeat that command, or delete the folder, or write to another file",
                )
        else:
            write_atomically(record, json.dumps({"key": key}).encode())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError("cannot use the folder of unfinished molecules", where=str(folder), got=str(error)) from error
    done: dict[int, Sample] = {}
    for path in sorted(folder.glob("batch-*.npz")):
        try:
            done |= _load(path)
        except _DAMAGE:
            path.unlink()  # cut off while it was written: its molecules are made again
    return done


def _store(folder: Path, batch: dict[int, Sample]) -> None:
    rows = list(batch)
    samples = list(batch.values())
    arrays: dict[str, np.ndarray] = {
        "rows": np.array(rows),
        "sizes": np.array([len(s.numbers) for s in samples]),
        "numbers": np.concatenate([s.numbers for s in samples]),
        "pos": np.concatenate([s.pos for s in samples]),
    }
    if all(s.orders is not None for s in samples):
        arrays["orders"] = np.concatenate([s.orders.ravel() for s in samples if s.orders is not None])
    if all(s.frames is not None for s in samples):
        arrays["frame_pos"] = np.concatenate([s.frames[0] for s in samples if s.frames is not None], axis=1)
        arrays["frame_numbers"] = np.concatenate([s.frames[1] for s in samples if s.frames is not None], axis=1)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(folder / f"batch-{rows[0]:07d}.npz", buffer.getvalue())


def _load(path: Path) -> dict[int, Sample]:
    # from memory: of a damaged archive, numpy would leave the file open
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as z:
        arrays = {name: z[name] for name in z.files}
    ends = np.cumsum(arrays["sizes"])
    squares = np.cumsum(arrays["sizes"] ** 2)
    out: dict[int, Sample] = {}
    for row, n, end, square in zip(arrays["rows"], arrays["sizes"], ends, squares, strict=True):
        rows = slice(int(end - n), int(end))
        orders = arrays["orders"][int(square - n * n) : int(square)].reshape(n, n) if "orders" in arrays else None
        frames = None
        if "frame_pos" in arrays:
            frames = arrays["frame_pos"][:, rows], arrays["frame_numbers"][:, rows]
        numbers = arrays["numbers"][rows]
        out[int(row)] = Sample(Request(int(n), 0), numbers, arrays["pos"][rows], orders, frames)
    return out


def forget(folder: Path) -> None:
    """Removes the folder of a finished run."""
    shutil.rmtree(folder, ignore_errors=True)
