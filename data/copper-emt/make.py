"""Makes `copper-emt.npz`: periodic copper cells with EMT energies, forces and stress.

    python data/copper-emt/make.py            # make the file; interrupted runs go on where they stopped
    python data/copper-emt/make.py --check    # recompute labels; compare forces and stress with energy differences

The cells come in blocks of 21 of one kind (see `BLOCKS`), of which 15 train, 2 validate and 4 test, so that every size
and kind of disorder has the same share in each split. Every cell that needs dynamics is the last frame of a trajectory
of its own: no two cells are correlated. Positions are wrapped and rounded to float32 first and labelled afterwards.
A block is the unit of restart.

Potential: effective medium theory, Jacobsen, Stoltze, Nørskov, Surf. Sci. 366, 394 (1996), as implemented in ASE.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # one thread keeps the order of sums fixed

import ase
import numpy as np
from ase import Atoms, units
from ase.build import bulk, fcc100, fcc110, fcc111
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin

HERE = Path(__file__).resolve().parent
FILE = HERE / "copper-emt.npz"
Arrays = dict[str, np.ndarray]
PER_BLOCK, TRAIN, VALID = 21, 15, 2
BLOCKS = (
    "1-isotropic", "1-strained", "4-isotropic", "4-shear", *["4-rattled"] * 2, *["8-rattled"] * 2,
    *["32-md"] * 4, *["31-vacancy"] * 2, *["108-md"] * 3, "107-vacancy", *["slab"] * 2,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What the data set depends on, besides the version of ASE."""

    lattice_angstrom: float = 3.59  # the minimum of EMT, to 0.01 Å
    isotropic: float = 0.06  # largest change of length
    shear: float = 0.06  # largest off-diagonal strain
    random: float = 0.04  # largest entry of a random symmetric strain, small cells
    md_length: tuple[float, float] = (-0.03, 0.04)  # change of length in dynamics
    md_random: float = 0.015  # largest entry of the random symmetric strain in dynamics
    rattle_angstrom: tuple[float, float] = (0.02, 0.15)  # standard deviation of the displacements
    temperatures_kelvin: tuple[float, ...] = (300.0, 600.0, 900.0, 1200.0)
    timestep_fs: float = 5.0
    friction_per_fs: float = 0.01
    md_steps: int = 300
    vacuum_angstrom: float = 5.0  # on each side of a slab
    seed: int = 20241

    def fingerprint(self) -> str:
        """Name of the partial results, so that those of another script, setting or version are never mixed in."""
        versions = f"{ase.__version__} {np.__version__} {self}"
        return hashlib.sha256(Path(__file__).read_bytes() + versions.encode()).hexdigest()[:12]


def strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    """The crystal with every vector x turned into (1 + strain) x; cell vectors are rows."""
    deformed = atoms.copy()
    deformed.set_cell(atoms.cell.array @ (np.eye(3) + strain).T, scale_atoms=True)
    return deformed


def symmetric(largest: float, rng: np.random.Generator, *, shear_only: bool = False) -> np.ndarray:
    """A symmetric 3x3 strain with entries uniform in ±largest; `shear_only` leaves the diagonal zero."""
    upper = np.triu(rng.uniform(-largest, largest, (3, 3)), 1 if shear_only else 0)
    return upper + np.triu(upper, 1).T


def small_cell(kind: str, member: int, settings: Settings, rng: np.random.Generator) -> Atoms:
    """Cells of 1, 4 or 8 atoms: strained, and rattled where there is something to rattle."""
    size, change = kind.split("-")
    atoms = bulk("Cu", "fcc", a=settings.lattice_angstrom, cubic=size == "4")
    if size == "8":
        atoms = atoms.repeat(2)
    if change == "isotropic":
        # the 4-atom cells fall between the 1-atom cells: else the same crystal could be in train and in test
        step = member / (PER_BLOCK - 1) if size == "1" else (member + rng.uniform(0.1, 0.4)) / PER_BLOCK
        return strained(atoms, settings.isotropic * (2.0 * step - 1.0) * np.eye(3))
    if change == "shear":
        return strained(atoms, symmetric(settings.shear, rng, shear_only=True))
    atoms = strained(atoms, symmetric(settings.random, rng))
    if change == "rattled":
        atoms.positions += rng.uniform(*settings.rattle_angstrom) * rng.standard_normal((len(atoms), 3))
    return atoms


