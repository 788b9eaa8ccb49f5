"""Graph to and from RDKit's `Mol`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ase
import torch

from geomol.errors import InputError
from geomol.graph.build import build_graph
from geomol.graph.record import Graph

if TYPE_CHECKING:
    from rdkit.Chem import Mol


def graph_from_rdkit(
    mol: Mol | Sequence[Mol],
    cutoff: float = float("inf"),
    *,
    conformer: int = -1,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    complete: bool = False,
) -> Graph:
    """The graph of one molecule or a batch of many: elements and the positions of one conformer.

    Implicit hydrogens are not atoms of a `Mol`; add them (`Chem.AddHs`) before embedding.

    Args:
        mol: one molecule or a sequence of them.
        cutoff, dtype, device, complete: as for `build_graph`.
        conformer: id of the conformer; −1 is the first.

    Raises:
        InputError: if a molecule has no such conformer, or one without coordinates in space; also as `build_graph`.
    """
    mols = list(mol) if isinstance(mol, Sequence) else [mol]
    frames = [_to_atoms(m, conformer, f"molecule {k}") for k, m in enumerate(mols)]
    return build_graph(frames, cutoff, dtype=dtype, device=device, complete=complete)


def graph_to_rdkit(graph: Graph, templates: Sequence[Mol] | None = None) -> list[Mol]:
    """One RDKit molecule with one conformer for each structure.

    A Graph knows elements and positions, not bonds or charges. Those come from `templates`, molecules with the same
    atoms in the same order; without them the molecules consist of unbonded atoms.

    Raises:
        InputError: if a template has other atoms than its structure.
    """
    from rdkit import Chem
    from rdkit.Geometry import Point3D

    ptr, numbers = graph.ptr.tolist(), graph.numbers.tolist()
    pos = graph.pos.detach().to("cpu", torch.float64).tolist()
    if templates is not None and len(templates) != graph.num_graphs:
        raise InputError("one template per structure", expected=str(graph.num_graphs), got=str(len(templates)))
    mols = []
    for k, (first, last) in enumerate(itertools.pairwise(ptr)):
        mol = _unbonded(numbers[first:last]) if templates is None else Chem.Mol(templates[k])
        found = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        if found != numbers[first:last]:
            got, expected = str(found), str(numbers[first:last])
            raise InputError("template has other atoms", where=f"structure {k}", expected=expected, got=got)
        mol.RemoveAllConformers()
        conformer = Chem.Conformer(last - first)
        conformer.Set3D(True)
        for i, xyz in enumerate(pos[first:last]):
            conformer.SetAtomPosition(i, Point3D(*xyz))
        mol.AddConformer(conformer, assignId=True)
        mols.append(mol)
    return mols


def _to_atoms(mol: Mol, conformer: int, where: str) -> ase.Atoms:
    """Elements and positions of one conformer."""
    ids = [c.GetId() for c in mol.GetConformers()]
    if not ids or (conformer != -1 and conformer not in ids):
        raise InputError(
            "RDKit molecule has no such conformer" if ids else "RDKit molecule has no conformer, so no positions",
            where=where,
            expected=f"conformer {conformer}" if ids else None,
            got=f"ids {ids}" if ids else None,
            remedy="embed it first: Chem.AddHs, then AllChem.EmbedMolecule",
        )
    chosen = mol.GetConformer(conformer)
    if not chosen.Is3D() and not chosen.GetPositions()[:, 2].any() and mol.GetNumAtoms() > 3:
        raise InputError(
            "RDKit conformer is a drawing in the plane, not a structure in space",
            where=where,
            remedy="embed it first: Chem.AddHs, then AllChem.EmbedMolecule",
        )
    return ase.Atoms(numbers=[atom.GetAtomicNum() for atom in mol.GetAtoms()], positions=chosen.GetPositions())


def _unbonded(numbers: Sequence[int]) -> Mol:
    """A molecule of atoms alone."""
    from rdkit import Chem

    mol = Chem.RWMol()
    for z in numbers:
        atom = Chem.Atom(z)
        atom.SetNoImplicit(True)  # RDKit adds no hydrogens of its own
        mol.AddAtom(atom)
    return mol.GetMol()
