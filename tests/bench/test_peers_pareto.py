"""Trainings for the Pareto table in seconds: a small pair potential in a file is the peer, made-up frames the data."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from geomol.data import Structures

PAIR = """
import time
import torch
from peers.models import Peer
from peers.trainable import Trainable
from peers.wrapped import EnergyCalculator

CENTRES = torch.linspace(0.5, 3.0, 12)


class Pair(torch.nn.Module):
    def __init__(self, options):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(len(CENTRES)))
        self.options = options

    def energy(self, pos):  # (B, N, 3)
        i, j = torch.triu_indices(pos.shape[1], pos.shape[1], 1)
        r = (pos[:, i] - pos[:, j]).norm(dim=-1, keepdim=True)
        return {factor} * self.options["scale"] * (torch.exp(-8.0 * (r - CENTRES.to(r)) ** 2) @ self.weights).sum(dim=1)


def build(s):
    {first}
    model = Pair(s.options).to(s.torch_dtype)
    calculator = EnergyCalculator(lambda atoms, pos: model.energy(pos[None]).sum(), s.torch_dtype)

    def predict(pos):
        {slow}
        pos = pos.requires_grad_()
        energy = model.energy(pos)
        (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=model.training)
        return energy, -gradient.flatten(0, 1)

    def graph(atoms):
        return torch.tensor(atoms.positions, dtype=s.torch_dtype)

    return Trainable(Peer(calculator, 12, lambda atoms: None, "12 functions"), model, graph, torch.stack, predict, 0.02)
