"""The commands on a small untrained model: they compute what the functions behind them compute, and say it twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from geomol.checkpoint import load_model, save_model
from geomol.cli import main
from geomol.data import load_structures, write_extxyz
from geomol.md import GeomolCalculator
from geomol.models import EGNN
from geomol.potential import Potential


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A potential for H, C, O in float64, in a file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = EGNN(elements=[1, 6, 8], channels=8, num_layers=1, cutoff=3.0, num_radial=4)
    potential = Potential(backbone, elements=[1, 6, 8], e0=[-1.0, -2.0, -3.0], scale=0.1).double()
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, potential, provenance={"data": "none"}, errors={"force_mae_eV_per_A": 0.5}, symmetry={})
    return str(path)


@pytest.fixture
def start(tmp_path: Path) -> str:
    """Three distorted molecules without labels."""
    frames = [molecule(name) for name in ("CH3CH2OH", "H2O", "CH4")]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    path = tmp_path / "start.xyz"
    ase.io.write(path, frames)
    return str(path)


def energies(model: str, frames: list[Atoms]) -> list[float]:
    """The witness: one structure at a time through the ASE calculator."""
    calculator = GeomolCalculator(model)
    out = []
    for atoms in frames:
        atoms.calc = calculator
        out.append(atoms.get_potential_energy())
    return out


def test_predict_writes_what_the_ase_calculator_gives(model, start, tmp_path, capsys):
    out = tmp_path / "out.xyz"
    assert main(["predict", model, start, "-o", str(out), "--batch-size", "2", "--json", "-"]) == 0
    frames = ase.io.read(out, ":")
    expected = energies(model, ase.io.read(start, ":"))
    assert [frame.get_potential_energy() for frame in frames] == pytest.approx(expected, rel=1e-9)
    assert json.loads(capsys.readouterr().out)["energy_eV"] == pytest.approx(expected, rel=1e-12)


def test_eval_measures_a_known_shift_of_the_labels(model, start, tmp_path, capsys):
    """Labels are the model's own predictions, once as they are and once with the energy shifted by 0.25 eV."""
    labels = tmp_path / "labels.xyz"
    assert main(["predict", model, start, "-o", str(labels)]) == 0
    shifted = load_structures(labels)
    write_extxyz(tmp_path / "shifted.xyz", replace(shifted, energy=shifted.energy + 0.25))
    found = []
    for name in ("labels", "shifted"):
        capsys.readouterr()
        assert main(["eval", model, str(tmp_path / f"{name}.xyz"), "--json", "-"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["energy_mae_eV"] == pytest.approx(0.0, abs=1e-8)
    assert found[0]["force_mae_eV_per_A"] == pytest.approx(0.0, abs=1e-8)
    assert found[1]["energy_mae_eV"] == pytest.approx(0.25, rel=1e-6)
    assert found[1]["energy_rmse_eV"] == pytest.approx(0.25, rel=1e-6)
    assert set(found[1]["force_mae_eV_per_A_by_element"]) == {"H", "C", "O"}


def test_train_ends_with_a_model_and_a_second_call_has_nothing_left_to_do(model, tmp_path, capsys):
    structures, labels, config = tmp_path / "ch4.xyz", tmp_path / "labels.xyz", tmp_path / "config.toml"
    frames = [molecule("CH4") for _ in range(3)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    ase.io.write(structures, frames)
    assert main(["predict", model, str(structures), "-o", str(labels)]) == 0
    config.write_text(
        f"""
        name = "small"
        data = {{ source = "{labels}", split = "random", num_train = 1, num_valid = 1, num_test = 1 }}
        model = {{ name = "egnn", channels = 4, num_layers = 1, cutoff = 3.0 }}
        schedule = {{ epochs = 3 }}
        run = {{ folder = "{tmp_path}", tensorboard = false, batch_size = 1, threads = 1 }}
        """
    )
    capsys.readouterr()
    weights = []
    for _ in range(2):
        assert main(["train", str(config), "run.seed=3", "--json", "-"]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert figures["finished"] is True
        assert figures["steps"] == 3
        weights.append((tmp_path / "small" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert list((tmp_path / "small" / "plots").glob("*.png"))
    assert main(["eval", str(tmp_path / "small"), str(labels)]) == 0
    assert (tmp_path / "small" / "eval" / "labels.json").is_file(), "results about a run belong into its folder"


def test_a_misspelt_training_setting_is_named_with_the_nearest(tmp_path, capsys):
    config = tmp_path / "config.toml"
    config.write_text('name = "x"\ndata = { source = "x" }\nmodel = { name = "egnn" }\nschedule = { epochs = 1 }\n')
    assert main(["train", str(config), "optimiser.learning_rat=1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'did you mean "learning_rate"?' in line
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_eval_writes_arrays_and_parity_plots_where_it_is_told(model, start, tmp_path):
    labels, out = tmp_path / "labels.xyz", tmp_path / "out"
    assert main(["predict", model, start, "-o", str(labels)]) == 0
    assert main(["eval", model, str(labels), "--out", str(out)]) == 0
    assert {path.name for path in (out / "eval").iterdir()} == {"labels.json", "labels.npz"}
    assert any("parity" in path.name or "force" in path.name for path in (out / "plots").glob("*.png"))


def test_md_writes_its_files_and_refuses_to_write_over_them(model, start, tmp_path, capsys):
    words = ["md", model, start, "--ensemble", "nvt", "--steps", "20", "--interval", "5", "--out", str(tmp_path / "md")]
    assert main([*words, "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["settings"]["ensemble"] == "nvt-langevin"
    assert summary["num_atoms"] == 9
    assert summary["ns_per_day"] > 0
    assert len(ase.io.read(tmp_path / "md" / "nvt.extxyz", ":")) == 5
    before = (tmp_path / "md" / "nvt.extxyz").read_bytes()
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") >= 1
    assert (tmp_path / "md" / "nvt.extxyz").read_bytes() == before
    assert main([*words, "--overwrite"]) == 0


def test_md_takes_any_setting_as_key_value_and_names_a_misspelt_one(model, start, tmp_path, capsys):
    words = ["md", model, start, "--steps", "4", "--out", str(tmp_path)]
    assert main([*words, "friction_per_ps=2.5", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["friction_per_ps"] == 2.5
    assert main([*words, "frictoin_per_ps=2.5"]) == 2
    assert "friction_per_ps" in capsys.readouterr().err
    assert main([*words, "friction_per_ps"]) == 2
    assert "key=value" in capsys.readouterr().err


def test_relax_lowers_the_energy_and_ends_with_1_when_steps_run_out(model, start, tmp_path, capsys):
    out = tmp_path / "relaxed.xyz"
    assert main(["relax", model, start, "-o", str(out), "--steps", "3", "--fmax", "1e-9", "--json", "-"]) == 1
    figures = json.loads(capsys.readouterr().out)["structures"]
    assert [entry["converged"] for entry in figures] == [False] * 3
    before = energies(model, ase.io.read(start, ":"))
    assert all(entry["energy_eV"] < energy for entry, energy in zip(figures, before, strict=True))
    written = [frame.get_potential_energy() for frame in ase.io.read(out, ":")]
    assert written == pytest.approx([entry["energy_eV"] for entry in figures])
    assert main(["relax", model, start, "-o", str(out), "--fmax", "10"]) == 0


def test_relaxing_the_cell_of_a_molecule_is_refused(model, start, tmp_path, capsys):
    assert main(["relax", model, start, "--cell", "-o", str(tmp_path / "out.xyz")]) == 2
    assert "cell" in capsys.readouterr().err
    assert not (tmp_path / "out.xyz").exists()


def test_an_element_the_model_never_saw_is_named_and_nothing_is_written(model, tmp_path, capsys):
    path, out = tmp_path / "hcl.xyz", tmp_path / "out.xyz"
    ase.io.write(path, molecule("HCl"))
    for words in (["predict", model, str(path), "-o", str(out)], ["md", model, str(path), "--out", str(out)]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "Cl" in line or "[17]" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no structures"),
        ("2\n\nH 0 0 0\n", "frame 0"),
        ("1\n\nQq 0 0 0\n", "Qq"),
        ("1\n\nH 0 0 nan\n", "nan"),
        ("999999999999\n\nH 0 0 0\n", "frame 0"),
    ],
)
def test_a_bad_file_is_one_line_from_every_command_that_reads_one(model, tmp_path, capsys, text, fault):
    path = tmp_path / "bad.xyz"
    path.write_text(text)
    commands = [
        ["predict", model, str(path), "-o", str(tmp_path / "out.xyz")],
        ["eval", model, str(path)],
        ["md", model, str(path), "--out", str(tmp_path / "md")],
        ["relax", model, str(path), "-o", str(tmp_path / "out.xyz")],
        ["data", "info", str(path)],
        ["data", "convert", str(path), str(tmp_path / "out.xyz")],
    ]
    for words in commands:
        assert main(words) == 2, words
        (line,) = capsys.readouterr().err.splitlines()
        assert "bad.xyz" in line
        assert fault in line
    assert [p.name for p in tmp_path.iterdir()] == ["bad.xyz"]


def test_info_says_what_the_manifest_says(model, capsys):
    assert main(["info", model]) == 0
    text = capsys.readouterr().out
    assert "H C O" in text
    assert ["force", "mae", "500", "meV/Å"] in [line.split() for line in text.splitlines()]
    assert main(["info", model, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["elements"] == [1, 6, 8]


def test_a_device_that_does_not_exist_is_refused(model, start, tmp_path, capsys):
    assert main(["predict", model, start, "-o", str(tmp_path / "out.xyz"), "--device", "cuda:99"]) == 2
    assert "cuda:99" in capsys.readouterr().err


def test_a_structure_beyond_the_end_is_refused(model, start, tmp_path, capsys):
    assert main(["md", model, start, "--index", "3", "--out", str(tmp_path / "md")]) == 2
    assert "0 to 2" in capsys.readouterr().err


def test_dtype_casts_the_weights(model, start, tmp_path, capsys):
    found = []
    for dtype in ("float64", "float32"):
        assert main(["predict", model, start, "-o", str(tmp_path / "o.xyz"), "--dtype", dtype, "--json", "-"]) == 0
        found.append(np.array(json.loads(capsys.readouterr().out)["energy_eV"]))
    assert 0 < np.abs(found[0] - found[1]).max() < 1e-4
    assert load_model(model).dtype == torch.float64


def test_data_list_names_every_set_once(capsys):
    assert main(["data", "list", "--json", "-"]) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)["datasets"]]
    assert len(names) == len(set(names))
    assert "rmd17/aspirin" in names


def test_data_convert_turns_kcal_per_mol_into_electronvolts(start, tmp_path):
    labelled = load_structures(start)
    source, out = tmp_path / "kcal.xyz", tmp_path / "out.xyz"
    write_extxyz(source, replace(labelled, energy=np.array([23.060548, 0.0, -46.121096])))
    assert main(["data", "convert", str(source), str(out), "--units", "kcal/mol"]) == 0
    assert load_structures(out).energy == pytest.approx([1.0, 0.0, -2.0], rel=1e-6)


def test_data_convert_refuses_an_output_it_cannot_write(start, tmp_path, capsys):
    assert main(["data", "convert", start, str(tmp_path / "out.json")]) == 2
    assert ".xyz or .extxyz" in capsys.readouterr().err
    assert main(["data", "convert", start, str(tmp_path / "no-such-folder" / "out.xyz")]) == 74
    assert "no-such-folder" in capsys.readouterr().err


def test_a_data_set_nobody_knows_is_named_with_the_nearest(capsys):
    assert main(["data", "info", "rmd17/asprin"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rmd17/aspirin" in line
