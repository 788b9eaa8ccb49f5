"""Forces and stress are derivatives of the energy, everywhere. Numbers in brackets: the project's list of checks.

Weights are random; energies are in units where forces are of order one. Everything is float64 unless a test says
otherwise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from contract.modes import (
    CUT,
    JUMPING,
    LEARNED,
    MODES,
    PERIODIC,
    WRAPPED,
    claim,
    crystals,
    make,
    molecules,
    potential_of,
)

from geomol import checks
from geomol.graph import build_graph


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


# [1] forces


def test_forces_are_minus_the_energy_gradient(mode: str) -> None:
    potential = make(mode)
    for atoms in molecules(4):
        assert checks.force_error(potential, atoms) < 1e-7


def test_difference_error_falls_fourfold_when_the_step_halves(mode: str) -> None:
    assert 3.5 < checks.force_error_order(make(mode), molecules(1)[0], step=0.005) < 4.5


def test_forces_of_symmetric_molecules_are_the_gradient_too(mode: str) -> None:
    """[10] exactly symmetric, and perturbed by 1e-12 to 1e-3 Å; no NaN anywhere."""
    potential = make(mode)
    rng = np.random.default_rng(0)
    # C60 is as large as all others together, and covered by the rotation test; frames are many for large ones
    largest = 7 if mode in WRAPPED else 20
    for name, atoms in checks.symmetric_molecules().items():
        if len(atoms) > largest:
            continue
        for noise in (0.0, 1e-12, 1e-3):
            moved = atoms.copy()
            moved.positions += noise * rng.normal(size=moved.positions.shape)
            assert checks.force_error(potential, moved, step=1e-3) < 1e-6, (name, noise)


def test_the_force_check_rejects_scaled_forces() -> None:
    """The control: forces that are 0.01 % too large do not pass."""
    potential = make("egnn")
    atoms = molecules(1)[0]

    class Wrong(torch.nn.Module):
        cutoff = potential.cutoff

        def forward(self, graph, *, forces=True, stress=False):
            out = potential(graph, forces=forces, stress=stress)
            return (
                out if out.forces is None else type(out)(out.energy, out.node_energy, out.forces * 1.0001, out.stress)
            )

    assert checks.force_error(Wrong(), atoms) > 1e-7


# [2] stress


@pytest.mark.parametrize("periodic_mode", PERIODIC)
def test_stress_is_the_strain_derivative(periodic_mode: str) -> None:
    potential = make(periodic_mode)
    for atoms in crystals(6):
        error, size = checks.stress_error(potential, atoms)
        assert error < max(1e-7 * size, 1e-9)


@pytest.mark.parametrize("periodic_mode", PERIODIC)
def test_stress_is_symmetric(periodic_mode: str) -> None:
    potential = make(periodic_mode)
    stress = potential(build_graph(crystals(6), potential.cutoff), stress=True).stress
    assert (stress - stress.mT).abs().max() < 1e-10


@pytest.mark.parametrize("name", ["pca", "canonical", "canonical-soft"])
def test_forces_of_energies_that_jump_are_the_gradient_between_jumps(name: str) -> None:
    potential = potential_of(JUMPING[name][0], allow_discontinuous=True)
    assert checks.force_error(potential, molecules(1)[0]) < 1e-7
    assert checks.jacobian_antisymmetry(potential, molecules(1)[0]) < 1e-10


def test_poses_from_relative_vectors_give_crystals_a_stress() -> None:
    potential = potential_of(JUMPING["canonical-soft"][0], allow_discontinuous=True)
    error, size = checks.stress_error(potential, crystals(4)[3])
    assert size > 1e-5
    assert error < max(1e-7 * size, 1e-9)


# [3] conservative


def test_force_jacobian_is_symmetric(mode: str) -> None:
    assert checks.jacobian_antisymmetry(make(mode), molecules(1)[0]) < 1e-10


# [5] cutoff


@pytest.mark.parametrize("cut_mode", CUT)
def test_energy_and_forces_are_continuous_when_an_atom_crosses_the_cutoff_in_a_crowd(cut_mode: str) -> None:
    assert claim(cut_mode).smooth
    energy_jump, force_jump = checks.cutoff_jumps(make(cut_mode), [1, 6, 8])
    assert energy_jump < 1e-10
    assert force_jump < 1e-5


# training on forces


@pytest.mark.parametrize("learned_mode", LEARNED)
def test_force_loss_gradient_equals_finite_differences_in_the_weights(learned_mode: str) -> None:
    potential = make(learned_mode)
    graph = build_graph(molecules(4)[2:], potential.cutoff)

    def loss() -> torch.Tensor:
        return potential(graph, create_graph=True).forces.square().sum()

    parameters = list(potential.parameters())
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    torch.manual_seed(3)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(parameter)
        step = 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
            values.append(loss().item())
            with torch.no_grad():
                parameter.sub_(sign * step * direction)
        numeric = (values[0] - values[1]) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_zbl_keeps_the_contract_and_repels() -> None:
    potential = make("egnn", zbl=True)
    atoms = molecule("H2O")
    assert checks.force_error(potential, atoms) < 1e-7
    plain, repelled = (make("egnn", zbl=z) for z in (False, True))
    close = Atoms("O2", [[0, 0, 0], [0, 0, 0.45]])
    gain = checks.energy_of(repelled, [close])[0] - checks.energy_of(plain, [close])[0]
    # by hand: 14.3996 · 64 / 0.45 = 2047.9 eV, screened by φ(0.45 / 0.1453) = 0.1225, times the envelope at 0.45 /
    # 1.32, 0.982
    assert gain == pytest.approx(2047.9 * 0.1225 * 0.982, rel=5e-3)
    assert np.array_equal(*(checks.energy_of(p, [bulk("NaCl", "rocksalt", a=5.64)]) for p in (repelled, plain)))
