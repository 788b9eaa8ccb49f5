"""Figures of training and evaluation: learning curves, parity, error distributions, errors by element.

Each function takes arrays in eV, Å units and gives a matplotlib Figure; numbers on it are in meV where usual.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy import ndarray

from geomol.report.metrics import ElementErrors, errors
from geomol.report.style import AMBER, BLUE, GRID, INK, MUTED, SERIES, add_legend, annotate, label_axes, new_figure

LOG_FROM = 3.0  # curves that span less than this factor are drawn on a linear axis, whose numbers read better
MAX_POINTS = 1500  # more points than this are drawn as their envelope (lines) or their density (parity)
DENSITY_BINS = 110
DENSITY = LinearSegmentedColormap.from_list(
    "geomol-density",
    [(0.36, 0.56, 0.77, 0.55), (0.23, 0.46, 0.71, 1.0), (0.53, 0.41, 0.69, 1.0), (0.89, 0.55, 0.2, 1.0)],
)


def thin(x: Float[ndarray, " T"], y: Float[ndarray, " T"]) -> tuple[Float[ndarray, " t"], Float[ndarray, " t"]]:
    """At most about MAX_POINTS points of a curve, lowest and highest of each stretch kept, so no spike is lost."""
    keep = np.isfinite(x) & np.isfinite(y)
    x, y = x[keep], y[keep]
    if len(x) <= MAX_POINTS:
        return x, y
    bounds = np.linspace(0, len(x), MAX_POINTS // 2 + 1).astype(int)
    index = {0, len(x) - 1}
    for start, stop in itertools.pairwise(bounds):
        index.add(start + int(np.argmin(y[start:stop])))
        index.add(start + int(np.argmax(y[start:stop])))
    chosen = np.array(sorted(index))
    return x[chosen], y[chosen]


def learning_curve(
    step: Float[ndarray, " T"],
    series: Mapping[str, Float[ndarray, " T"]],
    *,
    ylabel: str,
    unit: str = "",
    mark_best: bool = False,
) -> Figure:
    """Curves against the training step, logarithmic where they span a factor of LOG_FROM.

    Args:
        step: optimiser steps.
        series: curve by name; NaN where a value was not measured.
        ylabel: axis label, unit included.
        unit: unit of the marked value.
        mark_best: mark and state the lowest value of the first curve.
    """
    figure, axes = new_figure()
    for index, (name, values) in enumerate(series.items()):
        x, y = thin(step, values)
        style = "o-" if len(x) < 40 else "-"
        axes.plot(x, y, style, color=SERIES[index % len(SERIES)], linewidth=1.5, markersize=2.6, label=name)
    values = np.concatenate(list(series.values())) if series else np.zeros(0)
    values = values[np.isfinite(values) & (values > 0)]
    if values.size and values.max() > LOG_FROM * values.min():
        _log_axis(axes)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    label_axes(axes, "Training step", ylabel)
    if mark_best and series:
        _mark_best(axes, step, next(iter(series.values())), unit)
    if len(series) > 1:
        first = next(iter(series.values()))
        first = first[np.isfinite(first)]
        rising = first.size > 1 and first[-1] > first[0]
        add_legend(axes, loc="lower right" if rising else "upper right")  # where the curves are not
    return figure


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.grid(True, which="minor", axis="y", linewidth=0.4, color=GRID)
    low, high = axes.get_ylim()
    decades = np.log10(high / low)
    digits = "2357" if decades < 0.8 else "25" if decades < 2.2 else ""  # so that a few numbers show on any range
    axes.yaxis.set_minor_formatter(lambda x, _: _plain(x) if f"{x:e}"[0] in digits else "")
    if low > 1e-5 and high < 1e6:
        axes.yaxis.set_major_formatter(lambda x, _: _plain(x))


def _plain(value: float) -> str:
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def _mark_best(axes: Axes, step: Float[ndarray, " T"], values: Float[ndarray, " T"], unit: str) -> None:
    if not np.isfinite(values).any():
        return
    best = int(np.nanargmin(values))
    axes.plot([step[best]], [values[best]], "o", color=AMBER, markersize=5, zorder=5)
    annotate(axes, f"best {number(values[best])} {unit}\nat step {int(step[best]):,}", x=0.05, y=0.06)


def parity(
    reference: Float[ndarray, "*shape"],
    predicted: Float[ndarray, "*shape"],
    *,
    quantity: str,
    unit: str,
    error_unit: str,
    error_scale: float = 1.0,
    centre: bool = False,
) -> Figure:
    """Predicted against reference values, with MAE and RMSE written on it.

    Up to MAX_POINTS points are drawn one by one, more as a logarithmic density.

    Args:
        reference, predicted: arrays of one shape, in `unit`.
        quantity: what is compared, for the axis labels.
        error_unit, error_scale: the errors are stated as value × error_scale in error_unit.
        centre: subtract the mean of the reference from both (total energies have an arbitrary, large zero).
    """
    figure, axes = new_figure(width=4.8, height=4.2)
    finite = np.isfinite(reference) & np.isfinite(predicted)
    x, y = reference[finite].ravel(), predicted[finite].ravel()
    zero = float(x.mean()) if centre and x.size else 0.0
    if x.size:
        low, high = _limits(x - zero, y - zero)
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
        _points(axes, x - zero, y - zero, low, high)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
    axes.set_aspect("equal")
    minus = " − mean" if centre else ""
    label_axes(axes, f"Reference {quantity}{minus} ({unit})", f"Predicted {quantity}{minus} ({unit})")
    annotate(axes, error_note(reference, predicted, unit=error_unit, scale=error_scale))
    return figure


def error_note(
    reference: Float[ndarray, "*shape"], predicted: Float[ndarray, "*shape"], *, unit: str, scale: float = 1.0
) -> str:
    """`MAE … / RMSE … / n = …` as written on parity plots; non-finite values are counted, not hidden."""
    finite = np.isfinite(reference) & np.isfinite(predicted)
    found = errors(reference[finite], predicted[finite])
    lines = [f"MAE {number(found.mae * scale)} {unit}", f"RMSE {number(found.rmse * scale)} {unit}"]
    lines.append(f"n = {found.count:,}")
    if not finite.all():
        lines.append(f"{int((~finite).sum()):,} not finite, left out")
    return "\n".join(lines)


def _limits(x: Float[ndarray, " n"], y: Float[ndarray, " n"]) -> tuple[float, float]:
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 1e-3
    return low - margin, high + margin


def _points(axes: Axes, x: Float[ndarray, " n"], y: Float[ndarray, " n"], low: float, high: float) -> None:
    if x.size <= MAX_POINTS:
        axes.scatter(x, y, s=9, color=BLUE, alpha=0.45, linewidths=0, zorder=4)
        return
    counts, _, _ = np.histogram2d(x, y, bins=DENSITY_BINS, range=[[low, high], [low, high]])
    image = np.ma.masked_equal(counts.T, 0)
    axes.imshow(
        image,
        extent=(low, high, low, high),
        origin="lower",
        cmap=DENSITY,
        norm=LogNorm(vmin=1, vmax=max(2.0, float(counts.max()))),
        interpolation="nearest",
        zorder=4,
    )


def error_histogram(deviation: Float[ndarray, "*shape"], *, xlabel: str, unit: str) -> Figure:
    """Distribution of predicted − reference (in `unit`) over the central 99.8 %, with mean and spread."""
    figure, axes = new_figure()
    values = deviation[np.isfinite(deviation)].ravel()
    if values.size:
        reach = float(np.quantile(np.abs(values), 0.998)) or 1.0
        axes.hist(values, bins=61, range=(-reach, reach), color=BLUE, alpha=0.85, linewidth=0)
        axes.axvline(0.0, color=MUTED, linewidth=0.9)
        beyond = int((np.abs(values) > reach).sum())
        note = f"mean {number(values.mean())} {unit}\nstd {number(values.std())} {unit}"
        annotate(axes, note + (f"\n{beyond:,} beyond the axis" if beyond else ""))
    axes.grid(False, axis="x")
    label_axes(axes, f"{xlabel} ({unit})", "Count")
    return figure


def element_bars(rows: Sequence[ElementErrors]) -> Figure:
    """MAE and RMSE of the force components of each element, in meV/Å."""
    figure, axes = new_figure()
    place = np.arange(len(rows))
    width = 0.36
    mae = [1e3 * row.errors.mae for row in rows]
    rmse = [1e3 * row.errors.rmse for row in rows]
    axes.bar(place - width / 2, mae, width, color=BLUE, label="MAE")
    axes.bar(place + width / 2, rmse, width, color=AMBER, label="RMSE")
    axes.set_xticks(place, [row.symbol for row in rows], color=INK, fontsize=8.5 if len(rows) < 12 else 6.5)
    axes.grid(False, axis="x")
    axes.margins(y=0.15)
    label_axes(axes, "Element", "Force error (meV/Å)")
    add_legend(axes)
    return figure


def number(value: float, digits: int = 3) -> str:
    """A value with `digits` significant digits, without an exponent where a reader would write none."""
    if not np.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.{digits - 1}e}"
    if abs(value) >= 10**digits - 0.5:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")
