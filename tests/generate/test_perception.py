"""Bond perception in worker processes: a molecule that hangs or kills its worker costs that molecule alone."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from geomol.generate import perception
from geomol.generate.molecules import Molecules, structures_of
from geomol.generate.perception import PerceptionError, perceive
from geomol.generate.perception_worker import bonds_of
from geomol.generate.protocols import verdicts_of_perceived

# Stands in for RDKit: sleeps on neon, ends itself on argon, talks nonsense on krypton, and bonds all others in a chain.
STUB = """
import json, os, sys, time
print(json.dumps({"ready": "stub"}), flush=True)
for line in sys.stdin:
    numbers = json.loads(line)["numbers"]
    if 10 in numbers:
        time.sleep(600)
    if 18 in numbers:
        os.kill(os.getpid(), 9)
    if 36 in numbers:
        print("no json", flush=True)
        continue
    bonds = [[i, i + 1, 1] for i in range(len(numbers) - 1)]
    print(json.dumps({"bonds": bonds, "charges": [0] * len(numbers)}), flush=True)
"""


@pytest.fixture
def stub(tmp_path: Path) -> list[str]:
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    return [sys.executable, "-I", str(path)]


def set_of(*numbers: list[int]):
    return structures_of(
        [np.array(z, dtype=np.int64) for z in numbers], [np.eye(3)[: len(z)] for z in numbers], name="x"
    )


def test_rdkit_finds_the_bonds_of_small_molecules():
    names = ["HCN", "C6H6", "CH3NO2", "H2O"]
    frames = [molecule(name) for name in names]
    found = perceive(structures_of([f.numbers for f in frames], [f.positions for f in frames], name="small"))
    assert [answer.fault for answer in found] == [""] * 4
    assert [int(answer.orders.sum()) // 2 for answer in found] == [4, 15, 7, 2]
    assert all(np.array_equal(answer.orders, answer.orders.T) for answer in found)
    assert sorted(found[2].charges.tolist()) == [-1, 0, 0, 0, 0, 0, 1]
    radical = perceive(structures_of([molecule("CH3").numbers], [molecule("CH3").positions], name="radical"))[0]
    assert radical.orders is None
    assert "charge" in radical.fault


def test_the_worker_answers_as_the_function_behind_it():
    """The witness without processes."""
    frame = molecule("CH3CONH2")
    answer = bonds_of({"numbers": frame.numbers.tolist(), "pos": frame.positions.tolist(), "charge": 0})
    found = perceive(structures_of([frame.numbers], [frame.positions], name="one"))[0]
    assert {(i, j): order for i, j, order in answer["bonds"]} == {
        (i, j): int(found.orders[i, j]) for i, j, _ in answer["bonds"]
    }
    assert len(answer["bonds"]) == np.count_nonzero(found.orders) // 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_molecule_that_hangs_is_stopped_and_the_next_ones_are_answered(stub, workers):
    structures = set_of([1, 1], [10], [1, 1, 1], [10, 1], [6, 1])
    start = time.monotonic()
    found = perceive(structures, time_limit_s=0.5, workers=workers, command=stub)
    assert time.monotonic() - start < 60, "600 s for each that hangs, if it were not stopped"
    assert [answer.fault for answer in found] == ["", "no answer within 0.5 s", "", "no answer within 0.5 s", ""]
    assert [None if a.orders is None else int(a.orders.sum()) for a in found] == [2, None, 4, None, 2]


def test_a_worker_that_dies_or_talks_nonsense_costs_one_molecule(stub):
    found = perceive(set_of([1, 1], [18], [36], [1, 1]), time_limit_s=30, command=stub)
    assert [answer.fault for answer in found] == ["", "the worker died", "the worker died", ""]


def test_failures_stay_in_every_denominator(stub):
    molecules = Molecules(set_of([1, 1], [10], [18, 1], [1, 1]))
    verdicts = verdicts_of_perceived(molecules, perceive(molecules.structures, time_limit_s=0.5, command=stub))
    assert verdicts.stable.tolist() == [True, False, False, True]
    assert verdicts.valid.mean() == 0.5
    assert verdicts.n_atoms.tolist() == [2, 1, 2, 2]
    assert verdicts.stable_atoms.tolist() == [2, 0, 0, 2]
    assert verdicts.reasons[1] == "no answer within 0.5 s"
    assert verdicts.connected.tolist() == [True, False, False, True]


def test_molecules_that_rdkit_need_not_see_fail_without_it(stub):
    structures = structures_of(
        [np.zeros(0, np.int64), np.array([1, 1])], [np.zeros((0, 3)), np.array([[0, 0, 0], [0, 0, np.nan]])], name="x"
    )
    assert [answer.fault for answer in perceive(structures, command=stub)] == ["no atoms", "a position is not finite"]


def test_no_process_and_no_thread_is_left(stub, monkeypatch):
    started = []
    popen = perception.subprocess.Popen

    def record(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(perception.subprocess, "Popen", record)
    threads = threading.active_count()
    perceive(set_of([10], [18], [1, 1], [1, 1]), time_limit_s=0.3, workers=2, command=stub)
    assert len(started) >= 3, "two for the failures, and one that goes on"
    assert all(process.poll() is not None for process in started)
    assert threading.active_count() <= threads + 1, "a timer may be about to end"


def test_a_worker_that_cannot_start_is_an_error_rather_than_a_failure_of_each_molecule():
    with pytest.raises(PerceptionError, match="does not start"):
        perceive(set_of([1, 1]), command=[sys.executable, "-c", "raise SystemExit(3)"])


def test_a_set_of_nothing_needs_no_worker():
    assert perceive(structures_of([], [], name="none"), command=["no such program"]) == []
