"""`.traj` and `.db`: labels come along, and a damaged file is one line rather than a traceback."""

from __future__ import annotations

from pathlib import Path

import ase
import ase.db
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import Trajectory

from geomol.data import Structures, load_structures
from geomol.errors import ConfigError, DataError, GeomolWarning, InputError


def frames(count: int = 3) -> list[ase.Atoms]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, rng=rng)
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(rng.normal()), forces=rng.normal(size=(4, 3)), stress=rng.normal(size=6)
        )
        made.append(atoms)
    return made


def write(path: Path, made: list[ase.Atoms], **pairs: float) -> Path:
    if path.suffix == ".traj":
        with Trajectory(str(path), "w") as trajectory:
            for atoms in made:
                trajectory.write(atoms)
        return path
    with ase.db.connect(str(path)) as database:
        for atoms in made:
            database.write(atoms, key_value_pairs=pairs)
    return path


@pytest.mark.parametrize("suffix", [".traj", ".db"])
def test_all_labels_are_read(tmp_path, suffix):
    read = load_structures(write(tmp_path / f"in{suffix}", frames()))
    expected = Structures.from_atoms(frames())
    for key in ("numbers", "pos", "cell", "pbc", "energy", "forces", "stress"):
        np.testing.assert_allclose(getattr(read, key), getattr(expected, key), rtol=1e-14, atol=1e-14, err_msg=key)


def test_key_value_pairs_of_a_database_are_selectable(tmp_path):
    path = write(tmp_path / "in.db", [molecule("H2O")], dft_energy=-7.5)
    with pytest.warns(GeomolWarning, match=r'"energy" is missing; found dft_energy'):
        assert load_structures(path).energy is None
    assert load_structures(path, energy_key="dft_energy").energy.tolist() == [-7.5]
    with pytest.raises(ConfigError, match=r'no energy under the key "dtf_energy"; did you mean "dft_energy"'):
        load_structures(path, energy_key="dtf_energy")


def test_units_are_converted(tmp_path):
    read = load_structures(write(tmp_path / "in.traj", frames()), units="Ry")
    np.testing.assert_allclose(read.energy, 13.605693122994 * Structures.from_atoms(frames()).energy)
    np.testing.assert_allclose(read.stress, 13.605693122994 * Structures.from_atoms(frames()).stress)


def test_row_04_labels_that_are_not_finite(tmp_path):
    made = frames()
    made[1].calc.results["energy"] = float("nan")
    path = write(tmp_path / "in.traj", made)
    with pytest.raises(InputError, match=r"in.traj, frame 1: energy is not finite"):
        load_structures(path)
    with pytest.warns(GeomolWarning, match=r"1 bad of 3 frames left out \(1\)"):
        assert len(load_structures(path, skip_bad=True)) == 2


def test_labels_of_some_frames_only_are_counted_aloud(tmp_path):
    made = frames()
    made[1].calc = None
    for suffix in (".traj", ".db"):
        path = write(tmp_path / f"in{suffix}", made)
        with pytest.warns(
            GeomolWarning, match=r"not all of 3 frames are labelled \(energy in 2, forces in 2, stress in 2"
        ):
            read = load_structures(path)
        assert read.labelled("energy").tolist() == [True, False, True]


def test_row_03_position_that_is_not_finite(tmp_path):
    made = [molecule("H2O") for _ in range(3)]
    made[2].positions[1, 1] = np.inf
    with pytest.raises(InputError, match=r"frame 2, atom 1, axis y: bad position"):
        load_structures(write(tmp_path / "in.traj", made))


@pytest.mark.parametrize("suffix", [".traj", ".db"])
@pytest.mark.parametrize(
    "content", [b"", b"nonsense" * 100, b"- of UlmASE-Trajectory" + b"\xff" * 300, b"SQLite format 3\0" + b"\1" * 500]
)
def test_damaged_files_are_input_errors(tmp_path, suffix, content):
    path = tmp_path / f"in{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not a(n| readable) ASE"):
        load_structures(path)


def test_a_file_that_is_not_there_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"none.traj: no such file"):
        load_structures(tmp_path / "none.traj")
