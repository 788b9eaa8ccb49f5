"""Vector neurons turn with their input; nearest nodes are the nearest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from geomol.geometry import random_rotations
from geomol.nn.nearest import equal_size_blocks, nearest_nodes
from geomol.nn.vector_neurons import (
    VNBatchNorm,
    VNInvariants,
    VNLinear,
    VNLinearReLU,
    VNMaxPool,
    VNMeanPool,
    VNReLU,
)

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: VNLinear(4, 3),
    "relu": lambda: VNReLU(4, slope=0.0),
    "leaky relu, shared direction": lambda: VNReLU(4, shared=True),
    "norm": lambda: VNBatchNorm(4),
    "linear, norm and relu": lambda: VNLinearReLU(4, 6),
    "max pool": lambda: VNMaxPool(4),
    "mean pool": VNMeanPool,
}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, 3, generator=gen(seed), dtype=torch.float64)


def make(name: str, *, train: bool = False) -> nn.Module:
    torch.manual_seed(3)
    layer = LAYERS[name]().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.train(train)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_commutes_with_rotations_and_reflections(name: str, train: bool) -> None:
    layer, x = make(name, train=train), vectors(5, 6, 4)
    for sign in (1, -1):
        turn = sign * random_rotations(1, generator=gen(1))[0]
        expected = layer(x) @ turn.T
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(layer(x @ turn.T), expected, atol=1e-12, rtol=1e-12)


def test_a_bias_on_vectors_would_break_the_symmetry() -> None:
    layer, x = make("linear"), vectors(5, 4)
    turn = random_rotations(1, generator=gen(1))[0]
    biased = lambda v: layer(v) + torch.tensor([0.1, -0.2, 0.3]).double()[:, None]  # noqa: E731
    assert (biased(x @ turn.T) - biased(x) @ turn.T).abs().max() > 0.05


def test_relu_leaves_what_points_along_the_direction_and_cuts_what_points_against_it() -> None:
    relu = VNReLU(1, slope=0.25).double()
    x = torch.tensor([[[1.0, 2.0, 0.0]], [[-1.0, 2.0, 0.0]]]).double()
    source = torch.tensor([[[2.0, 0.0, 0.0]]]).double().expand(2, 1, 3)
    with torch.no_grad():
        relu.direction.weight.fill_(1.0)
        out = relu(x, source)
    expected = torch.tensor([[[1.0, 2.0, 0.0]], [[-0.25, 2.0, 0.0]]]).double()
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)


def test_norm_changes_lengths_and_not_directions() -> None:
    norm, x = make("norm", train=True), vectors(200, 4)
    nn.init.constant_(norm.lengths.weight, 0.5)  # type: ignore[arg-type]
    nn.init.constant_(norm.lengths.bias, 3.0)  # type: ignore[arg-type]
    out = norm(x)
    torch.testing.assert_close(torch.linalg.cross(out, x), torch.zeros_like(x), atol=1e-12, rtol=0)
    length = out.norm(dim=-1)
    torch.testing.assert_close(length.mean(0), torch.full((4,), 3.0).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(length.std(0), torch.full((4,), 0.5).double(), atol=1e-2, rtol=0)


def test_max_pool_gives_the_candidate_that_reaches_farthest() -> None:
    pool, x = VNMaxPool(4).double(), vectors(5, 6, 4)
    out, direction = pool(x).detach(), pool.direction(x).detach()
    for n in range(5):
        for c in range(4):
            reach = [float(x[n, k, c] @ direction[n, k, c]) for k in range(6)]
            torch.testing.assert_close(out[n, c], x[n, reach.index(max(reach)), c])


def test_invariants_do_not_turn() -> None:
    torch.manual_seed(0)
    layer, x = VNInvariants(8).double().eval(), vectors(5, 8)
    turn = -random_rotations(1, generator=gen(1))[0]
    (before, triad), (after, turned) = layer(x), layer(x @ turn.T)
    assert before.shape == (5, 24)
    torch.testing.assert_close(after, before, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(turned, triad @ turn.T, atol=1e-12, rtol=1e-12)


def test_zero_vectors_have_finite_output_and_gradient() -> None:
    layer = VNLinearReLU(4, 6).double().eval()
    x = torch.zeros(3, 4, 3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x).sum(), x)
    assert bool(grad.isfinite().all())


def test_nearest_nodes_agree_with_a_search_through_all_pairs() -> None:
    x = torch.randn(13, 5, generator=gen(), dtype=torch.float64)
    ptr = torch.tensor([0, 6, 6, 7, 13])
    found = nearest_nodes(x, ptr, 4)
    for a, b in zip(ptr[:-1].tolist(), ptr[1:].tolist(), strict=True):
        for i in range(a, b):
            order = sorted(range(a, b), key=lambda j: float((x[i] - x[j]).norm()))[:4]
            order += order[-1:] * (4 - len(order))
            assert found[i].tolist() == order


def test_blocks_hold_every_node_of_structures_of_equal_size() -> None:
    ptr = torch.tensor([0, 2, 5, 5, 7])
    blocks = {rows.shape[1]: (structure.tolist(), rows.tolist()) for structure, rows in equal_size_blocks(ptr)}
    assert blocks == {2: ([0, 3], [[0, 1], [5, 6]]), 3: ([1], [[2, 3, 4]])}


def test_layers_on_pairs_are_the_layers_on_concatenations() -> None:
    torch.manual_seed(0)
    layer, x = VNLinearReLU(8, 5).double().eval(), vectors(7, 4)
    near = torch.randint(0, 7, (7, 3), generator=gen())
    sender, receiver = x[near], x[:, None].expand(7, 3, 4, 3)
    expected = layer(torch.cat([sender - receiver, receiver], dim=-2))
    torch.testing.assert_close(layer.on_pairs(x, near), expected, atol=1e-12, rtol=1e-12)
