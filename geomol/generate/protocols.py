"""The protocols: what counts as a bond, a stable atom, a stable molecule and a valid one. Never mix their figures.

| protocol | bonds | stable atom | stable molecule | valid |
|---|---|---|---|---|
| edm | distance tables of EDM | orders add up to the value of the neutral element | all atoms stable | RDKit sanitises, open valences filled with hydrogens; SMILES of the largest fragment |
| strict | same tables | as edm, or with a formal charge that the bonds imply | all atoms stable, and valid | RDKit sanitises all atoms as they are: one piece, no hydrogen added, no radical, neutral |
| graph | came with the molecules | orders fit element and formal charge | all atoms stable | RDKit sanitises, no hydrogen added; SMILES of the largest fragment |
| rdkit | RDKit's DetermineBonds, neutral, in a worker with a time limit | no unpaired electron | all atoms stable, and valid | an answer with a bond, that sanitises; SMILES of all atoms |

A molecule without atoms, or one that could not be read or perceived, is neither stable nor valid and stays in every
denominator of molecules; `reasons` says why.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from ase.data import atomic_numbers
from jaxtyping import Bool, Int

from geomol.errors import ConfigError
from geomol.generate.bonds import edm_bonds
from geomol.generate.molecules import Molecules
from geomol.generate.perception import TIME_LIMIT_S, Perceived, perceive
from geomol.generate.smiles import (
    AROMATIC,
    charge_separated,
    kekulised,
    largest_fragment_smiles,
    sanitise,
    to_rdkit,
    whole_smiles,
)
from geomol.generate.stability import BondGraph, bond_graph, implied_charges, stable_atoms, valence_fault

if TYPE_CHECKING:
    from rdkit.Chem import Mol


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What a protocol says of each of S molecules."""

    protocol: str
    n_atoms: Int[np.ndarray, " S"]
    stable_atoms: Int[np.ndarray, " S"]
    stable: Bool[np.ndarray, " S"]
    valid: Bool[np.ndarray, " S"]
    fragments: Int[np.ndarray, " S"]  # connected pieces; 0 where the bonds are not known
    smiles: Sequence[str]  # canonical; "" where not valid
    reasons: Sequence[str]  # what is wrong first of all; "" where stable and valid
    orders: Sequence[np.ndarray | None]  # (n, n) int8; None where the bonds are not known
    charges: Sequence[np.ndarray | None]  # (n,) formal charges; None where the protocol has none

    def __len__(self) -> int:
        return len(self.n_atoms)

    @property
    def connected(self) -> Bool[np.ndarray, " S"]:
        """Molecules of one piece."""
        return np.asarray(self.fragments == 1)


Protocol = Callable[[Molecules], Verdicts]


def edm_protocol(molecules: Molecules) -> Verdicts:
    """Bonds, stability and validity as in EDM (arXiv:2203.17003), so that figures compare with the literature."""
    orders = edm_bonds(molecules.structures)
    graph = bond_graph(molecules.structures, orders)
    stable = stable_atoms(molecules.structures.numbers, graph.valence)

    def judge(i: int) -> tuple[str, str]:
        mol = to_rdkit(molecules.numbers(i), None, orders[i], implicit_hydrogens=True)
        fault = sanitise(mol)
        return ("", fault) if fault else (largest_fragment_smiles(mol), "")

    smiles, faults = _judge_all(molecules, judge)
    return _verdicts("edm", molecules, orders, graph, stable, smiles, faults, charges=None)


def strict_protocol(molecules: Molecules) -> Verdicts:
    """EDM's bonds, held to what a chemist calls a molecule: one neutral, closed-shell piece."""
    structures = molecules.structures
    orders, graph = _charge_separated(molecules, edm_bonds(structures))
    charges = implied_charges(structures.numbers, graph)
    stable = stable_atoms(structures.numbers, graph.valence, charges)
    per_molecule = _split(charges, molecules)

    def judge(i: int) -> tuple[str, str]:
        mol = to_rdkit(molecules.numbers(i), None, orders[i], charges=per_molecule[i])
        fault = sanitise(mol) or _open_shell(mol)
        if not fault and graph.fragments[i] != 1:
            fault = f"{graph.fragments[i]} pieces"
        return ("", fault) if fault else (whole_smiles(mol), "")

    smiles, faults = _judge_all(molecules, judge)
    return _verdicts("strict", molecules, orders, graph, stable, smiles, faults, charges=charges, needs_valid=True)


