"""Lie derivatives: closed forms, identities, agreement of all methods, and the layer at fault."""

from __future__ import annotations

import pytest
import torch
from symmetry.planted import E3, KINDS, Chain, model_of, pairs, reads_bond_z, reads_z, tells_hands_apart
from torch import Tensor

from geomol.checks import disordered_crystals, disordered_molecules
from geomol.checks.audit import PotentialOutputs
from geomol.errors import ConfigError, GeomolError
from geomol.graph import Graph, build_graph, edge_vectors
from geomol.models import EGNN
from geomol.ops import segment_sum
from geomol.potential import Potential
from geomol.symmetry.actions import TARGETS, Kind, about, act_on_graph, act_on_target
from geomol.symmetry.audit import (
    METHODS,
    READOUT,
    choose_method,
    derivative,
    identity_errors,
    layer_shares,
    lee,
    lie_derivatives,
    momentum,
)
from geomol.symmetry.audit.lie import centres
from geomol.symmetry.groups import Element, rotation_generators, translation_generators

SCALAR = {"label": TARGETS["label"]}


@pytest.fixture(scope="module")
def molecules() -> Graph:
    return build_graph(disordered_molecules(3, seed=1), 4.0)


@pytest.fixture(scope="module")
def crystals() -> Graph:
    return build_graph(disordered_crystals(3, seed=1), 4.0)


def total(values: Tensor, graph: Graph) -> Tensor:
    """Sum of each structure by an operator that every method can differentiate (`segment_sum` has no forward rule)."""
    return values.new_zeros(graph.num_graphs).index_add(0, graph.batch, values)


def squared_size(graph: Graph) -> dict[str, Tensor]:
    arms = graph.pos - centres(graph.replace(pos=graph.pos.detach()))[graph.batch]
    return {"label": total(arms.square().sum(1), graph)}


@pytest.mark.parametrize("method", METHODS)
def test_the_squared_size_does_not_change_under_rotations(molecules, method):
    found, _ = lie_derivatives(squared_size, molecules, SCALAR, method=method)
    size = float(squared_size(molecules)["label"].max())
    turns = [d for d in found if d.generator.kind == "rotation"]
    bar = 1e-12 if method != "finite differences" else 1e-11
    assert len(turns) == 3
    assert all(d.worst <= bar * size for d in turns)


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_function_turns_by_its_weight_along_the_axis_cross_x(molecules, method):
    weight = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    found, _ = lie_derivatives(lambda g: {"label": total(g.pos @ weight, g)}, molecules, SCALAR, method=method)
    arms = molecules.pos - centres(molecules)[molecules.batch]
    for k, entry in enumerate(d for d in found if d.generator.kind == "rotation"):
        axis = torch.eye(3, dtype=torch.float64)[k].expand_as(arms)
        expected = segment_sum(torch.linalg.cross(axis, arms) @ weight, molecules.ptr)
        assert torch.allclose(entry.value, expected, atol=1e-10)
    for k, entry in enumerate(d for d in found if d.generator.kind == "translation"):
        expected = molecules.ptr.diff() * weight[k]
        assert torch.allclose(entry.value, expected, atol=1e-10)


@pytest.mark.parametrize("node_energy", [pairs, reads_z, reads_bond_z, tells_hands_apart])
def test_the_lie_derivatives_of_an_energy_are_minus_net_force_and_net_torque(molecules, node_energy):
    model = model_of(node_energy)
    found, _ = lie_derivatives(model, molecules, KINDS)
    forces = model(molecules)["forces"].detach()
    assert max(identity_errors(molecules, forces, found)) < 1e-12
    at = momentum(molecules, forces)
    shifts = [d.value for d in found if d.output == "energy" and d.generator.kind == "translation"]
    assert torch.allclose(torch.stack(shifts, -1), -at.force, atol=1e-11)


