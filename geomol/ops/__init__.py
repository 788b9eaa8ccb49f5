"""Operators on sorted rows and edges: deterministic, and closed under differentiation."""

from geomol.ops.edges import Edges, conv, edge_dot, gather_receivers, gather_segments, gather_senders, sum_to_receivers
from geomol.ops.fused import separable_conv
from geomol.ops.fused_messages import gated_messages
from geomol.ops.indexed import gather_rows, sum_to_rows
from geomol.ops.mixing import mix_orientations
from geomol.ops.segment import segment_index, segment_max, segment_mean, segment_softmax, segment_sum
from geomol.ops.slices import linear_of_rows
from geomol.ops.spline import SplineGrid, SplinePlaces
from geomol.ops.tabulated import tabulated_conv

__all__ = [
    "Edges",
    "SplineGrid",
    "SplinePlaces",
    "conv",
    "edge_dot",
    "gated_messages",
    "gather_receivers",
    "gather_rows",
    "gather_segments",
    "gather_senders",
    "linear_of_rows",
    "mix_orientations",
    "segment_index",
    "segment_max",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
    "separable_conv",
    "sum_to_receivers",
    "sum_to_rows",
    "tabulated_conv",
]
