"""Positions and features of several structures: what noise is added to and taken from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.ops import segment_mean
from geomol.ops.segment import segment_index


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with features, of G structures one after the other.

    Attributes:
        pos: positions; where a process says so, with the centroid of each structure at the origin.
        feats: continuous features, such as scaled one-hot elements.
        ptr: first node of each structure, and the number of nodes at the end.
        frame: rotation of each structure from the pose of its source (the columns are the axes of the source), for
            denoisers that are told the pose. It is carried along, never noised; a sum has that of its first term.
    """

    pos: Float[Tensor, "N 3"]
    feats: Float[Tensor, "N F"]
    ptr: Int[Tensor, " P"]
    frame: Float[Tensor, "G 3 3"] | None = None

    @cached_property
    def batch(self) -> Int[Tensor, " N"]:
        """Structure of each node."""
        return segment_index(self.ptr, self.pos.shape[0])

    @property
    def num_graphs(self) -> int:
        return self.ptr.shape[0] - 1

    def replace(self, pos: Float[Tensor, "N 3"], feats: Float[Tensor, "N F"]) -> Cloud:
        """Other values on the same nodes."""
        new = dataclasses.replace(self, pos=pos, feats=feats)
        if "batch" in self.__dict__:
            new.__dict__["batch"] = self.__dict__["batch"]
        return new

    def scaled(self, factor: Float[Tensor, " G"] | float) -> Cloud:
        """Both parts times a number, or a number for each structure."""
        f = factor if isinstance(factor, float) else factor[self.batch][:, None]
        return self.replace(self.pos * f, self.feats * f)

    def plus(self, other: Cloud) -> Cloud:
        """The sum, part by part."""
        return self.replace(self.pos + other.pos, self.feats + other.feats)

    def centred(self) -> Cloud:
        """With every structure's centroid at the origin."""
        return self.replace(zero_mean(self.pos, self.ptr), self.feats)


def zero_mean(pos: Float[Tensor, "N 3"], ptr: Int[Tensor, " P"]) -> Float[Tensor, "N 3"]:
    """Positions from the centroid of their structure: the projection on the subspace without translations."""
    return pos - segment_mean(pos, ptr)[segment_index(ptr, pos.shape[0])]


def gaussian_cloud(
    ptr: Int[Tensor, " P"],
    num_feats: int,
    generators: Sequence[torch.Generator] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> Cloud:
    """Standard normal noise; positions in the subspace of zero centroid.

    Args:
        ptr: bounds of the structures; the result is on its device.
        num_feats: columns F.
        generators: a CPU generator for each structure, so that what a structure gets does not depend on the others
            that it is batched with; None draws all at once from the process-wide generator of the device.
        dtype: of both parts; with generators, numbers are drawn in float64 whatever it is, hence alike in every
            precision.
    """
    width, sizes = 3 + num_feats, ptr.diff().tolist()
    if generators is None:
        both = torch.randn(sum(sizes), width, dtype=dtype, device=ptr.device)
    else:
        parts = [
            torch.randn(n, width, generator=g, dtype=torch.float64) for n, g in zip(sizes, generators, strict=True)
        ]
        both = torch.cat(parts)
    both = both.to(ptr.device, dtype)
    return Cloud(zero_mean(both[:, :3], ptr), both[:, 3:], ptr)
