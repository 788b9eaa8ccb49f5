"""Bad xyz input, row by row of the bad-input table: one error, with its place and how to go on."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from geomol.data import LabelKeys, load_structures, read_extxyz
from geomol.errors import ConfigError, GeomolWarning, InputError

GOOD = "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.5\nH 0 0 0 0.1 0 0\nO 0 0 1 -0.1 0 0\n"


@pytest.fixture
def xyz(tmp_path: Path):
    def write(content: str | bytes) -> Path:
        path = tmp_path / "in.xyz"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def with_cell(lattice: str, pbc: str = "T T T") -> str:
    return f'1\nLattice="{lattice}" pbc="{pbc}"\nCu 0 0 0\n'


def test_row_00_the_control_is_read(xyz):
    structures = read_extxyz(xyz(GOOD * 2))
    assert len(structures) == 2
    assert structures.elements() == [1, 8]
    np.testing.assert_array_equal(structures.forces[:, 0], [0.1, -0.1] * 2)


@pytest.mark.parametrize(
    ("symbol", "closest"), [("Qq", "[A-Z]"), ("h", "H"), ("CL", "Cl"), ("C1", "C"), ("Hx", "H[efgos]?")]
)
def test_row_01_unknown_element_names_symbol_line_and_closest(xyz, symbol, closest):
    path = xyz(GOOD + GOOD.replace("O 0", f"{symbol} 0"))
    with pytest.raises(
        InputError, match=rf'in.xyz, frame 1, line 8, atom 1: unknown element.*"{symbol}".*closest element: {closest}'
    ):
        read_extxyz(path)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
def test_row_03_position_that_is_not_finite_names_frame_atom_axis(xyz, value):
    with pytest.raises(InputError, match=r"frame 0, line 4, atom 1, axis y: position is not finite"):
        read_extxyz(xyz(GOOD.replace("O 0 0 1", f"O 0 {value} 1")))


@pytest.mark.parametrize("value", ["x", "1.0D-5", "1_0", "--1"])
def test_row_03_position_that_is_no_number_names_the_token(xyz, value):
    with pytest.raises(InputError, match=rf'line 4, atom 1, axis z: pos is not a number.*"{value}"'):
        read_extxyz(xyz(GOOD.replace("O 0 0 1", f"O 0 0 {value}")))


def test_row_04_label_that_is_not_finite(xyz):
    with pytest.raises(InputError, match=r"frame 0, line 2: energy is not finite, got nan; skip_bad"):
        read_extxyz(xyz(GOOD.replace("-1.5", "nan")))
    with pytest.raises(InputError, match=r"frame 0, line 4, atom 1, axis x: forces is not finite"):
        read_extxyz(xyz(GOOD.replace("-0.1", "inf")))


def test_row_04_skip_bad_drops_counts_and_lists(xyz):
    path = xyz(GOOD + GOOD.replace("-1.5", "nan") + GOOD + GOOD.replace("-0.1", "nan"))
    with pytest.warns(GeomolWarning, match=r"2 bad of 4 frames left out \(1, 3\).*energy is not finite"):
        structures = load_structures(path, skip_bad=True)
    assert len(structures) == 2


def test_row_04_only_bad_frames_are_no_structures(xyz):
    with pytest.warns(GeomolWarning, match="1 bad of 1"), pytest.raises(InputError, match="no structures"):
        read_extxyz(xyz(GOOD.replace("-1.5", "nan")), skip_bad=True)


def test_row_05_forces_with_two_columns(xyz):
    text = "2\nProperties=species:S:1:pos:R:3:forces:R:2\nH 0 0 0 1 2\nO 0 0 1 1 2\n"
    with pytest.raises(InputError, match=r"forces has the wrong shape, expected \(2, 3\), got \(2, 2\)"):
        read_extxyz(xyz(text))


def test_row_05_forces_missing_on_one_atom(xyz):
    with pytest.raises(InputError, match=r"line 4, atom 1: wrong number of columns, expected 7, got 6"):
        read_extxyz(xyz(GOOD.replace("-0.1 0 0\n", "-0.1 0\n")))


def test_row_06_energy_that_is_no_number_or_given_twice(xyz):
    with pytest.raises(InputError, match=r'line 2: energy is not a number.*"abc"'):
        read_extxyz(xyz(GOOD.replace("-1.5", "abc")))
    with pytest.raises(InputError, match=r"line 2: energy is given twice"):
        read_extxyz(xyz(GOOD.replace("energy=-1.5", "energy=-1.5 energy=-1.5")))
    with pytest.raises(InputError, match=r"REF_energy is given twice"):
        read_extxyz(xyz(GOOD.replace("energy=-1.5", "REF_energy=1 REF_energy=2")), keys=LabelKeys(energy="REF_energy"))


@pytest.mark.parametrize("content", ["", "\n", "  \n\n \n"])
def test_row_07_empty_file(xyz, content):
    with pytest.raises(InputError, match=r"in.xyz: no structures"):
        read_extxyz(xyz(content))


@pytest.mark.parametrize("count", ["1000000", "10000000", str(10**12), str(10**17)])
def test_row_08_absurd_atom_count_is_refused_at_once(xyz, count):
    path = xyz(f"{count}\n\nH 0 0 0\n")
    start = time.process_time()
    with pytest.raises(InputError, match=r"frame 0, line 1: the atom count is larger than the rest of the file"):
        read_extxyz(path)
    assert time.process_time() - start < 0.1


@pytest.mark.parametrize("count", ["9" * 5000, "two", "1.5", "0x10", "²"])
def test_row_08_atom_count_that_is_no_count(xyz, count):
    with pytest.raises(InputError, match=r"frame 0, line 1: no atom count"):
        read_extxyz(xyz(f"{count}\n\nH 0 0 0\n"))


def test_row_08_negative_atom_count(xyz):
    with pytest.raises(InputError, match=r"negative atom count.*got -3"):
        read_extxyz(xyz("-3\n\nH 0 0 0\n"))


def test_row_08_atom_count_smaller_than_the_frame(xyz):
    with pytest.raises(InputError, match=r"frame 1, line 4: no atom count.*the frame before"):
        read_extxyz(xyz("1\n\nH 0 0 0\nH 0 0 1\n"))


CUT = GOOD * 2 + GOOD[: GOOD.index("O 0")]


@pytest.mark.parametrize(
    "content", [CUT, CUT + "O 0 0 1 -0.", GOOD * 2 + "2\n", GOOD * 2 + "2", GOOD * 2 + "2\ncomment"]
)
def test_row_09_truncated_last_frame_names_it_and_recover_reads_the_rest(xyz, content):
    path = xyz(content)
    with pytest.raises(InputError, match=r"frame 2"):
        read_extxyz(path)
    with pytest.warns(GeomolWarning, match=r"frame 2.*the 2 frames before it were read"):
        structures = load_structures(path, recover=True)
    assert len(structures) == 2


def test_row_10_zero_atoms(xyz):
    with pytest.raises(InputError, match=r"frame 1, line 5: zero atoms"):
        read_extxyz(xyz(GOOD + "0\n\n"))


def test_row_11_binary_file_names_the_first_bad_offset(xyz):
    with pytest.raises(InputError, match=r"byte 11: not text.*0xff"):
        read_extxyz(xyz(b"1\n\nH 0 0 0 \xff\n"))
    with pytest.raises(InputError, match=r"byte 3: not text.*0x00"):
        read_extxyz(xyz(b"\x7fEL\x00\x01\x02"))


def test_row_12_periodic_without_a_usable_cell_names_the_axis(xyz):
    with pytest.raises(InputError, match=r"periodic along a but the cell vector a is zero"):
        read_extxyz(xyz('1\npbc="T T T"\nCu 0 0 0\n'))
    with pytest.raises(InputError, match=r"periodic along c"):
        read_extxyz(xyz(with_cell("4 0 0 0 4 0 0 0 0")))
    with pytest.raises(InputError, match=r"singular cell: vectors a and b and c"):
        read_extxyz(xyz(with_cell("4 0 0 0 4 0 4 4 0")))


def test_row_13_cell_with_nan_or_no_volume(xyz):
    with pytest.raises(InputError, match=r"cell vector b has no finite y component"):
        read_extxyz(xyz(with_cell("4 0 0 0 nan 0 0 0 4")))
    with pytest.raises(InputError, match=r"span no volume, got 1e-07"):
        read_extxyz(xyz(with_cell("1e-7 0 0 0 1 0 0 0 1")))


def test_row_13_a_slab_with_an_open_axis_and_a_left_handed_cell_are_fine(xyz):
    assert read_extxyz(xyz(with_cell("4 0 0 0 4 0 0 0 0", "T T F"))).pbc.tolist() == [[True, True, False]]
    assert np.linalg.det(read_extxyz(xyz(with_cell("0 4 0 4 0 0 0 0 4"))).cell[0]) == pytest.approx(-64)


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ("species:S:1:pos:R:2", "no usable pos"),
        ("pos:R:3", "no usable species"),
        ("species:S:1:pos:R:3:forces:R", "triples"),
        ("species:S:1:pos:R:3:forces:Q:3", "kind S, R, I or L"),
        ("species:S:1:pos:R:99999999", "kind S, R, I or L"),
        ("species:S:1:pos:R:3:pos:R:3", "given twice"),
    ],
)
def test_unreadable_properties_are_an_error_of_their_line(xyz, properties, message):
    with pytest.raises(InputError, match=f"line 2: .*{message}"):
        read_extxyz(xyz(f"1\nProperties={properties}\nH 0 0 0\n"))


def test_lattice_and_pbc_that_cannot_be_read(xyz):
    with pytest.raises(InputError, match=r"Lattice has the wrong shape, expected 9 numbers, got 3"):
        read_extxyz(xyz(with_cell("4 4 4")))
    with pytest.raises(InputError, match=r"pbc cannot be read"):
        read_extxyz(xyz(with_cell("4 0 0 0 4 0 0 0 4", "yes no maybe")))


def test_a_plain_xyz_with_unnamed_columns_is_refused_rather_than_cut(xyz):
    with pytest.raises(InputError, match=r"expected 4, got 7; name further columns with Properties="):
        read_extxyz(xyz("1\ncomment\nH 0 0 0 1 2 3\n"))


def test_random_bytes_only_ever_give_a_geomol_error(xyz):
    rng = np.random.default_rng(0)
    text = (GOOD * 3).encode()
    for _ in range(300):
        damaged = bytearray(text)
        for place in rng.integers(0, len(text), 3):
            damaged[place] = rng.integers(0, 256)
        try:
            read_extxyz(xyz(bytes(damaged[: rng.integers(1, len(text))])))
        except InputError:
            continue
        except GeomolWarning:
            continue


def test_a_chosen_key_that_no_frame_has_is_a_config_error(xyz):
    with pytest.raises(ConfigError, match=r'no energy under the key "REF_enery"; did you mean "energy"'):
        load_structures(xyz(GOOD), energy_key="REF_enery")
