"""Inference packages: what is in them, what is refused, and that they compute what the model does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write

from geomol.checkpoint import save_model
from geomol.checkpoint.manifest import seal
from geomol.checks import disordered_molecules
from geomol.cli import main
from geomol.compiled import PackagedPotential, export_package, read_package_manifest
from geomol.errors import CheckpointError, ConfigError, ModelDomainError
from geomol.graph import build_graph
from geomol.md import GeomolCalculator
from geomol.models import EGNN
from geomol.potential import Potential

ELEMENTS = [1, 6, 7, 8]


def potential(dtype: torch.dtype = torch.float32) -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = EGNN(elements=ELEMENTS, channels=4, num_layers=1, num_radial=2, cutoff=4.0)
    return Potential(backbone, elements=ELEMENTS, e0=[-13.5, -1029.0, -1400.0, -2042.0], scale=0.7).to(dtype)


def forged(path: Path, **changes: object) -> Path:
    """A file with the manifest of a package and nothing else in it."""
    manifest = {
        "format": "geomol.package",
        "format_version": 1,
        "torch": torch.__version__,
        "machine": os.uname().machine,
    }
    record = {"geomol": seal({**manifest, **changes}, str(path))}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/aotinductor/model/x_metadata.json", json.dumps(record))
    return path


def test_the_manifest_is_read_without_running_anything(tmp_path: Path) -> None:
    assert read_package_manifest(forged(tmp_path / "a.pt2", cutoff=4.0))["cutoff"] == 4.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"torch": "1.0"}, f"compiled for another torch, expected {torch.__version__.split('+')[0]}"),
        ({"machine": "abacus"}, "compiled for another machine"),
        ({"format": "else"}, "not a package of geomol"),
        ({"format_version": 99}, "written in a newer format"),
    ],
)
def test_packages_for_others_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        PackagedPotential(forged(tmp_path / "a.pt2", **changes))


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = forged(tmp_path / "a.pt2")
    data = path.read_bytes()
    (tmp_path / "cut.pt2").write_bytes(data[: len(data) // 2])
    flipped = bytearray(data)
    flipped[90] ^= 1
    (tmp_path / "flipped.pt2").write_bytes(flipped)
    with zipfile.ZipFile(tmp_path / "foreign.pt2", "w") as archive:
        archive.writestr("model/x_metadata.json", "{}")
    for name, message in (("cut", "damaged or no package"), ("flipped", "damaged"), ("foreign", "not a package")):
        with pytest.raises(CheckpointError, match=message):
            read_package_manifest(tmp_path / f"{name}.pt2")


def test_another_ending_is_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a package is a .pt2 file, got model.safetensors; name it model.pt2"):
        export_package(potential(), tmp_path / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_package_gives_the_forces_of_the_model(tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    model = potential(dtype)
    path = tmp_path / "model.pt2"
    manifest = export_package(model, path)
    assert manifest["cutoff"] == 4.0
    assert manifest["units"] == {"energy": "eV", "length": "Å", "forces": "eV/Å", "stress": "eV/Å^3"}
    packaged, plain = GeomolCalculator.from_package(path), GeomolCalculator(model)
    assert packaged.elements == ELEMENTS
    crystal = bulk("C", "diamond", 3.6, cubic=True)
    crystal.rattle(0.1, seed=0)
    for atoms in [*disordered_molecules(5), crystal, Atoms("H"), Atoms("OH", [[0, 0, 0], [0, 0, 9.0]])]:
        expected, got = plain.get_forces(atoms), packaged.get_forces(atoms)
        assert np.abs(got - expected).max() <= tolerance * max(1.0, np.abs(expected).max())
        assert packaged.get_potential_energy(atoms) == pytest.approx(plain.get_potential_energy(atoms), rel=tolerance)
    np.testing.assert_allclose(packaged.get_stress(crystal), plain.get_stress(crystal), rtol=0, atol=tolerance)
    with pytest.raises(ModelDomainError, match="does not know this element"):
        packaged.get_forces(bulk("Cu"))
    with pytest.raises(ModelDomainError, match="one structure at a time"):
        packaged.models[0](build_graph(disordered_molecules(2), 4.0))


READ = """
import sys, torch
run = torch._inductor.aoti_load_package(sys.argv[1])
pos = torch.tensor([[0.0, 0, 0], [0, 0, 1]], dtype=torch.float64)
edges = torch.tensor([[1, 0], [0, 1]])
shift, cell = torch.zeros(2, 3, dtype=torch.int64), torch.eye(3, dtype=torch.float64)[None]
out = run(pos, torch.tensor([8, 1]), edges, shift, cell)
assert not any(name.split(".")[0] == "geomol" for name in sys.modules)
print(float(out[0]))
"""


@pytest.mark.slow
def test_the_command_makes_a_package_that_runs_without_geomol_and_in_other_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = potential()
    source, package = tmp_path / "model.safetensors", tmp_path / "model.pt2"
    save_model(source, model, provenance={}, errors={"force_mae_eV_per_A": 0.01}, symmetry={})
    assert main(["export", str(source), "-o", str(package), "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["provenance"]["errors"] == {"force_mae_eV_per_A": 0.01}
    done = subprocess.run(
        [sys.executable, "-I", "-c", READ, str(package)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = float(model(build_graph(Atoms("OH", [[0, 0, 0], [0, 0, 1]]), 4.0)).energy)
    assert float(done.stdout) == pytest.approx(expected, rel=1e-7)
    assert [file.name for file in tmp_path.glob(".model*")] == []
    atoms, found = tmp_path / "start.xyz", {}
    write(atoms, Atoms("OCH2", [[0, 0, 0], [0, 0, 1.2], [0, 0.9, 1.8], [0, -0.9, 1.8]]))
    for name in (source, package):
        words = [
            str(atoms),
            "--steps",
            "5",
            "--out",
            str(tmp_path / name.suffix[1:]),
            "--json",
            str(tmp_path / "md.json"),
        ]
        assert main(["md", str(name), *words]) == 0
        found[name] = json.loads((tmp_path / "md.json").read_text())["total_eV_mean"]
    assert found[package] == pytest.approx(found[source], abs=1e-4)
    assert (
        main(
            [
                "relax",
                str(package),
                str(atoms),
                "--steps",
                "1",
                "--fmax",
                "1e-9",
                "--out",
                str(tmp_path / "relaxed.xyz"),
            ]
        )
        == 1
    )
    for words, message in (
        (["--compile"], "compiled already"),
        (["--dtype", "float64"], "pass --dtype float32"),
        (["--device", "cuda"], "pass --device cpu"),
        (["--replicas", "2"], "one structure at a time"),
    ):
        capsys.readouterr()
        assert main(["md", str(package), str(atoms), "--out", str(tmp_path / "no"), *words]) == 2
        assert message in capsys.readouterr().err
