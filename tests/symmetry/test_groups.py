"""Groups of motions: what belongs to them, how they are drawn, and what generates them."""

from __future__ import annotations

import itertools

import pytest
import torch

from geomol.checks import disordered_crystals, disordered_molecules
from geomol.errors import ConfigError
from geomol.graph import build_graph
from geomol.symmetry.actions import act_on_graph
from geomol.symmetry.groups import (
    GROUPS,
    Element,
    axis_rotations,
    identity,
    is_permutation,
    mirror,
    random_images,
    random_permutation,
    random_reflections,
    reflection,
    rotation_generator,
    scale_generator,
    translation_generators,
)

Z = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
EYE, ZERO = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


MEMBERS = {
    "translation": Element(EYE, Z),
    "rotation": Element(GROUPS["SO(3)"].sample(1, generator=rng(3)).rotation[0], ZERO),
    "reflection": Element(reflection(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)), ZERO),
    "inversion": Element(-EYE, ZERO),
    "quarter turn": axis_rotations(Z).generators[0].element(torch.pi / 2),
    "fifth turn": rotation_generator(torch.tensor([0.0, 1.0, (1 + 5**0.5) / 2]), "").element(2 * torch.pi / 5),
    "stretch": Element(1.01 * EYE, ZERO),
}
BELONGS = {
    "1": set(),
    "T(3)": {"translation"},
    "SO(3)": {"rotation", "quarter turn", "fifth turn"},
    "O(3)": {"rotation", "quarter turn", "fifth turn", "reflection", "inversion"},
    "SE(3)": {"translation", "rotation", "quarter turn", "fifth turn"},
    "E(3)": {"translation", "rotation", "quarter turn", "fifth turn", "reflection", "inversion"},
    "inversion": {"inversion"},
    "octahedral rotations": {"quarter turn"},
    "octahedral": {"quarter turn", "inversion"},
    "icosahedral rotations": {"fifth turn"},
    "icosahedral": {"fifth turn", "inversion"},
}


def test_the_table_of_members_covers_every_group():
    assert set(BELONGS) == set(GROUPS)


@pytest.mark.parametrize(("name", "member"), list(itertools.product(BELONGS, MEMBERS)))
def test_groups_contain_what_they_should_and_nothing_else(name, member):
    assert GROUPS[name].contains(MEMBERS[member], tolerance=1e-6) == (member in BELONGS[name])


@pytest.mark.parametrize("name", list(GROUPS))
def test_samples_belong_to_their_group_and_repeat_with_their_seed(name):
    group = GROUPS[name]
    drawn = group.sample(40, generator=rng(1), reach=3.0)
    assert group.contains(drawn)
    again = group.sample(40, generator=rng(1), reach=3.0)
    assert torch.equal(drawn.rotation, again.rotation)
    assert torch.equal(drawn.translation, again.translation)
    assert float(drawn.translation.abs().max()) <= 3.0
    assert bool(drawn.translation.any()) == group.translations


@pytest.mark.parametrize("name", ["SO(3)", "O(3)"])
def test_rotations_are_uniform(name):
    """Schur: ⟨R⟩ = 0, ⟨R_ij R_kl⟩ = δ_ik δ_jl / 3; the mean squared trace is 1."""
    r = GROUPS[name].sample(20000, generator=rng(2)).rotation
    assert float(r.mean(0).abs().max()) < 0.02
    second = torch.einsum("bij,bkl->ijkl", r, r) / len(r)
    expected = torch.einsum("ik,jl->ijkl", EYE, EYE) / 3
    assert float((second - expected).abs().max()) < 0.02
    assert float(r.diagonal(dim1=1, dim2=2).sum(1).square().mean()) == pytest.approx(1.0, abs=0.05)


