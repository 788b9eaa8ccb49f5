"""Makes `ethanol-gfn2.npz`: ethanol at 500 K with GFN2-xTB energies and forces.

    python data/ethanol-gfn2/make.py            # make the file; interrupted runs go on where they stopped
    python data/ethanol-gfn2/make.py --check    # recompute labels of the file, compare forces with energy differences

Several independent Langevin trajectories are sampled. The positions of a frame are centred and rounded to float32
first; energy and forces are then computed from scratch for the rounded positions, with a tight SCF, so that a label
depends on the stored geometry alone and not on the trajectory that led to it. A trajectory is the unit of restart and
of the train / valid / test split.

Level of theory: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019), as implemented in tblite.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # tblite reads it when loaded; one thread keeps the order of sums fixed

import ase
import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.optimize import BFGS
from tblite.ase import TBLite

HERE = Path(__file__).resolve().parent
FILE = HERE / "ethanol-gfn2.npz"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """What the data set depends on, besides the versions of ASE and tblite."""

    method: str = "GFN2-xTB"
    temperature_kelvin: float = 500.0
    timestep_fs: float = 0.5
    friction_per_fs: float = 0.01
    equilibration_steps: int = 2000
    interval_steps: int = 200
    frames: int = 100
    trajectories: int = 25
    seed: int = 20240
    md_accuracy: float = 0.1
    label_accuracy: float = 0.01
    start_dihedrals_deg: tuple[float, ...] = (180.0, 60.0, 300.0)  # C-C-O-H: trans, gauche, its mirror image

    def fingerprint(self) -> str:
        """Name of the partial results, so that those of another script, setting or version are never mixed in."""
        versions = f"{ase.__version__} {version('tblite')} {np.__version__} {self}"
        return hashlib.sha256(Path(__file__).read_bytes() + versions.encode()).hexdigest()[:12]


def start_geometry(dihedral_deg: float, settings: Settings) -> Atoms:
    """Ethanol relaxed to 1e-3 eV/Å from the conformer with this C-C-O-H angle (trans 180°, gauche 60° and 300°)."""
    atoms = molecule("CH3CH2OH")
    distance = atoms.get_all_distances()
    oxygen = int(np.flatnonzero(atoms.numbers == 8)[0])
    carbons = np.flatnonzero(atoms.numbers == 6)
    methylene, methyl = (int(i) for i in carbons[np.argsort(distance[oxygen, carbons])])
    hydrogens = np.flatnonzero(atoms.numbers == 1)
    hydroxyl = int(hydrogens[np.argmin(distance[oxygen, hydrogens])])
    atoms.set_dihedral(methyl, methylene, oxygen, hydroxyl, dihedral_deg, indices=[hydroxyl])
    atoms.calc = TBLite(method=settings.method, accuracy=settings.md_accuracy, verbosity=0)
    BFGS(atoms, logfile=None).run(fmax=1e-3, steps=500)
    return atoms


def trajectory(index: int, settings: Settings) -> Arrays:
    """Frames of one trajectory with their labels: positions (F, 9, 3), energies (F,), forces (F, 9, 3), kelvin (F,)."""
    rng = np.random.default_rng([settings.seed, index])
    dihedrals = settings.start_dihedrals_deg
    atoms = start_geometry(dihedrals[index % len(dihedrals)], settings)
    kT = units.kB * settings.temperature_kelvin
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses()[:, None] * kT))
    dynamics = Langevin(
        atoms,
        settings.timestep_fs * units.fs,
        temperature_K=settings.temperature_kelvin,
        friction=settings.friction_per_fs / units.fs,
        fixcm=False,  # with fixcm=True, ASE 3.29 holds ethanol near 670 K instead of 500 K
        rng=rng,
    )
    dynamics.run(settings.equilibration_steps)
    frames, kelvin = [], []
    for _ in range(settings.frames):
        dynamics.run(settings.interval_steps)
        frames.append((atoms.positions - atoms.get_center_of_mass()).astype(np.float32))
        kelvin.append(atoms.get_temperature())
    labels = [label(frame, settings) for frame in frames]
    return {
        "positions": np.stack(frames),
        "energies": np.array([energy for energy, _ in labels]),
        "forces": np.stack([forces for _, forces in labels]),
        "kelvin": np.array(kelvin),
    }


def label(positions: np.ndarray, settings: Settings, *, accuracy: float | None = None) -> tuple[float, np.ndarray]:
    """Energy in eV and forces (9, 3) in eV/Å. A new calculator each time: no orbitals are taken from another frame."""
    accuracy = settings.label_accuracy if accuracy is None else accuracy
    atoms = Atoms(molecule("CH3CH2OH").numbers, positions.astype(np.float64))
    atoms.calc = TBLite(method=settings.method, accuracy=accuracy, verbosity=0)
    return float(atoms.get_potential_energy()), atoms.get_forces()


def splits(settings: Settings) -> Arrays:
    """Whole trajectories: the first 10 for training, the next 2 for validation, the rest for testing."""
    rows = np.arange(settings.trajectories * settings.frames, dtype=np.int32)
    first, second = 10 * settings.frames, 12 * settings.frames
    return {"train": rows[:first], "valid": rows[first:second], "test": rows[second:]}


def assemble(parts: list[Arrays], settings: Settings) -> Arrays:
    """The flat layout of the file: atoms of all frames one after another."""
    numbers = molecule("CH3CH2OH").numbers
    total = settings.trajectories * settings.frames
    return {
        "n_atoms": np.full(total, len(numbers), dtype=np.int32),
        "numbers": np.tile(numbers, total).astype(np.uint8),
        "positions": np.concatenate([part["positions"] for part in parts]).reshape(-1, 3),
        "energies": np.concatenate([part["energies"] for part in parts]),
        "forces": np.concatenate([part["forces"] for part in parts]).reshape(-1, 3).astype(np.float32),
        "trajectory": np.repeat(np.arange(settings.trajectories), settings.frames).astype(np.uint8),
        **splits(settings),
    }


def write(path: Path, arrays: Arrays) -> None:
    """Writes beside the target and renames, so that an interrupted write leaves no half file under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    partial.replace(path)


