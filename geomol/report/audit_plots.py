"""Figures of a symmetry audit: the ladder of errors, Lie derivatives, layers, orbits, the sphere of axes, paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from numpy import ndarray

from geomol.report.plots import number
from geomol.report.style import (
    AMBER,
    BLUE,
    CHARACTER,
    FONT_SIZE,
    GREEN,
    GRID,
    INK,
    MUTED,
    RED,
    SERIES,
    add_legend,
    annotate,
    in_lines,
    label_axes,
    new_figure,
)

HEAT = LinearSegmentedColormap.from_list(
    "geomol-heat", ["#dfe9f3", "#9fc0de", "#5b8fc4", "#6d68a8", "#a5528a", "#cf5a52", "#e9a23b"]
)
FLOOR = 1e-17  # errors below this are drawn here, at the left end of a logarithmic axis
_STATUS = {"pass": GREEN, "fail": RED, "not claimed": MUTED}
_MARKERS = "osD^v"


def ladder(rows: Sequence[tuple[str, str, float, float | None, str]]) -> Figure:
    """E′ of every kind of motion, one line each, coloured by whether the bar holds.

    Args:
        rows: (family, output, E′, bar relative to the same scale or None, status).
    """
    names = list(dict.fromkeys(row[0] for row in rows))
    outputs = list(dict.fromkeys(row[1] for row in rows))
    figure, axes = new_figure(width=5.6, height=0.9 + (0.23 + 0.04 * len(outputs)) * len(names))
    for family, output, value, bar, status in rows:
        y = names.index(family) + 0.16 * (outputs.index(output) - (len(outputs) - 1) / 2)
        shown = max(value, FLOOR) if np.isfinite(value) else 1.0
        marker = _MARKERS[outputs.index(output) % len(_MARKERS)]
        axes.plot([FLOOR, shown], [y, y], color=GRID, linewidth=1.1, zorder=2)
        axes.plot([shown], [y], marker, color=_STATUS.get(status, MUTED), markersize=4.6, zorder=4)
        if bar is not None:
            axes.plot([bar], [y], "|", color=INK, markersize=7, zorder=3)
    for k, output in enumerate(outputs):
        axes.plot([], [], _MARKERS[k % len(_MARKERS)], color=MUTED, markersize=4.6, linestyle="none", label=output)
    axes.plot([], [], "|", color=INK, markersize=7, linestyle="none", label="bar")
    axes.set_xscale("log")
    axes.set_xlim(FLOOR / 2, 30)
    axes.set_xticks([1e-16, 1e-12, 1e-8, 1e-4, 1.0])
    axes.minorticks_off()
    axes.set_yticks(range(len(names)), names, fontsize=FONT_SIZE - 1, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    label_axes(axes, "mean ‖f(gx) − ρ(g)f(x)‖ / mean ‖f(x)‖", "")
    axes.legend(
        frameon=False, fontsize=FONT_SIZE - 1, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1),
        ncols=_columns(outputs), handlelength=1.0, columnspacing=1.4,
    )  # fmt: skip
    return figure


def _columns(names: Sequence[str], inches: float = 4.2) -> int:
    """How many columns of a legend fit beside each other."""
    widest = 0.4 + max(len(name) for name in names) * CHARACTER
    return max(1, min(4, int(inches / widest)))


def lie_bars(rates: Mapping[str, Mapping[str, float]], *, unit: str) -> Figure:
    """Root mean square Lie derivative along every generator, logarithmic; one colour per output."""
    outputs = list(rates)
    names = list(next(iter(rates.values())))
    figure, axes = new_figure(height=3.0)
    width = 0.8 / len(outputs)
    for k, output in enumerate(outputs):
        values = [max(rates[output][name], FLOOR) for name in names]
        place = np.arange(len(names)) + (k - (len(outputs) - 1) / 2) * width
        axes.bar(place, values, width, bottom=0, color=SERIES[k % len(SERIES)], label=output)
    axes.set_yscale("log")
    axes.set_ylim(FLOOR, max(1.0, 3 * max(max(r.values()) for r in rates.values())))
    labels = [name.replace("translation ", "shift ").replace("rotation ", "turn ") for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=FONT_SIZE - 1, color=INK)
    axes.grid(False, axis="x")
    label_axes(axes, "", f"RMS Lie derivative ({unit})")
    add_legend(axes, loc="upper left")
    return figure


def layer_bars(shares: Mapping[str, Mapping[str, float]], *, unit: str, floor: float = 0.0) -> Figure:
    """Share of each layer in the Lie derivative: root mean squares, one group of bars per kind of generator.

    The axis reaches at least to `floor`.
    """
    kinds = list(shares)
    layers = list(next(iter(shares.values())))
    figure, axes = new_figure(height=1.1 + 0.3 * len(layers))
    height = 0.8 / len(kinds)
    for k, kind in enumerate(kinds):
        place = np.arange(len(layers)) + (k - (len(kinds) - 1) / 2) * height
        axes.barh(place, list(shares[kind].values()), height, color=SERIES[k % len(SERIES)], label=kind)
    axes.set_yticks(range(len(layers)), layers, fontsize=FONT_SIZE - 1, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * max(floor, *(max(layer.values()) for layer in shares.values())))
    axes.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4), useMathText=False)
    axes.grid(False, axis="y")
    label_axes(axes, f"RMS share ({unit})", "")
    add_legend(axes, loc="best")
    return figure


def sphere_map(
    directions: Float[ndarray, "A 3"], error: Float[ndarray, " A"], *, label: str, floor: float = 0.0
) -> Figure:
    """Error over the sphere of rotation axes, in an equal-area projection; every cell is one measured axis.

    Errors far below `floor` are drawn as flat, so that rounding does not look like a pattern.
    """
    figure = Figure(figsize=(5.6, 3.4), dpi=144, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(projection="mollweide")
    longitude, latitude = np.linspace(-np.pi, np.pi, 361), np.linspace(-np.pi / 2, np.pi / 2, 181)
    lon, lat = np.meshgrid((longitude[1:] + longitude[:-1]) / 2, (latitude[1:] + latitude[:-1]) / 2)
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    image = error[np.argmax(points @ directions.T, axis=-1)]
    mesh = axes.pcolormesh(longitude, latitude, image, cmap=HEAT, rasterized=True, shading="flat")
    top = max(float(error.max()), floor)
    mesh.set_clim(0.0 if error.min() < 0.5 * top else float(error.min()), top)
    marks = {"+x": (0, 0), "+y": (np.pi / 2, 0), "−y": (-np.pi / 2, 0), "+z": (0, np.pi / 2), "−z": (0, -np.pi / 2)}
    for name, place in marks.items():
        axes.plot(*place, "o", color="white", markeredgecolor="black", markeredgewidth=0.8, markersize=3.5)
        offset = (0, -12) if name == "+z" else (0, 5)
        box = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.65}
        axes.annotate(
            name,
            place,
            offset,
            textcoords="offset points",
            ha="center",
            fontsize=FONT_SIZE - 1.5,
            color="black",
            bbox=box,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["geo"].set_visible(False)
    bar = figure.colorbar(mesh, ax=axes, orientation="horizontal", fraction=0.06, pad=0.03, aspect=40)
    _style_bar(bar, in_lines(label, 0.9 * figure.get_figwidth()))
    return figure


def orbit_curves(
    angle: Float[ndarray, " M"], table: Float[ndarray, "S M"], *, ylabel: str, floor: float = 0.0
) -> Figure:
    """Error of every structure while it turns once about an axis, and the mean of them; the axis ends above `floor`."""
    figure, axes = new_figure(height=3.2)
    closed = np.append(angle, 360.0)
    for row in table:
        axes.plot(closed, np.append(row, row[0]), color=BLUE, linewidth=0.9, alpha=0.4)
    mean = table.mean(axis=0)
    axes.plot(closed, np.append(mean, mean[0]), color=AMBER, linewidth=2.0, label="mean")
    axes.plot([], [], color=BLUE, linewidth=0.9, alpha=0.6, label="one structure")
    axes.set_xticks([0, 90, 180, 270, 360])
    axes.set_xlim(0, 360)
    axes.set_ylim(0, 1.3 * max(float(table.max()), floor))
    label_axes(axes, "Angle (degrees)", ylabel)
    add_legend(axes, loc="upper right")
    return figure


def orbit_heatmap(tables: Sequence[tuple[str, Float[ndarray, "S M"]]], *, scale: float, label: str) -> Figure:
    """Relative error of every structure (row) under every motion (column), logarithmic; families side by side."""
    figure, axes = new_figure(width=9.6, height=1.9 + 0.16 * len(tables[0][1]))
    whole = np.concatenate([table for _, table in tables], axis=1) / scale
    shown = np.clip(np.nan_to_num(whole, nan=1.0, posinf=1.0), FLOOR, None)
    mesh = axes.imshow(
        shown, aspect="auto", cmap=HEAT, norm=LogNorm(1e-16, max(1.0, float(shown.max()))), interpolation="nearest"
    )
    start, ticks = 0, []
    for _, table in tables:
        ticks.append(start + (table.shape[1] - 1) / 2)
        start += table.shape[1]
        axes.axvline(start - 0.5, color="white", linewidth=2.0)
    axes.set_xticks(ticks, [name for name, _ in tables], rotation=32, ha="right", fontsize=FONT_SIZE - 1, color=INK)
    axes.set_yticks([])
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    _style_bar(figure.colorbar(mesh, ax=axes, fraction=0.02, pad=0.01), label)
    label_axes(axes, "", "Structures")
    return figure


def pca_scatter(
    coordinates: Float[ndarray, "S C"],
    variance: Float[ndarray, " C"],
    mean: Float[ndarray, " S"],
    *,
    unit: str,
    label: str,
    floor: float = 0.0,
) -> Figure:
    """Orbits as points: structures that fail in the same poses lie together; the axes reach at least to `floor`."""
    figure, axes = new_figure(height=3.2)
    second = coordinates[:, 1] if coordinates.shape[1] > 1 else np.zeros(len(coordinates))
    dots = axes.scatter(coordinates[:, 0], second, c=mean, cmap=HEAT, s=46, edgecolors=MUTED, linewidths=0.6, zorder=4)
    if np.abs(coordinates).max() < 0.02 * floor:
        annotate(axes, "all structures coincide")
    else:
        for k, (x, y) in enumerate(zip(coordinates[:, 0], second, strict=True)):
            axes.annotate(str(k), (x, y), (5, 4), textcoords="offset points", fontsize=FONT_SIZE - 2, color=MUTED)
    for low_high, values in ((axes.set_xlim, coordinates[:, 0]), (axes.set_ylim, second)):
        reach = max(1.2 * float(np.abs(values).max()), floor)
        low_high(-reach, reach)
    axes.ticklabel_format(style="sci", scilimits=(-3, 4))
    total = float(variance.sum())
    part = [0.0 if total == 0 else 100 * float(v) / total for v in (*variance, 0.0)]
    behind = f" ({unit})" if unit else ""
    label_axes(axes, f"Component 1, {part[0]:.0f} %{behind}", f"Component 2, {part[1]:.0f} %{behind}")
    _style_bar(figure.colorbar(dots, ax=axes, fraction=0.04, pad=0.02), label)
    return figure


def pose_errors(
    aggregate: Float[ndarray, " M"], table: Float[ndarray, "S M"], *, ylabel: str, floor: float = 0.0
) -> Figure:
    """Error against labels in every pose, best to worst: flat for an equivariant model; the axis ends above `floor`."""
    figure, axes = new_figure(height=3.2)
    order = np.argsort(aggregate)
    x = np.arange(len(order)) + 1
    low, high = (np.quantile(table, q, axis=0)[order] for q in (0.1, 0.9))
    axes.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0, label="10 to 90 % of structures")
    axes.plot(x, aggregate[order], "o-", color=BLUE, markersize=3, linewidth=1.4, label="mean")
    axes.set_ylim(0, 1.25 * max(float(high.max()), floor) or 1.0)
    mean = float(aggregate.mean())
    width = 100 * float(np.ptp(aggregate)) / mean if mean > 0 else 0.0
    said = f"worst − best pose: {number(width)} % of the mean"
    annotate(axes, said if float(high.max()) > floor else "no error beyond rounding", x=0.04, y=0.06)
    label_axes(axes, "Pose, from best to worst", ylabel)
    add_legend(axes, loc="upper left")
    return figure


def path_curves(
    curves: Sequence[tuple[Float[ndarray, " T"], float | None]], *, xlabel: str, ylabel: str, floor: float = 0.0
) -> Figure:
    """Change of the output along searched paths; a found jump is marked.

    Args:
        curves: values at even steps of [0, 1], and where the jump is, if there is one.
        xlabel, ylabel: of the axes.
        floor: the axis reaches at least so far.
    """
    figure, axes = new_figure(height=3.0)
    for k, (values, place) in enumerate(curves):
        t = np.linspace(0, 1, len(values))
        axes.plot(t, values, color=SERIES[k % len(SERIES)], linewidth=1.3)
        if place is not None:
            axes.axvline(place, color=RED, linewidth=1.0, linestyle=(0, (3, 3)), label="jump")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.15 * max(floor, *(float(values.max()) for values, _ in curves)))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
    label_axes(axes, xlabel, ylabel)
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(handles[:1], labels[:1], frameon=False, fontsize=FONT_SIZE - 1, labelcolor=INK)
    return figure


def _style_bar(bar: Colorbar, label: str) -> None:
    bar.outline.set_visible(False)
    bar.ax.tick_params(which="both", colors=MUTED, labelcolor=MUTED, labelsize=FONT_SIZE - 1, width=0.8)
    bar.set_label(label, fontsize=FONT_SIZE - 1, color=INK, parse_math=False)