def graph_protocol(molecules: Molecules) -> Verdicts:
    """The bonds that came with the molecules, from a bond head or an SDF file. Not comparable with inferred bonds.

    Formal charges are those given; a molecule that has none gets those that its bonds imply.

    Raises:
        ConfigError: molecules without bonds.
    """
    if molecules.orders is None:
        raise ConfigError(
            "these molecules came without bonds",
            where=molecules.structures.name,
            remedy="score an .sdf file, or infer bonds with another protocol",
        )
    given = [
        np.zeros((count, count), dtype=np.int8) if matrix is None else kekulised(molecules.numbers(i), matrix)
        for i, (count, matrix) in enumerate(zip(molecules.structures.n_atoms.tolist(), molecules.orders, strict=True))
    ]
    unknown = np.array([matrix is None for matrix in molecules.orders], dtype=np.bool_)
    orders, graph = _charge_separated(molecules, given)
    charges = _given_or_implied(molecules, graph)
    stable = stable_atoms(molecules.structures.numbers, graph.valence, charges)
    stable &= ~np.repeat(unknown, molecules.structures.n_atoms)
    # aromatic bonds that could not be resolved; their 1.5 may add up to a whole number by chance
    stable &= ~np.concatenate([np.zeros(0, np.bool_), *((matrix == AROMATIC).any(axis=1) for matrix in orders)])
    per_molecule = _split(charges, molecules)

    def judge(i: int) -> tuple[str, str]:
        if unknown[i]:
            return "", "bonds are not known"
        mol = to_rdkit(molecules.numbers(i), None, orders[i], charges=per_molecule[i])
        fault = sanitise(mol)
        return ("", fault) if fault else (largest_fragment_smiles(mol), "")

    smiles, faults = _judge_all(molecules, judge)
    return _verdicts("graph", molecules, orders, graph, stable, smiles, faults, charges=charges, unknown=unknown)


def rdkit_protocol(molecules: Molecules, *, time_limit_s: float = TIME_LIMIT_S, workers: int = 1) -> Verdicts:
    """Bonds by RDKit's DetermineBonds for a neutral molecule; its answers differ between releases.

    Atoms of a molecule without an answer count as unstable.

    Args:
        molecules: what to judge.
        time_limit_s: how long one molecule may take before its worker is stopped and it counts as failed.
        workers: processes at work.
    """
    perceived = perceive(molecules.structures, time_limit_s=time_limit_s, workers=workers)
    return verdicts_of_perceived(molecules, perceived)


def verdicts_of_perceived(molecules: Molecules, perceived: Sequence[Perceived]) -> Verdicts:
    """The protocol "rdkit" once the bonds are known, or the reason why they are not."""
    counts = molecules.structures.n_atoms.tolist()
    orders = [
        np.zeros((count, count), np.int8) if p.orders is None else p.orders
        for p, count in zip(perceived, counts, strict=True)
    ]
    charges = [
        np.zeros(count, np.int64) if p.charges is None else p.charges
        for p, count in zip(perceived, counts, strict=True)
    ]
    graph = bond_graph(molecules.structures, orders)
    closed = [np.zeros(count, dtype=np.bool_) for count in counts]

    def judge(i: int) -> tuple[str, str]:
        if perceived[i].fault:
            return "", perceived[i].fault
        mol = to_rdkit(molecules.numbers(i), None, orders[i], charges=charges[i])
        fault = sanitise(mol)
        closed[i] = np.array([atom.GetNumRadicalElectrons() == 0 for atom in mol.GetAtoms()]) & (not fault)
        if not fault and not orders[i].any():
            fault = "no bonds"
        return ("", fault) if fault else (whole_smiles(mol), "")

    smiles, faults = _judge_all(molecules, judge)
    stable = np.concatenate([np.zeros(0, np.bool_), *closed])
    unknown = np.array([p.orders is None for p in perceived], dtype=np.bool_)
    flat = np.concatenate([np.zeros(0, np.int64), *charges])
    return _verdicts(
        "rdkit", molecules, orders, graph, stable, smiles, faults, charges=flat, unknown=unknown, needs_valid=True
    )


