"""`geomol md --replicas` and `geomol relax --optimiser fire` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from geomol.checkpoint import save_model
from geomol.cli import main
from geomol.md import read_table
from geomol.models.pair import Morse
from geomol.potential import Potential


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.safetensors"
    potential = Potential(Morse(elements=[29], cutoff=6.0), elements=[29], e0=[-1.5]).double()
    save_model(path, potential, provenance={"data": "none"}, errors={}, symmetry={})
    return str(path)


@pytest.fixture
def frames(cluster: Atoms, tmp_path: Path) -> str:
    path = tmp_path / "frames.xyz"
    ase.io.write(path, [cluster, cluster[:4], cluster[:5]])
    return str(path)


def test_replicas_are_simulated_with_a_temperature_each(model, frames, tmp_path, capsys):
    words = ["md", model, frames, "--steps", "6", "--interval", "3", "-o", str(tmp_path / "out"), "--name", "x"]
    assert main([*words, "--replicas", "3", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["num_replicas"] == 3
    assert len(read_table(tmp_path / "out/x.csv")["replica"]) == 9
    assert main([*words, "--temperatures", "100,900", "--overwrite", "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert [entry["target_K"] for entry in summary["replicas"]] == [100.0, 900.0]
    assert main([*words, "--temperatures", "100,900", "--resume"]) == 0
    assert main([*words, "--temperatures", "warm", "--overwrite"]) == 2
    assert "temperatures are written 300,350,400, got warm" in capsys.readouterr().err
    assert main([*words, "--temperatures", "1,2", "--replicas", "3", "--overwrite"]) == 2


def test_structures_relaxed_at_once_are_those_relaxed_one_by_one(model, frames, tmp_path, capsys):
    words = ["relax", model, frames, "--optimiser", "fire", "--fmax", "0.02"]
    energies = []
    for size in ("1", "8"):
        out = tmp_path / f"relaxed-{size}.xyz"
        assert main([*words, "--batch-size", size, "-o", str(out), "--json", "-"]) == 0
        entries = json.loads(capsys.readouterr().out)["structures"]
        assert all(entry["converged"] for entry in entries)
        energies.append([entry["energy_eV"] for entry in entries])
        assert [atoms.get_potential_energy() for atoms in ase.io.read(out, ":")] == pytest.approx(energies[-1])
    assert np.allclose(*energies, rtol=0, atol=1e-9)
    assert main([*words, "--steps", "1", "--fmax", "1e-9", "-o", str(tmp_path / "out.xyz")]) == 1
