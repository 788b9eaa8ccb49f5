"""The symmetry that a model claims is the one that it has: not less, and where that is cheap to see, not more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from contract.modes import (
    APPROXIMATE,
    CERTAIN,
    CHIRAL,
    ENTANGLED,
    EXACT,
    IN_LAW,
    MIRRORED,
    MODES,
    PERIODIC,
    PLAIN,
    crystals,
    make,
    molecules,
    potential_of,
)

from geomol import checks
from geomol.geometry import random_rotations
from geomol.graph import build_graph


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def structures(mode: str) -> list[Atoms]:
    """Disordered and symmetric molecules. C60 has very many frames; on complete graphs it gives forces of 10⁴ eV/Å."""
    symmetric = checks.symmetric_molecules()
    if mode in ENTANGLED:
        del symmetric["C60"]
    return molecules(8) + list(symmetric.values())


# [8] exact symmetry


@pytest.mark.parametrize("exact_mode", EXACT)
def test_exact_modes_are_invariant_under_rotations(exact_mode: str) -> None:
    potential = make(exact_mode)
    for atoms in structures(exact_mode):
        energy_error, force_error = checks.rotation_errors(potential, atoms, 10)
        assert energy_error < 1e-11
        assert force_error < 1e-10


@pytest.mark.parametrize("mirrored_mode", MIRRORED)
def test_modes_of_e3_are_invariant_under_reflections(mirrored_mode: str) -> None:
    potential = make(mirrored_mode)
    for atoms in structures(mirrored_mode):
        energy_error, force_error = checks.rotation_errors(potential, atoms, 10, reflect=True)
        assert energy_error < 1e-11
        assert force_error < 1e-10


@pytest.mark.parametrize("chiral_mode", CHIRAL)
def test_modes_of_se3_tell_mirror_images_apart(chiral_mode: str) -> None:
    potential = make(chiral_mode)
    assert checks.rotation_errors(potential, molecules(1)[0], 5, reflect=True)[0] > 1e-6


@pytest.mark.parametrize("plain_mode", PLAIN)
def test_modes_of_t3_are_not_invariant_under_rotations(plain_mode: str) -> None:
    potential = make(plain_mode)
    assert potential.symmetry.exact
    energy_error, force_error = checks.rotation_errors(potential, molecules(1)[0], 5)
    assert energy_error > 1e-6
    assert force_error > 1e-6


@pytest.mark.parametrize("exact_mode", EXACT)
def test_float32_weights_keep_the_symmetry_to_float32_accuracy(exact_mode: str) -> None:
    potential = make(exact_mode, dtype=torch.float32)
    for atoms in molecules(4):
        energy_error, force_error = checks.rotation_errors(potential, atoms, 10)
        assert energy_error < 1e-5
        assert force_error < 1e-4 * (1 + np.abs(checks.forces_of(potential, atoms)).max() / 10)


# [9] grids and finite groups


@pytest.mark.parametrize("near_mode", APPROXIMATE)
def test_approximate_modes_are_exact_on_their_own_group(near_mode: str) -> None:
    potential = make(near_mode)
    atoms = molecules(1)[0]
    cyclic = np.eye(3)[[1, 2, 0]]  # x → y → z: a symmetry of every grid used here
    before, after = checks.energy_of(potential, [atoms, checks.symmetries.turned(atoms, cyclic)])
    assert abs(after - before) < 1e-11 * (1 + abs(before))
    energy_error, _ = checks.rotation_errors(potential, atoms, 20)
    assert energy_error > 1e-9  # the control: a generic rotation is seen


def test_the_mean_over_a_finite_group_is_nearer_to_symmetry_than_what_it_is_taken_of() -> None:
    mean, alone = make("octahedral-average"), make("mpnn")
    errors = [np.mean([checks.rotation_errors(p, atoms, 10)[0] for atoms in molecules(3)]) for p in (mean, alone)]
    assert errors[0] < 0.2 * errors[1]


def test_rotation_error_falls_as_the_grid_grows() -> None:
    """With random weights, which are not trained to be invariant; models in models/ state their own, far smaller,
    error.
    """
    errors = []
    for grid in ("octahedral", "icosahedral", "design24", "design60"):
        potential = make("ponita", orientations=grid)
        errors.append(np.mean([checks.rotation_errors(potential, atoms, 10)[0] for atoms in molecules(3)]))
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 2e-3


# symmetry on average


@pytest.mark.parametrize("random_mode", IN_LAW)
def test_random_poses_are_symmetric_on_average(random_mode: str) -> None:
    """Over 2 500 of them, within four standard errors; a few tell the structures apart, as does the bare backbone."""
    atoms = molecules(1)[0]
    turn = random_rotations(1, generator=torch.Generator().manual_seed(0))[0].numpy()
    others = [
        checks.symmetries.turned(atoms, turn),
        checks.symmetries.turned(atoms, -turn),
        atoms[np.random.default_rng(0).permutation(len(atoms))],
    ]
    few, many = make(random_mode), make(random_mode, samples=2500)
    with torch.no_grad():
        spreads = [many.backbone.sample_spread(build_graph(a, many.cutoff)) for a in (atoms, *others)]
    means, errors = np.array([[float(s.total), float(s.total_error)] for s in spreads]).T
    bars = 4 * np.hypot(errors[1:], errors[0])
    assert (np.abs(means[1:] - means[0]) < bars).all()
    energy = checks.energy_of(few, [atoms, *others])
    assert np.abs(energy[1:] - energy[0]).min() > 1e-6
    bare = checks.energy_of(potential_of(MODES[random_mode]["backbone"]), [atoms, others[0]])
    assert abs(bare[1] - bare[0]) > bars[0]


# translations


def test_translation_changes_nothing(mode: str) -> None:
    potential = make(mode)
    for atoms in molecules(2) + (crystals(2) if mode in PERIODIC else []):
        assert checks.translation_error(potential, atoms, 10.0) < 1e-11


@pytest.mark.parametrize("distance", [1e3, 1e4, 1e6])
def test_far_from_the_origin_nothing_changes(mode: str, distance: float) -> None:
    """[18] positions stay float64 until edge vectors are formed, also with float32 weights."""
    atoms = molecules(1)[0]
    assert checks.translation_error(make(mode), atoms, distance) < 1e-9
    assert checks.translation_error(make(mode, dtype=torch.float32), atoms, distance) < 1e-5


# [11] net force and torque


def test_net_force_vanishes(mode: str) -> None:
    potential = make(mode)
    for atoms in molecules(8):
        assert checks.net_force_and_torque(potential, atoms)[0] < 1e-10


@pytest.mark.parametrize("exact_mode", EXACT)
def test_net_torque_vanishes_for_exact_modes(exact_mode: str) -> None:
    potential = make(exact_mode)
    for atoms in molecules(8):
        assert checks.net_force_and_torque(potential, atoms)[1] < 1e-9


@pytest.mark.parametrize("plain_mode", PLAIN)
def test_net_torque_does_not_vanish_without_rotations(plain_mode: str) -> None:
    assert checks.net_force_and_torque(make(plain_mode), molecules(1)[0])[1] > 1e-6


# [12] permutation


@pytest.mark.parametrize("certain_mode", CERTAIN)
def test_renumbering_changes_nothing(certain_mode: str) -> None:
    exact, rounded = make(certain_mode), make(certain_mode, dtype=torch.float32)
    for atoms in molecules(2) + (crystals(2) if certain_mode in PERIODIC else []):
        assert checks.permutation_error(exact, atoms, 20) < 1e-12
        assert checks.permutation_error(rounded, atoms, 20) < 1e-6
