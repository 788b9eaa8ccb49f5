"""`geomol sample` from end to end with an untrained model: files, figures, resume, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from generate.tiny_denoiser import tiny_denoiser

from geomol.checkpoint import save_model
from geomol.cli import main
from geomol.generate.driver import sample
from geomol.generate.read import read_molecules
from geomol.generate.request import make_requests
from geomol.generate.sampling import SampleSettings
from geomol.models import EGNN
from geomol.potential import Potential

QUICK = ["--steps", "4", "--batch-size", "3"]


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    made = tiny_denoiser(dtype=torch.float32, conditions={"gap": (6.0, 2.0)})
    save_model(path, made, provenance={"data": "none"}, errors={}, symmetry={})
    return str(path)


@pytest.fixture
def copier(tmp_path: Path) -> str:
    """Gives back what it is shown: a network that says nothing, and elements as continuous features."""
    made = tiny_denoiser(dtype=torch.float32, bond_channels=0, types="gaussian")
    with torch.no_grad():
        for parameter in made.backbone.parameters():
            parameter.zero_()
    save_model(tmp_path / "copier.safetensors", made, provenance={}, errors={}, symmetry={})
    return str(tmp_path / "copier.safetensors")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "mols.sdf"


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["sample", *words]) == 2
    text = capsys.readouterr().err.strip()
    assert "Traceback" not in text
    return text


def test_an_sdf_holds_the_molecules_of_the_library_with_bonds_and_tags(maker, out, capsys) -> None:
    assert main(["sample", maker, "-n", "5", "-o", str(out), "--seed", "7", *QUICK, "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)
    made = tiny_denoiser(dtype=torch.float32, conditions={"gap": (6.0, 2.0)})
    expected = sample(made, make_requests(5, seed=7, sizes=made.sizes), SampleSettings(steps=4, batch_size=3))
    back = read_molecules(out)
    assert len(back) == 5
    for i, one in enumerate(expected):
        assert np.array_equal(back.numbers(i), one.numbers)
        assert np.allclose(back.pos(i), one.pos, atol=2e-3)
        assert back.properties[i]["seed"] == str(one.request.seed)
        assert len(back.properties[i]["model_sha256"]) == 16
    assert figures["molecules"] == 5
    assert figures["evaluations"] == 7
    assert set(figures["scores"]) == {"edm", "graph"}
    assert 0 <= figures["scores"]["edm"]["atom_stability"] <= 1
    assert not out.with_name("mols.sdf.partial").exists()


def test_formula_and_size_and_target_are_followed(maker, tmp_path, capsys) -> None:
    formula, sized = tmp_path / "isomers.extxyz", tmp_path / "sized.xyz"
    assert main(["sample", maker, "-n", "3", "-o", str(formula), "--formula", "C2H6O", *QUICK]) == 0
    assert [str(a.symbols) for a in ase.io.read(formula, ":")] == ["C2OH6"] * 3
    words = ["--n-atoms", "5-7", "--target", "gap=7.5", "--guidance", "2", "--sampler", "multistep"]
    assert main(["sample", maker, "-n", "3", "-o", str(sized), *words, *QUICK]) == 0
    assert {len(a) for a in ase.io.read(sized, ":", format="extxyz")} <= {5, 7}
    capsys.readouterr()


def test_scaffolds_and_leads_come_from_files(maker, tmp_path, capsys) -> None:
    given = tmp_path / "given.xyz"
    ase.io.write(given, [molecule("H2O"), molecule("CH3OH")])
    grown, near = tmp_path / "grown.extxyz", tmp_path / "near.extxyz"
    words = ["--scaffold", str(given), "--index", "1", "--grow", "2,3", "--n-atoms", "7"]
    assert main(["sample", maker, "-n", "2", "-o", str(grown), *words, *QUICK]) == 0
    kept = molecule("CH3OH")[[0, 1, 4, 5]]
    for atoms in ase.io.read(grown, ":"):
        assert np.array_equal(atoms.numbers[:4], kept.numbers)
        assert np.allclose(atoms.positions[:4], kept.positions, atol=1e-7)
    words = ["--like", str(given), "--index", "1", "--noise", "0.006"]
    assert main(["sample", maker, "-n", "2", "-o", str(near), *words, *QUICK]) == 0
    lead = molecule("CH3OH").positions
    for atoms in ase.io.read(near, ":"):
        assert np.abs(atoms.positions - (lead - lead.mean(0))).max() < 0.1
    capsys.readouterr()


def test_relaxed_molecules_stand_beside_those_they_came_from(copier, tmp_path, capsys) -> None:
    given, out = tmp_path / "given.xyz", tmp_path / "near.sdf"
    ase.io.write(given, molecule("CH3OH"))
    words = ["--like", str(given), "--noise", "0.006", "--relax", "mmff", "--json", "-"]
    assert main(["sample", copier, "-n", "2", "-o", str(out), *words, *QUICK]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert "relaxation" in figures
    assert figures["scores"]["edm"]["molecule_stability"] == 1.0
    raw, relaxed = read_molecules(tmp_path / "near-raw.sdf"), read_molecules(out)
    assert len(raw) == len(relaxed) == 2
    for i in range(2):
        assert np.array_equal(raw.numbers(i), relaxed.numbers(i))
        assert "strain_kcal_per_mol" in relaxed.properties[i]
        assert 1e-4 < np.abs(raw.pos(i) - relaxed.pos(i)).max() < 3.0


def test_a_gallery_is_written_with_trajectories(maker, out, capsys) -> None:
    page = out.with_suffix(".html")
    assert main(["sample", maker, "-n", "3", "-o", str(out), "--html", str(page), "--trajectories", "1", *QUICK]) == 0
    assert page.stat().st_size > 10_000
    capsys.readouterr()


def test_an_interrupted_command_goes_on_and_another_is_kept_out(maker, out, capsys, monkeypatch) -> None:
    import geomol.cli.sample_molecules as command

    whole = out.with_name("whole.sdf")
    words = ["-n", "6", "--seed", "1", *QUICK]
    assert main(["sample", maker, "-o", str(whole), *words]) == 0

    def broken(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "to_molecules", broken)
        assert main(["sample", maker, "-o", str(out), *words]) != 0
    assert not out.exists()
    capsys.readouterr()
    text = error_of(capsys, maker, "-o", str(out), "-n", "6", "--seed", "2", *QUICK)
    assert "another request are kept here" in text
    assert "another request" in error_of(capsys, maker, "-o", str(out), *words, "--dtype", "float64")
    with monkeypatch.context() as patch:  # nothing is made anew
        patch.setattr("geomol.generate.driver.sample_batch", broken)
        assert main(["sample", maker, "-o", str(out), *words]) == 0
    assert out.read_text() == whole.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "mols.pdb"], "not written to such files"),
        (["--sampler", "huen"], "did you mean"),
        (["--formula", "water"], "not a chemical formula"),
        (["--formula", "AuCl"], "does not make this element"),
        (["--n-atoms", "many"], "not a number of atoms"),
        (["--target", "homo=1"], 'not trained on "homo"'),
        (["--target", "gap=high"], "a target is a finite number"),
        (["--guidance", "2"], "--guidance weighs targets, and none is given"),
        (["--formula", "CH4", "--n-atoms", "5"], "--n-atoms does not go with"),
        (["--formula", "CH4", "--like", "x.xyz"], "exclude each other"),
        (["--scaffold", "absent.sdf"], "absent.sdf"),
        (["--scaffold", "absent.sdf", "--grow", "a"], "absent.sdf|takes numbers of atoms"),
        (["--churn", "2", "--sampler", "ddim"], "churn"),
        (["--relax", "absent-model"], "absent-model"),
    ],
)
def test_errors_are_one_line(words: list[str], message: str, maker, tmp_path, capsys, monkeypatch) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    options = ["-n", "2", *QUICK, *words]
    assert main(["sample", maker, *options]) != 0
    text = capsys.readouterr().err.strip()
    assert re.search(message, text), text
    assert "\n" not in text
    assert not list(tmp_path.glob("*.sdf")), "no half-written molecules"
    # and the next, right command is not barred by what this one left
    assert main(["sample", maker, "-n", "1", *QUICK]) == 0
    capsys.readouterr()


def test_a_potential_makes_no_molecules(tmp_path, capsys) -> None:
    potential = Potential(EGNN(elements=[1], channels=4, num_layers=1, cutoff=3.0), elements=[1], e0=[0.0])
    path = tmp_path / "model.safetensors"
    save_model(path, potential, provenance={}, errors={}, symmetry={})
    assert "makes no molecules, expected Denoiser, got Potential" in error_of(capsys, str(path), "-n", "1")
