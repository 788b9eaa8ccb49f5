"""Builders of `worker.py` for what has been trained: given to a worker as `trained.py:peer` or `trained.py:geomol`."""

from __future__ import annotations

import tempfile
from pathlib import Path

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
    """A model of geomol from the folder of its run; options `model`, `form` (one of `pareto_timing.FORMS`)."""
    from geomol.checkpoint import load_model
    from geomol.compiled import export_package
    from geomol.graph import build_graph
    from geomol.md import GeomolCalculator

    model, form = load_model(s.options["model"], dtype=s.dtype), s.options["form"]
    # skin 0: the list is searched at every call, as the peers do
    if form == "packaged":
        with tempfile.TemporaryDirectory() as folder:
            export_package(model, path := Path(folder) / "model.pt2")
            calculator = GeomolCalculator.from_package(path, skin=0.0)
    else:
        calculator = GeomolCalculator(model, skin=0.0, compile=form == "compiled")
    return Peer(
        calculator,
        _count(model),
        lambda atoms: int(build_graph(atoms, model.cutoff).num_edges),
        s.options["text"] + ("" if form == "plain" else f", {form}"),
        exact=bool(model.symmetry.exact),
    )
