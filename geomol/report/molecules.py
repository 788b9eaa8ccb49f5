"""Generated molecules on the page of a run: their figures, some of their formulas, and a link to their gallery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geomol.report import markup
from geomol.report.gallery_depict import HEIGHT, WIDTH, Drawing, depict
from geomol.report.run import Generated, Run

SHOWN = 12  # formulas on the page; all molecules are in the gallery
_ROWS = {
    "atom_stability": "stable atoms",
    "molecule_stability": "stable molecules",
    "valid": "valid",
    "connected": "in one piece",
    "valid_unique": "valid and unique",
}
_COLOURS = {"k": "currentColor", "x": "currentColor", "o": "#d9534f", "n": "#4a7fd6", "f": "#3aa", "s": "#b8a000"}


def molecules_section(run: Run) -> str:
    """All sets of molecules of the run, one after the other."""
    return "".join(_one(generated) for generated in run.generated)


def _one(generated: Generated) -> str:
    num = len(generated.molecules)
    scores = generated.info.get("scores")
    parts = []
    if isinstance(scores, Mapping) and scores:
        parts.append(_table(scores))
    drawings = [_formula(generated, i) for i in range(min(SHOWN, num))]
    parts.append(f'<div class="formulas">{"".join(drawings)}</div>')
    if generated.gallery is not None:
        link = markup.escape(generated.gallery)
        parts.append(f'<p>All {num} in three dimensions, with their way from noise: <a href="{link}">{link}</a>.</p>')
    return f"<h3>{markup.escape(generated.name)}: {num} molecules</h3>{''.join(parts)}"


def _table(scores: Mapping[str, Any]) -> str:
    names = [name for name, figures in scores.items() if isinstance(figures, Mapping)]
    rows = []
    for key, label in _ROWS.items():
        cells = [_percent(scores[name], key) for name in names]
        if any(cells):
            rows.append([f"{label}, %", *cells])
    return markup.table(["share of all molecules", *(f"protocol {name}" for name in names)], rows)


def _percent(figures: Mapping[str, Any], key: str) -> str:
    value, error = figures.get(key), figures.get(f"{key}_standard_error")
    if not isinstance(value, int | float):
        return ""
    spread = f" ± {100 * error:.1f}" if isinstance(error, int | float) else ""
    return f"{100 * value:.1f}{spread}"


def _formula(generated: Generated, i: int) -> str:
    from rdkit.rdBase import BlockLogs

    molecules = generated.molecules
    numbers = molecules.numbers(i)
    orders = None if molecules.orders is None else molecules.orders[i]
    properties = molecules.properties[i] if molecules.properties else {}
    with BlockLogs():
        drawing = None if orders is None else depict(numbers, np.asarray(orders))
    picture = markup.missing("no formula to draw") if drawing is None else _svg(drawing, f"molecule {i}")
    caption = str(properties.get("smiles", "not valid"))
    if "strain_kcal_per_mol" in properties:
        caption += f" · strain {float(properties['strain_kcal_per_mol']):.0f} kcal/mol"
    return markup.card(picture, caption=caption)


def _svg(drawing: Drawing, label: str) -> str:
    paths = "".join(
        f'<path d="{markup.escape(d)}" fill="none" stroke="{_COLOURS.get(key[0], "currentColor")}" stroke-width="18"'
        f"{' stroke-dasharray=' + chr(34) + '30 30' + chr(34) if key.endswith('-') else ''}/>"
        for key, d in drawing.get("p", {}).items()
    )
    letters = "".join(
        f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="middle" dominant-baseline="central" '
        f'fill="{_COLOURS.get(colour, "currentColor")}">{markup.escape(text)}</text>'
        for text, x, y, size, colour in drawing.get("t", [])
    )
    dots = drawing.get("r", [])
    radicals = "".join(
        f'<circle cx="{x}" cy="{y}" r="18" fill="currentColor"/>' for x, y in zip(dots[0::2], dots[1::2], strict=True)
    )
    return (
        f'<svg viewBox="0 0 {10 * WIDTH} {10 * HEIGHT}" role="img" aria-label="{markup.escape(label)}" '
        f'width="100%">{paths}{letters}{radicals}</svg>'
    )
