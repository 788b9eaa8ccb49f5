"""What the script of the gallery reads: molecules, verdicts, properties and frames as one JSON object."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from geomol.data import Structures
from geomol.errors import ConfigError, InputError
from geomol.generate.molecules import Molecules
from geomol.generate.score import Score, kind_of_fault
from geomol.generate.stability import bond_graph, stable_atoms
from geomol.report.gallery_columns import columns
from geomol.report.gallery_depict import HEIGHT, WIDTH, depict
from geomol.report.gallery_frames import Frames, bond_list, coordinates, relaxed_frames, trajectory_frames
from geomol.report.metrics import symbol
from geomol.report.trajectory import SCALE


@dataclass(frozen=True, eq=False)
class Contents:
    """All that a gallery shows, checked.

    Raises:
        ConfigError: no score at all.
        InputError: parts that do not belong to these molecules, by name.
    """

    molecules: Molecules
    scores: Mapping[str, Score]  # by protocol; the bonds of the first are those that are drawn
    properties: Sequence[Mapping[str, float | str]]
    relaxed: Structures | None
    trajectories: Mapping[int, Frames]
    train_smiles: Mapping[str, Collection[str]]  # by protocol

    def __post_init__(self) -> None:
        size, structures = len(self.molecules), self.molecules.structures
        if not self.scores:
            raise ConfigError("a gallery needs the score of one protocol at least", remedy="pass `scores`")
        for name, score in self.scores.items():
            if len(score.verdicts) != size:
                raise InputError(
                    f'the score "{name}" is of other molecules', expected=str(size), got=str(len(score.verdicts))
                )
        if self.properties and len(self.properties) != size:
            raise InputError("`properties` of another length", expected=str(size), got=str(len(self.properties)))
        other = self.relaxed
        if other is not None and not (
            np.array_equal(other.ptr, structures.ptr) and np.array_equal(other.numbers, structures.numbers)
        ):
            raise InputError("`relaxed` must have the atoms of the molecules, in their order")
        for i, (pos, numbers) in self.trajectories.items():
            if not 0 <= i < size:
                raise InputError("a trajectory of no molecule", expected=f"0 to {size - 1}", got=str(i))
            if pos.ndim != 3 or pos.shape[2] != 3 or numbers.shape != pos.shape[:2] or not len(pos):
                expected, got = "(T, n, 3) and (T, n)", f"{pos.shape} and {numbers.shape}"
                raise InputError("a trajectory of the wrong shape", where=f"molecule {i}", expected=expected, got=got)

    @property
    def first(self) -> Score:
        """The score whose bonds are drawn."""
        return next(iter(self.scores.values()))


class Symbols:
    """Chemical symbols in the order of first use, so that the page can name them by small numbers."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._places: dict[int, int] = {}

    def __call__(self, numbers: Int[np.ndarray, " n"]) -> list[int]:
        for number in dict.fromkeys(numbers.tolist()):
            if number not in self._places:
                self._places[number] = len(self.names)
                self.names.append(symbol(number))
        return [self._places[number] for number in numbers.tolist()]


def payload(contents: Contents) -> dict[str, Any]:
    """The object that the script reads; `to_json` writes it.

    `molecules`: z places in `symbols`, x coordinates in units of `scale` Å (null: not finite), b bonds as atom, atom,
    order, q formal charges as atom, charge, w atoms that are not stable, f formula, d drawing (see `depict`).
    `protocols`: flags as strings of 0 and 1, `short` SMILES without hydrogens, `repeat` the earlier molecule of the
    same SMILES or −1, `fault` places in `faults`. `relaxed` and `trajectories` by molecule; bonds there are by the
    distance tables of EDM.
    """
    symbols = Symbols()
    molecules = _molecules(contents, symbols)
    relaxed, moved = relaxed_frames(contents.molecules, contents.relaxed)
    trajectories, omitted = trajectory_frames(contents.trajectories, symbols)
    return {
        "scale": SCALE,
        "drawing": [10 * WIDTH, 10 * HEIGHT],
        "molecules": molecules,
        "protocols": [
            _protocol(name, score, contents.train_smiles.get(name)) for name, score in contents.scores.items()
        ],
        "properties": columns(len(molecules), [contents.molecules.properties, contents.properties], moved),
        "relaxed": relaxed,
        "trajectories": trajectories,
        "omitted": omitted,
        "symbols": symbols.names,
    }


