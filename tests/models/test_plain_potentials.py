"""Networks of raw relative coordinates in potentials: derivatives, the smooth cutoff, separability, precision."""

from __future__ import annotations

import ase
import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from geomol import checks
from geomol.graph import build_graph
from geomol.models.mpnn import MPNN
from geomol.models.transformer import Transformer
from geomol.potential import Potential

ELEMENTS = [1, 6, 7, 8, 9, 16, 17]
MODELS: dict[str, type[MPNN] | type[Transformer]] = {"mpnn": MPNN, "transformer": Transformer}
both_models = pytest.mark.parametrize("name", list(MODELS))


def potential(name: str, dtype: torch.dtype = torch.float64, *, envelope: bool = True) -> Potential:
    """A potential with all its parameters moved off their start, so that every one of them matters."""
    torch.manual_seed(1)
    model = MODELS[name](elements=ELEMENTS, channels=8, num_layers=3, cutoff=4.0, envelope=envelope).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return Potential(model.to(dtype), elements=ELEMENTS, e0=[0.0] * 7, allow_discontinuous=not model.symmetry.smooth)


def molecule() -> ase.Atoms:
    return checks.disordered_molecules(1, seed=1, displacement=0.1)[0]


@both_models
def test_forces_are_minus_the_energy_gradient(name: str) -> None:
    assert np.abs(checks.forces_of(potential(name), molecule())).max() > 1e-3
    assert checks.force_error(potential(name), molecule()) < 1e-7


@both_models
def test_force_jacobian_is_symmetric(name: str) -> None:
    assert checks.jacobian_antisymmetry(potential(name), molecule()) < 1e-10


@both_models
def test_energy_and_forces_are_continuous_when_an_atom_crosses_the_cutoff_in_a_crowd(name: str) -> None:
    smooth, rough = potential(name), potential(name, envelope=False)
    assert smooth.symmetry.smooth
    assert not rough.symmetry.smooth
    energy_jump, force_jump = checks.cutoff_jumps(smooth, [1, 6, 8])
    assert energy_jump < 1e-10
    assert force_jump < 1e-5
    assert checks.cutoff_jumps(rough, [1, 6, 8])[0] > 1e-5, "the control"


@both_models
def test_a_list_longer_than_the_cutoff_changes_nothing(name: str) -> None:
    """Molecular dynamics keeps pairs a little beyond the cutoff in its list; scores of such pairs may be huge."""
    pot = potential(name)
    graph, longer = (build_graph(molecule(), cutoff) for cutoff in (4.0, 6.0))
    assert longer.num_edges > graph.num_edges
    torch.testing.assert_close(pot(longer).forces, pot(graph).forces, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        for layer in pot.backbone.layers:
            layer.from_edges.weight.mul_(1e3)
    for dtype in (torch.float64, torch.float32):
        forces = pot.to(dtype)(longer).forces
        assert torch.isfinite(forces).all()


@both_models
def test_far_fragments_add_up_and_supercells_are_extensive(name: str) -> None:
    assert checks.separability_error(potential(name), molecule(), 8) < 1e-11
    crystal = Atoms("CO", [[0.1, 0, 0], [1.2, 0.3, 1.1]], cell=[[2.4, 0.2, 0], [0, 3.1, 0.2], [0.3, 0, 2.9]], pbc=True)
    assert checks.supercell_error(potential(name), crystal, (1, 2, 3)) < 1e-11


@both_models
def test_an_isolated_atom_feels_no_force(name: str) -> None:
    assert np.array_equal(checks.forces_of(potential(name), Atoms("C", [[0.3, -0.2, 0.9]])), np.zeros((1, 3)))


@both_models
def test_a_nan_structure_leaves_its_batch_mates_alone(name: str) -> None:
    pot = potential(name)
    graph = build_graph([molecule()] * 3, pot.cutoff)
    pos = torch.where((graph.batch == 1)[:, None], torch.nan, graph.pos)
    clean, spoilt = pot(graph), pot(graph.replace(pos=pos))
    assert torch.equal(clean.forces[graph.batch != 1], spoilt.forces[graph.batch != 1])


@both_models
def test_float32_weights_keep_float64_positions(name: str) -> None:
    assert checks.translation_error(potential(name, torch.float32), molecule(), 1e6) < 1e-5
    exact, single = (checks.forces_of(potential(name, dtype), molecule()) for dtype in (torch.float64, torch.float32))
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, exact, rtol=1e-3, atol=1e-4 * np.abs(exact).max())


@both_models
def test_force_loss_gradient_equals_finite_differences_in_the_weights(name: str) -> None:
    pot = potential(name)
    graph = build_graph(molecule(), pot.cutoff)

    def loss() -> Tensor:
        forces = pot(graph, create_graph=True).forces
        assert forces is not None
        return forces.square().sum()

    # the last bias shifts the energy alone
    parameters = list(pot.parameters())[:-1]
    directions = [torch.randn_like(p) for p in parameters]
    gradients = torch.autograd.grad(loss(), parameters)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(step * d)
        values.append(loss().item())
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6)


@both_models
def test_coincident_atoms_have_finite_forces(name: str) -> None:
    graph = build_graph(Atoms("CO", [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), 4.0)
    forces = potential(name)(graph.replace(pos=torch.zeros_like(graph.pos))).forces
    assert forces is not None
    assert torch.isfinite(forces).all()
