"""Units against ASE's independent table and against relations that hold exactly."""

from __future__ import annotations

import ase.units
import pytest

from geomol.data import Units, parse_units
from geomol.data.units import BOHR, ENERGY_UNITS, HARTREE, KCAL_PER_MOL
from geomol.errors import ConfigError


def test_constants_agree_with_ase():
    table = ase.units.create_units("2018")
    assert pytest.approx(table["Hartree"], rel=1e-10) == HARTREE
    assert pytest.approx(table["Bohr"], rel=1e-9) == BOHR
    assert pytest.approx(table["kcal"] / table["mol"], rel=1e-9) == KCAL_PER_MOL
    assert ENERGY_UNITS["Ry"] == HARTREE / 2
    assert ENERGY_UNITS["kJ/mol"] * 4.184 == pytest.approx(KCAL_PER_MOL, rel=1e-15)


def test_the_ratios_that_betray_a_wrong_unit():
    assert pytest.approx(627.5094740631, rel=1e-10) == HARTREE / KCAL_PER_MOL
    assert pytest.approx(23.0605478, rel=1e-8) == 1 / KCAL_PER_MOL


def test_forces_and_stress_follow_from_energy_and_length():
    units = Units("Hartree", "Bohr")
    assert units.force_in_ev_per_angstrom == pytest.approx(51.42206747, rel=1e-9)
    gpa = units.stress_in_ev_per_angstrom3 / ase.units.create_units("2018")["GPa"]
    assert gpa == pytest.approx(29421.015697, rel=1e-9)  # CODATA: atomic unit of pressure


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kcal/mol", Units("kcal/mol", "Angstrom")),
        ("Ha, bohr", Units("Hartree", "Bohr")),
        ("eV,A", Units("eV", "Angstrom")),
        ("Rydberg,nm", Units("Ry", "nm")),
    ],
)
def test_short_forms_are_understood(text, expected):
    assert parse_units(text) == expected
    assert parse_units(expected) == expected


def test_a_misspelt_unit_gets_the_nearest_name():
    with pytest.raises(ConfigError, match=r'unknown energy unit "kcal/mole"; did you mean "kcal/mol"'):
        parse_units("kcal/mole")
