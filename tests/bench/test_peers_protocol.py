"""The comparison with other packages, run in small: real workers over their pipes, a calculator of ASE as the peer."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write

WRONG = """
import time
from ase.calculators.lj import LennardJones
from peers.models import Peer


class Wrong(LennardJones):
    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["forces"] = {forces}
        self.results["energy"] += {energy}


def build(s):
    print("what a package says while it loads")
    {first}
    calculator = Wrong(sigma=1.0, epsilon=0.1, rc=s.cutoff, ro=0.7 * s.cutoff, smooth=True)
    return Peer(calculator, 2, lambda atoms: {pairs}, "a test")
"""
OURS = ("geomol-egnn", "geomol-r3s2")


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    return importlib.import_module("peers.compare")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


def peer(folder: Path, name: str, *, forces: str = 'self.results["forces"]', energy: str = "0.0", **other: str) -> str:
    """A peer in a file of its own, with one thing changed."""
    path = folder / f"{name}.py"
    path.write_text(WRONG.format(forces=forces, energy=energy, **{"first": "pass", "pairs": "None", **other}))
    return f"{path}:build"


@pytest.fixture(scope="module")
def results(compare: ModuleType, workplace: Path) -> dict[str, Any]:
    """One comparison for all tests: a sound peer, and peers that fail in each of the ways there are."""
    atoms = molecule("CH3OH")
    atoms.rattle(0.03, seed=0)
    path = workplace / "methanol.xyz"
    write(path, atoms)
    peers = {
        "sound": peer(workplace, "sound"),
        "scaled": peer(workplace, "scaled", forces='1.01 * self.results["forces"]'),
        "other graph": peer(workplace, "graph", pairs="7"),
        "dies": peer(workplace, "dies", first="import os; os._exit(3)"),
        "no environment": "mace",
    }
    plan = compare.Plan(out=workplace / "out", rounds=4, warmup=1, egnn=(8, 1), r3s2=(8, 1))
    out: dict[str, Any] = compare.compare(list(peers.values()), [str(path)], plan)
    names = {spec: name for name, spec in peers.items()}
    return {names.get(row["peer"], row["peer"]): row for row in out["rows"]}


def test_a_sound_peer_gets_the_median_of_the_ratios_of_the_rounds(results: dict[str, Any]) -> None:
    row = results["sound"]
    assert (row["status"], row["reason"], row["atoms"], row["threads"]) == ("ok", "", 6, 1)
    times = row["rounds_s"]
    for ours in OURS:
        ratios = np.array(times[next(k for k in times if k not in OURS)]) / np.array(times[ours])
        assert len(ratios) == 4  # the warm-up is not among them
        assert row["ratios"][ours]["median"] == pytest.approx(np.median(ratios))
        assert row["ratios"][ours]["lower"] <= row["ratios"][ours]["median"] <= row["ratios"][ours]["upper"]
        assert results[ours]["seconds"]["median"] > 0
        assert results[ours]["pairs"] == 30  # all pairs of six atoms within 5 Å
        assert results[ours]["parameters"] > 100


def test_the_gate_measures_the_gradient_and_the_rotation_in_float64(results: dict[str, Any]) -> None:
    assert results["sound"]["gate"]["gradient_error"] < 1e-4
    assert results["sound"]["gate"]["rotation_error"] < 1e-12
    egnn, r3s2 = (results[name]["gate"] for name in OURS)
    assert egnn["rotation_error"] < 1e-10 < r3s2["rotation_error"]  # a grid of orientations is a choice, not exact
    assert (egnn["exact"], r3s2["exact"]) == (True, False)
    for gate in (egnn, r3s2):
        assert gate["gradient_error"] < 1e-4
        assert 0 < gate["precision_error"] < 1e-3 * gate["rms_force"]  # of float32, beside float64


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("scaled", "gate: forces are not the gradient"),
        ("other graph", r"not the same graph: \[7, 30\] directed pairs"),
        ("dies", "the worker ended with code 3: what a package says while it loads"),
        ("no environment", "needs an environment of its own"),
    ],
)
def test_a_peer_that_is_wrong_or_does_not_run_is_a_row_without_a_ratio(
    results: dict[str, Any], name: str, reason: str
) -> None:
    row = results[name]
    assert row["status"] == "failed"
    assert "ratios" not in row
    with pytest.raises(ValueError, match=reason):
        raise ValueError(row["reason"])


def test_one_worker_outlives_a_peer_that_breaks_and_is_ended_when_one_hangs(tmp_path: Path) -> None:
    process, gates = (importlib.import_module(f"peers.{name}") for name in ("process", "gates"))
    atoms = molecule("CH3OH")
    turns = peer(tmp_path, "turns", energy="0.1 * abs(self.atoms.get_distance(0, 1, vector=True)[0])")
    breaks = peer(tmp_path, "breaks", first='raise RuntimeError("no such kernel")')
    hangs = peer(tmp_path, "hangs", first="time.sleep(600)")
    common = {"cutoff": 5.0, "dtype": "float64", "seed": 0}
    with process.Worker(Path(sys.executable), None, threads=1, log=tmp_path / "log.txt") as worker:
        with pytest.raises(process.PeerFailedError, match="build: RuntimeError: no such kernel"):
            worker.build(breaks, atoms, **common)
        worker.build(turns, atoms, **common)
        assert "the energy changes under rotation" in gates.check(worker, atoms)[0].reason
        worker.limit = 0.5
        with pytest.raises(process.PeerFailedError, match=r"no answer within 0\.5 s"):
            worker.build(hangs, atoms, **common)
        assert worker._process.poll() is not None


def test_results_are_written_as_json_table_and_plot(results: dict[str, Any], workplace: Path) -> None:
    out = workplace / "out"
    assert len(json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]) == len(results)
    lines = (out / "table.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ") and "methanol" in line]
    assert len(rows) == len(results)
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert (out / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_structures_are_the_same_for_every_run(compare: ModuleType) -> None:
    module = importlib.import_module("peers.structures")
    copper = module.structure("cu256")
    assert len(copper) == 256
    assert module.checksum(copper) == module.checksum(module.structure("cu256"))
    assert module.checksum(copper) != module.checksum(bulk("Cu", cubic=True) * (4, 4, 4))
    for name in ("cu256", "cu1000", "cu10000"):
        atoms = module.structure(name)
        assert len(atoms) == int(name[2:])
        assert len(atoms) / atoms.get_volume() == pytest.approx(4 / 3.615**3)
        assert max(atoms.cell.lengths()) <= 3 * min(atoms.cell.lengths())
    for name in ("cu250", "cu28", "cu0"):  # no whole cells; only in one row; none
        with pytest.raises(ValueError, match=f"4 a b c atoms, .* not {name[2:]}"):
            module.structure(name)


def test_an_environment_that_does_not_install_is_a_reason(
    compare: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environments = importlib.import_module("peers.environments")
    group = environments.Group(("no-such-package-anywhere",))
    monkeypatch.setitem(environments.GROUPS, "mace", group)

    def step(command: list[str], log: Path) -> None:
        say = "import sys; print('ERROR: No matching distribution found'); sys.exit('pip' in sys.argv)"
        run([sys.executable, "-c", say, *command[2:3]], log)

    run = environments._step
    monkeypatch.setattr(environments, "_step", step)
    plan = compare.Plan(out=tmp_path, environments=tmp_path / "environments")
    assert compare._python("mace", plan) == "does not install: ERROR: No matching distribution found"


def test_environments_inside_the_repository_are_refused(
    compare: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        compare.main(["--peers", "mace", "-o", "out", "--environments", str(Path(__file__).parent)])
    assert "outside the repository" in capsys.readouterr().err
