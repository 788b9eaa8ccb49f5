"""Graph, build_graph and GraphStore: edge order and sign, batches, rotations."""

import dataclasses

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list

from geomol.graph import Graph, GraphStore, build_graph, edge_vectors


def mixed_frames():
    """Molecules and crystals, all pbc masks, an isolated atom, a drifted atom, of 1 to 60 atoms."""
    rng = np.random.default_rng(0)
    frames = [molecule("CH3CH2OH"), bulk("Cu"), ase.Atoms("He"), fcc111("Al", (2, 2, 2), vacuum=5.0), molecule("C60")]
    for bits in range(8):
        cell = np.diag([3.0, 4.0, 5.0]) + rng.normal(scale=0.3, size=(3, 3))
        pbc = [bool(bits >> k & 1) for k in range(3)]
        frames.append(ase.Atoms("NaCl", cell=cell, pbc=pbc, positions=[[0, 0, 0], [1.6, 1.9, 2.4]]))
    for atoms in frames:
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
    frames[1].positions += 100 * frames[1].cell.array[0]
    return frames


def store_of(frames, cutoff=4.0, **options):
    return GraphStore.from_arrays(
        np.concatenate([atoms.positions for atoms in frames]),
        np.concatenate([atoms.numbers for atoms in frames]),
        np.cumsum([0] + [len(atoms) for atoms in frames]),
        np.array([atoms.cell.array for atoms in frames]),
        np.array([atoms.pbc for atoms in frames]),
        cutoff,
        **options,
    )


def assert_identical(left: Graph, right: Graph):
    for field in dataclasses.fields(Graph):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype, field.name
            assert torch.equal(a, b), field.name
        else:
            assert a == b, field.name
    for name in ("send_perm", "send_ptr", "is_periodic"):
        assert torch.equal(*(torch.as_tensor(getattr(graph, name)) for graph in (left, right))), name


@pytest.fixture
def directed():
    """One edge alone: node 0 sends, node 1 receives."""
    return Graph(
        pos=torch.tensor([[1.0, 2.0, 3.0], [1.5, 2.0, 3.0]], dtype=torch.float64),
        numbers=torch.tensor([1, 8]),
        edge_index=torch.tensor([[0], [1]]),
        edge_ptr=torch.tensor([0, 0, 1]),
        cell_shift=torch.tensor([[1, 0, 0]]),
        cell=torch.diag(torch.tensor([10.0, 20.0, 30.0], dtype=torch.float64))[None],
        pbc=torch.tensor([[True, False, False]]),
        batch=torch.tensor([0, 0]),
        ptr=torch.tensor([0, 2]),
    )


def test_a_directed_edge_points_from_receiver_to_sender(directed):
    """PyG order, ASE's D = pos[j] + S·cell − pos[i] with i = receiver: pinned by an edge without its opposite."""
    assert (directed.src.tolist(), directed.dst.tolist()) == ([0], [1])
    assert edge_vectors(directed).tolist() == [[1.0 + 10.0 - 1.5, 0.0, 0.0]]
    assert directed.send_perm.tolist() == [0]
    assert directed.send_ptr.tolist() == [0, 1, 1]


def test_edge_vectors_are_those_of_ase():
    for atoms in mixed_frames():
        graph = build_graph(atoms, 4.0)
        i, j, shift, vec = neighbor_list("ijSD", atoms, 4.0)
        order = np.lexsort((*shift.T[::-1], j, i))
        assert np.array_equal(graph.dst.numpy(), i[order])
        assert np.array_equal(graph.src.numpy(), j[order])
        assert np.array_equal(graph.cell_shift.numpy(), shift[order])
        np.testing.assert_allclose(edge_vectors(graph).numpy(), vec[order], atol=1e-11)


def test_edges_are_sorted_by_receiver_with_row_pointers():
    graph = build_graph(mixed_frames(), 4.0)
    for node in range(graph.num_nodes):
        assert (graph.dst[graph.edge_ptr[node] : graph.edge_ptr[node + 1]] == node).all()
        sent = graph.send_perm[graph.send_ptr[node] : graph.send_ptr[node + 1]]
        assert (graph.src[sent] == node).all()
    assert graph.edge_ptr[-1] == graph.send_ptr[-1] == graph.num_edges
    assert torch.equal(graph.batch[graph.src], graph.batch[graph.dst])


def test_a_batch_holds_the_graphs_of_its_structures():
    frames = mixed_frames()
    graph = build_graph(frames, 4.0)
    vectors, edge_ptr = edge_vectors(graph), graph.edge_ptr[graph.ptr]
    for k, atoms in enumerate(frames):
        single = build_graph(atoms, 4.0)
        edges = slice(edge_ptr[k], edge_ptr[k + 1])
        assert torch.equal(graph.edge_index[:, edges] - graph.ptr[k], single.edge_index)
        torch.testing.assert_close(vectors[edges], edge_vectors(single), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_stored_batch_is_identical_to_the_built_one(dtype):
    frames = mixed_frames()
    store = store_of(frames, dtype=dtype)
    assert len(store) == len(frames)
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 5, 13, 40):
        index = torch.randint(len(frames), (size,), generator=generator)
        built = build_graph([frames[i] for i in index], 4.0, dtype=dtype)
        assert_identical(store.batch(index), built)
        assert torch.equal(store.pos[store.node_index(index)], built.pos)
    assert_identical(store.batch([2, 0]), build_graph([frames[2], frames[0]], 4.0, dtype=dtype))


