"""Rapidash over several scales: which points are kept, who sends to whom, and what symmetry is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from geomol.errors import ModelDomainError
from geomol.geometry import random_rotations
from geomol.geometry.grids import icosahedral_rotations
from geomol.graph import Graph, complete_graph
from geomol.models import Rapidash
from geomol.models.rapidash_scales import build_scales

UNET = {
    "channels": [8, 6, 10],
    "basis_dim": 12,
    "basis_hidden": 8,
    "num_layers": [1, 2, 1],
    "edges": ["knn-4", "radius-2.5", "fc"],
    "ratios": [0.5, 0.5],
    "in_scalars": 2,
}
DEPTHS = (1, 2, 1)
SIZES = (17, 1, 12)


def cloud(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Graph:
    rng = torch.Generator().manual_seed(seed)
    num = sum(sizes)
    pos = torch.randn(num, 3, generator=rng, dtype=torch.float64)
    scalars = torch.randn(num, 2, generator=rng, dtype=torch.float64)
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    return without_edges(complete_graph(pos, torch.zeros(num, dtype=torch.long), ptr, node_scalars=scalars))


def without_edges(graph: Graph) -> Graph:
    return graph.replace(
        edge_index=graph.edge_index[:, :0], edge_ptr=torch.zeros_like(graph.edge_ptr), cell_shift=graph.cell_shift[:0]
    )


def unet(seed: int = 0, **settings: object) -> Rapidash:
    torch.manual_seed(seed)
    model = Rapidash(**{**UNET, "orientations": "none", **settings}).double().eval()
    model.calibrate(cloud(seed=5))
    return model


def moved(graph: Graph, turn: Tensor, shift: float = 0.0) -> Graph:
    return graph.replace(pos=graph.pos @ turn.T + shift)


# the scales themselves


def test_scales_are_farthest_points_joined_as_asked() -> None:
    graph = cloud((16,))
    fine, middle, coarse = build_scales(graph, UNET["edges"], [0.5, 0.5], float("inf"), torch.float64, DEPTHS)
    assert [len(s.node) for s in (fine, middle, coarse)] == [16, 8, 4]
    assert set(coarse.node.tolist()) < set(middle.node.tolist())
    assert coarse.down is None
    assert torch.bincount(fine.within.edges.dst).tolist() == [4] * 16
    assert len(coarse.within.edges.src) == 4 * 3
    for scale, below in ((fine, middle), (middle, coarse)):
        pos, kept = graph.pos[scale.node], graph.pos[below.node]
        nearest = torch.cdist(pos, kept).argmin(1)
        assert torch.equal(scale.nearest, nearest)
        down, up = scale.down, scale.up
        assert set(zip(down.edges.src.tolist(), down.edges.dst.tolist(), strict=True)) == set(
            enumerate(nearest.tolist())
        )
        assert up.edges.dst.tolist() == list(range(len(pos)))
        assert torch.equal(up.edges.src, nearest)
        torch.testing.assert_close(up.vec, kept[nearest] - pos)
        torch.testing.assert_close(down.vec, pos[down.edges.src] - kept[down.edges.dst])
    inner = torch.cdist(graph.pos[middle.node], graph.pos[middle.node]) < 2.5
    assert len(middle.within.edges.src) == int(inner.sum()) - 8


def test_a_transition_is_the_sum_over_the_points_of_a_cell_times_kernel() -> None:
    model, graph = unet(num_layers=0), cloud((9,))
    model.double()
    seen: dict[str, Tensor] = {}
    for name, block in (("down", model.trunk.downs[0]), ("up", model.trunk.ups[0])):
        block.norm.register_forward_pre_hook(lambda module, given, name=name: seen.setdefault(name, given[0]))
    inputs: list[Tensor] = []
    model.trunk.ups[0].register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    model(graph)
    scale = build_scales(graph, model.edges, model.ratios, float("inf"), torch.float64, DEPTHS)[0]
    kept, x, basis = graph.pos[scale.down.edges.dst.unique()], model.lift(graph, model.grid), model.trunk.bases[0]
    kept = graph.pos[build_scales(graph, model.edges, model.ratios, float("inf"), torch.float64, DEPTHS)[1].node]

    def kernel(block: torch.nn.Module, r: Tensor) -> Tensor:
        d = r.norm()
        return block.spatial.linear(basis.spatial(torch.stack([d, d**2, d**3])))

    down, up = model.trunk.downs[0], model.trunk.ups[0]
    expected = torch.zeros(len(kept), 8, dtype=torch.float64)
    back = torch.zeros(9, 6, dtype=torch.float64)
    for i in range(9):
        c = int((kept - graph.pos[i]).norm(dim=1).argmin())
        expected[c] += kernel(down, graph.pos[i] - kept[c]) * x[i]
        back[i] = kernel(up, kept[c] - graph.pos[i]) * inputs[0][c]
    torch.testing.assert_close(seen["down"], expected + down.bias, rtol=0, atol=1e-12)
    torch.testing.assert_close(seen["up"], back + up.bias, rtol=0, atol=1e-12)


# symmetry


@pytest.mark.parametrize("level", ["node", "graph"])
def test_over_scales_r3_keeps_motions_and_renumbering_to_rounding(level: str) -> None:
    model, graph = unet(level=level), cloud()
    out = model(graph).scalars
    assert out.shape == (30, 1)
    assert out.std() > 1e-2
    turn = random_rotations(1, generator=torch.Generator().manual_seed(0))[0]
    for other in (moved(graph, turn), moved(graph, -turn), moved(graph, torch.eye(3, dtype=torch.float64), 4.0)):
        torch.testing.assert_close(model(other).scalars, out, rtol=0, atol=1e-11)
    order = torch.cat([torch.randperm(17), torch.tensor([17]), 18 + torch.randperm(12)])
    other = graph.replace(pos=graph.pos[order], node_scalars=graph.node_scalars[order])
    torch.testing.assert_close(model(other).scalars, out[order], rtol=0, atol=1e-11)


def test_over_scales_a_grid_is_exact_on_its_own_group_and_translations_alone_hold_for_tn() -> None:
    graph, turn = cloud(), icosahedral_rotations()[17]
    for group, holds in (("SE(n)", True), ("T(n)", False)):
        model = unet(orientations="icosahedral", kernel_group=group, out_vectors=1)
        out, turned = model(graph), model(moved(graph, turn))
        errors = [(turned.scalars - out.scalars).abs().max(), (turned.vectors - out.vectors @ turn.T).abs().max()]
        assert max(errors) < 1e-11 if holds else min(errors) > 1e-4
        shifted = model(moved(graph, torch.eye(3, dtype=torch.float64), 4.0))
        torch.testing.assert_close(shifted.vectors, out.vectors, rtol=0, atol=1e-11)
    assert not model.symmetry.continuous
    assert not model.symmetry.smooth


def test_structures_of_a_batch_do_not_see_each_other() -> None:
    model, graph = unet(), cloud()
    alone = torch.cat(
        [model(without_edges(part(graph, a, b))).scalars for a, b in zip(graph.ptr, graph.ptr[1:], strict=False)]
    )
    torch.testing.assert_close(model(graph).scalars, alone, rtol=0, atol=1e-12)


def part(graph: Graph, a: Tensor, b: Tensor) -> Graph:
    return complete_graph(
        graph.pos[a:b], graph.numbers[a:b], torch.tensor([0, int(b - a)]), node_scalars=graph.node_scalars[a:b]
    )


# what scales are for


def test_a_point_far_along_a_chain_is_felt_over_scales_alone() -> None:
    num = 24
    pos = torch.zeros(num, 3, dtype=torch.float64)
    pos[:, 0] = torch.arange(num) + 0.1 * torch.rand(num, dtype=torch.float64)
    ptr = torch.tensor([0, num])
    graph = complete_graph(pos, torch.zeros(num, dtype=torch.long), ptr, node_scalars=torch.randn(num, 2).double())
    scalars = graph.node_scalars.clone()
    scalars[-1] += 1.0
    one = unet(edges="knn-2", ratios=[], channels=8, num_layers=2)
    for model, felt in ((one, False), (unet(), True)):
        change = (model(graph.replace(node_scalars=scalars)).scalars - model(graph).scalars)[0].abs()
        assert bool(change > 0) is felt


def test_without_the_way_back_points_of_a_cell_share_their_features() -> None:
    model, graph = unet(level="graph", readout="none"), cloud((16,))
    assert not len(model.trunk.ups)
    out = model(graph).scalars
    assert out.shape == (16, 10)
    assert model.num_features == 10
    assert len(torch.unique(out, dim=0)) == 4  # the points of the coarsest scale
    back = unet(readout="none")
    assert len(torch.unique(back(graph).scalars, dim=0)) == 16
    assert back.num_features == 8


def test_one_basis_may_serve_all_scales_or_each_its_own() -> None:
    shared, own = (sum(p.numel() for p in unet(global_basis=g).parameters()) for g in (True, False))
    basis = sum(p.numel() for p in unet().trunk.bases.parameters())
    assert own == shared + 2 * basis


def test_edges_of_the_graph_are_read_only_where_asked() -> None:
    graph = cloud((9,))
    full = complete_graph(graph.pos, graph.numbers, graph.ptr, node_scalars=graph.node_scalars)
    found, given = (
        unet(ratios=[], channels=8, num_layers=2, edges="fc"),
        unet(ratios=[], channels=8, num_layers=2, edges="graph"),
    )
    assert (found.reads_edges, given.reads_edges) == (False, True)
    given.load_state_dict(found.state_dict())
    torch.testing.assert_close(found(graph).scalars, given(full).scalars)
    assert (found(graph).scalars - given(graph).scalars).abs().max() > 1e-4


def test_all_parameters_and_positions_get_gradients() -> None:
    model, graph = unet(orientations="icosahedral", out_vectors=1), cloud((17, 12))
    pos = graph.pos.clone().requires_grad_()
    out = model(graph.replace(pos=pos))
    (out.scalars.square().sum() + out.vectors.square().sum()).backward()
    assert pos.grad.abs().max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_gradients_over_scales_equal_finite_differences() -> None:
    model, graph = unet(), cloud((12,))
    rng = np.random.default_rng(0)
    pos = graph.pos.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(graph.replace(pos=pos)).scalars.sum(), pos)
    way = torch.from_numpy(rng.normal(size=(12, 3)))
    values = [float(model(graph.replace(pos=graph.pos + s * way)).scalars.sum().detach()) for s in (1e-6, -1e-6)]
    assert float((gradient * way).sum()) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_crystals_have_no_scales() -> None:
    graph = cloud((9,)).replace(
        pbc=torch.ones(1, 3, dtype=torch.bool), cell=9 * torch.eye(3, dtype=torch.float64)[None]
    )
    with pytest.raises(ModelDomainError, match="no periodic form"):
        unet()(graph)
