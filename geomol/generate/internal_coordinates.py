"""Bond lengths, angles and torsions of many molecules at once, in flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from geomol.data import Structures
from geomol.errors import InputError

# Within this of a straight line, a torsion through the three atoms has no meaning, degrees.
LINEAR_WITHIN_DEG = 5.0
KINDS = {"length": "A", "angle": "deg", "torsion": "deg"}


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Values of one kind of internal coordinate, each with the atoms it is measured on and what it is called.

    Attributes:
        atoms: rows of the atoms in the flat arrays; 2 for a length, 3 for an angle (the centre in the middle), 4 for a
            torsion.
        keys: what kind of bond, angle or torsion this is; equal keys are compared with each other.
        values: Å or degrees; NaN for a torsion through three atoms in line.
    """

    atoms: Int[np.ndarray, "M K"]
    keys: Int[np.ndarray, "M L"]
    values: Float[np.ndarray, " M"]

    def defined(self) -> Coordinates:
        """Those that have a value."""
        keep = np.isfinite(self.values)
        return Coordinates(self.atoms[keep], self.keys[keep], self.values[keep])


@dataclass(frozen=True, eq=False)
class InternalCoordinates:
    """All bonds, angles and torsions of a set of molecules.

    Attributes:
        length: keys are (element, element, order), the lighter element first.
        angle: keys are (outer, centre, outer element), the lighter outer element first.
        torsion: keys are (four elements along the chain, order of the bond in the middle), in that one of the two
            directions that comes first. Values are absolute, 0–180°: a molecule and its mirror image then agree, and
            −179° is near 179°.
    """

    length: Coordinates
    angle: Coordinates
    torsion: Coordinates


def bond_list(orders: Sequence[np.ndarray], ptr: Int[np.ndarray, " P"]) -> Int[np.ndarray, "B 3"]:
    """All bonds of all molecules: rows of both atoms in the flat arrays (the smaller first) and the order.

    Args:
        orders: (n, n) symmetric bond orders of each molecule, 0 where there is no bond.
        ptr: first atom of each molecule, and the number of atoms at the end.

    Raises:
        InputError: one matrix per molecule, of its size, is needed.
    """
    counts = np.diff(ptr)
    if len(orders) != len(counts):
        raise InputError("bond orders are needed for each molecule", expected=str(len(counts)), got=str(len(orders)))
    wrong = [k for k, (o, n) in enumerate(zip(orders, counts, strict=True)) if o.shape != (n, n)]
    if wrong:
        k = wrong[0]
        raise InputError(
            "bond orders of the wrong shape",
            where=f"molecule {k}",
            expected=f"({counts[k]}, {counts[k]})",
            got=str(orders[k].shape),
        )
    if not len(orders):
        return np.zeros((0, 3), dtype=np.int64)
    flat = np.concatenate([o.ravel() for o in orders])
    entry = np.flatnonzero(flat)
    starts = np.concatenate([[0], np.cumsum(counts**2)])
    molecule = np.searchsorted(starts, entry, side="right") - 1
    i, j = np.divmod(entry - starts[molecule], counts[molecule])
    upper = i < j
    first = ptr[molecule]
    return np.stack([first + i, first + j, flat[entry]], axis=1)[upper].astype(np.int64)


def internal_coordinates(structures: Structures, orders: Sequence[np.ndarray]) -> InternalCoordinates:
    """Bond lengths, bond angles and torsions of every molecule, vectorised over all of them.

    Args:
        structures: the molecules.
        orders: (n, n) bond orders of each; a molecule without bonds contributes nothing.

    Raises:
        InputError: as `bond_list`.
    """
    bonds = bond_list(orders, structures.ptr)
    ends = np.sort(structures.numbers[bonds[:, :2]], axis=1)
    lengths = np.linalg.norm(structures.pos[bonds[:, 0]] - structures.pos[bonds[:, 1]], axis=1)
    length = Coordinates(bonds[:, :2], np.concatenate([ends, bonds[:, 2:]], axis=1), lengths)
    return InternalCoordinates(length, _angles(structures, bonds), _torsions(structures, bonds))


