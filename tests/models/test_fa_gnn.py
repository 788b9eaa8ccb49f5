"""FA-GNN with official weights gives the official numbers; its symmetry, and what it may not claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.graph import Graph
from geomol.models.fa_gnn import FAGNN


def particle_graph(pos: Tensor, velocity: Tensor, *, charge: Tensor | None = None, num: int = 5) -> Graph:
    """Complete graphs of `num` particles each."""
    size = pos.shape[0]
    node = torch.arange(size)
    first = node // num * num
    pairs = torch.stack([(first[:, None] + torch.arange(num)).flatten(), node.repeat_interleave(num)])
    pairs = pairs[:, pairs[0] != pairs[1]]
    return Graph(
        pos=pos,
        numbers=torch.zeros(size, dtype=torch.long),
        edge_index=pairs,
        edge_ptr=torch.arange(0, pairs.shape[1] + 1, num - 1),
        cell_shift=torch.zeros(pairs.shape[1], 3, dtype=torch.long),
        cell=torch.zeros(size // num, 3, 3, dtype=pos.dtype),
        pbc=torch.zeros(size // num, 3, dtype=torch.bool),
        batch=node // num,
        ptr=torch.arange(0, size + 1, num),
        node_scalars=charge,
        node_vectors=velocity[:, None],
    )


def random_particles(seed: int, systems: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    pos, velocity = torch.randn(2, 5 * systems, 3, generator=rng, dtype=torch.float64)
    charge = torch.randint(0, 2, (5 * systems, 1), generator=rng).double() * 2 - 1
    return pos, velocity, charge


def untrained(**settings: Any) -> FAGNN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FAGNN(channels=12, num_layers=3, **settings).double()


def read_case(golden: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = golden / "frame_averaging"
    with np.load(folder / "fa_gnn.npz", allow_pickle=False) as z:
        return json.loads((folder / "fa_gnn.json").read_text()), {k: torch.from_numpy(z[k]) for k in z.files}


@torch.no_grad()
def load_official(model: FAGNN, arrays: dict[str, Tensor]) -> None:
    left = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}

    def fill(module: nn.Linear, name: str) -> None:
        module.weight.copy_(left.pop(f"{name}.weight"))
        module.bias.copy_(left.pop(f"{name}.bias"))

    fill(model.embed, "embedding.0")
    fill(model.readout[0], "decoder.0")
    fill(model.readout[2], "decoder.2")
    for i, layer in enumerate(model.layers):
        c = layer.message.in_features
        edge, node = left.pop(f"gcl_{i}.edge_mlp.0.weight"), left.pop(f"gcl_{i}.node_mlp.0.weight")
        layer.from_nodes.weight.copy_(torch.cat([edge[:, :c], edge[:, c : 2 * c], node[:, :c]]))
        layer.from_edges.weight.copy_(edge[:, 2 * c :])
        layer.from_edges.bias.copy_(left.pop(f"gcl_{i}.edge_mlp.0.bias"))
        layer.from_sum.weight.copy_(node[:, c:])
        layer.from_sum.bias.copy_(left.pop(f"gcl_{i}.node_mlp.0.bias"))
        fill(layer.message, f"gcl_{i}.edge_mlp.2")
        fill(layer.update, f"gcl_{i}.node_mlp.2")
    assert not left, f"official weights without a place: {set(left)}"


def test_fa_gnn_gives_official_positions_and_latent_vectors(golden: Path) -> None:
    meta, z = read_case(golden)
    model = FAGNN(
        in_scalars=0,
        channels=meta["config"]["hidden_nf"],
        num_layers=meta["config"]["n_layers"],
        edge_inputs=(),
        in_edge_scalars=2,
    ).double()
    load_official(model, z)
    latent: list[Tensor] = []
    read = model.latent_vectors
    model.latent_vectors = lambda *a: latent.append(read(*a)) or latent[-1]  # type: ignore[method-assign]
    graph = particle_graph(z["inputs/loc"], z["inputs/vel"])
    receivers, senders = z["inputs/edge_index"]
    # the official code sums messages on the first row; the record lists edges by receiver, then sender
    order = torch.argsort(receivers * 100 + senders)
    assert torch.equal(torch.stack([senders, receivers])[:, order], graph.edge_index)
    out = model(graph, edge_scalars=z["inputs/edge_attr"][order])
    assert out.vectors is not None
    expected = z["outputs/latent_vectors_after_layer1"]
    torch.testing.assert_close(latent[0].unflatten(0, (-1, 5)), expected, **meta["tolerance"])
    torch.testing.assert_close(z["inputs/loc"] + out.vectors[:, 0], z["outputs/loc_pred"], **meta["tolerance"])


def test_edge_inputs_are_formed_from_charges_and_distances(golden: Path) -> None:
    meta, z = read_case(golden)
    model = FAGNN(channels=meta["config"]["hidden_nf"], num_layers=meta["config"]["n_layers"]).double()
    load_official(model, z)
    pos, velocity, charge = random_particles(1)
    graph = particle_graph(pos, velocity, charge=charge)
    vec = pos[graph.src] - pos[graph.dst]
    given = torch.cat([charge[graph.src] * charge[graph.dst], vec.square().sum(1, keepdim=True)], dim=1)
    other = FAGNN(
        in_scalars=0,
        channels=12,
        num_layers=meta["config"]["n_layers"],
        edge_inputs=(),
        in_edge_scalars=2,
    ).double()
    other.load_state_dict(model.state_dict())
    expected = other(graph.replace(node_scalars=None), edge_scalars=given).vectors
    torch.testing.assert_close(model(graph).vectors, expected)


def test_the_published_size_has_92103_parameters() -> None:
    assert sum(p.numel() for p in FAGNN().parameters()) == 92_103


@pytest.mark.parametrize(("group", "mirrors"), [("E(3)", True), ("SE(3)", False)])
def test_displacements_turn_with_the_particles(group: str, mirrors: bool) -> None:
    model = untrained(group=group)
    pos, velocity, charge = random_particles(2)
    vectors = model(particle_graph(pos, velocity, charge=charge)).vectors
    assert vectors is not None
    assert vectors.abs().max() > 0.1
    turn = random_rotations(1, generator=torch.Generator().manual_seed(0))[0]
    for reflect in (False, True):
        g = -turn if reflect else turn
        moved = model(particle_graph(pos @ g + 7.0, velocity @ g, charge=charge)).vectors
        error = (moved - vectors @ g).abs().max()
        assert error < 1e-11 if mirrors or not reflect else error > 1e-3, (group, reflect)


def test_displacements_follow_the_numbering_of_the_particles() -> None:
    model = untrained()
    pos, velocity, charge = random_particles(3, systems=1)
    order = torch.tensor([3, 0, 4, 2, 1])
    vectors = model(particle_graph(pos, velocity, charge=charge)).vectors
    again = model(particle_graph(pos[order], velocity[order], charge=charge[order])).vectors
    torch.testing.assert_close(again, vectors[order], rtol=0, atol=1e-12)


def test_systems_in_a_batch_do_not_see_each_other() -> None:
    model = untrained()
    pos, velocity, charge = random_particles(4)
    together = model(particle_graph(pos, velocity, charge=charge)).vectors
    alone = [
        model(particle_graph(pos[k : k + 5], velocity[k : k + 5], charge=charge[k : k + 5])).vectors for k in (0, 5, 10)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)


def test_training_gradients_reach_every_parameter_but_constant_vectors() -> None:
    """A constant averages to 0 over the signs wherever features are read as vectors: such biases cannot matter."""
    model = untrained()
    pos, velocity, charge = random_particles(5)
    model(particle_graph(pos, velocity, charge=charge)).vectors.square().sum().backward()
    largest = {name: float(p.grad.abs().max()) for name, p in model.named_parameters() if p.grad is not None}
    without = {name for name, value in largest.items() if value < 1e-12}
    assert without == {"layers.0.update.bias", "layers.1.update.bias", "readout.2.bias"}
    assert len(largest) == len(list(model.parameters()))


def test_calibration_keeps_the_symmetry_and_sets_the_scale() -> None:
    model = untrained()
    pos, velocity, charge = random_particles(6, systems=20)
    graph = particle_graph(pos, velocity, charge=charge)
    model.calibrate(graph)
    outputs: list[Tensor] = []
    model.layers[1].message.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    vectors = model(graph).vectors
    assert float(outputs[0].detach().std()) == pytest.approx(1.0)
    g = -random_rotations(1, generator=torch.Generator().manual_seed(1))[0]
    turned = model(particle_graph(pos @ g, velocity @ g, charge=charge)).vectors
    torch.testing.assert_close(turned, vectors @ g, rtol=0, atol=1e-9)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of 3"):
        FAGNN(channels=64)
    with pytest.raises(ConfigError, match="unknown group"):
        FAGNN(group="O(3)")
    with pytest.raises(ConfigError, match="unknown edge_inputs"):
        FAGNN(edge_inputs=("charge",))
    pos, velocity, charge = random_particles(0)
    with pytest.raises(ConfigError, match="node_scalars"):
        untrained()(particle_graph(pos, velocity))
    with pytest.raises(ConfigError, match="node_vectors"):
        untrained()(particle_graph(pos, velocity, charge=charge).replace(node_vectors=None))
