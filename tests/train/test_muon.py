"""Muon against singular values, against PyTorch's own, and where it belongs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from geomol.train.muon import Muon, matrices_of, orthogonalised
from geomol.train.sections import OptimiserConfig
from geomol.train.trainer import new_optimisers

SHAPES = [(6, 6), (4, 9), (9, 4), (4, 9), (3, 2, 5)]


def by_singular_values(x: Tensor) -> Tensor:
    """The five iterations on singular values, which is all that they change."""
    u, s, vt = torch.linalg.svd(x.flatten(1), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return ((u * s) @ vt).reshape(x.shape)


def weights(seed: int, shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]


def gradients(seed: int, step: int, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    return [p.detach() * 0.01 for p in weights(1000 * seed + step, shapes)]


def test_steps_are_those_of_the_paper() -> None:
    """Three steps with momentum and weight decay, every matrix by itself through its singular values."""
    found = weights(0, SHAPES)
    optimiser = Muon(found, lr=0.03, weight_decay=0.1)
    expected = [p.detach().clone() for p in found]
    moments = [torch.zeros_like(p) for p in expected]
    for step in range(3):
        for k, g in enumerate(gradients(1, step, SHAPES)):
            found[k].grad = g
            moments[k] = 0.95 * moments[k] + 0.05 * g
            rows, columns = g.flatten(1).shape
            update = by_singular_values(0.05 * g + 0.95 * moments[k])
            expected[k] = (1 - 0.003) * expected[k] - 0.03 * 0.2 * math.sqrt(max(rows, columns)) * update
        optimiser.step()
    for p, e in zip(found, expected, strict=True):
        torch.testing.assert_close(p.detach(), e, rtol=1e-12, atol=1e-12)


def test_pytorchs_own_takes_the_same_steps() -> None:
    """Within the bfloat16 that it computes in; a plain step along the momentum is far from both."""
    shapes = [shape for shape in SHAPES if len(shape) == 2]
    ours, theirs = weights(0, shapes), weights(0, shapes)
    first = Muon(ours, lr=0.03)
    second = torch.optim.Muon(theirs, lr=0.03, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    start = [p.detach().clone() for p in ours]
    for k, g in enumerate(gradients(1, 0, shapes)):
        ours[k].grad, theirs[k].grad = g, g.clone()
    first.step()
    second.step()
    for p, q, s, g in zip(ours, theirs, start, gradients(1, 0, shapes), strict=True):
        moved, other = (p.detach() - s).flatten(), (q.detach() - s).flatten()
        assert float((moved - other).norm() / moved.norm()) < 0.03
        assert float((moved + g.flatten() * moved.norm() / g.norm()).norm() / moved.norm()) > 0.1


def test_singular_values_come_near_one() -> None:
    u, _ = torch.linalg.qr(torch.randn(2, 8, 8, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(2, 12, 12, dtype=torch.float64))
    s = torch.logspace(-1.5, 0, 8, dtype=torch.float64)
    x = u @ torch.diag(s) @ v[:, :8]
    values = torch.linalg.svdvals(orthogonalised(x))
    assert float(values.min()) > 0.68
    assert float(values.max()) < 1.21
    assert float(s.max() / s.min()) > 30
    assert not orthogonalised(torch.zeros(1, 2, 3)).any()


def test_vectors_rows_and_tables_are_left_to_adam() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    assert [id(p) for p in matrices_of(model)] == [id(model[1].weight)]
    muon, adam = new_optimisers(model, OptimiserConfig(name="muon"))
    assert isinstance(muon, Muon)
    assert isinstance(adam, torch.optim.AdamW)
    together = [id(p) for o in (muon, adam) for group in o.param_groups for p in group["params"]]
    assert sorted(together) == sorted(id(p) for p in model.parameters())
    assert len(new_optimisers(model, OptimiserConfig(name="adam"))) == 1
    model[1].weight.requires_grad_(False)
    assert [type(o) for o in new_optimisers(model, OptimiserConfig(name="muon"))] == [torch.optim.AdamW]


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="leave vectors and scalars to Adam"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


def test_weights_without_gradient_stay() -> None:
    """Not even decayed, as in PyTorch's optimisers."""
    kept, moved = weights(0, [(3, 3), (3, 3)])
    start = kept.detach().clone()
    moved.grad = torch.ones_like(moved)
    Muon([kept, moved], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(kept.detach(), start)
