"""EGNN: symmetry, closed forms, and what its inputs must be."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models.egnn import EDGE_INPUTS, EGNN

PUBLISHED: dict[str, Any] = {"cutoff": math.inf, "envelope": False, "num_radial": 0}
MODES: dict[str, dict[str, Any]] = {
    "potential": {"in_scalars": 3, "cutoff": 3.0, "out_scalars": 2, "message_scale": 0.3},
    "potential, squared distance": {"in_scalars": 3, "cutoff": 3.0, "num_radial": 0, "attention": True},
    "potential, moving": {"in_scalars": 3, "cutoff": 3.0, "update_pos": True, "out_vectors": 1, "scaling": "norm_diff"},
    "plain": {**PUBLISHED, "in_scalars": 3, "update_pos": True, "out_vectors": 1, "readout": "linear", "tanh": True},
    "plain, normalized": {
        **PUBLISHED, "in_scalars": 3, "update_pos": True, "out_vectors": 1, "scaling": "normalize", "attention": True,
        "residual": False, "node_attrs": True,
    },
    "velocity": {
        **PUBLISHED, "in_scalars": 3, "in_vectors": 1, "update_pos": True, "out_vectors": 2, "speed_input": True,
        "edge_inputs": EDGE_INPUTS, "scaling": "norm_diff", "readout": "none",
    },
}  # fmt: skip
every_mode = pytest.mark.parametrize("mode", list(MODES))


def make(mode: str, **changes: Any) -> EGNN:
    """A model with all its parameters moved off their start, so that every one of them matters."""
    torch.manual_seed(1)
    model = EGNN(**{"channels": 8, "num_layers": 3, **MODES[mode], **changes}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def points(pos: Tensor, ptr: list[int] | None = None, *, cutoff: float = math.inf, **fields: Any) -> Graph:
    """Structures without cells, with all pairs of one structure within the cutoff."""
    num = pos.shape[0]
    bounds = torch.tensor([0, num] if ptr is None else ptr)
    batch = torch.repeat_interleave(torch.arange(len(bounds) - 1), bounds.diff())
    pair = (batch[:, None] == batch) & ~torch.eye(num, dtype=torch.bool)
    pair &= (pos.detach()[:, None] - pos.detach()).norm(dim=-1) < cutoff
    dst, src = pair.nonzero(as_tuple=True)
    return Graph(
        pos=pos,
        numbers=torch.zeros(num, dtype=torch.long),
        edge_index=torch.stack([src, dst]),
        edge_ptr=torch.cat([torch.zeros(1, dtype=torch.long), pair.sum(1).cumsum(0)]),
        cell_shift=torch.zeros(len(src), 3, dtype=torch.long),
        cell=torch.zeros(len(bounds) - 1, 3, 3, dtype=pos.dtype),
        pbc=torch.zeros(len(bounds) - 1, 3, dtype=torch.bool),
        batch=batch,
        ptr=bounds,
        cutoff=cutoff,
        **fields,
    )


def cloud(num: int = 9, *, ptr: list[int] | None = None, model: EGNN, seed: int = 0, **changes: Any) -> Graph:
    """Random points about 1.5 Å apart with the inputs that the model wants."""
    gen = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    fields = {"pos": 1.5 * draw(num, 3), "node_scalars": draw(num, 3)}
    if model.in_vectors:
        fields["node_vectors"] = draw(num, 1, 3)
    return points(ptr=ptr, cutoff=model.cutoff, **{**fields, **changes})


def rotation(*, mirror: bool) -> Tensor:
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    q = q * torch.linalg.det(q).sign()
    return -q if mirror else q


def moved(graph: Graph, turn: Tensor, shift: Tensor) -> Graph:
    vectors = None if graph.node_vectors is None else graph.node_vectors @ turn.T
    return graph.replace(pos=graph.pos @ turn.T + shift, node_vectors=vectors)


@every_mode
@pytest.mark.parametrize("mirror", [False, True], ids=["rotation", "reflection"])
def test_scalars_are_invariant_and_vectors_equivariant(mode: str, mirror: bool) -> None:
    model = make(mode)
    graph, turn = cloud(model=model), rotation(mirror=mirror)
    shift = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    out, turned = model(graph), model(moved(graph, turn, shift))
    assert out.scalars.std() > 1e-3
    torch.testing.assert_close(turned.scalars, out.scalars, rtol=1e-12, atol=1e-12)
    if out.vectors is not None:
        assert out.vectors.abs().max() > 1e-2
        torch.testing.assert_close(turned.vectors, out.vectors @ turn.T, rtol=1e-12, atol=1e-12)


def test_a_network_fed_with_coordinates_is_not_invariant() -> None:
    """The control of the test above."""
    model = make("plain")
    graph, turn = cloud(model=model), rotation(mirror=False)
    fed, turned = graph.replace(node_scalars=graph.pos), moved(graph, turn, torch.zeros(3, dtype=torch.float64))
    error = model(fed).scalars - model(turned.replace(node_scalars=turned.pos)).scalars
    assert error.abs().max() > 1e-3


@every_mode
def test_order_of_the_nodes_does_not_matter(mode: str) -> None:
    model = make(mode)
    graph = cloud(model=model)
    assert graph.node_scalars is not None
    order = torch.randperm(graph.num_nodes, generator=torch.Generator().manual_seed(5))
    vectors = {} if graph.node_vectors is None else {"node_vectors": graph.node_vectors[order]}
    shuffled = points(graph.pos[order], cutoff=model.cutoff, node_scalars=graph.node_scalars[order], **vectors)
    out, again = model(graph), model(shuffled)
    torch.testing.assert_close(again.scalars, out.scalars[order], rtol=1e-12, atol=1e-12)
    if out.vectors is not None:
        torch.testing.assert_close(again.vectors, out.vectors[order], rtol=1e-12, atol=1e-12)


@every_mode
def test_structures_of_a_batch_do_not_see_each_other(mode: str) -> None:
    model = make(mode)
    ptr = [0, 4, 5, 9]
    graph = cloud(model=model, ptr=ptr)
    together = model(graph)
    for a, b in itertools.pairwise(ptr):
        fields = {k: getattr(graph, k)[a:b] for k in ("node_scalars", "node_vectors") if getattr(graph, k) is not None}
        alone = model(points(graph.pos[a:b], cutoff=model.cutoff, **fields))
        torch.testing.assert_close(together.scalars[a:b], alone.scalars, rtol=1e-12, atol=1e-12)
        if alone.vectors is not None:
            torch.testing.assert_close(together.vectors[a:b], alone.vectors, rtol=1e-12, atol=1e-12)
    pos = graph.pos.clone().requires_grad_()
    grad = torch.autograd.grad(model(graph.replace(pos=pos)).scalars[:4].sum(), pos)[0]
    assert grad[:4].any()
    assert not grad[4:].any()


def test_positions_far_from_the_origin_lose_nothing_in_float32() -> None:
    model = make("potential, moving").float()
    graph = cloud(model=model)
    far = graph.replace(pos=graph.pos + 1e6)
    assert far.pos.dtype == torch.float64
    out, away = model(graph), model(far)
    assert out.scalars.dtype == torch.float32
    torch.testing.assert_close(away.scalars, out.scalars, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(away.vectors, out.vectors, rtol=1e-4, atol=1e-6)


@every_mode
def test_float32_agrees_with_float64(mode: str) -> None:
    model = make(mode)
    graph = cloud(model=model)
    exact, single = model(graph), model.float()(graph)
    torch.testing.assert_close(single.scalars.double(), exact.scalars, rtol=1e-4, atol=1e-4)


@every_mode
def test_positions_of_the_caller_stay_as_they_were(mode: str) -> None:
    model = make(mode)
    graph = cloud(model=model)
    before = {k: v.clone() for k, v in vars(graph).items() if isinstance(v, Tensor)}
    model(graph)
    assert all(torch.equal(getattr(graph, k), v) for k, v in before.items())


@pytest.mark.parametrize("mode", ["potential, moving", "plain", "plain, normalized"])
def test_coincident_points_stay_where_they_are_and_gradients_are_finite(mode: str) -> None:
    model = make(mode)
    graph = cloud(4, model=model)
    pos = torch.full((4, 3), 0.7, dtype=torch.float64, requires_grad=True)
    out = model(graph.replace(pos=pos) if mode != "potential, moving" else cloud(4, model=model, pos=pos))
    assert out.vectors is not None
    assert not out.vectors.any()
    grad = torch.autograd.grad(out.scalars.sum(), pos, create_graph=True)[0]
    assert torch.isfinite(grad).all()
    assert torch.isfinite(torch.autograd.grad(grad.square().sum(), pos)[0]).all()


@pytest.mark.parametrize("mode", ["potential, moving", "plain", "plain, normalized"])
def test_two_equal_nodes_move_along_their_line_and_keep_their_centre(mode: str) -> None:
    model = make(mode)
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.9, -0.4, 1.1]], dtype=torch.float64)
    graph = cloud(2, model=model, pos=pos, node_scalars=torch.ones(2, 3, dtype=torch.float64))
    step = model(graph).vectors[:, 0]
    assert step.norm(dim=1).min() > 1e-4
    torch.testing.assert_close(step[0], -step[1], rtol=0, atol=1e-15)
    axis = pos[1] - pos[0]
    torch.testing.assert_close(torch.linalg.cross(step[1], axis), torch.zeros_like(axis), rtol=0, atol=1e-15)


def test_equal_features_keep_the_mean_position_in_one_layer() -> None:
    model = make("plain", num_layers=1)
    equal = torch.ones(6, 3, dtype=torch.float64)
    step = model(cloud(6, model=model, node_scalars=equal)).vectors[:, 0]
    assert step.abs().max() > 1e-2
    torch.testing.assert_close(step.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-15)
    unequal = model(cloud(6, model=model)).vectors[:, 0].mean(0)
    assert unequal.abs().max() > 1e-4, "control: unequal features do move it"


def test_points_of_a_plane_or_line_stay_there_with_the_same_weights() -> None:
    model = make("plain")
    flat = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    for mask in (flat, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)):
        graph = cloud(model=model)
        out = model(graph.replace(pos=graph.pos * mask))
        assert out.vectors.abs().max() > 1e-2
        assert not (out.vectors[:, 0] * (1 - mask)).any()


@every_mode
def test_isolated_node_and_no_edges_work(mode: str) -> None:
    model = make(mode)
    graph = cloud(1, model=model)
    assert graph.num_edges == 0
    out = model(graph)
    assert torch.isfinite(out.scalars).all()
    if out.vectors is not None and model.in_vectors == 0:
        assert not out.vectors.any()


@every_mode
def test_config_rebuilds_the_model(mode: str) -> None:
    model = make(mode)
    again = EGNN(**json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    graph = cloud(model=model)
    assert torch.equal(again(graph).scalars, model(graph).scalars)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff": -1.0}, r"cutoff must be positive \(Å\), got -1\.0"),
        ({"cutoff": math.inf}, r"envelope needs a cutoff; give a cutoff, or envelope=False"),
        ({"scaling": "unit"}, r"unknown scaling, expected none, normalize or norm_diff, got unit"),
        ({"scaling": "normalize"}, r"forces would not be the gradient of the energy"),
        ({"readout": "sum"}, r"unknown readout"),
        ({"in_vectors": 1}, r"vectors need update_pos=True"),
        ({"out_vectors": 2, "update_pos": True}, r"out_vectors at most 1 \+ in_vectors"),
        ({"speed_input": True}, r"speed_input needs velocities"),
        ({"edge_inputs": ["angle"]}, r"unknown edge_inputs"),
        ({"in_scalars": 0, "edge_inputs": ["charge_product"]}, r"charge_product needs the charge"),
        ({"in_scalars": 0}, r"needs node inputs"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EGNN(**{"in_scalars": 2, **settings})


def test_graphs_without_the_declared_inputs_are_refused() -> None:
    model = make("velocity")
    graph = cloud(model=model)
    with pytest.raises(ConfigError, match=r"`node_vectors` does not fit the model, expected 1 vectors, got 0"):
        model(graph.replace(node_vectors=None))
    with pytest.raises(ConfigError, match=r"`node_scalars` does not fit the model"):
        model(graph.replace(node_scalars=None))
    with pytest.raises(ConfigError, match=r"`edge_scalars` does not fit the model, expected 0 columns, got 2"):
        model(graph, edge_scalars=torch.zeros(graph.num_edges, 2))
