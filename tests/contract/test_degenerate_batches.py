"""Degenerate structures, and batches. Numbers in brackets: the project's list of checks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from contract.modes import MODES, PERIODIC, SEPARABLE, crystals, make, molecules

from geomol import checks
from geomol.graph import build_graph


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


# [17], [20] degenerate inputs and batches


def test_an_isolated_atom_has_its_reference_energy_and_no_force(mode: str) -> None:
    potential = make(mode)
    atom = Atoms("C", [[0.3, -0.2, 0.9]])
    forces = checks.forces_of(potential, atom)
    assert np.array_equal(forces, np.zeros((1, 3)))
    one, moved = checks.energy_of(potential, [atom, Atoms("C", [[5.0, 6.0, 7.0]])])
    assert one == moved, "a constant of the model"
    if mode in ("lennard_jones", "morse"):
        assert one == pytest.approx(potential.e0_values[potential.elements.index(6)])


@pytest.mark.parametrize("separable_mode", SEPARABLE)
def test_an_atom_keeps_its_energy_beside_a_stranger_far_away(separable_mode: str) -> None:
    potential = make(separable_mode)
    carbon, oxygen, both = checks.energy_of(potential, [Atoms("C"), Atoms("O"), Atoms("CO", [[0, 0, 0], [0, 0, 50.0]])])
    assert both == pytest.approx(carbon + oxygen, abs=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_chains_along_an_axis_have_finite_second_derivatives(mode: str, axis: int) -> None:
    positions = np.zeros((4, 3))
    positions[:, axis] = [0.0, 1.3, 2.5, 3.9]
    potential = make(mode)
    atoms = Atoms("CHOC", positions)
    assert np.isfinite(checks.forces_of(potential, atoms)).all()
    assert np.isfinite(checks.jacobian_antisymmetry(potential, atoms))


def test_batches_equal_single_structures_in_any_mixture(mode: str) -> None:
    potential = make(mode)
    mixed = molecules(6) + (crystals(4) if mode in PERIODIC else []) + [Atoms("H", [[0, 0, 0]])]
    for order in (range(len(mixed)), reversed(range(len(mixed)))):
        energy_error, force_error = checks.batch_error(potential, [mixed[i] for i in order])
        assert energy_error < 1e-12
        assert force_error < 1e-11


def test_a_nan_structure_leaves_its_batch_mates_alone(mode: str) -> None:
    potential = make(mode)
    graph = build_graph(molecules(3), potential.cutoff)
    pos = graph.pos.clone()
    pos[graph.batch == 1] = torch.nan
    clean, spoilt = potential(graph), potential(graph.replace(pos=pos))
    keep = graph.batch != 1
    assert torch.equal(clean.energy[[0, 2]], spoilt.energy[[0, 2]])
    assert torch.equal(clean.forces[keep], spoilt.forces[keep])


def test_structures_in_a_batch_do_not_see_each_other(mode: str) -> None:
    potential = make(mode)
    graph = build_graph(molecules(2), potential.cutoff)
    pos = graph.pos.clone().requires_grad_()
    energy = potential.node_energy(graph.replace(pos=pos))[graph.batch == 0].sum()
    (gradient,) = torch.autograd.grad(energy, pos)
    assert torch.equal(gradient[graph.batch == 1], torch.zeros_like(gradient[graph.batch == 1]))
    assert gradient[graph.batch == 0].abs().max() > 0
