"""The record of a run: a CSV that continues exactly where it was saved, and TensorBoard beside it."""

from __future__ import annotations

import os
from pathlib import Path


class CsvLog:
    """Rows of figures in a text file whose length is part of the training state.

    After an interruption the file is cut back to the saved length, so that the finished log is byte for byte that of an
    uninterrupted run. Floats are written with `repr`, which loses nothing.
    """

    def __init__(self, path: Path, columns: list[str], *, length: int | None) -> None:
        self.path, self.columns = path, columns
        if length is None or not path.exists():
            path.write_text(",".join(columns) + "\n", encoding="utf-8")
        else:
            os.truncate(path, length)

    def write(self, row: dict[str, float]) -> None:
        """Appends one row; columns that are missing stay empty."""
        line = ",".join("" if row.get(c) is None else repr(row[c]) for c in self.columns)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    @property
    def length(self) -> int:
        return self.path.stat().st_size


class TensorBoardLog:
    """The same figures for TensorBoard; steps after `first_step` that an interrupted run had written are dropped."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, row: dict[str, float]) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
