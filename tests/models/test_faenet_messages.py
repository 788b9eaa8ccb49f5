"""The messages of FAENet equal their evaluation by hand from weights in the official layout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from geomol.graph import edge_vectors
from geomol.models.faenet import FAENet
from geomol.models.faenet_layers import MESSAGES
from tests.models.faenet_official import RENAMED, graph_of, load_case, needs_golden, settings_of, weights_of


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
