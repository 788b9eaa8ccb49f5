"""The data sets in data/: what they claim about themselves is true of the arrays on disk.

The files are read with numpy alone first, so that a fault of the reader cannot hide a fault of the data. Labels are
computed again from the stored positions: EMT through ASE, GFN2-xTB through tblite where that is installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.emt import EMT

DATA = Path(__file__).resolve().parents[1] / "data"
ETHANOL, COPPER = "ethanol-gfn2", "copper-emt"
SIZES = {ETHANOL: {"train": 1000, "valid": 200, "test": 1300}, COPPER: {"train": 300, "valid": 40, "test": 80}}
ETHANOL_MINIMUM = -310.055768  # eV, the relaxed gauche conformer (README)

Arrays = dict[str, np.ndarray]
names = pytest.mark.parametrize("name", [ETHANOL, COPPER])
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the bundled data sets are not part of this distribution")


def read(name: str) -> Arrays:
    with np.load(DATA / name / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def ethanol() -> Arrays:
    return read(ETHANOL)


@pytest.fixture(scope="module")
def copper() -> Arrays:
    return read(COPPER)


def atoms_of(arrays: Arrays, row: int) -> Atoms:
    end = int(arrays["n_atoms"][: row + 1].sum())
    rows = slice(end - int(arrays["n_atoms"][row]), end)
    cell = arrays["cells"][row] if "cells" in arrays else None
    return Atoms(arrays["numbers"][rows], arrays["positions"][rows].astype(float), cell=cell, pbc=cell is not None)


def forces_of(arrays: Arrays, row: int) -> np.ndarray:
    return np.split(arrays["forces"], np.cumsum(arrays["n_atoms"])[:-1])[row]


def rows_of_each_kind(copper: Arrays) -> list[int]:
    return [int(np.flatnonzero(copper["config_type"] == kind)[7]) for kind in np.unique(copper["config_type"])]


@names
def test_checksums_and_sizes_are_as_published(name: str) -> None:
    digest, file = (DATA / name / "SHA256SUMS").read_text(encoding="utf-8").split()
    content = (DATA / name / file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == digest
    assert len(content) <= 3_000_000


@names
def test_arrays_have_matching_lengths_and_no_gaps(name: str) -> None:
    arrays = read(name)
    structures, atoms = sum(SIZES[name].values()), int(arrays["n_atoms"].sum())
    assert len(arrays["n_atoms"]) == len(arrays["energies"]) == structures
    assert arrays["numbers"].shape == (atoms,)
    assert arrays["positions"].shape == arrays["forces"].shape == (atoms, 3)
    for key, value in arrays.items():
        assert value.dtype.kind != "O", key
        assert value.dtype.kind in "Sb" or np.isfinite(value).all(), key


@names
def test_splits_are_disjoint_and_complete(name: str) -> None:
    arrays = read(name)
    rows = {split: arrays[split] for split in ("train", "valid", "test")}
    assert {split: len(row) for split, row in rows.items()} == SIZES[name]
    everything = np.sort(np.concatenate(list(rows.values())))
    np.testing.assert_array_equal(everything, np.arange(len(arrays["energies"])))


@names
def test_no_structure_occurs_twice(name: str) -> None:
    arrays = read(name)
    bounds = np.cumsum(arrays["n_atoms"])[:-1]
    cells = arrays.get("cells", np.zeros((len(arrays["energies"]), 3, 3)))
    frames = np.split(arrays["positions"], bounds)
    keys = {frame.tobytes() + cell.tobytes() for frame, cell in zip(frames, cells, strict=True)}
    assert len(keys) == len(frames)


def test_no_copper_crystal_occurs_in_two_cells_of_different_size(copper: Arrays) -> None:
    """The same crystal in 1 and in 4 atoms would be one structure in two splits; its energy per atom gives it away."""
    per_atom = np.sort(copper["energies"] / copper["n_atoms"])
    assert np.diff(per_atom).min() > 1e-9


@names
def test_net_force_is_zero(name: str) -> None:
    arrays = read(name)
    starts = np.concatenate([[0], np.cumsum(arrays["n_atoms"])[:-1]])
    assert np.abs(np.add.reduceat(arrays["forces"].astype(float), starts)).max() < 2e-5


def test_test_frames_of_ethanol_come_from_trajectories_never_trained_on(ethanol: Arrays) -> None:
    of = {split: set(ethanol["trajectory"][ethanol[split]].tolist()) for split in ("train", "valid", "test")}
    assert [len(of[split]) for split in ("train", "valid", "test")] == [10, 2, 13]
    assert len(set.union(*of.values())) == 25


def test_successive_ethanol_frames_are_decorrelated(ethanol: Arrays) -> None:
    energies = ethanol["energies"].reshape(25, 100)
    away = energies - energies.mean()
    for lag, largest in ((1, 0.3), (2, 0.15)):  # 100 fs and 200 fs
        assert abs((away[:, lag:] * away[:, :-lag]).mean() / away.var()) < largest


def test_ethanol_stays_one_molecule(ethanol: Arrays) -> None:
    frames = ethanol["positions"].reshape(-1, 9, 3).astype(float)
    np.testing.assert_array_equal(ethanol["numbers"].reshape(-1, 9), np.tile([6, 6, 8, 1, 1, 1, 1, 1, 1], (2500, 1)))
    distances = np.linalg.norm(frames[:, :, None] - frames[:, None], axis=-1)
    bonded = np.argwhere(np.triu(np.median(distances, axis=0) < 1.7, 1))
    assert len(bonded) == 8
    lengths = distances[:, bonded[:, 0], bonded[:, 1]]
    assert lengths.min() > 0.8
    assert lengths.max() < 2.0


def test_ethanol_energies_are_those_of_a_molecule_at_500_kelvin(ethanol: Arrays) -> None:
    """A stiff molecule has 21 vibrations of kT/2 potential energy each, variance (kT)²/2."""
    kT = units.kB * 500.0
    above = ethanol["energies"] - ETHANOL_MINIMUM
    assert above.min() > 0.0
    assert above.mean() == pytest.approx(10.5 * kT, rel=0.12)
    assert above.std() == pytest.approx(np.sqrt(10.5) * kT, rel=0.15)


def test_ethanol_forces_obey_the_virial_theorem_at_500_kelvin(ethanol: Arrays) -> None:
    """−⟨Σ F·(r − R)⟩ = 3(N − 1) kT for a bound molecule: ties the unit of force × Å to the temperature."""
    positions = ethanol["positions"].reshape(-1, 9, 3).astype(float)
    forces = ethanol["forces"].reshape(-1, 9, 3).astype(float)
    virial = -(forces * (positions - positions.mean(axis=1, keepdims=True))).sum(axis=(1, 2))
    expected = 24.0 * units.kB * 500.0
    standard_error = virial.std() / np.sqrt(len(virial))
    assert standard_error < 0.2 * expected  # else the test could not tell one unit from another
    assert abs(virial.mean() - expected) < 4.0 * standard_error


def test_ethanol_labels_are_those_of_tblite(ethanol: Arrays) -> None:
    tblite = pytest.importorskip("tblite.ase", reason="tblite is not installed: GFN2-xTB labels cannot be recomputed")
    for row in (int(ethanol["train"][3]), int(ethanol["test"][-1])):
        atoms = atoms_of(ethanol, row)
        atoms.calc = tblite.TBLite(method="GFN2-xTB", accuracy=0.01, verbosity=0)
        assert atoms.get_potential_energy() == pytest.approx(ethanol["energies"][row], abs=1e-6)
        np.testing.assert_allclose(forces_of(ethanol, row), atoms.get_forces(), atol=1e-5)
        atoms.positions[0, 0] += 1e-3  # control: a thousandth of an ångström is seen
        assert abs(atoms.get_potential_energy() - ethanol["energies"][row]) > 1e-6


def test_copper_splits_share_every_kind_of_cell(copper: Arrays) -> None:
    kinds, counts = np.unique(copper["config_type"], return_counts=True)
    for split, share in (("train", 15), ("valid", 2), ("test", 4)):
        of_split = copper["config_type"][copper[split]]
        assert [int((of_split == kind).sum()) for kind in kinds] == (counts * share // 21).tolist()


def test_copper_comes_in_several_sizes_all_periodic(copper: Arrays) -> None:
    assert set(np.unique(copper["n_atoms"]).tolist()) == {1, 4, 8, 20, 30, 31, 32, 36, 107, 108}
    assert copper["pbc"].all()
    assert set(copper["numbers"].tolist()) == {29}
    assert np.linalg.det(copper["cells"]).min() > 8.0


def test_copper_labels_are_those_of_emt(copper: Arrays) -> None:
    for row in rows_of_each_kind(copper):
        atoms = atoms_of(copper, row)
        atoms.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(copper["energies"][row], abs=1e-6)
        np.testing.assert_allclose(forces_of(copper, row), atoms.get_forces(), atol=1e-6)
        np.testing.assert_allclose(copper["stress"][row], atoms.get_stress(voigt=False), atol=1e-8)


def test_copper_stress_is_the_strain_derivative_of_the_energy(copper: Arrays) -> None:
    """Positive under tension: stress = (dE/dε)/V. The opposite sign misses by far."""
    row = int(np.flatnonzero(copper["config_type"] == b"4-rattled")[0])
    atoms, measured = atoms_of(copper, row), np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        energies = []
        for size in (1e-4, -1e-4):
            strain = np.zeros((3, 3))
            strain[i, j] += size / 2
            strain[j, i] += size / 2
            deformed = atoms.copy()
            deformed.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            deformed.calc = EMT()
            energies.append(deformed.get_potential_energy())
        measured[i, j] = (energies[0] - energies[1]) / 2e-4 / atoms.get_volume()
    stress = copper["stress"][row]
    np.testing.assert_allclose(stress, measured, atol=1e-6)
    np.testing.assert_allclose(stress, stress.T, atol=1e-12)
    assert np.abs(stress + measured).max() > 1e-3


def test_copper_expanded_crystals_are_under_tension_and_compressed_ones_push_back(copper: Arrays) -> None:
    rows = np.flatnonzero(copper["config_type"] == b"1-isotropic")
    length = np.cbrt(np.linalg.det(copper["cells"][rows]) * 4.0)
    mean_stress = np.trace(copper["stress"][rows], axis1=1, axis2=2) / 3.0
    assert (mean_stress[length > 3.60] > 0.0).all()
    assert (mean_stress[length < 3.58] < 0.0).all()


def test_copper_energies_are_extensive(copper: Arrays) -> None:
    row = int(np.flatnonzero(copper["config_type"] == b"8-rattled")[0])
    atoms = atoms_of(copper, row).repeat((2, 1, 1))
    atoms.calc = EMT()
    assert atoms.get_potential_energy() == pytest.approx(2.0 * copper["energies"][row], abs=1e-9)


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The committed script as a module; what importing it sets in the process is undone with the test."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spec = importlib.util.spec_from_file_location("make_" + name.replace("-", "_"), DATA / name / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_copper_script_makes_what_is_stored(copper: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks without dynamics: these do not amplify rounding, so that another machine makes them too."""
    make = script(COPPER, monkeypatch)
    for index in (1, 4):
        block, rows = make.block(index, make.Settings()), slice(21 * index, 21 * index + 21)
        np.testing.assert_allclose(block["cells"], copper["cells"][rows], rtol=0, atol=1e-12)
        np.testing.assert_allclose(block["energies"], copper["energies"][rows], rtol=0, atol=1e-5)
    for split, rows in make.splits(make.Settings()).items():
        np.testing.assert_array_equal(rows, copper[split])


def test_the_ethanol_script_makes_what_is_stored(ethanol: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tblite.ase", reason="tblite is not installed: ethanol cannot be made again")
    make = script(ETHANOL, monkeypatch)
    start = make.start_geometry(60.0, make.Settings())
    assert start.get_potential_energy() == pytest.approx(ETHANOL_MINIMUM, abs=1e-5)
    for split, rows in make.splits(make.Settings()).items():
        np.testing.assert_array_equal(rows, ethanol[split])


@names
def test_geomol_reads_the_sets_by_name(name: str) -> None:
    data = pytest.importorskip("geomol.data")
    arrays, structures = read(name), data.load_structures(name)
    assert len(structures) == len(arrays["energies"])
    np.testing.assert_array_equal(structures.energy, arrays["energies"])
    np.testing.assert_array_equal(structures.forces, arrays["forces"].astype(float))
    np.testing.assert_array_equal(structures.pos, arrays["positions"].astype(float))
    for split, size in SIZES[name].items():
        assert len(structures.split(split)) == size
    if name == COPPER:
        np.testing.assert_array_equal(structures.stress, arrays["stress"])
        np.testing.assert_array_equal(structures.cell, arrays["cells"])