def make(settings: Settings) -> None:
    """Makes or continues; each finished trajectory is kept under data/cache until the file is complete."""
    cache = HERE.parent / "cache" / f"{FILE.stem}-{settings.fingerprint()}"
    parts, began, made = [], time.monotonic(), 0
    for index in range(settings.trajectories):
        path = cache / f"trajectory-{index:02d}.npz"
        if not path.exists():
            write(path, trajectory(index, settings))
            made += 1
        with np.load(path) as stored:
            parts.append(dict(stored))
        left = (time.monotonic() - began) / max(made, 1) * (settings.trajectories - index - 1)
        kelvin = parts[-1]["kelvin"].mean()
        print(f"trajectory {index + 1}/{settings.trajectories}, {kelvin:.0f} K, about {left:.0f} s left", flush=True)
    write(FILE, assemble(parts, settings))
    digest = hashlib.sha256(FILE.read_bytes()).hexdigest()
    (HERE / "SHA256SUMS").write_text(f"{digest}  {FILE.name}\n", encoding="utf-8")
    for path in cache.iterdir():
        path.unlink()
    cache.rmdir()
    print(f"mean temperature {np.mean([part['kelvin'].mean() for part in parts]):.1f} K; wrote {FILE.name}")


def check(settings: Settings) -> None:
    """Recomputes labels of ten frames and compares forces with central differences of the energy on three."""
    with np.load(FILE) as data:
        positions = data["positions"].reshape(-1, 9, 3)
        energies, forces = data["energies"], data["forces"].reshape(-1, 9, 3)
    print(f"{len(energies)} frames, {FILE.stat().st_size / 1e6:.2f} MB")
    print(f"energy mean {energies.mean():.4f} std {energies.std():.4f} range {np.ptp(energies):.4f} eV")
    print(f"force RMS {np.sqrt((forces.astype(float) ** 2).mean()):.4f} max {np.abs(forces).max():.3f} eV/Å")
    print(f"largest net force {np.abs(forces.sum(axis=1)).max():.1e} eV/Å")
    pairs = np.triu_indices(9, 1)
    between = np.linalg.norm(positions[:, pairs[0]] - positions[:, pairs[1]], axis=-1)
    print(f"pair distances from {between.min():.3f} to {between.max():.3f} Å")
    rows = np.linspace(0, len(energies) - 1, 10).astype(int)
    again = {row: label(positions[row], settings) for row in rows}
    print(f"relabelled: energies within {max(abs(again[row][0] - energies[row]) for row in rows):.1e} eV,", end=" ")
    print(f"forces within {max(np.abs(again[row][1] - forces[row]).max() for row in rows):.1e} eV/Å")
    worst = max(difference_error(positions[row], forces[row], settings) for row in rows[:9:4])
    print(f"forces against central differences (1e-4 Å): largest deviation {worst:.1e} eV/Å")


def difference_error(positions: np.ndarray, forces: np.ndarray, settings: Settings) -> float:
    """max |F + dE/dx| over the 27 coordinates; central differences with a step of 1e-4 Å."""
    step, worst = 1e-4, 0.0
    for atom, axis in np.ndindex(forces.shape):
        sides = []
        for sign in (1.0, -1.0):
            moved = positions.astype(np.float64)
            moved[atom, axis] += sign * step
            sides.append(label(moved, settings, accuracy=1e-3)[0])
        worst = max(worst, abs(forces[atom, axis] + (sides[0] - sides[1]) / (2.0 * step)))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="check the file instead of making it")
    settings = Settings()
    if not parser.parse_args().check:
        make(settings)
    check(settings)


if __name__ == "__main__":
    main()
