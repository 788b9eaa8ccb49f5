"""A comparison as a table and as a picture."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from geomol.report.style import AMBER, BLUE, FONT_SIZE, INK, MUTED, label_axes, new_figure
from geomol.study.columns import Columns, columns_for
from geomol.study.compare import Comparison, Entry

FLOOR = 1e-8  # symmetry errors below are rounding; the picture ends here


def columns_of(comparison: Comparison) -> Columns:
    """What is shown beside the score."""
    return columns_for(comparison.score, {key for entry in comparison.entries for run in entry.figures for key in run})


def markdown_table(comparison: Comparison) -> str:
    """The table in Markdown: test figure, published value, symmetry error, size and cost, best first."""
    shown = columns_of(comparison)
    published = any(entry.published is not None for entry in comparison.entries)
    columns = ["configuration", "model", "symmetry", "training", shown.title]
    columns += ["published"] if published else []
    columns += [f"symmetry error {shown.symmetry_unit}".strip(), "parameters", "ms / step", "epochs", "minutes"]
    columns += [heading for heading, *_ in shown.extra]
    seeds = "seeds" if len(comparison.seeds) > 1 else "seed"
    lines = [
        f"{comparison.data}; budget: {comparison.budget}; {seeds} {', '.join(map(str, comparison.seeds))}"
        f"{' (mean ± standard deviation)' if len(comparison.seeds) > 1 else ''}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for entry in comparison.entries:
        cells = [entry.name, entry.model, entry.symmetry, entry.training]
        cells += [_with_spread(entry, comparison.score, shown.factor)]
        cells += [_plain(math.nan if entry.published is None else entry.published, "g")] if published else []
        cells += [
            _plain(shown.symmetry_factor * entry.mean(shown.symmetry), ".2g"),
            str(entry.parameters),
            f"{entry.step_ms:.1f}",
        ]
        cells += [f"{entry.epochs:.3g}", f"{entry.minutes:.1f}"]
        cells += [_plain(by * entry.mean(key), form) for _, key, by, form in shown.extra]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _plain(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


def _with_spread(entry: Entry, key: str, factor: float) -> str:
    spread = entry.spread(key)
    text = _plain(factor * entry.mean(key), ".3g")
    text += "" if spread is None else f" ± {factor * spread:.1g}"
    if not entry.diverged:
        return text
    return f"{text} ({entry.diverged} diverged)".strip() if text else "diverged"


def tradeoff_figure(comparison: Comparison) -> Figure:
    """Test error against symmetry error, one point for each entry; published values as rings joined to ours."""
    shown = columns_of(comparison)
    symmetry, heading, unit, factor = shown.symmetry, shown.heading, shown.unit, shown.factor
    figure, axes = new_figure(width=7.6, height=5.4)
    points: list[tuple[float, float, str]] = []
    rings: list[tuple[float, float]] = []
    for entry in comparison.entries:
        x, y = max(FLOOR, shown.symmetry_factor * entry.mean(symmetry)), factor * entry.mean(comparison.score)
        if not (math.isfinite(x) and math.isfinite(y)):
            continue
        axes.plot([x], [y], "o", color=BLUE, markersize=5, zorder=4, label=None if points else "here")
        points.append((x, y, entry.name))
        if entry.published is not None:
            axes.plot([x, x], [y, entry.published], "-", color=AMBER, linewidth=0.8, alpha=0.6, zorder=2)
            label = None if rings else "published"
            axes.plot([x], [entry.published], "o", mfc="none", color=AMBER, markersize=6.5, zorder=3, label=label)
            rings.append((x, entry.published))
    axes.set_xscale("log")
    axes.margins(x=0.06, y=0.06)
    if unit != "%":  # a share may be 0
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "2345" else "")
    x_unit = f"({unit})" if unit not in ("", "%") else "(relative)"
    y_unit = f"({unit})" if unit else ""
    label_axes(axes, f"symmetry error {x_unit}", f"{heading} {y_unit}".strip())
    if rings:
        style = {"frameon": False, "fontsize": FONT_SIZE - 1, "labelcolor": INK}
        figure.legend(loc="outside upper right", ncols=2, handlelength=1.0, **style)
    _name_points(figure, axes, _without_common_start(points), rings)
    return figure


def _without_common_start(points: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Names without the words that all of them start with ("nbody-")."""
    words = [name.split("-") for _, _, name in points]
    shortest = min(map(len, words), default=1)
    cut = next((k for k in range(shortest) if len({name[k] for name in words}) > 1), shortest - 1)
    if len(points) < 2:
        return points
    return [(x, y, "-".join(name[cut:])) for (x, y, _), name in zip(points, words, strict=True)]


def _name_points(
    figure: Figure, axes: Axes, points: list[tuple[float, float, str]], rings: list[tuple[float, float]]
) -> None:
    """Names beside their points, at the nearest place where they meet no other name, point or ring; a thin line leads
    to a name that had to move.
    """
    figure.canvas.draw()  # settles the layout, so that places on the page are final
    place, home = axes.transData.transform, axes.transAxes.inverted().transform
    frame = axes.get_window_extent()
    dots = [place((x, y)) for x, y in [*(point[:2] for point in points), *rings]]
    taken = [Bbox.from_bounds(px - 5, py - 5, 10, 10) for px, py in dots]
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        text = axes.text(0, 0, name, fontsize=FONT_SIZE - 2, color=INK, parse_math=False, va="center", zorder=5)
        size = text.get_window_extent()
        px, py = (float(value) for value in place((x, y)))
        box = _free_place(px, py, size.width, size.height, taken, frame)
        taken.append(box)
        middle = (box.y0 + box.y1) / 2
        text.set_transform(axes.transAxes)
        text.set_position(tuple(home((box.x0, middle))))
        near = min(max(px, box.x0 - 2), box.x1 + 2)
        if math.hypot(near - px, middle - py) > max(14, size.height):
            ends = home([(px, py), (near, middle)])
            axes.plot(*ends.T, "-", color=MUTED, linewidth=0.5, transform=axes.transAxes, zorder=1)


def _free_place(px: float, py: float, width: float, height: float, taken: list[Bbox], frame: Bbox) -> Bbox:
    """The free place for a name nearest to its point (pixels), to the right where that is as near; if there is none,
    the plain one.
    """
    plain = Bbox.from_bounds(px + 10, py - height / 2, width, height)
    lefts = [(10.0, px + 10), (10.5, px - 10 - width), (22.0, px + 22), (22.5, px - 22 - width), (16.0, px - width / 2)]
    shifts = [0.4 * height * k for k in range(-30, 31)]
    tries = sorted((math.hypot(cost, shift), left, shift) for cost, left in lefts for shift in shifts)
    for _, left, shift in tries:
        box = Bbox.from_bounds(left, py + shift - height / 2, width, height)
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        if inside and not any(box.overlaps(other) for other in taken):
            return box
    return plain
