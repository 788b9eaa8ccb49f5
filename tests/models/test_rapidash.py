"""Rapidash has the published sizes, equals PONITA where both are the same network, and an obvious loop elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geomol.graph import Graph
from geomol.models import Ponita, Rapidash
from tests.models.rapidash_case import SMALL, cloud

QM9 = {"in_scalars": 11, "channels": 256, "num_layers": 7}
UNUSED = 7 * 256 * 256  # what the published code holds without applying it


def num_parameters(**settings: object) -> int:
    return sum(p.numel() for p in Rapidash(**settings).parameters())


@pytest.mark.parametrize(
    ("orientations", "group", "published"),
    [
        ("fibonacci:8", "SE(n)", 5_132_161),
        ("none", "SE(n)", 4_638_465),
        ("none", "T(n)", 4_643_073),
        ("fibonacci:8", "T(n)", 5_150_209),
    ],
)
def test_published_settings_have_the_published_number_of_parameters(
    orientations: str, group: str, published: int
) -> None:
    given = {**QM9, "orientations": orientations, "kernel_group": group}
    assert num_parameters(**given, pre_linear=True) == published
    assert num_parameters(**given) == published - UNUSED


def test_the_generator_has_the_published_number_of_parameters() -> None:
    generator = {
        "channels": 256,
        "num_layers": 9,
        "in_scalars": 7,
        "out_scalars": 6,
        "out_vectors": 1,
        "orientations": "fibonacci:12",
        "basis_hidden": 256,
    }
    assert num_parameters(**generator, last_feature_conditioning=True) == 6_063_111
    assert num_parameters(**generator) != 6_063_111


# against PONITA, which is held to the official code


@pytest.mark.parametrize("cutoff", [float("inf"), 2.0])
@pytest.mark.parametrize("orientations", ["none", "design24"])
def test_the_network_of_se3_is_ponita(orientations: str, cutoff: float) -> None:
    vectors = {"in_vectors": 1, "out_vectors": 1} if orientations != "none" else {}
    shared = {**SMALL, **vectors, "orientations": orientations, "cutoff": cutoff, "out_scalars": 3}
    hidden = shared.pop("basis_hidden")
    ponita = Ponita(**shared, kernel="polynomial", degree=3, readout_every_block=False).double()
    ours = Rapidash(**shared, basis_hidden=hidden, degree=2).double()
    state = {}
    for name, value in ponita.state_dict().items():
        renamed = name.replace("blocks.", "trunk.blocks.0.").replace("basis.", "trunk.bases.0.")
        state[renamed.replace("readouts.0", "readout")] = value
    ours.load_state_dict(state)
    graph = near_pairs(cloud(num_vectors=len(vectors) // 2), cutoff)
    expected, found = ponita(graph), ours(graph)
    torch.testing.assert_close(found.scalars, expected.scalars, rtol=0, atol=1e-12)
    assert expected.scalars.std() > 1e-3
    if vectors:
        torch.testing.assert_close(found.vectors, expected.vectors, rtol=0, atol=1e-12)
    for model in (ponita, ours):
        model.calibrate(graph)
    torch.testing.assert_close(ours(graph).scalars, ponita(graph).scalars, rtol=0, atol=1e-10)


def near_pairs(graph: Graph, cutoff: float) -> Graph:
    keep = (graph.pos[graph.src] - graph.pos[graph.dst]).norm(dim=1) < cutoff
    counts = torch.bincount(graph.dst[keep], minlength=graph.num_nodes)
    return Graph(
        pos=graph.pos,
        numbers=graph.numbers,
        edge_index=graph.edge_index[:, keep],
        edge_ptr=torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
        cell_shift=graph.cell_shift[keep],
        cell=graph.cell,
        pbc=graph.pbc,
        batch=graph.batch,
        ptr=graph.ptr,
        node_scalars=graph.node_scalars,
        node_vectors=graph.node_vectors,
    )


# against loops, where PONITA has no counterpart


def powers(a: Tensor, num: int) -> Tensor:
    found = [a]
    for _ in range(num - 1):
        found.append(torch.stack([x * y for x in found[-1] for y in a]))
    return torch.cat(found)


@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("orientations", ["none", "octahedral", "circle:3"])
def test_one_convolution_of_t3_is_the_sum_over_pairs_of_x_times_kernel(orientations: str, self_loops: bool) -> None:
    model = Rapidash(
        **{**SMALL, "num_layers": 1},
        orientations=orientations,
        kernel_group="T(n)",
        self_loops=self_loops,
        last_feature_conditioning=True,
    ).double()
    graph = cloud(sizes=(3, 2))
    graph = graph.replace(pos=graph.pos * torch.tensor([1.0, 1.0, float(not orientations.startswith("circle"))]))
    block = model.trunk.blocks[0][0]
    seen: list[Tensor] = []
    block.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(graph)
    x, basis = model.lift(graph, model.grid), model.trunk.bases[0]
    grid = torch.zeros(1, 3, dtype=torch.float64) if model.grid is None else model.grid
    flat = orientations.startswith("circle")
    expected = torch.zeros(5, len(grid), 8, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            if graph.batch[i] != graph.batch[j] or (i == j and not self_loops):
                continue
            r = graph.pos[j] - graph.pos[i]
            for k, o in enumerate(grid):
                turned = torch.stack([-o[1], o[0], o[2]])
                row = [r @ o, r @ turned if flat else (r - (r @ o) * o).norm()]
                row = [] if model.grid is None else row
                a = torch.stack(
                    [*(r[:2] if flat else r), *row, graph.node_scalars[i, -1] * 0 + graph.node_scalars[j, -1]]
                )
                kernel = block.spatial.linear(basis.spatial(powers(a, 3)))
                expected[i, k] += kernel * (x[j] if model.grid is None else x[j, k])
    if model.grid is None:
        torch.testing.assert_close(seen[0], expected[:, 0] + block.bias, rtol=0, atol=1e-12)
        return
    mixed = torch.zeros_like(expected)
    for p in range(len(grid)):
        for k in range(len(grid)):
            kernel = block.fibre.linear(basis.fibre(powers((grid[p] @ grid[k])[None], 3)))
            mixed[:, p] += kernel * expected[:, k] / len(grid)
    torch.testing.assert_close(seen[0], mixed + block.bias, rtol=0, atol=1e-12)


def test_kernels_are_told_the_last_scalar() -> None:
    model = Rapidash(**SMALL, last_feature_conditioning=True).double()
    with torch.no_grad():
        model.embed.weight[:, 1] = 0.0  # not through the embedding
    graph = cloud()
    noisier = graph.replace(node_scalars=graph.node_scalars + torch.tensor([0.0, 1.0]))
    assert (model(noisier).scalars - model(graph).scalars).abs().max() > 1e-4
    deaf = Rapidash(**SMALL).double()
    with torch.no_grad():
        deaf.embed.weight[:, 1] = 0.0
    assert torch.equal(deaf(noisier).scalars, deaf(graph).scalars)


def test_messages_vanish_at_the_cutoff_with_the_envelope_alone() -> None:
    def jump(**settings: object) -> float:
        torch.manual_seed(0)
        model = Rapidash(**SMALL, orientations="none", cutoff=1.5, **settings).double()
        graph = cloud(sizes=(2,))
        apart = graph.pos.new_zeros(2, 3)
        apart[1, 0] = 1.5 - 1e-9
        graph = graph.replace(pos=apart)
        return float((model(graph).scalars - model(near_pairs(graph, 1.0)).scalars).abs().max().detach())

    assert jump() < 1e-12
    assert jump(basis="radial") < 1e-12
    assert jump(envelope=False) > 1e-3
    assert not Rapidash(**SMALL, cutoff=1.5, envelope=False).symmetry.smooth


def test_pre_linear_is_applied_and_layer_scale_starts_near_the_identity() -> None:
    graph = cloud()
    model = Rapidash(**SMALL, pre_linear=True).double()
    before = model(graph).scalars
    with torch.no_grad():
        model.trunk.blocks[0][0].pre_linear.weight.mul_(2)
    assert (model(graph).scalars - before).abs().max() > 1e-6
    still = Rapidash(**SMALL, layer_scale=1e-6).double()
    torch.testing.assert_close(
        still.hidden(graph), still.lift(graph, still.grid).expand_as(still.hidden(graph)), rtol=0, atol=1e-4
    )
