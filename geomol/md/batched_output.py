"""The files of a batch of simulations: a trajectory for each, and one table for all."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from geomol.md.output import cut_back, output_error

COLUMNS = ("replica", "time_fs", "temperature_K", "potential_eV", "kinetic_eV", "total_eV")
_BUFFER = 1 << 16  # bytes of a file that are kept in memory


def trajectory_path(folder: Path, name: str, replica: int) -> Path:
    """Where the frames of a replica go."""
    return folder / f"{name}.replica-{replica:04d}.extxyz"


def last_good_path(folder: Path, name: str, replica: int) -> Path:
    """Where the last good frame of a replica goes that a guard stopped."""
    return folder / f"{name}.replica-{replica:04d}.last_good.extxyz"


def old_files(folder: Path, name: str) -> list[Path]:
    """Frames of an earlier run of this name."""
    return sorted(folder.glob(f"{name}.replica-*.extxyz"))


class BatchRecorder:
    """Trajectories (`<name>.replica-0000.extxyz`, …) and a table (`<name>.csv`, a row per replica and time).

    Files are open only while something is written, so that their number is not limited by the system, and everything
    can be cut back to any checkpoint.

    Args:
        folder: where they go; created if needed.
        name: stem of the files.
        replicas: number of trajectories.
        offsets: bytes to keep of each file when continuing, the table last; None starts anew.

    Raises:
        OutputError: a file cannot be written.
        ResumeError: a file is shorter than the checkpoint says.
    """

    def __init__(self, folder: Path, name: str, replicas: int, *, offsets: Tensor | None = None) -> None:
        self.table_path = folder / f"{name}.csv"
        self.trajectories = [trajectory_path(folder, name, k) for k in range(replicas)]
        self._paths = [*self.trajectories, self.table_path]
        self._pending: list[list[bytes]] = [[] for _ in self._paths]
        self._size = [0] * len(self._paths)
        self._unsynced: set[int] = set()
        self._sizes = [0] * len(self._paths) if offsets is None else [int(n) for n in offsets]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path, size in zip(self._paths, self._sizes, strict=True):
                if offsets is None:
                    path.write_bytes(b"")
                else:
                    cut_back(path, size)
        except OSError as error:
            raise output_error(error, folder) from error
        if offsets is None:
            self._add(len(self._paths) - 1, ",".join(COLUMNS) + "\n")

    def frame(self, replica: int, text: str) -> None:
        """Append a frame to a trajectory."""
        self._add(replica, text)

    def rows(self, text: str) -> None:
        """Append lines to the table."""
        self._add(len(self._paths) - 1, text)

    def sync(self) -> Tensor:
        """Bring everything written to the disk, and say how long the files are."""
        for which in sorted(self._unsynced):
            self._flush(which, sync=True)
        self._unsynced.clear()
        return torch.tensor(self._sizes, dtype=torch.int64)

    def _add(self, which: int, text: str) -> None:
        data = text.encode()
        self._pending[which].append(data)
        self._size[which] += len(data)
        self._unsynced.add(which)
        if self._size[which] >= _BUFFER:
            self._flush(which, sync=False)

    def _flush(self, which: int, *, sync: bool) -> None:
        path = self._paths[which]
        try:
            with path.open("ab") as file:
                file.write(b"".join(self._pending[which]))
                file.flush()
                if sync:
                    os.fsync(file.fileno())
        except OSError as error:
            raise output_error(error, path) from error
        self._sizes[which] += self._size[which]
        self._pending[which], self._size[which] = [], 0
