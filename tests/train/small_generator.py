"""Which molecules a small generator learns from, and the network that learns."""

from __future__ import annotations

NAMES = ["CH4", "CH3OH", "H2O", "C2H6", "CH3CHO", "C6H6", "HCOOH", "NH3"]
MODEL = {"name": "conditioned_egnn", "channels": 8, "pair_channels": 4, "num_vectors": 2, "num_layers": 1}
