"""Graphs to and from ASE, PyTorch Geometric and RDKit, without loss; PyG's own loader and SchNet on our graphs."""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import SchNet

from geomol.errors import ConfigError, InputError
from geomol.graph import (
    GraphDataset,
    GraphStore,
    build_graph,
    edge_vectors,
    graph_from_atoms,
    graph_from_pyg,
    graph_from_rdkit,
    graph_to_atoms,
    graph_to_pyg,
    graph_to_rdkit,
)


def frames():
    slab = ase.Atoms(
        "NaCl", [[0.1, 0, 0], [1.6, 22.0, -2.4]], cell=[[3, 0.1, 0], [0, 4, 0], [0.2, 0, 9]], pbc=[1, 0, 1]
    )
    return [molecule("CH3CH2OH"), slab, ase.Atoms("He"), bulk("Si")]


def assert_same_fields(left, right):
    assert left.cutoff == right.cutoff
    for name in ("pos", "numbers", "edge_index", "edge_ptr", "cell_shift", "cell", "pbc", "batch", "ptr"):
        a, b = getattr(left, name), getattr(right, name)
        assert a.dtype == b.dtype, name
        assert torch.equal(a, b), name
    for name in ("node_scalars", "node_vectors"):
        a, b = getattr(left, name), getattr(right, name)
        assert (a is None and b is None) or torch.equal(a, b), name


def test_ase_structures_come_back_bit_for_bit():
    for before, after in zip(frames(), graph_to_atoms(graph_from_atoms(frames(), 4.1)), strict=True):
        assert np.array_equal(before.positions, after.positions)
        assert np.array_equal(before.numbers, after.numbers)
        assert np.array_equal(before.cell.array, after.cell.array)
        assert np.array_equal(before.pbc, after.pbc)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chosen", [slice(0, 1), slice(1, 2), slice(2, 3), slice(0, 4)])
def test_pyg_data_come_back_bit_for_bit(chosen, dtype):
    graph = build_graph(frames()[chosen], 4.1, dtype=dtype)
    num = graph.num_nodes
    graph = graph.replace(node_scalars=torch.rand(num, 2, dtype=dtype), node_vectors=torch.rand(num, 1, 3, dtype=dtype))
    data = graph_to_pyg(graph)
    assert isinstance(data, Batch) == (graph.num_graphs > 1)
    assert_same_fields(graph_from_pyg(data), graph)


def test_pyg_batches_of_single_data_are_the_graph_of_the_batch():
    """PyG's own collation increments our edges as it should."""
    singles = [graph_to_pyg(build_graph(atoms, 4.1)) for atoms in frames()]
    assert_same_fields(graph_from_pyg(Batch.from_data_list(singles)), build_graph(frames(), 4.1))
    back = graph_to_pyg(build_graph(frames(), 4.1)).to_data_list()
    assert all(torch.equal(a.edge_index, b.edge_index) for a, b in zip(singles, back, strict=True))


def test_foreign_pyg_edges_are_sorted_by_receiver_and_keep_their_direction():
    edge_index = torch.tensor([[0, 2, 1, 0], [2, 1, 0, 1]])
    data = Data(z=torch.tensor([8, 1, 1]), pos=torch.rand(3, 3), edge_index=edge_index)
    graph = graph_from_pyg(data)
    assert graph.edge_index.tolist() == [[1, 2, 0, 0], [0, 1, 1, 2]]
    assert graph.edge_ptr.tolist() == [0, 1, 3, 4]
    assert graph.cutoff == float("inf")
    vectors = edge_vectors(graph)
    assert torch.equal(vectors[0], data.pos[1] - data.pos[0])


def test_pyg_data_without_edges_get_neighbours():
    made = graph_to_pyg(build_graph(frames(), 4.1))
    bare = Batch.from_data_list([Data(z=d.z, pos=d.pos, cell=d.cell, pbc=d.pbc) for d in made.to_data_list()])
    assert_same_fields(graph_from_pyg(bare, cutoff=4.1), build_graph(frames(), 4.1))
    points = Data(pos=torch.arange(15.0).reshape(5, 3).mul(0.3).requires_grad_())
    graph = graph_from_pyg(points, cutoff=2.0)
    assert graph.numbers.tolist() == [0] * 5
    assert graph.pos is points.pos


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": None}, "PyG data has no positions"),
        (
            {"edge_index": torch.tensor([[0], [7]])},
            "nodes that do not exist, expected 0 to 1, got 0 to 7",
        ),
        ({"batch": torch.tensor([0, 1])}, "an edge joins nodes of two structures"),
        ({"batch": torch.tensor([1, 0])}, "not grouped by structure"),
        ({"pbc": torch.ones(1, 3, dtype=torch.bool)}, "edges without cell_shift"),
    ],
)
def test_bad_pyg_data_are_refused(change, message):
    data = Data(pos=torch.rand(2, 3), edge_index=torch.tensor([[0], [1]]))
    for name, value in change.items():
        data[name] = value
    with pytest.raises(InputError, match=message):
        graph_from_pyg(data)


