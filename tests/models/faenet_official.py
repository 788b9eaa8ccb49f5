"""Stored cases of the official FAENet, and our network with their settings and weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from geomol.graph import Graph
from geomol.models.faenet import FAENet
from geomol.ops import segment_sum

GOLDEN = os.environ.get("GEOMOL_GOLDEN")
needs_golden = pytest.mark.skipif(
    not GOLDEN, reason="GEOMOL_GOLDEN is unset: the reference cases are not part of the repository"
)
RENAMED = {
    "embed_block.emb.": "nodes.element.",
    "embed_block.tag_embedding.": "nodes.tag.",
    "embed_block.period_embedding.": "nodes.of_period.",
    "embed_block.group_embedding.": "nodes.of_group.",
    "embed_block.lin.": "nodes.hidden.",
    "embed_block.lin_2.": "nodes.second.",
    "embed_block.lin_e1.": "edges.from_vector.",
    "embed_block.lin_e12.": "edges.from_length.",
    "embed_block.lin_e2.": "edges.second.",
    "interaction_blocks.": "layers.",
    ".lin_geom.": ".from_edges.",
    ".lin_down.": ".down.",
    ".lin_up.": ".up.",
    ".lin_h.": ".up.",
    ".other_mlp.": ".extra.",
    ".graph_norm.": ".norm.",
    "output_block.lin1.": "readout.hidden.",
    "output_block.lin2.": "readout.out.",
    "output_block.w_lin.": "weigh.",
    "decoder.model.0.": "vectors.out.0.0.",
    "decoder.model.1.": "vectors.out.0.1.",
    "decoder.model.3.": "vectors.out.1.",
    "decoder.mlp_1.": "vectors.residual.0.",
    "decoder.mlp_2.": "vectors.residual.1.",
    "decoder.mlp_3.": "vectors.residual.2.",
    "decoder.mlp_4.3.": "vectors.out.1.",
    "decoder.mlp_4.": "vectors.out.0.",
}


def load_case(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = Path(str(GOLDEN)) / "faenet"
    meta = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / f"{name}.npz") as z:
        return meta, {k: torch.from_numpy(np.asarray(z[k])) for k in z.files}


def settings_of(config: dict[str, Any], arrays: dict[str, Tensor]) -> dict[str, Any]:
    decoder = config["force_decoder_type"]
    table = arrays.get("weights/embed_block.phys_emb.properties")
    return {
        "in_scalars": int(config["tag_hidden_channels"] > 0),
        "out_vectors": int(config["regress_forces"] == "direct"),
        "channels": config["hidden_channels"],
        "filters": config["num_filters"],
        "num_layers": config["num_interactions"],
        "cutoff": config["cutoff"],
        "envelope": False,
        "num_radial": config["num_gaussians"],
        "message": config["mp_type"],
        "product": False,
        "deep_embedding": config["second_layer_MLP"],
        "deep_update": config["complex_mp"],
        "graph_norm": config["graph_norm"],
        "skip": config["skip_co"],
        "atom_weights": {None: "none", "weighted-av-final-embeds": "final"}[config["energy_head"]],
        "properties": [] if table is None else table[:85].tolist(),
        "tag_channels": config["tag_hidden_channels"],
        "period_group_channels": config["pg_hidden_channels"],
        "vector_head": decoder,
        "vector_channels": config["force_decoder_model_config"][decoder]["hidden_channels"],
        "vector_norm": {"layer": "layer", "batch1d": "batch"}[config["force_decoder_model_config"][decoder]["norm"]],
    }


def weights_of(model: FAENet, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The stored weights under our names: one Linear over [edge, sender, receiver] is split in two, and the unused
    first rows of the tables of periods and groups are dropped.
    """
    state: dict[str, Tensor] = {}
    filters = int(model.config["filters"])  # type: ignore[call-overload]
    for key, value in arrays.items():
        name = key.removeprefix("weights/")
        if name == key or "phys_emb" in name or name == "distance_expansion.offset":
            continue
        if not model.config["product"] and "lin_down" in name:  # stored, but the stored outputs do not depend on it
            continue
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        if "of_period" in name or "of_group" in name:
            value = torch.cat([value[1:], value[:1]])
        if name.startswith("mlp_skip_co"):
            kind = {"concat": {"weight": "mix.weight", "bias": "offset"}}.get(model.skip, {})
            name = kind.get(name.removeprefix("mlp_skip_co."), name.replace("mlp_skip_co", "merge"))
        if name.endswith("from_edges.weight") and value.shape[1] > filters:
            sender, receiver = value[:, filters:].chunk(2, dim=1)
            state[name.replace("edges", "nodes")] = torch.cat([sender, receiver])
            value = value[:, :filters]
        state[name] = value.view(()) if name.endswith("num_batches_tracked") else value
    return state


def model_of(config: dict[str, Any], arrays: dict[str, Tensor]) -> FAENet:
    model = FAENet(**settings_of(config, arrays)).double().eval()
    model.load_state_dict(weights_of(model, arrays))
    return model


def pointers(index: Tensor, length: int) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(index, minlength=length).cumsum(0)])


def graph_of(arrays: dict[str, Tensor]) -> Graph:
    pos, batch = arrays["inputs/pos"], arrays["inputs/batch"]
    num_nodes, num_graphs = pos.shape[0], int(batch.max()) + 1
    edge_index = arrays["inputs/edge_index" if "inputs/edge_index" in arrays else "inputs/edge_index_used"]
    order = torch.argsort(edge_index[1], stable=True)
    shift = arrays.get("inputs/cell_offsets", torch.zeros(edge_index.shape[1], 3))
    tags = arrays.get("inputs/tags")
    return Graph(
        pos=pos,
        numbers=arrays["inputs/atomic_numbers"],
        edge_index=edge_index[:, order],
        edge_ptr=pointers(edge_index[1], num_nodes),
        cell_shift=shift[order].long(),
        cell=arrays.get("inputs/cell", torch.zeros(num_graphs, 3, 3, dtype=torch.float64)),
        pbc=torch.full((num_graphs, 3), "inputs/cell" in arrays),
        batch=batch,
        ptr=pointers(batch, num_graphs),
        node_scalars=None if tags is None else tags[:, None].double(),
    )


def energy_and_forces(model: FAENet, graph: Graph) -> tuple[Tensor, Tensor]:
    """Structure energies; forces from the head, or by differentiation where there is none."""
    pos = graph.pos.clone().requires_grad_()
    out = model(graph.replace(pos=pos))
    energy = segment_sum(out.scalars[:, 0], graph.ptr)
    if out.vectors is not None:
        return energy.detach(), out.vectors[:, 0].detach()
    return energy.detach(), -torch.autograd.grad(energy.sum(), pos)[0]
