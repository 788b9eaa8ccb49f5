"""What wrappers add up over poses, samples and parts, and its derivatives, has a fixed order on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from cuda_stand_in import on_cuda, unordered_sums
from torch import Tensor

from geomol.graph import complete_graph
from geomol.models import Features
from geomol.symmetry.part_graph import split_graph
from geomol.symmetry.poses import Poses, average_over_poses
from geomol.symmetry.sampled import Samples, _mean, _mean_and_error

NUM_NODES, POSES = 5, 3
NODE = torch.arange(NUM_NODES).repeat(POSES)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def over_poses(rotation: Tensor, place: Callable[[Tensor], Tensor]) -> Tensor:
    """Average over three poses of one structure, of scalars and vectors."""
    graph = complete_graph(place(normal(NUM_NODES, 3)), torch.ones(NUM_NODES).long(), torch.tensor([0, NUM_NODES]))
    structure, weight = torch.zeros(POSES, dtype=torch.int64), normal(POSES)
    poses = Poses(rotation.view(POSES, 3, 3), weight, structure, torch.zeros(1, 3, dtype=torch.float64))
    out = average_over_poses(lambda seen: Features(seen.pos.sin(), seen.pos[:, None].cos()), graph, poses)  # type: ignore[arg-type]
    return torch.cat([out.scalars, out.vectors[:, 0]])


def over_samples(values: Tensor, place: Callable[[Tensor], Tensor]) -> Tensor:
    samples = Samples(values, None, NODE, NODE // NUM_NODES, POSES)
    return torch.cat([_mean(values, samples, NUM_NODES), *_mean_and_error(values, samples, NUM_NODES, 1)])


def over_parts(pos: Tensor, place: Callable[[Tensor], Tensor], *, contracted: bool) -> Tensor:
    """Nodes in two parts each, every one of them with positions, vectors and scalars of its own."""
    graph = complete_graph(
        pos, torch.ones(NUM_NODES).long(), torch.tensor([0, NUM_NODES]), node_scalars=pos, node_vectors=pos[:, None]
    )
    apart = split_graph(graph, place(normal(NUM_NODES, 3).abs()), contracted=contracted)
    seen = apart.seen
    assert seen.node_scalars is not None
    assert seen.node_vectors is not None
    return apart.join(Features(seen.pos.sin() * seen.node_scalars, seen.node_vectors), NUM_NODES).scalars


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (over_poses, (POSES * 3, 3)),
        (over_samples, (POSES * NUM_NODES, 2)),
        (partial(over_parts, contracted=False), (NUM_NODES, 3)),
        (partial(over_parts, contracted=True), (NUM_NODES, 3)),
    ],
)
def test_sums_and_their_derivatives_are_ordered_and_the_same(function: Callable[..., Tensor], shape: tuple) -> None:
    found = []
    for place in (lambda x: x, on_cuda):
        x = place(normal(*shape).requires_grad_())
        with unordered_sums() as unordered:
            out = function(x, place)
            (gradient,) = torch.autograd.grad(out.square().sum(), x)
            assert unordered() == []
        found.append((out.detach(), gradient))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there.inner, here, rtol=1e-12, atol=1e-12)
