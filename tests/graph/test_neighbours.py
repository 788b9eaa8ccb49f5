"""Neighbour lists against the brute-force oracle: reliability checks 6, 14 and the neighbour part of 15."""

import ase
import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from geomol.errors import GeomolWarning, InputError
from geomol.graph import brute_force_neighbour_list, capacity, neighbour_list, neighbours
from geomol.graph.neighbours import pair_tensors

MASKS = [tuple(bool(bits >> k & 1) for k in range(3)) for bits in range(8)]


def random_cell(rng):
    """Angles of 10 to 170 degrees, faces 0.2 to 10 apart, either handedness."""
    while True:
        rows = rng.normal(size=(3, 3))
        rows /= np.linalg.norm(rows, axis=1)[:, None]
        angles = np.degrees(np.arccos([rows[0] @ rows[1], rows[0] @ rows[2], rows[1] @ rows[2]]))
        if (angles > 10).all() and (angles < 170).all() and abs(np.linalg.det(rows)) > 0.01:
            break
    heights = 10 ** rng.uniform(np.log10(0.2), 1, 3)
    return rows * (heights * np.linalg.norm(np.linalg.inv(rows), axis=0))[:, None]


def random_structure(rng, pbc):
    """A cell in units of a random cutoff, with atoms in it, drifted away, or up to 1e4 images away."""
    cutoff = 10 ** rng.uniform(0.3, 1.0)
    cell, num = random_cell(rng) * cutoff, rng.integers(1, 7)
    periodic = np.where(np.array(pbc)[:, None], cell, 0.0)
    drift = rng.choice([0, 2, 10_000])
    pos = rng.random((num, 3)) @ cell + rng.integers(-drift, drift + 1, (num, 3)) @ periodic
    # what stands in an open row must not matter
    return pos, periodic if rng.random() < 0.5 else cell, pbc, cutoff


def as_table(pairs):
    return np.column_stack(pairs)


def assert_same(structure):
    found, truth = as_table(neighbour_list(*structure)), as_table(brute_force_neighbour_list(*structure))
    np.testing.assert_array_equal(found, truth, err_msg=repr(structure))
    return len(truth)


@pytest.mark.filterwarnings("ignore::geomol.errors.GeomolWarning")
@pytest.mark.parametrize("pbc", MASKS)
@pytest.mark.parametrize("way", ["tabulate", "tree", "vesin"])
def test_random_cells_have_the_neighbours_of_brute_force(pbc, way, monkeypatch):
    """Every way of searching is right by itself, not only where it is chosen."""
    if way != "tabulate":
        monkeypatch.setattr(neighbours, "SMALL_TABLE", 0)
        monkeypatch.setattr(neighbours, "SPARSE_BINS", 0 if way == "tree" else 200)
    rng = np.random.default_rng(MASKS.index(pbc))
    assert sum(assert_same(random_structure(rng, pbc)) for _ in range(40)) > 40


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::geomol.errors.GeomolWarning")
@pytest.mark.parametrize("small_table", [0, neighbours.SMALL_TABLE])
def test_ten_thousand_random_cells_have_the_neighbours_of_brute_force(small_table, monkeypatch):
    monkeypatch.setattr(neighbours, "SMALL_TABLE", small_table)
    rng = np.random.default_rng(42)
    for k in range(10_000):
        assert_same(random_structure(rng, MASKS[k % 8]))


@pytest.mark.filterwarnings("ignore::geomol.errors.GeomolWarning")
@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), pbc=st.sampled_from(MASKS))
def test_the_list_is_symmetric(seed, pbc):
    """If j neighbours i in image S, then i neighbours j in image −S."""
    dst, src, shift = neighbour_list(*random_structure(np.random.default_rng(seed), pbc))
    there = np.column_stack([dst, src, shift])
    back = np.column_stack([src, dst, -shift])
    np.testing.assert_array_equal(there, back[np.lexsort(back.T[::-1])])


@pytest.mark.parametrize("factor", [0.999_999, 1.0, 1.000_001])
@pytest.mark.parametrize("size", [1, 3])
def test_a_crystal_with_atoms_on_the_cutoff_has_a_symmetric_list(size, factor):
    atoms = bulk("Cu", cubic=True) * (size, size, size)
    dst, src, shift = neighbour_list(atoms.positions, atoms.cell, atoms.pbc, 3.61 * factor)
    pairs = set(map(tuple, np.column_stack([dst, src, shift]).tolist()))
    assert pairs == {(j, i, -a, -b, -c) for i, j, a, b, c in pairs}


def test_the_oracle_gives_the_shells_of_fcc():
    """12 first and 6 second neighbours: the oracle has a witness of its own."""
    atoms = bulk("Cu", a=3.6)
    for cutoff, count in ((2.6, 12), (3.7, 18), (4.5, 42)):
        assert len(brute_force_neighbour_list(atoms.positions, atoms.cell, atoms.pbc, cutoff)[0]) == count


