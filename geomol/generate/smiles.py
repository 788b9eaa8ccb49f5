"""RDKit molecules from atoms and bond orders, whether RDKit accepts them, and their SMILES."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from rdkit.Chem import Mol

AROMATIC = 4  # the bond order that stands for aromatic


def to_rdkit(
    numbers: Int[np.ndarray, " n"],
    pos: Float[np.ndarray, "n 3"] | None,
    orders: Int[np.ndarray, "n n"],
    *,
    charges: Int[np.ndarray, " n"] | None = None,
    implicit_hydrogens: bool = False,
) -> Mol:
    """An RDKit molecule, not sanitised, with one conformer where positions are given.

    Args:
        numbers: atomic numbers; hydrogens are atoms like all others.
        pos: positions in Å, or None for a molecule without a conformer.
        orders: symmetric bond orders, 0 to 3, and 4 for aromatic; the upper triangle is read.
        charges: formal charges; none by default.
        implicit_hydrogens: whether RDKit may fill open valences with hydrogens of its own, as the EDM protocol has it.
            Without them an open valence is a radical once the molecule is sanitised.
    """
    from rdkit import Chem
    from rdkit.Chem import BondType

    types = (BondType.ZERO, BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE, BondType.AROMATIC)
    mol = Chem.RWMol()
    for i, number in enumerate(numbers.tolist()):
        atom = Chem.Atom(number)
        atom.SetNoImplicit(not implicit_hydrogens)
        if charges is not None and charges[i]:
            atom.SetFormalCharge(int(charges[i]))
        mol.AddAtom(atom)
    first, second = np.nonzero(np.triu(orders, 1))
    for i, j, order in zip(first.tolist(), second.tolist(), orders[first, second].tolist(), strict=True):
        mol.AddBond(i, j, types[order])
        if order == AROMATIC:
            mol.GetBondBetweenAtoms(i, j).SetIsAromatic(True)
            mol.GetAtomWithIdx(i).SetIsAromatic(True)
            mol.GetAtomWithIdx(j).SetIsAromatic(True)
    if pos is not None:
        conformer = Chem.Conformer(len(numbers))
        conformer.Set3D(True)
        conformer.SetPositions(np.ascontiguousarray(pos, dtype=np.float64))
        mol.AddConformer(conformer, assignId=True)
    return mol.GetMol()


def orders_of(mol: Mol) -> Int[np.ndarray, "n n"]:
    """Bond orders of an RDKit molecule, aromatic bonds as 4; a bond of any other kind counts as single."""
    from rdkit.Chem import BondType

    codes = {BondType.SINGLE: 1, BondType.DOUBLE: 2, BondType.TRIPLE: 3, BondType.AROMATIC: AROMATIC}
    orders = np.zeros((mol.GetNumAtoms(),) * 2, dtype=np.int8)
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        orders[i, j] = orders[j, i] = codes.get(bond.GetBondType(), 1)
    return orders


def charges_of(mol: Mol) -> Int[np.ndarray, " n"]:
    """Formal charges of an RDKit molecule."""
    return np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], dtype=np.int64)


def sanitise(mol: Mol) -> str:
    """Sanitise in place; why RDKit objects, in its own words, or "" where it does not.

    RDKit also logs what it objects to; `rdkit.rdBase.BlockLogs` around many calls keeps that off the screen.
    """
    from rdkit import Chem

    try:
        Chem.SanitizeMol(mol)
    except (ValueError, RuntimeError) as error:  # RDKit's sanitisation errors; RuntimeError for what is no element
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def kekulised(numbers: Int[np.ndarray, " n"], orders: Int[np.ndarray, "n n"]) -> Int[np.ndarray, "n n"]:
    """The orders with aromatic bonds made single and double; as they are where that cannot be done."""
    from rdkit import Chem, rdBase

    if not (orders == AROMATIC).any():
        return orders
    mol = to_rdkit(numbers, None, orders)
    with rdBase.BlockLogs():
        try:
            mol.UpdatePropertyCache(strict=False)
            Chem.Kekulize(mol, clearAromaticFlags=True)
        except ValueError:
            return orders
    return orders_of(mol)


def charge_separated(numbers: Int[np.ndarray, " n"], orders: Int[np.ndarray, "n n"]) -> Int[np.ndarray, "n n"]:
    """The orders with RDKit's clean-up: nitro, azide and such groups lose the fifth bond of their nitrogen.

    The atoms carry the charges then that the bonds imply; see `geomol.generate.stability.implied_charges`.
    """
    from rdkit import Chem

    mol = to_rdkit(numbers, None, orders)
    Chem.Cleanup(mol)
    return orders_of(mol)


def whole_smiles(mol: Mol) -> str:
    """Canonical SMILES of all atoms of a sanitised molecule, fragments separated by dots."""
    from rdkit import Chem

    return str(Chem.MolToSmiles(mol))


def without_hydrogens(smiles: str) -> str:
    """Canonical SMILES with hydrogens implied, as people write it; the same text where RDKit does not take it."""
    from rdkit import Chem
    from rdkit.rdBase import BlockLogs

    with BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    return smiles if mol is None else str(Chem.MolToSmiles(mol))


def largest_fragment_smiles(mol: Mol) -> str:
    """Canonical SMILES of the fragment with the most atoms, hydrogens included; the first of equals.

    The spelling depends on the release of RDKit: compare SMILES of one release only.
    """
    from rdkit import Chem

    fragments = Chem.GetMolFrags(mol)
    if len(fragments) == 1:
        return whole_smiles(mol)
    largest = max(Chem.GetMolFrags(mol, asMols=True), default=mol, key=lambda fragment: fragment.GetNumAtoms())
    return whole_smiles(largest)


def rdkit_version() -> str:
    """The release of RDKit that is in use."""
    from rdkit import rdBase

    return str(rdBase.rdkitVersion)
