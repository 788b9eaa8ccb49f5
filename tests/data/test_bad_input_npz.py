"""Bad npz input, and units that are missing or unlikely: rows 22, 23 and 32 to 34 of the bad-input table."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geomol.data import Structures, load_structures, read_npz, unlikely_units
from geomol.data.npz_file import NpzFile
from geomol.data.units import HARTREE, KCAL_PER_MOL
from geomol.errors import ConfigError, GeomolWarning, InputError, SecurityError

WATER = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
FRAMES = 40


def harmonic_water() -> dict[str, np.ndarray]:
    """Water in a harmonic well: energies and forces (eV, Å) that belong together exactly."""
    rng = np.random.default_rng(3)
    shifts = rng.normal(size=(FRAMES // 2, 3, 3)) * 0.05
    shifts = np.concatenate([shifts, shifts + rng.normal(size=shifts.shape) * 0.01])
    stiffness = 20.0  # eV/Å²
    return {
        "numbers": np.array([8, 1, 1]),
        "positions": WATER + shifts,
        "energies": -76.4 * HARTREE + 0.5 * stiffness * (shifts**2).sum(axis=(1, 2)),
        "forces": -stiffness * shifts,
    }


@pytest.fixture
def npz(tmp_path: Path):
    def write(**arrays: np.ndarray) -> Path:
        path = tmp_path / "in.npz"
        np.savez_compressed(path, **arrays)
        return path

    return write


def as_rmd17(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = {"numbers": "nuclear_charges", "positions": "coords", "energies": "energies", "forces": "forces"}
    return {names[key]: value for key, value in arrays.items()}


def test_row_22_rmd17_layout_without_units_is_refused(npz):
    with pytest.raises(ConfigError, match=r'units of this file are not known.*units="kcal/mol,Angstrom"'):
        load_structures(npz(**as_rmd17(harmonic_water())))


def test_row_22_stated_and_stored_units_convert_once(npz):
    arrays = as_rmd17(harmonic_water())
    kcal = {**arrays, "energies": arrays["energies"] / KCAL_PER_MOL, "forces": arrays["forces"] / KCAL_PER_MOL}
    stated = load_structures(npz(**kcal), units="kcal/mol,Angstrom")
    names = {"nuclear_charges": "z", "coords": "R", "energies": "E", "forces": "F"}
    stored = {names[key]: value for key, value in kcal.items()}
    stored["E"] = stored["E"][:, None]
    read = load_structures(npz(**stored, e_unit=np.array("kcal/mol"), r_unit=np.array("Ang")))
    for structures in (stated, read):
        np.testing.assert_allclose(structures.energy, arrays["energies"], rtol=1e-14)
        np.testing.assert_allclose(structures.forces, arrays["forces"].reshape(-1, 3), rtol=1e-14)


@pytest.mark.parametrize("units", ["furlong", "eV,mile", "eV,Angstrom,s"])
def test_row_22_unknown_units_are_named(npz, units):
    with pytest.raises(ConfigError, match=r"unknown (energy|length) unit|units are two names"):
        load_structures(npz(**harmonic_water()), units=units)


def test_row_23_the_control_says_nothing(npz):
    structures = load_structures(npz(**harmonic_water()))
    assert unlikely_units(structures) is None


@pytest.mark.parametrize(
    ("unit", "named"),
    [(1 / HARTREE, r"27\.2"), (1 / KCAL_PER_MOL, r"23\.06"), (HARTREE / KCAL_PER_MOL, r"627\.5")],
)
def test_row_23_total_energies_in_another_unit_are_named(npz, unit, named):
    arrays = harmonic_water()
    arrays |= {"energies": arrays["energies"] * unit, "forces": arrays["forces"] * unit}
    with pytest.warns(GeomolWarning, match=named):
        load_structures(npz(**arrays))


@pytest.mark.parametrize(
    ("unit", "named"),
    [(1 / HARTREE, r"27\.2"), (1 / KCAL_PER_MOL, r"23\.06"), (HARTREE / KCAL_PER_MOL, r"627\.5")],
)
def test_row_23_energies_in_another_unit_than_forces_are_named(npz, unit, named):
    arrays = harmonic_water()
    arrays["energies"] = (arrays["energies"] - arrays["energies"].mean()) * unit  # nothing absolute to go by
    with pytest.warns(GeomolWarning, match=rf"times the work of the forces.*{named}"):
        load_structures(npz(**arrays))


def test_row_23_forces_alone_in_kcal_are_named(npz):
    arrays = harmonic_water()
    arrays = {"numbers": arrays["numbers"], "positions": arrays["positions"], "forces": arrays["forces"] / KCAL_PER_MOL}
    with pytest.warns(GeomolWarning, match=r"RMS force component.*kcal/mol/Å"):
        load_structures(npz(**arrays))


@pytest.mark.parametrize("key", ["positions", "energies", "note"])
def test_row_32_object_arrays_are_refused_whatever_their_name(npz, key):
    arrays = harmonic_water() | {key: np.array([{"a": 1}], dtype=object)}
    with pytest.raises(SecurityError, match=rf"{key}.npy: holds Python objects"):
        load_structures(npz(**arrays))


def test_row_33_missing_arrays_are_named(npz):
    arrays = harmonic_water()
    with pytest.raises(InputError, match=r"no positions, expected an array coords or R or positions, got numbers"):
        read_npz(npz(numbers=arrays["numbers"]))
    with pytest.raises(InputError, match=r"no numbers"):
        read_npz(npz(positions=arrays["positions"]))


def test_row_33_wrong_shapes_and_lengths_are_all_listed(npz):
    arrays = harmonic_water()
    arrays |= {"energies": arrays["energies"][:-1], "forces": arrays["forces"][:, :, :2], "numbers": np.array([8, 1])}
    with pytest.raises(
        InputError, match=r"numbers: expected \(3,\).*energies: expected \(40,\).*forces: expected \(40, 3, 3\)"
    ):
        read_npz(npz(**arrays))
    with pytest.raises(InputError, match=r"positions have the wrong shape, expected \(frames, atoms, 3\)"):
        read_npz(npz(numbers=np.array([8]), positions=np.zeros((4, 3))))
    with pytest.raises(InputError, match=r"n_atoms cannot be used"):
        read_npz(npz(numbers=np.array([8]), positions=np.zeros((1, 3)), n_atoms=np.array([-1, 2])))
    with pytest.raises(InputError, match=r"positions: expected \(3, 3\)"):
        read_npz(npz(numbers=np.array([8, 1, 1]), positions=np.zeros((4, 3)), n_atoms=np.array([1, 2])))


def test_row_33_text_where_numbers_belong(npz):
    arrays = harmonic_water() | {"energies": np.array(["a"] * FRAMES)}
    with pytest.raises(InputError, match=r"energies: expected \(40,\)"):
        read_npz(npz(**arrays))


def test_row_04_a_label_that_is_not_finite_is_refused_or_skipped(npz):
    arrays = harmonic_water()
    arrays["energies"][7] = np.nan
    arrays["forces"][9, 2, 1] = np.inf
    path = npz(**arrays, train=np.arange(20), test=np.arange(20, 40))
    with pytest.raises(InputError, match=r"frame 7: energy is not finite"):
        load_structures(path)
    with pytest.warns(GeomolWarning, match=r"2 bad of 40 frames left out \(7, 9\)"):
        structures = load_structures(path, skip_bad=True)
    assert len(structures.split("train")) == 18
    np.testing.assert_array_equal(structures.split("test").energy, arrays["energies"][20:])


def test_frames_without_forces_in_the_compact_layout_have_no_forces(npz):
    arrays = harmonic_water()
    arrays["forces"][5] = np.nan
    structures = load_structures(npz(**arrays))
    assert np.flatnonzero(~structures.labelled("forces")).tolist() == [5]
    with pytest.raises(InputError, match=r"frame 5, atom 0, axis x: forces is not finite"):
        load_structures(npz(**as_rmd17(arrays)), units="eV")


def test_row_01_a_number_that_is_no_element_names_frame_and_atom(npz):
    arrays = harmonic_water() | {"numbers": np.array([8, 1, 200])}
    with pytest.raises(
        InputError, match=r"frame 0, atom 2: bad number, expected an atomic number from 1 to 118, got 200"
    ):
        load_structures(npz(**arrays))


def test_row_12_periodic_without_a_cell_is_refused(npz):
    with pytest.raises(InputError, match=r"frame 0: periodic along a but the cell vector a is zero"):
        load_structures(npz(**harmonic_water(), cells=np.zeros((3, 3)), pbc=np.array([True, False, False])))


def test_row_34_a_compression_bomb_is_refused_before_it_is_unpacked(npz):
    path = npz(**harmonic_water(), zeros=np.zeros(10_000_000))
    with pytest.raises(SecurityError, match=r"compression bomb"):
        load_structures(path)
    with pytest.raises(SecurityError, match=r"unpacks beyond the limit"):
        NpzFile(npz(**harmonic_water()), max_bytes=100)


def test_row_34_constant_arrays_of_sane_size_are_no_bomb(npz):
    path = npz(**harmonic_water(), zeros=np.zeros(1_000_000))
    assert len(load_structures(path)) == FRAMES


def forged(path: Path, name: str, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return path


def test_files_that_are_no_npz(tmp_path):
    path = tmp_path / "x.npz"
    for content in (b"", b"PK\x03\x04", b"not a zip at all" * 10):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a readable npz file"):
            load_structures(path)
    with pytest.raises(InputError, match="not a numpy array"):
        load_structures(forged(path, "numbers.npy", b"hello"))


def test_a_header_that_asks_for_more_than_the_file_holds_is_refused_at_once(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 3), }\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 24
    with pytest.raises(InputError, match=r"array is cut off or padded, expected 24000000000000 bytes, got 24"):
        load_structures(forged(tmp_path / "x.npz", "positions.npy", data))


def test_a_damaged_npz_only_ever_gives_a_geomol_error(npz, tmp_path):
    whole = npz(**harmonic_water()).read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / "damaged.npz"
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, len(whole), 4):
            data[place] = rng.integers(0, 256)
        path.write_bytes(bytes(data[: rng.integers(1, len(whole))]) if rng.random() < 0.3 else bytes(data))
        try:
            load_structures(path)
        except (InputError, SecurityError, ConfigError, GeomolWarning):
            continue


def test_splits_come_along_and_are_checked(npz):
    arrays = harmonic_water()
    words = np.array(["a", "b"] * (FRAMES // 2))
    structures = read_npz(npz(**arrays, split=words, train_1=np.arange(10), config_type=words.astype("S1")))
    assert {name: len(rows) for name, rows in structures.splits.items()} == {
        "train_1": 10, "a": 20, "b": 20, "config_type/a": 20, "config_type/b": 20,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"train_1: 1 row numbers exceed the data, expected 0 to 39"):
        read_npz(npz(**arrays, train_1=np.array([3, 40])))
    with pytest.raises(ConfigError, match=r"row numbers are repeated.*got 1 repeats of 2"):
        read_npz(npz(**arrays, train_1=np.array([3, 3])))
    with pytest.raises(InputError, match=r"split has the wrong shape"):
        read_npz(npz(**arrays, split=words[:3]))


def test_free_atom_energies_come_along(npz):
    arrays = harmonic_water() | {"isolated_numbers": np.array([1, 8]), "isolated_energies": np.array([-13.0, -2041.0])}
    structures = read_npz(npz(**arrays))
    assert structures.isolated_energies == {1: -13.0, 8: -2041.0}
    assert isinstance(replace(structures, name="x"), Structures)
