"""Geometries of molecules that are given as SMILES."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomol.data.smiles_files import SmilesLine
from geomol.data.structures import Structures
from geomol.errors import GeomolWarning, InputError

_ROUNDS = 500  # of the force field, at most

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Conformer:
    numbers: NDArray[np.int64]
    pos: NDArray[np.float64]
    is_closed_shell: bool  # neutral, and without radicals


def structures_from_smiles(smiles: Sequence[str], *, seed: int = 0) -> Structures:
    """One conformer each, hydrogens added: RDKit's distance geometry, relaxed by MMFF94 where it knows the atoms.

    Models trained on geometries of another method see a slightly different molecule; that is part of their error here.
    Charges and unpaired electrons are not kept, and warned of.

    Args:
        smiles: what to build.
        seed: of the embedding.

    Raises:
        InputError: text that RDKit does not read, a molecule of several pieces, or one that it cannot embed.
    """
    lines = [SmilesLine(text, text, f"SMILES {number}") for number, text in enumerate(smiles, start=1)]
    return structures_of_lines(lines, seed=seed)[0]


def structures_of_lines(
    lines: Sequence[SmilesLine], *, seed: int = 0, skip_bad: bool = False
) -> tuple[Structures, list[str]]:
    """`structures_from_smiles` with the name of each molecule.

    Args:
        lines: what to build.
        seed: of the embedding.
        skip_bad: leave out what cannot be built, with a line in the log for each.

    Raises:
        InputError: see `structures_from_smiles`, and with `skip_bad` if nothing is left.
    """
    found, names, open_shells = [], [], []
    for line in lines:
        try:
            conformer = _conformer(line.text, seed)
        except InputError as error:
            error = InputError(error.what, where=line.where, got=error.got, remedy=error.remedy)
            if not skip_bad:
                raise error from None
            _log.warning("left out: %s", error)
            continue
        found.append(conformer)
        names.append(line.name)
        if not conformer.is_closed_shell:
            open_shells.append(line)
    if lines and not found:
        raise InputError("no molecule could be built", got=f"{len(lines)} SMILES")
    if open_shells:
        text = f"{len(open_shells)} with charges or unpaired electrons, which models of geomol do not see"
        warnings.warn(f"{open_shells[0].where}, {open_shells[0].text}: {text}", GeomolWarning, stacklevel=3)
    counts = [len(conformer.numbers) for conformer in found]
    structures = Structures(
        name="SMILES",
        numbers=np.concatenate([np.zeros(0, np.int64), *(conformer.numbers for conformer in found)]),
        pos=np.concatenate([np.zeros((0, 3)), *(conformer.pos for conformer in found)]),
        ptr=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        cell=np.zeros((len(counts), 3, 3)),
        pbc=np.zeros((len(counts), 3), dtype=np.bool_),
        source="RDKit conformers, Å",
    )
    return structures, names


def _conformer(text: str, seed: int) -> _Conformer:
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
    from rdkit.rdBase import BlockLogs

    with BlockLogs():
        mol = Chem.MolFromSmiles(text)
        if mol is None or mol.GetNumAtoms() == 0:
            raise InputError("not a SMILES", got=f'"{text}"')
        if len(Chem.GetMolFrags(mol)) > 1:
            raise InputError("a molecule of several pieces has no one conformer", got=f'"{text}"')
        mol = Chem.AddHs(mol)
        if rdDistGeom.EmbedMolecule(mol, randomSeed=seed) != 0:
            raise InputError("RDKit finds no conformer", got=f'"{text}"', remedy="give a geometry instead")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=_ROUNDS)
    return _Conformer(
        np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64),
        np.array(mol.GetConformer().GetPositions(), dtype=np.float64).reshape(-1, 3),
        Chem.GetFormalCharge(mol) == 0 and not any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()),
    )