def test_forces_that_are_no_gradient_break_the_identities(molecules):
    model = model_of(pairs, curl=0.1)
    found, _ = lie_derivatives(model, molecules, KINDS)
    assert min(identity_errors(molecules, model(molecules)["forces"].detach(), found)) > 1e-4


def test_the_net_force_of_a_crystal_obeys_its_identity(crystals):
    model = model_of(reads_z)
    found, _ = lie_derivatives(model, crystals, KINDS)
    assert identity_errors(crystals, model(crystals)["forces"].detach(), found)[0] < 1e-12


@pytest.mark.parametrize("node_energy", [reads_z, reads_bond_z])
def test_lie_derivatives_are_slopes_of_the_turned_back_output(molecules, crystals, node_energy):
    """The witness: central differences of ρ(g_t)⁻¹ f(g_t x) with the finite actions."""
    model, step = model_of(node_energy), 1e-4
    for graph in (molecules, crystals):
        found, _ = lie_derivatives(model, graph, KINDS)
        for generator in (*translation_generators(), *rotation_generators()):
            ends: list[dict[str, Tensor]] = []
            for t in (step, -step):
                g = generator.element(t)
                turned = about(g.rotation, centres(graph))
                element = Element(turned.rotation, turned.translation + g.translation)
                moved = act_on_graph(element, graph)
                ends.append({n: act_on_target(KINDS[n], v, element.inverse(), moved) for n, v in model(moved).items()})
            for entry in found:
                if entry.generator.name == generator.name:
                    numeric = (ends[0][entry.output] - ends[1][entry.output]).detach() / (2 * step)
                    scale = max(float(numeric.abs().max()), 1e-3)
                    assert float((entry.value - numeric).abs().max()) < 1e-4 * scale


def test_lee_is_the_sum_of_mean_squares_and_vanishes_for_an_exact_model(molecules):
    for node_energy, broken in ((pairs, False), (reads_bond_z, True)):
        found, _ = lie_derivatives(model_of(node_energy), molecules, KINDS)
        value = lee(found, "energy", molecules, KINDS["energy"])
        expected = sum(float(d.value.square().mean()) for d in found if d.output == "energy")
        assert value == pytest.approx(expected)
        assert (value > 1e-4) == broken
        assert value > 1e-4 or value < 1e-24


def test_a_method_that_an_operator_refuses_is_not_chosen(molecules):
    """`segment_sum` has no derivative in forward mode."""
    kinds = {"energy": KINDS["energy"]}

    def model(graph: Graph) -> dict[str, Tensor]:
        return {"energy": segment_sum(reads_z(graph), graph.ptr)}

    def path(t: Tensor) -> Graph:
        return molecules.replace(pos=molecules.pos + t * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))

    with pytest.raises(NotImplementedError, match="forward mode"):
        derivative(model, path, kinds, method="forward", at=molecules.pos)
    true = derivative(model, path, kinds, method="double backward", at=molecules.pos)["energy"]
    assert float(true.abs().min()) > 1e-3
    assert choose_method(model, molecules, kinds) == "double backward"
    assert choose_method(squared_size, molecules, SCALAR) == "forward"
    assert choose_method(lambda g: {"label": squared_size(g)["label"].detach()}, molecules, SCALAR) == METHODS[2]


def test_fused_operators_without_a_third_derivative_leave_finite_differences(molecules, monkeypatch):
    """On a CUDA device the edge block of EGNN is one: a Lie derivative of forces asks for three."""
    elements = sorted(set(molecules.numbers.tolist()))
    backbone = EGNN(elements=elements, channels=4, num_layers=1, cutoff=4.0)
    potential = Potential(backbone, elements=elements, e0=[0.0] * len(elements)).double()
    outputs, kinds = PotentialOutputs(potential), {name: TARGETS[name] for name in ("energy", "forces")}
    monkeypatch.setattr("geomol.models.egnn_layer.has_kernels", lambda *tensors: True)
    with pytest.raises(GeomolError, match="no third derivative"):
        lie_derivatives(outputs, molecules, kinds, method="double backward")
    assert choose_method(outputs, molecules, kinds) == "finite differences"


