"""Seven molecules for a gallery, and a reader of its page."""

from __future__ import annotations

import json
from collections.abc import Collection
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from geomol.data import Structures
from geomol.generate import PROTOCOLS, Molecules, Score, score, structures_of

VOID = {"meta", "input", "img", "br", "link", "hr", "base"}

METHANE = np.array(
    [[0.0, 0.0, 0.0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]
)
WATER = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])


class Page(HTMLParser):
    """Tags, text outside scripts and styles, the data of the script, and whether elements are closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.faults: list[str] = []
        self._open: list[tuple[str, str | None]] = []
        self._json = ""
        self.feed(self.source)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag, _ in self._open]
        self.text = " ".join(" ".join(self.words).split())
        self.data: dict[str, Any] = json.loads(self._json)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop()[0] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        inside, name = self._open[-1] if self._open else ("", None)
        if inside == "script" and name == "gallery-data":
            self._json += data
        elif inside == "script":
            self.scripts.append(data)
        elif inside != "style":
            self.words.append(data)

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if attributes.get("id")]


def small_set() -> Molecules:
    """Methane, water, methane again, a methyl radical beside an atom, nothing at all, NaN, and a lone atom."""
    lost = METHANE.copy()
    lost[4] += 3.0
    broken = WATER.copy()
    broken[1, 0] = np.nan
    parts = [
        ([6, 1, 1, 1, 1], METHANE),
        ([8, 1, 1], WATER),
        ([6, 1, 1, 1, 1], METHANE + 1.0),
        ([6, 1, 1, 1, 1], lost),
        ([], np.zeros((0, 3))),
        ([8, 1, 1], broken),
        ([7], np.zeros((1, 3))),
    ]
    numbers = [np.array(part, dtype=np.int64) for part, _ in parts]
    structures = structures_of(numbers, [pos for _, pos in parts], name="small")
    return Molecules(structures=structures, faults={4: "unreadable record"})


def scores_of(molecules: Molecules, *names: str, train: Collection[str] | None = None) -> dict[str, Score]:
    return {name: score(molecules, PROTOCOLS[name], train_smiles=train) for name in names or ("edm",)}


def positions(entry: dict[str, Any], scale: float) -> np.ndarray:
    return scale * np.array(entry["x"], dtype=np.float64).reshape(-1, 3)


def turned(structures: Structures) -> Structures:
    """The same molecules in another place and pose, methane 0 with one hydrogen pulled off."""
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    pos = structures.pos @ turn + [1.0, -2.0, 0.5]
    pos[4] += 2.0 * (pos[4] - pos[0])
    parts = np.split(pos, structures.ptr[1:-1])
    return structures_of(np.split(structures.numbers, structures.ptr[1:-1]), parts, name="relaxed")
