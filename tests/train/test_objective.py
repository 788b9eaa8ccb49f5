"""The objective: plain, on turned data, or softly equivariant (REMUL), with what modules add; and its exact resume."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.train import parse_config, train
from geomol.train.forecast_task import equivariance_error
from geomol.train.objective import Objective, random_turns
from geomol.train.prepare import prepare
from geomol.train.trainer import Trainer

MakeConfig = Callable[..., dict]


def trainer_for(raw: dict) -> Trainer:
    config = parse_config(raw)
    return Trainer(prepare(config), config)


def weights_after(trainer: Trainer, steps: int) -> Tensor:
    for _ in range(steps):
        trainer.train_step()
    return torch.cat([p.detach().flatten() for p in trainer.parameters])


def objective_of(trainer: Trainer) -> Objective:
    return trainer.objective


def test_weight_zero_is_plain_training_bit_by_bit(forecast_config: MakeConfig) -> None:
    raw = forecast_config("gnn")
    plain = weights_after(trainer_for(raw), 6)
    for schedule in ("constant", "linear", "gradnorm"):
        assert torch.equal(plain, weights_after(trainer_for({**raw, "remul": {"schedule": schedule}}), 6))
    assert not torch.equal(plain, weights_after(trainer_for({**raw, "remul": {"weight": 1e-3}}), 6))


def test_a_larger_weight_makes_the_model_more_equivariant(forecast_config: MakeConfig) -> None:
    errors = []
    for weight in (0.0, 0.1, 1.0, 10.0):
        found = []
        for seed in (0, 1):
            trainer = trainer_for({**forecast_config("gnn", seed=seed, epochs=40), "remul": {"weight": weight}})
            weights_after(trainer, 40)
            found.append(equivariance_error(trainer.model.eval(), trainer.valid))
        errors.append(np.mean(found))
    assert all(a > b for a, b in itertools.pairwise(errors)), errors


def test_the_soft_term_of_an_equivariant_model_is_the_plain_one(forecast_config: MakeConfig) -> None:
    """A constant weight w then multiplies the loss by 1 + w; the plain network is the control."""
    index = torch.arange(10)
    ratios = {}
    for model in ("egnn", "gnn"):
        raw = forecast_config(model)
        plain = objective_of(trainer_for(raw))(index, 0, 0.0)
        soft = objective_of(trainer_for({**raw, "remul": {"weight": 3.0, "group": "O(3)"}}))(index, 0, 0.0)
        ratios[model] = (soft / plain).item()
    assert ratios["egnn"] == pytest.approx(4.0, rel=1e-12)
    assert abs(ratios["gnn"] - 4.0) > 1e-3


def test_the_linear_schedule_starts_from_plain_training(forecast_config: MakeConfig) -> None:
    raw = forecast_config("egnn")
    linear = objective_of(trainer_for({**raw, "remul": {"weight": 3.0, "schedule": "linear"}}))
    index = torch.arange(10)
    plain = objective_of(trainer_for(raw))(index, 0, 0.0).item()
    found = [linear(index, 0, progress).item() / plain for progress in (0.0, 0.5, 1.0)]
    assert found == pytest.approx([1.0, 2.5, 4.0], rel=1e-12)


def test_gradnorm_moves_the_weights_as_its_formula_says(forecast_config: MakeConfig) -> None:
    """Norms by finite differences along the gradient of the last matrix, one update by hand."""
    raw = {**forecast_config("gnn"), "remul": {"weight": 0.5, "schedule": "gradnorm"}}
    trainer = trainer_for(raw)
    objective, index = objective_of(trainer), torch.arange(10)
    turns = random_turns(10, "SO(3)", torch.Generator().manual_seed(3))
    losses = [trainer.task.loss(trainer.model, *trainer.train.batch(index, turn)) for turn in (None, turns)]
    matrix = [p for p in trainer.parameters if p.dim() > 1][-1]
    norms = [float(torch.autograd.grad(loss, matrix, retain_graph=True)[0].norm()) for loss in losses]
    objective._balance(losses)
    assert objective.shared is matrix
    weighted = [1.0 * norms[0], 0.5 * norms[1]]
    mean = sum(weighted) / 2  # both rates are 1 at the first step
    moved = [w - 0.025 * n * np.sign(x - mean) for w, n, x in zip((1.0, 0.5), norms, weighted, strict=True)]
    assert objective.weights == pytest.approx([2 * w / sum(moved) for w in moved], rel=1e-12)


def test_gradnorm_weights_stay_positive_with_sum_two_and_are_part_of_the_state(forecast_config: MakeConfig) -> None:
    raw = {**forecast_config("gnn"), "remul": {"weight": 1.0, "schedule": "gradnorm"}}
    trainer = trainer_for(raw)
    seen = []
    for _ in range(8):
        trainer.train_step()
        seen.append(list(objective_of(trainer).weights))
    assert all(min(w) > 0 and sum(w) == pytest.approx(2.0, abs=1e-12) for w in seen)
    assert len({w[0] for w in seen}) == 8
    state = trainer.state()
    other = trainer_for(raw)
    other.load_state(state)
    assert state["objective"]["weights"] == seen[-1]
    assert torch.equal(weights_after(other, 3), weights_after(trainer, 3))
    forgetful = trainer_for(raw)
    forgetful.load_state({**state, "objective": {"weights": [1.0, 1.0], "first_losses": []}})
    assert not torch.equal(weights_after(forgetful, 3), weights_after(trainer, 0))  # the control


@pytest.mark.parametrize("model", ["egnn", "linear", "frozen"])
def test_gradnorm_finds_weights_that_both_terms_depend_on(
    model: str, forecast_config: MakeConfig, gnn_settings: dict
) -> None:
    """The last matrix of the EGNN is idle, linear motion has none, and a frozen backbone trains only its pose."""
    settings = {
        "egnn": "egnn",
        "linear": {"name": "linear_motion"},
        "frozen": {"name": "canonical", "pose": {"name": "vn_deep_sets"}, "frozen": True, "backbone": gnn_settings},
    }[model]
    trainer = trainer_for({**forecast_config(settings), "remul": {"weight": 1.0, "schedule": "gradnorm"}})
    assert weights_after(trainer, 3).isfinite().all()
    assert objective_of(trainer).shared.requires_grad


def test_gradnorm_survives_a_perfect_fit_and_leaves_infinite_losses_to_the_trainer(forecast_config: MakeConfig) -> None:
    trainer = trainer_for({**forecast_config("gnn"), "remul": {"weight": 1.0, "schedule": "gradnorm"}})
    objective = objective_of(trainer)
    loss = trainer.task.loss(trainer.model, *trainer.train.batch(torch.arange(3)))
    objective._balance([0 * loss, 0 * loss])
    assert objective.weights == [1.0, 1.0]
    objective._balance([loss, float("nan") * loss])
    assert objective.weights == [1.0, 1.0]


def test_turns_of_o3_are_orthogonal_with_both_determinants() -> None:
    generator = torch.Generator().manual_seed(0)
    for group, signs in (("SO(3)", {1.0}), ("O(3)", {1.0, -1.0})):
        turns = random_turns(200, group, generator).double()
        torch.testing.assert_close(turns @ turns.mT, torch.eye(3).double().expand(200, 3, 3), atol=1e-6, rtol=0)
        dets = torch.linalg.det(turns).round()
        assert set(dets.tolist()) == signs
        assert turns.mean(0).abs().max() < 0.2
    assert abs(float(dets.mean())) < 0.25  # equal chance


def test_every_structure_and_step_has_a_turn_of_its_own(forecast_config: MakeConfig) -> None:
    trainer = trainer_for(forecast_config("gnn", rotate=True))
    batch, seen = trainer.train.batch, []
    object.__setattr__(trainer.train, "batch", lambda index, turns=None: seen.append(turns) or batch(index, turns))
    weights_after(trainer, 2)
    rows = torch.cat(seen).flatten(1)
    assert len(rows.unique(dim=0)) == 20


class Added(nn.Module):
    """A backbone around a backbone, with a penalty of its own and a memory of what it was told."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.draws, self.value = inner, [], 0.25

    def forward(self, graph: object) -> object:
        return self.inner(graph)

    def reseed(self, draw: int) -> None:
        self.draws.append(draw)

    def penalty(self) -> Tensor | None:
        return None if self.value is None else torch.tensor(self.value)


