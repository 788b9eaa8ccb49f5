"""Transformers: closed form, official numbers of the pair tokens, symmetry, and attention smooth at the cutoff."""

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

from geomol import checks
from geomol.errors import ConfigError, ModelDomainError
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph, edge_vectors
from geomol.models.pair_transformer import PairTransformer
from geomol.models.plain_inputs import EDGE_INPUTS
from geomol.models.transformer import Transformer
from geomol.nn import polynomial_envelope

NBODY: dict[str, Any] = {
    "coordinates": "absolute", "in_scalars": 1, "in_vectors": 1, "out_scalars": 0, "out_vectors": 1,
    "cutoff": math.inf, "envelope": False, "num_radial": 0, "edge_inputs": EDGE_INPUTS,
}  # fmt: skip
MODES: dict[str, dict[str, Any]] = {
    "potential": {"elements": [1, 6, 8], "cutoff": 4.0},
    "relative with vectors": {
        "elements": [1, 6, 8], "in_scalars": 2, "in_vectors": 2, "out_scalars": 2, "out_vectors": 2, "cutoff": 4.0,
        "edge_inputs": EDGE_INPUTS, "ff_channels": 5,
    },
    "n-body": NBODY,
    "n-body, centred": {**NBODY, "coordinates": "centred", "out_scalars": 1, "predicts": "position"},
}  # fmt: skip
PAIRS: dict[str, dict[str, Any]] = {
    "pairs": {"num_nodes": 5, "in_scalars": 1, "in_vectors": 1},
    "pairs, centred": {
        "num_nodes": 5, "elements": [1, 6, 8], "in_scalars": 2, "out_scalars": 2, "coordinates": "centred",
        "predicts": "position", "edge_inputs": ["squared_distance"],
    },
}  # fmt: skip
Model = Transformer | PairTransformer
every_mode = pytest.mark.parametrize("mode", list(MODES))
every_model = pytest.mark.parametrize("mode", [*MODES, *PAIRS])


def make(mode: str, **changes: Any) -> Any:
    """A model with all its parameters moved off their start, so that every one of them matters."""
    torch.manual_seed(1)
    cls: type[Model] = PairTransformer if mode in PAIRS else Transformer
    model = cls(**{"channels": 8, "num_heads": 2, "num_layers": 3, **MODES.get(mode, PAIRS.get(mode)), **changes})
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def inputs(model: Model, num: int) -> dict[str, Tensor | None]:
    """Positions about 1.5 Å apart, and what else the model wants."""
    gen = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    num_scalars = model.config["in_scalars"]
    assert isinstance(num_scalars, int)
    return {
        "pos": 1.5 * draw(num, 3),
        "node_scalars": draw(num, num_scalars) if num_scalars else None,
        "node_vectors": draw(num, model.in_vectors, 3) if model.in_vectors else None,
        "numbers": torch.tensor([1, 6, 8] * num)[:num],
    }


def graph_of(model: Model, fields: dict[str, Tensor | None], ptr: list[int]) -> Graph:
    pos, numbers = fields["pos"], fields["numbers"]
    assert pos is not None
    assert numbers is not None
    frames = [Atoms(numbers.numpy()[a:b], pos.numpy()[a:b]) for a, b in itertools.pairwise(ptr)]
    return build_graph(frames, model.cutoff).replace(**fields)


def sample(mode: str, model: Model) -> Graph:
    """One crowd of nine nodes, or two structures of five where the number is fixed."""
    ptr = [0, 5, 10] if mode in PAIRS else [0, 9]
    return graph_of(model, inputs(model, ptr[-1]), ptr)


def both(out: Any) -> Tensor:
    """Scalars and vectors side by side."""
    return out.scalars if out.vectors is None else torch.cat([out.scalars, out.vectors.flatten(1)], dim=1)


# numbers


