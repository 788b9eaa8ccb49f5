"""The search by columns finds the same pairs as trying every image, whatever the cells look like."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from geomol.errors import CapacityError, ConfigError, GeomolWarning, InputError
from geomol.graph import brute_force_neighbour_list, build_graph, candidates, cells, neighbour_list, neighbours
from geomol.graph.cells import cell_graph, cell_pairs
from geomol.graph.images import complete_cells
from geomol.graph.neighbours import find_pairs

FIELDS = ("edge_index", "edge_ptr", "cell_shift", "batch", "send_perm", "send_ptr")


def search(frames: list[Atoms], cutoff: float, **options: int) -> np.ndarray:
    """Rows of dst, src, shift."""
    pos = torch.from_numpy(np.concatenate([a.positions for a in frames]))
    ptr = torch.nn.functional.pad(torch.tensor([len(a) for a in frames]).cumsum(0), (1, 0))
    cell = torch.from_numpy(np.array([a.cell.array for a in frames]))
    pbc = torch.from_numpy(np.array([a.pbc for a in frames]))
    return np.column_stack([x.numpy() for x in cell_pairs(pos, ptr, cell, pbc, cutoff, **options)])


def oracle(atoms: Atoms, cutoff: float) -> np.ndarray:
    found = np.column_stack(brute_force_neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff))
    return found[np.lexsort(found.T[::-1])]


def random_structure(rng: np.random.Generator) -> tuple[Atoms, float]:
    """Few atoms far outside a skewed cell that may be much smaller than the cutoff, periodic in some directions."""
    while True:
        cell = rng.normal(size=(3, 3)) * rng.uniform(1, 6)
        if abs(np.linalg.det(cell)) > 3:
            break
    n = int(rng.integers(1, 10))
    atoms = Atoms("C" * n, positions=rng.uniform(-8, 8, (n, 3)), cell=cell, pbc=rng.random(3) < 0.6)
    return atoms, float(rng.uniform(0.5, 5))


@pytest.mark.parametrize("seed", range(25))
def test_the_pairs_are_those_of_the_obvious_loop_in_the_same_order(seed: int) -> None:
    atoms, cutoff = random_structure(np.random.default_rng(seed))
    assert np.array_equal(search([atoms], cutoff), oracle(atoms, cutoff))


def test_a_batch_is_its_structures_one_after_the_other() -> None:
    rng = np.random.default_rng(100)
    frames = [random_structure(rng)[0] for _ in range(12)]
    cutoff, first, parts = 3.0, 0, []
    for atoms in frames:
        parts.append(oracle(atoms, cutoff) + np.array([first, first, 0, 0, 0]))
        first += len(atoms)
    assert np.array_equal(search(frames, cutoff), np.concatenate(parts))
    # control: another radius finds other pairs
    assert not np.array_equal(search(frames, 2.9), np.concatenate(parts))


@pytest.mark.parametrize("block", [1, 100, 10_000])
def test_the_size_of_the_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    atoms = bulk("Si", cubic=True) * 2
    atoms.rattle(0.1, seed=1)
    atoms.positions += [30.0, -70.0, 11.0]
    monkeypatch.setattr(candidates, "CPU_BLOCK", block)
    expected = np.column_stack(neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, 5.0))
    assert np.array_equal(search([atoms], 5.0), expected)


def test_pairs_at_the_cutoff_itself_come_in_both_directions_or_not_at_all() -> None:
    """In a perfect crystal whole shells lie at the cutoff, to rounding."""
    rng = np.random.default_rng(5)
    for a in rng.uniform(3, 4, 12):
        atoms = bulk("Cu", a=a, cubic=True) * 2
        atoms.positions += rng.uniform(-20, 20, 3)
        pairs = search([atoms], a)
        there = {tuple(row) for row in pairs.tolist()}
        assert there == {(j, i, -x, -y, -z) for i, j, x, y, z in there}
        assert len(there) in range(12 * 32, 18 * 32 + 1)


def test_the_graph_is_that_of_the_other_searches_field_by_field() -> None:
    frames = [
        bulk("Cu", cubic=True) * 2,
        bulk("Si"),
        Atoms("OH2", positions=[[0, 0, 0], [0, 0.8, 0.6], [0, -0.8, 0.6]]),
    ]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
    expected = build_graph(frames, 4.0)
    found = cell_graph(expected.pos, expected.numbers, expected.ptr, expected.cell, expected.pbc, 4.0)
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_boxes_that_are_nearly_empty_take_no_memory_for_their_emptiness() -> None:
    pos = np.array([[0.0, 0, 0], [1, 0, 0], [1e6, 0, 0], [1e6, 1, 0], [0, 0, 1e8]])
    pairs = search([Atoms("C5", positions=pos)], 2.0)
    assert pairs[:, :2].tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    slab = Atoms("C2", positions=[[0, 0, 0], [0, 0, 1e5]], cell=[2.0, 2.0, 0], pbc=(True, True, False))
    assert np.array_equal(search([slab], 2.5), oracle(slab, 2.5))


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_structures_far_apart_are_searched_in_double(scale: float) -> None:
    """Two crystals so far from each other that single precision cannot tell their atoms apart."""
    crystal = bulk("Cu", cubic=True) * 2
    crystal.rattle(0.1, seed=4)
    away = np.array([97.0, 11.0, 53.0]) * scale
    atoms = Atoms("Cu64", positions=np.concatenate([crystal.positions, crystal.positions + away]))
    assert np.array_equal(search([atoms], 3.7), oracle(atoms, 3.7))


@pytest.mark.parametrize("cutoff", [0.3, 5.0])
def test_a_pair_too_close_in_a_large_crystal_is_noticed_at_any_cutoff(cutoff: float) -> None:
    atoms = bulk("Cu", cubic=True) * 5
    atoms.rattle(0.01, seed=1)
    atoms.positions += 40.0
    atoms.positions[317] = atoms.positions[71] + [0.0, 0.35, 0.0] - atoms.cell.array[1]
    arrays = atoms.positions, atoms.cell.array, atoms.pbc
    with pytest.warns(GeomolWarning, match=r"atoms 71 and 317 are closer"):
        found = neighbour_list(*arrays, cutoff)
    expected = np.column_stack(brute_force_neighbour_list(*arrays, cutoff))
    assert np.array_equal(np.column_stack(found), expected[np.lexsort(expected.T[::-1])])
    atoms.positions[317, 1] -= 0.35
    with pytest.raises(InputError, match="atoms 71 and 317 coincide"):
        neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


def test_without_neighbours_the_list_is_empty() -> None:
    assert search([Atoms("C")], 3.0).shape == (0, 5)
    assert search([Atoms("C2", positions=[[0, 0, 0], [9, 0, 0]])], 3.0).shape == (0, 5)


def test_open_directions_are_completed_at_right_angles() -> None:
    rng = np.random.default_rng(2)
    cell = torch.from_numpy(rng.normal(size=(8, 3, 3)))
    pbc = torch.tensor([[k & 1, k & 2, k & 4] for k in range(8)], dtype=torch.bool)
    kept = torch.where(pbc[:, :, None], cell, 0.0)
    full = complete_cells(kept, pbc)
    assert torch.equal(full[pbc], cell[pbc])
    for box, periodic in zip(full, pbc, strict=True):
        products = box @ box.T
        new = products[~periodic]
        wanted = torch.eye(3, dtype=torch.float64)[~periodic]
        assert torch.allclose(new, wanted, atol=1e-12)


def test_unusable_requests_are_refused() -> None:
    atoms = bulk("Cu", cubic=True) * 2
    with pytest.raises(ConfigError, match="cutoff out of range"):
        search([atoms], -1.0)
    with pytest.raises(CapacityError, match="neighbours are never dropped"):
        search([atoms], 5.0, max_bytes=10_000)
    atoms.positions[3, 1] = np.nan
    with pytest.raises(InputError, match="position of atom 3 along y is not usable"):
        search([atoms], 5.0)


@pytest.mark.parametrize("graphs", [0, 1, 3])
def test_no_atoms_have_no_pairs(graphs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "cells_in_c", lambda: None)  # as on a device
    none, ptr = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(graphs + 1, dtype=torch.int64)
    found = cell_pairs(none, ptr, torch.zeros(graphs, 3, 3), torch.zeros(graphs, 3, dtype=torch.bool), 3.0)
    assert [tuple(x.shape) for x in found] == [(0,), (0,), (0, 3)]
    assert all(x.dtype == torch.int64 for x in found)


def test_images_that_do_not_fit_are_refused_before_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "cells_in_c", lambda: None)
    atoms = Atoms("C", cell=np.eye(3), pbc=True)
    with pytest.raises(CapacityError, match=r"up to 7\.59e\+04 periodic images around 1 atoms do not fit"):
        search([atoms], 20.0, max_bytes=10_000_000)
    assert len(search([atoms], 5.0, max_bytes=10_000_000)) > 400  # control
    monkeypatch.setattr(neighbours, "_is_for_device", lambda pos, device: device is not None)
    with pytest.raises(CapacityError, match=r"frame 3: up to .* periodic images around 1 atoms") as raised:
        find_pairs(
            atoms.positions, atoms.cell.array, atoms.pbc, 20.0, max_bytes=10_000_000, where="frame 3", device="cpu"
        )
    assert raised.value.where == "frame 3"
