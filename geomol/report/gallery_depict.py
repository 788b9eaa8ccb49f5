"""Structural formulas for the gallery: drawn by RDKit, kept as strokes and letters in the page's colours.

RDKit draws an SVG of some 4 kB a molecule in colours of its own. Its lines are taken over as paths grouped by element,
in tenths of a pixel, which the page draws in its light or dark colours: about 0.5 kB a molecule.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from geomol.generate.smiles import sanitise, to_rdkit

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from rdkit.Chem.Draw.rdMolDraw2D import MolDraw2DSVG

WIDTH, HEIGHT = 240, 170  # px
# Beyond these a formula says nothing, and laying out a tangle of false bonds could take minutes.
MAX_ATOMS, MAX_DEGREE, MAX_RINGS = 150, 6, 12
# RDKit begins letters where they would end up in the middle had they its idea of widths and heights; by how many tenths
# of the font size the middle is to the right, and the letter to be lifted.
LETTER_MIDDLE, LETTER_LIFT = 3.0, 1.4

_PATH = re.compile(r"<path [^>]*?d='([^']*)' style='([^']*)'")
_CLASSED = re.compile(r"<path class=")
_TEXT = re.compile(r"<text x='([-\d.]+)' y='([-\d.]+)'[^>]*font-size:(\d+)px[^>]*fill:(#\w+)' >([^<]*)</text>")
_STROKE = re.compile(r"stroke:(#\w+)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
# RDKit's colours of elements, by the letter that the style sheet knows; others are drawn in "x".
_LETTERS = {
    "#000000": "k", "#FF0000": "o", "#0000FF": "n", "#33CCCC": "f", "#CCCC00": "s", "#00CC00": "l", "#7F4C19": "b",
    "#FF7F00": "p", "#A020F0": "i",
}  # fmt: skip

Drawing = dict[str, Any]


def depict(
    numbers: Int[np.ndarray, " n"],
    orders: Int[np.ndarray, "n n"],
    charges: Int[np.ndarray, " n"] | None = None,
    *,
    marked: Sequence[int] = (),
) -> Drawing | None:
    """The structural formula, hydrogens on carbon left out; None where there is none to draw.

    A molecule that RDKit does not accept is drawn as it is, false valences and all.

    Args:
        numbers: atomic numbers.
        orders: symmetric bond orders, 4 for aromatic.
        charges: formal charges.
        marked: atoms to be highlighted.

    Returns:
        In tenths of a pixel: "p" the strokes, by letter of the colour (a second letter "-" for dashed), as the `d` of
        an SVG path; "t" the letters as [text, x of the middle, y, size, colour]; "r" dots of radicals as [x, y, …];
        "m" the marked atoms as [x, y, …]. Missing where empty.
    """
    degree = (orders > 0).sum(axis=1)
    tangled = degree.sum() // 2 - len(numbers) >= MAX_RINGS
    if not 0 < len(numbers) <= MAX_ATOMS or degree.max() > MAX_DEGREE or tangled:
        return None
    try:
        return _draw(_prepared(numbers, orders, charges), marked)
    except (ValueError, RuntimeError, TypeError, OverflowError):  # what RDKit raises: of elements, valences, layouts
        return None


def _prepared(numbers: np.ndarray, orders: np.ndarray, charges: np.ndarray | None) -> Mol:
    """With a layout; atoms know their places among all atoms as the property "at"."""
    from rdkit import Chem
    from rdkit.Chem.Draw.rdMolDraw2D import PrepareMolForDrawing

    mol = to_rdkit(numbers, None, orders, charges=charges)
    accepted = not sanitise(Chem.Mol(mol))
    if accepted:
        sanitise(mol)
    else:
        mol.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(mol)
    for atom in mol.GetAtoms():
        atom.SetIntProp("at", atom.GetIdx())
    mol = Chem.RemoveHs(mol, sanitize=accepted)
    if not accepted:
        mol.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(mol)
    return PrepareMolForDrawing(mol, kekulize=accepted, addChiralHs=False, wedgeBonds=False)


def _draw(mol: Mol, marked: Sequence[int]) -> Drawing:
    from rdkit.Chem.Draw.rdMolDraw2D import MolDraw2DSVG

    drawer = MolDraw2DSVG(WIDTH, HEIGHT, -1, -1, True)  # True: letters stay letters
    options: Any = drawer.drawOptions()  # RDKit's stubs take its settings for read-only
    options.prepareMolsBeforeDrawing = False
    options.includeMetadata = False
    options.clearBackground = False
    options.fixedBondLength = 29.0
    options.padding = 0.07
    drawer.DrawMolecule(mol)
    drawer.FinishDrawing()
    drawing = _parse(drawer.GetDrawingText())
    halos = _places(drawer, [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetIntProp("at") in marked])
    return {**drawing, "m": halos} if halos else drawing


def _places(drawer: MolDraw2DSVG, atoms: list[int]) -> list[int]:
    points = [drawer.GetDrawCoords(atom) for atom in atoms]
    return [round(10 * value) for point in points for value in (point.x, point.y)]


def _parse(svg: str) -> Drawing:
    strokes: dict[str, list[str]] = {}
    dots: list[int] = []
    for element in re.findall(r"<path [^>]*>", svg):
        found = _PATH.search(element)
        if found is None or not _CLASSED.match(element):  # those without a class only mend the corners of others
            continue
        points = [round(10 * float(value)) for value in _NUMBER.findall(found[1])]
        if "fill:none" not in found[2]:
            xs, ys = points[0::2], points[1::2]
            dots += [(min(xs) + max(xs)) // 2, (min(ys) + max(ys)) // 2]
            continue
        colour = _STROKE.search(found[2])
        key = _LETTERS.get(colour[1], "x") if colour else "x"
        key += "-" if "dasharray" in found[2] else ""
        pairs = [f"{x} {y}" for x, y in zip(points[0::2], points[1::2], strict=True)]
        strokes.setdefault(key, []).append("M" + "L".join(pairs))
    letters = [
        [text, round(10 * x + LETTER_MIDDLE * size), round(10 * y - LETTER_LIFT * size), 10 * size, colour]
        for text, x, y, size, colour in map(_letter, _TEXT.finditer(svg))
    ]
    parts = {"p": {key: "".join(paths) for key, paths in strokes.items()}, "t": letters, "r": dots}
    return {key: value for key, value in parts.items() if value}


def _letter(found: re.Match[str]) -> tuple[str, float, float, int, str]:
    x, y, size, colour, text = found.groups()
    return html.unescape(text), float(x), float(y), int(size), _LETTERS.get(colour, "x")
