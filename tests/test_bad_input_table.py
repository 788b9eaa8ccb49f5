"""The first 25 rows of the project's table of bad input: one test each, through the public functions a user calls."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from geomol import GeomolCalculator
from geomol.data import load_structures
from geomol.errors import CapacityError, ConfigError, GeomolWarning, InputError, ModelDomainError
from geomol.graph import build_graph, neighbour_list
from geomol.models import EGNN, Morse
from geomol.potential import Potential

HEADER = 'Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5 pbc="F F F"'
ROW = "H 0.0 0.0 0.0 0.1 0.2 0.3\n"
OTHER = "O 0.0 0.0 1.0 0.1 0.2 0.3\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(text: str | bytes, name: str = "bad.xyz") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return to_file


def water_potential() -> Potential:
    return Potential(EGNN(elements=[1, 8], channels=8, num_layers=2), elements=[1, 8], e0=[-1.0, -2.0]).double()


def test_row_1_unknown_symbol_is_named_with_line_and_nearest(write: Write) -> None:
    path = write(f"2\n{HEADER}\n{ROW}{OTHER.replace('O ', 'Ox ')}")
    with pytest.raises(InputError, match=r"bad\.xyz.*line 4.*Ox.*O"):
        load_structures(path)


def test_row_2_element_outside_the_model_lists_the_supported_ones() -> None:
    atoms = molecule("CH4")
    atoms.calc = GeomolCalculator(water_potential())
    with pytest.raises(ModelDomainError, match=r"atom 0.*H, O.*got C"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("value", ["nan", "inf", "1e400"])
def test_row_3_position_that_is_no_number_is_located(write: Write, value: str) -> None:
    path = write(f"2\n{HEADER}\n{ROW}{OTHER.replace('1.0', value)}")
    with pytest.raises(InputError, match=r"frame 0.*atom 1.*z"):
        load_structures(path)


def test_row_4_label_that_is_no_number_is_refused_or_skipped_and_counted(write: Write) -> None:
    good = f"2\n{HEADER}\n{ROW}{OTHER}"
    path = write(good + good.replace("-1.5", "nan") + good)
    with pytest.raises(InputError, match=r"frame 1.*energy"):
        load_structures(path)
    with pytest.warns(GeomolWarning, match=r"1 .*frame.*1"):
        assert len(load_structures(path, skip_bad=True)) == 2


def test_row_5_forces_of_wrong_shape(write: Write) -> None:
    path = write(f"1\n{HEADER.replace('forces:R:3', 'forces:R:2')}\nH 0 0 0 0.1 0.2\n")
    with pytest.raises(InputError, match=r"forces.*3.*2"):
        load_structures(path)


@pytest.mark.parametrize("energy", ["energy=abc", "energy=1.0 energy=2.0"])
def test_row_6_energy_that_is_no_number_or_given_twice(write: Write, energy: str) -> None:
    path = write(f"1\n{HEADER.replace('energy=-1.5', energy)}\n{ROW}")
    with pytest.raises(InputError, match="energy"):
        load_structures(path)


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
def test_row_7_empty_file(write: Write, text: str) -> None:
    with pytest.raises(InputError, match="no structures"):
        load_structures(write(text))


@pytest.mark.parametrize("count", ["1000000000000", "-3", "99999999999999999999"])
def test_row_8_absurd_atom_count_is_refused_at_once(write: Write, count: str) -> None:
    path = write(f"{count}\n{HEADER}\n{ROW}")
    start = time.process_time()
    with pytest.raises(InputError, match=count):
        load_structures(path)
    assert time.process_time() - start < 0.1


def test_row_9_truncated_last_frame_names_it_and_can_be_recovered(write: Write) -> None:
    path = write(f"2\n{HEADER}\n{ROW}{OTHER}2\n{HEADER}\n{ROW}")
    with pytest.raises(InputError, match="frame 1"):
        load_structures(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeomolWarning)
        assert len(load_structures(path, recover=True)) == 1


def test_row_10_zero_atoms(write: Write) -> None:
    with pytest.raises(InputError, match=r"no atoms|0 atoms|zero atoms"):
        load_structures(write(f"0\n{HEADER}\n"))
    with pytest.raises(InputError, match="zero atoms"):
        build_graph(Atoms(), 3.0)


def test_row_11_binary_file_is_refused_with_the_offset(write: Write) -> None:
    path = write(f"1\n{HEADER}\n".encode() + b"H \xff\xfe\x00 0 0\n")
    with pytest.raises(InputError, match=r"not text.*\d+"):
        load_structures(path)


def test_row_12_periodic_axis_without_lattice_vector_is_named() -> None:
    atoms = Atoms("H", [[0, 0, 0]], cell=[3, 3, 0], pbc=True)
    with pytest.raises(InputError, match="axis 2"):
        build_graph(atoms, 3.0)


def test_row_13_cell_with_nan_or_without_volume() -> None:
    flat = Atoms("H", [[0, 0, 0]], cell=[[3, 0, 0], [0, 3, 0], [3, 3, 1e-9]], pbc=True)
    with pytest.raises(InputError, match="cell is singular"):
        build_graph(flat, 3.0)
    with pytest.raises(InputError, match="cell"):
        build_graph(Atoms("H", [[0, 0, 0]], cell=[[3, 0, 0], [0, np.nan, 0], [0, 0, 3]], pbc=True), 3.0)


def test_row_14_left_handed_cell_has_the_same_energy() -> None:
    right = bulk("Cu")
    left = right.copy()
    left.set_cell(right.cell.array[[1, 0, 2]], scale_atoms=False)
    assert np.linalg.det(left.cell.array) * np.linalg.det(right.cell.array) < 0
    potential = Potential(Morse(), elements=[29], e0=[0.0])
    energies = [potential(build_graph(a, potential.cutoff)).energy.item() for a in (right, left)]
    assert energies[0] == pytest.approx(energies[1], rel=1e-13)


def test_row_15_cell_thinner_than_the_cutoff_is_complete() -> None:
    atoms = Atoms("Cu", cell=[1.0, 9.0, 9.0], pbc=True)
    assert build_graph(atoms, 4.5).num_edges == 8  # four images on each side


@pytest.mark.parametrize("cutoff", [0, -1.0, float("nan"), float("inf"), "3"])
def test_row_16_cutoff_that_is_no_length(cutoff: object) -> None:
    atoms = molecule("H2O")
    with pytest.raises(ConfigError, match="cutoff"):
        neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


def test_row_17_too_many_neighbours_for_the_memory_are_counted_not_cut() -> None:
    atoms = bulk("Cu")
    with pytest.raises(CapacityError, match=r"\d"):
        neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, 40.0, max_bytes=1_000_000)


def test_row_18_coincident_atoms_are_both_named() -> None:
    with pytest.raises(InputError, match=r"atoms 0 and 2 coincide|atoms 2 and 0 coincide"):
        build_graph(Atoms("H3", [[0, 0, 0], [0, 0, 1], [0, 0, 1e-7]]), 3.0)


def test_row_19_atoms_closer_than_a_bond_can_be_are_warned_of() -> None:
    with pytest.warns(GeomolWarning, match=r"atoms 0 and 1 .*0\.4"):
        build_graph(Atoms("H2", [[0, 0, 0], [0, 0, 0.3]]), 3.0)


def test_row_20_single_atom_has_a_constant_energy_and_exactly_no_force() -> None:
    atom = Atoms("O", [[0.1, 0.2, 0.3]])
    atom.calc = GeomolCalculator(water_potential())
    assert np.array_equal(atom.get_forces(), np.zeros((1, 3)))
    assert np.isfinite(atom.get_potential_energy())


def test_row_21_unknown_target_lists_the_known_ones(write: Write) -> None:
    structures = load_structures(write(f"2\n{HEADER}\n{ROW}{OTHER}"))
    with pytest.raises(ConfigError, match=r'"forcse".*did you mean "forces"'):
        structures.labelled("forcse")


def test_row_22_units_are_never_guessed(tmp_path: Path) -> None:
    path = tmp_path / "md17.npz"
    np.savez(path, z=np.array([1, 1]), R=np.array([[[0.0, 0, 0], [0, 0, 0.74]]]), E=np.array([[-1.0]]))
    with pytest.raises(ConfigError, match="unit"):
        load_structures(path)


def test_row_23_energies_in_another_unit_are_noticed(tmp_path: Path) -> None:
    """Morse energies written in kcal/mol and declared as eV."""
    potential = Potential(Morse(depth=4.5, a=1.9, r0=0.74, cutoff=8.0), elements=[1], e0=[0.0])
    rng = np.random.default_rng(0)
    frames = [Atoms("H2", [[0, 0, 0], [0, 0, 0.74 + x]]) for x in rng.normal(scale=0.08, size=60)]
    out = potential(build_graph(frames, potential.cutoff))
    path = tmp_path / "wrong.npz"
    np.savez(
        path,
        z=np.array([1, 1]),
        R=np.array([a.positions for a in frames]),
        E=out.energy.numpy() * 23.0605,
        F=out.forces.numpy().reshape(-1, 2, 3) * 23.0605,
    )
    with pytest.warns(GeomolWarning, match="kcal/mol"):
        load_structures(path, units="eV")


def test_row_24_missing_charge_of_a_model_that_needs_one() -> None:
    potential = Potential(EGNN(elements=[1, 8], in_scalars=1, channels=8), elements=[1, 8], e0=[0.0, 0.0])
    with pytest.raises(ConfigError, match=r"node_scalars.*1 columns, got 0"):
        potential(build_graph(molecule("H2O"), potential.cutoff))


def test_row_25_charge_given_to_a_model_that_ignores_it_is_said_once() -> None:
    atoms = molecule("H2O")
    atoms.info["charge"] = 1
    atoms.calc = GeomolCalculator(water_potential())
    with pytest.warns(GeomolWarning, match="ignore"):
        atoms.get_potential_energy()
    atoms.rattle(0.01, seed=1)
    atoms.get_potential_energy()  # any further warning would be an error
