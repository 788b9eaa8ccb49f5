"""Nearest neighbours and neighbours within a radius in clouds of points, exact, with ties decided by the row number."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from geomol.errors import CapacityError
from geomol.graph.checks import check_cutoff
from geomol.graph.cloud_checks import check_count, check_pair_of_sets
from geomol.graph.point_edges import PointEdges, edges_by_receiver, ptr_to_batch, row_pointers

BLOCK_BYTES = 64 << 20  # of one block of squared distances in the search without a tree; it needs a few times that
SLACK = 1e-12  # relative; distances nearer than this may come in another order from the tree than from our own sum
DEFAULT_MAX_BYTES = 4 << 30
BYTES_PER_PAIR = 120  # peak over search, sorting and the int64 result


@torch.no_grad()
def knn(
    pos: Float[Tensor, "M 3"],
    ptr: Int[Tensor, " P"],
    k: int,
    *,
    queries: Float[Tensor, "K 3"] | None = None,
    queries_ptr: Int[Tensor, " Q"] | None = None,
    include_self: bool = False,
) -> PointEdges:
    """The k nearest points of every query within its cloud; each query is a receiver, its neighbours send.

    Into each receiver the edges come by distance, and among equal distances (float64, (dx² + dy²) + dz²) by row: as if
    all distances had been sorted, on any device. On a CPU a k-d tree proposes candidates, and where the k-th distance
    is tied, more until the tie is whole; on a GPU blocks of all distances are searched.

    A cloud with fewer than k points gives all it has.

    Args:
        queries: receivers; the points themselves unless given.
        queries_ptr: their row pointers, for as many clouds.
        include_self: let a point be its own neighbour, where the queries are the points themselves.

    Raises:
        InputError: empty clouds, points that are not finite. ConfigError: k not a count, or half a set of queries.
    """
    k = check_count(k, "`k`")
    own = queries is None
    queries, queries_ptr = check_pair_of_sets(pos, ptr, queries, queries_ptr)
    skip_self = own and not include_self
    exact, asked = pos.double(), queries.double()
    if pos.is_cuda:
        found, owner = _knn_blocks(exact, ptr, asked, ptr_to_batch(queries_ptr), k, skip_self=skip_self, rows=None)
        return edges_by_receiver(found, owner, len(pos), len(queries))
    found, owner = _knn_trees(exact, ptr, asked, queries_ptr, k, skip_self=skip_self)
    return edges_by_receiver(found, owner, len(pos), len(queries))


def nearest_points(
    pos: Float[Tensor, "M 3"],
    ptr: Int[Tensor, " P"],
    queries: Float[Tensor, "K 3"],
    queries_ptr: Int[Tensor, " Q"],
) -> Int[Tensor, " K"]:
    """The row of `pos` nearest to each query within its cloud; of equally near ones the first."""
    return knn(pos, ptr, 1, queries=queries, queries_ptr=queries_ptr).src


def pooling_edges(
    pos: Float[Tensor, "M 3"],
    ptr: Int[Tensor, " P"],
    coarse: Float[Tensor, "K 3"],
    coarse_ptr: Int[Tensor, " Q"],
) -> PointEdges:
    """Down transition: every point sends to the nearest point of the coarse set. `flipped()` is the way up."""
    target = nearest_points(coarse, coarse_ptr, pos, ptr)
    order = torch.argsort(target, stable=True)
    return PointEdges(order, target[order], row_pointers(target, len(coarse)), len(pos))


@torch.no_grad()
def radius_edges(
    pos: Float[Tensor, "M 3"],
    ptr: Int[Tensor, " P"],
    radius: float,
    *,
    queries: Float[Tensor, "K 3"] | None = None,
    queries_ptr: Int[Tensor, " Q"] | None = None,
    include_self: bool = False,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> PointEdges:
    """All points nearer than `radius` to each query within its cloud (d² < radius², float64), by sender.

    Arguments and errors as for `knn`, and:

    Raises:
        CapacityError: more pairs than the memory budget holds; none are ever dropped.
    """
    radius = check_cutoff(radius)
    own = queries is None
    queries, queries_ptr = check_pair_of_sets(pos, ptr, queries, queries_ptr)
    search = _radius_blocks if pos.is_cuda else _radius_trees
    src, dst = search(pos.double(), ptr, queries.double(), queries_ptr, radius, max_bytes)
    if own and not include_self:
        src, dst = src[src != dst], dst[src != dst]
    return edges_by_receiver(src, dst, len(pos), len(queries))


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """|a − b|² of the last axis, summed in a fixed order."""
    x, y, z = (a - b).unbind(-1)
    return x * x + y * y + z * z


def _knn_trees(
    pos: Tensor, ptr: Tensor, queries: Tensor, queries_ptr: Tensor, k: int, *, skip_self: bool
) -> tuple[Tensor, Tensor]:
    """(neighbours, their query) by one tree per cloud."""
    starts, query_starts = ptr.tolist(), queries_ptr.tolist()
    parts: list[Tensor] = []
    batch = ptr_to_batch(queries_ptr)
    counts = (ptr.diff() - int(skip_self)).clamp(max=k)[batch]
    for first, last, begin, end in zip(starts, starts[1:], query_starts, query_starts[1:], strict=False):
        want = min(k + int(skip_self), last - first)
        if begin == end or want == int(skip_self):
            continue
        rows = torch.arange(begin, end)
        own = rows - begin if skip_self else None
        local = _tree_ranked(pos[first:last], queries[begin:end], own, want)
        parts.append((local[:, : want - int(skip_self)] + first).flatten())
    found = torch.cat(parts) if parts else ptr.new_empty(0)
    return found, torch.repeat_interleave(torch.arange(len(queries)), counts)


def _tree_ranked(pos: Tensor, queries: Tensor, own: Tensor | None, want: int) -> Tensor:
    """(Q, want) neighbours of each query in their order; `own` is put last, as it is to be left out."""
    tree, points = cKDTree(pos.numpy()), queries.numpy()
    ranked = torch.empty(len(queries), want, dtype=torch.int64)
    # points asked for in the order of the tree's leaves find their neighbours in the cache: twice as fast
    open_rows = torch.arange(len(queries)) if own is None else torch.from_numpy(tree.indices).argsort()[own].argsort()
    for ask in (want + 4, 2 * want + 28, 4 * want + 100):
        ask = min(ask, len(pos))
        distance, index = tree.query(points[open_rows.numpy()], k=np.arange(1, ask + 1))
        order = _rank(pos, queries[open_rows], torch.from_numpy(index), None if own is None else own[open_rows])
        ranked[open_rows] = order[:, :want]
        if ask == len(pos):
            return ranked
        # the list is whole where its last distance is clearly beyond that of the last neighbour wanted
        whole = torch.from_numpy(distance[:, -1] > distance[:, want - 1] * (1 + SLACK))
        open_rows = open_rows[~whole]
        if not len(open_rows):
            return ranked
    ptr = torch.tensor([0, len(pos)])
    batch = torch.zeros(len(open_rows), dtype=torch.int64)
    skipped = None if own is None else own[open_rows]
    take = want - int(own is not None)
    found, _ = _knn_blocks(pos, ptr, queries[open_rows], batch, take, skip_self=own is not None, rows=skipped)
    ranked[open_rows, :take] = found.view(len(open_rows), take)
    return ranked


def _rank(pos: Tensor, queries: Tensor, index: Tensor, own: Tensor | None) -> Tensor:
    """Each row of candidates by (distance, row number), `own` last."""
    index = index.sort(1).values
    squared = _squared(pos[index], queries[:, None])
    if own is not None:
        squared.masked_fill_(index == own[:, None], float("inf"))
    return index.gather(1, squared.argsort(dim=1, stable=True))


def _blocks(sizes: Tensor, num_queries: int) -> tuple[Tensor, int]:
    """Slots of the largest cloud, and how many queries a block holds."""
    widest = int(sizes.max())
    return torch.arange(widest, device=sizes.device), max(1, min(num_queries, BLOCK_BYTES // (8 * widest)))


def _knn_blocks(
    pos: Tensor, ptr: Tensor, queries: Tensor, batch: Tensor, k: int, *, skip_self: bool, rows: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(neighbours, their query) from all distances, a block of queries at a time.

    Args:
        rows: the point that each query is, where the queries are not all the points in their order.
    """
    sizes = ptr.diff()
    if not len(queries):
        return ptr.new_empty(0), ptr.new_empty(0)
    counts = (sizes - int(skip_self)).clamp(max=k)[batch]
    slot, block = _blocks(sizes, len(queries))
    rows = torch.arange(len(queries), device=pos.device) if rows is None else rows
    parts = []
    for begin in range(0, len(queries), block):
        part = slice(begin, begin + block)
        cloud = batch[part]
        index = (ptr[cloud, None] + slot).clamp(max=len(pos) - 1)
        squared = _squared(pos[None] if len(sizes) == 1 else pos[index], queries[part, None])
        out = slot >= sizes[cloud, None]
        if skip_self:
            out = out | (index == rows[part, None])
        squared.masked_fill_(out, float("inf"))
        best = _smallest(squared, min(k, len(slot)))
        wanted = torch.arange(best.shape[1], device=pos.device) < counts[part, None]
        parts.append((ptr[cloud, None] + best)[wanted])
    owner = torch.repeat_interleave(torch.arange(len(queries), device=pos.device), counts)
    return torch.cat(parts), owner


