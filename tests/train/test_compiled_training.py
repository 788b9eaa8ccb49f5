"""`run.compile` for potentials: the same weights as without, step by step, or a clear refusal before the first one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from replay_stand_in import TrainingOnCPU

from geomol.compiled import CompiledPotential
from geomol.errors import ConfigError
from geomol.potential import Potential
from geomol.train import parse_config
from geomol.train import potential_task as module
from geomol.train.potential_task import PotentialTask
from geomol.train.prepare import prepare
from geomol.train.trainer import Trainer

MakeConfig = Callable[..., dict]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the recorded graph as it is: what is compiled to machine code is tested with the compiled potentials."""
    monkeypatch.setattr(module, "CompiledPotential", lambda potential: CompiledPotential(potential, backend="eager"))


@pytest.mark.usefixtures("recorded")
def test_compiled_training_takes_the_steps_of_the_plain_one(raw_config: MakeConfig) -> None:
    weights = []
    for compiled in (False, True):
        prepared = prepare(parse_config(raw_config(compile=compiled, dtype="float64")))
        assert isinstance(prepared.task, PotentialTask)
        assert (prepared.task.compiled is not None) == compiled
        trainer = Trainer(prepared, parse_config(raw_config(dtype="float64")))
        before = torch.cat([p.detach().flatten() for p in trainer.parameters])
        for _ in range(8):  # more than one epoch, with batches of both numbers of atoms
            trainer.train_step()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.parameters]))
        assert (weights[-1] - before).norm() > 1e-3
        assert isinstance(trainer.model, Potential)  # what is saved is the potential itself
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("recorded")
def test_random_poses_are_refused_when_the_run_is_prepared(raw_config: MakeConfig) -> None:
    raw = raw_config(compile=True)
    raw["model"] = {"name": "frame_averaging", "frames": "stochastic", "backbone": {"name": "faenet", "cutoff": 4.0}}
    raw["potential"] = {"allow_discontinuous": True}
    with pytest.raises(ConfigError, match="compile"):
        prepare(parse_config(raw))


def test_tasks_without_a_compiled_form_say_so() -> None:
    raw = {
        "name": "nothing",
        "task": "forecast",
        "data": {"source": "nbody"},
        "model": {"name": "egnn"},
        "schedule": {"epochs": 1},
        "run": {"compile": True},
    }
    with pytest.raises(ConfigError, match="of no use in task"):
        parse_config(raw)


def test_training_on_a_cuda_device_replays(raw_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for CUDA graphs: the weights of plain training, to rounding, the last smaller batch included."""
    monkeypatch.setattr(module, "ReplayedTraining", TrainingOnCPU)
    monkeypatch.setattr(module, "_on_cuda", lambda potential: True)
    weights = []
    for compiled in (False, True):
        prepared = prepare(parse_config(raw_config(compile=compiled, dtype="float64")))
        assert isinstance(prepared.task, PotentialTask)
        trainer = Trainer(prepared, parse_config(raw_config(dtype="float64", batch_size=5)))
        for _ in range(6):  # 24 structures: four batches of 5, one of 4, and one of the next epoch
            trainer.train_step()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.parameters]))
    assert isinstance(prepared.task.compiled, TrainingOnCPU)
    assert prepared.task.compiled.recordings >= 2
    assert not prepared.task.compiled.otherwise.seconds  # every step was replayed
    torch.testing.assert_close(*weights, rtol=1e-7, atol=1e-9)
