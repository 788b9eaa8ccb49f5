"""Geometries of molecules that are given as SMILES."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geomol.data.structures import Structures
from geomol.errors import InputError

_ROUNDS = 500  # of the force field, at most


def structures_from_smiles(smiles: Sequence[str], *, seed: int = 0) -> Structures:
    """One conformer each, hydrogens added: RDKit's distance geometry, relaxed by MMFF94 where it knows the atoms.

    Models trained on geometries of another method see a slightly different molecule; that is part of their error here.

    Args:
        smiles: what to build.
        seed: of the embedding.

    Raises:
        InputError: text that RDKit does not read, a molecule of several pieces, or one that it cannot embed.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
    from rdkit.rdBase import BlockLogs

    numbers, positions = [], []
    for text in smiles:
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
        numbers.append(np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64))
        positions.append(np.array(mol.GetConformer().GetPositions(), dtype=np.float64).reshape(-1, 3))
    counts = [len(n) for n in numbers]
    return Structures(
        name="SMILES",
        numbers=np.concatenate([np.zeros(0, np.int64), *numbers]),
        pos=np.concatenate([np.zeros((0, 3)), *positions]),
        ptr=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        cell=np.zeros((len(counts), 3, 3)),
        pbc=np.zeros((len(counts), 3), dtype=np.bool_),
        source="RDKit conformers, Å",
    )
