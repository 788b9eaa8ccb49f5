"""Probabilistic symmetrisation: exact with noise that turns along, right on average with noise of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from ase import Atoms
from symmetry.canonical_case import atoms, gen, graph_of
from symmetry.probabilistic_case import POSES, backbone, make, moved, ordered, particles, vectors_of

from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.symmetry.canonical import Canonicalised
from geomol.symmetry.pose_networks import VNDGCNN
from geomol.symmetry.probabilistic import ProbabilisticSymmetrisation
from geomol.symmetry.sampled import table_noise


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