def test_penalties_enter_the_loss_and_modules_are_told_the_step(forecast_config: MakeConfig) -> None:
    trainer = trainer_for(forecast_config("gnn"))
    index = torch.arange(10)
    plain = objective_of(trainer)(index, 0, 0.0).item()
    trainer.model.backbone = added = Added(trainer.model.backbone)
    assert objective_of(trainer)(index, 0, 0.0).item() == pytest.approx(plain + 0.25, rel=1e-12)
    added.value = None
    assert objective_of(trainer)(index, 0, 0.0).item() == plain
    weights_after(trainer, 3)
    trainer.validate()
    assert added.draws == [0, 1, 2]


def test_each_seed_has_random_poses_of_its_own(forecast_config: MakeConfig, gnn_settings: dict) -> None:
    settings = {"name": "test_time_average", "train_samples": 1, "backbone": gnn_settings}
    trainers = [trainer_for(forecast_config(settings, seed=seed)) for seed in (0, 1)]
    assert [t.draw for t in trainers] == [0, 715_225_741]
    poses = []
    for t in trainers:
        t.model.train().backbone.reseed(t.draw)
        poses.append(t.model.backbone.poses(t.train.batch(torch.arange(2))[0]).rotation)
    assert (poses[0] - poses[1]).abs().max() > 0.1


