"""What a study says, in words computed from its results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from geomol.errors import InputError
from geomol.study.columns import columns_for
from geomol.study.measure import score_key
from geomol.study.record import CellResult
from geomol.study.runner import StudyResult, mean, spread
from geomol.study.scaling import PowerLaw, fit_power_law

CLEAR = 2.0  # standard errors of a difference that count as a difference
ENOUGH = 3  # pairs of runs of which a standard error can be taken


def table(result: StudyResult) -> str:
    """All combinations, best first, in Markdown: score with its spread over seeds, what else says how good it is, the
    symmetry error, size and cost.
    """
    axes, shown = list(result.axes), result.columns
    heads = [*axes, shown.title, *(heading for heading, *_ in shown.extra)]
    heads += [f"symmetry error {shown.symmetry_unit}".strip(), "runs", "parameters", "epochs", "minutes"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for choices in result.combinations():
        cells = [cell for cell in result.cells if cell.choices == choices]
        scores = result.scores(choices)
        row = [choices[axis] for axis in axes]
        row += ["diverged" if not scores else _with_spread(scores, shown.factor)]
        row += [_plain(factor * mean(result.values(key, choices)), form) for _, key, factor, form in shown.extra]
        row += [_plain(shown.symmetry_factor * mean(result.values(shown.symmetry, choices)), ".2g"), str(len(scores))]
        row += [str(cells[0].parameters), f"{mean([c.epochs for c in cells]):.3g}"]
        lines.append("| " + " | ".join([*row, f"{mean([c.minutes for c in cells]):.2g}"]) + " |")
    return "\n".join(lines) + "\n"


def sentences(result: StudyResult) -> list[str]:
    """One sentence for the best combination, and for each axis how its choices compare, all else equal."""
    best = result.combinations()[0]
    if not result.scores(best):
        return ["No run finished."]
    named = ", ".join(f"{axis} {choice}" for axis, choice in best.items())
    found = [f"The best of {len(result.combinations())} combinations is {named}: {_value(result, best)}."]
    for axis, choices in result.axes.items():
        if len(choices) < 2:
            continue
        found.append(_along(result, axis))
    if all(len(result.scores(choices)) <= 1 for choices in result.combinations()):
        found.append("Each combination was run once, so how far chance moves a score was not measured.")
    for (axis, label), law in power_laws(result).items():
        falls = "falls" if law.exponent > 0 else "grows"
        found.append(
            f"Along {axis}, {label}: the error {falls} as the power {-law.exponent:.2f} "
            f"(95 % interval {-law.high:.2f} to {-law.low:.2f}, {law.points} sizes)."
        )
    return found


def outcome(task: str, found: CellResult) -> str:
    """How one run ended, in a few words: its score and the time it took."""
    if not found.figures:
        return "diverged"
    score = score_key(task, found.figures)
    shown = columns_for(score, found.figures)
    value = f"{shown.factor * found.figures[score]:.4g} {shown.unit}".strip()
    return f"{shown.heading} {value}, {found.minutes:.2g} min"


def _value(result: StudyResult, choices: Mapping[str, str]) -> str:
    shown = result.columns
    return f"{shown.heading} {_with_spread(result.scores(choices), shown.factor)} {shown.unit}".strip()


def _with_spread(values: list[float], factor: float) -> str:
    text = f"{factor * mean(values):.4g}"
    return text + (f" ± {factor * spread(values):.1g}" if len(values) > 1 else "")


def _plain(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


def _along(result: StudyResult, axis: str) -> str:
    """How often each choice of an axis beats the others where everything else, the seed included, is equal."""
    groups: dict[tuple[object, ...], dict[str, float]] = {}
    for cell in result.cells:
        if result.score in cell.figures:
            rest = tuple(sorted((a, c) for a, c in cell.choices.items() if a != axis))
            groups.setdefault((*rest, cell.seed), {})[cell.choices[axis]] = result.sign * cell.figures[result.score]
    ranked = sorted(result.axes[axis], key=lambda choice: _mean_log(groups, choice))
    steps = [
        (better, worse, [g[worse] - g[better] for g in groups.values() if better in g and worse in g])
        for better, worse in pairwise(ranked)
    ]
    counts = {len(differences) for *_, differences in steps}
    if counts == {1}:
        order = "; ".join(ranked)
        return f"By {axis}, all else equal, best first: {order}. One run each, so this says nothing about how often."
    if counts <= {1, 2}:
        order = "; ".join(ranked)
        return f"By {axis}, all else equal, best first on average: {order}. Two runs each are too few to tell more."
    return f"By {axis}, all else equal: " + "; ".join(_comparison(*step) for step in steps) + "."


def _mean_log(groups: Mapping[tuple[object, ...], Mapping[str, float]], choice: str) -> float:
    values = [group[choice] for group in groups.values() if choice in group]
    if not values:
        return math.inf
    return float(np.mean(np.log(values))) if min(values) > 0 else float(np.mean(values))


def _comparison(better: str, worse: str, differences: list[float]) -> str:
    """ "beats" where the mean difference is clear of its standard error, otherwise how often it was ahead."""
    if not differences:
        return f"{better} was not run beside {worse}"
    difference = np.array(differences)
    share = f"in {int((difference > 0).sum())} of {len(difference)}"
    if len(difference) < ENOUGH:
        return f"{better} was ahead of {worse} {share}, too few to tell"
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    word = "beats" if difference.mean() > CLEAR * error else "is not clearly ahead of"
    return f"{better} {word} {worse} ({share})"


def power_laws(result: StudyResult) -> dict[tuple[str, str], PowerLaw]:
    """A law along each numeric axis for every combination of the other choices that has four sizes or more.

    Of errors only: shares that are good when high follow no such law.
    """
    found: dict[tuple[str, str], PowerLaw] = {}
    if result.sign < 0:
        return found
    for axis in result.numeric:
        groups: dict[str, list[tuple[float, float]]] = {}
        for cell in result.cells:
            if result.score in cell.figures:
                label = ", ".join(c for a, c in cell.choices.items() if a != axis) or "all"
                groups.setdefault(label, []).append((float(cell.choices[axis]), cell.figures[result.score]))
        for label, points in groups.items():
            try:
                found[axis, label] = fit_power_law(*np.array(points).T)
            except InputError:
                continue  # too few sizes, or an error of 0: no law is claimed
    return found