def test_a_wrong_list_fails_the_comparison():
    """Control: the list of a minimum-image code, which stops at the first image, is told from the truth."""
    atoms = bulk("Cu", a=3.6)
    dst, src, shift = neighbour_list(atoms.positions, atoms.cell, atoms.pbc, 6.0)
    near = (np.abs(shift) <= 1).all(axis=1)
    truth = as_table(brute_force_neighbour_list(atoms.positions, atoms.cell, atoms.pbc, 6.0))
    assert as_table((dst, src, shift)).shape == truth.shape
    assert as_table((dst[near], src[near], shift[near])).shape != truth.shape


@pytest.mark.parametrize(
    "atoms",
    [
        molecule("C60"),
        bulk("Si", cubic=True) * (3, 3, 3),
        bulk("Ti") * (4, 4, 3),
        fcc111("Cu", (5, 5, 3), vacuum=8.0),
        ase.Atoms("Ar200", positions=np.random.default_rng(3).permutation(216)[:200, None] // [36, 6, 1] % 6 * 2.0),
    ],
    ids=["C60", "silicon", "hcp", "slab", "cluster"],
)
@pytest.mark.parametrize("cutoff", [3.0, 6.0])
def test_larger_structures_have_the_neighbours_of_ase(atoms, cutoff):
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(0).normal(scale=0.05, size=atoms.positions.shape)
    i, j, shift = neighbor_list("ijS", atoms, cutoff)
    truth = np.column_stack([i, j, shift])
    found = as_table(neighbour_list(atoms.positions, atoms.cell, atoms.pbc, cutoff))
    np.testing.assert_array_equal(found, truth[np.lexsort(truth.T[::-1])])


@pytest.mark.parametrize("count", [20, 100, 400])
def test_no_neighbour_is_dropped_in_a_crowd(count):
    """Check 6: 20 to 400 neighbours around one atom, all of them there."""
    rng = np.random.default_rng(count)
    shell = rng.normal(size=(20 * count, 3))
    shell *= (5.5 * rng.random(len(shell)) ** (1 / 3) / np.linalg.norm(shell, axis=1))[:, None]
    crowd = [np.zeros(3)]
    for point in shell:  # no two closer than 0.5 Å
        if len(crowd) <= count and np.linalg.norm(np.array(crowd) - point, axis=1).min() > 0.5:
            crowd.append(point)
    pos = np.array(crowd)
    structure = pos, np.eye(3) * 30.0, [False] * 3, 6.0
    dst, _, _ = neighbour_list(*structure)
    assert (dst == 0).sum() == count
    assert_same(structure) if count <= 100 else None
    distance = np.linalg.norm(pos - pos[:, None], axis=2)
    assert len(dst) == (distance < 6.0).sum() - len(pos)


@pytest.mark.parametrize("repeat", [(2, 1, 1), (1, 3, 2), (4, 4, 4)])
@pytest.mark.parametrize("edge", [1.21, 2.7])
def test_a_supercell_has_the_neighbours_of_its_small_cell(repeat, edge):
    """Check 15: cells down to 0.2 cutoff; the distances around each atom are those of the repeated cell."""
    cell = edge * np.array([[1.0, 0.0, 0.0], [0.3, 1.0, 0.0], [-0.2, 0.4, 1.1]])
    small = ase.Atoms("Ar", positions=[[0.1, 0.2, 0.3]], cell=cell, pbc=True)
    large = small * repeat

    def distances(atoms):
        dst, src, shift = neighbour_list(atoms.positions, atoms.cell, atoms.pbc, 6.0)
        vec = atoms.positions[src] + shift @ atoms.cell.array - atoms.positions[dst]
        return [np.sort(np.linalg.norm(vec[dst == i], axis=1)) for i in range(len(atoms))]

    truth = distances(small)[0]
    assert len(truth) > 40
    for found in distances(large):
        np.testing.assert_allclose(found, truth, rtol=1e-12)


def test_a_left_handed_cell_has_the_neighbours_of_the_right_handed_one():
    atoms = bulk("Si") * (2, 1, 1)
    mirrored = atoms.cell.array[[1, 0, 2]]
    assert np.linalg.det(mirrored) * np.linalg.det(atoms.cell.array) < 0
    dst, src, shift = neighbour_list(atoms.positions, atoms.cell, True * np.ones(3), 5.0)
    found = as_table(neighbour_list(atoms.positions, mirrored, np.ones(3, bool), 5.0))
    truth = np.column_stack([dst, src, shift[:, [1, 0, 2]]])
    np.testing.assert_array_equal(found, truth[np.lexsort(truth.T[::-1])])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("pbc", [MASKS[0], MASKS[7]])
@pytest.mark.parametrize("long", [2e4, 1e8])
def test_boxes_far_longer_in_one_direction_are_searched(axis, pbc, long):
    """vesin 0.6 divides by zero on these, which would end the process."""
    rng = np.random.default_rng(1)
    box = np.full(3, 4.0)
    box[axis] = long
    near = ase.Atoms("Ar27", positions=np.indices((3, 3, 3)).reshape(3, -1).T * 1.2 + rng.normal(0, 0.1, (27, 3)))
    pos = np.concatenate([near.positions + box * np.eye(3)[axis] * part for part in (0.0, 0.3, 0.6, 1 - 50 / long)])
    dst, src, shift = neighbour_list(pos, np.diag(box), pbc, 3.0)
    alone = neighbour_list(near.positions, np.diag(np.where(np.arange(3) == axis, 50.0, box)), pbc, 3.0)
    assert len(dst) == 4 * len(alone[0])
    vec = pos[src] + shift @ np.diag(box) - pos[dst]
    assert np.linalg.norm(vec, axis=1).max() < 3.0


def test_flat_slabs_wider_than_vesin_allows_are_searched():
    rng = np.random.default_rng(5)
    pos = rng.random((400, 3)) * [1200.0, 1200.0, 3.0]
    structure = pos, np.diag([1200.0, 1200.0, 3.0]), [True, True, True], 3.0
    dst, src, shift = neighbour_list(*structure)
    truth = [np.count_nonzero(shift[dst == i].any(1) & (src[dst == i] == i)) for i in range(400)]
    assert truth == [0] * 400  # images along the thin axis lie exactly on the cutoff, so outside
    wide = neighbour_list(pos, structure[1], structure[2], 3.5)
    assert np.count_nonzero(wide[0] == wide[1]) == 800


def test_isolated_atoms_have_no_neighbours():
    pos = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
    dst, src, shift = neighbour_list(pos, np.zeros((3, 3)), [False] * 3, 2.0)
    assert dst.tolist() == [0, 1]
    assert src.tolist() == [1, 0]
    for pbc in MASKS:
        dst, src, shift = neighbour_list(pos[:1], 20.0 * np.eye(3), pbc, 5.0)
        assert dst.shape == src.shape == (0,)
        assert shift.shape == (0, 3)
        assert dst.dtype == src.dtype == shift.dtype == np.int64


def test_the_list_does_not_depend_on_the_memory_layout_or_change_its_input():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    pos, cell, pbc = atoms.positions + 100.0, atoms.cell.array.copy(), np.array([True, False, True])
    before = pos.copy(), cell.copy(), pbc.copy()
    first = neighbour_list(pos, cell, pbc, 4.0)
    second = neighbour_list(np.asfortranarray(pos), np.asfortranarray(cell), pbc.tolist(), np.float32(4.0))
    np.testing.assert_array_equal(as_table(first), as_table(second))
    for value, old in zip((pos, cell, pbc), before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize("seed", range(40))
def test_pairs_in_touching_bins_are_at_least_those_within_the_radius(seed):
    """The bound by which most lists pass the check of their memory, in boxes of one bin and of many."""
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2, 15, 3)) + rng.normal(scale=0.7, size=(3, 3))
    pos = rng.random((int(rng.integers(2, 50)), 3)) @ cell
    radius = rng.uniform(1, 8)
    images = np.ceil(radius * np.linalg.norm(np.linalg.inv(cell), axis=0))
    pairs = len(brute_force_neighbour_list(pos, cell, [True] * 3, radius)[0])
    assert pairs <= capacity.touching_pairs(pos, cell, images, radius)


