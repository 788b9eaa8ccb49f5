"""Small models, states and raw files that the tests of this folder share."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from geomol.potential import Potential

CONFIG = {
    "backbone": {"name": "ponita", "elements": [1, 6, 8], "channels": 8, "num_layers": 1, "cutoff": 4.0},
    "elements": [1, 6, 8],
    "e0": [-13.6, -1029.0, -2041.0],
    "scale": 0.7,
}


@pytest.fixture
def potential() -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Potential.from_config(CONFIG)


@pytest.fixture
def make_state() -> Callable[[int], dict[str, object]]:
    """A training state as a run would save it, different for each step."""

    def make(step: int) -> dict[str, object]:
        generator = torch.Generator().manual_seed(step)
        return {
            "step": step,
            "model": {"weight": torch.randn(4, 3, generator=generator), "bias": torch.randn(3, generator=generator)},
            "optimizer": {"state": {0: {"step": torch.tensor(float(step)), "exp_avg": torch.zeros(4, 3)}}, "lr": 1e-3},
            "generator": generator.get_state()[:64],
            "best": float("inf"),
            "names": ["a", "b"],
        }

    return make


@pytest.fixture
def raw_file() -> Callable[..., bytes]:
    """A safetensors file from parts that need not fit together."""

    def build(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return (len(text) if length is None else length).to_bytes(8, "little") + text + data

    return build
