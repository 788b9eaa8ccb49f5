"""Do the labels look like the unit they are said to have? Three tests that need no model.

After conversion a label is in eV and eV/Å, if the stated unit was right. Otherwise it is off by one of the usual
factors. The tests, each of which speaks only when it is sure:

1. Energy against forces. For a frame and its nearest frame (same atoms, same cell)
   E_j − E_i ≈ −½ (F_i + F_j)·(x_j − x_i). The least-squares slope is 1 if both are in the same units; it is used
   where correlation exceeds 0.8.
2. Energy against free atoms. All-electron total energies are within a few percent of the sum of the energies of free
   atoms (Hartree–Fock limit, H to Ar), so E / ΣE_atom is 1 or the factor. Energies from pseudopotentials give none of
   the ratios, and relaxation and binding change it by less than the 3 % allowed.
3. Size of forces. The root mean square component of thermal forces is 0.5 to 2 eV/Å; in kcal/mol/Å it is 10 to 50.
   Above 12 eV/Å on at least half of 10 or more frames the unit is doubted. Small forces prove nothing.
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float

from geomol.data.structures import Structures
from geomol.data.units import HARTREE, KCAL_PER_MOL
from geomol.errors import GeomolWarning

# Hartree; Hartree–Fock limits of the ground states, rounded (Koga et al., Int. J. Quantum Chem. 71, 491 (1999)).
_FREE_ATOMS = (
    *(0.5, 2.862, 7.433, 14.573, 24.529, 37.689, 54.401, 74.809, 99.409, 128.547),
    *(161.859, 199.615, 241.877, 288.854, 340.719, 397.505, 459.482, 526.818),
)
_FACTORS = {  # value found / value in eV -> what the value probably is
    1 / HARTREE: "Hartree (factor 27.2)",
    1 / KCAL_PER_MOL: "kcal/mol (factor 23.06)",
    HARTREE: "eV multiplied by 27.2 (already in eV when it was converted from Hartree)",
    KCAL_PER_MOL: "eV divided by 23.06 (already in eV when it was converted from kcal/mol)",
    HARTREE / KCAL_PER_MOL: "multiplied by 627.5 (Hartree to kcal/mol, twice or in the wrong direction)",
    KCAL_PER_MOL / HARTREE: "divided by 627.5 (Hartree to kcal/mol, twice or in the wrong direction)",
}
_SAMPLE = 400  # frames
_LARGE_FORCE = 12.0  # eV/Å
_PAIRS, _CORRELATION = 20, 0.8


def warn_unlikely_units(structures: Structures, *, stacklevel: int = 3) -> None:
    """Issue a GeomolWarning that names the likely unit, where one of the tests says so."""
    fault = unlikely_units(structures)
    if fault is not None:
        warnings.warn(f"{structures.name}: {fault}; state units= if they differ", GeomolWarning, stacklevel=stacklevel)


def unlikely_units(structures: Structures) -> str | None:
    """What looks wrong with the units of the labels, or None."""
    energy, forces = structures.labelled("energy"), structures.labelled("forces")
    atom_ratio = _atom_ratio(structures.subset(np.flatnonzero(energy)[:_SAMPLE])) if energy.any() else None
    named = _named_factor(atom_ratio, 0.03) if atom_ratio is not None else None
    if named is not None:
        return f"energies are {atom_ratio:.3g} times those of free atoms in eV, so they look like {named}"
    both = np.flatnonzero(energy & forces)
    slope = energy_force_slope(_one_composition(structures, both)) if len(both) > _PAIRS else None
    named = _named_factor(slope, 0.3) if slope is not None else None
    if named is not None:
        return f"energy differences are {slope:.3g} times the work of the forces, so energies look like {named}"
    typical = _typical_force(structures.subset(np.flatnonzero(forces)[:_SAMPLE]))
    if typical is None or typical < _LARGE_FORCE:
        return None
    return f"the RMS force component is {typical:.3g} eV/Å (usually 0.5 to 2): it looks like kcal/mol/Å (factor 23.06)"


def _typical_force(structures: Structures) -> float | None:
    """Median over structures of the RMS force component; None for fewer than 10."""
    if len(structures) < 10 or structures.forces is None:
        return None
    sums = np.add.reduceat((structures.forces**2).mean(axis=1), structures.ptr[:-1])
    return float(np.sqrt(np.median(sums / structures.n_atoms)))


def _named_factor(ratio: float, tolerance: float) -> str | None:
    for factor, name in _FACTORS.items():
        if ratio > 0 and abs(np.log(ratio / factor)) < tolerance:
            return name
    return None


def _atom_ratio(structures: Structures) -> float | None:
    """Median of E / ΣE_atom; None where an element is beyond Ar or the ratio differs between structures."""
    if structures.energy is None or structures.numbers.max() > len(_FREE_ATOMS):
        return None
    atoms = -HARTREE * np.array(_FREE_ATOMS)[structures.numbers - 1]
    ratios = structures.energy / np.add.reduceat(atoms, structures.ptr[:-1])
    if np.ptp(ratios) > 0.05 * abs(float(np.median(ratios))):
        return None
    return float(np.median(ratios))


def _one_composition(structures: Structures, rows: np.ndarray) -> Structures:
    """Up to `_SAMPLE` structures with the atoms and the cell of the first of them, spread over the set."""
    counts = structures.n_atoms[rows]
    first = rows[int(np.argmax(counts == np.bincount(counts).argmax()))]
    numbers = structures.numbers[structures.ptr[first] : structures.ptr[first + 1]]
    same = [
        row
        for row in rows[counts == len(numbers)]
        if np.array_equal(structures.numbers[structures.ptr[row] : structures.ptr[row] + len(numbers)], numbers)
        and np.allclose(structures.cell[row], structures.cell[first], atol=1e-4)
    ]
    return structures.subset(np.array(same[: 5 * _SAMPLE])).subset(slice(0, _SAMPLE))


def energy_force_slope(structures: Structures) -> float | None:
    """Least-squares slope of energy differences against the work of the forces; None where they do not correlate."""
    count = len(structures)
    if count < _PAIRS or structures.energy is None or structures.forces is None:
        return None
    pos = structures.pos.reshape(count, -1)
    squares = (pos**2).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * pos @ pos.T
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    step = _minimum_image((pos[nearest] - pos).reshape(count, -1, 3), structures).reshape(count, -1)
    forces = structures.forces.reshape(count, -1)
    work = -0.5 * ((forces + forces[nearest]) * step).sum(axis=1)
    difference = structures.energy[nearest] - structures.energy
    if min(np.abs(work).max(), np.abs(difference).max()) < 1e-12:
        return None
    correlation = (work @ difference) / np.sqrt((work @ work) * (difference @ difference))
    return float(work @ difference / (work @ work)) if correlation > _CORRELATION else None


def _minimum_image(step: Float[np.ndarray, "S N 3"], structures: Structures) -> Float[np.ndarray, "S N 3"]:
    cell = structures.cell[0]
    if not structures.pbc[0].all():
        return step
    fractional = step @ np.linalg.inv(cell)
    return np.asarray((fractional - np.round(fractional)) @ cell)
