"""Deep Sets: closed forms, the general linear map that commutes with permutations, pools, and what is extensive."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from geomol import checks
from geomol.errors import ConfigError, ModelDomainError
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph
from geomol.models.deep_sets import DeepSets, DeepSetsLayer
from geomol.potential import Potential

MODES: dict[str, dict[str, Any]] = {
    "max": {"pool": "max"},
    "mean": {"pool": "mean", "elements": [1, 6, 8], "activation": "silu"},
    "sum": {"pool": "sum", "in_vectors": 1, "out_vectors": 2, "activation": "silu"},
    "n-body": {"in_vectors": 1, "in_scalars": 1, "out_scalars": 0, "out_vectors": 1, "coordinates": "absolute",
               "predicts": "position"},
    "invariant": {"form": "invariant", "pool": "sum", "out_scalars": 2, "coordinates": "absolute"},
    "invariant, max": {"form": "invariant", "pool": "max", "elements": [1, 6, 8], "out_vectors": 1},
}  # fmt: skip
every_mode = pytest.mark.parametrize("mode", list(MODES))
POOLED = {"sum": lambda x: x.sum(0), "mean": lambda x: x.mean(0), "max": lambda x: x.max(0).values}


def make(mode: str, **changes: Any) -> DeepSets:
    """A model with all its parameters moved off their start, so that every one of them matters."""
    torch.manual_seed(1)
    model = DeepSets(**{"channels": 8, "num_layers": 3, **MODES[mode], **changes}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def inputs(model: DeepSets, num: int = 9) -> dict[str, Tensor | None]:
    gen = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    return {
        "pos": 1.5 * draw(num, 3),
        "node_scalars": draw(num, 1) if model.config["in_scalars"] else None,
        "node_vectors": draw(num, 1, 3) if model.in_vectors else None,
        "numbers": torch.tensor([1, 6, 8] * num)[:num],
    }


def graph_of(fields: dict[str, Tensor | None], ptr: list[int]) -> Graph:
    pos, numbers = fields["pos"], fields["numbers"]
    assert pos is not None
    assert numbers is not None
    frames = [Atoms(numbers.numpy()[a:b], pos.numpy()[a:b]) for a, b in itertools.pairwise(ptr)]
    return build_graph(frames).replace(**fields)


def both(out: Any) -> Tensor:
    """Scalars and vectors side by side."""
    return out.scalars if out.vectors is None else torch.cat([out.scalars, out.vectors.flatten(1)], dim=1)


@pytest.mark.parametrize("pool", list(POOLED))
def test_layer_is_the_formula_structure_by_structure(pool: str) -> None:
    torch.manual_seed(0)
    layer = DeepSetsLayer(5, 7, pool=pool, activation="tanh").double()
    x = torch.randn(9, 5, dtype=torch.float64)
    gamma, b, lam = layer.own.weight, layer.own.bias, layer.common.weight
    rows = [torch.tanh(s @ gamma.T - lam @ POOLED[pool](s) + b) for s in (x[:4], x[4:5], x[5:])]
    torch.testing.assert_close(layer(x, torch.tensor([0, 4, 5, 9])), torch.cat(rows), rtol=1e-12, atol=1e-12)


def test_invariant_form_is_the_formula_and_every_node_has_an_equal_share() -> None:
    model = make("invariant")
    fields, ptr = inputs(model), [0, 4, 5, 9]
    out = model(graph_of(fields, ptr)).scalars
    for a, b in itertools.pairwise(ptr):
        x = fields["pos"][a:b]
        for layer in model.layers:
            x = torch.tanh(layer[0](x))
        whole = model.readout(x.sum(0))
        torch.testing.assert_close(out[a:b], (whole / (b - a)).expand(b - a, -1), rtol=1e-12, atol=1e-12)


@every_mode
def test_order_of_the_points_does_not_matter(mode: str) -> None:
    model = make(mode)
    fields = inputs(model)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(5))
    shuffled = {key: None if value is None else value[order] for key, value in fields.items()}
    out, again = both(model(graph_of(fields, [0, 9]))), both(model(graph_of(shuffled, [0, 9])))
    torch.testing.assert_close(again, out[order], rtol=1e-12, atol=1e-12)
    if model.form == "equivariant":
        assert (again - out).abs().max() > 1e-3


@every_mode
def test_structures_of_a_batch_do_not_see_each_other(mode: str) -> None:
    model = make(mode)
    fields, ptr = inputs(model), [0, 4, 5, 9]
    together = both(model(graph_of(fields, ptr)))
    for a, b in itertools.pairwise(ptr):
        alone = {key: None if value is None else value[a:b] for key, value in fields.items()}
        torch.testing.assert_close(together[a:b], both(model(graph_of(alone, [0, b - a]))), rtol=1e-12, atol=1e-12)


@every_mode
def test_translation_is_exact_where_it_is_claimed_and_rotation_never(mode: str) -> None:
    model = make(mode)
    graph = graph_of(inputs(model), [0, 9])
    out = model(graph)
    away = graph.replace(pos=graph.pos + torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64))
    error = (both(model(away)) - both(out)).abs().max()
    assert (error < 1e-11) == (model.symmetry.group == "T(3)")
    turn = random_rotations(1, generator=torch.Generator().manual_seed(3))[0]
    vectors = None if graph.node_vectors is None else graph.node_vectors @ turn.T
    turned = model(graph.replace(pos=graph.pos @ turn.T, node_vectors=vectors))
    assert out.scalars.numel() == 0 or (turned.scalars - out.scalars).abs().max() > 1e-3
    assert out.vectors is None or (turned.vectors - out.vectors @ turn.T).abs().max() > 1e-3


def test_sum_pool_is_extensive_before_the_last_network_and_the_mean_is_intensive() -> None:
    pos = inputs(make("invariant"))["pos"]
    assert pos is not None
    twice = {"pos": torch.cat([pos, pos]), "numbers": torch.ones(18, dtype=torch.long)}
    once = {"pos": pos, "numbers": torch.ones(9, dtype=torch.long)}
    for pool, factor in (("sum", 2.0), ("mean", 1.0)):
        model = make("invariant", pool=pool)
        seen: list[Tensor] = []
        model.readout.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
        for fields in (once, twice):
            model(graph_of(fields, [0, len(fields["pos"])]))
        one, two = seen
        torch.testing.assert_close(two, factor * one, rtol=1e-12, atol=1e-12)
        assert one.abs().max() > 1e-2


def test_structures_are_not_separable_and_the_model_says_so() -> None:
    model = make("mean")
    assert not model.symmetry.separable
    graph = graph_of(inputs(model), [0, 9])
    pos = graph.pos.clone()
    pos[8] += 1e3
    error = model(graph.replace(pos=pos)).scalars[:8] - model(graph).scalars[:8]
    assert error.abs().max() > 1e-3


def test_forces_are_minus_the_energy_gradient_unless_the_pool_is_the_maximum() -> None:
    atoms = checks.disordered_molecules(1, seed=1, displacement=0.1)[0]
    elements = [1, 6, 7, 8, 9, 16, 17]
    model = make("mean", elements=elements)
    assert model.symmetry.smooth
    assert not make("max").symmetry.smooth
    potential = Potential(model, elements=elements, e0=[0.0] * 7)
    assert np.abs(checks.forces_of(potential, atoms)).max() > 1e-3
    assert checks.force_error(potential, atoms) < 1e-7
    assert np.array_equal(checks.forces_of(potential, Atoms("C", [[1.0, 2.0, 3.0]])), np.zeros((1, 3)))


@every_mode
def test_every_parameter_takes_part_and_the_config_rebuilds_the_model(mode: str) -> None:
    model = make(mode)
    graph = graph_of(inputs(model), [0, 4, 9])
    out = both(model(graph))
    grads = torch.autograd.grad(out.square().sum(), list(model.parameters()))
    assert not [n for (n, _), g in zip(model.named_parameters(), grads, strict=True) if not g.any()]
    again = DeepSets(**json.loads(json.dumps(model.config))).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(both(again(graph)), out)


def test_calibration_gives_the_layers_unit_output() -> None:
    torch.manual_seed(1)
    model = DeepSets(pool="max", channels=32).double()
    graph = graph_of(inputs(model), [0, 9])
    model.calibrate(graph)
    outputs: list[Tensor] = []
    model.layers[1].own.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    model(graph)
    assert outputs[0].std().item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "median"}, r"unknown pool, expected sum, mean, max, got median"),
        ({"form": "covariant"}, r"unknown form, expected equivariant, invariant, got covariant"),
        ({"activation": "relu"}, r"unknown activation, expected tanh, silu, got relu"),
        ({"coordinates": "relative"}, r"a set has no pairs to be relative to, expected centred or absolute"),
        ({"coordinates": "polar"}, r"unknown coordinates"),
        ({"out_scalars": 0}, r"needs outputs"),
        ({"form": "invariant", "predicts": "position", "out_vectors": 1}, r'"position" needs form="equivariant"'),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DeepSets(**settings)


def test_periodic_structures_are_refused() -> None:
    with pytest.raises(ModelDomainError, match="cannot read a periodic structure"):
        make("max")(build_graph(Atoms("C", cell=[3.0, 3.0, 3.0], pbc=True), 4.0))
