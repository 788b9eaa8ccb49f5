"""SDF files, V2000 and V3000: written whole or not at all, read so that a broken record costs only itself.

Coordinates have 4 decimals in V2000 and 6 in V3000. Aromatic bonds are written as single and double ones, as the format
wants it. A molecule whose bonds are not known is written without bonds and with the tag `BONDS_TAG`, and comes back as
such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from geomol.checkpoint.atomic import write_atomically
from geomol.data import Structures
from geomol.data.sdf import read_sdf_record, sdf_records, tags_of_record
from geomol.errors import DataError, InputError
from geomol.generate.molecules import Molecules, structures_of
from geomol.generate.smiles import charges_of, kekulised, orders_of, to_rdkit

BONDS_TAG = "geomol_bonds"
NO_BONDS = "not known"
V2000_ATOMS = 999  # and as many bonds, by the width of its columns
V2000_REACH = 9999.0  # Å, likewise


def write_sdf(
    path: str | Path,
    structures: Structures,
    orders: Sequence[np.ndarray | None],
    properties: Sequence[Mapping[str, object]] = (),
    *,
    charges: Sequence[np.ndarray | None] | None = None,
    v3000: bool = False,
) -> Path:
    """Write molecules with bonds; the file appears under its name only when it is complete.

    Args:
        path: the file.
        structures: the molecules.
        orders: bond orders (n, n) of each; None where they are not known.
        properties: tags of each molecule, such as the seed it was made from and the hash of the model.
        charges: formal charges (n,) of each.
        v3000: the newer format for all; a molecule that the older one cannot hold gets it anyway.

    Raises:
        InputError: lists of unequal lengths, a position that is not finite, or a tag that the format cannot hold.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    molecules = Molecules(structures, orders=orders, charges=charges)
    if properties and len(properties) != len(molecules):
        raise InputError("one set of tags per molecule", expected=str(len(molecules)), got=str(len(properties)))
    if not np.isfinite(structures.pos).all():
        raise InputError("a position is not finite, which SDF cannot hold", where=structures.name)
    records = []
    for i in range(len(molecules)):
        tags = dict(properties[i]) if properties else {}
        if orders[i] is None:
            tags[BONDS_TAG] = NO_BONDS
        records.append(_mol_block(molecules, i, v3000=v3000) + _tag_lines(tags, f"molecule {i}") + "$$$$\n")
    write_atomically(path, "".join(records).encode())
    return path


def read_sdf(path: str | Path) -> Molecules:
    """Molecules of an SDF file with their bonds, formal charges and tags, nothing sanitised, no hydrogen added.

    A record that RDKit cannot read becomes a molecule without atoms and a fault. Symbols that are no element, and
    query atoms, count as such.

    Raises:
        DataError: no such file. InputError: a file without any record.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", where=str(path))
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]] = []
    faults: dict[int, str] = {}
    properties: list[dict[str, str]] = []
    for i, record in enumerate(sdf_records(path)):
        tags = tags_of_record(record)
        found = read_sdf_record(record)
        if isinstance(found, str):
            faults[i] = f"unreadable record: {found}"
            parts.append((np.zeros(0, np.int64), np.zeros((0, 3)), None, None))
        elif tags.get(BONDS_TAG) == NO_BONDS:
            parts.append((found.numbers, found.pos, None, None))
        else:
            parts.append((found.numbers, found.pos, orders_of(found.mol), charges_of(found.mol)))
        properties.append(tags)
    if not parts:
        raise InputError("no molecules", where=str(path), got="an empty file")
    return Molecules(
        structures=structures_of([p[0] for p in parts], [p[1] for p in parts], name=path.stem, source=path.name),
        orders=[p[2] for p in parts],
        charges=[p[3] for p in parts],
        faults=faults,
        properties=properties,
    )


def _mol_block(molecules: Molecules, i: int, *, v3000: bool) -> str:
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    assert molecules.orders is not None
    numbers, pos, orders = molecules.numbers(i), molecules.pos(i), molecules.orders[i]
    charges = None if molecules.charges is None else molecules.charges[i]
    bonds = np.zeros((len(numbers),) * 2, np.int8) if orders is None else kekulised(numbers, orders)
    mol = to_rdkit(numbers, pos, bonds, charges=charges)
    large = max(len(numbers), mol.GetNumBonds()) > V2000_ATOMS or np.abs(pos).max(initial=0.0) > V2000_REACH
    with BlockLogs():
        mol.UpdatePropertyCache(strict=False)
        write = Chem.MolToV3KMolBlock if v3000 or large else Chem.MolToMolBlock
        return str(write(mol, includeStereo=False, kekulize=False))


def _tag_lines(tags: Mapping[str, object], where: str) -> str:
    lines = []
    for name, value in tags.items():
        text = str(value)
        if not name or any(character in name for character in "<>\r\n"):
            raise InputError("a tag name that SDF cannot hold", where=where, got=repr(name))
        if "\r" in text or "$$$$" in text or any(not line.strip() or line.startswith(">") for line in text.split("\n")):
            raise InputError(
                f'tag "{name}" has a value that SDF cannot hold',
                where=where,
                expected='text without empty lines, lines that start with ">" and "$$$$"',
                got=repr(text)[:60],
            )
        lines.append(f">  <{name}>\n{text}\n\n")
    return "".join(lines)
