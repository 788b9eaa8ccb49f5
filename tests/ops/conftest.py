"""Ways in which operators on edges run on a CPU."""

import pytest
import torch

from geomol.native import threads
from geomol.native.library import SWITCH, find_compiler
from geomol.ops import blocks


@pytest.fixture(params=["c", "c in threads", "one block", "blocks"])
def way(request, monkeypatch):
    """In C; in PyTorch; and in blocks of two edges, the last of one: what is left over of a block must count once."""
    if request.param.startswith("c"):
        if find_compiler() is None:
            pytest.skip("no C compiler")
    else:
        monkeypatch.setenv(SWITCH, "0")
    if request.param == "c in threads":
        monkeypatch.setattr(threads, "SMALLEST_WORK", 1)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    if request.param == "blocks":
        monkeypatch.setattr(blocks, "BLOCK_BYTES", 0)
        monkeypatch.setattr(blocks, "_FEWEST", 2)
    return request.param