"""


def frames(number: int, seed: int) -> Structures:
    """Methanol with Morse bonds between all pairs, so that the peer can learn it."""
    from ase.calculators.morse import MorsePotential
    from ase.calculators.singlepoint import SinglePointCalculator

    start, made = molecule("CH3OH"), []
    rng = np.random.default_rng(seed)
    for _ in range(number):
        atoms = Atoms(start.numbers, start.positions + rng.normal(scale=0.1, size=start.positions.shape))
        atoms.calc = MorsePotential(epsilon=1.0, r0=1.8, rho0=3.0, rcut1=8.0, rcut2=9.0)
        energy, forces = atoms.get_potential_energy() - 1000.0, atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        made.append(atoms)
    return Structures.from_atoms(made)


def peer(folder: Path, name: str, *, first: str = "pass", slow: str = "pass", factor: str = "1.0") -> str:
    (folder / f"{name}.py").write_text(PAIR.format(first=first, slow=slow, factor=factor))
    return f"{folder / name}.py:build"


@pytest.fixture(scope="module")
def pareto() -> ModuleType:
    return importlib.import_module("peers.pareto")


@pytest.fixture(scope="module")
def data() -> Structures:
    made = frames(60, seed=0)
    made.splits.update(train_1=np.arange(40), test_1=np.arange(40, 60))
    return made


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pareto")


@pytest.fixture(scope="module")
def results(pareto: ModuleType, data: Structures, workplace: Path) -> dict[str, Any]:
    """One command for all tests: a peer that learns, one whose calculator is not what was trained, one that fails."""
    peers = {
        "sound": peer(workplace, "sound"),
        "other forces": peer(workplace, "other", factor='(1.1 if "weights" in self.options else 1.0)'),
        "fails": peer(workplace, "fails", first='raise RuntimeError("no such kernel")'),
        "no environment": "mace",
    }
    plan = pareto.Plan(out=workplace / "out", minutes=0.02, rounds=4, warmup=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pareto, "load_structures", lambda source: data)
        out: dict[str, Any] = pareto.pareto(list(peers.values()), [], plan)
    names = {spec: name for name, spec in peers.items()}
    return {names[row["peer"]]: row for row in out["rows"]}


def test_a_trained_peer_has_errors_and_the_time_of_its_calculator(results: dict[str, Any], data: Structures) -> None:
    row = results["sound"]
    assert (row["status"], row["reason"]) == ("ok", "")
    untrained = float(np.abs(data.forces[data.ptr[40] :]).mean())
    assert row["test"]["force_mae_eV_per_A"] < 0.3 * untrained
    assert row["test"]["energy_mae_eV"] < 1.0  # of energies near -1000 eV, the mean of which is taken out
    assert 1.2 <= row["cpu_seconds"] < 1.5
    assert len(row["rounds_s"]) == 1
    assert row["seconds"]["median"] > 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("other forces", "does not give the forces of the trained network"),
        ("fails", "the training ended with code 1: RuntimeError: no such kernel"),
        ("no environment", "needs an environment of its own"),
    ],
)
def test_a_peer_that_fails_is_a_row_with_the_reason(results: dict[str, Any], name: str, reason: str) -> None:
    assert results[name]["status"] == "failed"
    assert reason in results[name]["reason"]
    assert "seconds" not in results[name]


def test_a_finished_training_is_kept_and_other_settings_are_refused(
    pareto: ModuleType, results: dict[str, Any], workplace: Path
) -> None:
    spec, plan = results["sound"]["peer"], pareto.Plan(out=workplace / "out", minutes=0.02)
    figures = workplace / "out" / "models" / "sound-build" / "figures.json"
    before = figures.stat().st_mtime_ns
    assert pareto._peer(spec, plan).row["steps"] == results["sound"]["steps"]
    assert figures.stat().st_mtime_ns == before
    with pytest.raises(pareto.PeerFailedError, match="a training with other settings"):
        pareto._peer(spec, pareto.Plan(out=workplace / "out", minutes=0.5))


def test_a_killed_training_goes_on_from_its_last_state(
    pareto: ModuleType, data: Structures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = importlib.import_module("peers.training")
    parts = {"train": data.subset(np.arange(20)), "valid": data.subset(np.arange(20, 30)), "test": data}
    pareto.write_data(parts, tmp_path / "data.npz", 5.0)
    job = {"peer": peer(tmp_path, "slow", slow="time.sleep(0.01)"), "data": "data.npz", "minutes": 0.05}
    (tmp_path / "job.json").write_text(json.dumps(job))
    short = (
        "import sys; from pathlib import Path; from peers import training as t; "
        "t.SAVE_EVERY_S = 0.2; t.main(Path(sys.argv[1]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", short, str(tmp_path)], cwd=importlib.import_module("peers.process").TESTS
    )
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "state.pt").is_file() and time.monotonic() < end:
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "figures.json").is_file()
    with np.load(tmp_path / "data.npz") as file:
        again = training.Training(training.Job(**job), dict(file))
    again.load(training.torch.load(tmp_path / "state.pt", weights_only=True))
    step, used = again.step, again.seconds
    assert step > 0
    assert 0 < used < 3.0
    assert again.optimisers[0].state_dict()["state"][0]["step"] == step
    assert float(again.weights[0].detach().abs().max()) > 0  # they begin at zero
    again.train_step()
    assert (again.step, again.seconds > used) == (step + 1, True)


@pytest.mark.usefixtures("pareto")
def test_peers_are_trained_by_muon_on_request() -> None:
    training = importlib.import_module("peers.training")
    model = torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.Linear(4, 2), torch.nn.Linear(2, 1))
    muon, adam = training.optimisers(model, "muon", 1e-2)
    assert [p is model[1].weight for p in muon.param_groups[0]["params"]] == [True]
    assert len(adam.param_groups[0]["params"]) == len(list(model.parameters())) - 1
    assert len(training.optimisers(model, "adam", 1e-2)) == 1
    with pytest.raises(ValueError, match="unknown optimiser"):
        training.optimisers(model, "sgd", 1e-2)


def test_states_continue_with_the_same_bits(pareto: ModuleType, data: Structures, tmp_path: Path) -> None:
    training = importlib.import_module("peers.training")
    parts = {"train": data.subset(np.arange(20)), "valid": data.subset(np.arange(20, 30)), "test": data}
    pareto.write_data(parts, tmp_path / "data.npz", 5.0)
    with np.load(tmp_path / "data.npz") as file:
        arrays = dict(file)
    assert arrays["mean"] == pytest.approx(np.mean(data.energy[:20]))
    assert arrays["scale"] == pytest.approx(np.sqrt(np.mean(data.forces[: data.ptr[20]] ** 2)))
    assert arrays["neighbours"] == pytest.approx(5.0)
    job = training.Job(peer(tmp_path, "bits"), "data.npz", minutes=1e9)  # so long that the rate does not change
    whole, first, second = (training.Training(job, arrays) for _ in range(3))
    for _ in range(7):
        whole.train_step()
    for _ in range(3):
        first.train_step()
    training.save(first.state(), tmp_path / "state.pt")
    second.load(training.torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(4):
        second.train_step()
    for a, b in zip([whole.weights, *whole.averages], [second.weights, *second.averages], strict=True):
        assert all(bool((x == y).all()) for x, y in zip(a, b, strict=True))


def test_the_front_holds_what_nothing_beats_in_both(tmp_path: Path) -> None:
    report = importlib.import_module("peers.pareto_report")
    figures = {
        "fast": (1, 30),
        "slower and worse": (2, 40),
        "good": (5, 10),
        "equal and slower": (6, 10),
        "best": (9, 8),
    }
    rows: list[dict[str, Any]] = [
        {
            "peer": name,
            "test": {"force_mae_eV_per_A": 1e-3 * error, "energy_mae_eV": 0.004},
            "seconds": {"median": 1e-3 * ms, "lower": 0.9e-3 * ms, "upper": 1.1e-3 * ms},
            "cpu_seconds": 600.0,
            "learning_rate": 1e-3,
            "reason": "",
        }
        for name, (ms, error) in figures.items()
    ]
    rows.append({"peer": "broken", "status": "failed", "reason": "a | b"})
    settings = {"source": "rmd17/ethanol", "minutes": 10.0, "batch_size": 5, "threads": 1, "rounds": 20}
    machine = {"processor": "any", "cores": 2, "load": 0.1}
    report.write(tmp_path, {"settings": settings, "machine": machine, "rows": rows})
    lines = [line for line in (tmp_path / "table.md").read_text(encoding="utf-8").splitlines() if line[:2] == "| "][1:]
    assert [line.split(" | ")[0][2:] for line in lines[:2]] == ["best", "good"]  # the smallest error first
    assert "broken" in lines[-1]
    assert {line.split(" | ")[0][2:] for line in lines if "| yes |" in line} == {"fast", "good", "best"}
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
