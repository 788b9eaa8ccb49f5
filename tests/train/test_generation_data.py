"""What a generator learns from: batches of one size in a seeded order, structures, bonds, hydrogens left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule

from geomol.data import Structures, bond_thresholds
from geomol.diffusion import pairs_of
from geomol.generate.bonds import edm_bonds
from geomol.geometry import random_rotations
from geomol.train import parse_config
from geomol.train.generation_task import MoleculePart, prepare_generation
from geomol.train.tasks import seeded


def part_of(sizes: np.ndarray) -> MoleculePart:
    """Structures of nothing but sizes."""
    counts = torch.from_numpy(sizes)
    total = int(counts.sum())
    return MoleculePart(
        torch.zeros(total, 3),
        torch.zeros(total, dtype=torch.long),
        counts,
        counts.cumsum(0) - counts,
        None,
        None,
        torch.eye(1),
        1.0,
    )


# order


@pytest.mark.parametrize(("num", "batch"), [(1000, 7), (64, 64), (5, 8), (10_000, 32)])
def test_an_epoch_is_a_permutation_that_follows_the_seed_alone(num: int, batch: int) -> None:
    part = part_of(np.random.default_rng(0).integers(3, 30, num))
    orders = [part.order(seeded(seed, 1, 0), batch) for seed in (0, 0, 1)]
    assert orders[0].sort().values.tolist() == list(range(num))
    assert torch.equal(orders[0], orders[1])
    if num > 10:
        assert not torch.equal(orders[0], orders[2])


def test_molecules_of_a_batch_are_of_nearly_one_size_in_ever_new_company() -> None:
    part = part_of(np.random.default_rng(0).integers(3, 30, 6400))
    first, second = (part.order(seeded(0, 1, epoch), 32) for epoch in (0, 1))

    def spread(order: torch.Tensor) -> float:
        sizes = part.sizes[order].view(-1, 32)
        return float((sizes.max(1).values - sizes.min(1).values).double().mean())

    assert spread(first) < 1.5
    assert spread(torch.randperm(6400)) > 20, "the control"
    # batches come in random order of size, not from small to large
    means = part.sizes[first].view(-1, 32).double().mean(1)
    assert abs(float(np.corrcoef(np.arange(200), means)[0, 1])) < 0.25
    companions = [{frozenset(row.tolist()) for row in order.view(-1, 32)} for order in (first, second)]
    assert not companions[0] & companions[1]


# batches


def test_a_batch_holds_the_structures_centred_in_units_of_the_denoiser(settings_of, small_molecules) -> None:
    prepared = prepare_generation(parse_config(settings_of(dtype="float64")))
    data, model = prepared.parts["train"], prepared.model
    index = torch.tensor([3, 0, 17])
    clean, labels = prepared.train.batch(index)
    assert labels is None
    for k, row in enumerate(index.tolist()):
        rows = slice(int(clean.cloud.ptr[k]), int(clean.cloud.ptr[k + 1]))
        atoms = data.to_atoms(row)
        expected = atoms.positions - atoms.positions.mean(0)
        assert np.allclose(clean.cloud.pos[rows] * model.length_unit, expected, atol=1e-12)
        assert [model.elements[t] for t in clean.types[rows]] == atoms.numbers.tolist()
        assert torch.equal(clean.cloud.feats[rows].argmax(1), clean.types[rows])
        assert float(clean.cloud.feats[rows].sum()) == pytest.approx(0.25 * len(atoms))
    encoded = model.encode(
        torch.from_numpy(data.pos), torch.from_numpy(data.numbers), torch.from_numpy(np.asarray(data.ptr))
    )
    whole = prepared.train.batch(torch.arange(len(data)))[0]
    assert torch.allclose(encoded.pos, whole.cloud.pos, atol=1e-12)
    assert torch.equal(encoded.feats, whole.cloud.feats)
    turn = random_rotations(3, generator=torch.Generator().manual_seed(0))
    turned = prepared.train.batch(index, turn)[0]
    assert torch.allclose(turned.cloud.pos, torch.einsum("nij,nj->ni", turn[clean.cloud.batch], clean.cloud.pos))
    assert torch.equal(turned.orders, clean.orders)


def test_bonds_from_thresholds_are_those_of_the_table(settings_of) -> None:
    prepared = prepare_generation(parse_config(settings_of()))
    data = prepared.parts["train"]
    clean = prepared.train.batch(torch.arange(len(data)))[0]
    expected = []
    for matrix, n in zip(edm_bonds(data), data.n_atoms, strict=True):
        i, j = np.triu_indices(n, 1)
        expected.append(np.asarray(matrix)[i, j])
    assert np.array_equal(clean.orders.numpy(), np.concatenate(expected))
    assert set(clean.orders.tolist()) >= {0, 1, 2}


def test_thresholds_of_clean_qm9_molecules_give_their_table(benchmark_data) -> None:
    from geomol.data import load_qm9

    data = load_qm9()[0].subset(np.arange(0, 120_000, 1200))
    elements = data.elements()
    ptr = torch.from_numpy(np.asarray(data.ptr, dtype=np.int64))
    pairs = pairs_of(ptr).numpy()
    types = np.searchsorted(elements, data.numbers)
    length = np.linalg.norm(data.pos[pairs[0]] - data.pos[pairs[1]], axis=1)
    orders = (length[:, None] < bond_thresholds(elements)[types[pairs[0]], types[pairs[1]]]).sum(1)
    expected = np.concatenate(
        [np.asarray(m)[np.triu_indices(n, 1)] for m, n in zip(edm_bonds(data), data.n_atoms, strict=True)]
    )
    assert np.array_equal(orders, expected)
    assert set(orders) == {0, 1, 2, 3}


def test_bond_thresholds_never_rise_and_are_symmetric() -> None:
    table = bond_thresholds([1, 6, 7, 8, 9])
    assert (table[..., 1:] <= table[..., :-1]).all()
    assert np.array_equal(table, table.transpose(1, 0, 2))
    assert table[1, 1].tolist() == [1.64, 1.39, 1.23]
    assert table[0, 1].tolist() == [pytest.approx(1.19), -np.inf, -np.inf]


def test_hydrogens_can_be_left_out(settings_of, small_molecules) -> None:
    bare = small_molecules.without_hydrogens()
    assert 1 not in bare.numbers
    for i in (0, 1, 5, 47):
        atoms = small_molecules.to_atoms(i)
        assert np.array_equal(bare.to_atoms(i).positions, atoms.positions[atoms.numbers != 1])
    prepared = prepare_generation(parse_config(settings_of({"hydrogens": False})))
    assert prepared.model.elements == (6, 7, 8)
    assert max(prepared.model.sizes) == 6
    with pytest.raises(ValueError, match="no atom but hydrogen"):
        Structures.from_atoms([molecule("CH4"), molecule("H2")]).without_hydrogens()
