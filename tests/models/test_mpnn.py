"""MPNN: official numbers, what symmetry it has and what it lacks, and its use in potentials."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor, nn
from torch.nn.functional import silu

from geomol import checks
from geomol.errors import ConfigError, ModelDomainError
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph, edge_vectors
from geomol.models.mpnn import MPNN
from geomol.models.plain_inputs import EDGE_INPUTS
from geomol.nn import polynomial_envelope

NBODY: dict[str, Any] = {
    "coordinates": "absolute", "predicts": "position", "in_scalars": 1, "in_vectors": 1, "out_scalars": 0,
    "out_vectors": 1, "cutoff": math.inf, "envelope": False, "num_radial": 0, "edge_inputs": EDGE_INPUTS,
}  # fmt: skip
MODES: dict[str, dict[str, Any]] = {
    "potential": {"elements": [1, 6, 8], "cutoff": 4.0},
    "relative with vectors": {
        "elements": [1, 6, 8], "in_scalars": 2, "in_vectors": 2, "out_scalars": 2, "out_vectors": 2, "cutoff": 4.0,
        "edge_inputs": EDGE_INPUTS, "residual": False,
    },
    "n-body": NBODY,
    "n-body, centred": {**NBODY, "coordinates": "centred", "out_scalars": 1},
    "absolute with a cutoff": {"elements": [1, 6, 8], "coordinates": "absolute", "cutoff": 4.0},
}  # fmt: skip
every_mode = pytest.mark.parametrize("mode", list(MODES))


def make(mode: str, **changes: Any) -> MPNN:
    """A model with all its parameters moved off their start, so that every one of them matters."""
    torch.manual_seed(1)
    model = MPNN(**{"channels": 8, "num_layers": 3, **MODES[mode], **changes}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def inputs(model: MPNN, num: int = 9, seed: int = 0) -> dict[str, Tensor | None]:
    """Positions about 1.5 Å apart, and what else the model wants."""
    gen = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    num_scalars = model.config["in_scalars"]
    assert isinstance(num_scalars, int)
    return {
        "pos": 1.5 * draw(num, 3),
        "node_scalars": draw(num, num_scalars) if num_scalars else None,
        "node_vectors": draw(num, model.in_vectors, 3) if model.in_vectors else None,
    }


def graph_of(model: MPNN, fields: dict[str, Tensor | None], ptr: list[int] | None = None) -> Graph:
    pos = fields["pos"]
    assert pos is not None
    numbers = fields.get("numbers", torch.tensor([1, 6, 8] * len(pos))[: len(pos)])
    assert numbers is not None
    ptr = [0, len(pos)] if ptr is None else ptr
    frames = [Atoms(numbers[a:b].numpy(), pos[a:b].numpy()) for a, b in itertools.pairwise(ptr)]
    return build_graph(frames, model.cutoff).replace(**fields)


def both(out: Any) -> Tensor:
    """Scalars and vectors side by side."""
    return out.scalars if out.vectors is None else torch.cat([out.scalars, out.vectors.flatten(1)], dim=1)


# official numbers


def read_case(golden: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    meta = json.loads((golden / f"{name}.json").read_text())
    with np.load(golden / f"{name}.npz", allow_pickle=False) as z:
        return meta, {key: torch.from_numpy(z[key]) for key in z.files}


@torch.no_grad()
def load_official(model: MPNN, arrays: dict[str, Tensor], prefix: str, *, embed: str, layer: str) -> None:
    """Official weights; concatenated first layers are cut into the parts that act on each input."""
    left = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}

    def fill(module: nn.Module, name: str) -> None:
        assert isinstance(module, nn.Linear)
        module.weight.copy_(left.pop(f"{name}.weight"))
        module.bias.copy_(left.pop(f"{name}.bias"))

    fill(model.embed, embed)
    for i, ours in enumerate(model.layers):
        name, width = layer.format(i), ours.message.in_features
        edge, node = left.pop(f"{name}.edge_mlp.0.weight"), left.pop(f"{name}.node_mlp.0.weight")
        ours.from_nodes.weight.copy_(torch.cat([edge[:, :width], edge[:, width : 2 * width], node[:, :width]]))
        ours.from_edges.weight.copy_(edge[:, 2 * width :])
        ours.from_edges.bias.copy_(left.pop(f"{name}.edge_mlp.0.bias"))
        ours.from_sum.weight.copy_(node[:, width:])
        ours.from_sum.bias.copy_(left.pop(f"{name}.node_mlp.0.bias"))
        fill(ours.message, f"{name}.edge_mlp.2")
        fill(ours.update, f"{name}.node_mlp.2")
    fill(model.readout[0], "decoder.0")
    fill(model.readout[2], "decoder.2")
    assert not left, f"official weights without a place: {list(left)}"


def test_nbody_baseline_gives_the_official_positions(golden: Path) -> None:
    meta, z = read_case(golden, "egnn/nbody_baselines")
    c = meta["config"]
    settings = {"channels": c["hidden_nf"], "num_layers": c["n_layers"], "edge_inputs": ["charge_product"]}
    model = MPNN(**{**NBODY, **settings}).double()
    load_official(model, z, "weights/gnn.", embed="embedding.0", layer="gcl_{}")
    receivers, senders = z["inputs/edge_index"]
    product, loc = z["inputs/charge_product"], z["inputs/loc"]
    charge = torch.ones(len(loc), 1, dtype=torch.float64)  # the first of each structure is taken as +1
    for node in range(len(loc)):
        pair = (receivers == 5 * (node // 5)) & (senders == node)
        charge[node] = product[pair] if pair.any() else 1.0
    graph = graph_of(model, {"pos": loc, "node_scalars": charge, "node_vectors": z["inputs/vel"][:, None]}, [0, 5, 10])
    assert torch.equal(charge[graph.dst] * charge[graph.src], product), "pairs are listed alike"
    got = loc + model(graph).vectors[:, 0]
    assert z["outputs/gnn"].abs().max() > 0.1
    torch.testing.assert_close(got, z["outputs/gnn"], **meta["tolerance"])


def test_backbone_of_probabilistic_symmetrisation_gives_the_official_prediction(golden: Path) -> None:
    """The poses are given; the backbone sees the structure from each of them."""
    meta, z = read_case(golden, "lps/prob_o3_gnn")
    c = meta["config"]
    settings = {"channels": c["backbone_dim"], "num_layers": c["backbone_layers"], "residual": False}
    model = MPNN(**{**NBODY, **settings}).double()
    load_official(model, z, "weights/backbone.", embed="embedding", layer="layer_{}")
    centre = z["inputs/loc"].mean(1, keepdim=True)
    predicted = torch.zeros_like(z["inputs/loc"])
    for sample in range(c["samples"]):
        g = z["outputs/group_orthogonal"][:, sample]
        pos, vel = ((x @ g).flatten(0, 1) for x in (z["inputs/loc"] - centre, z["inputs/vel"]))
        fields = {"pos": pos, "node_scalars": z["inputs/charges"].reshape(-1, 1), "node_vectors": vel[:, None]}
        out = pos + model(graph_of(model, fields, [0, 5, 10, 15])).vectors[:, 0]
        predicted += out.view_as(predicted) @ g.mT / c["samples"]
    torch.testing.assert_close(predicted + centre, z["outputs/prediction"], **meta["tolerance"])


@pytest.mark.parametrize(("channels", "count"), [(60, 92_103), (32, 26_723)], ids=["frames", "canonicalisation"])
def test_parameter_counts_are_the_published_ones(channels: int, count: int) -> None:
    model = MPNN(**NBODY, channels=channels, num_layers=4)
    assert sum(p.numel() for p in model.parameters()) == count


def test_split_first_layer_equals_the_concatenation() -> None:
    """The equations of the docstring, one pair at a time."""
    model = make("relative with vectors", residual=True)
    graph = graph_of(model, inputs(model))
    vec = edge_vectors(graph)
    one_hot = torch.eye(3, dtype=torch.float64)[torch.arange(9) % 3]
    scalars, vectors = graph.node_scalars, graph.node_vectors
    assert scalars is not None
    assert vectors is not None
    h = model.embed(torch.cat([one_hot, scalars[:, :1], vectors.flatten(1)], dim=1))
    basis = model.edge_inputs.basis
    assert basis is not None
    for layer in model.layers:
        a, b, own = layer.from_nodes.weight.chunk(3)
        edge_weight = torch.cat([a, b, layer.from_edges.weight], dim=1)
        node_weight = torch.cat([own, layer.from_sum.weight], dim=1)
        total = torch.zeros_like(h)
        for e in range(graph.num_edges):
            i, j, r = int(graph.dst[e]), int(graph.src[e]), vec[e].norm()
            product = scalars[i, 1:] * scalars[j, 1:]
            read = torch.cat([h[i], h[j], basis(r[None])[0], product, r[None] ** 2, vec[e] / r])
            message = silu(layer.message(silu(edge_weight @ read + layer.from_edges.bias)))
            total[i] += message * polynomial_envelope(r / 4.0)
        h = h + layer.update(silu(torch.cat([h, total], dim=1) @ node_weight.T + layer.from_sum.bias))
    torch.testing.assert_close(both(model(graph)), model.readout(h), rtol=1e-11, atol=1e-11)


# symmetry


@every_mode
def test_translation_is_exact_where_it_is_claimed(mode: str) -> None:
    model = make(mode)
    graph = graph_of(model, inputs(model))
    away = graph.replace(pos=graph.pos + torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64))
    error = (both(model(away)) - both(model(graph))).abs().max()
    if model.symmetry.group == "T(3)":
        assert error < 1e-11
    else:
        assert error > 1e-3


@every_mode
def test_rotation_is_no_symmetry(mode: str) -> None:
    """The control of every test of rotations: this network fails it, and claims no more than it has."""
    model = make(mode)
    assert model.symmetry.group in ("1", "T(3)")
    graph = graph_of(model, inputs(model))
    turn = random_rotations(1, generator=torch.Generator().manual_seed(3))[0]
    vectors = None if graph.node_vectors is None else graph.node_vectors @ turn.T
    out, turned = model(graph), model(graph.replace(pos=graph.pos @ turn.T, node_vectors=vectors))
    assert out.scalars.numel() == 0 or (turned.scalars - out.scalars).abs().max() > 1e-3
    assert out.vectors is None or (turned.vectors - out.vectors @ turn.T).abs().max() > 1e-3


@every_mode
def test_order_of_the_nodes_does_not_matter(mode: str) -> None:
    model = make(mode)
    fields = {**inputs(model), "numbers": torch.tensor([1, 6, 8] * 3)}
    order = torch.randperm(9, generator=torch.Generator().manual_seed(5))
    shuffled = {key: None if value is None else value[order] for key, value in fields.items()}
    out, again = both(model(graph_of(model, fields))), both(model(graph_of(model, shuffled)))
    torch.testing.assert_close(again, out[order], rtol=1e-12, atol=1e-12)
    assert (again - out).abs().max() > 1e-3


@every_mode
def test_structures_of_a_batch_do_not_see_each_other(mode: str) -> None:
    model = make(mode)
    fields, ptr = {**inputs(model), "numbers": torch.tensor([1, 6, 8] * 3)}, [0, 4, 5, 9]
    together = both(model(graph_of(model, fields, ptr)))
    for a, b in itertools.pairwise(ptr):
        alone = {key: None if value is None else value[a:b] for key, value in fields.items()}
        torch.testing.assert_close(together[a:b], both(model(graph_of(model, alone))), rtol=1e-12, atol=1e-12)


@every_mode
def test_every_parameter_takes_part_and_the_config_rebuilds_the_model(mode: str) -> None:
    model = make(mode)
    graph = graph_of(model, inputs(model))
    out = both(model(graph))
    grads = torch.autograd.grad(out.square().sum(), list(model.parameters()))
    assert not [n for (n, _), g in zip(model.named_parameters(), grads, strict=True) if not g.any()]
    again = MPNN(**json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(both(again(graph)), out)


# settings


def test_a_calibrated_network_sees_geometry_more_than_a_default_one() -> None:
    structures = [checks.disordered_molecules(1, seed=1, displacement=0.1)[0] for _ in range(8)]
    rng = np.random.default_rng(0)
    for atoms in structures:
        atoms.positions += 0.1 * rng.normal(size=atoms.positions.shape)
    graph = build_graph(structures, 4.0)
    torch.manual_seed(1)
    model = MPNN(elements=[1, 6, 7, 8, 9, 16, 17], channels=32, cutoff=4.0)
    energies = []
    for _ in range(2):
        energies.append(model(graph).scalars.view(8, -1).std(0).mean().item())
        model.calibrate(graph)
    assert energies[1] > 5 * energies[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff": -1.0}, r"cutoff must be positive \(Å\), got -1\.0"),
        ({"cutoff": math.inf, "num_radial": 0}, r"envelope needs a cutoff; give a cutoff, or envelope=False"),
        ({"coordinates": "polar"}, r"unknown coordinates, expected relative, centred, absolute, got polar"),
        ({"predicts": "position", "out_vectors": 1}, r'predicts="position" needs coordinates of the nodes'),
        ({"predicts": "velocity"}, r"unknown kind of prediction, expected displacement or position, got velocity"),
        ({"out_scalars": 0}, r"needs outputs"),
        ({"elements": []}, r"needs node inputs"),
        ({"coordinates": "absolute", "num_radial": 0}, r"needs edge inputs; give num_radial or edge_inputs"),
        ({"edge_inputs": ["angle"]}, r"unknown edge_inputs"),
        ({"edge_inputs": ["charge_product"]}, r"charge_product needs the charge"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MPNN(**{"elements": [1], **settings})


def test_graphs_without_the_declared_inputs_are_refused() -> None:
    model = make("n-body")
    graph = graph_of(model, inputs(model))
    with pytest.raises(ConfigError, match=r"`node_vectors` does not fit the model, expected 1 vectors, got 0"):
        model(graph.replace(node_vectors=None))
    with pytest.raises(ConfigError, match=r"`node_scalars` does not fit the model, expected the charge"):
        model(graph.replace(node_scalars=None))


def test_node_coordinates_of_a_periodic_structure_are_refused() -> None:
    model = make("absolute with a cutoff")
    with pytest.raises(ModelDomainError, match=r'periodic structure, got coordinates="absolute"; use .*"relative"'):
        model(build_graph(Atoms("C", cell=[3.0, 3.0, 3.0], pbc=True), 4.0))
