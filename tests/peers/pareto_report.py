"""The rows of `pareto.py` as JSON, a markdown table, and force error against time of a call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from .report import _whole

HEADINGS = (
    "model",
    "settings",
    "parameters",
    "CPU minutes",
    "steps",
    "optimiser, learning rate",
    "force MAE meV/Å",
    "energy MAE meV",
    "median ms",
    "quartiles ms",
    "on the front",
    "note",
)
LABELS = {
    "mace": "MACE, L = 0",
    "mace-l1": "MACE, L = 1",
    "nequip": "NequIP",
    "tensornet": "TensorNet",
    "schnetpack": "PaiNN",
    "geomol-egnn": "geomol EGNN",
    "geomol-painn": "geomol PaiNN",
    "geomol-r3s2": "geomol R³×S²",
}
PLACES = ((8, 6), (8, -14), (-8, 6), (-8, -14), (0, 12), (0, -20), (8, 20), (8, -28), (-8, 20), (-8, -28))  # of a label


def write(folder: Path, results: dict[str, Any]) -> None:
    """results.json, table.md and, once there is a time, pareto.png."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "table.md").write_text(table(results), encoding="utf-8")
    plot(results, folder / "pareto.png")


def measured(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows that have both figures, from the fastest to the slowest."""
    rows = [row for row in results["rows"] if row.get("seconds") and row.get("test")]
    return sorted(rows, key=lambda row: (row["seconds"]["median"], force_error(row)))


def force_error(row: dict[str, Any]) -> float:
    return float(row["test"]["force_mae_eV_per_A"])


def front(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows to which no other is both at least as fast and at least as accurate."""
    kept: list[dict[str, Any]] = []
    for row in measured(results):
        if not kept or force_error(row) < force_error(kept[-1]):
            kept.append(row)
    return kept


def table(results: dict[str, Any]) -> str:
    """One row a model, the smallest force error first; what could not be trained or measured has its reason."""
    s, m = results["settings"], results["machine"]
    rows = sorted(results["rows"], key=lambda row: force_error(row) if row.get("test") else float("inf"))
    best = [row["peer"] for row in front(results)]
    lines = [
        f"{s['source']}, official split 1: 950 configurations to learn from, 50 to validate, errors on the 1000 of its "
        f"test part; {s['minutes']:g} minutes of CPU time of one thread, batch {s['batch_size']}, float32. Time of "
        f"energy + forces of one molecule through ASE with the trained weights, {s['threads']} thread, neighbour list "
        f"inside the clock, {s['rounds']} rounds in turn. {m['processor']}, {m['cores']} cores, load {m['load']}.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
    ]
    lines += ["| " + " | ".join(_cells(row, best)) + " |" for row in rows]
    return "\n".join([*lines, ""])


def _cells(row: dict[str, Any], best: Sequence[str]) -> list[str]:
    test, time = row.get("test"), row.get("seconds")
    return [
        row["peer"],
        row.get("settings", "–"),
        _whole(row.get("parameters")),
        f"{row['cpu_seconds'] / 60:.1f}" if test else "–",
        _whole(row.get("steps")),
        f"{row.get('optimiser', 'adam').capitalize()}, {row['learning_rate']:g}" if test else "–",
        f"{1e3 * test['force_mae_eV_per_A']:.1f}" if test else "–",
        f"{1e3 * test['energy_mae_eV']:.1f}" if test else "–",
        f"{1e3 * time['median']:.2f}" if time else "–",
        f"{1e3 * time['lower']:.2f} – {1e3 * time['upper']:.2f}" if time else "–",
        "yes" if row["peer"] in best else "",
        row.get("reason", "").replace("|", "\\|"),
    ]


def plot(results: dict[str, Any], path: Path) -> None:
    """Force error against milliseconds of a call, both logarithmic, and the front; no file without a point."""
    rows = measured(results)
    if not rows:
        return
    figure, axes = plt.subplots(figsize=(7.2, 4.8))
    axes.set_xscale("log")
    axes.set_yscale("log")
    steps = [(1e3 * row["seconds"]["median"], 1e3 * force_error(row)) for row in front(results)]
    axes.plot(*zip(*steps, strict=True), color="0.7", linewidth=1.5, zorder=1, label="Pareto front")
    points = []
    for row in rows:
        time, error = row["seconds"], 1e3 * force_error(row)
        span = [[1e3 * (time["median"] - time["lower"])], [1e3 * (time["upper"] - time["median"])]]
        colour = "C0" if row.get("own") else "C1"
        axes.errorbar(1e3 * time["median"], error, xerr=span, fmt="o", color=colour, capsize=3, zorder=2)
        name, _, form = row["peer"].partition(" ")
        peer, _, optimiser = name.partition("+")
        label = " ".join(filter(None, (LABELS.get(peer, Path(peer).name), optimiser.capitalize(), form)))
        points.append((label, 1e3 * time["median"], error))
    times = [1e3 * row["seconds"][key] for row in rows for key in ("lower", "median", "upper")]
    axes.set_xlim(min(times) / 1.3, max(times) * 1.6)
    axes.set_ylim(min(y for _, _, y in points) / 1.4, max(y for _, _, y in points) * 1.4)
    for axis, subs in ((axes.xaxis, (1.0, 2.0, 3.0, 5.0, 7.0)), (axes.yaxis, range(1, 10))):
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    settings = results["settings"]
    axes.set_xlabel("milliseconds of energy + forces of one molecule, one thread")
    axes.set_ylabel("force MAE on the test part, meV/Å")
    axes.set_title(f"{settings['source']}, {settings['minutes']:g} CPU minutes of training for each model", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="upper right", fontsize=8)
    label_points(axes, points)
    figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def label_points(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Names beside the points, each in the first of `PLACES` where it covers no point and no other name."""
    figure = axes.figure
    figure.canvas.draw()
    taken = [axes.transData.transform((x, y)) for _, x, y in points]
    boxes: list[Any] = []
    for name, x, y in points:
        for dx, dy in PLACES:
            side = "left" if dx > 0 else "right" if dx < 0 else "center"
            text = axes.annotate(name, (x, y), (dx, dy), textcoords="offset points", ha=side, fontsize=9)
            box = text.get_window_extent()
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if inside and not any(box.overlaps(b) for b in boxes) and not any(box.contains(*p) for p in taken):
                break
            if (dx, dy) != PLACES[-1]:
                text.remove()
        boxes.append(box)
