"""FAENet reproduces the official implementation, bare and averaged over frames."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from geomol.graph import Graph, edge_vectors
from geomol.models.faenet import FAENet
from geomol.models.faenet_inputs import period_and_group
from geomol.models.faenet_layers import MESSAGES
from geomol.ops import segment_mean, segment_sum

GOLDEN = os.environ.get("GEOMOL_GOLDEN")
needs_golden = pytest.mark.skipif(
    not GOLDEN, reason="GEOMOL_GOLDEN is unset: the reference cases are not part of the repository"
)
CASES = ("molecules_all", "molecule_graphnorm_se3", "molecules_from_energy", "crystals")
every_case = pytest.mark.parametrize("case", CASES)

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


def energy_of(model: FAENet, graph: Graph) -> Tensor:
    return segment_sum(model(graph).scalars[:, 0], graph.ptr)


def energy_and_forces(model: FAENet, graph: Graph) -> tuple[Tensor, Tensor]:
    """Structure energies; forces from the head, or by differentiation where there is none."""
    pos = graph.pos.clone().requires_grad_()
    out = model(graph.replace(pos=pos))
    energy = segment_sum(out.scalars[:, 0], graph.ptr)
    if out.vectors is not None:
        return energy.detach(), out.vectors[:, 0].detach()
    return energy.detach(), -torch.autograd.grad(energy.sum(), pos)[0]


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


def hidden_by_hand(config: dict[str, Any], arrays: dict[str, Tensor], *, product: bool) -> Tensor:
    """Features after the last round, from the stored weights in their own layout: nothing split, nothing fused."""

    def layer(name: str, x: Tensor) -> Tensor:
        return linear(x, arrays[f"weights/{name}.weight"], arrays[f"weights/{name}.bias"])

    graph, kind, block = graph_of(arrays), config["mp_type"], "embed_block"
    z, (src, dst), vec = graph.numbers, graph.edge_index, edge_vectors(graph)
    centres = arrays["weights/distance_expansion.offset"]
    gaussians = torch.exp(-0.5 * ((vec.norm(dim=1, keepdim=True) - centres) / (centres[1] - centres[0])) ** 2)
    e = silu(torch.cat([layer(f"{block}.lin_e1", vec), layer(f"{block}.lin_e12", gaussians)], dim=1))
    tables = [arrays[f"weights/{block}.emb.weight"][z]]
    if config["tag_hidden_channels"]:
        tables.append(arrays[f"weights/{block}.tag_embedding.weight"][arrays["inputs/tags"]])
    if config["phys_embeds"]:
        tables.append(arrays[f"weights/{block}.phys_emb.properties"][z])
    for part in ("period", "group") if config["pg_hidden_channels"] else ():
        tables.append(arrays[f"weights/{block}.{part}_embedding.weight"][arrays[f"weights/{block}.phys_emb.{part}"][z]])
    h = silu(layer(f"{block}.lin", torch.cat(tables, dim=1)))
    if config["second_layer_MLP"]:
        e, h = silu(layer(f"{block}.lin_e2", e)), silu(layer(f"{block}.lin_2", h))
    for k in range(config["num_interactions"]):
        block, filters = f"interaction_blocks.{k}", e
        if kind.endswith("base"):
            filters = torch.cat([e, h[src], h[dst]], dim=1)
        if kind != "simple":
            filters = layer(f"{block}.lin_geom", filters)
            filters = filters if kind == "updown_local_env" else silu(filters)
        sent = (silu(layer(f"{block}.lin_down", h)) if "updown" in kind else h)[src]
        total = torch.zeros(len(z), filters.shape[1], dtype=h.dtype)
        for edge, receiver in enumerate(dst.tolist()):
            total[receiver] += filters[edge] * sent[edge] if product else filters[edge]
        if config["graph_norm"]:  # one structure
            gain, bias, share = (arrays[f"weights/{block}.graph_norm.{n}"] for n in ("weight", "bias", "mean_scale"))
            total = total - total.mean(0) * share
            total = silu(gain * total / (total.square().mean(0) + 1e-5).sqrt() + bias)
        if kind == "updown_local_env":
            around = torch.zeros(len(z), e.shape[1], dtype=h.dtype).index_add(0, dst, e)
            new = layer(f"{block}.lin_up", torch.cat([total, around], dim=1))
        else:
            new = silu(layer(f"{block}.{'lin_up' if 'updown' in kind else 'lin_h'}", total))
        h = h + (silu(layer(f"{block}.other_mlp", new)) if config["complex_mp"] else new)
    return h


@needs_golden
@pytest.mark.parametrize("case", ["molecules_all", "molecule_graphnorm_se3", "crystals"])
def test_messages_are_filters_times_the_features_of_the_sender(case: str) -> None:
    """The equation as published. In the run that made the stored numbers the features of the sender were left out of
    the messages; the evaluation by hand is held to those first, and differs from them in that product alone.
    """
    meta, arrays = load_case(case)
    by_hand = hidden_by_hand(meta["config"], arrays, product=False)
    torch.testing.assert_close(by_hand, arrays["outputs/hidden_without_frames"], **meta["tolerance"])
    settings = {**settings_of(meta["config"], arrays), "product": True}
    model = FAENet(**settings).double().eval()
    model.load_state_dict(weights_of(model, arrays))
    expected = hidden_by_hand(meta["config"], arrays, product=True)
    torch.testing.assert_close(model.hidden(graph_of(arrays)), expected, **meta["tolerance"])
    assert not torch.allclose(expected, by_hand, rtol=0.1)


@needs_golden
@pytest.mark.parametrize("message", MESSAGES)
def test_every_kind_of_message_equals_its_evaluation_by_hand(message: str) -> None:
    meta, arrays = load_case("molecule_graphnorm_se3")
    config = {**meta["config"], "mp_type": message, "complex_mp": False}
    num_channels = config["hidden_channels"]
    if message == "simple":
        config["num_filters"] = num_channels
    model = FAENet(**{**settings_of(config, arrays), "product": True}).double().eval()
    rng = torch.Generator().manual_seed(0)
    arrays = {k: v for k, v in arrays.items() if not k.startswith("weights")} | official_layout(model, rng)
    torch.testing.assert_close(
        model.hidden(graph_of(arrays)), hidden_by_hand(config, arrays, product=True), rtol=1e-12, atol=1e-12
    )


def official_layout(model: FAENet, rng: torch.Generator) -> dict[str, Tensor]:
    """Moves every parameter off its start, and returns all under their official names."""
    names = {new: old for old, new in RENAMED.items() if old not in (".lin_h.", ".lin_up.")}
    names[".up."] = ".lin_up." if str(model.config["message"]).startswith("updown") else ".lin_h."
    out = {"weights/distance_expansion.offset": model.edges.centres}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64), alpha=0.1)
    state = dict(model.named_parameters())
    for name, value in state.items():
        if "from_nodes" in name:
            continue
        if name.endswith("from_edges.weight") and name.replace("edges", "nodes") in state:
            value = torch.cat([value, *state[name.replace("edges", "nodes")].chunk(2)], dim=1)
        for new, old in names.items():
            name = name.replace(new, old)
        out[f"weights/{name}"] = value.detach()
    return out


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
