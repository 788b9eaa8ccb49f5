"""Operators on sorted rows and edges: deterministic, and closed under differentiation."""

from geomol.ops.edges import Edges, conv, edge_dot, gather_receivers, gather_senders, sum_to_receivers
from geomol.ops.segment import segment_index, segment_max, segment_mean, segment_softmax, segment_sum

__all__ = [
    "Edges",
    "conv",
    "edge_dot",
    "gather_receivers",
    "gather_senders",
    "segment_index",
    "segment_max",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
    "sum_to_receivers",
]
