"""The page of a run of which parts are missing, damaged, hostile or periodic."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from report.run_page import report

from geomol.report.panels import training_panels

HOSTILE = "<script>alert(1)</script>\"'&$"


def test_an_empty_folder_gives_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    page = report(tmp_path)
    for sentence in (
        "There are no learning curves",
        "There are no evaluated splits",
        "There are no simulations",
        "The settings are not known",
        "There is no usable summary.json",
    ):
        assert sentence in page.text
    assert page.scripts == []


def test_a_run_of_labels_speaks_of_no_dynamics_and_its_last_rate_is_not_drawn_as_a_fall(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"name": "labels", "task": "labels"}')
    rows = ["step,lr,train_loss,valid_loss", "1,1e-3,2.0,2.1", "2,1e-4,1.0,1.2", "3,0.0,0.9,1.1"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    text = report(tmp_path).text
    assert "There are no simulations" not in text
    assert "Training and validation loss at each log entry." in text
    metrics = {"step": np.array([1.0, 2.0, 3.0]), "lr": np.array([1e-3, 1e-4, 0.0])}
    axes = training_panels(metrics)[0].figure.axes[0]
    assert np.nanmin(np.asarray(axes.lines[0].get_ydata(), dtype=float)) == 1e-4


@pytest.mark.parametrize("part", ["config.json", "summary.json", "metrics.csv", "timing.csv", "eval/test_1.npz",
                                  "eval/test_1.json", "md/nve-300K.csv", "md/nve-300K.extxyz", "md/nve-300K.json",
                                  "model.safetensors"])  # fmt: skip
def test_a_damaged_part_is_named_and_the_rest_is_shown(
    make_run: Callable[..., Path], part: str, tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "run", structures=5, md_frames=3)
    for other in {"metrics.csv", "eval", "md"} - {part.split("/")[0]}:  # fewer figures, for speed
        path = folder / other
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / part).write_bytes(b"\x93\x00garbage\xff{[")
    page = report(folder)
    assert Path(part).name.split(".")[0] in page.text
    assert re.search(r"could not be read|is not shown|has no rows", page.text)
    assert ("model.name ponita" if part == "summary.json" else "Parameters 123,456") in page.text


def test_a_trajectory_cut_off_in_a_frame_shows_the_frames_before(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", structures=5, md_frames=6)
    path = folder / "md" / "nve-300K.extxyz"
    content = path.read_bytes()
    path.write_bytes(content[: int(0.9 * len(content))])
    page = report(folder)
    assert len(json.loads(page.json["trajectory-0"])["frames"]) == 5
    assert "The file ends inside a frame" in page.text


def test_a_log_with_empty_cells_and_nan_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,train_loss,valid_force_mae_eV_per_A\n1,2.0,\n2,nan,0.1\n3,1.0,\n4,inf,0.2\n"
    )
    page = report(tmp_path)
    assert "best 100 meV/Å" in page.text


def test_predictions_that_are_not_finite_are_counted_not_hidden(
    write_evaluation: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    (tmp_path / "eval").mkdir()
    arrays = write_evaluation(tmp_path, "test", np.random.default_rng(0), 4)
    arrays["forces_pred"][0, 0] = np.nan
    np.savez(tmp_path / "eval" / "test.npz", **arrays)
    page = report(tmp_path)
    assert "Test force MAE not finite" in page.text
    assert "1 not finite, left out" in page.text


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "eval").mkdir()
    np.savez(tmp_path / "eval" / "test.npz", numbers=np.array([{"a": 1}], dtype=object), ptr=np.array([0, 1]))
    assert "eval/test.npz could not be read" in report(tmp_path).text


def test_hostile_strings_are_shown_and_never_become_markup(make_run: Callable[..., Path], tmp_path: Path) -> None:
    clean = report(make_run(tmp_path / "clean", structures=5, md_frames=3))
    folder = make_run(tmp_path / "a<b onload=x>&$", structures=5, md_frames=3)
    (folder / "config.json").write_text(json.dumps({HOSTILE: HOSTILE, "model": {"name": HOSTILE}}))
    (folder / "summary.json").write_text(json.dumps({"num_parameters": 123456, "who": [HOSTILE]}))
    name = "<img src=x onerror=alert(1)>$_$"
    for suffix in ("csv", "extxyz", "json"):
        (folder / "md" / f"nve-300K.{suffix}").rename(folder / "md" / f"{name}.{suffix}")
    info = {"settings": {"ensemble": HOSTILE}, "num_atoms": 9, HOSTILE: HOSTILE}
    (folder / "md" / f"{name}.json").write_text(json.dumps(info))
    for suffix in ("npz", "json"):
        (folder / "eval" / f"test_1.{suffix}").rename(folder / "eval" / f"test<b>$.{suffix}")
    page = report(folder)
    assert HOSTILE in page.text
    assert name in page.text
    assert "a<b onload=x>&$" in page.text
    assert page.scripts == clean.scripts
    used = {tag for tag, _ in page.tags}
    assert "img" not in used
    assert "b" not in used
    assert not [attributes for _, attributes in page.tags if any(key.startswith("on") for key in attributes)]


def test_a_comment_line_of_a_trajectory_cannot_end_the_script(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", structures=5, md_frames=2)
    path = folder / "md" / "nve-300K.extxyz"
    path.write_text(path.read_text().replace("time_fs=", "note=</script><script>alert(1)</script> time_fs="))
    page = report(folder)
    assert len(page.scripts) == 2
    assert "<" not in page.json["trajectory-0"]


def test_a_periodic_simulation_shows_cell_volume_pressure_and_g_of_r(
    write_columns: Callable[..., None], tmp_path: Path
) -> None:
    (tmp_path / "md").mkdir()
    rng = np.random.default_rng(3)
    frames = []
    for scale in (1.00, 1.01, 1.02):
        frame = bulk("Cu", cubic=True) * (2, 2, 2)
        frame.set_cell(frame.cell * scale, scale_atoms=True)
        frame.positions += 0.05 * rng.normal(size=frame.positions.shape)
        frames.append(frame)
    write(tmp_path / "md" / "npt.extxyz", frames)
    names = ("time_fs", "temperature_K", "potential_eV", "kinetic_eV", "total_eV", "volume_A3", "pressure_GPa")
    write_columns(tmp_path / "md" / "npt.csv", {name: np.linspace(1.0, 2.0, 20) for name in names})
    (tmp_path / "md" / "npt.json").write_text(json.dumps({"settings": {"ensemble": "npt", "pressure_GPa": 0.5}}))
    page = report(tmp_path)
    payload = json.loads(page.json["trajectory-0"])
    np.testing.assert_allclose(
        np.array(payload["cells"])[:, [0, 4, 8]], [[7.22 * s] * 3 for s in (1, 1.01, 1.02)], atol=1e-3
    )
    for words in ("Volume (Å³)", "Pressure (GPa)", "target 0.500 GPa", "g(r)", "Cu32"):
        assert words in page.text
    assert "drift" not in page.text  # the total energy of npt is not conserved
