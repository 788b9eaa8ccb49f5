"""Structures taken apart, part networks and their training, and the settings of part frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from symmetry.moving_parts import (
    EGNN_PARTS,
    F64,
    GIVEN,
    INF,
    SHARES,
    SIZES,
    cloud,
    graph_of,
    learned,
    mpnn,
    part_error,
    shares,
    wrapped,
)
from torch import nn

from geomol.data import draw_rotations, make_parts, rotate
from geomol.errors import ConfigError, InputError, ModelDomainError
from geomol.graph import graph_by_rule, parse_edge_rule
from geomol.labels import LabelModel
from geomol.symmetry import PartFrames, backbone_config, build_backbone, with_elements
from geomol.symmetry.part_graph import split_graph
from geomol.symmetry.part_networks import LearnedParts
from geomol.train import load_config
from geomol.train.config import model_faults
from geomol.train.label_task import with_interface

EXAMPLES = Path(__file__).parents[2] / "examples" / "configs" / "parts"

# structures taken apart, by the side of a plain loop


@pytest.mark.parametrize("contracted", [False, True])
def test_parts_are_what_a_plain_loop_finds(contracted: bool) -> None:
    pos, ptr, _ = cloud()
    rule = parse_edge_rule("radius-1.5")
    weights = torch.rand(len(pos), 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    weights = (weights - 0.4).clamp(min=0)
    weights[: SIZES[0], 2] = 0  # a part without nodes
    graph = graph_by_rule(rule, pos, ptr)
    apart = split_graph(graph, weights, contracted=contracted)
    pairs, found = [], 0
    edges = set(zip(graph.src.tolist(), graph.dst.tolist(), strict=True))
    for structure in range(2):
        rows = torch.arange(int(ptr[structure]), int(ptr[structure + 1]))
        for k in range(3):
            w = weights[rows, k]
            if not bool(w.any()):
                continue
            kept = rows if contracted else rows[w > 0]
            centre = (w[:, None] * pos[rows]).sum(0) / w.sum()
            wanted = pos[kept] - centre
            if contracted:
                wanted = weights[kept, k, None] * wanted
            mine = apart.seen.batch == found
            assert torch.equal(apart.node[mine], kept)
            torch.testing.assert_close(apart.seen.pos[mine], wanted)
            inside = apart.node[apart.seen.edge_index[:, mine[apart.seen.dst]]]
            pairs = {(a, b) for a, b in edges if a in kept.tolist() and b in kept.tolist()}
            assert set(map(tuple, inside.T.tolist())) == pairs
            assert inside.shape[1] == len(pairs)
            found += 1
    assert apart.seen.num_graphs == found == 5
    assert torch.equal(apart.seen.edge_ptr.diff(), torch.bincount(apart.seen.dst, minlength=len(apart.node)))
    assert bool((apart.seen.dst.diff() >= 0).all())


# training


def test_gradients_reach_the_shares_and_forces_are_the_gradient() -> None:
    pos, ptr, _ = cloud()
    for settings in ({"outside": "contracted"}, {"outside": "removed", "parts": learned(hard=True)}):
        model = wrapped(**{"parts": learned(), "entropy_weight": 0.1, **settings}).train()
        (model(graph_of(pos, ptr)).scalars.square().sum() + model.penalty()).backward()
        for net in (model.backbone, model.parts):
            assert max(float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None) > 1e-6

    model = wrapped(learned(), frames="robust", outside="contracted", least=0.0)
    x = pos.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(graph_of(x, ptr)).scalars.sum(), x)
    step = torch.zeros_like(pos)
    step[3, 1] = 1e-5
    with torch.no_grad():
        up, down = (model(graph_of(pos + sign * step, ptr)).scalars.sum() for sign in (1, -1))
    assert abs(float((up - down) / 2e-5) - float(gradient[3, 1])) < 1e-6


def test_entropy_rewards_shares_that_decide() -> None:
    pos, ptr, _ = cloud()
    model = wrapped(SHARES, entropy_weight=1.0, least=0.0)
    found = []
    for epsilon in (0.0, 0.1, 0.5):
        model(graph_of(pos, ptr, shares(epsilon)))
        found.append(float(model.penalty()))
    assert found == sorted(found)
    assert abs(found[0]) < 1e-12
    assert found[2] == pytest.approx(torch.tensor(2.0).log().item())
    assert wrapped().penalty() is None


def test_random_frames_are_drawn_for_each_part_and_repeat_with_the_draw() -> None:
    pos, ptr, part = cloud()
    graph = graph_of(pos, ptr, part[:, None].to(F64))
    model = wrapped(frames="stochastic").train()
    draws = []
    for draw in range(30):
        model.reseed(draw)
        draws.append(model(graph).scalars.detach())
    model.reseed(3)
    assert torch.equal(model(graph).scalars, draws[3])
    spread = torch.stack(draws).std(0)
    error = (torch.stack(draws).mean(0) - wrapped(frames="pca")(graph).scalars.detach()).abs()
    assert float((error / spread).max()) < 5 / 30**0.5


def test_balanced_scores_keep_a_network_from_putting_all_into_one_part() -> None:
    graph = graph_of(*cloud()[:2])

    def largest(balanced: bool) -> float:
        network = learned(balanced=balanced, hard=True).double()
        (bias,) = (p for p in network.backbone.parameters() if p.shape == (3,))
        with torch.no_grad():
            bias[1] += 10.0  # a favourite
            return float(network(graph).weights.sum(0).max())

    assert largest(balanced=False) == graph.num_nodes
    assert largest(balanced=True) < 0.9 * graph.num_nodes
    alike = graph.replace(pos=torch.zeros_like(graph.pos))  # nothing tells the nodes apart
    even = learned().double()(alike).weights.detach()
    torch.testing.assert_close(even, torch.full_like(even, 1 / 3))


# claims and settings


def test_claims_are_those_of_frames_and_shares() -> None:
    def claim(parts: Any = GIVEN, **settings: Any) -> tuple[bool, bool]:
        found = wrapped(parts, **settings).symmetry
        assert not found.separable
        return found.continuous, found.smooth

    assert claim(frames="robust") == (True, True)
    assert claim(frames="robust", edges="knn-4") == (False, False)
    assert claim(frames="pca")[0] is False
    assert claim(learned(), frames="robust") == (False, False)
    assert claim(learned(), frames="robust", outside="contracted") == (True, False)
    assert claim(learned(), frames="robust", outside="contracted", least=0.0) == (True, True)
    assert claim(learned(hard=True), frames="robust", outside="contracted")[0] is False
    assert claim({"name": "nearest", "num_parts": 4}, frames="robust")[0] is False
    assert wrapped(frames="stochastic", evaluation="one").symmetry.stochastic


def test_settings_build_the_same_again() -> None:
    config = {
        "name": "part_frames",
        "frames": "robust",
        "parts": {"name": "learned", "num_parts": 2, "context": 1, "backbone": {**EGNN_PARTS, "out_scalars": 3}},
        "backbone": {"name": "mpnn", "in_scalars": 2, "channels": 8, "cutoff": INF, "envelope": False, "num_radial": 0},
    }
    assert model_faults(config, "model") == []
    del config["parts"]["backbone"]["elements"]  # type: ignore[attr-defined]
    model = build_backbone(with_elements(config, [0])).double().eval()
    again = build_backbone(backbone_config(model)).double().eval()
    again.load_state_dict(model.state_dict())
    graph = graph_of(*cloud()[:2])
    assert torch.equal(again(graph).scalars, model(graph).scalars)
    assert backbone_config(again) == backbone_config(model)


def test_faults_of_a_configuration_are_named() -> None:
    inner = {"name": "mpnn", "in_scalars": 1}
    for parts, wanted in (
        ({"name": "lerned"}, 'model.parts.name: unknown part network "lerned"'),
        ({"name": "nearest", "parts": 3}, "model.parts.parts: unknown key"),
        ({"name": "learned", "num_parts": 2}, "model.parts.backbone: parts are learned by another model"),
        ({"name": "learned", "num_parts": 2, "backbone": {"name": "egn"}}, "model.parts.backbone.name: unknown model"),
    ):
        faults = model_faults({"name": "part_frames", "parts": parts, "backbone": inner}, "model")
        assert any(fault.startswith(wanted) for fault in faults), faults


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not read what it is told.*in_scalars of 1"):
        wrapped(told=0)
    assert part_error(PartFrames(backbone=mpnn(0), parts=GIVEN, tell_weight=False).eval()) < 1e-11
    with pytest.raises(ConfigError, match='shares of symmetry "T\\(3\\)"'):
        wrapped(LearnedParts(mpnn(0), num_parts=3))
    with pytest.raises(ConfigError, match="1 / number of parts"):
        wrapped(least=0.5)
    for settings in ({"group": "O(3)"}, {"frames": "pca2d"}, {"outside": "hidden"}):
        with pytest.raises(ConfigError, match=f"unknown {next(iter(settings))} of part frames"):
            wrapped(**settings)
    pos, ptr, part = cloud()
    for parts, scalars, error, match in (
        (GIVEN, None, ConfigError, "does not hold the parts"),
        (GIVEN, part[:, None].to(F64) + 1, InputError, "no numbers of parts"),
        (SHARES, shares(0.1) * 2, InputError, "are no shares"),
    ):
        with pytest.raises(error, match=match):
            wrapped(parts)(graph_of(pos, ptr, scalars))
    periodic = graph_of(pos, ptr).replace(pbc=torch.ones(2, 3, dtype=torch.bool), cell=torch.eye(3).expand(2, 3, 3))
    with pytest.raises(ModelDomainError, match="parts of a periodic structure"):
        wrapped(SHARES)(periodic)


# the shipped configurations


@pytest.mark.parametrize("name", ["t3", "t3-frames", "t3-part-frames", "r3"])
def test_shipped_models_of_parts_are_as_invariant_as_they_claim(name: str) -> None:
    config = load_config(EXAMPLES / f"{name}.toml")
    assert config.labels.level == "point"
    clouds = make_parts(10, num_points=64)
    torch.manual_seed(0)
    model = LabelModel(
        build_backbone(with_elements(with_interface(config.model, config.labels), [0])),
        class_names=clouds.class_names,
        part_names=clouds.part_names,
        class_parts=clouds.class_parts,
        level="point",
        edges=config.labels.edges,
        pooling=config.labels.pooling,
    ).double()
    batch = clouds.batch([0, 1, 2, 3], num_points=64, generator=torch.Generator().manual_seed(0), dtype=F64)
    turned = rotate(batch, draw_rotations("so3", 4, generator=torch.Generator().manual_seed(1)))
    model.eval()
    before, after = (model(seen).softmax(1) for seen in (batch, turned))
    change = float((after - before).abs().max().detach())
    assert (change < 1e-9) == (model.symmetry.group in ("SE(3)", "E(3)")) == (name != "t3")
    model.train()
    nn.functional.cross_entropy(model(batch), batch.part).backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
