"""The potential: offsets, scale, what it refuses, and derivatives beyond the first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from geomol.errors import ConfigError, GeomolError, ModelDomainError
from geomol.graph import build_graph
from geomol.models import EGNN, MODELS, Ponita
from geomol.potential import Potential, hessian_vector
from geomol.symmetry import build_backbone


@pytest.fixture
def potential() -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = EGNN(elements=[1, 6, 8], channels=12, num_layers=2, cutoff=4.0)
    return Potential(backbone, elements=[1, 6, 8], e0=[-13.5, -1029.0, -2042.0], scale=0.7).double()


def test_energy_is_offsets_plus_scaled_node_outputs(potential: Potential) -> None:
    graph = build_graph(molecule("CH3CH2OH"), potential.cutoff)
    out = potential(graph)
    learned = potential.backbone(graph).scalars.sum().item()
    assert out.energy.item() == pytest.approx(2 * -1029.0 - 2042.0 + 6 * -13.5 + 0.7 * learned, abs=1e-10)
    assert out.node_energy.sum().item() == pytest.approx(out.energy.item(), abs=1e-10)


def test_large_offsets_cost_no_precision_in_float32(potential: Potential) -> None:
    """Gold-like totals of 10⁶ eV: float32 would resolve 0.06 eV there."""
    graph = build_graph([molecule("CH3CH2OH"), molecule("CH3OCH3")], potential.cutoff)
    shifted = Potential(potential.backbone, elements=[1, 6, 8], e0=[-1e6 / 9] * 3, scale=0.7).float()
    a, b = shifted(graph).energy
    plain = Potential(potential.backbone, elements=[1, 6, 8], e0=[0.0] * 3, scale=0.7)
    c, d = plain(graph).energy
    assert (a - b).item() == pytest.approx((c - d).item(), abs=1e-8)


def test_results_are_detached_unless_training_asks(potential: Potential) -> None:
    graph = build_graph(molecule("H2O"), potential.cutoff)
    for out in (potential(graph), potential(graph, forces=False)):
        assert not out.energy.requires_grad
    out = potential(graph, create_graph=True)
    assert out.forces.requires_grad
    assert out.energy.requires_grad


@pytest.mark.parametrize("forces", [False, True])
def test_positions_that_require_a_gradient_get_it(potential: Potential, forces: bool) -> None:
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=0)
    graph = build_graph(atoms, potential.cutoff)

    def energy(pos: Tensor) -> Tensor:
        return potential(graph.replace(pos=pos), forces=forces).energy.sum()

    def all_forces(pos: Tensor) -> Tensor:
        return potential(graph.replace(pos=pos)).forces

    gradient = torch.autograd.functional.jacobian(energy, graph.pos)
    torch.testing.assert_close(gradient, -potential(graph).forces, atol=1e-12, rtol=0)
    hessian = torch.autograd.functional.hessian(energy, graph.pos)
    torch.testing.assert_close(hessian, -torch.autograd.functional.jacobian(all_forces, graph.pos), atol=1e-12, rtol=0)
    step = torch.zeros_like(graph.pos)
    step[1, 2] = 1e-4
    numeric = (all_forces(graph.pos - step) - all_forces(graph.pos + step)) / 2e-4
    assert numeric.abs().max() > 1e-3
    torch.testing.assert_close(hessian[1, 2], numeric, atol=1e-7, rtol=0)
    with torch.no_grad():
        pos = graph.pos.clone().requires_grad_()
        out = potential(graph.replace(pos=pos), forces=forces)
        assert not out.energy.requires_grad
        assert not forces or not out.forces.requires_grad


def test_forces_come_out_the_same_inside_no_grad(potential: Potential) -> None:
    graph = build_graph(molecule("H2O"), potential.cutoff)
    expected = potential(graph).forces
    with torch.no_grad():
        assert torch.equal(potential(graph).forces, expected)


def test_hessian_vector_products_are_differences_of_forces(potential: Potential) -> None:
    atoms = molecule("H2O")
    direction = np.random.default_rng(0).normal(size=(3, 3))
    step = 1e-4
    forces = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * step * direction
        forces.append(potential(build_graph(moved, potential.cutoff)).forces.numpy())
    numeric = -(forces[0] - forces[1]) / (2 * step)
    product = hessian_vector(potential, build_graph(atoms, potential.cutoff), torch.from_numpy(direction)).numpy()
    assert np.abs(product).max() > 1e-3
    np.testing.assert_allclose(product, numeric, atol=1e-7)


def test_config_rebuilds_the_same_architecture(potential: Potential) -> None:
    copy = Potential.from_config(potential.config).double()
    copy.load_state_dict(potential.state_dict())
    graph = build_graph(molecule("CH3CH2OH"), potential.cutoff)
    assert torch.equal(copy(graph).forces, potential(graph).forces)


def test_a_backbone_outside_the_registry_has_no_config(potential: Potential) -> None:
    class Private(EGNN):
        pass

    private = Potential(Private(elements=[1], channels=4), elements=[1], e0=[0.0])
    with pytest.raises(ConfigError, match="Private is not in MODELS"):
        _ = private.config


def test_stress_needs_a_cell(potential: Potential) -> None:
    with pytest.raises(GeomolError, match="stress of a structure without a cell"):
        potential(build_graph(molecule("H2O"), potential.cutoff), stress=True)


def test_stress_of_small_and_large_cells_is_the_same_intensive_quantity(potential: Potential) -> None:
    small = bulk("C", "diamond", a=3.4)
    large = small.repeat((2, 3, 2))
    stresses = [potential(build_graph(a, potential.cutoff), stress=True).stress[0] for a in (small, large)]
    torch.testing.assert_close(*stresses, atol=1e-12, rtol=1e-10)
    assert stresses[0].abs().max() > 1e-6


def test_derivatives_in_inference_mode_are_refused(potential: Potential) -> None:
    graph = build_graph(molecule("H2O"), potential.cutoff)
    with torch.inference_mode():
        assert torch.isfinite(potential(graph, forces=False).energy).all()
        with pytest.raises(GeomolError, match="inference mode"):
            potential(graph)


@pytest.mark.parametrize("channels", [0, -3, [8, 0]])
def test_backbones_without_a_width_are_refused(channels: object) -> None:
    with pytest.raises(ConfigError, match="at least one channel"):
        build_backbone({"name": "ponita", "elements": [1], "channels": channels})


def test_a_ponita_without_inputs_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs node inputs"):
        Ponita()
    graph = build_graph(molecule("H2O"), 5.0).replace(node_vectors=torch.randn(3, 1, 3))
    assert torch.isfinite(Ponita(in_vectors=1, cutoff=5.0)(graph).scalars).all()


def test_unknown_elements_are_refused_with_the_known_ones(potential: Potential) -> None:
    with pytest.raises(ModelDomainError, match=r"expected atomic numbers \[1, 6, 8\], got \[7\]"):
        potential(build_graph(Atoms("N2", [[0, 0, 0], [0, 0, 1.1]]), potential.cutoff))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"elements": [1, 6], "e0": [0.0]}, "one energy per element"),
        ({"elements": [1, 1], "e0": [0.0, 0.0]}, "distinct atomic numbers"),
        ({"elements": [1, 300], "e0": [0.0, 0.0]}, "distinct atomic numbers"),
    ],
)
def test_impossible_elements_are_refused(potential: Potential, arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Potential(potential.backbone, **arguments)


def test_a_backbone_with_two_outputs_is_no_potential() -> None:
    backbone = Ponita(elements=[1, 8], out_scalars=2, channels=4, num_layers=1)
    with pytest.raises(ConfigError, match="out_scalars = 1, got 2"):
        Potential(backbone, elements=[1, 8], e0=[0.0, 0.0])(build_graph(molecule("H2O"), 6.0))


def test_backbones_are_built_by_name_and_faults_explained() -> None:
    assert type(build_backbone({"name": "egnn", "elements": [1]})) is MODELS["egnn"]
    with pytest.raises(ConfigError, match=r'unknown model "ponta"; did you mean "ponita"'):
        build_backbone({"name": "ponta"})
    with pytest.raises(ConfigError, match=r'arguments of model "egnn".*chanels'):
        build_backbone({"name": "egnn", "chanels": 3})


def test_backbones_whose_energies_jump_are_refused_unless_accepted() -> None:
    jumping = {"name": "egnn", "elements": [1], "cutoff": 3.0, "envelope": False}
    with pytest.raises(ConfigError, match="jump where an atom crosses the cutoff"):
        Potential(build_backbone(jumping), elements=[1], e0=[0.0])
    posed = {"name": "frame_averaging", "frames": "pca", "backbone": {"name": "mpnn", "elements": [1]}}
    with pytest.raises(ConfigError, match="pose of a structure is not unique"):
        Potential(build_backbone(posed), elements=[1], e0=[0.0])
    accepted = Potential(build_backbone(posed), elements=[1], e0=[0.0], allow_discontinuous=True)
    assert Potential.from_config(accepted.config).allow_discontinuous


def test_a_graph_without_all_pairs_is_refused(potential: Potential) -> None:
    ethanol = molecule("CH3CH2OH")
    whole, wider = (potential(build_graph(ethanol, cutoff)).energy for cutoff in (4.0, 6.0))
    torch.testing.assert_close(wider, whole)
    with pytest.raises(ConfigError, match="lacks pairs"):
        potential(build_graph(ethanol, 2.0))
