"""Which atoms have the bonds that their element wants, with and without formal charges; for whole sets at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geomol.data import Structures
from geomol.generate.bonds import joined
from geomol.generate.smiles import AROMATIC

# Sum of bond orders that each element must have in the EDM protocol (arXiv:2203.17003, code). S is 4 there.
EDM_VALENCES: Mapping[str, tuple[int, ...]] = {
    "H": (1,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "B": (3,), "Al": (3,), "Si": (4,), "P": (3, 5), "S": (4,),
    "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,), "Hg": (1, 2), "Bi": (3, 5),
}  # fmt: skip
# By element and formal charge, closed shells only: no entry lets a radical through.
CHARGED_VALENCES: Mapping[int, Mapping[str, tuple[int, ...]]] = {
    0: {**EDM_VALENCES, "S": (2, 4, 6), "Se": (2, 4, 6)},
    1: {"C": (3,), "N": (4,), "O": (3,), "P": (4,), "S": (3, 5)},
    -1: {"B": (4,), "C": (3,), "N": (2,), "O": (1,), "F": (0,), "S": (1,), "Cl": (0,), "Br": (0,), "I": (0,)},
}
# Charge that a sum of bond orders implies where the neutral atom would be a radical. Carbon: see `implied_charges`.
IMPLIED = {("B", 4): -1, ("N", 4): 1, ("N", 2): -1, ("O", 3): 1, ("O", 1): -1}
MAX_CHARGE, MAX_VALENCE = 1, 15


@dataclass(frozen=True, eq=False)
class BondGraph:
    """The bonds of a set, flat: each bond twice, once in each direction."""

    first: Int[np.ndarray, " B"]
    second: Int[np.ndarray, " B"]
    valence: Float[np.ndarray, " A"]  # sum of bond orders of each atom, an aromatic bond as 1.5
    fragment: Int[np.ndarray, " A"]  # number of the connected piece that an atom belongs to, over the whole set
    fragments: Int[np.ndarray, " S"]  # connected pieces of each molecule


def bond_graph(structures: Structures, orders: Sequence[np.ndarray]) -> BondGraph:
    """Valences and connected pieces of all molecules."""
    first, second, kind = joined(structures, list(orders))
    atoms = len(structures.numbers)
    weight = np.where(kind == AROMATIC, 1.5, kind)
    matrix = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(atoms, atoms))
    pieces, fragment = connected_components(matrix, directed=False) if atoms else (0, np.zeros(0, np.int64))
    owner = np.repeat(np.arange(len(structures)), structures.n_atoms)
    owner_of_piece = np.zeros(pieces, dtype=np.int64)
    owner_of_piece[fragment] = owner
    return BondGraph(
        first=first,
        second=second,
        valence=np.bincount(first, weights=weight, minlength=atoms).astype(np.float64),
        fragment=fragment.astype(np.int64),
        fragments=np.bincount(owner_of_piece, minlength=len(structures)),
    )


def _allowed(tables: Mapping[int, Mapping[str, tuple[int, ...]]]) -> np.ndarray:
    """(charge + 1, atomic number, valence) → whether the tables have it."""
    allowed = np.zeros((2 * MAX_CHARGE + 1, len(chemical_symbols), MAX_VALENCE + 1), dtype=np.bool_)
    for charge, table in tables.items():
        for symbol, values in table.items():
            allowed[charge + MAX_CHARGE, atomic_numbers[symbol], list(values)] = True
    return allowed


EDM_ALLOWED = _allowed({0: EDM_VALENCES})
CHARGED_ALLOWED = _allowed(CHARGED_VALENCES)


def stable_atoms(
    numbers: Int[np.ndarray, " A"],
    valence: Float[np.ndarray, " A"],
    charges: Int[np.ndarray, " A"] | None = None,
) -> Bool[np.ndarray, " A"]:
    """Atoms whose bond orders add up to what their element wants.

    Args:
        numbers: atomic numbers; one that is no element is never stable.
        valence: sums of bond orders.
        charges: formal charges, for the table by element and charge; without them the table of EDM.
    """
    whole = np.clip(np.rint(valence), 0, MAX_VALENCE).astype(np.int64)
    element = np.where((numbers > 0) & (numbers < len(chemical_symbols)), numbers, 0)
    charge = np.zeros_like(numbers) if charges is None else charges
    table = EDM_ALLOWED if charges is None else CHARGED_ALLOWED
    known = table[np.clip(charge, -MAX_CHARGE, MAX_CHARGE) + MAX_CHARGE, element, whole]
    return np.asarray(known & (whole == valence) & (np.abs(charge) <= MAX_CHARGE))


def implied_charges(
    numbers: Int[np.ndarray, " A"], graph: BondGraph, *, balanced: bool = True
) -> Int[np.ndarray, " A"]:
    """Formal charges that the bonds imply: −O, N(+)≡, and carbon −1 with three bonds beside a positive atom.

    The carbon covers CO, isocyanides and ylides; elsewhere a carbon with three bonds is a radical.

    Args:
        numbers: atomic numbers.
        graph: bonds, with aromatic ones resolved into single and double.
        balanced: keep charges only in connected pieces in which they add up to nothing, so that OH· is no hydroxide.
    """
    charges = np.zeros(len(numbers), dtype=np.int64)
    for (symbol, valence), charge in IMPLIED.items():
        charges[(numbers == atomic_numbers[symbol]) & (graph.valence == valence)] = charge
    beside_positive = np.zeros(len(numbers), dtype=np.bool_)
    beside_positive[graph.first[charges[graph.second] > 0]] = True
    charges[(numbers == atomic_numbers["C"]) & (graph.valence == 3) & beside_positive] = -1
    if not balanced or not len(numbers):
        return charges
    total = np.bincount(graph.fragment, weights=charges)
    return np.where(total[graph.fragment] == 0, charges, 0)


def valence_fault(
    numbers: Int[np.ndarray, " n"],
    valence: Float[np.ndarray, " n"],
    stable: Bool[np.ndarray, " n"],
    charges: Int[np.ndarray, " n"] | None = None,
) -> str:
    """The first unstable atom in words: "C3 has 5 bonds, not 4"; "" where all are stable."""
    wrong = np.flatnonzero(~stable)
    if not len(wrong):
        return ""
    atom = int(wrong[0])
    number, charge = int(numbers[atom]), 0 if charges is None else int(charges[atom])
    symbol = chemical_symbols[number] if 0 < number < len(chemical_symbols) else f"element {number}"
    tables = {0: EDM_VALENCES} if charges is None else CHARGED_VALENCES
    wanted = " or ".join(map(str, tables.get(charge, {}).get(symbol, ()))) or "known to the table"
    return f"{symbol}{atom}{'' if not charge else f'({charge:+d})'} has {valence[atom]:g} bonds, not {wanted}"
