"""The rows of a comparison as JSON, a markdown table and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

HEADINGS = (
    "structure",
    "model",
    "settings",
    "parameters",
    "pairs",
    "median ms",
    "quartiles ms",
    "÷ EGNN",
    "÷ R³×S²",
    "gradient",
    "rotation",
    "float32 forces",
    "peak MiB",
    "note",
)


def write(folder: Path, results: dict[str, Any]) -> None:
    """results.json, table.md and, once there is a ratio, ratios.png."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "table.md").write_text(table(results), encoding="utf-8")
    plot(results, folder / "ratios.png")


def table(results: dict[str, Any]) -> str:
    """One row a model and structure; a model that could not be measured has its reason in the last column."""
    s, m = results["settings"], results["machine"]
    lines = [
        f"Energy + forces through ASE, {s['threads']} thread(s), {s['dtype']}, cutoff {s['cutoff_A']:g} Å, random "
        f"weights, {s['rounds']} rounds, atoms moved before each call, neighbour list inside the clock"
        + (", which is CPU time. " if s.get("clock") == "cpu" else ". ")
        + f"{m['processor']}, {m['cores']} cores, load {m['load']}.",
        "",
        "Ratios are time of the model over time of geomol's in the same round: median (quartiles). Errors are those of "
        "`gates.py`: of the rms force; of rms force × √N × 1 Å; of the rms force.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
    ]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in results["rows"]]
    return "\n".join([*lines, ""])


def _cells(row: dict[str, Any]) -> list[str]:
    time, gate, ratios = row.get("seconds"), row.get("gate"), row.get("ratios", {})
    precision = gate["precision_error"] if gate else None
    return [
        f"{row['structure']} ({row['atoms']})",
        row["peer"],
        row.get("settings", "–"),
        _whole(row.get("parameters")),
        _whole(row.get("pairs")),
        f"{1e3 * time['median']:.2f}" if time else "–",
        f"{1e3 * time['lower']:.2f} – {1e3 * time['upper']:.2f}" if time else "–",
        _ratio(ratios.get("geomol-egnn")),
        _ratio(ratios.get("geomol-r3s2")),
        _gradient(gate) if gate else "–",
        f"{gate['rotation_error']:.0e}" + ("" if gate["exact"] else " (approximate by design)") if gate else "–",
        f"{precision / gate['rms_force']:.0e}" if gate and precision is not None and gate["rms_force"] else "–",
        f"{row['peak_bytes'] / 2**20:.0f}" if row.get("peak_bytes") else "–",
        row["reason"].replace("|", "\\|"),
    ]


def _gradient(gate: dict[str, Any]) -> str:
    text, free = f"{gate['gradient_error']:.0e}", gate["free_gradient_error"]
    return text if free is None else f"{text} ({gate['held']} held; {free:.0e} without)"


def _whole(number: int | None) -> str:
    return "–" if number is None else f"{number:,}".replace(",", " ")


def _ratio(ratio: dict[str, float] | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['lower']:.2f} – {ratio['upper']:.2f})" if ratio else "–"


def plot(results: dict[str, Any], path: Path) -> None:
    """Ratios with their quartiles, one panel for each model of geomol; no file where there is no ratio."""
    rows = [row for row in results["rows"] if row.get("ratios")]
    if not rows:
        return
    ours = sorted({name for row in rows for name in row["ratios"]})
    height = 1.6 + 0.32 * len(rows)
    figure, axes = plt.subplots(1, len(ours), figsize=(4.8 * len(ours), height), sharey=True, squeeze=False)
    for panel, name in zip(axes[0], ours, strict=True):
        for place, row in enumerate(rows):
            ratio = row["ratios"].get(name)
            if ratio is not None:
                error = [[ratio["median"] - ratio["lower"]], [ratio["upper"] - ratio["median"]]]
                panel.errorbar(ratio["median"], place, xerr=error, fmt="o", color="C0", capsize=3)
        panel.axvline(1.0, color="0.6", linewidth=1)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.set_xlabel(f"time ÷ {name}, energy + forces")
        panel.set_yticks(range(len(rows)), [f"{row['peer']}, {row['structure']}" for row in rows])
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.grid(axis="x", alpha=0.3, which="both")
    # names of any length fit: the picture grows around them
    figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