def test_half_of_the_full_orthogonal_group_are_reflections():
    det = torch.linalg.det(GROUPS["O(3)"].sample(4000, generator=rng(4)).rotation)
    assert float((det < 0).double().mean()) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("1", 1),
        ("inversion", 2),
        ("octahedral rotations", 24),
        ("octahedral", 48),
        ("icosahedral rotations", 60),
        ("icosahedral", 120),
    ],
)
def test_finite_groups_are_closed_and_of_the_right_order(name, order):
    group = GROUPS[name]
    assert len(group.elements) == order
    products = torch.einsum("aij,bjk->abik", group.elements, group.elements).reshape(-1, 3, 3)
    assert bool(group.is_member(products, 1e-9).all())
    distance = (group.elements[:, None] - group.elements).abs().amax((2, 3)) + 9 * torch.eye(order)
    assert float(distance.min()) > 0.1, "all elements differ"


def test_turns_about_an_axis_keep_it_and_a_mirror_is_its_own_inverse():
    axis = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    group = axis_rotations(axis)
    turns = group.sample(50, generator=rng())
    assert torch.allclose(turns.rotation @ axis, axis.expand(50, 3))
    assert group.contains(turns)
    assert not group.contains(MEMBERS["quarter turn"])
    matrix = mirror(axis).elements[1]
    assert torch.allclose(matrix @ axis, -axis)
    assert torch.allclose(matrix @ matrix, EYE)
    planes = random_reflections(20, generator=rng())
    assert torch.allclose(torch.linalg.det(planes), -torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("name", ["T(3)", "SO(3)", "E(3)"])
def test_generators_lead_into_their_group(name):
    group = GROUPS[name]
    assert len(group.generators) == {"T(3)": 3, "SO(3)": 3, "E(3)": 6}[name]
    for generator in group.generators:
        assert group.contains(generator.element(0.7))
        step = 1e-6
        ahead = generator.element(step)
        assert torch.allclose((ahead.rotation - EYE) / step, generator.matrix, atol=1e-5)
        assert torch.allclose(ahead.translation / step, generator.shift)


def test_a_rotation_generator_is_the_cross_product():
    axis, x = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64), torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64)
    expected = torch.linalg.cross(axis / axis.norm(), x)
    assert torch.allclose(rotation_generator(axis, "n").matrix @ x, expected)


def test_a_scaling_is_no_motion():
    with pytest.raises(ConfigError, match="scaling"):
        scale_generator().element(0.1)
    assert [g.name for g in translation_generators()] == ["translation x", "translation y", "translation z"]


def test_an_element_and_its_inverse_undo_each_other():
    graph = build_graph(disordered_crystals(3), 4.0)
    motion = GROUPS["E(3)"].sample(graph.num_graphs, generator=rng(5))
    element = Element(
        motion.rotation,
        motion.translation,
        random_permutation(graph, generator=rng(6)),
        random_images(graph, generator=rng(7)),
    )
    back = act_on_graph(element.inverse(), act_on_graph(element, graph))
    assert torch.allclose(back.pos, graph.pos, atol=1e-12)
    assert torch.allclose(back.cell, graph.cell, atol=1e-12)
    assert torch.equal(back.numbers, graph.numbers)
    assert not torch.allclose(act_on_graph(element, graph).pos, graph.pos)
    assert torch.equal(act_on_graph(identity(), graph).pos, graph.pos)


def test_permutations_stay_within_structures_and_reach_every_order():
    graph = build_graph(disordered_molecules(3), 5.0)
    drawn = [random_permutation(graph, generator=rng(seed)) for seed in range(5)]
    assert all(is_permutation(p, graph) for p in drawn)
    assert not is_permutation(torch.arange(graph.num_nodes).flip(0), graph)
    assert not is_permutation(torch.zeros(graph.num_nodes, dtype=torch.int64), graph)
    small = build_graph(disordered_molecules(4)[3], 5.0)  # water
    generator = rng()
    orders = {tuple(random_permutation(small, generator=generator).tolist()) for _ in range(100)}
    assert len(orders) == 6


def test_images_go_along_periodic_directions_only():
    frames = disordered_crystals(2)
    frames[0].pbc = [True, False, True]
    graph = build_graph(frames, 3.0)
    images = random_images(graph, generator=rng(), reach=3)
    assert bool(images.any())
    assert not bool((images * ~graph.pbc[graph.batch]).any())