def test_vectors_and_tensors_have_the_derivative_of_their_kind(molecules):
    def outputs(graph: Graph) -> dict[str, Tensor]:
        vec = edge_vectors(graph)
        pull = vec * torch.exp(-vec.square().sum(1))[:, None]
        forces = torch.zeros_like(graph.pos).index_add(0, graph.dst, pull)
        stress = torch.zeros(graph.num_graphs, 3, 3, dtype=torch.float64)
        return {
            "forces": forces,
            "stress": stress.index_add(0, graph.batch[graph.dst], vec[:, :, None] * pull[:, None]),
            "positions": graph.pos + forces,
        }

    kinds = {name: TARGETS[name] for name in ("forces", "stress", "positions")}
    found, _ = lie_derivatives(outputs, molecules, kinds)
    assert all(d.worst < 1e-12 for d in found)
    wrong = {"forces": Kind("scalar", "node"), "stress": Kind("scalar", "structure"), "positions": TARGETS["forces"]}
    found, _ = lie_derivatives(outputs, molecules, wrong)
    for name in wrong:
        assert max(d.worst for d in found if d.output == name) > 0.1


@pytest.mark.parametrize("culprit", [0, 1, 2])
def test_the_layer_at_fault_has_the_share_and_all_shares_sum_to_the_whole(molecules, culprit):
    model = Chain(culprit)
    for generator in rotation_generators():
        shares = layer_shares(model, molecules, SCALAR, generator, dict(model.stages))["label"]
        found, _ = lie_derivatives(model, molecules, SCALAR)
        whole = next(d.value for d in found if d.generator.name == generator.name)
        summed = torch.stack(list(shares.values())).sum(0)
        assert torch.allclose(summed, whole, rtol=1e-6, atol=1e-12)
        sizes = {name: float(value.abs().max()) for name, value in shares.items()}
        assert sizes.pop(f"stage {culprit}") > 1e-5 or generator.name == "rotation z"
        assert max(sizes.values()) < 1e-12


@pytest.mark.parametrize("method", METHODS[1:])
def test_shares_sum_to_the_whole_where_several_layers_err(molecules, method):
    model = Chain(0, 2)
    generator = rotation_generators()[0]
    shares = layer_shares(model, molecules, SCALAR, generator, dict(model.stages), method=method)["label"]
    found, _ = lie_derivatives(model, molecules, SCALAR, method=method)
    whole = next(d.value for d in found if d.generator.name == generator.name)
    assert torch.allclose(torch.stack(list(shares.values())).sum(0), whole, rtol=1e-6, atol=1e-10)
    assert float(shares["stage 0"].abs().max()) > 1e-3
    assert float(shares["stage 2"].abs().max()) > 1e-3
    assert float(shares["stage 1"].abs().max()) < 1e-9


def test_a_layer_of_vectors_is_held_to_turn(molecules):
    model = Chain(vectors=True)
    generator = rotation_generators()[1]
    actions = {"vectors": "vector"}
    layers = {"vectors": model.vectors}
    good = layer_shares(model, molecules, SCALAR, generator, layers, actions=actions)["label"]
    assert all(float(value.abs().max()) < 1e-12 for value in good.values())
    declared_wrong = layer_shares(model, molecules, SCALAR, generator, layers)["label"]
    assert float(declared_wrong["vectors"].abs().max()) > 1e-3
    assert torch.allclose(declared_wrong["vectors"], -declared_wrong[READOUT], atol=1e-12), "and the whole is 0"
    with pytest.raises(ConfigError, match="unknown action"):
        layer_shares(model, molecules, SCALAR, generator, layers, actions={"vectors": "tensor"})


def test_the_claims_used_here_are_those_of_the_planted_models():
    assert E3.group == "E(3)"