def test_pyg_data_without_edges_and_cutoff_are_refused():
    with pytest.raises(ConfigError, match="cutoff is not a number"):
        graph_from_pyg(Data(pos=torch.rand(2, 3)))


def embedded(smiles, seed=1):
    chem = pytest.importorskip("rdkit.Chem")
    from rdkit.Chem import AllChem

    mol = chem.AddHs(chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol


def test_rdkit_molecules_come_back_with_bonds_charges_and_positions():
    from rdkit import Chem

    mols = [embedded(smiles) for smiles in ("CCO", "[NH3+]CC(=O)[O-]", "c1ccccc1")]
    graph = graph_from_rdkit(mols, 3.0)
    assert graph.num_graphs == 3
    for before, after in zip(mols, graph_to_rdkit(graph, mols), strict=True):
        assert np.array_equal(before.GetConformer().GetPositions(), after.GetConformer().GetPositions())
        assert Chem.MolToSmiles(before) == Chem.MolToSmiles(after)
    bare = graph_to_rdkit(graph)
    assert [mol.GetNumBonds() for mol in bare] == [0, 0, 0]
    assert_same_fields(graph_from_rdkit(bare, 3.0), graph)


def test_rdkit_conformers_are_chosen_by_their_id():
    from rdkit.Chem import AllChem

    mol = embedded("CCO")
    AllChem.EmbedMultipleConfs(mol, 3, randomSeed=5)
    found = graph_from_rdkit(mol, complete=True, conformer=2)
    assert np.array_equal(found.pos.numpy(), mol.GetConformer(2).GetPositions())
    with pytest.raises(InputError, match=r"no such conformer, expected conformer 9, got ids \[0, 1, 2\]"):
        graph_from_rdkit(mol, 3.0, conformer=9)


def test_rdkit_molecules_without_positions_are_refused():
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.MolFromSmiles("CCO")
    with pytest.raises(InputError, match=r"molecule 0: RDKit molecule has no conformer.*EmbedMolecule"):
        graph_from_rdkit(mol, 3.0)
    drawing = Chem.MolFromSmiles("CCOCC")
    AllChem.Compute2DCoords(drawing)
    with pytest.raises(InputError, match="drawing in the plane"):
        graph_from_rdkit(drawing, 3.0)
    with pytest.raises(InputError, match="structure 0: template has other atoms"):
        graph_to_rdkit(build_graph(molecule("H2O"), 3.0), [mol])


@pytest.fixture
def dataset():
    generator = np.random.default_rng(0)
    structures = [a for _ in range(5) for a in frames()]
    for atoms in structures:
        atoms.positions += generator.normal(scale=0.05, size=atoms.positions.shape)
    store = GraphStore.from_arrays(
        np.concatenate([a.positions for a in structures]),
        np.concatenate([a.numbers for a in structures]),
        np.cumsum([0] + [len(a) for a in structures]),
        np.array([a.cell.array for a in structures]),
        np.array([a.pbc for a in structures]),
        4.1,
    )
    energy = torch.arange(20, dtype=torch.float64)
    return structures, GraphDataset(store, graph_labels={"energy": energy}, node_labels={"forces": store.pos * 2})


def test_pyg_loader_gives_our_batches_with_their_labels(dataset):
    structures, data = dataset
    seen = []
    for batch in DataLoader(data, batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(0)):
        chosen = batch.energy.long().tolist()
        seen += chosen
        assert_same_fields(graph_from_pyg(batch), build_graph([structures[i] for i in chosen], 4.1))
        assert torch.equal(batch.forces, 2 * batch.pos)
    assert sorted(seen) == list(range(20))
    assert torch.equal(data[-1].pos, data[19].pos)
    assert len(list(data)) == 20


def test_labels_of_another_length_are_refused(dataset):
    _, data = dataset
    with pytest.raises(InputError, match="label energy has a wrong length, expected 20, got 3"):
        GraphDataset(data.store, graph_labels={"energy": torch.zeros(3)})


def schnet_energy(graph):
    """PyG's SchNet with our edges in place of its radius_graph."""
    lengths = torch.linalg.norm(edge_vectors(graph), dim=1)
    model = SchNet(
        hidden_channels=16,
        num_filters=16,
        num_interactions=2,
        interaction_graph=lambda pos, batch: (graph.edge_index, lengths),
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.double()(graph.numbers, graph.pos, graph.batch).squeeze(-1)


def test_schnet_of_pyg_is_invariant_on_our_graphs(dataset):
    _, data = dataset
    index = torch.tensor([0, 1, 3, 6])
    rotation = torch.linalg.qr(torch.randn(4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    energy = schnet_energy(data.store.batch(index))
    turned = schnet_energy(data.store.batch(index, rotation=rotation))
    other = schnet_energy(data.store.batch(index + 4))  # control: other positions of the same atoms
    singles = torch.cat([schnet_energy(data.store.batch([i])) for i in index.tolist()])
    torch.testing.assert_close(turned, energy, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(singles, energy, rtol=1e-11, atol=1e-12)
    assert (other - energy).abs().max() > 1e-4
