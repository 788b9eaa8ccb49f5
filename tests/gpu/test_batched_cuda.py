"""Neighbours, dynamics and relaxation of batches on a CUDA device give what they give on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from geomol.checks import disordered_crystals, disordered_molecules
from geomol.errors import InputError
from geomol.graph import Graph, build_graph, cells, neighbour_list
from geomol.graph.cells import cell_graph
from geomol.graph.dense_pairs import dense_graph
from geomol.md import GeomolCalculator, MDConfig, relax_batched, run_batched_md
from geomol.models import Morse
from geomol.potential import Potential

pytestmark = pytest.mark.gpu
FIELDS = ("edge_index", "edge_ptr", "cell_shift", "send_perm", "send_ptr", "batch")


def same(found: Graph, expected: Graph) -> None:
    for name in FIELDS:
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name)), name


@pytest.mark.parametrize("kernels", [True, False])
def test_tables_and_columns_find_the_pairs_of_the_cpu(kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "use_triton", lambda values: kernels)
    molecules, crystals = disordered_molecules(6, displacement=0.1), disordered_crystals(4)
    crystals.append(bulk("Cu", cubic=True) * 8)
    crystals[-1].rattle(0.05, seed=0)
    expected = build_graph(molecules, 4.0)
    same(dense_graph(expected.pos.cuda(), expected.numbers.cuda(), expected.ptr.cuda(), 4.0), expected)
    for frames in (molecules, crystals, [*molecules, *crystals]):
        expected = build_graph(frames, 4.0)
        given = (expected.pos, expected.numbers, expected.ptr, expected.cell, expected.pbc)
        same(cell_graph(*(value.cuda() for value in given), 4.0), expected)


@pytest.mark.filterwarnings("ignore:.*closer than")
def test_lists_searched_on_the_device_are_those_of_the_cpu() -> None:
    crystal = bulk("Cu", cubic=True) * 10
    crystal.rattle(0.05, seed=3)
    crystal.positions += 100.0
    for _ in range(2):
        arrays = crystal.positions, crystal.cell.array, crystal.pbc
        found = neighbour_list(*arrays, 5.0, device="cuda")
        for got, expected in zip(found, neighbour_list(*arrays, 5.0), strict=True):
            assert np.array_equal(got, expected)
        crystal.positions[7] = crystal.positions[2000] + [0.0, 0.3, 0.0]
    crystal.positions[7] = crystal.positions[2000]
    with pytest.raises(InputError, match="atoms 7 and 2000 coincide"):
        neighbour_list(crystal.positions, crystal.cell.array, crystal.pbc, 5.0, device="cuda")


def copper() -> list[Atoms]:
    crystal = bulk("Cu", cubic=True) * 2
    crystal.rattle(0.05, seed=1)
    cluster = crystal[:9]
    cluster.pbc = False
    return [crystal, cluster]


def calculator(device: str) -> GeomolCalculator:
    potential = Potential(Morse(elements=[29], cutoff=5.0), elements=[29], e0=[-1.5]).double()
    return GeomolCalculator(potential, device=device, skin=0.4)


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin"])
def test_a_trajectory_on_the_device_is_that_of_the_cpu_and_repeats_bit_for_bit(tmp_path: Path, ensemble: str) -> None:
    config = MDConfig(ensemble=ensemble, steps=60, timestep_fs=3.0, interval=20, checkpoint_interval=25)
    runs = {
        name: run_batched_md(copper(), calculator(device), config, tmp_path / name, replicas=3)
        for name, device in (("cpu", "cpu"), ("one", "cuda"), ("two", "cuda"))
    }
    for a, b in zip(runs["cpu"].atoms, runs["one"].atoms, strict=True):
        assert np.abs(a.positions - b.positions).max() < 1e-8
    one, two = ([run.table, *run.trajectories] for run in (runs["one"], runs["two"]))
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_minima_on_the_device_are_those_of_the_cpu() -> None:
    frames = copper() * 3
    on_cpu, on_gpu = (relax_batched(frames, calculator(device), 0.02, batch_size=4) for device in ("cpu", "cuda"))
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert (a.steps, a.converged) == (b.steps, b.converged)
        assert a.energy == pytest.approx(b.energy, abs=1e-8)
