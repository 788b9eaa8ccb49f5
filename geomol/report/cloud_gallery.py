"""Point clouds side by side in one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from geomol.errors import InputError, OutputError
from geomol.report.style import BLUE, FONT_SIZE, INK

CELL = 1.5  # inches
AZIMUTH, ELEVATION = math.radians(-55), math.radians(22)


def cloud_figure(rows: Mapping[str, Sequence[Float[np.ndarray, "_ 3"]]], *, columns: int = 8) -> Figure:
    """A row (or several) of clouds for each name, all at one scale, seen obliquely with the third axis up.

    The nearer a point the darker; no perspective.

    Raises:
        InputError: nothing to show.
    """
    shown = {name: list(clouds) for name, clouds in rows.items() if len(clouds)}
    if not shown:
        raise InputError("no clouds to show")
    lines = [
        (name if not k else "", clouds[k : k + columns])
        for name, clouds in shown.items()
        for k in range(0, len(clouds), columns)
    ]
    reach = max(float(np.abs(cloud - cloud.mean(0)).max()) for clouds in shown.values() for cloud in clouds)
    figure = Figure(figsize=(CELL * columns, (CELL + 0.12) * len(lines)), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    shades = LinearSegmentedColormap.from_list("depth", ["#b9cde3", BLUE, INK])
    for line, (name, clouds) in enumerate(lines):
        for column, cloud in enumerate(clouds):
            axes = figure.add_axes((column / columns, 1 - (line + 1) / len(lines), 1 / columns, 0.93 / len(lines)))
            across, up, depth = _seen(cloud - cloud.mean(0))
            order = np.argsort(depth)
            axes.scatter(across[order], up[order], c=depth[order], s=2.2, cmap=shades, linewidths=0)
            axes.set(xlim=(-1.3 * reach, 1.3 * reach), ylim=(-1.3 * reach, 1.3 * reach), aspect="equal")
            axes.set_axis_off()
        if name:
            figure.text(0.004, 1 - (line + 0.08) / len(lines), name, fontsize=FONT_SIZE, color=INK, parse_math=False)
    return figure


def save_cloud_figure(path: Path, rows: Mapping[str, Sequence[Float[np.ndarray, "_ 3"]]], *, columns: int = 8) -> None:
    """Writes the picture as PNG, or as what the name of the file says.

    Raises:
        OutputError: it cannot be written.
    """
    figure = cloud_figure(rows, columns=columns)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise OutputError("cannot write the picture", where=str(path), got=str(error)) from error


def _seen(points: Float[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates to the right, upwards, and towards the eye."""
    x, y, z = points.T
    across = -math.sin(AZIMUTH) * x + math.cos(AZIMUTH) * y
    ahead = math.cos(AZIMUTH) * x + math.sin(AZIMUTH) * y
    up = math.cos(ELEVATION) * z - math.sin(ELEVATION) * ahead
    return across, up, math.cos(ELEVATION) * ahead + math.sin(ELEVATION) * z
