"""FAENet reproduces the official implementation, bare and averaged over frames."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from geomol.graph import Graph
from geomol.models.faenet import FAENet
from geomol.models.faenet_inputs import period_and_group
from geomol.ops import segment_mean, segment_sum
from tests.models.faenet_official import energy_and_forces, graph_of, load_case, model_of, needs_golden

CASES = ("molecules_all", "molecule_graphnorm_se3", "molecules_from_energy", "crystals")
every_case = pytest.mark.parametrize("case", CASES)


def energy_of(model: FAENet, graph: Graph) -> Tensor:
    return segment_sum(model(graph).scalars[:, 0], graph.ptr)


def frames(graph: Graph, *, proper: bool) -> list[Tensor]:
    """Principal axes of each structure as columns, (G, 3, 3), in all choices of signs, or those of determinant 1."""
    centred = graph.pos - segment_mean(graph.pos, graph.ptr)[graph.batch]
    axes = torch.linalg.eigh(segment_sum(centred[:, :, None] * centred[:, None, :], graph.ptr))[1].flip(-1)
    out = []
    for signs in product((1.0, -1.0), repeat=3):
        rotation = axes * torch.tensor(signs, dtype=torch.float64)
        if proper:
            flip = torch.linalg.det(rotation) < 0
            if bool(flip.any()):
                assert bool(flip.all()), "one structure, or signs chosen structure by structure"
                continue
        out.append(rotation)
    return out


def average(model: FAENet, graph: Graph, chosen: list[Tensor]) -> tuple[Tensor, Tensor]:
    centred = graph.pos - segment_mean(graph.pos, graph.ptr)[graph.batch]
    energies, forces = [], []
    for rotation in chosen:
        pos = (centred[:, None] @ rotation[graph.batch])[:, 0]
        energy, force = energy_and_forces(model, graph.replace(pos=pos, cell=graph.cell @ rotation))
        energies.append(energy)
        forces.append((force[:, None] @ rotation.mT[graph.batch])[:, 0])
    return torch.stack(energies).mean(0), torch.stack(forces).mean(0)


@needs_golden
@every_case
def test_bare_outputs_equal_the_official_implementation(case: str) -> None:
    meta, arrays = load_case(case)
    model, graph = model_of(meta["config"], arrays), graph_of(arrays)
    energy, forces = energy_and_forces(model, graph)
    torch.testing.assert_close(model.hidden(graph), arrays["outputs/hidden_without_frames"], **meta["tolerance"])
    torch.testing.assert_close(energy, arrays["outputs/energy_without_frames"], **meta["tolerance"])
    torch.testing.assert_close(forces, arrays["outputs/forces_without_frames"], **meta["tolerance"])


@needs_golden
@every_case
def test_frame_averages_equal_the_official_implementation(case: str) -> None:
    meta, arrays = load_case(case)
    model, graph = model_of(meta["config"], arrays), graph_of(arrays)
    chosen = frames(graph, proper=meta["config"]["fa_method"] == "se3-all")
    energy, forces = average(model, graph, chosen)
    torch.testing.assert_close(energy, arrays["outputs/energy"], **meta["tolerance"])
    torch.testing.assert_close(forces, arrays["outputs/forces"], **meta["tolerance"])
    # the control: the frames matter, one alone does not give the average
    assert not torch.allclose(average(model, graph, chosen[:1])[0], energy, rtol=1e-4)


@needs_golden
@every_case
def test_reference_is_missed_by_a_network_that_differs(case: str) -> None:
    """The control: Gaussians of a wrong width, reversed vectors, or any weight off by 1 %."""
    meta, arrays = load_case(case)
    model, graph = model_of(meta["config"], arrays), graph_of(arrays)
    expected = arrays["outputs/energy_without_frames"]

    def missed() -> bool:
        return not torch.allclose(energy_of(model, graph), expected, **meta["tolerance"])

    with torch.no_grad():
        assert not missed()
        for name, parameter in model.named_parameters():
            before = parameter.clone()
            parameter.mul_(1.01)
            assert missed() or name.startswith("vectors"), name
            parameter.copy_(before)
        model.edges.width *= 1.01
        assert missed()
        model.edges.width /= 1.01
        graph = graph.replace(pos=-graph.pos, cell=-graph.cell)
        assert missed()


@needs_golden
def test_graph_norm_does_not_mix_structures() -> None:
    """The published code does: there, two copies in a batch change each other unless they are alike."""
    meta, arrays = load_case("molecule_graphnorm_se3")
    model, graph = model_of(meta["config"], arrays), graph_of(arrays)
    num = graph.num_nodes
    two = Graph(
        pos=torch.cat([graph.pos, 1.1 * graph.pos]),
        numbers=graph.numbers.repeat(2),
        edge_index=torch.cat([graph.edge_index, graph.edge_index + num], dim=1),
        edge_ptr=torch.cat([graph.edge_ptr, graph.edge_ptr[1:] + graph.num_edges]),
        cell_shift=graph.cell_shift.repeat(2, 1),
        cell=graph.cell.repeat(2, 1, 1),
        pbc=graph.pbc.repeat(2, 1),
        batch=torch.cat([graph.batch, graph.batch + 1]),
        ptr=torch.tensor([0, num, 2 * num]),
    )
    energy, forces = energy_and_forces(model, two)
    torch.testing.assert_close(energy[:1], arrays["outputs/energy_without_frames"], **meta["tolerance"])
    torch.testing.assert_close(forces[:num], arrays["outputs/forces_without_frames"], **meta["tolerance"])


@needs_golden
def test_periods_and_groups_equal_the_table_of_the_official_implementation() -> None:
    _, arrays = load_case("molecules_all")
    places = torch.tensor([period_and_group(z) for z in range(101)])
    assert torch.equal(places[:, 0], arrays["weights/embed_block.phys_emb.period"])
    assert torch.equal(places[:, 1], arrays["weights/embed_block.phys_emb.group"])
