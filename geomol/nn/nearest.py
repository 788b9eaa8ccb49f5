"""Nearest nodes in space or in feature space, structure by structure."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor


def equal_size_blocks(ptr: Int[Tensor, " P"]) -> Iterator[tuple[Int[Tensor, " B"], Int[Tensor, "B n"]]]:
    """Structures grouped by their number of nodes: their numbers, and the rows of their nodes as a matrix.

    Dense algebra on small structures needs no padding this way. Empty structures are left out.
    """
    sizes = ptr.diff()
    for size in torch.unique(sizes).tolist():
        if size:
            structure = torch.nonzero(sizes == size)[:, 0]
            yield structure, ptr[structure][:, None] + torch.arange(size, device=ptr.device)


@torch.no_grad()
def nearest_nodes(feats: Float[Tensor, "N D"], ptr: Int[Tensor, " P"], k: int) -> Int[Tensor, "N k"]:
    """The k nearest nodes of the same structure for each node, itself included, nearest first.

    All distances of a structure are formed: meant for structures up to some thousand nodes. A structure of fewer than k
    nodes repeats the farthest.
    """
    found = torch.empty(len(feats), k, dtype=torch.long, device=feats.device)
    for _, rows in equal_size_blocks(ptr):
        x = feats[rows]
        distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        near = distance.topk(min(k, rows.shape[1]), largest=False).indices
        near = torch.cat([near, near[..., -1:].expand(-1, -1, k - near.shape[-1])], dim=-1)
        found[rows] = rows.gather(1, near.flatten(1)).view_as(near)
    return found
