"""EGNN in potentials: continuity at the cutoff and derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from geomol.graph import Graph
from geomol.models.egnn import EGNN

SMOOTH: dict[str, dict[str, Any]] = {
    "Bessel": {"out_scalars": 2, "message_scale": 0.3},
    "squared distance": {"num_radial": 0, "attention": True},
    "moving": {"update_pos": True, "out_vectors": 1, "scaling": "norm_diff"},
}
every_mode = pytest.mark.parametrize("mode", list(SMOOTH))


def make(mode: str, **changes: Any) -> EGNN:
    """A model with all its parameters moved off their start, so that every one of them matters."""
    torch.manual_seed(1)
    model = EGNN(**{"in_scalars": 3, "cutoff": 3.0, "channels": 8, "num_layers": 3, **SMOOTH[mode], **changes}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def points(pos: Tensor) -> Graph:
    """One structure without a cell, with all pairs within 3 Å and three scalars per node."""
    num = pos.shape[0]
    near = ((pos.detach()[:, None] - pos.detach()).norm(dim=-1) < 3.0) & ~torch.eye(num, dtype=torch.bool)
    dst, src = near.nonzero(as_tuple=True)
    return Graph(
        pos=pos,
        numbers=torch.zeros(num, dtype=torch.long),
        edge_index=torch.stack([src, dst]),
        edge_ptr=torch.cat([torch.zeros(1, dtype=torch.long), near.sum(1).cumsum(0)]),
        cell_shift=torch.zeros(len(src), 3, dtype=torch.long),
        cell=torch.zeros(1, 3, 3, dtype=pos.dtype),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        batch=torch.zeros(num, dtype=torch.long),
        ptr=torch.tensor([0, num]),
        cutoff=3.0,
        node_scalars=torch.randn(num, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64),
    )


def crowd(distance: float) -> Tensor:
    """An atom with 24 neighbours inside the cutoff of 3 Å, and one more atom at `distance` from it."""
    gen = torch.Generator().manual_seed(2)
    around = torch.randn(24, 3, generator=gen, dtype=torch.float64)
    around = around / around.norm(dim=1, keepdim=True)
    around = around * (1.2 + 1.6 * torch.rand(24, 1, generator=gen, dtype=torch.float64))
    out = torch.tensor([0.48, -0.6, 0.64], dtype=torch.float64)
    return torch.cat([torch.zeros(1, 3, dtype=torch.float64), around, distance * out[None]])


def jump(model: EGNN) -> tuple[float, float]:
    """Change of energy and forces while an atom crosses the cutoff of an atom in a crowd."""
    found = []
    for distance in (3.0 - 1e-11, 3.0 + 1e-11):
        pos = crowd(distance).requires_grad_()
        graph = points(pos)
        energy = model(graph).scalars[:, 0].sum()
        found.append((energy.detach(), torch.autograd.grad(energy, pos)[0], graph.num_edges))
    assert found[0][2] == found[1][2] + 2, "exactly one pair must leave"
    assert int((crowd(3.5).norm(dim=1) < 3.0).sum()) > 20
    assert found[0][1].abs().max() > 1e-2, "no forces, nothing to see"
    return float((found[0][0] - found[1][0]).abs()), float((found[0][1] - found[1][1]).abs().max())


@every_mode
def test_energy_and_forces_are_continuous_when_an_atom_crosses_the_cutoff(mode: str) -> None:
    model = make(mode)
    assert model.symmetry.smooth
    energy, force = jump(model)
    assert energy <= 1e-10
    assert force <= 1e-5


@every_mode
def test_energy_jumps_at_the_cutoff_without_the_envelope(mode: str) -> None:
    """The control: the published form, with Bessel functions that vanish at the cutoff or without, is not smooth."""
    model = make(mode, envelope=False)
    assert not model.symmetry.smooth
    energy, force = jump(model)
    assert energy > 1e-5
    assert force > 1e-5


@every_mode
def test_forces_are_the_gradient_to_second_order(mode: str) -> None:
    model = make(mode, num_layers=2)
    pos = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()

    def energy(pos: Tensor) -> Tensor:
        total: Tensor = model(points(pos)).scalars[:, 0].sum()
        return total

    assert torch.autograd.gradcheck(energy, (pos,))
    assert torch.autograd.gradgradcheck(energy, (pos,))
