"""Nodes of several structures as padded blocks, for networks that look at all pairs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DenseLayout:
    """Where the nodes of a flat batch stand in blocks of shape (G, n), n the largest structure.

    Attributes:
        place: row of each node among the G·n places.
        present: whether a place holds a node.
    """

    place: Int[Tensor, " N"]
    present: Bool[Tensor, "G n"]

    @staticmethod
    def of(ptr: Int[Tensor, " P"], widths: Sequence[int] = ()) -> DenseLayout:
        """The layout of structures with these bounds; n is rounded up to the next of `widths`, if one is as large."""
        sizes = ptr.diff()
        widest = int(sizes.max()) if len(sizes) else 0
        widest = min((width for width in widths if width >= widest), default=widest)
        present = torch.arange(widest, device=ptr.device) < sizes[:, None]
        return DenseLayout(present.flatten().nonzero()[:, 0], present)

    def pad(self, values: Float[Tensor, "N *F"]) -> Float[Tensor, "G n *F"]:
        """Flat to blocks; zeros where there is no node."""
        num, widest = self.present.shape
        if len(self.place) == num * widest:  # all structures have one size
            return values.reshape(num, widest, *values.shape[1:])
        out = values.new_zeros(num * widest, *values.shape[1:])
        return out.index_copy(0, self.place, values).view(num, widest, *values.shape[1:])

    def flatten(self, blocks: Float[Tensor, "G n *F"]) -> Float[Tensor, "N *F"]:
        """Blocks to flat; what stands where there is no node is dropped."""
        flat = blocks.flatten(0, 1)
        return flat if len(self.place) == len(flat) else flat.index_select(0, self.place)

    def pairs(self) -> Bool[Tensor, "G n n"]:
        """Pairs of two different nodes."""
        other = ~torch.eye(self.present.shape[1], dtype=torch.bool, device=self.present.device)
        return self.present[:, :, None] & self.present[:, None, :] & other
