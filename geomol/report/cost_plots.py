"""What atoms cost, as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geomol.report.style import AMBER, BLUE, FONT_SIZE, MUTED, label_axes, new_figure, style_axes


def size_figure(num_atoms: Sequence[int], step_s: Sequence[float], peak_bytes: Sequence[float]) -> Figure:
    """Time and memory per atom against the number of atoms: flat lines are linear scaling."""
    figure, axes = new_figure(width=5.6, height=3.6)
    microseconds = [1e6 * t / n for t, n in zip(step_s, num_atoms, strict=True)]
    axes.plot(num_atoms, microseconds, "o-", color=BLUE, label="time")
    axes.set_xscale("log")
    _from_zero(axes, microseconds)
    label_axes(axes, "atoms", "energy and forces, µs per atom")
    memory = axes.twinx()
    style_axes(memory)
    memory.grid(False)
    memory.spines["right"].set(visible=True, color=MUTED, linewidth=0.8)
    kilobytes = [bytes_ / n / 1e3 for bytes_, n in zip(peak_bytes, num_atoms, strict=True)]
    memory.plot(num_atoms, kilobytes, "s--", color=AMBER, label="memory")
    _from_zero(memory, kilobytes)
    label_axes(memory, "atoms", "peak, kB per atom")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=FONT_SIZE - 1)
    return figure


def _from_zero(axes: Axes, values: Sequence[float]) -> None:
    """An axis from 0 to a little above the highest value, where there is any (memory is not measured everywhere)."""
    highest = max((value for value in values if math.isfinite(value)), default=0.0)
    axes.set_ylim(0, 1.1 * highest or 1.0)


def call_figure(
    names: Sequence[str],
    quartiles_s: Sequence[tuple[float, float, float]],
    ratios: Sequence[float | None],
    floor_s: float,
) -> Figure:
    """Time of a call of each form with its quartiles, how many times faster than the first it is, and the floor.

    Args:
        names: of the forms.
        quartiles_s: lower quartile, median and upper one of each.
        ratios: time of the first over that of each; None where a gate does not hold.
        floor_s: what the products of matrices alone take at the machine's best.
    """
    figure, axes = new_figure(width=6.0, height=0.9 + 0.42 * max(2, len(names)))
    for row, ((lower, median, upper), ratio) in enumerate(zip(quartiles_s, ratios, strict=True)):
        spread = [[1e3 * (median - lower)], [1e3 * (upper - median)]]
        axes.barh(row, 1e3 * median, xerr=spread, color=BLUE, alpha=0.35, height=0.6, capsize=2)
        text = "a gate does not hold" if ratio is None else f"{1e3 * median:.3g} ms, {ratio:.3g} ×"
        axes.annotate(
            text, (1e3 * upper, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=FONT_SIZE
        )
    axes.axvline(1e3 * floor_s, color=AMBER, linestyle="--", linewidth=1.2, label="products of matrices at the best")
    axes.set_yticks(range(len(names)), names, fontsize=FONT_SIZE)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35e3 * max(upper for _, _, upper in quartiles_s))
    label_axes(axes, "energy and forces through ASE, ms per call", "")
    figure.legend(loc="outside upper right", frameon=False, fontsize=FONT_SIZE - 1)
    return figure