def mean_change(before: InternalCoordinates, after: InternalCoordinates) -> dict[str, float]:
    """Mean absolute change of lengths (Å), angles and torsions (degrees) between two geometries of the same bonds.

    NaN for a kind that the molecules have none of. Torsions are those of at most 180°, as in `InternalCoordinates`.

    Raises:
        InputError: the two sets have other bonds.
    """
    found = {}
    for kind, unit in KINDS.items():
        a, b = getattr(before, kind), getattr(after, kind)
        if not np.array_equal(a.atoms, b.atoms):
            raise InputError("geometries of other bonds cannot be compared", where=kind)
        change = np.abs(a.values - b.values)
        change = change[np.isfinite(change)]
        found[f"{kind}_mean_change_{unit}"] = float(change.mean()) if len(change) else float("nan")
    return found


def _neighbours(bonds: np.ndarray, num_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Both directions of every bond, by centre: first row of each centre, and the neighbours."""
    centre = np.concatenate([bonds[:, 0], bonds[:, 1]])
    other = np.concatenate([bonds[:, 1], bonds[:, 0]])
    order = np.lexsort((other, centre))
    return np.searchsorted(centre[order], np.arange(num_atoms + 1)), other[order]


def _expand(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `counts` repeated that many times: which it is, and 0, 1, 2, …"""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _angles(structures: Structures, bonds: np.ndarray) -> Coordinates:
    first, other = _neighbours(bonds, len(structures.numbers))
    centre = np.repeat(np.arange(len(structures.numbers)), np.diff(first))
    edge, ahead = _expand(first[centre + 1] - np.arange(len(other)) - 1)  # each edge with the later ones of its centre
    a, c, b = other[edge], centre[edge], other[edge + 1 + ahead]
    za, zc, zb = structures.numbers[a], structures.numbers[c], structures.numbers[b]
    keys = np.stack([np.minimum(za, zb), zc, np.maximum(za, zb)], axis=1)
    u, v = structures.pos[a] - structures.pos[c], structures.pos[b] - structures.pos[c]
    return Coordinates(np.stack([a, c, b], axis=1), keys, _angle_between(u, v))


def _torsions(structures: Structures, bonds: np.ndarray) -> Coordinates:
    first, other = _neighbours(bonds, len(structures.numbers))
    degree = np.diff(first)
    j, k = bonds[:, 0], bonds[:, 1]
    bond, nth = _expand(degree[j] * degree[k])
    one, two = np.divmod(nth, degree[k][bond])
    atoms = np.stack([other[first[j[bond]] + one], j[bond], k[bond], other[first[k[bond]] + two]], axis=1)
    # the bond itself is among the neighbours of both ends, and in a three-membered ring the ends meet
    keep = (atoms[:, 0] != atoms[:, 2]) & (atoms[:, 3] != atoms[:, 1]) & (atoms[:, 0] != atoms[:, 3])
    atoms, bond = atoms[keep], bond[keep]
    chain = structures.numbers[atoms]
    backwards = (chain[:, 0] * 1000 + chain[:, 1] > chain[:, 3] * 1000 + chain[:, 2])[:, None]
    keys = np.concatenate([np.where(backwards, chain[:, ::-1], chain), bonds[bond, 2:]], axis=1)
    return Coordinates(atoms, keys, _torsion(structures.pos[atoms]))


def _angle_between(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Degrees, by the arctangent: exact also near 0° and 180°; NaN for a zero vector."""
    sine, cosine = np.linalg.norm(np.cross(u, v), axis=1), (u * v).sum(axis=1)
    found = np.degrees(np.arctan2(sine, cosine))
    return np.asarray(np.where((sine == 0) & (cosine == 0), np.nan, found))


def _torsion(corners: Float[np.ndarray, "M 4 3"]) -> Float[np.ndarray, " M"]:
    """Absolute torsion angle, degrees; NaN where three of the atoms are in line."""
    a, b, c = (corners[:, n + 1] - corners[:, n] for n in range(3))
    bend = np.stack([_angle_between(a, b), _angle_between(b, c)])
    inline = ~((bend > LINEAR_WITHIN_DEG) & (bend < 180 - LINEAR_WITHIN_DEG)).all(axis=0)
    found = _angle_between(np.cross(a, b), np.cross(b, c))
    return np.asarray(np.where(inline, np.nan, found))
