"""What atoms cost, as pictures."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from geomol.report.style import AMBER, BLUE, FONT_SIZE, MUTED, label_axes, new_figure, style_axes


def size_figure(num_atoms: Sequence[int], step_s: Sequence[float], peak_bytes: Sequence[float]) -> Figure:
    """Time and memory per atom against the number of atoms: flat lines are linear scaling."""
    figure, axes = new_figure(width=5.6, height=3.6)
    axes.plot(num_atoms, [1e6 * t / n for t, n in zip(step_s, num_atoms, strict=True)], "o-", color=BLUE, label="time")
    axes.set_xscale("log")
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    label_axes(axes, "atoms", "energy and forces, µs per atom")
    memory = axes.twinx()
    style_axes(memory)
    memory.grid(False)
    memory.spines["right"].set(visible=True, color=MUTED, linewidth=0.8)
    memory.margins(y=0.1)
    kilobytes = [bytes_ / n / 1e3 for bytes_, n in zip(peak_bytes, num_atoms, strict=True)]
    memory.plot(num_atoms, kilobytes, "s--", color=AMBER, label="memory")
    memory.set_ylim(bottom=0)
    label_axes(memory, "atoms", "peak, kB per atom")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=FONT_SIZE - 1)
    return figure