def large_cell(kind: str, member: int, settings: Settings, rng: np.random.Generator) -> Atoms:
    """The perfect start of a trajectory: 32 or 108 atoms, one fewer with a vacancy, or a slab of 20 to 36 atoms."""
    lattice = settings.lattice_angstrom
    length = rng.uniform(*settings.md_length)
    if kind == "slab":
        make_slab, size = ((fcc100, (2, 2, 5)), (fcc110, (2, 3, 5)), (fcc111, (3, 3, 4)))[member % 3]
        atoms = make_slab("Cu", size, a=lattice, vacuum=settings.vacuum_angstrom, periodic=True)
        in_plane = np.diag([1.0, 1.0, 0.0])  # the vacuum stays
        return strained(atoms, in_plane @ (length * np.eye(3) + symmetric(settings.md_random, rng)) @ in_plane)
    atoms = bulk("Cu", "fcc", a=lattice, cubic=True).repeat(2 if kind in ("32-md", "31-vacancy") else 3)
    atoms = strained(atoms, length * np.eye(3) + symmetric(settings.md_random, rng))
    if kind.endswith("vacancy"):
        del atoms[int(rng.integers(len(atoms)))]
    return atoms


def heat(atoms: Atoms, temperature_K: float, settings: Settings, rng: np.random.Generator) -> None:
    """Langevin dynamics at constant cell, in place."""
    atoms.calc = EMT()
    kT = units.kB * temperature_K
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses()[:, None] * kT))
    friction = settings.friction_per_fs / units.fs
    step = settings.timestep_fs * units.fs
    dynamics = Langevin(atoms, step, temperature_K=temperature_K, friction=friction, fixcm=False, rng=rng)
    dynamics.run(settings.md_steps)


def rounded(atoms: Atoms) -> Atoms:
    """The structure as stored: wrapped into the cell, positions in float32, nothing else kept."""
    positions = atoms.get_positions(wrap=True).astype(np.float32)
    return Atoms(atoms.numbers, positions.astype(np.float64), cell=atoms.cell.array, pbc=True)


