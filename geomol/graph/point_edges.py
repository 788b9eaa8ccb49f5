"""Edges from one set of points to another: what convolutions between the levels of a U-Net run on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PointEdges:
    """Pairs (sender, receiver) of two sets of points, or of one set with itself, sorted by receiver.

    It has what the verbs of `geomol.ops` need (`src`, `dst`, `edge_ptr`, `send_perm`, `send_ptr`), so that a
    convolution over it maps values at the senders to values at the receivers.

    Attributes:
        src: sender of each edge, a row of the sending set.
        dst: receiver of each edge, a row of the receiving set, ascending.
        edge_ptr: row pointers of the receivers, one more than there are receivers.
        num_senders: size of the sending set.
    """

    src: Int[Tensor, " E"]
    dst: Int[Tensor, " E"]
    edge_ptr: Int[Tensor, " R"]
    num_senders: int

    @property
    def num_receivers(self) -> int:
        return self.edge_ptr.shape[0] - 1

    @property
    def num_edges(self) -> int:
        return self.src.shape[0]

    @cached_property
    def send_perm(self) -> Int[Tensor, " E"]:
        """Edges ordered by sender (stable)."""
        return torch.argsort(self.src, stable=True)

    @cached_property
    def send_ptr(self) -> Int[Tensor, " {self.num_senders}+1"]:
        """Row pointers of `send_perm`."""
        return row_pointers(self.src, self.num_senders)

    def flipped(self) -> PointEdges:
        """The same pairs with the roles exchanged: the up transition that belongs to a down transition."""
        order = self.send_perm
        return PointEdges(self.dst[order], self.src[order], self.send_ptr, self.num_receivers)

    def to(self, device: torch.device | str | None) -> PointEdges:
        """The edges on another device."""
        return PointEdges(self.src.to(device), self.dst.to(device), self.edge_ptr.to(device), self.num_senders)


def row_pointers(rows: Int[Tensor, " E"], num_rows: int) -> Int[Tensor, " R"]:
    """Where each row begins among sorted row numbers, and their count at the end."""
    return counts_to_ptr(torch.bincount(rows, minlength=num_rows))


def counts_to_ptr(counts: Int[Tensor, " S"]) -> Int[Tensor, " P"]:
    """Row pointers of groups of the given sizes."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


def ptr_to_batch(ptr: Int[Tensor, " P"]) -> Int[Tensor, " N"]:
    """The group of each row."""
    return torch.repeat_interleave(torch.arange(len(ptr) - 1, device=ptr.device), ptr.diff())


def edges_by_receiver(src: Int[Tensor, " E"], dst: Int[Tensor, " E"], senders: int, receivers: int) -> PointEdges:
    """Edges whose `dst` ascends already."""
    return PointEdges(src, dst, row_pointers(dst, receivers), senders)


def point_edge_vectors(
    edges: PointEdges, sender_pos: Float[Tensor, "M 3"], receiver_pos: Float[Tensor, "K 3"]
) -> Float[Tensor, "E 3"]:
    """Vector from each receiver to its sender, r_e = sender_pos[src] − receiver_pos[dst]; differentiable."""
    return sender_pos[edges.src] - receiver_pos[edges.dst]