def _smallest(values: Tensor, k: int) -> Tensor:
    """Columns of the k smallest values of each row, by (value, column).

    `topk` picks any of equal values; rows in which the k-th is tied are sorted in full instead.
    """
    chosen = values.topk(k, dim=1, largest=False).indices.sort(1).values
    picked = values.gather(1, chosen)
    chosen = chosen.gather(1, picked.argsort(dim=1, stable=True))
    limit = picked.amax(1, keepdim=True)
    tied = (((values <= limit).sum(1) > k) & limit[:, 0].isfinite()).nonzero()[:, 0]
    if len(tied):
        chosen[tied] = values[tied].argsort(dim=1, stable=True)[:, :k]
    return chosen


def _radius_trees(
    pos: Tensor, ptr: Tensor, queries: Tensor, queries_ptr: Tensor, radius: float, max_bytes: int
) -> tuple[Tensor, Tensor]:
    starts, query_starts = ptr.tolist(), queries_ptr.tolist()
    sources, targets, total = [ptr.new_empty(0)], [ptr.new_empty(0)], 0
    reach = radius * (1 + SLACK)
    for first, last, begin, end in zip(starts, starts[1:], query_starts, query_starts[1:], strict=False):
        if begin == end:
            continue
        tree, asked = cKDTree(pos[first:last].numpy()), cKDTree(queries[begin:end].numpy())
        total += int(asked.count_neighbors(tree, reach))
        _check_capacity(total, max_bytes)
        pairs = asked.sparse_distance_matrix(tree, reach, output_type="ndarray")
        dst, src = torch.from_numpy(pairs["i"].astype(np.int64)), torch.from_numpy(pairs["j"].astype(np.int64))
        order = torch.argsort(dst * (last - first) + src)
        dst, src = dst[order] + begin, src[order] + first
        near = _squared(pos[src], queries[dst]) < radius * radius
        sources.append(src[near])
        targets.append(dst[near])
    return torch.cat(sources), torch.cat(targets)