def test_the_width_of_learned_augmentation_moves_and_is_rewarded(
    forecast_config: MakeConfig, gnn_settings: dict
) -> None:
    final = []
    for reg in (0.0, 10.0):
        settings = {
            "name": "learned_augmentation",
            "generators": ["rotations"],
            "reg": reg,
            "backbone": gnn_settings,
        }
        trainer = trainer_for(forecast_config(settings))
        widths = trainer.model.backbone.widths.detach().clone()
        weights_after(trainer, 8)
        final.append(trainer.model.backbone.widths.detach().clone())
        assert (final[-1] - widths).abs().min() > 1e-4
    assert (final[1] > final[0]).all()
    assert (final[1] > widths).all()


def test_dropout_follows_from_seed_and_step_and_leaves_the_process_alone(
    forecast_config: MakeConfig, gnn_settings: dict
) -> None:
    settings = {"name": "canonical", "pose": {"name": "vn_deep_sets", "dropout": 0.5}, "backbone": gnn_settings}
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(weights_after(trainer_for(forecast_config(settings)), 4))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)
    still = {**settings, "pose": {"name": "vn_deep_sets", "dropout": 0.0}}
    assert not torch.equal(found[0], weights_after(trainer_for(forecast_config(still)), 4))  # it does drop


def test_turning_the_data_twice_is_refused(forecast_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"run.rotate = false"):
        parse_config({**forecast_config("gnn", rotate=True), "remul": {"weight": 1.0}})


@pytest.mark.parametrize("kind", ["stochastic", "dropout", "gradnorm"])
def test_a_stopped_forecast_run_ends_with_the_same_bytes(
    kind: str, forecast_config: MakeConfig, gnn_settings: dict, tmp_path: Path
) -> None:
    """Interrupted at every few steps, in a process whose random state is different each time."""
    settings: dict = {
        "stochastic": {"name": "frame_averaging", "frames": "stochastic", "backbone": gnn_settings},
        "dropout": {
            "name": "canonical",
            "pose": {"name": "vn_deep_sets", "dropout": 0.5},
            "backbone": gnn_settings,
        },
        "gradnorm": gnn_settings,
    }[kind]
    results = []
    for name in ("whole", "parts"):
        raw = forecast_config(settings, epochs=4, folder=str(tmp_path / name))
        if kind == "gradnorm":
            raw["remul"] = {"weight": 1.0, "schedule": "gradnorm"}
        calls = 1
        if name == "parts":
            parts = {**raw, "run": {**raw["run"], "stop_after_minutes": 0.1 / 60}}
            torch.manual_seed(calls)
            while not train(parse_config(parts)).finished:
                calls += 1
                torch.manual_seed(calls)
            assert calls > 1
        else:
            train(parse_config(raw))
        folder = tmp_path / name / raw["name"]
        results.append([(folder / file).read_bytes() for file in ("model.safetensors", "metrics.csv")])
    assert results[0] == results[1]
