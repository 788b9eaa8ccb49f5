"""Far fragments add up, small cells equal their supercells. Numbers in brackets: the project's list of checks."""

from __future__ import annotations

import pytest
from ase import Atoms
from contract.modes import ENTANGLED, PERIODIC, SEPARABLE, crystals, make, molecules

from geomol import checks

# [13] separability and extensivity


@pytest.mark.parametrize("separable_mode", SEPARABLE)
@pytest.mark.parametrize("copies", [2, 16, 64])
def test_far_fragments_add_up(separable_mode: str, copies: int) -> None:
    assert checks.separability_error(make(separable_mode), molecules(1)[0], copies) < 1e-11


@pytest.mark.parametrize("entangled_mode", ENTANGLED)
def test_modes_that_do_not_claim_it_feel_far_fragments(entangled_mode: str) -> None:
    assert checks.separability_error(make(entangled_mode), molecules(1)[0], 2, distance=10.0) > 1e-9


@pytest.mark.parametrize("periodic_mode", PERIODIC)
@pytest.mark.parametrize("repeat", [(2, 1, 1), (1, 2, 3), (4, 4, 4)])
def test_supercells_are_extensive(periodic_mode: str, repeat: tuple[int, int, int]) -> None:
    assert checks.supercell_error(make(periodic_mode), crystals(1)[0], repeat) < 1e-11


# [15] small cells


@pytest.mark.parametrize("periodic_mode", PERIODIC)
@pytest.mark.parametrize("thickness", [0.2, 0.35, 0.6])
def test_a_cell_thinner_than_the_cutoff_equals_its_supercell(periodic_mode: str, thickness: float) -> None:
    potential = make(periodic_mode)
    a = thickness * potential.cutoff
    atoms = Atoms("C", cell=[[a, 0.1 * a, 0], [0, 3.1, 0.2], [0.3, 0, 2.9]], pbc=True)
    assert checks.supercell_error(potential, atoms, (4, 1, 1)) < 1e-11