def test_a_store_of_molecules_alone_is_identical_too():
    """Without any periodic structure no shifts are stored."""
    frames = [molecule(name) for name in ("H2O", "CH4", "C6H6", "H")]
    assert store_of(frames).cell_shift is None
    assert_identical(store_of(frames).batch([3, 1, 2]), build_graph([frames[i] for i in (3, 1, 2)], 4.0))


def test_a_complete_graph_joins_every_pair_and_has_no_cutoff():
    frames = [molecule("C60"), ase.Atoms("He"), ase.Atoms("H2", [[0, 0, 0], [0, 0, 900.0]])]
    graph = build_graph(frames, complete=True)
    assert graph.cutoff == float("inf")
    assert graph.num_edges == 60 * 59 + 0 + 2
    assert (graph.src != graph.dst).all()
    assert len(torch.unique(graph.edge_index, dim=1).t()) == graph.num_edges
    assert_identical(graph, build_graph(frames, float("inf")))
    assert_identical(graph, store_of(frames, float("inf"), complete=True).batch([0, 1, 2]))


def test_batches_of_different_cutoff_or_shift_range_keep_their_shifts():
    """Shifts beyond a byte: an atom thousands of images away."""
    atoms = bulk("Cu")
    atoms = atoms * (2, 1, 1)
    atoms.positions[1] += 5000 * atoms.cell.array[2]
    store = store_of([atoms, atoms])
    assert store.cell_shift.dtype == torch.int16
    assert_identical(store.batch([1]), build_graph(atoms, 4.0))


def test_rotating_a_batch_rotates_positions_cells_and_edge_vectors():
    store = store_of(mixed_frames())
    index = torch.tensor([1, 5, 12, 0])
    rotation = torch.linalg.qr(torch.randn(4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    plain, turned = store.batch(index), store.batch(index, rotation=rotation)
    for k in range(4):
        nodes = slice(plain.ptr[k], plain.ptr[k + 1])
        torch.testing.assert_close(turned.pos[nodes], plain.pos[nodes] @ rotation[k].T, rtol=1e-13, atol=1e-12)
        torch.testing.assert_close(turned.cell[k], plain.cell[k] @ rotation[k].T, rtol=1e-13, atol=1e-12)
    assert torch.equal(plain.edge_index, turned.edge_index)
    assert torch.equal(plain.cell_shift, turned.cell_shift)
    of_edge = rotation[plain.batch[plain.dst]]
    expected = torch.einsum("eij,ej->ei", of_edge, edge_vectors(plain))
    torch.testing.assert_close(edge_vectors(turned), expected, rtol=0, atol=1e-11)
    assert not torch.allclose(edge_vectors(turned), edge_vectors(plain))


def test_a_batch_is_its_own_copy():
    """Changing a batch in place leaves the store as it was."""
    store = store_of(mixed_frames())
    before = store.pos.clone()
    store.batch([0]).pos.zero_()
    build_graph(atoms := molecule("H2O"), 3.0).pos.zero_()
    assert torch.equal(store.pos, before)
    assert atoms.positions.any()


def test_replace_keeps_derived_orders_only_where_they_still_hold(directed):
    graph = build_graph(molecule("H2O"), 3.0)
    perm = graph.send_perm
    assert graph.replace(pos=graph.pos + 1).send_perm is perm
    fewer = graph.replace(
        edge_index=graph.edge_index[:, :1], edge_ptr=torch.tensor([0, 1, 1, 1]), cell_shift=graph.cell_shift[:1]
    )
    assert fewer.send_perm.tolist() == [0]
    single = graph.to("cpu", torch.float32)
    assert single.pos.dtype == torch.float32
    assert single.numbers.dtype == torch.int64
    assert torch.equal(single.send_perm, perm)


def test_edge_vectors_far_from_the_origin_are_formed_before_they_are_cast():
    atoms = molecule("CH3CH2OH")
    near = edge_vectors(build_graph(atoms, 3.0), torch.float32)
    atoms.positions += 1e5
    far = edge_vectors(build_graph(atoms, 3.0), torch.float32)
    torch.testing.assert_close(far, near, rtol=0, atol=1e-6)
    early = edge_vectors(build_graph(atoms, 3.0, dtype=torch.float32))  # control: cast first
    assert (early - near).abs().max() > 1e-4


@pytest.mark.gpu
def test_a_store_on_the_gpu_gives_the_same_batches():
    store = store_of(mixed_frames())
    assert_identical(store.to("cuda").batch([3, 7, 1]).to("cpu"), store.batch([3, 7, 1]))
