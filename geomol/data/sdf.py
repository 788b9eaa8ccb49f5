"""SDF files, V2000 and V3000: records as RDKit reads them, and structures of them.

Nothing is sanitised and no hydrogen is added: atoms are those of the file.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geomol.data.bad_frames import announce_dropped, rows_kept
from geomol.data.charges import none_if_zero
from geomol.data.structures import Structures
from geomol.errors import GeomolWarning, InputError

if TYPE_CHECKING:
    from rdkit.Chem import Mol

_TAG = re.compile(r"^>.*<(?P<name>[^<>]+)>")
_DIMENSIONS = slice(20, 22)  # of the second line, which says 2D or 3D there


@dataclass(frozen=True, eq=False)
class SdfMolecule:
    """What a record holds.

    Attributes:
        numbers: (n,) atomic numbers.
        pos: (n, 3) positions, Å.
        mol: the same with bonds and charges, for RDKit.
        is_flat: whether the record says that its positions are those of a drawing.
    """

    numbers: NDArray[np.int64]
    pos: NDArray[np.float64]
    mol: Mol
    is_flat: bool


def read_sdf_structures(path: str | Path, *, skip_bad: bool = False) -> Structures:
    """Structures of an SDF file in Å, with charges and spin.

    Raises:
        InputError: no records, or one that cannot be read, has no atoms or no positions in space; with `skip_bad` only
            if nothing is left.
    """
    path = Path(path)
    found: list[SdfMolecule] = []
    bad: dict[int, InputError] = {}
    number = -1
    for number, record in enumerate(sdf_records(path)):
        molecule = _in_space(read_sdf_record(record))
        if not isinstance(molecule, str):
            found.append(molecule)
            continue
        bad[number] = InputError(molecule, where=f"{path}, record {number}")
        if not skip_bad:
            raise bad[number]
    if bad and found:
        announce_dropped(str(path), list(bad), number + 1, next(iter(bad.values())), stacklevel=3)
    if not found:
        raise InputError("no structures", where=str(path), got="only bad records" if bad else "an empty file")
    if bare := [molecule for molecule in found if _lacks_hydrogens(molecule)]:
        text = f"{path}: {len(bare)} of {len(found)} molecules have bonds to hydrogens that are not there"
        warnings.warn(f"{text}; models see the atoms that there are", GeomolWarning, stacklevel=3)
    atoms = [molecule.mol.GetAtoms() for molecule in found]
    unpaired = [sum(atom.GetNumRadicalElectrons() for atom in each) for each in atoms]
    return Structures(
        name=path.stem,
        numbers=np.concatenate([molecule.numbers for molecule in found]),
        pos=np.concatenate([molecule.pos for molecule in found]),
        ptr=np.cumsum([0, *(len(molecule.numbers) for molecule in found)]),
        cell=np.zeros((len(found), 3, 3)),
        pbc=np.zeros((len(found), 3), dtype=np.bool_),
        charge=none_if_zero([sum(atom.GetFormalCharge() for atom in each) for each in atoms]),
        spin=none_if_zero([electrons + 1 if electrons else 0 for electrons in unpaired]),
        source=path.name,
        rows=rows_kept(len(found), list(bad)),
    )


def _lacks_hydrogens(molecule: SdfMolecule) -> bool:
    """Whether a record with bonds has no hydrogen atom although its bonds leave room for some."""
    if not molecule.mol.GetNumBonds() or (molecule.numbers == 1).any():
        return False
    molecule.mol.UpdatePropertyCache(strict=False)
    return any(atom.GetNumImplicitHs() for atom in molecule.mol.GetAtoms())


def _in_space(molecule: SdfMolecule | str) -> SdfMolecule | str:
    """The molecule, or why it is no structure."""
    if isinstance(molecule, str) or (len(molecule.numbers) and not molecule.is_flat):
        return molecule
    return "a drawing, without positions in space" if len(molecule.numbers) else "no atoms"


def sdf_records(path: Path) -> Iterator[str]:
    """The text of each record; what follows the last `$$$$` is one if there is anything in it."""
    lines: list[str] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("$$$$"):
                yield "".join(lines)
                lines = []
            else:
                lines.append(line)
    if any(line.strip() for line in lines):
        yield "".join(lines)


def tags_of_record(record: str) -> dict[str, str]:
    """What a record says beside its atoms and bonds."""
    tags: dict[str, str] = {}
    name, values = "", list[str]()
    for line in [*record.partition("M  END")[2].splitlines(), ""]:
        match = _TAG.match(line)
        if match:
            name, values = match["name"], []
        elif name and line.strip():
            values.append(line)
        elif name:
            tags[name], name = "\n".join(values), ""
    return tags


def read_sdf_record(record: str) -> SdfMolecule | str:
    """The molecule of a record, or why it cannot be read."""
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    if "M  END" not in record:
        return "cut off before M  END" if record.strip() else "empty"
    with BlockLogs():
        try:
            mol = Chem.MolFromMolBlock(record, sanitize=False, removeHs=False)
        except (ValueError, RuntimeError) as error:
            return " ".join(str(error).split())
    if mol is None:
        return "not a mol block"
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)
    pos = mol.GetConformer().GetPositions() if mol.GetNumConformers() else np.zeros((len(numbers), 3))
    if (numbers < 1).any():
        return f"atom {int(np.argmin(numbers))} is no element"
    if not np.isfinite(pos).all():
        return "a position is not finite"
    head = record.split("\n", 2)
    is_flat = len(head) > 1 and head[1][_DIMENSIONS] == "2D" and not pos[:, 2].any()
    return SdfMolecule(numbers, pos, mol, is_flat)
