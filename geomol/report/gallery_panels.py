"""Figures and tables of the gallery: the metrics of every protocol, sizes, elements, properties, what was wrong."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from geomol.generate.score import Score
from geomol.report import markup
from geomol.report.gallery_columns import label_of
from geomol.report.metrics import symbol
from geomol.report.panels import Panel
from geomol.report.plots import number
from geomol.report.style import AMBER, BLUE, GREEN, INK, MUTED, add_legend, annotate, label_axes, new_figure

FAULTS_SHOWN = 12
PROPERTIES_DRAWN = 4
MEANING = {
    "atom_stability": "stable atoms / atoms",
    "molecule_stability": "stable molecules / molecules",
    "valid": "valid molecules / molecules",
    "connected": "molecules of one piece / molecules",
    "valid_connected": "valid molecules of one piece / molecules",
    "unique_of_valid": "different SMILES / valid molecules",
    "valid_unique": "different SMILES / molecules (V·U)",
    "novel_of_unique": "different SMILES not in the training data / different SMILES",
    "valid_unique_novel": "different SMILES not in the training data / molecules (V·U·N)",
}

TITLES = {
    "valid_connected": "Valid, one piece",
    "valid_unique": "Valid and different",
    "valid_unique_novel": "Valid, different, new",
}


def tiles(scores: Mapping[str, Score], data: Mapping[str, Score]) -> str:
    """The first protocol at a glance, with standard errors and the data row."""
    name, score = next(iter(scores.items()))
    unreadable = f"{score.unreadable:,} of them unreadable" if score.unreadable else "failures included"
    found = [markup.tile("Molecules", f"{score.molecules:,}", sub=unreadable)]
    for key in (
        "molecule_stability",
        "atom_stability",
        "valid",
        "valid_connected",
        "valid_unique",
        "valid_unique_novel",
    ):
        share = score.shares.get(key)
        if share is None:
            continue
        shown, error = (
            ("–", "") if math.isnan(share.value) else (f"{100 * share.value:.1f}", f"± {100 * share.error:.1f}")
        )
        reference = data[name].shares.get(key) if name in data else None
        known = reference is not None and not math.isnan(reference.value)
        beside = f"data {100 * reference.value:.1f}" if known and reference is not None else ""
        title = TITLES.get(key, key.replace("_", " ").capitalize())
        found.append(markup.tile(title, shown, "%", " · ".join(part for part in (error, beside) if part)))
    return f'<div class="tiles">{"".join(found)}</div>'


def metrics(scores: Mapping[str, Score], data: Mapping[str, Score], data_name: str) -> str:
    """The figures that `geomol score` prints: shares in percent with one standard error, then the others."""
    heads, results = [], []
    for name, score in scores.items():
        heads.append(f"{name}, {score.molecules:,} molecules")
        results.append(score)
        if name in data:
            heads.append(f"{name}, data: {data[name].molecules:,} of {data_name}")
            results.append(data[name])
    keys = list(dict.fromkeys(key for score in results for key in score.shares))
    rows = [[key.replace("_", " "), *(percent(score, key) for score in results), MEANING.get(key, "")] for key in keys]
    for key in dict.fromkeys(key for score in results for key in score.extra):
        label, unit = label_of(key)
        rows.append([f"{label} ({unit})" if unit else label, *(_extra(score, key) for score in results), ""])
    head = "".join(
        f"<th{_class(i, len(heads))}>{markup.escape(h)}</th>" for i, h in enumerate(["%", *heads, "meaning"])
    )
    body = "".join(
        "<tr>" + "".join(f"<td{_class(i, len(heads))}>{markup.escape(c)}</td>" for i, c in enumerate(row)) + "</tr>"
        for row in rows
    )
    caption = (
        "Shares in percent ± one standard error (binomial; for atoms that of a ratio of sums over molecules). What "
        "failed stays in every denominator. Figures of different protocols do not compare."
    )
    table = (
        f'<div class="scroll"><table class="metrics"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )
    return markup.card(table, caption=caption)


def _class(column: int, results: int) -> str:
    return ' class="num"' if 0 < column <= results else ' class="means"' if column else ""


def percent(score: Score, key: str) -> str:
    """A share as `geomol score` writes it."""
    share = score.shares.get(key)
    if share is None or math.isnan(share.value):
        return "–"
    return f"{100 * share.value:.2f} ± {100 * share.error:.2f}"


def _extra(score: Score, key: str) -> str:
    return f"{score.extra[key]:.4g}" if key in score.extra else "–"


def failures(scores: Mapping[str, Score]) -> str:
    """What was wrong first of all with each molecule, counted; the script makes the lines filter the molecules."""
    cards = []
    for place, (name, score) in enumerate(scores.items()):
        title = f"What was wrong, protocol {name}"
        if not score.failures:
            cards.append(markup.card(markup.missing("Nothing: every molecule is stable and valid."), title=title))
            continue
        most = max(score.failures.values())
        shown = list(score.failures.items())[:FAULTS_SHOWN]
        lines = "".join(
            f'<li data-protocol="{place}" data-fault="{i}"><span class="kind">{markup.escape(kind)}</span>'
            f'<span class="count">{count:,}</span>'
            f'<span class="bar"><i style="width:{100 * count / most:.1f}%"></i></span></li>'
            for i, (kind, count) in enumerate(shown)
        )
        rest = sum(score.failures.values()) - sum(count for _, count in shown)
        caption = "The first fault of each molecule. Select one to see the molecules that have it."
        caption += f" {rest:,} molecules with rarer faults are not listed." if rest else ""
        cards.append(markup.card(f'<ul class="faults">{lines}</ul>', title=title, caption=caption))
    return markup.grid(cards)


def panels(
    numbers: Int[np.ndarray, " A"],
    scores: Mapping[str, Score],
    data: Mapping[str, Score],
    columns: Sequence[Mapping[str, Any]],
) -> list[Panel]:
    """Sizes, elements, stability by size, and the first few properties that are numbers."""
    name, score = next(iter(scores.items()))
    counts = score.verdicts.n_atoms
    found = []
    if len(counts):
        reference = data[name].verdicts.n_atoms if name in data else None
        caption = "Number of atoms of each molecule" + (", beside the data." if reference is not None else ".")
        found.append(Panel("sizes", "Atoms per molecule", caption, size_histogram(counts, reference)))
        caption = f"Share of molecules that are stable and that are valid (protocol {name}); bars: one standard error."
        found.append(Panel("by_size", "Stable and valid by size", caption, share_by_size(score)))
    if len(numbers):
        found.append(Panel("elements", "Elements", "Share of all atoms, in percent.", element_shares(numbers)))
    drawn = 0
    for column in columns:
        values = np.array([float(v) for v in column["values"] if v is not None]) if column["numeric"] else np.zeros(0)
        if drawn < PROPERTIES_DRAWN and len(np.unique(values[np.isfinite(values)])) > 1:
            drawn += 1
            unit = f" ({column['unit']})" if column["unit"] else ""
            figure = value_histogram(values, len(column["values"]), f"{column['label']}{unit}")
            found.append(Panel(f"property_{drawn}", _title(column["label"]), "All molecules that have it.", figure))
    return found


def _title(label: str) -> str:
    return label[:1].upper() + label[1:]


def size_histogram(counts: Int[np.ndarray, " S"], reference: Int[np.ndarray, " R"] | None = None) -> Figure:
    """Share of molecules of each size."""
    figure, axes = new_figure()
    both = counts if reference is None else np.concatenate([counts, reference])
    low, high = int(both.min()), int(both.max())
    step = max(1, math.ceil((high - low + 1) / 60))
    edges = np.arange(low, high + step + 1, step) - 0.5
    heights = 100 * np.histogram(counts, edges)[0] / len(counts)
    axes.bar(edges[:-1] + step / 2, heights, 0.86 * step, color=BLUE, label="generated")
    if reference is not None and len(reference):
        line = 100 * np.histogram(reference, edges)[0] / len(reference)
        axes.plot(edges[:-1] + step / 2, line, "o-", color=AMBER, markersize=3, linewidth=1.4, label="data")
        add_legend(axes, loc="upper left")
    axes.grid(False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    label_axes(axes, "Atoms", "Molecules (%)")
    return figure


def element_shares(numbers: Int[np.ndarray, " A"]) -> Figure:
    """Share of the atoms that each element has."""
    figure, axes = new_figure()
    counts = Counter(numbers.tolist()).most_common(16)
    shares = [100 * count / len(numbers) for _, count in counts]
    place = np.arange(len(counts))
    bars = axes.bar(place, shares, 0.62, color=BLUE)
    axes.bar_label(bars, [number(share) for share in shares], color=INK, fontsize=8.5, padding=2)
    axes.set_xticks(place, [symbol(value) for value, _ in counts], color=INK)
    axes.grid(False, axis="x")
    axes.margins(y=0.12)
    label_axes(axes, "Element", "Atoms (%)")
    return figure


def share_by_size(score: Score) -> Figure:
    """Stable and valid molecules in at most ten classes of size, of about equal numbers."""
    figure, axes = new_figure()
    verdicts = score.verdicts
    edges = np.unique(np.quantile(verdicts.n_atoms, np.linspace(0, 1, 11)).round().astype(np.int64))
    place = (
        np.digitize(verdicts.n_atoms, edges[1:-1], right=True) if len(edges) > 2 else np.zeros(len(verdicts), np.int64)
    )
    for flags, colour, label, shift in (
        (verdicts.stable, BLUE, "stable", -0.06),
        (verdicts.valid, GREEN, "valid", 0.06),
    ):
        x, y, error = _shares(verdicts.n_atoms, flags, place)
        axes.errorbar(x + shift, y, error, fmt="o-", color=colour, markersize=4, linewidth=1.3, capsize=2, label=label)
    axes.set_ylim(-3, 103)
    label_axes(axes, "Atoms (mean of the class)", "Molecules (%)")
    add_legend(axes, loc="lower left")
    return figure


def _shares(
    counts: Int[np.ndarray, " S"], flags: Bool[np.ndarray, " S"], place: Int[np.ndarray, " S"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean size, share in percent and its standard error of each class."""
    groups = [place == k for k in np.unique(place)]
    share = np.array([flags[group].mean() for group in groups])
    sizes = np.array([group.sum() for group in groups])
    return np.array([counts[g].mean() for g in groups]), 100 * share, 100 * np.sqrt(share * (1 - share) / sizes)


def value_histogram(values: np.ndarray, total: int, label: str) -> Figure:
    """Distribution with the median, of many values over the central 99 %; what is left out is stated."""
    figure, axes = new_figure()
    finite = values[np.isfinite(values)]
    outer = 0.005 if len(finite) > 200 else 0.0
    low, high = np.quantile(finite, [outer, 1 - outer])
    inside = finite[(finite >= low) & (finite <= high)]
    axes.hist(inside, bins=min(50, 5 + len(inside) // 4), color=BLUE, alpha=0.85, linewidth=0)
    median = float(np.median(values))
    if math.isfinite(median):
        axes.axvline(median, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    lines = [f"median {number(median) if math.isfinite(median) else 'infinite'}"]
    hidden = len(finite) - len(inside)
    lines += [f"{hidden:,} beyond the axis"] if hidden else []
    lines += [f"{len(values) - len(finite):,} infinite (failed)"] if len(values) > len(finite) else []
    lines += [f"{total - len(values):,} without"] if total > len(values) else []
    annotate(axes, "\n".join(lines), x=0.96)
    axes.grid(False, axis="x")
    label_axes(axes, label, "Molecules")
    return figure