def test_the_bound_of_a_crystal_is_near_enough_to_spare_the_sample():
    atoms = bulk("Cu", cubic=True) * (10, 10, 10)
    atoms.positions += 0.3  # not on the faces of bins
    images = np.ceil(5.0 / atoms.cell.lengths())
    pairs = len(neighbour_list(atoms.positions, atoms.cell, atoms.pbc, 5.0)[0])
    assert pairs < capacity.touching_pairs(atoms.positions, atoms.cell.array, images, 5.0) < 8 * pairs


@pytest.mark.parametrize("pbc", [MASKS[0], MASKS[-1]])
@pytest.mark.parametrize("cutoff", [0.35, 4.0])
def test_the_way_of_devices_finds_the_same_list_and_the_same_faults(pbc, cutoff, monkeypatch):
    """On the CPU, with the choice of the way replaced; `tests/gpu` has it on a device."""
    monkeypatch.setattr(neighbours, "_is_for_device", lambda pos, device: device is not None)
    atoms = bulk("Cu", cubic=True) * (4, 4, 4)
    atoms.rattle(0.05, seed=0)
    atoms.positions += [100.0, 0.0, -30.0]
    atoms.positions[7] = atoms.positions[200] + [0.0, 0.3, 0.0]
    structure = atoms.positions, atoms.cell.array, np.array(pbc), cutoff
    with pytest.warns(GeomolWarning, match="atoms 7 and 200 are closer"):
        expected = neighbour_list(*structure)
    with pytest.warns(GeomolWarning, match="atoms 7 and 200 are closer"):
        found = pair_tensors(*structure, device="cpu")
    assert len(expected[0]) > (1000 if cutoff > 1 else 1)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)
    with pytest.warns(GeomolWarning):
        np.testing.assert_array_equal(as_table(neighbour_list(*structure, device="cpu")), as_table(expected))
    atoms.positions[7] = atoms.positions[200]
    with pytest.raises(InputError, match="atoms 7 and 200 coincide"):
        pair_tensors(*structure, device="cpu")
    with pytest.raises(InputError, match="zero atoms"):
        pair_tensors(atoms.positions[:0], *structure[1:], device="cpu")
