"""Learning to make point clouds: data, settings, and a run from clouds to samples and their scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from geomol.checkpoint import load_denoiser
from geomol.cli.sample_clouds import sample_clouds
from geomol.cli.score_clouds import score_cloud_file
from geomol.data import Clouds, read_clouds, write_clouds
from geomol.data.cloud_categories import draw_points, load_category, names_clouds
from geomol.data.made_parts import make_parts
from geomol.errors import ConfigError
from geomol.generate.sampling import SampleSettings
from geomol.geometry import random_rotations
from geomol.train import load_config, parse_config, train
from geomol.train.cloud_generation import cloud_parts, prepare_cloud_generation
from geomol.train.prepare import prepare

PLAIN = {
    "name": "rapidash",
    "orientations": "none",
    "kernel_group": "T(n)",
    "channels": 8,
    "num_layers": 1,
    "basis_dim": 8,
    "basis_hidden": 8,
}
POSED = {**PLAIN, "orientations": "octahedral", "kernel_group": "SE(n)", "coordinates": "vectors"}
ANY = random_rotations(1, generator=torch.Generator().manual_seed(4))[0]


def box_set(path: Path, *, num: int = 24, points: int = 80) -> Path:
    """Long boxes, all along the first axis: a category with a pose."""
    rng = np.random.default_rng(0)
    sides = np.array([1.0, 0.3, 0.15]) * rng.uniform(0.8, 1.2, (num, 1, 3))
    pos = rng.uniform(-1, 1, (num, points, 3)) * sides
    rows = np.arange(num)
    clouds = Clouds(
        name="boxes",
        pos=pos.reshape(-1, 3),
        ptr=np.arange(num + 1) * points,
        label=rows % 2,
        class_names=("even", "odd"),
        splits={"train": rows[:16], "test": rows[16:]},
    )
    return write_clouds(path, clouds)


Make = Callable[..., dict[str, object]]


@pytest.fixture
def settings(tmp_path: Path) -> Make:
    source = str(box_set(tmp_path / "boxes.npz"))

    def make(**generation: object) -> dict[str, object]:
        return {
            "name": "boxes",
            "task": "generation",
            "data": {"source": source, "num_valid": 4},
            "model": dict(PLAIN),
            "generation": {"num_points": 40, "edges": "knn-6", "self_conditioning": False, **generation},
            "schedule": {"epochs": 2, "warmup_steps": 1},
            "run": {"folder": str(tmp_path), "batch_size": 4, "rotate": False, "tensorboard": False},
        }

    return make


def test_a_run_ends_with_a_model_that_samples_and_is_scored(
    settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = train(parse_config(settings()))
    assert result.finished
    assert np.isfinite(result.best["valid_loss"])
    model = load_denoiser(str(tmp_path / "boxes"))
    assert (model.elements, model.edges, model.sizes) == ((), "knn-6", {40: 12})
    out = tmp_path / "made.npz"
    sample_clouds(
        model,
        str(tmp_path / "boxes"),
        num=5,
        out=out,
        size="prior",
        seed=0,
        settings=SampleSettings(steps=4),
        picture=tmp_path / "made.png",
    )
    made = read_clouds(out)
    assert made.sizes.tolist() == 5 * [40]
    assert (tmp_path / "made.png").exists()
    scores = score_cloud_file(str(out), reference=str(tmp_path / "boxes.npz"))
    assert set(scores) == {"generated", "training data"}
    # two epochs teach nothing; the data themselves are alike
    assert scores["training data"].mmd < scores["generated"].mmd
    assert scores["training data"].one_nna < scores["generated"].one_nna
    assert "1-NNA" in capsys.readouterr().out


def test_clouds_of_a_batch_are_centred_in_unit_spread_and_turn_with_their_frame(settings: Make) -> None:
    raw = settings(frame=True)
    raw["model"] = dict(POSED)
    prepared = prepare_cloud_generation(parse_config(raw))
    index = torch.arange(12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        still, _ = prepared.train.batch(index)
        torch.manual_seed(0)
        moved, _ = prepared.train.batch(index, ANY.expand(12, 3, 3))
    torch.testing.assert_close(moved.cloud.pos, still.cloud.pos @ ANY.float().T)
    assert moved.cloud.frame is not None
    torch.testing.assert_close(moved.cloud.frame[3], ANY.float())
    assert abs(float(still.cloud.pos.square().mean()) - 1) < 0.1
    assert float(still.cloud.pos.view(12, 40, 3).mean(1).abs().max()) < 1e-6


def test_points_are_drawn_anew_at_every_step_but_not_at_every_validation(settings: Make) -> None:
    prepared = prepare(parse_config(settings()))
    first, _ = prepared.train.batch(torch.arange(2))
    second, _ = prepared.train.batch(torch.arange(2))
    assert not torch.equal(first.cloud.pos, second.cloud.pos)
    errors = [prepared.task.errors(prepared.model.eval(), prepared.valid) for _ in range(2)]
    assert errors[0] == errors[1]


def test_a_category_keeps_its_clouds_and_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(name: str, **_: object) -> Clouds:
        return make_parts(40, num_points=16, seed=0)

    monkeypatch.setattr("geomol.data.cloud_categories.load_clouds", few)
    whole = load_category("made-parts")
    name = whole.class_names[1]
    some = load_category(f"made-parts/{name}")
    assert set(some.label.tolist()) == {1}
    test = np.intersect1d(whole.splits["test"], np.flatnonzero(whole.label == 1))
    np.testing.assert_array_equal(some.split("test").pos, whole.subset(test).pos)
    with pytest.raises(ConfigError, match="no category"):
        load_category("made-parts/spoon")


def test_clouds_are_told_from_structures_by_their_names(tmp_path: Path) -> None:
    assert names_clouds("modelnet10/chair")
    assert names_clouds(box_set(tmp_path / "boxes.npz"))
    assert not names_clouds("qm9")
    np.savez(tmp_path / "molecules.npz", numbers=np.ones(3), pos=np.zeros((3, 3)), ptr=np.zeros(2), name="x")
    assert not names_clouds(tmp_path / "molecules.npz")


def test_voxels_give_more_points_than_they_are() -> None:
    clouds = Clouds(name="modelnet10/made", pos=np.zeros((5, 3)), ptr=np.array([0, 2, 5]))
    drawn = draw_points(clouds, np.array([1, 0]), 7, generator=torch.Generator().manual_seed(0))
    assert drawn.ptr.tolist() == [0, 7, 14]
    assert float(drawn.pos.abs().max()) <= 1 / 30
    assert len(drawn.pos.unique(dim=0)) == 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bond_channels": 4}, "generation.bond_channels: of no use for point clouds"),
        ({"conditions": ["gap"]}, "generation.conditions: of no use"),
        ({"num_points": 200}, "has fewer points than wanted"),
        ({"edges": "knn"}, "unknown edges"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: Make, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cloud_parts(parse_config(settings(**change)))


def test_held_out_clouds_are_not_trained_on(settings: Make) -> None:
    parts, _ = cloud_parts(parse_config(settings()))
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [12, 4, 8]
    rows = {cloud.tobytes() for cloud in np.split(parts["train"].pos, 12)}
    assert rows.isdisjoint(cloud.tobytes() for cloud in np.split(parts["valid"].pos, 4))


@pytest.mark.parametrize("path", sorted(Path("examples/configs/clouds").glob("*.toml")), ids=lambda p: p.stem)
def test_the_example_configurations_can_be_read(path: Path) -> None:
    assert load_config(path).task == "generation"
