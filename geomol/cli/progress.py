"""A bar with what is left to do, on standard error; where nobody watches, a line now and then instead."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

_REFRESH_S = 0.2  # redrawing more often costs steps and shows nothing
_LINE_EVERY = 0.1  # part of the work between two lines in a log file
_LINE_EVERY_S = 300.0  # or this long, if that is sooner


class Bar:
    """One task: `update` may be called at every step and costs next to nothing between two redraws."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._drawn = -_REFRESH_S
        self._next_line, self._last_line = 0.0, 0.0

    def due(self) -> bool:
        """Whether it is time for an update; a caller whose text is costly asks first."""
        return time.monotonic() - self._drawn >= _REFRESH_S

    def update(self, fraction: float, text: str, *, eta_s: float | None = None) -> None:
        """Show how far the work is.

        Args:
            fraction: part that is done, 0 to 1.
            text: the figures of the moment.
            eta_s: seconds left, where known.
        """
        if fraction < 1.0 and not self.due():
            return
        self._drawn = time.monotonic()
        left = "" if eta_s is None else f"{timedelta(seconds=round(eta_s))} left"
        self._progress.update(self._task, completed=fraction, text=text, left=left)
        if self._progress.console.is_terminal:
            return
        if fraction >= self._next_line or self._drawn >= self._last_line + _LINE_EVERY_S:
            self._progress.console.print(f"{fraction:5.0%}  {text}  {left}".rstrip(), soft_wrap=True)
            self._next_line, self._last_line = fraction + _LINE_EVERY, self._drawn

    def report(self, text: str) -> None:
        """A line that stays, above the bar where somebody watches: for what happens rarely and is worth keeping."""
        self._progress.console.print(text, soft_wrap=True, markup=False)


@contextmanager
def progress_bar(name: str) -> Iterator[Bar]:
    """A bar for the length of a `with` block."""
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}", style="bold"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[text]}"),
        TextColumn("{task.fields[left]}", style="dim"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, refresh_per_second=5) as progress:
        yield Bar(progress, progress.add_task(name, total=1.0, text="", left=""))
