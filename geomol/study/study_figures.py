"""Pictures of a study: curves along numeric axes with their power laws, bars along the others."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from geomol.report.style import AMBER, BLUE, FONT_SIZE, SERIES, label_axes, new_figure
from geomol.study.runner import StudyResult, mean, spread
from geomol.study.summary import power_laws


def study_figures(result: StudyResult) -> dict[str, Figure]:
    """Figures by name: one for each numeric axis, and one with all combinations."""
    found = {f"along-{axis.replace(' ', '_')}": curves(result, axis) for axis in result.numeric}
    return {"combinations": bars(result), **found}


def bars(result: StudyResult) -> Figure:
    """Score of every combination, best first, with the spread over seeds and every run as a dot; where the score is a
    share of clouds in poses like those of training, the same share in any pose is a ring.
    """
    shown = result.columns
    twin = result.score.removesuffix("_z") + "_so3"
    combinations = [c for c in result.combinations() if result.scores(c)]
    figure, axes = new_figure(width=6.6, height=0.8 + 0.3 * max(3, len(combinations)))
    for row, choices in enumerate(combinations):
        scores = [shown.factor * score for score in result.scores(choices)]
        error = spread(scores) if len(scores) > 1 else 0.0
        axes.barh(row, mean(scores), xerr=error, color=BLUE, alpha=0.35, height=0.7, capsize=2)
        axes.plot(scores, [row] * len(scores), "o", color=BLUE, markersize=3)
        turned = [shown.factor * value for value in result.values(twin, choices)]
        axes.plot(turned, [row] * len(turned), "o", mfc="none", color=AMBER, markersize=6)
    named = [axis for axis, choices in result.axes.items() if len(choices) > 1] or list(result.axes)
    axes.set_yticks(
        range(len(combinations)), [", ".join(c[a] for a in named) for c in combinations], fontsize=FONT_SIZE
    )
    axes.invert_yaxis()
    rings = " (rings: turned in SO(3))" if any(result.values(twin, c) for c in combinations) else ""
    label_axes(axes, shown.title + rings, "")
    return figure


def curves(result: StudyResult, axis: str) -> Figure:
    """Score along a numeric axis, one line for each combination of the other choices; fitted laws dashed."""
    figure, axes = new_figure(width=6.2, height=4.4)
    labels: dict[str, list[dict[str, str]]] = {}
    for choices in result.combinations():
        label = ", ".join(c for a, c in choices.items() if a != axis) or "all"
        labels.setdefault(label, []).append(choices)
    laws, factor = power_laws(result), result.columns.factor
    for number, (label, members) in enumerate(sorted(labels.items())):
        colour = SERIES[number % len(SERIES)]
        members = sorted((m for m in members if result.scores(m)), key=lambda m: float(m[axis]))
        x = np.array([float(m[axis]) for m in members])
        y = [factor * mean(result.scores(m)) for m in members]
        error = [0.0 if np.isnan(s := spread(result.scores(m))) else factor * s for m in members]
        law = laws.get((axis, label))
        text = label if law is None else f"{label}: power {-law.exponent:.2f}"
        axes.errorbar(x, y, yerr=error, marker="o", markersize=4, linewidth=1.2, capsize=2, color=colour, label=text)
        if law is not None:
            axes.plot(x, factor * law.at(x), "--", color=colour, linewidth=0.8)
    axes.set_xscale("log")
    sizes = sorted({float(choices[axis]) for choices in result.combinations()})
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set_xticks([], minor=True)
    if result.sign > 0:
        axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=FONT_SIZE - 1)
    label_axes(axes, axis, result.columns.title)
    return figure
