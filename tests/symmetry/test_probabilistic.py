"""Probabilistic symmetrisation: exact with noise that turns along, right on average with noise of its own."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph
from geomol.models.mpnn import MPNN
from geomol.models.pair_transformer import PairTransformer
from geomol.symmetry.canonical import Canonicalised
from geomol.symmetry.permutations import Ordering, hard_permutation, permutation_entropy, soft_permutation
from geomol.symmetry.pose_networks import VNDGCNN
from geomol.symmetry.probabilistic import ProbabilisticSymmetrisation
from geomol.symmetry.sampled import table_noise

ELEMENTS = [1, 6, 8]
POSES: dict[str, dict[str, Any]] = {
    "egnn_vectors": {"name": "egnn_vectors", "channels": 8, "num_noise": 2},
    "vn_deep_sets": {"name": "vn_deep_sets", "features": "p", "channels": 8, "num_layers": 2},
    "vn_dgcnn": {"name": "vn_dgcnn", "in_vectors": 0, "channels": 6},
    "vn_small": {"name": "vn_small", "num_neighbours": 4, "channels": 8},
}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class GivenNoise(ProbabilisticSymmetrisation):
    """Noise can be handed over, to turn it with the structure."""

    given: Tensor | None = None

    def noise(self, graph: Graph) -> Tensor:
        return super().noise(graph) if self.given is None else self.given


def backbone(**changes: Any) -> MPNN:
    torch.manual_seed(0)
    settings = {"elements": ELEMENTS, "channels": 12, "num_layers": 2, "cutoff": 4.0, "out_vectors": 1}
    model = MPNN(**{**settings, **changes}).double()
    model.calibrate(graph_of(atoms(), atoms(1)))  # else it hardly notices the orientation
    return model


def make(pose: str = "egnn_vectors", **changes: Any) -> GivenNoise:
    inner = backbone()
    torch.manual_seed(1)
    group = "SE(3)" if pose == "vn_small" else "E(3)"
    return GivenNoise(inner, pose=POSES[pose], **{"group": group, "samples": 4, **changes}).double().eval()


def atoms(seed: int = 0, name: str = "CH3CH2OH") -> Atoms:
    frame = molecule(name)
    frame.rattle(0.1, seed=seed)
    return frame


def graph_of(*frames: Atoms) -> Graph:
    return build_graph(list(frames), 4.0)


def moved(graph: Graph, turn: Tensor) -> Graph:
    vectors = None if graph.node_vectors is None else graph.node_vectors @ turn.T
    return graph.replace(pos=graph.pos @ turn.T + 1.5, node_vectors=vectors)


def vectors_of(model: nn.Module, graph: Graph) -> Tensor:
    vectors: Tensor = model(graph).vectors
    return vectors


@pytest.mark.parametrize("pose", POSES)
def test_with_noise_that_turns_along_every_sample_is_equivariant(pose: str) -> None:
    model, graph = make(pose), graph_of(atoms(), atoms(1, "CH3OH"))
    noise = model.noise(graph)
    turn = random_rotations(1, generator=gen())[0] * (1 if pose == "vn_small" else -1)
    model.given = noise
    here = model.sampled(graph)
    model.given = noise @ turn.T
    there = model.sampled(moved(graph, turn))
    assert here.vectors is not None
    assert there.vectors is not None
    assert here.vectors.abs().max() > 1e-3
    torch.testing.assert_close(there.scalars, here.scalars, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(there.vectors, here.vectors @ turn.T, atol=1e-7, rtol=1e-7)
    model.given = noise  # the control: noise that stays
    assert (model.sampled(moved(graph, turn)).scalars - here.scalars).abs().max() > 1e-4


def test_without_noise_one_sample_is_canonicalisation() -> None:
    for pose in ("egnn_vectors", "vn_dgcnn"):
        model = make(pose, samples=1, noise_scale=0.0)
        twin = Canonicalised(model.backbone, pose=copy.deepcopy(model.pose)).double().eval()
        graph = graph_of(atoms(), atoms(1, "CH3OH"))
        ours, theirs = model(graph), twin(graph)
        assert torch.equal(ours.scalars, theirs.scalars)
        assert torch.equal(ours.vectors, theirs.vectors)
        assert not model.symmetry.stochastic
    assert make().symmetry.stochastic


def test_the_symmetry_error_shrinks_with_the_root_of_the_number_of_samples() -> None:
    graph = graph_of(atoms())
    turns = random_rotations(24, generator=gen(5))
    error = {}
    for samples in (4, 64):
        wrong = []
        for seed, turn in enumerate(turns):
            model = make(samples=samples, seed=seed)
            with torch.no_grad():
                wrong.append(vectors_of(model, moved(graph, turn)) - vectors_of(model, graph) @ turn.T)
        error[samples] = float(torch.stack(wrong).square().mean().sqrt())
    assert 2.5 < error[4] / error[64] < 6.5  # 4 on average


def test_error_bars_are_the_spread_between_independent_seeds() -> None:
    graph = graph_of(atoms(), atoms(1, "CH3OH"))
    for antithetic in (False, True):
        found, totals, bars, total_bars = [], [], [], []
        for seed in range(30):
            model = make(samples=16, seed=seed, antithetic=antithetic)
            with torch.no_grad():
                spread = model.sample_spread(graph)
                torch.testing.assert_close(spread.mean.scalars, model(graph).scalars)
                torch.testing.assert_close(spread.mean.vectors, model(graph).vectors)
            found.append(spread.mean.scalars)
            totals.append(spread.total)
            bars.append(spread.error.scalars)
            total_bars.append(spread.total_error)
        for values, errors in ((found, bars), (totals, total_bars)):
            ratio = torch.stack(errors).square().mean(0).sqrt() / torch.stack(values).std(0)
            assert 0.75 < float(ratio.mean()) < 1.35
    total = torch.stack([part.sum(0) for part in spread.mean.scalars.split([9, 6])])
    torch.testing.assert_close(spread.total, total)


def test_error_bars_need_two_samples() -> None:
    with pytest.raises(ConfigError, match="two independent samples"):
        make(samples=1).sample_spread(graph_of(atoms()))
    with pytest.raises(ConfigError, match="two independent samples"):
        make(samples=2, antithetic=True).sample_spread(graph_of(atoms()))


def test_evaluation_repeats_and_does_not_depend_on_the_batch() -> None:
    model = make()
    small = atoms(1, "CH3OH")
    large = Atoms(
        "O100", positions=[[i % 5 * 1.9, i // 5 % 5 * 2.1, i // 25 * 2.3 + 0.1 * (i % 3)] for i in range(100)]
    )
    alone = model(graph_of(small)).scalars
    assert torch.equal(model(graph_of(small)).scalars, alone)
    model.reseed(7)  # as training does; evaluation takes no notice
    assert torch.equal(model(graph_of(small)).scalars, alone)
    torch.testing.assert_close(model(graph_of(large, small)).scalars[100:], alone, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(model(graph_of(small, large)).scalars[:6], alone, atol=1e-12, rtol=1e-12)
    assert (make(seed=1)(graph_of(small)).scalars - alone).abs().max() > 1e-5


def test_noise_of_evaluation_is_a_table_by_local_number() -> None:
    graph = graph_of(atoms(), atoms(1, "CH3OH"), atoms(2))
    noise = table_noise(graph, 3, 2, gen(1))
    assert noise.shape == (24, 3, 2, 3)
    assert torch.equal(noise[:9], noise[15:])
    assert torch.equal(noise[:6], noise[9:15])
    assert table_noise(graph, 500, 2, gen(1)).std() == pytest.approx(1.0, abs=0.02)


def test_training_draws_follow_from_the_number_of_the_step_alone() -> None:
    model, graph = make(samples=2, eval_samples=5).train(), graph_of(atoms(), atoms(1))
    model.reseed(3)
    first = model(graph).scalars
    model.reseed(4)
    assert (model(graph).scalars - first).abs().max() > 1e-5
    model.reseed(3)
    assert torch.equal(model(graph).scalars, first)
    noise = model.noise(graph)
    assert noise.shape == (18, 2, 2, 3)
    assert not torch.equal(noise[:9], noise[9:])  # every structure has its own
    assert model.eval().noise(graph).shape == (18, 5, 2, 3)


def test_antithetic_noise_comes_in_pairs_and_cancels_what_is_odd_in_it() -> None:
    model, graph = make(antithetic=True, samples=6), graph_of(atoms())
    noise = model.noise(graph)
    assert torch.equal(noise[:, ::2], -noise[:, 1::2])
    assert noise.std() > 0.8
    with pytest.raises(ConfigError, match="even"):
        make(antithetic=True, samples=3)


def test_noise_scale_scales_the_noise() -> None:
    graph = graph_of(atoms())
    torch.testing.assert_close(make(noise_scale=0.3).noise(graph), 0.3 * make().noise(graph))


# permutations


def particles(num: int = 2, size: int = 5, seed: int = 0) -> Graph:
    """Complete graphs of charged particles."""
    g = gen(seed)
    frames = [Atoms(f"X{size}", positions=2 * torch.randn(size, 3, generator=g).numpy()) for _ in range(num)]
    graph = build_graph(frames, math.inf, complete=True)
    charge = torch.randint(0, 2, (num * size, 1), generator=g).double() * 2 - 1
    return graph.replace(
        node_scalars=charge, node_vectors=torch.randn(num * size, 1, 3, generator=g, dtype=torch.float64)
    )


def ordered(**changes: Any) -> GivenNoise:
    torch.manual_seed(0)
    inner = PairTransformer(
        num_nodes=5, in_scalars=1, in_vectors=1, channels=8, num_heads=2, ff_channels=8, num_layers=1
    )
    nn.init.normal_(inner.code)
    pose = {"name": "vn_dgcnn", "channels": 6}
    settings: dict[str, Any] = {"samples": 3, "permutations": True, **changes}
    return GivenNoise(inner, pose=pose, **settings).double().eval()


def renumbered(graph: Graph, order: Tensor) -> Graph:
    """Nodes in another order; a complete graph stays the same graph."""
    assert graph.node_scalars is not None
    assert graph.node_vectors is not None
    return graph.replace(
        pos=graph.pos[order], node_scalars=graph.node_scalars[order], node_vectors=graph.node_vectors[order]
    )


def test_learned_orders_make_a_model_that_tells_nodes_apart_equivariant() -> None:
    model, graph = ordered(), particles()
    order = torch.cat([torch.randperm(5, generator=gen(1)), 5 + torch.randperm(5, generator=gen(2))])
    turn = -random_rotations(1, generator=gen())[0]
    noise = model.noise(graph)
    model.given = noise
    here = vectors_of(model, graph)
    model.given = noise[order] @ turn.T
    there = vectors_of(model, moved(renumbered(graph, order), turn))
    assert here.abs().max() > 1e-2
    torch.testing.assert_close(there, here[order] @ turn.T, atol=1e-8, rtol=1e-8)
    alone = vectors_of(model.backbone, graph)
    assert (vectors_of(model.backbone, renumbered(graph, order)) - alone[order]).abs().max() > 1e-2  # the control
    model = ordered(permutations=False)
    model.given = noise
    here = vectors_of(model, graph)
    model.given = noise[order]
    assert (vectors_of(model, renumbered(graph, order)) - here[order]).abs().max() > 1e-2  # and without orders


def test_permutation_matrices_are_exact() -> None:
    scores = torch.randn(20, 7, generator=gen(), dtype=torch.float64, requires_grad=True)
    hard = hard_permutation(scores)
    for matrix in (hard, hard + (soft := soft_permutation(scores, tau=0.1, iterations=20)) - soft.detach()):
        assert torch.equal(matrix.sum(1).round(decimals=12), torch.ones(20, 7).double())
        assert torch.equal(matrix.sum(2).round(decimals=12), torch.ones(20, 7).double())
    assert bool(((hard == 0) | (hard == 1)).all())
    ordering = Ordering(scores.flatten(), torch.arange(21) * 7, tau=0.1, iterations=20, straight_through=True)
    assert torch.equal(ordering.blocks[0][1], hard)  # the straight-through matrix has the same values, to the bit
    placed = torch.einsum("bij,bi->bj", hard, scores)
    assert torch.equal(placed, scores.sort(dim=1, descending=True).values)


def test_soft_permutations_are_doubly_stochastic_and_become_hard_when_cold() -> None:
    scores = torch.nn.functional.normalize(torch.randn(20, 7, generator=gen(), dtype=torch.float64), dim=-1)
    soft = soft_permutation(scores, tau=0.5, iterations=200)
    torch.testing.assert_close(soft.sum(1), torch.ones(20, 7).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(soft.sum(2), torch.ones(20, 7).double(), atol=1e-6, rtol=0)
    cold = soft_permutation(scores, tau=1e-5, iterations=20)
    torch.testing.assert_close(cold, hard_permutation(scores), atol=1e-6, rtol=0)


def test_entropy_is_zero_for_hard_and_largest_for_even_permutations() -> None:
    hard, even = torch.eye(5).double()[None], torch.full((1, 5, 5), 0.2).double()
    assert float(permutation_entropy(hard)) == pytest.approx(0, abs=1e-9)
    assert float(permutation_entropy(even)) == pytest.approx(2 * math.log(5))


def test_orders_of_structures_of_different_sizes_stay_within_them() -> None:
    ptr, scores = torch.tensor([0, 3, 3, 7, 10]), torch.tensor([0.1, 0.9, 0.5, 4, 3, 2, 1, -0.3, -0.1, -0.2]).double()
    ordering = Ordering(scores, ptr, tau=0.1, iterations=5, straight_through=False)
    assert ordering.place.tolist() == [2, 0, 1, 3, 4, 5, 6, 9, 7, 8]
    values = torch.arange(10).double()
    assert ordering.sort(values[:, None])[:, 0].tolist() == [1, 2, 0, 3, 4, 5, 6, 8, 9, 7]
    assert torch.equal(ordering.restore(ordering.sort(values[:, None]))[:, 0], values)


def test_a_sorted_graph_is_the_same_graph_with_other_numbers() -> None:
    graph = graph_of(atoms(), atoms(1, "CH3OH"))
    scores = torch.randn(15, generator=gen(), dtype=torch.float64)
    ordering = Ordering(scores, graph.ptr, tau=0.1, iterations=5, straight_through=False)
    model = backbone()
    found = ordering.restore(model(ordering.sort_graph(graph)).vectors)
    torch.testing.assert_close(found, model(graph).vectors, atol=1e-12, rtol=1e-12)
    assert not torch.equal(ordering.sort_graph(graph).pos, graph.pos)


def test_scores_learn_through_the_soft_permutation_in_training_only() -> None:
    model, graph = ordered(), particles()
    for training in (True, False):
        model.train(training)
        model.zero_grad()
        model(graph).vectors.square().sum().backward()
        grad = model.pose.score.weight.grad
        assert (grad is not None and float(grad.abs().max()) > 0) == training


def test_penalty_is_the_weighted_entropy_of_the_orders() -> None:
    model, graph = ordered(entropy_weight=0.5), particles()
    model(graph)
    penalty = model.penalty()
    ordering = model._draw(graph)[1]
    assert penalty is not None
    assert ordering is not None
    assert float(penalty.detach()) == pytest.approx(0.5 * float(ordering.entropy.detach()))
    assert penalty.requires_grad
    assert 0 < float(penalty.detach()) < math.log(5)
    plain = make()
    plain(graph_of(atoms()))
    assert plain.penalty() is None


def test_the_published_interface_has_6897_parameters() -> None:
    assert sum(p.numel() for p in VNDGCNN().parameters()) == 6897


def test_a_configuration_makes_an_equal_model() -> None:
    for model, inner in ((make("vn_dgcnn", seed=3), backbone()), (ordered(), ordered().backbone)):
        twin = ProbabilisticSymmetrisation(inner, **model.config).double().eval()  # type: ignore[arg-type]
        twin.load_state_dict(model.state_dict())
        graph = particles() if model.permutations else graph_of(atoms())
        assert torch.equal(vectors_of(twin, graph), vectors_of(model, graph))


def test_settings_that_cannot_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match="scores"):
        make(permutations=True)
    with pytest.raises(ConfigError, match="reads no noise"):
        ProbabilisticSymmetrisation(backbone(), pose={"name": "egnn_vectors"})
    with pytest.raises(ConfigError, match="samples"):
        make(samples=0)