def label(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy in eV, forces (N, 3) in eV/Å and stress (3, 3) in eV/Å³, positive under tension. Always a new EMT."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    return float(atoms.get_potential_energy()), atoms.get_forces(), atoms.get_stress(voigt=False)


def block(index: int, settings: Settings) -> Arrays:
    """The 21 labelled cells of one block, in the flat layout of the file."""
    kind, cells, temperature = BLOCKS[index], [], np.zeros(PER_BLOCK)
    for member in range(PER_BLOCK):
        rng = np.random.default_rng([settings.seed, index, member])
        if kind[:2] in ("1-", "4-", "8-"):
            atoms = small_cell(kind, member, settings, rng)
        else:
            atoms = large_cell(kind, member, settings, rng)
            temperature[member] = settings.temperatures_kelvin[member % len(settings.temperatures_kelvin)]
            heat(atoms, temperature[member], settings, rng)
        cells.append(rounded(atoms))
    labels = [label(atoms) for atoms in cells]
    return {
        "n_atoms": np.array([len(atoms) for atoms in cells], dtype=np.int32),
        "numbers": np.concatenate([atoms.numbers for atoms in cells]).astype(np.uint8),
        "positions": np.concatenate([atoms.positions for atoms in cells]).astype(np.float32),
        "energies": np.array([energy for energy, _, _ in labels]),
        "forces": np.concatenate([forces for _, forces, _ in labels]).astype(np.float32),
        "cells": np.stack([atoms.cell.array for atoms in cells]),
        "pbc": np.ones((PER_BLOCK, 3), dtype=bool),
        "stress": np.stack([stress for _, _, stress in labels]),
        "config_type": np.full(PER_BLOCK, kind.encode(), dtype="S11"),
        "temperature_K": temperature,
    }


def splits(settings: Settings) -> Arrays:
    """Rows of the splits: in every block a random 15 train, 2 validate, 4 test."""
    parts: dict[str, list[np.ndarray]] = {"train": [], "valid": [], "test": []}
    for index in range(len(BLOCKS)):
        order = np.random.default_rng([settings.seed, index]).permutation(PER_BLOCK) + PER_BLOCK * index
        for name, rows in zip(parts, np.split(order, [TRAIN, TRAIN + VALID]), strict=True):
            parts[name].append(np.sort(rows))
    return {name: np.concatenate(rows).astype(np.int32) for name, rows in parts.items()}


def write(path: Path, arrays: Arrays) -> None:
    """Writes beside the target and renames, so that an interrupted write leaves no half file under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    partial.replace(path)


def make(settings: Settings) -> None:
    """Makes or continues; each finished block is kept under data/cache until the file is complete."""
    cache = HERE.parent / "cache" / f"{FILE.stem}-{settings.fingerprint()}"
    parts, began = [], time.monotonic()
    for index, kind in enumerate(BLOCKS):
        path = cache / f"block-{index:02d}.npz"
        if not path.exists():
            write(path, block(index, settings))
        with np.load(path) as stored:
            parts.append(dict(stored))
        print(f"block {index + 1}/{len(BLOCKS)}  {kind:<12} {time.monotonic() - began:.0f} s", flush=True)
    write(FILE, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} | splits(settings))
    digest = hashlib.sha256(FILE.read_bytes()).hexdigest()
    (HERE / "SHA256SUMS").write_text(f"{digest}  {FILE.name}\n", encoding="utf-8")
    for path in cache.iterdir():
        path.unlink()
    cache.rmdir()
    print(f"wrote {FILE.name}")


def check() -> None:
    """Recomputes every eighth cell; forces and stress against central differences on one cell of each kind."""
    with np.load(FILE) as data:
        arrays = dict(data)
    ends = np.cumsum(arrays["n_atoms"])
    atoms = [
        Atoms(arrays["numbers"][end - n : end], arrays["positions"][end - n : end], cell=cell, pbc=True)
        for n, end, cell in zip(arrays["n_atoms"], ends, arrays["cells"], strict=True)
    ]
    per_atom, forces, kinds = arrays["energies"] / arrays["n_atoms"], arrays["forces"], arrays["config_type"]
    print(f"{len(atoms)} cells, {len(forces)} atoms, {FILE.stat().st_size / 1e6:.2f} MB")
    print(f"energy per atom {per_atom.min():.4f} to {per_atom.max():.4f}, std {per_atom.std():.4f} eV")
    print(f"force RMS {np.sqrt((forces.astype(float) ** 2).mean()):.4f} max {np.abs(forces).max():.3f} eV/Å")
    print(f"stress RMS {np.sqrt((arrays['stress'] ** 2).mean()):.5f} max {np.abs(arrays['stress']).max():.4f} eV/Å³")
    closest = np.array([shortest_distance(cell) for cell in atoms])
    for kind in dict.fromkeys(kinds):
        rows = np.flatnonzero(kinds == kind)
        of_kind = np.concatenate([forces[ends[r] - arrays["n_atoms"][r] : ends[r]] for r in rows]).astype(float)
        print(
            f"  {kind.decode():<12} {len(rows):3d} cells  energy/atom {per_atom[rows].mean():.4f} ± "
            f"{per_atom[rows].std():.4f}  force RMS {np.sqrt((of_kind**2).mean()):.3f}  "
            f"stress RMS {np.sqrt((arrays['stress'][rows] ** 2).mean()):.4f}  closest pair {closest[rows].min():.3f} Å"
        )
    rows = range(0, len(atoms), 8)
    again = {row: label(atoms[row]) for row in rows}
    print(f"relabelled: energies within {max(abs(again[r][0] - arrays['energies'][r]) for r in rows):.1e} eV,", end=" ")
    print(f"stress within {max(np.abs(again[r][2] - arrays['stress'][r]).max() for r in rows):.1e} eV/Å³")
    chosen = [int(np.flatnonzero(kinds == kind)[3]) for kind in dict.fromkeys(kinds)]
    print(f"forces against central differences: within {max(force_error(atoms[r]) for r in chosen):.1e} eV/Å")
    print(f"stress against finite strain: within {max(stress_error(atoms[r]) for r in chosen):.1e} eV/Å³")
    rows = np.flatnonzero(kinds == b"4-rattled")[:3]
    repeated = max(abs(label(atoms[r].repeat(2))[0] - 8.0 * arrays["energies"][r]) for r in rows)
    print(f"energy of 2x2x2 repetitions against 8 times the energy: within {repeated:.1e} eV")


def shortest_distance(atoms: Atoms) -> float:
    """Shortest distance in Å between two atoms, images included: small cells are repeated to have neighbours."""
    atoms = atoms.repeat(2) if len(atoms) < 30 else atoms
    distances = atoms.get_all_distances(mic=True)
    return float(distances[np.triu_indices(len(atoms), 1)].min())


def force_error(atoms: Atoms) -> float:
    """max |F + dE/dx| over the first two atoms; central differences with a step of 1e-3 Å."""
    forces, worst = label(atoms)[1], 0.0
    for atom, axis in np.ndindex(min(2, len(atoms)), 3):
        energies = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * 1e-3
            energies.append(label(moved)[0])
        worst = max(worst, abs(forces[atom, axis] + (energies[0] - energies[1]) / 2e-3))
    return worst


def stress_error(atoms: Atoms) -> float:
    """max |stress − (dE/dε)/V| over the six symmetric strains; central differences with a strain of 1e-4."""
    stress, worst = label(atoms)[2], 0.0
    for i, j in zip(*np.triu_indices(3), strict=True):
        strain = np.zeros((3, 3))
        strain[i, j] += 0.5e-4
        strain[j, i] += 0.5e-4
        energies = [label(strained(atoms, sign * strain))[0] for sign in (1.0, -1.0)]
        worst = max(worst, abs(stress[i, j] - (energies[0] - energies[1]) / 2e-4 / atoms.get_volume()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="check the file instead of making it")
    if not parser.parse_args().check:
        make(Settings())
    check()


if __name__ == "__main__":
    main()
