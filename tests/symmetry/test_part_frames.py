"""Part frames lend a symmetry of its own to every rigid part, and to the whole what frame averaging lends."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from symmetry.moving_parts import (
    F64,
    GIVEN,
    INF,
    SHARES,
    SIZES,
    cloud,
    graph_of,
    learned,
    motion,
    move,
    mpnn,
    part_error,
    shares,
    wrapped,
)

from geomol.errors import ModelDomainError
from geomol.graph import graph_by_rule, parse_edge_rule
from geomol.models import Rapidash
from geomol.symmetry import FrameAveraging, PartFrames
from geomol.symmetry.part_networks import LearnedParts

# exact where the partition is given


@pytest.mark.parametrize("frames", ["pca", "robust", "single", "stochastic"])
@pytest.mark.parametrize("outside", ["removed", "contracted"])
def test_a_part_that_moves_takes_its_vectors_along_and_leaves_all_else(frames: str, outside: str) -> None:
    model = wrapped(frames=frames, outside=outside)
    assert part_error(model) < 1e-11
    assert part_error(model, seed=1, mirror=True) < 1e-11


def test_without_mirror_images_a_part_may_turn_but_not_be_mirrored() -> None:
    model = wrapped(group="SE(3)")
    assert part_error(model) < 1e-11
    assert part_error(model, mirror=True) > 1e-4


def test_parts_fixed_by_number_do_the_same() -> None:
    pos, ptr, part = cloud(sizes=(12, 12))
    model = wrapped({"name": "fixed", "assignment": (torch.arange(12) % 2).tolist()})
    before, after = model(graph_of(pos, ptr)), model(graph_of(move(pos, part == 1), ptr))
    torch.testing.assert_close(after.scalars, before.scalars, rtol=0, atol=1e-11)
    with pytest.raises(ModelDomainError, match="expected 12 nodes"):
        model(graph_of(*cloud()[:2]))


def test_neither_frames_of_the_whole_nor_the_network_alone_do() -> None:
    pos, ptr, part = cloud()
    told = part[:, None].to(F64)
    for plain in (FrameAveraging(backbone=mpnn(), frames="pca").eval(), mpnn()):
        before = plain(graph_of(pos, ptr, told))
        after = plain(graph_of(move(pos, part == 1), ptr, told))
        assert float((after.scalars - before.scalars).abs().max().detach()) > 1e-2
    turn, shift = motion()
    framed, bare = FrameAveraging(backbone=mpnn(), frames="pca").eval(), mpnn()
    for plain, low, high in ((framed, 0.0, 1e-11), (bare, 1e-2, INF)):
        change = plain(graph_of(pos @ turn + shift, ptr, told)).scalars - plain(graph_of(pos, ptr, told)).scalars
        assert low <= float(change.abs().max().detach()) < high


def test_edges_inside_parts_must_not_depend_on_other_parts() -> None:
    """Nearest neighbours of the whole cloud do; those found inside each part do not."""
    pos, ptr, part = cloud()
    pos = pos - 2.0 * part[:, None]  # parts lie through each other
    rule = parse_edge_rule("knn-3")

    def change(edges: str) -> float:
        model = wrapped(edges=edges)
        clouds = (graph_by_rule(rule, x, ptr, node_scalars=part[:, None].to(F64)) for x in (pos, move(pos, part == 1)))
        before, after = (model(seen).scalars for seen in clouds)
        return float((after - before).abs().max().detach())

    assert change("knn-3") < 1e-11
    assert change("graph") > 1e-3


def test_a_backbone_that_finds_its_own_edges_needs_no_rule() -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"orientations": "none", "kernel_group": "T(n)", "basis_dim": 8, "basis_hidden": 8}
    net = Rapidash(
        in_scalars=1,
        out_scalars=3,
        out_vectors=2,
        channels=8,
        num_layers=[1, 1],
        edges="knn-4",
        ratios=[0.5],
        **settings,
    )
    assert part_error(PartFrames(backbone=net, parts=GIVEN).double().eval()) < 1e-11


# what it is as a whole


@pytest.mark.parametrize("frames", ["pca", "robust"])
@pytest.mark.parametrize("outside", ["removed", "contracted"])
def test_one_part_is_ordinary_frame_averaging(frames: str, outside: str) -> None:
    pos, ptr, _ = cloud()
    one = PartFrames(backbone=mpnn(), parts={"name": "nearest", "num_parts": 1}, frames=frames, outside=outside).eval()
    whole = FrameAveraging(backbone=mpnn(), frames=frames).eval()
    left, right = one(graph_of(pos, ptr)), whole(graph_of(pos, ptr, torch.ones(len(pos), 1, dtype=F64)))
    torch.testing.assert_close(left.scalars, right.scalars, rtol=0, atol=1e-11)
    torch.testing.assert_close(left.vectors, right.vectors, rtol=0, atol=1e-11)


PARTITIONS: dict[str, Any] = {
    "learned": learned,
    "learned with context": lambda: learned(context=2),
    "learned, hard": lambda: learned(hard=True),
    "nearest": lambda: {"name": "nearest", "num_parts": 2},
    "learned from nearest": lambda: LearnedParts(
        PartFrames(backbone=mpnn(), parts={"name": "nearest", "num_parts": 2}), num_parts=3
    ),
}


@pytest.mark.parametrize("name", list(PARTITIONS))
@pytest.mark.parametrize("outside", ["removed", "contracted"])
def test_the_whole_may_move_whatever_the_partition(name: str, outside: str) -> None:
    pos, ptr, _ = cloud()
    parts = PARTITIONS[name]()
    model = wrapped(parts, told=3 if "context" in name else 1, outside=outside)
    turn, shift = motion()
    before = model(graph_of(pos, ptr))
    assert float(before.vectors.abs().max().detach()) > 1e-3
    assert model.symmetry.group == "E(3)"
    assert model.symmetry.exact
    for g in (turn, -turn):
        after = model(graph_of(pos @ g + shift, ptr))
        torch.testing.assert_close(after.scalars, before.scalars, rtol=0, atol=1e-10)
        torch.testing.assert_close(after.vectors, before.vectors @ g, rtol=0, atol=1e-10)


def test_permutations_and_batches_change_nothing() -> None:
    pos, ptr, _ = cloud()
    model = wrapped(learned())
    together = model(graph_of(pos, ptr)).vectors
    alone = [model(graph_of(pos[a:b], torch.tensor([0, b - a]))).vectors for a, b in itertools.pairwise(ptr)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-11)
    order = torch.cat([torch.randperm(SIZES[0]), SIZES[0] + torch.randperm(SIZES[1])])
    torch.testing.assert_close(model(graph_of(pos[order], ptr)).vectors, together[order], rtol=0, atol=1e-11)


# soft shares


def test_the_error_grows_with_the_uncertainty_of_the_partition() -> None:
    """Contracted: no more than in proportion, and nothing is left of it as the shares become certain."""
    model = wrapped(SHARES, outside="contracted", least=0.0)
    epsilons = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
    errors = [part_error(model, shares(e)) for e in epsilons]
    assert errors == sorted(errors)
    rates = [error / e for error, e in zip(errors, epsilons, strict=True)]
    assert max(rates) < 10 * min(rates)
    assert errors[0] < 1e-3
    assert errors[-1] > 1e-2
    pos, ptr, _ = cloud()
    doubt = model.uncertainty(graph_of(pos, ptr, shares(0.1)))
    torch.testing.assert_close(doubt, torch.full_like(doubt, 0.1))


def test_small_shares_do_no_harm() -> None:
    model = wrapped(SHARES, least=0.05)
    assert part_error(model, shares(0.049)) < 1e-11
    assert part_error(model, shares(0.051)) > 1e-3
    sure, doubtful = (model(graph_of(*cloud()[:2], shares(e))).scalars for e in (0.0, 0.049))
    torch.testing.assert_close(sure, doubtful, rtol=0, atol=1e-12)


def test_contracted_points_are_continuous_where_removed_ones_jump() -> None:
    pos, ptr, _ = cloud()

    def jump(outside: str) -> float:
        model = wrapped(SHARES, outside=outside, frames="robust", least=0.0)
        shares_of = [shares(0.0).clamp(min=tiny) / (1 + tiny) for tiny in (1e-9, 2e-9, 0.0)]
        near, nearer, at = (model(graph_of(pos, ptr, w)).scalars for w in shares_of)
        assert float((near - nearer).abs().max().detach()) < 1e-6
        return float((near - at).abs().max().detach())

    assert jump("contracted") < 1e-6
    assert jump("removed") > 1e-2
