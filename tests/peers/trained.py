"""Builders of `worker.py` for what has been trained: given to a worker as `trained.py:peer` or `trained.py:geomol`."""

from __future__ import annotations

import torch
from peers.models import Peer, Settings, _count
from peers.trainable import trainable


def peer(s: Settings) -> Peer:
    """A package's calculator with the weights of `training.py`; options `trained`, `weights`, `scale`, `neighbours`."""
    made = trainable(s.options["trained"], s)
    made.model.load_state_dict(torch.load(s.options["weights"], weights_only=True))
    made.model.eval().requires_grad_(False)
    return made.peer


def geomol(s: Settings) -> Peer:
    """A model of geomol from the folder of its run; options `model`, `compile`."""
    from geomol.checkpoint import load_model
    from geomol.graph import build_graph
    from geomol.md import GeomolCalculator

    model = load_model(s.options["model"], dtype=s.dtype)
    compiled = bool(s.options["compile"])
    # skin 0: the list is searched at every call, as the peers do
    calculator = GeomolCalculator(model, skin=0.0, compile=compiled)
    return Peer(
        calculator,
        _count(model),
        lambda atoms: int(build_graph(atoms, model.cutoff).num_edges),
        s.options["text"] + (", compiled" if compiled else ""),
        exact=bool(model.symmetry.exact),
    )
