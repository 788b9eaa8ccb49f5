"""The page of a run: its numbers, what it does with missing or hostile parts, and that it needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from geomol.errors import DataError, OutputError
from geomol.report import save_plots, write_report
from geomol.report.panels import training_panels

HOSTILE = "<script>alert(1)</script>\"'&$"


class Page(HTMLParser):
    """Collects tags with their attributes, the text outside scripts and styles, and the JSON scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.json: dict[str, str] = {}
        self.scripts: list[str] = []
        self._inside: tuple[str, str | None] | None = None
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = (tag, dict(attrs).get("id"))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is None:
            self.words.append(data)
        elif self._inside[0] == "script" and self._inside[1] is not None:
            self.json[self._inside[1]] = data
        elif self._inside[0] == "script":
            self.scripts.append(data)


def report(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


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