def _radius_blocks(
    pos: Tensor, ptr: Tensor, queries: Tensor, queries_ptr: Tensor, radius: float, max_bytes: int
) -> tuple[Tensor, Tensor]:
    sizes, batch = ptr.diff(), ptr_to_batch(queries_ptr)
    sources, targets, total = [ptr.new_empty(0)], [ptr.new_empty(0)], 0
    if len(queries):
        slot, block = _blocks(sizes, len(queries))
        for begin in range(0, len(queries), block):
            cloud = batch[begin : begin + block]
            index = (ptr[cloud, None] + slot).clamp(max=len(pos) - 1)
            points = pos[None] if len(sizes) == 1 else pos[index]
            near = _squared(points, queries[begin : begin + block, None]) < radius * radius
            row, column = (near & (slot < sizes[cloud, None])).nonzero(as_tuple=True)
            total += len(row)
            _check_capacity(total, max_bytes)
            sources.append(ptr[cloud[row]] + column)
            targets.append(row + begin)
    return torch.cat(sources), torch.cat(targets)


def _check_capacity(pairs: int, max_bytes: int) -> None:
    if pairs * BYTES_PER_PAIR > max_bytes:
        raise CapacityError(
            f"{pairs} or more pairs within the radius would need {pairs * BYTES_PER_PAIR / 2**30:.3g} GiB",
            expected=f"at most {max_bytes / 2**30:.3g} GiB",
            remedy="use a smaller radius or cloud, or raise max_bytes; neighbours are never dropped",
        )