def to_json(value: Mapping[str, Any]) -> str:
    """Compact JSON of ASCII alone; numbers that JSON does not have are an error."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _molecules(contents: Contents, symbols: Symbols) -> list[dict[str, Any]]:
    from rdkit.rdBase import BlockLogs

    molecules, verdicts = contents.molecules, contents.first.verdicts
    wrong = wrong_atoms(molecules, contents.first)
    found = []
    with BlockLogs():
        for i in range(len(molecules)):
            numbers, charges = molecules.numbers(i), verdicts.charges[i]
            orders = verdicts.orders[i]
            drawn = np.zeros((len(numbers),) * 2, np.int8) if orders is None else orders
            entry: dict[str, Any] = {
                "z": symbols(numbers),
                "x": coordinates(molecules.pos(i)),
                "b": bond_list(drawn),
                "f": formula(numbers),
                "d": None if orders is None else depict(numbers, drawn, charges, marked=wrong[i]),
            }
            if charges is not None and charges.any():
                entry["q"] = [int(v) for atom in np.flatnonzero(charges) for v in (atom, charges[atom])]
            if wrong[i]:
                entry["w"] = wrong[i]
            found.append(entry)
    return found


def wrong_atoms(molecules: Molecules, score: Score) -> list[list[int]]:
    """Atoms that keep a molecule from being stable; empty where they cannot be told from the bonds alone."""
    verdicts, structures = score.verdicts, molecules.structures
    counts = structures.n_atoms.tolist()
    orders = [np.zeros((n, n), np.int8) if m is None else m for m, n in zip(verdicts.orders, counts, strict=True)]
    known = [charges is not None for charges in verdicts.charges]
    charges = [np.zeros(n, np.int64) if c is None else c for c, n in zip(verdicts.charges, counts, strict=True)]
    flat = np.concatenate([np.zeros(0, np.int64), *charges]) if any(known) else None
    stable = stable_atoms(structures.numbers, bond_graph(structures, orders).valence, flat)
    found = []
    for i, count in enumerate(counts):
        part = np.flatnonzero(~stable[structures.ptr[i] : structures.ptr[i + 1]]).tolist()
        # Another protocol may count in another way; then nothing is marked rather than the wrong atoms.
        agrees = len(part) == count - int(verdicts.stable_atoms[i]) and verdicts.orders[i] is not None
        found.append(part if agrees else [])
    return found


def formula(numbers: Int[np.ndarray, " n"]) -> str:
    """Sum formula in Hill's order: carbon and hydrogen first, then by alphabet; without carbon all by alphabet."""
    counts = Counter(symbol(int(number)) for number in numbers)
    first = ("C", "H") if "C" in counts else ()
    names = [name for name in first if name in counts] + sorted(set(counts) - set(first))
    return "".join(name + (str(counts[name]) if counts[name] > 1 else "") for name in names)


def _protocol(name: str, score: Score, known: Collection[str] | None) -> dict[str, Any]:
    verdicts = score.verdicts
    seen: dict[str, int] = {}
    repeat = []
    for i, smiles in enumerate(verdicts.smiles):
        repeat.append(seen.get(smiles, -1) if smiles else -1)
        if smiles:
            seen.setdefault(smiles, i)
    kinds = [kind_of_fault(reason) if reason else "" for reason in verdicts.reasons]
    faults = [kind for kind, _ in Counter(kind for kind in kinds if kind).most_common()]
    places = {kind: place for place, kind in enumerate(faults)}
    entry: dict[str, Any] = {
        "name": name,
        "stable": _bits(verdicts.stable),
        "valid": _bits(verdicts.valid),
        "connected": _bits(verdicts.connected),
        "stable_atoms": verdicts.stable_atoms.tolist(),
        "pieces": verdicts.fragments.tolist(),
        "smiles": list(verdicts.smiles),
        "short": [short_smiles(text) for text in verdicts.smiles],
        "reason": list(verdicts.reasons),
        "repeat": repeat,
        "faults": faults,
        "fault": [places.get(kind, -1) for kind in kinds],
    }
    if known is not None:
        known = set(known)
        entry["novel"] = _bits([bool(smiles) and smiles not in known for smiles in verdicts.smiles])
    return entry


def short_smiles(smiles: str) -> str:
    """The SMILES as people write it, without hydrogens; as it is where RDKit cannot read it again."""
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    if not smiles:
        return ""
    with BlockLogs():
        try:
            mol = Chem.MolFromSmiles(smiles)
        except ValueError:  # text that is not even UTF-8
            return smiles
    return smiles if mol is None else str(Chem.MolToSmiles(mol))


def _bits(flags: Sequence[bool] | np.ndarray) -> str:
    return "".join("1" if flag else "0" for flag in flags)
