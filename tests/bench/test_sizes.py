"""Growing structures are the same crystal, and their figures say what was done."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.io import write

from geomol.bench.sizes import measure_size, repeated
from geomol.checkpoint import save_model
from geomol.cli import main
from geomol.errors import ConfigError, ModelDomainError
from geomol.models import EGNN, Morse
from geomol.potential import Potential
from geomol.report.cost_plots import size_figure


@pytest.fixture(scope="module")
def potential() -> Potential:
    return Potential(Morse(depth=0.3, a=1.4, r0=2.6, cutoff=4.0), elements=[29], e0=[0.0])


def test_a_crystal_is_repeated_evenly() -> None:
    cell = bulk("Cu", cubic=True)
    grown = repeated(cell, 500)
    assert 0.9 * 500 <= len(grown) <= 1.5 * 500
    lengths = grown.cell.lengths()
    assert lengths.max() - lengths.min() < 1.01 * cell.cell.lengths().max()
    assert grown.get_volume() / len(grown) == pytest.approx(cell.get_volume() / 4)
    with pytest.raises(ConfigError, match="crystal"):
        repeated(molecule("H2O"), 10)


def test_a_point_counts_pairs_and_memory(potential: Potential) -> None:
    atoms = repeated(bulk("Cu", cubic=True), 108)
    point = measure_size(potential, atoms.copy(), rounds=2)
    near = atoms.get_all_distances(mic=True)
    np.fill_diagonal(near, np.inf)
    assert point.num_atoms == len(atoms)
    assert abs(point.num_pairs - int((near < 4.0).sum())) <= 0.05 * point.num_pairs  # atoms move between calls
    assert 0 <= point.peak_bytes < 1e9
    assert measure_size(potential, atoms.copy(), rounds=1, base_bytes=0.0).peak_bytes > 1e7
    assert point.us_per_atom == pytest.approx(1e6 * point.step_s / len(atoms))
    complete = Potential(
        EGNN(elements=[29], channels=8, num_layers=1, cutoff=float("inf"), envelope=False, num_radial=0),
        elements=[29],
        e0=[0.0],
    )
    with pytest.raises(ModelDomainError, match="cutoff"):
        measure_size(complete, atoms)


def test_the_command_writes_figures_and_a_picture(
    potential: Potential, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    small = EGNN(elements=[29], channels=8, num_layers=1, cutoff=4.0)
    model = tmp_path / "model.safetensors"
    save_model(model, Potential(small, elements=[29], e0=[0.0]), provenance={}, errors={}, symmetry={})
    write(tmp_path / "cu.extxyz", bulk("Cu", cubic=True))
    words = ["bench", "sizes", str(model), str(tmp_path / "cu.extxyz"), "--atoms", "64,128", "--rounds", "1"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 0
    assert "cost of an atom" in capsys.readouterr().out
    points = json.loads((tmp_path / "out" / "sizes.json").read_text())["points"]
    assert [point["num_atoms"] for point in points] == sorted(point["num_atoms"] for point in points)
    assert (tmp_path / "out" / "sizes.png").stat().st_size > 5000
    assert main([*words[:5], "--atoms", "many"]) != 0


def test_pictures_need_no_memory_figures() -> None:
    time_axes, memory_axes = size_figure([100, 200], [1e-2, 2e-2], [float("nan")] * 2).axes
    assert time_axes.lines[0].get_ydata().tolist() == pytest.approx([100.0, 100.0])
    assert "kB" in memory_axes.get_ylabel()