PROTOCOLS: dict[str, Protocol] = {
    "edm": edm_protocol,
    "strict": strict_protocol,
    "graph": graph_protocol,
    "rdkit": rdkit_protocol,
}


def _charge_separated(molecules: Molecules, orders: list[np.ndarray]) -> tuple[list[np.ndarray], BondGraph]:
    """Nitro, azide and the like, written with five bonds at nitrogen, with the charges apart as RDKit has them."""
    graph = bond_graph(molecules.structures, orders)
    five = (molecules.structures.numbers == atomic_numbers["N"]) & (graph.valence == 5)
    owner = np.repeat(np.arange(len(molecules)), molecules.structures.n_atoms)
    rows = np.unique(owner[five]).tolist()
    if not rows:
        return orders, graph
    for i in rows:
        orders[i] = charge_separated(molecules.numbers(i), orders[i])
    return orders, bond_graph(molecules.structures, orders)


def _given_or_implied(molecules: Molecules, graph: BondGraph) -> np.ndarray:
    implied = implied_charges(molecules.structures.numbers, graph)
    if molecules.charges is None:
        return implied
    parts = _split(implied, molecules)
    for i, given in enumerate(molecules.charges):
        if given is not None and given.any():
            parts[i] = given
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _open_shell(mol: Mol) -> str:
    """What keeps a sanitised molecule from being neutral and closed-shell, or ""."""
    for atom in mol.GetAtoms():
        if atom.GetNumRadicalElectrons():
            return f"{atom.GetSymbol()}{atom.GetIdx()} has {atom.GetNumRadicalElectrons()} unpaired electrons"
    total = sum(atom.GetFormalCharge() for atom in mol.GetAtoms())
    return f"total charge {total:+d}" if total else ""


def _judge_all(molecules: Molecules, judge: Callable[[int], tuple[str, str]]) -> tuple[list[str], list[str]]:
    """SMILES and fault of every molecule, RDKit's own complaints kept off the screen."""
    from rdkit.rdBase import BlockLogs

    smiles, faults = [""] * len(molecules), [""] * len(molecules)
    with BlockLogs():
        for i, count in enumerate(molecules.structures.n_atoms.tolist()):
            if i in molecules.faults:
                faults[i] = molecules.faults[i]
            elif not count:
                faults[i] = "no atoms"
            else:
                smiles[i], faults[i] = judge(i)
    return smiles, faults


def _split(flat: np.ndarray, molecules: Molecules) -> list[np.ndarray]:
    ptr = molecules.structures.ptr.tolist()
    return [flat[a:b] for a, b in pairwise(ptr)]


def _verdicts(
    protocol: str,
    molecules: Molecules,
    orders: Sequence[np.ndarray],
    graph: BondGraph,
    stable: np.ndarray,
    smiles: list[str],
    faults: list[str],
    *,
    charges: np.ndarray | None,
    unknown: np.ndarray | None = None,
    needs_valid: bool = False,
) -> Verdicts:
    """Counts per molecule from flags per atom; the reason is RDKit's where it objects, else the first unstable atom."""
    structures = molecules.structures
    counts, size = structures.n_atoms, len(molecules)
    owner = np.repeat(np.arange(size), counts)
    stable_count = np.bincount(owner[stable], minlength=size)
    valid = np.array([bool(text) for text in smiles], dtype=np.bool_)
    whole = (stable_count == counts) & (counts > 0)
    parts, values = _split(stable, molecules), _split(graph.valence, molecules)
    reasons = list(faults)
    for i in np.flatnonzero(~whole).tolist():
        if not reasons[i]:
            part = None if charges is None else charges[structures.ptr[i] : structures.ptr[i + 1]]
            reasons[i] = valence_fault(molecules.numbers(i), values[i], parts[i], part)
    unread = np.zeros(size, dtype=np.bool_) if unknown is None else unknown
    return Verdicts(
        protocol=protocol,
        n_atoms=counts,
        stable_atoms=stable_count,
        stable=whole & valid if needs_valid else whole,
        valid=valid,
        fragments=np.where(unread, 0, graph.fragments),
        smiles=smiles,
        reasons=reasons,
        orders=[None if hidden else matrix for hidden, matrix in zip(unread, orders, strict=True)],
        charges=[None] * size if charges is None else _split(charges, molecules),
    )
