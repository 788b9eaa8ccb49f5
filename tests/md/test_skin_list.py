"""The neighbour list with a skin gives what a new search at every step gives, to the bit (check 16)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import units
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from geomol.graph import build_graph
from geomol.md import GeomolCalculator
from geomol.md.skin import SkinList


def compare_along_a_trajectory(model, atoms, steps: int) -> tuple[int, int]:
    """Run with the skin, wrapping all atoms every 25 steps, and compare each step with a new search."""
    thermalize_momenta(atoms, 900, rng=np.random.default_rng(0))
    atoms.set_momenta(atoms.get_momenta() + 3.0)  # a drift through the cell boundary
    atoms.calc = GeomolCalculator(model, skin=0.5)
    fresh = GeomolCalculator(model, skin=0.0)
    dyn, wraps = VelocityVerlet(atoms, 4.0 * units.fs), 0
    for step in range(steps):
        dyn.step()
        if step % 25 == 0:
            before = atoms.positions.copy()
            atoms.wrap()
            wraps += int((np.abs(atoms.positions - before).max(axis=1) > 1.0).sum())
        twin = atoms.copy()
        twin.calc = fresh
        assert atoms.get_potential_energy() == twin.get_potential_energy()
        assert np.array_equal(atoms.get_forces(), twin.get_forces())
    return wraps, atoms.calc.neighbours.rebuilds


def test_skin_list_equals_a_search_at_every_step(pair_potential, crystal):
    wraps, rebuilds = compare_along_a_trajectory(pair_potential(cutoff=5.0), crystal, 200)
    assert wraps > 10
    assert rebuilds < 100


@pytest.mark.slow
def test_skin_list_equals_a_search_at_every_step_for_5000_steps(pair_potential, crystal):
    wraps, rebuilds = compare_along_a_trajectory(pair_potential(cutoff=5.0), crystal, 5000)
    assert wraps > 100
    assert rebuilds < 2500


def test_a_wrapped_atom_forces_a_search(pair_potential, crystal):
    crystal.calc = GeomolCalculator(pair_potential(cutoff=5.0))
    energy, forces = crystal.get_potential_energy(), crystal.get_forces()
    crystal.positions[5] += crystal.cell.array[0]  # zero displacement by the minimum image
    assert crystal.get_potential_energy() == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(crystal.get_forces(), forces, atol=1e-10)
    assert crystal.calc.neighbours.rebuilds == 2


def test_the_old_list_would_be_wrong_after_a_wrap(pair_potential, crystal):
    """The control: keeping the list, as a displacement by minimum image would, loses all pairs of that atom."""
    model = pair_potential(cutoff=5.0)
    crystal.calc = GeomolCalculator(model)
    energy = crystal.get_potential_energy()
    stale = crystal.calc.neighbours.graph(torch.tensor(crystal.positions), 5.0)
    moved = crystal.positions.copy()
    moved[5] += crystal.cell.array[0]
    assert abs(float(model(stale.replace(pos=torch.tensor(moved))).energy) - energy) > 0.1


def arrays(atoms):
    return (
        atoms.positions.copy(),
        atoms.numbers.astype(np.int64),
        atoms.cell.array.copy(),
        np.asarray(atoms.pbc, dtype=bool),
    )


def test_the_list_is_kept_below_half_the_skin_and_renewed_above(crystal):
    pairs = SkinList(5.0, skin=0.6, device=torch.device("cpu"))
    pos, *rest = arrays(crystal)
    pairs.update(pos, *rest)
    pos[3, 0] += 0.29
    pairs.update(pos, *rest)
    assert pairs.rebuilds == 1
    pos[3, 0] += 0.02
    pairs.update(pos, *rest)
    assert pairs.rebuilds == 2


@pytest.mark.parametrize("change", ["cell", "pbc", "numbers", "count"])
def test_any_other_change_renews_the_list(crystal, change):
    pairs = SkinList(5.0, skin=0.6, device=torch.device("cpu"))
    pairs.update(*arrays(crystal))
    if change == "cell":
        crystal.set_cell(crystal.cell.array * (1 + 1e-12))
    elif change == "pbc":
        crystal.pbc = (True, True, False)
    elif change == "numbers":
        crystal.numbers[0] = 79
    else:
        del crystal[-1]
    pairs.update(*arrays(crystal))
    assert pairs.rebuilds == 2
    assert pairs.graph(torch.tensor(crystal.positions), 5.0).num_nodes == len(crystal)


def test_selected_pairs_lie_within_the_cutoff_in_canonical_order(crystal):
    pairs = SkinList(5.0, skin=0.6, device=torch.device("cpu"))
    pairs.update(*arrays(crystal))
    graph = pairs.graph(torch.tensor(crystal.positions), 5.0)
    src, dst = graph.edge_index
    vec = graph.pos[src] + graph.cell_shift.double() @ graph.cell[0] - graph.pos[dst]
    assert float(vec.norm(dim=1).max()) <= 5.0
    keys = np.stack([dst.numpy(), src.numpy(), *graph.cell_shift.numpy().T], axis=1).tolist()
    assert keys == sorted(keys)
    assert torch.equal(graph.edge_ptr, torch.searchsorted(dst, torch.arange(len(crystal) + 1)))
    # both directions of every pair
    backward = sorted([b, a, -x, -y, -z] for a, b, x, y, z in keys)
    assert backward == keys


@pytest.mark.parametrize("change", ["positions", "cell", "pbc", "numbers", "count"])
def test_without_a_skin_the_graph_is_that_of_a_new_search_and_keeps_what_still_holds(crystal, change):
    pairs = SkinList(5.0, skin=0.0, device=torch.device("cpu"))
    pairs.update(*arrays(crystal))
    first = pairs.graph(torch.tensor(crystal.positions), 5.0)
    if change == "positions":
        crystal.positions[3, 0] += 0.3
    elif change == "cell":
        crystal.set_cell(crystal.cell.array * 1.01)
    elif change == "pbc":
        crystal.pbc = (True, True, False)
    elif change == "numbers":
        crystal.numbers[0] = 79
    else:
        del crystal[-1]
    pairs.update(*arrays(crystal))
    found, expected = pairs.graph(torch.tensor(crystal.positions), 5.0), build_graph(crystal, 5.0)
    for name in ("pos", "numbers", "edge_index", "edge_ptr", "cell_shift", "cell", "pbc", "batch", "ptr"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert (found.numbers is first.numbers) == (change == "positions")


def test_what_follows_from_the_edges_is_worked_out_once_for_all_steps(crystal):
    neighbours = SkinList(4.0, skin=0.5, device=torch.device("cpu"))
    graphs = []
    for step in range(2):
        crystal.positions += 1e-6 * step
        pos, *rest = arrays(crystal)
        neighbours.update(pos, *rest)
        graphs.append(neighbours.graph(torch.from_numpy(pos.copy()), 4.0))
    assert neighbours.rebuilds == 1
    assert graphs[0].send_perm is graphs[1].send_perm
    assert graphs[0].send_ptr is graphs[1].send_ptr
    assert graphs[1].is_periodic
