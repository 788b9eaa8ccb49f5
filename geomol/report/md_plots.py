"""Figures of molecular dynamics: temperature, energies with their drift, volume and pressure, distributions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from numpy import ndarray

from geomol.md import Estimate
from geomol.report.metrics import FS_PER_NS, MEV_PER_EV, drift_estimate
from geomol.report.plots import number, thin
from geomol.report.style import AMBER, BLUE, MUTED, SERIES, add_legend, annotate, label_axes, new_figure

PS_PER_FS = 1e-3


def time_series(
    time_fs: Float[ndarray, " T"], values: Float[ndarray, " T"], *, ylabel: str, unit: str, target: float | None = None
) -> Figure:
    """One observable against time (ps), with its mean and standard deviation and, if given, its target value."""
    figure, axes = new_figure()
    time, shown = thin(time_fs * PS_PER_FS, values)
    axes.plot(time, shown, color=BLUE, linewidth=0.9)
    finite = values[np.isfinite(values)]
    if finite.size:
        axes.axhline(float(finite.mean()), color=AMBER, linewidth=1.3, label="mean")
        annotate(axes, f"mean {number(finite.mean())} {unit}, std {number(finite.std())} {unit}")
    if target is not None:
        axes.axhline(target, color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), label=f"target {number(target)} {unit}")
        add_legend(axes, loc="lower right")
    low, high = axes.get_ylim()
    below = 0.0 if target is None else 0.2  # room for the legend below and the note above
    axes.set_ylim(low - below * (high - low), high + 0.16 * (high - low))
    label_axes(axes, "Time (ps)", f"{ylabel} ({unit})")
    return figure


def energy_series(
    time_fs: Float[ndarray, " T"],
    potential_eV: Float[ndarray, " T"],
    total_eV: Float[ndarray, " T"],
    *,
    num_atoms: int,
) -> Figure:
    """Potential and total energy per atom (meV/atom) against time (ps), each relative to its own mean."""
    figure, axes = new_figure()
    for name, values, colour in (("potential", potential_eV, BLUE), ("total", total_eV, AMBER)):
        finite = values[np.isfinite(values)]
        if finite.size:
            relative = (values - finite.mean()) * MEV_PER_EV / num_atoms
            axes.plot(*thin(time_fs * PS_PER_FS, relative), color=colour, linewidth=0.9, label=name)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.2 * (high - low))  # room for the legend
    label_axes(axes, "Time (ps)", "Energy − mean (meV/atom)")
    add_legend(axes, loc="upper right")
    return figure


def drift_plot(time_fs: Float[ndarray, " T"], total_eV: Float[ndarray, " T"], *, num_atoms: int) -> Figure:
    """Total energy per atom (meV/atom, from its start) against time (ps) with the least-squares drift line."""
    figure, axes = new_figure()
    finite = np.isfinite(time_fs) & np.isfinite(total_eV)
    time, energy = time_fs[finite], total_eV[finite]
    if time.size:
        relative = (energy - energy[0]) * MEV_PER_EV / num_atoms
        axes.plot(*thin(time * PS_PER_FS, relative), color=BLUE, linewidth=0.8)
        drift = drift_estimate(time, energy, num_atoms)
        if drift is not None:
            line = relative.mean() + drift.value / FS_PER_NS * (time - time.mean())
            axes.plot(time[[0, -1]] * PS_PER_FS, line[[0, -1]], color=AMBER, linewidth=1.6)
            annotate(axes, f"drift {with_interval(drift)} meV/atom/ns")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.16 * (high - low))
    label_axes(axes, "Time (ps)", "Total energy − start (meV/atom)")
    return figure


def with_interval(estimate: Estimate) -> str:
    """`0.50 ± 0.02`: a value with the half-width of its 95 % interval, which two digits describe."""
    if not np.isfinite(estimate.half_width):
        return number(estimate.value)
    decimals = max(0, 1 - int(np.floor(np.log10(estimate.half_width)))) if estimate.half_width > 0 else 3
    if decimals > 6:
        return f"{number(estimate.value)} ± {number(estimate.half_width, digits=2)}"
    return f"{estimate.value:.{decimals}f} ± {estimate.half_width:.{decimals}f}"


def distribution(
    curves: Mapping[str, tuple[Float[ndarray, " K"], Float[ndarray, " K"]]], *, xlabel: str, ylabel: str
) -> Figure:
    """Radial or bond-length distributions: (r in Å, value) by name, such as the pair of elements."""
    figure, axes = new_figure()
    for index, (name, (r, value)) in enumerate(curves.items()):
        axes.plot(
            r,
            value,
            color=SERIES[index % len(SERIES)],
            linewidth=1.5,
            label=name,
            linestyle="-" if index < len(SERIES) else (0, (4, 2)),
        )
        axes.fill_between(r, value, color=SERIES[index % len(SERIES)], alpha=0.10, linewidth=0)
    axes.set_ylim(bottom=0)
    label_axes(axes, xlabel, ylabel)
    if len(curves) > 1 or any(curves):
        add_legend(axes)
    return figure
