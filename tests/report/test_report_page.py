"""The page of a run: its numbers, that it needs no network and is the same each time, and where it goes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from report.run_page import Page, report

from geomol.errors import DataError, OutputError
from geomol.report import save_plots, write_report


@pytest.fixture(scope="module")
def run(make_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "ethanol-demo")


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return report(run)


def test_the_tiles_show_the_errors_that_the_arrays_give(run: Path, page: Page) -> None:
    with np.load(run / "eval" / "test_1.npz") as arrays:
        force = 1e3 * np.mean(np.abs(arrays["forces_pred"] - arrays["forces_ref"]))
        energy = 1e3 * np.mean(np.abs(arrays["energy_pred"] - arrays["energy_ref"]))
    assert f"Test force MAE {force:#.3g} meV/Å" in page.text
    assert f"Test energy MAE {energy:#.3g} meV {energy / 9:#.3g} meV/atom" in page.text


def test_parameters_time_and_drift_are_those_of_the_files(page: Page) -> None:
    assert "Parameters 123,456 ponita" in page.text
    assert "Training time 12 min 34 s 6,000 steps" in page.text
    drift = float(re.search(r"NVE energy drift (\S+) meV/atom/ns", page.text).group(1))  # type: ignore[union-attr]
    assert drift == pytest.approx(0.5, abs=0.05)  # the slope the synthetic table was made with


def test_the_element_table_gives_the_errors_of_each_element(run: Path, page: Page) -> None:
    with np.load(run / "eval" / "test_1.npz") as arrays:
        for number, symbol in ((1, "H"), (6, "C"), (8, "O")):
            mask = arrays["numbers"] == number
            deviation = 1e3 * (arrays["forces_pred"][mask] - arrays["forces_ref"][mask])
            mae, rmse = np.abs(deviation).mean(), np.sqrt((deviation**2).mean())
            assert f"{symbol} {mask.sum():,} {mae:#.3g} {rmse:#.3g} " in page.text


def test_every_setting_is_in_the_configuration_table(page: Page) -> None:
    for expected in ("data.source rmd17/ethanol", "data.train 950", "model.name ponita", "model.channels 64", "seed 7"):
        assert expected in page.text


def test_sections_that_the_task_does_not_read_are_left_out(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", structures=5, md_frames=3)
    sections = {"loss": {"energy": 0.02}, "labels": {"pooling": "max"}, "schedule": {"minutes": 3}}
    for task, shown in {"potential": "loss.energy 0.02", "labels": "labels.pooling max", "forecast": ""}.items():
        (folder / "config.json").write_text(json.dumps({"task": task, **sections}))
        text = report(folder).text
        assert "schedule.minutes 3" in text
        assert shown in text
        assert ("loss.energy" in text, "labels.pooling" in text) == (task == "potential", task == "labels")


def test_figures_that_contradict_their_arrays_are_pointed_out(
    make_run: Callable[..., Path], run: Path, page: Page, tmp_path: Path
) -> None:
    assert "states other values" not in page.text
    folder = make_run(tmp_path / "run", structures=5, md_frames=3)
    path = folder / "eval" / "test_1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "force_mae_eV_per_A": 0.001}))
    assert "eval/test_1.json states other values than its arrays give: force_mae_eV_per_A." in report(folder).text


def test_nothing_is_loaded_from_anywhere(run: Path, page: Page) -> None:
    allowed = {"meta", "a"}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"):
            value = attributes.get(name)
            if value is not None:
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
        assert tag not in ("link", "iframe", "object", "embed", "base", "form") or tag in allowed
    html = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//", html, re.IGNORECASE)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_the_policy_admits_only_the_scripts_of_the_page(page: Page) -> None:
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    found = re.search(r"script-src ([^;]*);", policy)
    assert found is not None
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in page.scripts}
    assert len(hashes) == 2
    assert set(found.group(1).split()) == hashes


def test_the_page_is_smaller_than_eight_megabytes(run: Path) -> None:
    assert 0.5e6 < (run / "report.html").stat().st_size < 8e6


def test_equal_folders_give_equal_pages(make_run: Callable[..., Path], tmp_path: Path) -> None:
    first = write_report(make_run(tmp_path / "a" / "run", structures=5, md_frames=3)).read_bytes()
    second = write_report(make_run(tmp_path / "b" / "run", structures=5, md_frames=3)).read_bytes()
    other = write_report(make_run(tmp_path / "c" / "run", structures=5, md_frames=3, seed=8)).read_bytes()
    assert first == second
    assert first != other


def test_ids_are_unique_and_every_reference_has_its_target(page: Page) -> None:
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    references = [
        a[name] for _, a in page.tags for name in ("href", "xlink:href") if (a.get(name) or "").startswith("#")
    ]
    assert len(references) > 20
    assert {str(reference)[1:] for reference in references} <= set(ids)


def test_the_viewer_gets_the_frames_of_the_trajectory(run: Path, page: Page) -> None:
    payload = json.loads(page.json["trajectory-0"])
    frames = read(run / "md" / "nve-300K.extxyz", ":")
    assert payload["symbols"] == frames[0].get_chemical_symbols()
    assert payload["index"] == list(range(len(frames)))
    shown = payload["scale"] * np.array(payload["frames"], dtype=np.float64).reshape(len(frames), -1, 3)
    for positions, frame in zip(shown, frames, strict=True):
        expected = frame.positions - frame.positions.mean(axis=0)
        np.testing.assert_allclose(positions, expected, atol=0.51e-3)
    assert payload["time_fs"] == [frame.info["time_fs"] for frame in frames]


def test_a_missing_run_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such run folder.*geomol train"):
        write_report(tmp_path / "absent")


def test_a_page_that_cannot_be_written_is_an_output_error(run: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="the report could not be written"):
        write_report(run, blocked / "report.html")


def test_the_page_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    out = tmp_path / "other" / "page.html"
    assert write_report(folder, out) == out
    assert out.is_file()
    assert list(folder.iterdir()) == []


def test_plots_are_saved_under_the_names_of_their_panels(make_run: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", structures=5, md_frames=3)
    names = {path.name for path in save_plots(folder)}
    assert {"loss.png", "valid_force.png", "test_1_forces.png", "test_1_elements.png", "nve-300K_drift.png"} <= names
    for name in names:
        assert (folder / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_the_vendored_viewer_is_the_file_its_readme_names() -> None:
    vendor = files("geomol.report") / "vendor"
    content = (vendor / "3Dmol-min.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() in (vendor / "README.md").read_text(encoding="utf-8")
    assert b"</script" not in content.lower()
    assert b"<!--" not in content
    assert "University of Pittsburgh" in (vendor / "3Dmol-LICENSE.txt").read_text(encoding="utf-8")
