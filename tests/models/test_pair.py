"""Lennard-Jones and Morse: closed forms, and ASE as the second witness."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.calculators.morse import MorsePotential
from torch import Tensor

from geomol.errors import ConfigError, ModelDomainError
from geomol.graph import Graph
from geomol.models.pair import LennardJones, Morse

Pair = LennardJones | Morse


def points(pos: Tensor, cutoff: float = math.inf, number: int = 18) -> Graph:
    """One structure without a cell, with all pairs within the cutoff."""
    num = pos.shape[0]
    near = (torch.cdist(pos.detach(), pos.detach()) < cutoff) & ~torch.eye(num, dtype=torch.bool)
    dst, src = near.nonzero(as_tuple=True)
    return Graph(
        pos=pos,
        numbers=torch.full((num,), number),
        edge_index=torch.stack([src, dst]),
        edge_ptr=torch.cat([torch.zeros(1, dtype=torch.long), near.sum(1).cumsum(0)]),
        cell_shift=torch.zeros(len(src), 3, dtype=torch.long),
        cell=torch.zeros(1, 3, 3, dtype=pos.dtype),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        batch=torch.zeros(num, dtype=torch.long),
        ptr=torch.tensor([0, num]),
        cutoff=cutoff,
    )


def dimer(r: float) -> Tensor:
    return torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.6 * r, 0.8 * r]], dtype=torch.float64)


def energy_and_forces(model: Pair, pos: Tensor) -> tuple[Tensor, Tensor]:
    pos = pos.clone().requires_grad_()
    energy = model(points(pos, model.cutoff)).scalars.sum()
    return energy.detach(), -torch.autograd.grad(energy, pos)[0]


def cluster(spacing: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)[:20]
    return spacing * (grid + 0.08 * rng.normal(size=grid.shape))


def window(u: float) -> tuple[float, float]:
    """(1 − u)³ (1 + 3u + 6u² + 10u³ + 15u⁴ + 21u⁵): the envelope of p = 6 in its factored form, and its derivative."""
    tail = np.polynomial.Polynomial([1, 3, 6, 10, 15, 21])
    whole = np.polynomial.Polynomial([1, -1]) ** 3 * tail
    return float(whole(u)), float(whole.deriv()(u))


@pytest.mark.parametrize("r", [3.1, 3.4, 3.9, 5.5, 7.9])
def test_lennard_jones_energy_and_force_follow_the_closed_form(r: float) -> None:
    epsilon, sigma, cutoff = 0.7, 3.4, 8.0
    energy, forces = energy_and_forces(LennardJones(epsilon=epsilon, sigma=sigma, cutoff=cutoff), dimer(r))
    v = 4 * epsilon * (sigma**12 / r**12 - sigma**6 / r**6)
    dv = 4 * epsilon * (-12 * sigma**12 / r**13 + 6 * sigma**6 / r**7)
    w, dw = window(r / cutoff)
    slope = dv * w + v * dw / cutoff
    assert float(energy) == pytest.approx(v * w, rel=1e-12, abs=1e-14)
    expected = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64) * -slope  # on the second atom, along the axis
    torch.testing.assert_close(forces, torch.stack([-expected, expected]), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("r", [2.2, 2.9, 3.6, 5.0])
def test_morse_energy_and_force_follow_the_closed_form(r: float) -> None:
    depth, a, r0, cutoff = 0.34, 1.36, 2.87, 6.0
    energy, forces = energy_and_forces(Morse(depth=depth, a=a, r0=r0, cutoff=cutoff), dimer(r))
    x = math.exp(-a * (r - r0))
    v, dv = depth * ((1 - x) ** 2 - 1), 2 * depth * a * x * (1 - x)
    w, dw = window(r / cutoff)
    slope = dv * w + v * dw / cutoff
    assert float(energy) == pytest.approx(v * w, rel=1e-12, abs=1e-14)
    expected = torch.tensor([0.0, 0.6, 0.8], dtype=torch.float64) * -slope
    torch.testing.assert_close(forces, torch.stack([-expected, expected]), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("model", "r_min", "depth", "curvature"),
    [
        (LennardJones(epsilon=0.5, sigma=2.0, cutoff=2000.0), 2.0 * 2 ** (1 / 6), 0.5, 36 * 2 ** (2 / 3) * 0.5 / 4),
        (Morse(depth=0.3, a=1.4, r0=2.5, cutoff=2000.0), 2.5, 0.3, 2 * 0.3 * 1.4**2),
    ],
)
def test_minimum_has_the_textbook_place_depth_and_curvature(
    model: Pair, r_min: float, depth: float, curvature: float
) -> None:
    energy, forces = energy_and_forces(model, dimer(r_min))
    assert float(energy) == pytest.approx(-depth, rel=1e-12)
    assert float(forces.abs().max()) < 1e-12
    h = 1e-5
    pushed = [energy_and_forces(model, dimer(r_min + s * h))[1][1].norm() for s in (1, -1)]
    assert float(sum(pushed)) / (2 * h) == pytest.approx(curvature, rel=1e-6)


def test_lennard_jones_agrees_with_ase() -> None:
    atoms = Atoms("Ar20", cluster(3.8))
    # so long a cutoff that neither ASE's shift nor our window is felt
    atoms.calc = AseLennardJones(epsilon=0.0104, sigma=3.4, rc=4000.0)
    model = LennardJones(epsilon=0.0104, sigma=3.4, cutoff=4000.0)
    energy, forces = energy_and_forces(model, torch.from_numpy(atoms.positions))
    assert float(energy) == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-13)
    nodes = model(points(torch.from_numpy(atoms.positions))).scalars[:, 0].detach()
    np.testing.assert_allclose(nodes, atoms.get_potential_energies(), rtol=1e-11)


def test_morse_agrees_with_ase() -> None:
    atoms = Atoms("Cu20", cluster(2.7))
    atoms.calc = MorsePotential(epsilon=0.34, rho0=1.36 * 2.87, r0=2.87, rcut1=300.0, rcut2=400.0)
    energy, forces = energy_and_forces(
        Morse(depth=0.34, a=1.36, r0=2.87, cutoff=8000.0), torch.from_numpy(atoms.positions)
    )
    assert float(energy) == pytest.approx(atoms.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(forces, atoms.get_forces(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("model", [LennardJones(cutoff=9.0), Morse(cutoff=7.0)], ids=["lennard_jones", "morse"])
def test_pair_leaves_the_cutoff_without_a_jump(model: Pair) -> None:
    """Force and its slope vanish at the cutoff: the window touches 0 to third order."""
    h = 1e-6
    energy, forces = energy_and_forces(model, dimer(model.cutoff - h))
    assert abs(float(energy)) < 1e-17
    assert 0 < float(forces.abs().max()) < 1e-12
    bare = torch.tensor(model.cutoff - h, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(model.pair_energy(bare), bare)[0]
    assert abs(float(slope)) > 1e-6, "control: the bare form has a force there"


def test_images_of_one_atom_add_up_to_the_sum_over_a_chain() -> None:
    model, period = LennardJones(epsilon=1.0, sigma=1.0, cutoff=6.0), 1.2
    steps = [-4, -3, -2, -1, 1, 2, 3, 4]
    shift = torch.tensor([[k, 0, 0] for k in steps])
    lone = points(torch.zeros(1, 3, dtype=torch.float64), model.cutoff)
    chain = lone.replace(
        edge_index=torch.zeros(2, len(steps), dtype=torch.long),
        edge_ptr=torch.tensor([0, len(steps)]),
        cell_shift=shift,
        cell=period * torch.eye(3, dtype=torch.float64)[None],
        pbc=torch.tensor([[True, False, False]]),
    )
    expected = sum(
        4 * ((k * period) ** -12 - (k * period) ** -6) * window(k * period / model.cutoff)[0] for k in (1, 2, 3, 4)
    )
    assert float(model(chain).scalars.detach()) == pytest.approx(expected, rel=1e-12)


def test_isolated_atom_has_no_energy() -> None:
    assert not LennardJones()(points(torch.zeros(1, 3, dtype=torch.float64))).scalars.any()


def test_config_rebuilds_the_model() -> None:
    for model in (LennardJones(elements=[18], epsilon=0.02, cutoff=7.0), Morse(depth=0.1, a=2.0)):
        again = type(model)(**json.loads(json.dumps(model.config)))
        got, expected = (energy_and_forces(m, dimer(3.3))[0] for m in (again, model))
        assert torch.equal(got, expected)


def test_parameters_can_be_fitted() -> None:
    model = Morse(cutoff=7.0)
    energy = model(points(dimer(3.0), model.cutoff)).scalars.sum()
    grads = torch.autograd.grad(energy, list(model.parameters()))
    assert len(grads) == 3
    assert all(float(g.abs()) > 1e-6 for g in grads)


def test_impossible_parameters_and_foreign_elements_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"sigma must be positive, got -1"):
        LennardJones(sigma=-1.0)
    with pytest.raises(ConfigError, match=r"cutoff must be positive, got nan"):
        Morse(cutoff=math.nan)
    with pytest.raises(ModelDomainError, match=r"element outside the model"):
        LennardJones(elements=[18])(points(dimer(3.0), number=2))
