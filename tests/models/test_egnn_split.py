"""EGNN: published sizes, and the exact split of the first linear maps against the concatenated form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from geomol.graph import Graph
from geomol.models.egnn import EDGE_INPUTS, EGNN, PooledReadout
from geomol.models.egnn_layer import EGNNLayer
from geomol.nn import polynomial_envelope

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


def cloud(model: EGNN, num: int = 9) -> Graph:
    """Random points about 1.5 Å apart, all pairs within the cutoff, with the inputs that the model wants."""
    gen = torch.Generator().manual_seed(0)
    pos = 1.5 * torch.randn(num, 3, generator=gen, dtype=torch.float64)
    near = ((pos[:, None] - pos).norm(dim=-1) < model.cutoff) & ~torch.eye(num, dtype=torch.bool)
    dst, src = near.nonzero(as_tuple=True)
    velocity = torch.randn(num, 1, 3, generator=gen, dtype=torch.float64)
    return Graph(
        pos=pos,
        numbers=torch.zeros(num, dtype=torch.long),
        edge_index=torch.stack([src, dst]),
        edge_ptr=torch.cat([torch.zeros(1, dtype=torch.long), near.sum(1).cumsum(0)]),
        cell_shift=torch.zeros(len(src), 3, dtype=torch.long),
        cell=torch.zeros(1, 3, 3, dtype=pos.dtype),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        batch=torch.zeros(num, dtype=torch.long),
        ptr=torch.tensor([0, num]),
        cutoff=model.cutoff,
        node_scalars=torch.randn(num, 3, generator=gen, dtype=torch.float64),
        node_vectors=velocity if model.in_vectors else None,
    )


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def test_parameter_counts_are_the_published_ones() -> None:
    nbody = EGNN(
        **PUBLISHED, in_scalars=1, in_vectors=1, out_vectors=1, channels=64, num_layers=4, update_pos=True,
        speed_input=True, edge_inputs=EDGE_INPUTS, readout="none",
    )  # fmt: skip
    assert count(nbody) == 134_020
    qm9 = {**PUBLISHED, "in_scalars": 15, "channels": 128, "num_layers": 7, "readout": "none"}
    head = PooledReadout(channels=128)
    assert count(EGNN(**qm9, attention=True), head) == 745_224
    assert count(EGNN(**qm9), head) == 744_321
    toy = EGNN(
        **PUBLISHED, in_scalars=1, out_vectors=1, channels=32, num_layers=4, update_pos=True, in_edge_scalars=1,
        readout="linear",
    )  # fmt: skip
    assert count(toy) == 29_793


@every_mode
def test_every_parameter_takes_part(mode: str) -> None:
    model = make(mode)
    out = model(cloud(model))
    total = out.scalars.square().sum() + (0 if out.vectors is None else out.vectors.square().sum())
    grads = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    unused = [n for (n, _), g in zip(model.named_parameters(), grads, strict=True) if g is None or not g.any()]
    assert not unused


def concatenated_layer(layer: EGNNLayer, h: Tensor, x: Tensor, v: Tensor | None, model: EGNN, **pairs: Any) -> Any:
    """One layer as printed in the paper: Linear maps of concatenations, one pair of nodes at a time."""
    width = h.shape[1]
    receiver, sender, own = layer.from_nodes.weight.split(width)
    edge_weight = torch.cat([receiver, sender, layer.from_edges.weight], dim=1)
    node_weight = torch.cat([own, layer.from_sum.weight], dim=1)
    new_h, new_x = [], []
    for i in range(len(h)):
        total, pull, degree = torch.zeros(width, dtype=h.dtype), torch.zeros(3, dtype=h.dtype), 0
        for j in pairs["neighbours"][i]:
            diff, degree = x[i] - x[j], degree + 1
            r = diff.norm()
            radial = diff.square().sum()[None] if model.basis is None else model.basis(r[None])[0]
            inputs = torch.cat([h[i], h[j], radial, *pairs["given"](i, j)])
            m = silu(layer.message(silu(edge_weight @ inputs + layer.from_edges.bias)))
            if layer.gate is not None:
                m = m * torch.sigmoid(layer.gate(m))
            window = pairs["window"](i, j)
            m = m * window
            total = total + m
            if layer.pull is not None:
                by = {"none": 1.0, "normalize": r + 1e-8, "norm_diff": r + 1}[layer.scaling]
                pull = pull + diff / by * layer.pull(m) * window
        if not model.envelope:
            pull = pull / max(degree, 1)
        if layer.keep is not None and v is not None:
            pull = pull + layer.keep(h[i]) * v[i]
        attrs = [pairs["attrs"][i]] if model.use_node_attrs else []
        h_new = layer.update(silu(node_weight @ torch.cat([h[i], total, *attrs]) + layer.from_sum.bias))
        new_h.append(h[i] + h_new if layer.residual else h_new)
        new_x.append(x[i] + pull)
    return torch.stack(new_h), torch.stack(new_x)


@every_mode
def test_split_first_layer_equals_the_concatenation(mode: str) -> None:
    model = make(mode)
    graph = cloud(model)
    scalars, x0 = graph.node_scalars, graph.pos
    assert scalars is not None
    v = None if graph.node_vectors is None else graph.node_vectors[:, 0]
    inputs = scalars if v is None else torch.cat([scalars[:, :-1], v.norm(dim=1, keepdim=True)], dim=1)
    charge = scalars[:, -1]

    def given(i: int, j: int) -> list[Tensor]:
        squared = (x0[i] - x0[j]).square().sum()
        return [torch.stack([charge[i] * charge[j], squared])] if model.edge_inputs else []

    def window(i: int, j: int) -> Tensor | float:
        u = (x0[i] - x0[j]).norm() / model.cutoff
        return polynomial_envelope(u) * model.message_scale if model.envelope else 1.0

    neighbours = [graph.src[graph.dst == i].tolist() for i in range(graph.num_nodes)]
    assert model.cutoff == math.inf or len({len(n) for n in neighbours}) > 1, "degrees should differ"
    h, x = model.embed(inputs), x0
    for layer in model.layers:
        assert isinstance(layer, EGNNLayer)
        h, x = concatenated_layer(
            layer, h, x, v, model, neighbours=neighbours, given=given, window=window, attrs=inputs
        )
    out = model(graph)
    torch.testing.assert_close(out.scalars, model.readout(h), rtol=1e-12, atol=1e-12)
    if out.vectors is not None:
        assert (x - x0).abs().max() > 1e-2, "nothing moved"
        torch.testing.assert_close(out.vectors[:, 0], x - x0, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("mode", ["potential", "potential, squared distance"])
def test_messages_recomputed_in_blocks_give_the_same_forces_and_training_gradients(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(mode)
    graph = cloud(model, 14)

    def everything() -> list[Tensor]:
        pos = graph.pos.clone().requires_grad_()
        energy = model(graph.replace(pos=pos)).scalars.tanh().sum()
        (forces,) = torch.autograd.grad(energy, pos, create_graph=True)
        gradients = torch.autograd.grad((forces**3).sum() + energy, list(model.parameters()), allow_unused=True)
        return [energy.detach(), forces.detach(), *(g for g in gradients if g is not None)]

    kept = everything()
    asked = []
    monkeypatch.setattr("geomol.models.egnn_layer.MESSAGES_IN_BLOCKS", 0)
    whole = EGNNLayer._sum_in_blocks
    monkeypatch.setattr(EGNNLayer, "_sum_in_blocks", lambda *args: asked.append(1) or whole(*args))
    for one, other in zip(kept, everything(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)
    assert len(asked) == len(model.layers)
