"""Learning to make molecules: fixed validation, new noise, conditions, coupling, and faults of the settings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from train.small_generator import MODEL

from geomol.diffusion import Clean, Cloud, Denoiser
from geomol.errors import ConfigError
from geomol.train import parse_config
from geomol.train.generation_task import GenerationTask, MoleculePart, forget_some, prepare_generation
from geomol.train.tasks import own_randomness


def validation(settings: dict) -> tuple[dict[str, float], Denoiser, GenerationTask, MoleculePart]:
    prepared = prepare_generation(parse_config(settings))
    return prepared.task.errors(prepared.model, prepared.valid), prepared.model, prepared.task, prepared.valid


@pytest.mark.parametrize(
    "generation",
    [
        {},
        {"process": {"name": "flow"}, "coupling": "optimal_transport"},
        {
            "process": {"name": "variational", "num_steps": 100},
            "types": "gaussian",
            "self_conditioning": False,
            "bond_channels": 0,
            "prediction": "noise",
        },
    ],
    ids=["karras", "flow", "variational"],
)
def test_validation_repeats_exactly_and_leaves_the_generators_alone(generation: dict, settings_of) -> None:
    first, model, task, part = validation(settings_of(generation))
    before = torch.get_rng_state()
    assert task.errors(model, part) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert set(first) == set(task.columns)
    assert all(np.isfinite(value) for value in first.values())
    torch.manual_seed(12345)
    assert task.errors(model, part) == first
    assert task.score(first) == first["valid_loss"]


def test_training_draws_new_noise_from_the_process_wide_generator(settings_of) -> None:
    prepared = prepare_generation(parse_config(settings_of()))
    clean = prepared.train.batch(torch.arange(12))[0]

    def loss(seed: int) -> float:
        with own_randomness(seed):
            return prepared.task.loss(prepared.model, clean, None).item()

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)


def conditioned(settings_of: Callable[..., dict], **generation: object):
    return prepare_generation(parse_config(settings_of({"conditions": ["heavy_atoms"], **generation})))


def test_conditions_are_dropped_for_the_share_of_structures_asked_for(settings_of, monkeypatch) -> None:
    context = torch.arange(4000.0).view(2000, 2)
    with own_randomness(0):
        dropped = forget_some(context, 0.3)
    gone = dropped.isnan()
    assert torch.equal(gone[:, 0], gone[:, 1]), "all conditions of a structure or none"
    assert torch.equal(dropped[~gone], context[~gone])
    assert abs(float(gone[:, 0].double().mean()) - 0.3) < 4 * (0.21 / 2000) ** 0.5
    assert torch.equal(forget_some(context, 0.0), context)
    # and the task does so in training alone
    prepared = conditioned(settings_of, drop_conditions=0.5)
    seen: list[torch.Tensor] = []
    original = Denoiser.forward

    def spy(self: Denoiser, noisy: Cloud, level: torch.Tensor, **given: object):
        seen.append(given["context"])
        return original(self, noisy, level, **given)

    monkeypatch.setattr(Denoiser, "forward", spy)
    clean: Clean = prepared.train.batch(torch.arange(36))[0]
    with own_randomness(3):
        prepared.task.loss(prepared.model, clean, None)
    assert 5 < int(seen[0].isnan().sum()) < 31
    assert all(torch.equal(a.isnan(), seen[0].isnan()) for a in seen), "the same for both estimates"
    seen.clear()
    prepared.task.errors(prepared.model, prepared.valid)
    assert not any(bool(a.isnan().any()) for a in seen)


def test_conditions_are_standardised_by_the_training_part(settings_of) -> None:
    prepared = conditioned(settings_of)
    data = prepared.parts["train"]
    counts = np.array([(data.to_atoms(i).numbers > 1).sum() for i in range(len(data))], dtype=float)
    mean, spread = prepared.model.conditions["heavy_atoms"]
    assert mean == pytest.approx(counts.mean())
    assert spread == pytest.approx(np.abs(counts - counts.mean()).mean())
    assert prepared.train.batch(torch.arange(36))[0].context[:, 0].tolist() == counts.tolist()


def test_coupling_lowers_the_loss_of_an_untrained_flow(settings_of, monkeypatch) -> None:
    """Noise nearer to the data: an estimate that is y itself, in essence, errs less. And the switch does something."""
    losses = {}
    for coupling in ("independent", "optimal_transport"):
        prepared = prepare_generation(
            parse_config(settings_of({"process": {"name": "flow"}, "coupling": coupling, "weights": {"types": 0.0}}))
        )
        clean = prepared.train.batch(torch.arange(36))[0]
        with own_randomness(3):
            losses[coupling] = prepared.task.loss(prepared.model, clean, None).item()
    assert losses["optimal_transport"] < 0.9 * losses["independent"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation": {"process": {"name": "variational"}}}, 'the process "variational" needs types = "gaussian"'),
        (
            {
                "generation": {
                    "process": {"name": "variational"},
                    "types": "gaussian",
                    "self_conditioning": False,
                    "coupling": "optimal_transport",
                }
            },
            'holds for coupling = "independent" alone',
        ),
        ({"generation": {"prediction": "score"}}, "generation.prediction"),
        ({"generation": {"drop_conditions": 1.0}}, "generation.drop_conditions"),
        ({"generation": {"conditons": ["gap"]}}, "generation.conditons"),
        ({"loss": {"per_atom": True}}, 'loss: of no use in task = "generation"'),
        ({"task": "potential"}, 'generation: of no use in task = "potential"'),
        ({"model": {**MODEL, "chanels": 8}}, "chanels"),
    ],
)
def test_faults_of_the_configuration_are_listed(changes: dict, message: str, settings_of) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({**settings_of(), **changes})


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"process": {"name": "karas"}}, "unknown noise process"),
        ({"process": {"name": "karras", "sigma": 3}}, "arguments of noise process"),
        ({"conditions": ["gap"]}, 'no property "gap"'),
    ],
)
def test_faults_that_the_data_or_the_process_show_are_errors_in_a_line(
    generation: dict, message: str, settings_of
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        prepare_generation(parse_config(settings_of(generation)))
    assert "\n" not in str(caught.value)
