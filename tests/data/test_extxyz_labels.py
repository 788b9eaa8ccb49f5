"""extxyz in and out: labels are found wherever ASE or others put them, and nothing is lost on the way."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from geomol.data import Structures, load_structures, write_extxyz
from geomol.errors import GeomolWarning, InputError, OutputError

CELL = 'Lattice="4 0 0 0 4 0 0 0 4"'


@pytest.fixture(scope="module")
def copper() -> list[ase.Atoms]:
    frames = []
    for seed in range(4):
        atoms = bulk("Cu", cubic=True) * (1 + seed % 2, 1, 1)
        atoms.rattle(0.1, seed=seed)
        atoms.calc = EMT()
        results = {key: getattr(atoms, f"get_{key}")() for key in ("potential_energy", "forces", "stress")}
        atoms.calc = SinglePointCalculator(
            atoms, energy=results["potential_energy"], forces=results["forces"], stress=results["stress"]
        )
        frames.append(atoms)
    return frames


def one_frame(path: Path, comment: str, row: str = "Cu 0 0 0") -> Path:
    path.write_text(f"1\n{comment}\n{row}\n")
    return path


def test_what_ase_writes_is_read_with_all_labels(copper, tmp_path):
    path = tmp_path / "ase.extxyz"
    ase.io.write(path, copper)
    ours = load_structures(path)
    for i, atoms in enumerate(copper):
        rows = slice(ours.ptr[i], ours.ptr[i + 1])
        assert ours.energy[i] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(ours.forces[rows], atoms.get_forces(), atol=1e-7)
        np.testing.assert_allclose(ours.stress[i], atoms.get_stress(voigt=False), atol=1e-9)
        np.testing.assert_allclose(ours.cell[i], atoms.cell.array, atol=1e-9)
    assert np.abs(ours.forces).max() > 0.1


def test_what_we_write_ase_reads_with_all_labels(copper, tmp_path):
    path = write_extxyz(tmp_path / "ours.extxyz", Structures.from_atoms(copper))
    for mine, theirs in zip(copper, ase.io.read(path, ":"), strict=True):
        assert theirs.get_potential_energy() == mine.get_potential_energy()
        np.testing.assert_allclose(theirs.get_forces(), mine.get_forces(), atol=1e-10)
        np.testing.assert_allclose(theirs.get_stress(), mine.get_stress(), atol=1e-15)
        np.testing.assert_allclose(theirs.positions, mine.positions, atol=1e-10)
        assert theirs.pbc.all()


def test_the_reader_agrees_with_ase_on_free_molecules(tmp_path):
    frames = [molecule(name) for name in ("H2O", "CH3CH2OH", "C6H6")]
    path = tmp_path / "free.xyz"
    ase.io.write(path, frames)
    ours = load_structures(path)
    assert ours.energy is None
    assert not ours.pbc.any()
    np.testing.assert_array_equal(ours.numbers, np.concatenate([atoms.numbers for atoms in frames]))
    np.testing.assert_allclose(ours.pos, np.concatenate([atoms.positions for atoms in frames]), atol=1e-8)


def test_labels_under_other_names_are_announced_and_selectable(tmp_path):
    path = one_frame(
        tmp_path / "ref.xyz", "Properties=species:S:1:pos:R:3:REF_forces:R:3 REF_energy=-3", "H 0 0 0 1 2 3"
    )
    with pytest.warns(GeomolWarning) as caught:
        silent = load_structures(path)
    texts = [str(warning.message) for warning in caught]
    assert any('"energy" is missing; found REF_energy; choose with energy_key="REF_energy"' in text for text in texts)
    assert any('"forces" is missing; found REF_forces' in text for text in texts)
    assert silent.energy is None
    chosen = load_structures(path, energy_key="REF_energy", forces_key="REF_forces")
    assert chosen.energy.tolist() == [-3.0]
    assert chosen.forces.tolist() == [[1.0, 2.0, 3.0]]


def test_a_second_energy_is_announced(tmp_path):
    path = one_frame(tmp_path / "two.xyz", "energy=1 dft_energy=2 free_energy=1")
    with pytest.warns(GeomolWarning, match=r'"energy" is used, not dft_energy'):
        assert load_structures(path).energy.tolist() == [1.0]


def test_stress_is_read_as_matrix_as_voigt_and_from_the_virial(tmp_path):
    matrix = np.array([[1.0, 0.6, 0.5], [0.6, 2.0, 0.4], [0.5, 0.4, 3.0]])
    forms = {
        "stress": "1 0.6 0.5 0.6 2 0.4 0.5 0.4 3",
        "stress ": "1 2 3 0.4 0.5 0.6",  # ASE order xx yy zz yz xz xy
        "virial": " ".join(map(str, (-64 * matrix).reshape(-1))),
    }
    for name, numbers in forms.items():
        path = one_frame(tmp_path / "s.xyz", f'{CELL} {name.strip()}="{numbers}"')
        np.testing.assert_allclose(load_structures(path).stress[0], matrix, atol=1e-14, err_msg=name)


def test_stress_of_a_wrong_form_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"stress has the wrong shape, expected 6 or 9 numbers, got 3"):
        load_structures(one_frame(tmp_path / "s.xyz", f'{CELL} stress="1 2 3"'))
    with pytest.raises(InputError, match="stress is not symmetric"):
        load_structures(one_frame(tmp_path / "s.xyz", f'{CELL} stress="1 1 0 0 1 0 0 0 1"'))
    with pytest.raises(InputError, match="a virial needs a cell with a volume"):
        load_structures(one_frame(tmp_path / "s.xyz", 'virial="1 0 0 0 1 0 0 0 1"'))


def test_frames_without_a_label_are_counted_aloud(tmp_path):
    path = tmp_path / "mixed.xyz"
    path.write_text("1\nenergy=1\nH 0 0 0\n1\n\nH 0 0 0\n")
    with pytest.warns(GeomolWarning, match=r"not all of 2 frames are labelled \(energy in 1\)"):
        structures = load_structures(path)
    assert structures.labelled("energy").tolist() == [True, False]
    assert structures.to_atoms(1).calc is None


@pytest.mark.parametrize(
    "comment",
    [
        'Lattice = "4 0 0 0 4 0 0 0 4"  energy = -1.5 note="a \'quoted\' energy=7" flag',
        'energy=-1.5 Lattice=[[4,0,0],[0,4,0],[0,0,4]] config_type={a b} "energy of x"=3',
        "energy=-1.5 Lattice={4 0 0 0 4 0 0 0 4} list=[1, 2]",
    ],
)
def test_all_spellings_of_pairs_are_understood(tmp_path, comment, recwarn):
    structures = load_structures(one_frame(tmp_path / "c.xyz", comment))
    assert structures.energy.tolist() == [-1.5]
    np.testing.assert_array_equal(structures.cell[0], 4 * np.eye(3))


def test_the_file_is_read_in_the_stated_units(tmp_path):
    path = one_frame(tmp_path / "u.xyz", "Properties=species:S:1:pos:R:3:forces:R:3 energy=1", "H 1 0 0 1 0 0")
    read = load_structures(path, units="Hartree,Bohr")
    assert read.energy[0] == pytest.approx(27.211386245988)
    assert read.pos[0, 0] == pytest.approx(0.529177210903)
    assert read.forces[0, 0] == pytest.approx(51.42206747, rel=1e-8)  # CODATA: atomic unit of force in eV/Å
    assert "Hartree,Bohr" in read.source


def test_writing_is_all_or_nothing(copper, tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_extxyz(tmp_path / "missing" / "out.xyz", Structures.from_atoms(copper))
    unknown = dataclasses.replace(Structures.from_atoms(copper[:1]), numbers=np.zeros(4, dtype=np.int64))
    with pytest.raises(InputError, match="a number is no element"):
        write_extxyz(tmp_path / "out.xyz", unknown)
    assert list(tmp_path.iterdir()) == []


def test_many_frames_are_read_in_linear_time(tmp_path):
    frame = "21\nProperties=species:S:1:pos:R:3:forces:R:3 energy=1\n" + "C 0.1 0.2 0.3 1 2 3\n" * 21
    path = tmp_path / "many.xyz"
    path.write_text(frame * 500)
    start = time.process_time()
    assert len(load_structures(path)) == 500
    assert time.process_time() - start < 2.0  # 0.05 s measured; a reader that rescans the file takes minutes
