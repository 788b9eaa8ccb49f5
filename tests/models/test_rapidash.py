"""Rapidash has the published sizes, equals PONITA where both are the same network, and an obvious loop elsewhere."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from geomol.diffusion import Denoiser, fit_backbone
from geomol.diffusion.cloud import Cloud, zero_mean
from geomol.errors import ConfigError, ModelDomainError
from geomol.geometry.grids import icosahedral_rotations
from geomol.graph import Graph, complete_graph
from geomol.models import Features, Ponita, PooledHead, Rapidash
from geomol.potential import Potential
from geomol.symmetry import build_backbone

QM9 = {"in_scalars": 11, "channels": 256, "num_layers": 7}
UNUSED = 7 * 256 * 256  # what the published code holds without applying it
SMALL = {"channels": 8, "basis_dim": 12, "basis_hidden": 8, "num_layers": 2, "in_scalars": 2}


def cloud(num_scalars: int = 2, num_vectors: int = 0, *, sizes: tuple[int, ...] = (5, 4), seed: int = 0) -> Graph:
    rng = torch.Generator().manual_seed(seed)
    num = sum(sizes)
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    return complete_graph(
        torch.randn(num, 3, generator=rng, dtype=torch.float64),
        torch.zeros(num, dtype=torch.long),
        ptr,
        node_scalars=torch.randn(num, num_scalars, generator=rng, dtype=torch.float64) if num_scalars else None,
        node_vectors=torch.randn(num, num_vectors, 3, generator=rng, dtype=torch.float64) if num_vectors else None,
    )


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


def test_calibration_keeps_the_spread_of_every_convolution() -> None:
    graph = cloud(sizes=(9, 8))
    model = Rapidash(**{**SMALL, "num_layers": 3}).double()
    model.calibrate(graph)
    x, ratios = model.lift(graph, model.grid), []
    for block in model.trunk.blocks[0]:
        block.register_forward_pre_hook(lambda block, given: ratios.append(spread(block, *given)))
    model.hidden(graph)
    assert x.std() > 0
    assert len(ratios) == 3
    assert all(ratio == pytest.approx(1, abs=1e-6) for ratio in ratios)


def spread(block: torch.nn.Module, x: Tensor, values: object, edges: object) -> float:
    return float((block.mix_orientations(block.convolve(x, values, edges), values).std() / x.std()).detach())


def test_a_lone_point_does_not_spoil_calibration() -> None:
    graph = cloud(sizes=(1,))
    for settings in ({}, {"self_loops": False}):
        model = Rapidash(**SMALL, **settings).double()
        model.calibrate(graph)
        assert all(p.isfinite().all() for p in model.parameters())
        assert model(graph).scalars.isfinite().all()


@pytest.mark.parametrize("settings", [{}, {"basis": "radial", "cutoff": 4.0}])
def test_coincident_points_have_finite_values_and_gradients(settings: dict) -> None:
    model = Rapidash(**SMALL, **settings).double()
    graph = cloud(sizes=(4,))
    pos = graph.pos.clone()
    pos[1] = pos[0]
    pos.requires_grad_()
    (gradient,) = torch.autograd.grad(model(graph.replace(pos=pos)).scalars.sum(), pos)
    assert gradient.isfinite().all()


def test_a_constant_stands_in_where_there_is_no_other_scalar() -> None:
    model = Rapidash(**{**SMALL, "in_scalars": 0}, orientations="none").double()
    out = model(cloud(0)).scalars
    assert out.std() > 1e-4
    with pytest.raises(ConfigError, match="`node_scalars` does not fit"):
        model(cloud(1))
    with pytest.raises(ConfigError, match="`node_vectors` does not fit"):
        model(cloud(0, 1))


def test_configurations_are_json_and_make_the_same_network() -> None:
    model = Rapidash(**SMALL, elements=[6, 0], edges=("knn-3", "fc"), ratios=(0.5,), orientations="circle:8")
    config = json.loads(json.dumps(model.config))
    twin = build_backbone({"name": "rapidash", **config})
    twin.load_state_dict(model.state_dict())
    assert twin.config == model.config


# heads, potentials, denoisers


def test_order_of_readout_and_pool_matters_for_the_bias_alone_when_both_are_linear() -> None:
    graph = cloud(sizes=(5, 3))
    features = Rapidash(**SMALL, readout="none").double()(graph)
    heads = [
        PooledHead(channels=8, out_scalars=2, order=order).double()
        for order in ("readout_then_pool", "pool_then_readout")
    ]
    heads[1].load_state_dict(heads[0].state_dict())
    first, last = (head(features, graph.ptr)[0] for head in heads)
    surplus = (graph.ptr.diff() - 1)[:, None] * heads[0].read.bias
    torch.testing.assert_close(first, last + surplus)


def test_heads_pool_vectors_and_refuse_unknown_words() -> None:
    graph = cloud(0, sizes=(3, 2))
    features = Features(torch.randn(5, 8), torch.randn(5, 2, 3))
    scalars, vectors = PooledHead(channels=8, pool="mean", hidden=4)(features, graph.ptr)
    assert scalars.shape == (2, 1)
    torch.testing.assert_close(vectors[1], features.vectors[3:].mean(0))
    with pytest.raises(ConfigError, match="unknown pool"):
        PooledHead(channels=8, pool="median")


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"cutoff": 4.0}, True),
        ({"edges": "fc"}, True),
        ({"cutoff": 4.0, "envelope": False}, False),
        ({"edges": "knn-8"}, False),
        ({"edges": ["knn-8", "fc"], "ratios": [0.5]}, False),
        ({"edges": "radius-2.5"}, True),
    ],
)
def test_potentials_take_smooth_settings_only(settings: dict, allowed: bool) -> None:
    model = Rapidash(**{**SMALL, "in_scalars": 0}, elements=[0], **settings)
    if allowed:
        Potential(model, elements=[0], e0=[0.0])
        return
    with pytest.raises(ConfigError, match="allow_discontinuous"):
        Potential(model, elements=[0], e0=[0.0])


def test_periodic_structures_are_read_through_the_edges_of_the_graph_alone() -> None:
    graph = cloud().replace(
        pbc=torch.ones(2, 3, dtype=torch.bool), cell=torch.eye(3, dtype=torch.float64).expand(2, 3, 3) * 9
    )
    assert Rapidash(**SMALL).double()(graph).scalars.isfinite().all()
    for settings in ({"edges": "fc"}, {"coordinates": "vectors"}):
        with pytest.raises(ModelDomainError, match="periodic"):
            Rapidash(**SMALL, **settings).double()(graph)


@pytest.mark.parametrize(
    "settings",
    [
        {"orientations": "icosahedral", "last_feature_conditioning": True},
        {"orientations": "none", "kernel_group": "T(n)", "vectors_as": "scalars", "last_feature_conditioning": True},
        {"orientations": "icosahedral", "frame": "identity"},
    ],
)
def test_it_denoises_with_the_symmetry_that_it_claims(settings: dict) -> None:
    from_user = {"name": "rapidash", "channels": 8, "basis_dim": 12, "basis_hidden": 8, "num_layers": 2, **settings}
    backbone = build_backbone(fit_backbone(from_user, num_types=3))
    assert backbone.cutoff == float("inf")
    levels = {"name": "flow"}
    denoiser = Denoiser.from_config(
        {"backbone": {"name": "rapidash", **backbone.config}, "elements": [1, 6, 8], "levels": levels}
    ).double()
    ptr = torch.tensor([0, 5, 9])
    noisy = Cloud(zero_mean(torch.randn(9, 3, dtype=torch.float64), ptr), torch.randn(9, 3, dtype=torch.float64), ptr)
    level = torch.tensor([0.5, 2.0], dtype=torch.float64)
    denoiser.calibrate(noisy)
    out = denoiser(noisy, level)
    turn = icosahedral_rotations()[17]
    turned = denoiser(Cloud(noisy.pos @ turn.T, noisy.feats, ptr), level)
    error = (turned.clean.pos - out.clean.pos @ turn.T).abs().max()
    assert error < 1e-10 if denoiser.symmetry.group == "E(3)" else error > 1e-4
    (out.clean.pos.square().sum() + out.logits.square().sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in denoiser.parameters())
