"""Neighbours of points: equal to sorting all distances, ties included, and the edges between two sets."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from geomol.errors import CapacityError, ConfigError, InputError
from geomol.graph import PointEdges, knn, nearest_points, point_edge_vectors, pooling_edges, radius_edges
from geomol.graph.knn import _knn_blocks, _radius_blocks
from geomol.graph.point_edges import ptr_to_batch
from geomol.ops import sum_to_receivers

SIZES = [1, 3, 40, 120]
KINDS = ["normal", "grid", "repeated", "one place"]


def clouds(kind: str, sizes: list[int] = SIZES, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pos = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64)
    if kind == "grid":
        pos = (2 * pos).round() / 3
    if kind == "repeated":
        pos = pos[torch.randint(0, 12, (len(pos),), generator=generator)]
    if kind == "one place":
        pos = pos[:1].repeat(len(pos), 1)
    return pos, torch.tensor([0, *sizes]).cumsum(0)


def by_sorting(
    pos: Tensor,
    ptr: Tensor,
    k: int,
    queries: Tensor | None = None,
    queries_ptr: Tensor | None = None,
    self_: bool = False,
) -> list[tuple[int, int]]:
    """(receiver, sender): all distances of a query sorted by (distance, row) in plain Python."""
    own = queries is None
    asked, asked_ptr = (pos, ptr) if queries is None or queries_ptr is None else (queries, queries_ptr)
    edges = []
    for c in range(len(ptr) - 1):
        for q in range(int(asked_ptr[c]), int(asked_ptr[c + 1])):
            ranked = []
            for j in range(int(ptr[c]), int(ptr[c + 1])):
                x, y, z = (pos[j] - asked[q]).tolist()
                if not (own and not self_ and j == q):
                    ranked.append((x * x + y * y + z * z, j))
            edges += [(q, j) for _, j in sorted(ranked)[:k]]
    return edges


def pairs(edges: PointEdges) -> list[tuple[int, int]]:
    return list(zip(edges.dst.tolist(), edges.src.tolist(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k", "self_"), [(1, False), (6, False), (6, True), (200, False)])
def test_neighbours_are_those_of_sorting_all_distances(kind: str, k: int, self_: bool) -> None:
    pos, ptr = clouds(kind)
    assert pairs(knn(pos, ptr, k, include_self=self_)) == by_sorting(pos, ptr, k, self_=self_)


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_of_other_points_are_those_of_sorting_all_distances(kind: str) -> None:
    pos, ptr = clouds(kind)
    queries, queries_ptr = clouds(kind, [5, 0, 30, 7], seed=1)
    edges = knn(pos, ptr, 4, queries=queries, queries_ptr=queries_ptr)
    assert pairs(edges) == by_sorting(pos, ptr, 4, queries, queries_ptr)
    assert (edges.num_senders, edges.num_receivers) == (len(pos), len(queries))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("self_", [False, True])
def test_the_search_without_a_tree_agrees(kind: str, self_: bool) -> None:
    """The path that a GPU takes, run here block by block."""
    pos, ptr = clouds(kind)
    src, dst = _knn_blocks(pos, ptr, pos, ptr_to_batch(ptr), 6, skip_self=not self_, rows=None)
    assert list(zip(dst.tolist(), src.tolist(), strict=True)) == by_sorting(pos, ptr, 6, self_=self_)


def test_ties_far_beyond_the_first_candidates_are_decided_by_row() -> None:
    """500 points on a circle about the query: the eight first rows are the answer, whatever a tree finds first."""
    corners = torch.tensor([[3.0, 4, 0], [4, 3, 0], [-3, 4, 0], [0, 5, 0], [5, 0, 0]], dtype=torch.float64)
    pos = corners[torch.randint(0, 5, (500,), generator=torch.Generator().manual_seed(0))]
    edges = knn(pos, torch.tensor([0, 500]), 8, queries=pos.new_zeros(1, 3), queries_ptr=torch.tensor([0, 1]))
    assert edges.src.tolist() == list(range(8))


def test_float32_far_from_the_origin_is_searched_in_double() -> None:
    pos, ptr = clouds("normal")
    moved = (pos + 1e4).float()
    assert pairs(knn(moved, ptr, 5)) == by_sorting(moved.double(), ptr, 5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("self_", [False, True])
def test_pairs_within_a_radius_are_all_of_them(kind: str, self_: bool) -> None:
    pos, ptr = clouds(kind)
    radius = 1.0 if kind != "grid" else float((pos[1] - pos[2]).norm())
    edges = radius_edges(pos, ptr, radius, include_self=self_)
    batch = torch.repeat_interleave(torch.arange(len(ptr) - 1), ptr.diff())
    dx, dy, dz = (pos[:, None] - pos[None]).unbind(-1)
    near = (dx * dx + dy * dy + dz * dz < radius * radius) & (batch[:, None] == batch)
    if not self_:
        near.fill_diagonal_(False)
    assert torch.equal(torch.stack([edges.dst, edges.src], 1), near.nonzero())
    src, dst = _radius_blocks(pos, ptr, pos, ptr, radius, 1 << 30)
    keep = torch.ones_like(src, dtype=torch.bool) if self_ else src != dst
    assert torch.equal(torch.stack([dst, src], 1)[keep], near.nonzero())


def test_pooling_sends_each_point_to_the_nearest_coarse_one_and_flips_back() -> None:
    pos, ptr = clouds("normal", [40, 25])
    coarse, coarse_ptr = torch.cat([pos[:7], pos[40:45]]), torch.tensor([0, 7, 12])
    down = pooling_edges(pos, ptr, coarse, coarse_ptr)
    distance = torch.cdist(pos, coarse)
    distance[:40, 7:] = distance[40:, :7] = float("inf")
    target = distance.argmin(1)
    assert torch.equal(nearest_points(coarse, coarse_ptr, pos, ptr), target)
    assert sorted(pairs(down)) == sorted((int(target[i]), i) for i in range(65))
    up = down.flipped()
    assert pairs(up) == [(i, int(target[i])) for i in range(65)]
    assert up.edge_ptr.tolist() == list(range(66))
    assert pairs(up.flipped()) == pairs(down)


def test_edges_of_two_sets_carry_what_the_operators_need() -> None:
    pos, ptr = clouds("normal", [40, 25])
    coarse, coarse_ptr = torch.cat([pos[:7], pos[40:45]]), torch.tensor([0, 7, 12])
    down = pooling_edges(pos, ptr, coarse, coarse_ptr)
    table = torch.zeros(12, 65, dtype=torch.float64)
    table[down.dst, down.src] = 1.0
    values = torch.randn(65, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(sum_to_receivers(values[down.src], down), table @ values)
    for node in range(65):
        sent = down.send_perm[down.send_ptr[node] : down.send_ptr[node + 1]]
        assert down.src[sent].tolist() == [node] * len(sent)
    for node in range(12):
        assert down.dst[down.edge_ptr[node] : down.edge_ptr[node + 1]].unique().tolist() in ([node], [])
    vectors = point_edge_vectors(down, pos, coarse)
    torch.testing.assert_close(coarse[down.dst] + vectors, pos[down.src])


def test_sixteen_neighbours_of_a_hundred_thousand_points_take_two_seconds_of_one_core() -> None:
    generator = torch.Generator().manual_seed(0)
    pos = torch.randn(100_000, 3, generator=generator, dtype=torch.float64)
    begin = time.process_time()  # time of this process alone: other work on the machine does not count
    edges = knn(pos, torch.tensor([0, 100_000]), 16)
    assert time.process_time() - begin < 2.0
    for row in torch.randint(0, 100_000, (10,), generator=generator).tolist():
        dx, dy, dz = (pos - pos[row]).unbind(1)
        squared = dx * dx + dy * dy + dz * dz
        squared[row] = float("inf")
        assert torch.equal(edges.src[16 * row : 16 * row + 16], squared.argsort(stable=True)[:16])


def test_bad_input_is_named() -> None:
    pos, ptr = clouds("normal")
    with pytest.raises(InputError, match="cloud 1 is empty"):
        knn(pos, torch.tensor([0, 1, 1, 164]), 2)
    with pytest.raises(ConfigError, match="not a count"):
        knn(pos, ptr, 0)
    with pytest.raises(ConfigError, match="belong together"):
        knn(pos, ptr, 1, queries=pos)
    with pytest.raises(InputError, match="unequally many clouds"):
        knn(pos, ptr, 1, queries=pos, queries_ptr=torch.tensor([0, len(pos)]))
    with pytest.raises(ConfigError, match="cutoff out of range"):
        radius_edges(pos, ptr, -1.0)
    with pytest.raises(CapacityError, match="pairs within the radius"):
        radius_edges(pos, ptr, 10.0, max_bytes=1000)
    bad = pos.clone()
    bad[2, 0] = float("inf")
    with pytest.raises(InputError, match="point 1 of cloud 1 is not finite"):
        knn(bad, ptr, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_finds_the_same_edges(kind: str) -> None:
    pos, ptr = clouds(kind, [*SIZES, 1500])
    for edges, other in (
        (knn(pos, ptr, 9), knn(pos.cuda(), ptr.cuda(), 9)),
        (radius_edges(pos, ptr, 0.7), radius_edges(pos.cuda(), ptr.cuda(), 0.7)),
    ):
        assert pairs(edges) == pairs(other.to("cpu"))
