"""What molecules are made of: elements, sizes, rings, and drug-likeness, in two sets side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from scipy.stats import wasserstein_distance

from geomol.data import Structures
from geomol.errors import InputError
from geomol.generate.smiles import rdkit_version, sanitise, to_rdkit

if TYPE_CHECKING:
    from rdkit.Chem import Mol

LARGEST_RING = 10  # larger rings are counted with these


@dataclass(frozen=True, eq=False)
class Composition:
    """Counts of one set of molecules.

    Attributes:
        rdkit: release of RDKit that found the rings.
        elements: number of atoms of each atomic number.
        atoms, heavy_atoms, rings: of each molecule; rings of the smallest set of smallest rings.
        ring_sizes: number of rings of each size, the last entry for `LARGEST_RING` and beyond.
    """

    rdkit: str
    elements: Int[np.ndarray, " Z"]
    atoms: Int[np.ndarray, " S"]
    heavy_atoms: Int[np.ndarray, " S"]
    rings: Int[np.ndarray, " S"]
    ring_sizes: Int[np.ndarray, " R"]

    def figures(self) -> dict[str, float]:
        """Numbers by name."""
        found = {"atoms_mean": _mean(self.atoms), "heavy_atoms_mean": _mean(self.heavy_atoms)}
        total = max(int(self.elements.sum()), 1)
        for z in np.flatnonzero(self.elements).tolist():
            found[f"element_{chemical_symbols[z]}_share"] = float(self.elements[z] / total)
        found["rings_mean"], found["with_ring_share"] = _mean(self.rings), _mean(self.rings > 0)
        sizes = max(int(self.ring_sizes.sum()), 1)
        for size in range(3, LARGEST_RING + 1):
            name = f"{size}_or_more" if size == LARGEST_RING else str(size)
            found[f"ring_size_{name}_share"] = float(self.ring_sizes[size] / sizes)
        return found


@dataclass(frozen=True)
class CompositionDistance:
    """How far two compositions are apart.

    Attributes:
        element_tv, atoms_tv, rings_tv, ring_size_tv: total variation ½ Σ|p − q| of the shares of elements among the
            atoms, of numbers of atoms and of rings among the molecules, and of sizes among the rings; 0–1.
        atoms_w1, rings_w1: Wasserstein-1 distance of the numbers of atoms and of rings.
    """

    element_tv: float
    atoms_tv: float
    rings_tv: float
    ring_size_tv: float
    atoms_w1: float
    rings_w1: float

    def figures(self) -> dict[str, float]:
        """Numbers by name."""
        return {name: float(getattr(self, name)) for name in self.__dataclass_fields__}


@dataclass(frozen=True, eq=False)
class Likeness:
    """Descriptors of RDKit of the molecules that it accepts.

    Attributes:
        rdkit: its release, on which the values depend.
        molecules: how many were given, those that RDKit rejects included.
        qed: drug-likeness of Bickerton et al. (Nature Chemistry 4 (2012) 90), 0–1, of each accepted molecule.
        logp: octanol–water partition coefficient of Crippen, likewise.
    """

    rdkit: str
    molecules: int
    qed: Float[np.ndarray, " V"]
    logp: Float[np.ndarray, " V"]

    def figures(self) -> dict[str, float]:
        """Numbers by name; means are over the accepted molecules, whose share is told."""
        accepted = len(self.qed) / self.molecules if self.molecules else float("nan")
        return {
            "descriptors_accepted_share": accepted,
            "qed_mean_of_accepted": _mean(self.qed),
            "logp_mean_of_accepted": _mean(self.logp),
        }


def composition(structures: Structures, orders: Sequence[np.ndarray]) -> Composition:
    """Count elements, atoms and rings. Molecules that RDKit would reject are counted like all others.

    Args:
        structures: the molecules.
        orders: (n, n) bond orders of each.

    Raises:
        InputError: orders of another number than the molecules.
    """
    if len(orders) != len(structures):
        raise InputError("one matrix of orders per molecule", expected=str(len(structures)), got=str(len(orders)))
    heavy = np.concatenate([[0], np.cumsum(structures.numbers > 1)])
    found = [_rings(matrix) for matrix in orders]
    sizes = np.array([size for rings in found for size in rings], dtype=np.int64)
    return Composition(
        rdkit=rdkit_version(),
        elements=np.bincount(structures.numbers, minlength=len(chemical_symbols)),
        atoms=structures.n_atoms,
        heavy_atoms=heavy[structures.ptr[1:]] - heavy[structures.ptr[:-1]],
        rings=np.array([len(rings) for rings in found], dtype=np.int64),
        ring_sizes=np.bincount(np.minimum(sizes, LARGEST_RING), minlength=LARGEST_RING + 1),
    )


def compare_composition(generated: Composition, reference: Composition) -> CompositionDistance:
    """Distance of two compositions; NaN where a set is empty, or has no rings."""
    return CompositionDistance(
        element_tv=total_variation(generated.elements, reference.elements),
        atoms_tv=_histogram_tv(generated.atoms, reference.atoms),
        rings_tv=_histogram_tv(generated.rings, reference.rings),
        ring_size_tv=total_variation(generated.ring_sizes, reference.ring_sizes),
        atoms_w1=_w1(generated.atoms, reference.atoms),
        rings_w1=_w1(generated.rings, reference.rings),
    )


def total_variation(p: Int[np.ndarray, " K"], q: Int[np.ndarray, " K"]) -> float:
    """½ Σ |p/Σp − q/Σq| of two rows of counts, 0–1; NaN if one is empty."""
    if not p.sum() or not q.sum():
        return float("nan")
    return float(0.5 * np.abs(p / p.sum() - q / q.sum()).sum())


def likeness(
    structures: Structures, orders: Sequence[np.ndarray], *, charges: Int[np.ndarray, " A"] | None = None
) -> Likeness:
    """QED and logP of every molecule that RDKit accepts.

    Args:
        structures: the molecules.
        orders: (n, n) bond orders of each.
        charges: formal charge of each atom; none by default.
    """
    from rdkit.rdBase import BlockLogs

    qed, logp = [], []
    with BlockLogs():
        for k, matrix in enumerate(orders):
            rows = slice(int(structures.ptr[k]), int(structures.ptr[k + 1]))
            mol = to_rdkit(structures.numbers[rows], None, matrix, charges=None if charges is None else charges[rows])
            if len(matrix) and not sanitise(mol):
                values = _descriptors(mol)
                qed.append(values[0])
                logp.append(values[1])
    return Likeness(rdkit_version(), len(structures), np.array(qed, dtype=float), np.array(logp, dtype=float))


def compare_likeness(generated: Likeness, reference: Likeness) -> dict[str, float]:
    """Wasserstein-1 distances of QED and logP over the accepted molecules of both sets, by name."""
    return {"qed_w1": _w1(generated.qed, reference.qed), "logp_w1": _w1(generated.logp, reference.logp)}


def _descriptors(mol: Mol) -> tuple[float, float]:
    from rdkit.Chem import QED, RemoveHs
    from rdkit.Chem.rdMolDescriptors import CalcCrippenDescriptors

    bare = RemoveHs(mol)  # QED counts hydrogens as heavy atoms otherwise
    return float(QED.qed(bare)), float(CalcCrippenDescriptors(bare)[0])  # type: ignore[no-untyped-call]


def _rings(orders: Int[np.ndarray, "n n"]) -> list[int]:
    """Sizes of the smallest set of smallest rings; elements and valences do not matter."""
    from rdkit import Chem

    if np.count_nonzero(orders) // 2 < 3:
        return []
    mol = to_rdkit(np.full(len(orders), 6), None, np.where(orders > 0, 1, 0).astype(np.int8))
    return [len(ring) for ring in Chem.GetSSSR(mol)]


def _histogram_tv(a: np.ndarray, b: np.ndarray) -> float:
    bins = int(max([*a, *b], default=0)) + 1
    return total_variation(np.bincount(a, minlength=bins), np.bincount(b, minlength=bins))


def _w1(a: np.ndarray, b: np.ndarray) -> float:
    return float(wasserstein_distance(a, b)) if len(a) and len(b) else float("nan")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