def test_attention_equals_the_softmax_over_neighbours_and_oneself() -> None:
    """The equations of the docstring, with a plain softmax over one row at a time, the window as its logarithm."""
    model = make("relative with vectors")
    graph = graph_of(model, inputs(model, 9), [0, 9])
    vec = edge_vectors(graph)
    edges = model.edge_inputs(graph, vec)
    layer = model.layers[0]
    h = torch.randn(9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    q, k, v = (x.view(9, 2, 4) for x in layer.from_nodes(layer.norm_attention(h)).chunk(3, dim=1))
    pair_k, pair_v = (x.view(-1, 2, 4) for x in layer.from_edges(edges.feats).chunk(2, dim=1))
    z = torch.zeros_like(q)
    for i, head in itertools.product(range(9), range(2)):
        into = (graph.dst == i).nonzero()[:, 0]
        keys = torch.cat([k[i, head][None], k[graph.src[into], head] + pair_k[into, head]])
        values = torch.cat([v[i, head][None], v[graph.src[into], head] + pair_v[into, head]])
        window = torch.cat([torch.ones(1, dtype=torch.float64), polynomial_envelope(vec[into].norm(dim=1) / 4.0)])
        weight = torch.softmax(keys @ q[i, head] / 2 + window.log(), dim=0)  # √4 = 2
        z[i, head] = weight @ values
    expected = h + layer.mix(z.flatten(1))
    expected = expected + layer.mlp(layer.norm_mlp(expected))
    torch.testing.assert_close(layer(h, edges, graph), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def load_official(model: PairTransformer, weights: dict[str, Tensor]) -> None:
    renamed = {}
    for name, value in weights.items():
        for theirs, ours in (("input.0.", "embed."), ("output.", "readout."), ("pos_encoder.pe", "code")):
            name = name.replace(theirs, ours)
        renamed[name] = value.squeeze(1) if name == "code" else value
    model.load_state_dict(renamed)


def test_backbone_of_probabilistic_symmetrisation_gives_the_official_prediction(golden: Path) -> None:
    """Orders and poses are given; the backbone sees the structure from each of them."""
    case = golden / "lps" / "prob_snxo3_transformer"
    meta = json.loads(case.with_suffix(".json").read_text())
    with np.load(case.with_suffix(".npz"), allow_pickle=False) as file:
        z = {key: torch.from_numpy(file[key]) for key in file.files}
    c = meta["config"]
    width = {"channels": c["backbone_dim"], "ff_channels": c["backbone_dim"], "num_heads": c["backbone_heads"]}
    model = PairTransformer(**PAIRS["pairs"], num_layers=c["backbone_layers"], **width).double().eval()
    load_official(model, {k[17:]: v for k, v in z.items() if k.startswith("weights/backbone.")})
    loc, vel = z["inputs/loc"], z["inputs/vel"]
    centre = loc.mean(1, keepdim=True)
    predicted = loc.clone()
    for number in range(c["samples"]):
        g, order = z["outputs/group_orthogonal"][:, number], z["outputs/group_permutation"][:, number]
        pos, vec, charge = (order.mT @ x for x in ((loc - centre) @ g, vel @ g, z["inputs/charges"][..., None]))
        fields = {
            "pos": pos.flatten(0, 1), "node_scalars": charge.flatten(0, 1), "node_vectors": vec.flatten(0, 1)[:, None],
            "numbers": torch.ones(15, dtype=torch.long),
        }  # fmt: skip
        out = model(graph_of(model, fields, [0, 5, 10, 15])).vectors
        predicted += order @ out.view_as(loc) @ g.mT / c["samples"]
    assert (predicted - loc).abs().max() > 0.1
    torch.testing.assert_close(predicted, z["outputs/prediction"], **meta["tolerance"])


@pytest.mark.parametrize(("layers", "count"), [(4, 107_523), (8, 208_387)])
def test_parameter_counts_of_the_pair_transformer_are_the_published_ones(layers: int, count: int) -> None:
    model = PairTransformer(**PAIRS["pairs"], num_layers=layers)
    assert sum(p.numel() for p in model.parameters()) == count


# symmetry


@every_model
def test_translation_is_exact_where_it_is_claimed(mode: str) -> None:
    model = make(mode)
    graph = sample(mode, model)
    away = graph.replace(pos=graph.pos + torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64))
    error = (both(model(away)) - both(model(graph))).abs().max()
    if model.symmetry.group == "T(3)":
        assert error < 1e-11
    else:
        assert error > 1e-3


@every_model
def test_rotation_is_no_symmetry(mode: str) -> None:
    """The control of every test of rotations: these networks fail it, and claim no more than they have."""
    model = make(mode)
    assert model.symmetry.group in ("1", "T(3)")
    graph = sample(mode, model)
    turn = random_rotations(1, generator=torch.Generator().manual_seed(3))[0]
    vectors = None if graph.node_vectors is None else graph.node_vectors @ turn.T
    out, turned = model(graph), model(graph.replace(pos=graph.pos @ turn.T, node_vectors=vectors))
    assert out.scalars.numel() == 0 or (turned.scalars - out.scalars).abs().max() > 1e-3
    assert out.vectors is None or (turned.vectors - out.vectors @ turn.T).abs().max() > 1e-3


@every_model
def test_order_of_the_nodes_matters_to_pair_tokens_alone(mode: str) -> None:
    model = make(mode)
    ptr = [0, 5] if mode in PAIRS else [0, 9]
    fields = inputs(model, ptr[-1])
    order = torch.randperm(ptr[-1], generator=torch.Generator().manual_seed(5))
    shuffled = {key: None if value is None else value[order] for key, value in fields.items()}
    out, again = both(model(graph_of(model, fields, ptr))), both(model(graph_of(model, shuffled, ptr)))
    if mode in PAIRS:
        assert (again - out[order]).abs().max() > 1e-3
    else:
        torch.testing.assert_close(again, out[order], rtol=1e-12, atol=1e-12)
        assert (again - out).abs().max() > 1e-3


@every_model
def test_structures_of_a_batch_do_not_see_each_other(mode: str) -> None:
    model = make(mode)
    ptr = [0, 5, 10] if mode in PAIRS else [0, 4, 5, 9]
    fields = inputs(model, ptr[-1])
    together = both(model(graph_of(model, fields, ptr)))
    for a, b in itertools.pairwise(ptr):
        alone = {key: None if value is None else value[a:b] for key, value in fields.items()}
        torch.testing.assert_close(
            together[a:b], both(model(graph_of(model, alone, [0, b - a]))), rtol=1e-12, atol=1e-12
        )


@every_model
def test_every_parameter_takes_part(mode: str) -> None:
    model = make(mode)
    total = both(model(sample(mode, model))).square().sum()
    grads = torch.autograd.grad(total, list(model.parameters()))
    unused = [n for (n, _), g in zip(model.named_parameters(), grads, strict=True) if not g.any()]
    assert not unused


@every_model
def test_config_rebuilds_the_model(mode: str) -> None:
    model = make(mode)
    again = type(model)(**json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    graph = sample(mode, model)
    assert torch.equal(both(again(graph)), both(model(graph)))


# settings


def test_calibration_scales_the_layers() -> None:
    torch.manual_seed(1)
    model = Transformer(elements=[1, 6, 7, 8, 9, 16, 17], channels=32, cutoff=4.0)
    graph = build_graph(checks.disordered_molecules(4, seed=1, displacement=0.1), 4.0)
    model.calibrate(graph)
    outputs: list[Tensor] = []
    layer = model.layers[1].mlp[0]
    assert isinstance(layer, nn.Linear)
    layer.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    model(graph)
    assert outputs[0].std().item() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff": 0.0}, r"cutoff must be positive \(Å\), got 0\.0"),
        ({"cutoff": math.inf, "num_radial": 0}, r"envelope needs a cutoff; give a cutoff, or envelope=False"),
        ({"coordinates": "polar"}, r"unknown coordinates, expected relative, centred, absolute, got polar"),
        ({"channels": 10}, r"channels must be a multiple of num_heads, got 10 and 4"),
        ({"out_scalars": 0}, r"needs outputs"),
        ({"elements": []}, r"needs node inputs"),
        ({"edge_inputs": ["charge_product"]}, r"charge_product needs the charge"),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Transformer(**{"elements": [1], **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_nodes": 0}, r"num_nodes must be at least 1, got 0"),
        ({"coordinates": "relative"}, r"unknown coordinates, expected absolute or centred, got relative"),
        ({"channels": 10}, r"channels must be a multiple of num_heads, got 10 and 4"),
        ({"out_vectors": 0}, r"needs outputs"),
        ({"in_scalars": 0}, r"charge_product needs the charge"),
        ({"edge_inputs": ["angle"]}, r"unknown edge_inputs"),
    ],
)
def test_contradictory_settings_of_pair_tokens_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PairTransformer(**{**PAIRS["pairs"], **settings})


def test_structures_that_do_not_fit_are_refused() -> None:
    model = make("pairs")
    with pytest.raises(ModelDomainError, match=r"structure of another size, expected 5 nodes each, got 4, 6"):
        model(graph_of(model, inputs(model, 10), [0, 4, 10]))
    graph = graph_of(model, inputs(model, 5), [0, 5])
    with pytest.raises(ConfigError, match=r"`node_vectors` does not fit the model, expected 1 vectors, got 0"):
        model(graph.replace(node_vectors=None))
    with pytest.raises(ConfigError, match=r"`node_scalars` does not fit the model, expected the charge"):
        model(graph.replace(node_scalars=None))
    periodic = build_graph(Atoms("C", cell=[3.0, 3.0, 3.0], pbc=True), 4.0)
    with pytest.raises(ModelDomainError, match=r"cannot read a periodic structure"):
        make("potential", coordinates="centred")(periodic)
