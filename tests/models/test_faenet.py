"""FAENet in potentials: conservative, smooth at the cutoff, separable, and without rotational symmetry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

from geomol import checks
from geomol.geometry import random_rotations
from geomol.graph import build_graph
from tests.models.faenet_variants import energies, every_variant, make, potential_of

# derivatives


@every_variant
def test_forces_are_minus_the_energy_gradient(variant: str) -> None:
    potential = potential_of(make(variant))
    for atoms in [*checks.disordered_molecules(2, seed=1), checks.disordered_crystals(2, seed=2)[1]]:
        assert np.abs(checks.forces_of(potential, atoms)).max() > 1e-3
        assert checks.force_error(potential, atoms) < 1e-7


@every_variant
def test_forces_are_twice_differentiable(variant: str) -> None:
    """Second derivatives, as training on forces needs them, through float64 finite differences."""
    model = make(variant, num_layers=2)
    graph = build_graph(molecule("H2O"), model.cutoff)

    def energy(pos: Tensor) -> Tensor:
        total: Tensor = model(graph.replace(pos=pos)).scalars.sum()
        return total

    pos = graph.pos.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, (pos,))
    assert torch.autograd.gradgradcheck(energy, (pos,))


@every_variant
def test_every_parameter_learns_from_forces(variant: str) -> None:
    model = make(variant)
    out = potential_of(model)(build_graph(checks.disordered_molecules(2), model.cutoff), create_graph=True)
    assert out.forces is not None
    out.forces.square().sum().backward()
    silent = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() == 0
    }
    # the tables of elements that are not in the structures are used in part; the last bias is a constant energy
    assert silent <= {"readout.out.bias"}


def test_stress_is_the_symmetric_strain_derivative() -> None:
    model, step = make(), 1e-4
    atoms = checks.disordered_crystals(2, seed=2)[1]
    potential = potential_of(model)
    stress = potential(build_graph(atoms, model.cutoff), stress=True).stress
    assert stress is not None
    for a, b in ((0, 0), (0, 1), (1, 2)):
        strained = []
        for h in (step, -step):
            strain = np.zeros((3, 3))
            strain[a, b] += h / 2
            strain[b, a] += h / 2
            copy = atoms.copy()
            copy.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            strained.append(copy)
        plus, minus = energies(model, *strained)
        assert float(stress[0, a, b]) == pytest.approx((plus - minus) / (2 * step * atoms.get_volume()), rel=1e-5)


# cutoff


@every_variant
def test_energy_and_forces_are_continuous_when_an_atom_crosses_the_cutoff(variant: str) -> None:
    model = make(variant)
    assert model.symmetry.smooth
    energy_jump, force_jump = checks.cutoff_jumps(potential_of(model), [1, 6, 8])
    assert energy_jump < 1e-10
    assert force_jump < 1e-5


@every_variant
def test_energy_jumps_at_the_cutoff_without_the_envelope(variant: str) -> None:
    """The control: the published form is not smooth."""
    model = make(variant, envelope=False)
    assert not model.symmetry.smooth
    energy_jump, force_jump = checks.cutoff_jumps(potential_of(model), [1, 6, 8])
    assert energy_jump > 1e-4
    assert force_jump > 1e-4


def test_second_derivative_is_continuous_at_the_cutoff() -> None:
    """Energy of a pair near the cutoff grows as the third power of the distance to it, the first that is left."""
    model = make()

    def window(gap: float) -> float:
        pair, far = (Atoms("CO", [[0, 0, 0], [0, 0.6 * d, 0.8 * d]]) for d in (model.cutoff - gap, 5.0))
        near_energy, far_energy = energies(model, pair, far)
        return abs(float(near_energy - far_energy))

    assert window(0.02) / window(0.01) == pytest.approx(8, rel=0.1)


# symmetry


def test_energy_changes_under_rotations_and_reflections() -> None:
    """The bare network has no such symmetry, and says so. It is what frames are measured against."""
    model = make()
    assert model.symmetry.group == "T(3)"
    atoms = checks.disordered_molecules(1)[0]
    for reflect in (False, True):
        assert checks.rotation_errors(potential_of(model), atoms, 5, reflect=reflect)[0] > 1e-3


@every_variant
def test_translations_and_renumbering_change_nothing(variant: str) -> None:
    potential = potential_of(make(variant))
    for atoms in [*checks.disordered_molecules(1), *checks.disordered_crystals(1)]:
        assert checks.translation_error(potential, atoms, 10.0) < 1e-11
        assert checks.permutation_error(potential, atoms, 5) < 1e-12


def test_vectors_are_components_in_the_axes_of_the_input() -> None:
    """Averaging over the group makes them equivariant; alone they are not: they ignore how the structure lies."""
    model = make(out_vectors=1, vector_head="res", vector_norm="layer", vector_channels=8)
    graph = build_graph(checks.disordered_molecules(1)[0], model.cutoff)
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(0))[0]
    before = model(graph).vectors
    after = model(graph.replace(pos=graph.pos @ rotation.mT)).vectors
    assert before.shape == (graph.num_nodes, 1, 3)
    assert (after - before @ rotation.mT).abs().max() > 1e-2


# separability


@every_variant
def test_far_fragments_and_supercells_add_up(variant: str) -> None:
    model = make(variant)
    assert model.symmetry.separable
    assert checks.separability_error(potential_of(model), checks.disordered_molecules(1)[0], 3) < 1e-11
    assert checks.supercell_error(potential_of(model), checks.disordered_crystals(1)[0], (1, 2, 3)) < 1e-11


@pytest.mark.parametrize("setting", [{"graph_norm": True}, {"skip": "concat", "envelope": False}])
def test_published_settings_that_are_not_separable_say_so(setting: dict[str, Any]) -> None:
    model = make(**setting)
    assert not model.symmetry.separable
    with torch.no_grad():
        if model.offset is not None:
            model.offset.fill_(1.0)
    one, other = checks.disordered_molecules(2)
    both = one + other
    both.positions[len(one) :] += 100.0
    single, alone, together = energies(model, one, other, both)
    assert abs(together - single - alone) > 1e-3


@pytest.mark.parametrize("setting", [{}, {"graph_norm": True}, {"skip": "concat", "envelope": False}])
def test_structures_of_a_batch_do_not_feel_each_other(setting: dict[str, Any]) -> None:
    structures = [*checks.disordered_molecules(3), *checks.disordered_crystals(2)]
    energy_error, force_error = checks.batch_error(potential_of(make(**setting)), structures)
    assert energy_error < 1e-12
    assert force_error < 1e-11
