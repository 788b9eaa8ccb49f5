"""Bad-input table, rows 3, 10, 12 to 20: every fault is named with its place; correct oddities are accepted."""

import warnings

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from geomol.errors import CapacityError, ConfigError, GeomolWarning, InputError
from geomol.graph import GraphStore, brute_force_neighbour_list, build_graph, edge_vectors, neighbour_list

OPEN, PERIODIC = [False] * 3, [True] * 3
ONE = np.array([[0.1, 0.2, 0.3]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("pbc", [OPEN, PERIODIC])
def test_an_unusable_position_is_named_by_atom_and_axis(value, pbc):
    pos = np.arange(12.0).reshape(4, 3)
    pos[2, 1] = value
    with pytest.raises(InputError, match=r"position of atom 2 along y .* got -?(nan|inf|1e\+200)"):
        neighbour_list(pos, 20 * np.eye(3), pbc, 3.0)


def test_a_bad_structure_of_many_is_named():
    frames = [molecule("H2O") for _ in range(3)]
    frames[1].positions[2, 0] = np.nan
    with pytest.raises(InputError, match=r"structure 1: position of atom 2 along x"):
        build_graph(frames, 3.0)


def test_zero_atoms_are_refused():
    with pytest.raises(InputError, match="zero atoms"):
        neighbour_list(np.zeros((0, 3)), np.eye(3), OPEN, 3.0)
    with pytest.raises(InputError, match="structure 1: structure has zero atoms"):
        build_graph([molecule("H2O"), ase.Atoms()], 3.0)
    with pytest.raises(InputError, match="zero atoms"):
        build_graph(ase.Atoms(), complete=True)
    with pytest.raises(InputError, match="no structures"):
        build_graph([], 3.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_periodic_axis_without_cell_vector_is_named(axis):
    cell = 5.0 * np.eye(3)
    cell[axis] = 0
    with pytest.raises(InputError, match=f"axis {axis} is periodic but its cell vector is zero"):
        neighbour_list(ONE, cell, PERIODIC, 3.0)
    only = np.arange(3) == axis
    with pytest.raises(InputError, match=f"axis {axis} is periodic"):
        neighbour_list(ONE, cell, only, 3.0)
    assert len(neighbour_list(ONE, cell, ~only, 3.0)[0]) == 0  # open, so nothing is missing


@pytest.mark.parametrize("cell", [[[1, 2, 3], [2, 4, 6], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [1, 1, 0]]])
def test_a_singular_cell_is_refused_with_its_axis(cell):
    with pytest.raises(InputError, match=r"axis [012] is periodic but the cell is singular"):
        neighbour_list(ONE, np.array(cell, float), PERIODIC, 3.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("pbc", [OPEN, PERIODIC])
def test_a_cell_that_is_not_finite_is_refused(value, pbc):
    cell = 5.0 * np.eye(3)
    cell[1, 2] = value
    with pytest.raises(InputError, match="cell vector 1 is not finite along z"):
        neighbour_list(ONE, cell, pbc, 3.0)


def test_a_cell_without_volume_is_refused():
    with pytest.raises(InputError, match="cell has no volume"):
        neighbour_list(ONE, 0.009 * np.eye(3), PERIODIC, 3.0)
    with pytest.raises(InputError, match=r"wrong shape.*expected \(3, 3\)"):
        neighbour_list(ONE, np.ones(3), PERIODIC, 3.0)


def test_a_thin_cell_has_all_its_images():
    """0.2 cutoff thick: Σ over the images is that of the brute-force list, without a cap."""
    cell = np.diag([1.0, 9.0, 9.0])
    dst, _, shift = neighbour_list(ONE, cell, PERIODIC, 5.0)
    assert sorted(shift[:, 0].tolist()) == [-4, -3, -2, -1, 1, 2, 3, 4]
    assert len(dst) == len(brute_force_neighbour_list(ONE, cell, PERIODIC, 5.0)[0]) == 8


@pytest.mark.parametrize("cutoff", [0, -1.0, np.nan, np.inf, "5", None, True, [5.0]])
def test_a_cutoff_that_is_no_distance_is_refused(cutoff):
    calls = [
        lambda: neighbour_list(ONE, np.eye(3), OPEN, cutoff),
        lambda: brute_force_neighbour_list(ONE, np.eye(3), OPEN, cutoff),
    ]
    if cutoff != np.inf:  # in a graph it means all pairs
        calls += [
            lambda: build_graph(molecule("H2O"), cutoff),
            lambda: GraphStore.from_arrays(ONE, [1], [0, 1], np.zeros((1, 3, 3)), [OPEN], cutoff),
        ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"cutoff (out of range|is not a number), expected a positive.* got"):
            call()


def test_a_list_beyond_the_memory_budget_is_refused_before_it_is_made():
    """The estimate is within a few percent of the list that a larger budget gives."""
    atoms = bulk("Cu", cubic=True) * (6, 6, 6)
    args = atoms.positions, atoms.cell, atoms.pbc, 6.0
    pairs = len(neighbour_list(*args)[0])
    with pytest.raises(CapacityError, match=r"neighbour pairs of 864 atoms .* at most .* GiB.*never dropped") as caught:
        neighbour_list(*args, max_bytes=1_000_000)
    estimate = float(caught.value.what.split()[1])
    assert estimate == pytest.approx(pairs, rel=0.05)


@pytest.mark.parametrize("pbc", [OPEN, [True, False, False], [True, True, False], PERIODIC])
def test_an_absurd_cutoff_is_refused_and_not_tried(pbc):
    atoms = bulk("Cu", cubic=True) * (8, 8, 8)
    if any(pbc):
        with pytest.raises(CapacityError, match="neighbour pairs of 2048 atoms"):
            neighbour_list(atoms.positions, atoms.cell, pbc, 1e7)
    else:
        with pytest.raises(CapacityError, match=r"about 4\.19e\+06 neighbour pairs of 2048 atoms"):
            neighbour_list(atoms.positions, atoms.cell, pbc, 1e7, max_bytes=10**8)


@pytest.mark.parametrize("distance", [0.0, 9e-7])
@pytest.mark.parametrize("pbc", [OPEN, PERIODIC])
@pytest.mark.parametrize("size", [1, 40])
def test_coincident_atoms_are_refused_with_both_indices(distance, pbc, size):
    pos = np.arange(4 * size)[:, None] * [2.0, 0.3, 0.1]
    pos[3] = pos[1] + [0.0, distance, 0.0]
    with pytest.raises(InputError, match=r"atoms 1 and 3 coincide"):
        neighbour_list(pos, 500.0 * np.eye(3), pbc, 5.0)


def test_an_atom_on_the_periodic_image_of_another_is_refused():
    pos = np.array([[0.0, 0.0, 0.0], [35.0, 0.0, 0.0]])
    with pytest.raises(InputError, match=r"structure 1: atoms 0 and 1 coincide"):
        build_graph([molecule("H2"), ase.Atoms("H2", pos, cell=[7.0, 7.0, 7.0], pbc=True)], 3.0)


@pytest.mark.parametrize("cutoff", [0.2, 3.0])
def test_atoms_too_close_for_a_bond_are_warned_of_once(cutoff):
    pos = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.3, 0.0]])
    with pytest.warns(GeomolWarning, match=r"atoms 1 and 2 are closer than 0\.4 Å") as caught:
        dst, _, _ = neighbour_list(pos, np.zeros((3, 3)), OPEN, cutoff)
    assert len(caught) == 1
    assert len(dst) == (0 if cutoff == 0.2 else 6)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for k in range(5):  # a trajectory: the same pair, another distance
            neighbour_list(pos * (1 + 0.01 * k), np.zeros((3, 3)), OPEN, cutoff)
    assert len(shown) == 1


def test_a_single_atom_is_a_graph_without_edges():
    graph = build_graph(ase.Atoms("He"), 5.0)
    assert graph.num_edges == 0
    assert graph.edge_index.shape == (2, 0)
    assert graph.edge_ptr.tolist() == graph.send_ptr.tolist() == [0, 0]
    assert edge_vectors(graph).shape == (0, 3)
    assert build_graph(ase.Atoms("He"), complete=True).num_edges == 0


def test_a_left_handed_cell_is_accepted():
    atoms = bulk("Si")
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    lengths = [torch.linalg.norm(edge_vectors(build_graph(a, 5.0)), dim=1).sort().values for a in (atoms, bulk("Si"))]
    torch.testing.assert_close(*lengths, rtol=1e-13, atol=1e-13)


def test_a_complete_graph_of_a_crystal_is_refused():
    with pytest.raises(InputError, match="complete graph has no end in a periodic structure"):
        build_graph(bulk("Cu"), complete=True)


def test_arrays_that_do_not_belong_together_are_refused():
    good = {"pos": np.eye(3), "numbers": [1, 1, 1], "ptr": [0, 3], "cell": np.zeros((1, 3, 3)), "pbc": [OPEN]}
    assert len(GraphStore.from_arrays(**good, cutoff=3.0)) == 1
    for name, bad in (("ptr", [0, 2]), ("ptr", [1, 3]), ("ptr", [0, 4, 3]), ("numbers", [1]), ("pbc", [OPEN, OPEN])):
        with pytest.raises(InputError, match=f"{name} (has a wrong shape|does not divide the atoms)"):
            GraphStore.from_arrays(**{**good, name: bad}, cutoff=3.0)
