"""A comparison as a table and as a picture."""

from __future__ import annotations

from matplotlib.figure import Figure

from geomol.report.style import AMBER, BLUE, FONT_SIZE, INK, label_axes, new_figure
from geomol.study.compare import Comparison, Entry

FLOOR = 1e-8  # symmetry errors below are rounding; the picture ends here


def _column(comparison: Comparison) -> tuple[str, str, str, float]:
    """Key of the symmetry error, heading and unit of the score, and factor to that unit."""
    if comparison.task == "forecast":
        return "equivariance_error", "test MSE", "", 1.0
    return "rotation_force_error_eV_per_A", "force MAE", "meV/Å", 1e3


def markdown_table(comparison: Comparison) -> str:
    """The table in Markdown: test error, published value, symmetry error, size and cost, best first."""
    symmetry, heading, unit, factor = _column(comparison)
    potential = comparison.task == "potential"
    columns = ["configuration", "model", "symmetry", "training", f"{heading} {unit}".strip(), "published"]
    columns += [f"symmetry error {unit}".strip(), "parameters", "ms / step", "epochs", "minutes"]
    columns += ["ms / call (ASE)"] if potential else []
    lines = [
        f"{comparison.data}; budget: {comparison.budget}; seeds: {', '.join(map(str, comparison.seeds))}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for entry in comparison.entries:
        cells = [entry.name, entry.model, entry.symmetry, entry.training, _with_spread(entry, comparison.score, factor)]
        cells += ["" if entry.published is None else f"{entry.published:g}"]
        cells += [f"{factor * entry.mean(symmetry):.2g}", str(entry.parameters), f"{entry.step_ms:.1f}"]
        cells += [f"{entry.epochs:.0f}", f"{entry.minutes:.1f}"]
        cells += [f"{1e3 * entry.mean('energy_and_forces_s'):.1f}"] if potential else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _with_spread(entry: Entry, key: str, factor: float) -> str:
    spread = entry.spread(key)
    text = f"{factor * entry.mean(key):.3g}"
    return text if spread is None else f"{text} ± {factor * spread:.1g}"


def tradeoff_figure(comparison: Comparison) -> Figure:
    """Test error against symmetry error, one point for each entry; published values as rings joined to ours."""
    symmetry, heading, unit, factor = _column(comparison)
    figure, axes = new_figure(width=7.2, height=4.8)
    points = []
    for entry in comparison.entries:
        x, y = max(FLOOR, factor * entry.mean(symmetry)), factor * entry.mean(comparison.score)
        points.append((x, y, entry.name.removeprefix("nbody-")))
        axes.plot([x], [y], "o", color=BLUE, markersize=5)
        if entry.published is not None:
            axes.plot([x, x], [y, entry.published], "-", color=AMBER, linewidth=0.8, alpha=0.6)
            axes.plot([x], [entry.published], "o", markerfacecolor="none", color=AMBER, markersize=5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    label_axes(axes, f"symmetry error {unit}".strip(), f"{heading} {unit}".strip())
    _name_points(axes, points)
    return figure


def _name_points(axes, points: list[tuple[float, float, str]]) -> None:  # type: ignore[no-untyped-def]
    """Names beside their points, moved apart where they would overlap."""
    height = 0.030  # of the axes, for one line of text
    taken: list[tuple[float, float]] = []
    for x, y, name in sorted(points, key=lambda p: p[1]):
        at_x, at_y = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
        place = at_y
        while any(abs(place - other) < height and abs(at_x - other_x) < 0.25 for other_x, other in taken):
            place += height
        taken.append((at_x, place))
        right = at_x > 0.7
        axes.annotate(
            name,
            (x, y),
            xytext=(at_x + (-0.012 if right else 0.012), place),
            textcoords="axes fraction",
            ha="right" if right else "left",
            va="center",
            fontsize=FONT_SIZE - 2,
            color=INK,
            parse_math=False,
        )
