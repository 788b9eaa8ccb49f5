"""The table of distances gives the same graphs as the search, for any mixture of sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from geomol.errors import ConfigError
from geomol.graph import brute_force_neighbour_list, build_graph
from geomol.graph.dense_pairs import DensePairs, dense_graph

FIELDS = (
    "pos",
    "numbers",
    "edge_index",
    "edge_ptr",
    "cell_shift",
    "cell",
    "pbc",
    "batch",
    "ptr",
    "send_perm",
    "send_ptr",
)


def molecules(sizes: list[int], seed: int = 0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    return [Atoms("C" * n, positions=rng.uniform(0, 2 + n**0.5, (n, 3))) for n in sizes]


def arrays(frames: list[Atoms]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pos = torch.from_numpy(np.concatenate([a.positions for a in frames]))
    sizes = torch.tensor([len(a) for a in frames])
    return pos, torch.full((len(pos),), 6), torch.nn.functional.pad(sizes.cumsum(0), (1, 0))


@pytest.mark.parametrize("sizes", [[1], [21], [9] * 8, [1, 12, 3, 3, 30], [5, 5, 4], [2, 2, 2, 1]])
@pytest.mark.parametrize("cutoff", [0.8, 3.0, 100.0])
@pytest.mark.filterwarnings("ignore:.*closer than")
def test_the_graph_is_that_of_the_search_field_by_field(sizes: list[int], cutoff: float) -> None:
    frames = molecules(sizes)
    expected = build_graph(frames, cutoff)
    found = dense_graph(*arrays(frames), cutoff)
    for name in FIELDS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.cutoff == cutoff
    assert not found.is_periodic


def test_the_pairs_are_those_of_the_obvious_loop() -> None:
    (molecule,) = molecules([25], seed=3)
    dst, src, _ = brute_force_neighbour_list(molecule.positions, np.zeros((3, 3)), np.zeros(3, bool), 2.5)
    graph = dense_graph(*arrays([molecule]), 2.5)
    assert sorted(zip(dst.tolist(), src.tolist(), strict=True)) == list(
        zip(graph.dst.tolist(), graph.src.tolist(), strict=True)
    )
    # control: a pair that a somewhat smaller cutoff loses is seen
    assert dense_graph(*arrays([molecule]), 2.4).num_edges < graph.num_edges


def test_a_table_serves_all_positions_of_its_structures() -> None:
    frames = molecules([7, 4])
    pos, numbers, ptr = arrays(frames)
    table = DensePairs(ptr, 2.5)
    for seed in range(3):
        moved = pos + 0.5 * torch.randn(pos.shape, dtype=pos.dtype, generator=torch.Generator().manual_seed(seed))
        once = dense_graph(moved, numbers, ptr, 2.5, table=table)
        assert torch.equal(once.edge_index, dense_graph(moved, numbers, ptr, 2.5).edge_index)


def test_one_structure_knows_nothing_of_another() -> None:
    one, other = molecules([6, 6])
    other.positions = one.positions + 0.3  # in the midst of the first
    graph = dense_graph(*arrays([one, other]), 3.0)
    assert torch.equal(graph.batch[graph.src], graph.batch[graph.dst])
    assert torch.equal(graph.src[graph.batch[graph.dst] == 0], dense_graph(*arrays([one]), 3.0).src)


def test_a_structure_that_broke_down_leaves_the_others_alone() -> None:
    frames = molecules([5, 5])
    pos, numbers, ptr = arrays(frames)
    whole = dense_graph(pos, numbers, ptr, 3.0)
    pos = pos.clone()
    pos[7] = torch.nan
    graph = dense_graph(pos, numbers, ptr, 3.0)
    assert torch.equal(graph.edge_ptr[:6], whole.edge_ptr[:6])
    assert not bool((graph.edge_index == 7).any())


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan")])
def test_a_cutoff_that_is_no_length_is_refused(cutoff: float) -> None:
    with pytest.raises(ConfigError, match="cutoff out of range"):
        DensePairs(torch.tensor([0, 2]), cutoff)
