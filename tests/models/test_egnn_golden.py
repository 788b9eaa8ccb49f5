"""EGNN with official weights gives the official numbers, gradients included.

The official first linear maps act on concatenations; here they are cut into the parts that act on each input.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geomol.graph import Graph
from geomol.models.egnn import EDGE_INPUTS, EGNN, PooledReadout

NBODY = ["nbody_velocity", "nbody_velocity_normdiff_tanh"]
PLAIN = ["plain", "plain_attention_normalize_tanh"]
QM9 = ["qm9_attention", "qm9_nodeattr"]
Case = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]


def read_case(golden: Path, name: str) -> Case:
    """Manifest, weights, inputs and outputs of one case."""
    meta = json.loads((golden / "egnn" / f"{name}.json").read_text())
    with np.load(golden / "egnn" / f"{name}.npz", allow_pickle=False) as z:
        arrays = {k: torch.from_numpy(z[k]) for k in z.files}
    groups = tuple(
        {k[len(g) + 1 :]: v for k, v in arrays.items() if k.startswith(g + "/")}
        for g in ("weights", "inputs", "outputs")
    )
    return meta, *groups  # type: ignore[return-value]


def graph_of(pos: Tensor, receivers: Tensor, senders: Tensor, ptr: Tensor, **fields: Any) -> tuple[Graph, Tensor]:
    """A record with the given pairs, and the order in which the record lists them."""
    num = pos.shape[0]
    order = torch.argsort(receivers * num + senders)
    dst, src = receivers[order], senders[order]
    counts = torch.bincount(dst, minlength=num)
    num_graphs = ptr.shape[0] - 1
    graph = Graph(
        pos=pos,
        numbers=fields.pop("numbers", torch.zeros(num, dtype=torch.long)),
        edge_index=torch.stack([src, dst]),
        edge_ptr=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        cell_shift=torch.zeros(len(src), 3, dtype=torch.long),
        cell=torch.zeros(num_graphs, 3, 3, dtype=pos.dtype),
        pbc=torch.zeros(num_graphs, 3, dtype=torch.bool),
        batch=torch.repeat_interleave(torch.arange(num_graphs), ptr.diff()),
        ptr=ptr,
        **fields,
    )
    return graph, order


@torch.no_grad()
def load_official(model: EGNN, weights: dict[str, Tensor], *, embed: str, readout: str | None = None) -> None:
    """Official weights into an EGNN: the concatenated first layers are cut into the parts that act on each input."""
    left = dict(weights)

    def fill(module: nn.Module | None, name: str) -> None:
        assert isinstance(module, nn.Linear)
        module.weight.copy_(left.pop(f"{name}.weight"))
        if module.bias is not None:
            module.bias.copy_(left.pop(f"{name}.bias"))

    fill(model.embed, embed)
    if readout is not None:
        fill(model.readout, readout)
    for i, layer in enumerate(model.layers):
        width = layer.message.in_features
        edge, node = left.pop(f"gcl_{i}.edge_mlp.0.weight"), left.pop(f"gcl_{i}.node_mlp.0.weight")
        layer.from_nodes.weight.copy_(torch.cat([edge[:, :width], edge[:, width : 2 * width], node[:, :width]]))
        layer.from_edges.weight.copy_(edge[:, 2 * width :])
        layer.from_edges.bias.copy_(left.pop(f"gcl_{i}.edge_mlp.0.bias"))
        layer.from_sum.weight.copy_(node[:, width:])
        layer.from_sum.bias.copy_(left.pop(f"gcl_{i}.node_mlp.0.bias"))
        fill(layer.message, f"gcl_{i}.edge_mlp.2")
        fill(layer.update, f"gcl_{i}.node_mlp.2")
        if layer.gate is not None:
            fill(layer.gate, f"gcl_{i}.att_mlp.0")
        for part, name in ((layer.pull, "coord_mlp"), (layer.keep, "coord_mlp_vel")):
            if part is not None:
                fill(part[0], f"gcl_{i}.{name}.0")
                fill(part[2], f"gcl_{i}.{name}.2")
    rest = {k for k in left if not k.startswith(("node_dec", "graph_dec"))}
    assert not rest, f"official weights without a place: {rest}"


@torch.no_grad()
def load_official_decoder(head: PooledReadout, weights: dict[str, Tensor]) -> None:
    for part, name in ((head.per_node, "node_dec"), (head.per_graph, "graph_dec")):
        for k in (0, 2):
            part[k].weight.copy_(weights[f"{name}.{k}.weight"])
            part[k].bias.copy_(weights[f"{name}.{k}.bias"])


def agrees(got: Tensor, expected: Tensor, meta: dict[str, Any]) -> None:
    assert expected.abs().max() > 1e-4, "a case of zeros shows nothing"
    torch.testing.assert_close(got, expected, **meta["tolerance"])


def nbody_model(c: dict[str, Any], *, given_edges: bool) -> EGNN:
    return EGNN(
        in_scalars=0 if given_edges else 1,
        in_vectors=1,
        out_vectors=2,
        channels=c["hidden_nf"],
        num_layers=c["n_layers"],
        cutoff=float("inf"),
        envelope=False,
        num_radial=0,
        update_pos=True,
        scaling="norm_diff" if c["norm_diff"] else "none",
        tanh=c["tanh"],
        speed_input=True,
        edge_inputs=() if given_edges else EDGE_INPUTS,
        in_edge_scalars=2 if given_edges else 0,
        readout="none",
    ).double()


def nbody_graph(x: dict[str, Tensor], pos: Tensor, *, charges: bool) -> tuple[Any, Tensor]:
    receivers, senders = x["edge_index"]
    ptr = torch.arange(0, pos.shape[0] + 1, 5)
    fields = {"node_scalars": x["charges"]} if charges else {}
    return graph_of(pos, receivers, senders, ptr, node_vectors=x["vel"][:, None], **fields)


@pytest.mark.parametrize("name", NBODY)
def test_nbody_model_gives_official_positions_and_gradient(golden: Path, name: str) -> None:
    meta, weights, x, y = read_case(golden, name)
    model = nbody_model(meta["config"], given_edges=True)
    load_official(model, weights, embed="embedding")
    after: list[Any] = []
    model.layers[0].register_forward_hook(lambda _m, _i, out: after.append(out[0]))
    pos = x["loc"].clone().requires_grad_()
    graph, order = nbody_graph(x, pos, charges=False)
    out = model(graph, edge_scalars=x["edge_attr"][order])
    assert out.vectors is not None
    moved = pos + out.vectors[:, 0]
    agrees(moved, y["loc_pred"], meta)
    agrees(after[0], y["h_after_layer1"], meta)
    agrees((moved - x["target"]).square().mean().reshape(1), y["mse"], meta)
    agrees(torch.autograd.grad((moved * x["probe"]).sum(), pos)[0], y["grad_loc"], meta)
    assert torch.equal(pos.detach(), x["loc"]), "the official layer overwrites these"


@pytest.mark.parametrize("name", NBODY)
def test_nbody_model_forms_the_official_inputs_from_charges_and_velocities(golden: Path, name: str) -> None:
    meta, weights, x, y = read_case(golden, name)
    model = nbody_model(meta["config"], given_edges=False)
    load_official(model, weights, embed="embedding")
    out = model(nbody_graph(x, x["loc"], charges=True)[0])
    assert out.vectors is not None
    agrees(x["loc"] + out.vectors[:, 0], y["loc_pred"], meta)


@pytest.mark.parametrize("name", NBODY)
def test_first_layer_of_the_nbody_model_moves_positions_as_the_official_one(golden: Path, name: str) -> None:
    meta, weights, x, y = read_case(golden, name)
    model = nbody_model(meta["config"], given_edges=False)
    load_official(model, weights, embed="embedding")
    del model.layers[1:]
    out = model(nbody_graph(x, x["loc"], charges=True)[0])
    assert out.vectors is not None
    agrees(x["loc"] + out.vectors[:, 0], y["loc_after_layer1"], meta)
    # in the velocity form the step of the last layer is its velocity
    torch.testing.assert_close(out.vectors[:, 1], out.vectors[:, 0])


@pytest.mark.parametrize("name", PLAIN)
def test_plain_model_gives_official_features_positions_and_gradient(golden: Path, name: str) -> None:
    meta, weights, x, y = read_case(golden, name)
    c = meta["config"]
    model = EGNN(
        in_scalars=c["in_node_nf"],
        out_scalars=c["out_node_nf"],
        out_vectors=1,
        channels=c["hidden_nf"],
        num_layers=c["n_layers"],
        cutoff=float("inf"),
        envelope=False,
        num_radial=0,
        update_pos=True,
        attention=c["attention"],
        scaling="normalize" if c["normalize"] else "none",
        tanh=c["tanh"],
        in_edge_scalars=c["in_edge_nf"],
        readout="linear",
    ).double()
    load_official(model, weights, embed="embedding_in", readout="embedding_out")
    pos = x["x"].clone().requires_grad_()
    receivers, senders = x["edge_index"]
    graph, order = graph_of(pos, receivers, senders, torch.tensor([0, pos.shape[0]]), node_scalars=x["h"])
    out = model(graph, edge_scalars=x["edge_attr"][order])
    assert out.vectors is not None
    moved = pos + out.vectors[:, 0]
    agrees(out.scalars, y["h_out"], meta)
    agrees(moved, y["x_out"], meta)
    probed = (out.scalars * x["probe_h"]).sum() + (moved * x["probe_x"]).sum()
    agrees(torch.autograd.grad(probed, pos)[0], y["grad_x"], meta)


def qm9_graph(x: dict[str, Tensor], which: Sequence[int], *, padded: bool) -> tuple[Any, Tensor, Tensor]:
    """Complete graphs of real atoms; `padded` keeps the padding atoms as nodes without edges."""
    mask = x["atom_mask"][list(which)]
    keep = torch.ones_like(mask) if padded else mask
    pos = x["positions"][list(which)][keep].requires_grad_()
    real, ptr = mask[keep], torch.cat([torch.zeros(1, dtype=torch.long), keep.sum(1).cumsum(0)])
    batch = torch.repeat_interleave(torch.arange(len(which)), ptr.diff())
    pair = (batch[:, None] == batch) & real[:, None] & real & ~torch.eye(len(batch), dtype=torch.bool)
    receivers, senders = pair.nonzero(as_tuple=True)
    scalars = x["node_features"][list(which)][keep]
    return graph_of(pos, receivers, senders, ptr, node_scalars=scalars)[0], pos, real


def qm9_model(c: dict[str, Any]) -> tuple[EGNN, PooledReadout]:
    model = EGNN(
        in_scalars=c["in_node_nf"],
        channels=c["hidden_nf"],
        num_layers=c["n_layers"],
        cutoff=float("inf"),
        envelope=False,
        num_radial=0,
        attention=c["attention"],
        node_attrs=c["node_attr"],
        readout="none",
    ).double()
    return model, PooledReadout(channels=c["hidden_nf"]).double()


@pytest.mark.parametrize("name", QM9)
def test_qm9_model_gives_official_predictions_and_gradient(golden: Path, name: str) -> None:
    meta, weights, x, y = read_case(golden, name)
    model, head = qm9_model(meta["config"])
    load_official(model, weights, embed="embedding")
    load_official_decoder(head, weights)
    after: list[Any] = []
    model.layers[0].register_forward_hook(lambda _m, _i, out: after.append(out[0]))
    graph, pos, _ = qm9_graph(x, range(len(y["prediction"])), padded=False)
    got = head(model(graph).scalars, graph)[:, 0]
    agrees(got, y["prediction"], meta)
    agrees(after[0], y["h_after_layer1"][x["atom_mask"]], meta)
    agrees(torch.autograd.grad(got.sum(), pos)[0], y["grad_positions"][x["atom_mask"]], meta)


@pytest.mark.parametrize("name", QM9)
def test_qm9_features_do_not_see_padding_or_other_molecules(golden: Path, name: str) -> None:
    _, weights, x, y = read_case(golden, name)
    model, head = qm9_model(read_case(golden, name)[0]["config"])
    load_official(model, weights, embed="embedding")
    load_official_decoder(head, weights)
    for i, expected in enumerate(y["prediction"]):
        graph, _, real = qm9_graph(x, [i], padded=True)
        alone, _, _ = qm9_graph(x, [i], padded=False)
        feats = model(alone).scalars
        torch.testing.assert_close(model(graph).scalars[real], feats, atol=1e-12, rtol=0)
        torch.testing.assert_close(head(feats, alone)[0, 0], expected, atol=1e-8, rtol=1e-8)
