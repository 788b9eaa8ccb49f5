"""Peers that take too much memory or die: a row with the reason, and the others go on."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.io import write

GREEDY = """
import os, signal
import torch
from ase.calculators.lj import LennardJones
from peers.models import Peer


class Greedy(LennardJones):
    calls = 0

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        Greedy.calls += 1
        {then}


def build(s):
    return Peer(Greedy(sigma=1.0, epsilon=0.1, rc=s.cutoff, ro=0.7 * s.cutoff, smooth=True), 2, lambda atoms: None, "")
"""
BOUND = 6.0  # GiB; a worker without a model has about 2 of address space
SMALL, LARGE = "torch.empty(2**28)", "torch.empty(2**31)"  # 1 and 8 GiB, not touched


def greedy(folder: Path, name: str, then: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(GREEDY.format(then=then))
    return f"{path}:build"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("limits")
    compare = importlib.import_module("peers.compare")
    path = folder / "methanol.xyz"
    write(path, molecule("CH3OH"))
    peers = {
        "large in a call": greedy(folder, "call", LARGE),
        "killed in the rounds": greedy(folder, "killed", "Greedy.calls < 2 or os.kill(os.getpid(), signal.SIGKILL)"),
        "small": greedy(folder, "small", SMALL),
    }
    plan = compare.Plan(
        out=folder / "out", rounds=1, warmup=1, egnn=(8, 1), r3s2=(8, 1), gate_atoms=0, memory=BOUND, limit=60.0
    )
    out = compare.compare(list(peers.values()), [str(path)], plan)
    names = {spec: name for name, spec in peers.items()}
    assert (folder / "out" / "table.md").read_text(encoding="utf-8").count("out of memory") == 1
    return {names.get(row["peer"], row["peer"]): row for row in out["rows"]}


@pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded on Linux alone")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("large in a call", "^time: out of memory: RuntimeError: .*allocate memory"),
        ("killed in the rounds", "^the worker was killed, as the system does when memory runs out"),
    ],
)
def test_what_takes_too_much_memory_is_a_row_with_the_reason(
    rows: dict[str, dict[str, Any]], name: str, reason: str
) -> None:
    assert rows[name]["status"] == "failed"
    assert "ratios" not in rows[name]
    with pytest.raises(ValueError, match=reason):
        raise ValueError(rows[name]["reason"])


@pytest.mark.skipif(sys.platform != "linux", reason="address space is bounded on Linux alone")
def test_what_fits_is_measured_after_all_that_did_not(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["small"]["status"] == "ok"
    assert set(rows["small"]["ratios"]) == {"geomol-egnn", "geomol-r3s2"}
    assert "gate not run above 0 atoms" in rows["small"]["reason"]


def test_only_what_says_so_is_out_of_memory() -> None:
    reason = importlib.import_module("peers.worker").reason
    assert reason(MemoryError()) == "out of memory: MemoryError: "
    assert reason(RuntimeError("std::bad_alloc")) == "out of memory: RuntimeError: std::bad_alloc"
    assert reason(RuntimeError("no such kernel")) == "RuntimeError: no such kernel"


def test_the_clock_of_the_processor_stands_still_while_others_run() -> None:
    worker = importlib.import_module("peers.worker")

    class Waits(LennardJones):  # type: ignore[misc]
        def calculate(self, *args: Any, **kwargs: Any) -> None:
            time.sleep(0.3)
            super().calculate(*args, **kwargs)

    seconds = {}
    for name in ("wall", "cpu"):
        seconds[name] = worker.energy_and_forces(Waits(), molecule("H2O"), worker.CLOCKS[name])[2]
    assert seconds["cpu"] < 0.15 < 0.3 <= seconds["wall"]


def test_a_model_of_geomol_that_fails_leaves_the_rounds_and_the_others_go_on() -> None:
    compare, process = (importlib.import_module(f"peers.{name}") for name in ("compare", "process"))

    class Told:
        """Answers with the seconds it is told, and fails when there are none left."""

        def __init__(self, *seconds: float) -> None:
            self.seconds = list(seconds)

        def ask(self, do: str, **request: Any) -> dict[str, Any]:
            if not self.seconds:
                raise process.PeerFailedError(f"{do}: out of memory")
            return {"seconds": self.seconds.pop(0), "peak_bytes": None}

    def ready(name: str, *seconds: float) -> Any:
        return compare.Ready(Told(*seconds), {"peer": name, "pairs": 30, "status": "ok", "reason": ""})

    ours = {"geomol-egnn": ready("geomol-egnn", *[1.0] * 8), "geomol-r3s2": ready("geomol-r3s2", 2.0, 2.0)}
    fallen, plan = ours["geomol-r3s2"], compare.Plan(out=Path(), rounds=3, warmup=1)
    for name in ("first", "second"):
        peer = ready(name, *[3.0] * 4)
        compare._rounds(peer, ours, molecule("CH3OH"), plan)
        assert {key: value["median"] for key, value in peer.row["ratios"].items()} == {"geomol-egnn": 3.0}
    assert (fallen.row["status"], fallen.row["reason"]) == ("failed", "time: out of memory")
    assert list(ours) == ["geomol-egnn"]
    peer = ready("third", 3.0)
    compare._rounds(peer, {}, molecule("CH3OH"), plan)
    assert (peer.row["status"], peer.row["reason"]) == ("failed", "time: out of memory")
