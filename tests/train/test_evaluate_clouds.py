"""Denoising errors on held-out clouds: the loss of the validation, in the pose of the data and in random ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from geomol.checkpoint import save_model
from geomol.cli.evaluate import eval_command
from geomol.data import Clouds, write_clouds
from geomol.diffusion import Denoiser, build_levels, fit_backbone
from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models import Features, Symmetry
from geomol.symmetry import build_backbone
from geomol.train import parse_config
from geomol.train.cloud_generation import CloudShapes, prepare_cloud_generation
from geomol.train.evaluate_generation import TurnedShapes, evaluate_clouds
from geomol.train.sections import GenerationConfig

EXACT = {"name": "egnn", "channels": 8, "num_layers": 2, "num_radial": 0, "update_pos": True}


def boxes(num: int = 20, size: int = 16) -> Clouds:
    """Long boxes, all along the first axis."""
    rng = np.random.default_rng(0)
    sides = np.array([1.0, 0.3, 0.15]) * rng.uniform(0.8, 1.2, (num, 1, 3))
    rows = np.arange(num)
    return Clouds(
        name="boxes",
        pos=(rng.uniform(-1, 1, (num, size, 3)) * sides).reshape(-1, 3),
        ptr=np.arange(num + 1) * size,
        splits={"train": rows[:12], "test": rows[12:]},
    )


def denoiser(backbone: dict, *, elements: tuple[int, ...] = ()) -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Denoiser(
            build_backbone(fit_backbone(backbone, num_types=len(elements), self_conditioning=False)),
            elements=elements,
            levels=build_levels({"name": "karras"}),
            length_unit=0.5,
            sizes={12: 1},
            self_conditioning=False,
        ).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval()


def evaluate(path: Path, *words: str) -> tuple[dict, str]:
    app = typer.Typer()
    app.command()(eval_command)
    out = path.parent / "figures.json"
    result = CliRunner().invoke(app, [str(path), *words, "--json", str(out)], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(out.read_text()), result.output


def test_random_poses_show_the_same_points_and_cost_an_equivariant_denoiser_nothing() -> None:
    clouds, model = boxes(), denoiser(EXACT)
    found = evaluate_clouds(model, clouds)
    assert found["positions_so3"] == pytest.approx(found["positions"], rel=0.05)
    assert found == evaluate_clouds(model, clouds)
    settings, batches = GenerationConfig(num_points=12), []
    for kind in (CloudShapes, TurnedShapes):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            batch, _ = kind(clouds, settings, 1.0, "cpu", torch.float64).batch(torch.arange(4))
            batches.append(batch.cloud.pos.reshape(4, 12, 3))
    still, turned = batches
    assert float((still - turned).abs().max()) > 0.1
    torch.testing.assert_close(torch.cdist(still, still), torch.cdist(turned, turned))


def test_a_denoiser_that_knows_the_pose_of_the_data_loses_in_others() -> None:
    """It says that clouds lie on the first axis, near which they are in their own pose."""

    class OnAxis(nn.Module):
        cutoff, symmetry = float("inf"), Symmetry(group="T(3)", exact=True, smooth=True)

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([0.0, -1.0, -1.0], dtype=torch.float64))

        def forward(self, graph: Graph) -> Features:
            return Features(graph.pos[:, :0], (graph.pos * self.weight)[:, None])

    made = Denoiser(
        OnAxis(), elements=(), levels=build_levels({"name": "karras"}), prediction="clean", length_unit=0.5,
        sizes={12: 1}, self_conditioning=False,
    )  # fmt: skip
    found = evaluate_clouds(made.double().eval(), boxes())
    assert found["positions_so3"] > 1.2 * found["positions"]


def test_the_error_in_the_pose_of_the_data_is_that_of_the_validation_in_training(tmp_path: Path) -> None:
    source = write_clouds(tmp_path / "boxes.npz", boxes())
    config = {
        "name": "boxes",
        "task": "generation",
        "data": {"source": str(source), "num_valid": 4},
        "model": dict(EXACT),
        "generation": {"num_points": 12, "edges": "fc", "self_conditioning": False},
        "schedule": {"epochs": 1, "warmup_steps": 1},
        "run": {"folder": str(tmp_path), "rotate": False, "tensorboard": False},
    }
    prepared = prepare_cloud_generation(parse_config(config))
    assert isinstance(prepared.model, Denoiser)
    logged = prepared.task.errors(prepared.model.eval(), prepared.valid)
    found = evaluate_clouds(prepared.model.eval(), prepared.parts["valid"])
    assert found["positions"] == pytest.approx(logged["valid_loss"], rel=1e-9)
    assert found["points_per_cloud"] == 12


def test_eval_judges_on_the_test_part_unless_told_otherwise(tmp_path: Path) -> None:
    source = str(write_clouds(tmp_path / "boxes.npz", boxes()))
    path = tmp_path / "model.safetensors"
    save_model(path, denoiser(EXACT), provenance={}, errors={}, symmetry={})
    figures, text = evaluate(path, source)
    assert figures["num_clouds"] == 8
    assert "[test]" in text
    assert figures == evaluate(path, source)[0], "the same noise every time"
    train, _ = evaluate(path, source, "--split", "train")
    assert train["num_clouds"] == 12


def test_data_that_a_denoiser_does_not_make_are_refused(tmp_path: Path) -> None:
    source = str(write_clouds(tmp_path / "boxes.npz", boxes()))
    of_clouds, of_molecules = tmp_path / "clouds.safetensors", tmp_path / "molecules.safetensors"
    save_model(of_clouds, denoiser(EXACT), provenance={}, errors={}, symmetry={})
    save_model(of_molecules, denoiser(EXACT, elements=(1, 6)), provenance={}, errors={}, symmetry={})
    with pytest.raises(ConfigError, match="point clouds, such as"):
        evaluate(of_clouds, "qm9")
    with pytest.raises(ConfigError, match="molecules, such as qm9"):
        evaluate(of_molecules, source)
    with pytest.raises(ConfigError, match="a denoiser of molecules cannot judge point clouds"):
        evaluate_clouds(denoiser(EXACT, elements=(1, 6)), boxes())
    with pytest.raises(ConfigError, match="fewer points than wanted"):
        evaluate_clouds(denoiser(EXACT), boxes(), num_points=17)
