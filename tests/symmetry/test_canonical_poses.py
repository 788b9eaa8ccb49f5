"""Poses of structures that have hardly one: finite everywhere, named where they jump, continuous where softened."""

from __future__ import annotations

import math

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from symmetry.canonical_case import atoms, error, gen, graph_of, make, moved
from torch import Tensor

from geomol.errors import ConfigError, GeomolWarning
from geomol.geometry import random_rotations
from geomol.graph import Graph
from geomol.symmetry.canonical import Canonicalised
from geomol.symmetry.gram_schmidt import gram_schmidt

WITH_A_POSE = {
    "an atom": Atoms("O", [[1.0, 2.0, 3.0]]),
    "two equal atoms": Atoms("O2", [[0, 0, 0], [0.3, 0.9, 0.5]]),
    "linear": molecule("CO2"),
    "planar with an axis": molecule("H2O"),
    "planar": molecule("HCOOH"),
    "mirror plane": molecule("CH3CH2OH"),
}
TRIANGLE = [[math.cos(k * math.pi / 1.5), math.sin(k * math.pi / 1.5), 0] for k in range(3)]
WITHOUT_A_POSE = {"planar with a three-fold axis": Atoms("O3", TRIANGLE), "cubic": molecule("CH4")}


def sums_of_poses(model: Canonicalised, graph: Graph) -> list[Tensor]:
    turns = random_rotations(4, generator=gen(1))
    return [model(moved(graph, sign * turn)).scalars.sum(0).detach() for turn in turns for sign in (1, -1)]


@pytest.mark.parametrize("group", ["E(3)", "SE(3)"])
@pytest.mark.parametrize("name", WITH_A_POSE)
def test_structures_with_a_symmetry_of_their_own_keep_their_scalars(name: str, group: str) -> None:
    graph, model = graph_of(WITH_A_POSE[name]), make(group=group)
    rotation = model.poses(graph).rotation
    torch.testing.assert_close(rotation.mT @ rotation, torch.eye(3).double()[None], atol=1e-12, rtol=0)
    found = sums_of_poses(model, graph)
    if group == "SE(3)":  # chiral for the network where the molecule is not
        found = found[::2]
    for scalars in found:
        torch.testing.assert_close(scalars, found[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", WITHOUT_A_POSE)
def test_structures_without_a_pose_are_finite_and_named(name: str) -> None:
    graph, model = graph_of(WITHOUT_A_POSE[name]), make()
    pos = graph.pos.clone().requires_grad_(True)
    with pytest.warns(GeomolWarning, match="1 of 1 structures leave the pose network without a pose"):
        scalars = model(graph.replace(pos=pos)).scalars
    (grad,) = torch.autograd.grad(scalars.sum(), pos)
    assert bool(grad.isfinite().all())
    found = sums_of_poses(model, graph)  # warns once only
    assert max(float((s - found[0]).abs().max()) for s in found) > 1e-6  # what the warning is about
    soft = make(softness=1e-2)
    found = sums_of_poses(soft, graph)
    assert max(float((s - found[0]).abs().max()) for s in found) < 1e-7


def test_a_pose_network_that_reads_too_little_is_named() -> None:
    """On a complete graph the layers of deep sets multiply all positions by the same numbers, whose mean is zero."""
    graph = graph_of(atoms(0, "CH3OH"))
    assert graph.num_edges == 6 * 5
    assert make("vn_deep_sets").pose(graph).axes.abs().max() < 1e-5  # the offset in divisions
    with pytest.warns(GeomolWarning, match="reads too little"):
        make("vn_deep_sets").float()(graph)


def test_plain_gram_schmidt_would_not_stay_finite() -> None:
    v = torch.tensor([1.0, 2.0, 3.0]).double()
    collinear = torch.stack([v, 2 * v, -v], dim=-1)
    w = collinear[:, 1] - collinear[:, 1] @ v / (v @ v) * v
    assert not bool((w / w.norm()).isfinite().all())
    eye = torch.eye(3).double()
    for matrix in (collinear, torch.zeros(3, 3).double()):
        for third in ("free", "cross", "determinant"):
            ours = gram_schmidt(matrix, third=third)
            torch.testing.assert_close(ours.T @ ours, eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(gram_schmidt(collinear)[:, 0], v / v.norm())
    assert torch.equal(gram_schmidt(torch.zeros(3, 3)), torch.eye(3))
    soft = gram_schmidt(collinear, softness=1e-3)
    assert soft[:, 1:].abs().max() < 1e-3


def test_gram_schmidt_is_that_of_a_qr_decomposition_and_equivariant() -> None:
    m = torch.randn(50, 3, 3, generator=gen(), dtype=torch.float64)
    q, r = torch.linalg.qr(m)
    q = q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None, :]
    torch.testing.assert_close(gram_schmidt(m), q, atol=1e-9, rtol=0)
    turn = random_rotations(50, generator=gen(1))
    for third, sign in (("free", -1), ("cross", 1), ("determinant", 1)):
        ours = gram_schmidt(m, third=third)
        torch.testing.assert_close(gram_schmidt(sign * turn @ m, third=third), sign * turn @ ours, atol=1e-9, rtol=0)
        if third != "free":
            torch.testing.assert_close(torch.linalg.det(ours), torch.ones(50).double(), atol=1e-9, rtol=0)
    with pytest.raises(ConfigError, match="third axis"):
        gram_schmidt(m, third="left")


def test_gram_schmidt_has_the_derivatives_of_finite_differences() -> None:
    m = torch.randn(4, 3, 3, generator=gen(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gram_schmidt, (m,))
    assert torch.autograd.gradgradcheck(gram_schmidt, (m,))


def test_softness_makes_poses_continuous_through_planar_structures() -> None:
    """Three vectors become coplanar and then change hand: the third axis jumps, unless it may shorten."""
    planes = [torch.tensor([[1.0, 0.2, 0.1], [0.0, 1.0, 0.3], [0.0, 0.0, z]]).double() for z in (-1e-4, 1e-4)]
    jump = [gram_schmidt(m) for m in planes]
    soft = [gram_schmidt(m, softness=0.1) for m in planes]
    assert (jump[1] - jump[0]).abs().max() > 1
    assert (soft[1] - soft[0]).abs().max() < 1e-2
    assert make(softness=0.1).symmetry.continuous
    assert not make().symmetry.continuous
    assert error(make(softness=0.3), graph_of(atoms()), -random_rotations(1, generator=gen())[0]) < 1e-10
