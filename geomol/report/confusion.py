"""The confusion matrix of a classifier as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from geomol.errors import OutputError
from geomol.report.style import BLUE, FONT_SIZE, INK, label_axes, new_figure

MOST_NUMBERS = 16  # of kinds; with more, the cells are too small for their numbers


def confusion_figure(confusion: Int[np.ndarray, "K K"], names: Sequence[str]) -> Figure:
    """Rows are the true kinds, columns the found ones; colours are shares of a row, numbers are counts."""
    num = len(names)
    side = 2.2 + 0.36 * num
    figure, axes = new_figure(width=side + 0.4, height=side)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=LinearSegmentedColormap.from_list("shares", ["white", BLUE]), vmin=0, vmax=1)
    axes.grid(False)
    axes.set_xticks(range(num), names, rotation=60, ha="right", parse_math=False)
    axes.set_yticks(range(num), names, parse_math=False)
    for row, column in np.argwhere(confusion > 0) if num <= MOST_NUMBERS else ():
        colour = "white" if shares[row, column] > 0.6 else INK
        count = str(confusion[row, column])
        axes.text(column, row, count, ha="center", va="center", fontsize=FONT_SIZE - 2, color=colour)
    label_axes(axes, "found", "true")
    return figure


def save_confusion_figure(confusion: Int[np.ndarray, "K K"], names: Sequence[str], path: Path) -> None:
    """Writes the picture as PNG.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        confusion_figure(confusion, names).savefig(path)
    except OSError as error:
        raise OutputError("cannot write the picture", where=str(path), got=str(error)) from error
