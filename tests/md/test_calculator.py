"""What ASE gets from a potential: values, signs, orders, and nothing else changed."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from ase.optimize import BFGS

from geomol.errors import ConfigError
from geomol.md import GeomolCalculator

H = 1e-4


def direct_energy(atoms: Atoms, *, cutoff: float, depth: float = 0.34, width: float = 1.36, r0: float = 2.87) -> float:
    """The same Morse sum by an explicit loop over images, in NumPy."""
    images = [np.zeros(3)]
    if atoms.pbc.any():
        span = [(-2, -1, 0, 1, 2) if p else (0,) for p in atoms.pbc]
        images = [np.array([a, b, c]) @ atoms.cell.array for a in span[0] for b in span[1] for c in span[2]]
    energy = -1.5 * len(atoms)
    for image in images:
        r = np.linalg.norm(atoms.positions[:, None] + image - atoms.positions[None], axis=-1).ravel()
        r = r[(r > 0) & (r < cutoff)]
        bond = np.exp(-width * (r - r0))
        energy += 0.5 * float((depth * (bond**2 - 2 * bond) * (1 - (r / cutoff) ** 2) ** 3).sum())
    return energy


def test_energy_is_that_of_a_direct_sum_over_images(pair_potential, crystal):
    crystal.calc = GeomolCalculator(pair_potential(cutoff=6.0))
    assert crystal.get_potential_energy() == pytest.approx(direct_energy(crystal, cutoff=6.0), rel=1e-12)
    # control: a smaller radius is another energy
    assert abs(crystal.get_potential_energy() - direct_energy(crystal, cutoff=5.0)) > 1.0


def test_forces_are_minus_the_energy_gradient(pair_potential, crystal):
    crystal.calc = GeomolCalculator(pair_potential(cutoff=6.0))
    forces = crystal.get_forces()
    for atom, axis in ((0, 0), (7, 1), (31, 2)):
        energies = []
        for sign in (1, -1):
            moved = crystal.copy()
            moved.positions[atom, axis] += sign * H
            energies.append(direct_energy(moved, cutoff=6.0))
        assert forces[atom, axis] == pytest.approx(-(energies[0] - energies[1]) / (2 * H), abs=1e-6)


def test_stress_is_in_the_order_and_sign_of_ase(pair_potential, crystal):
    crystal.calc = GeomolCalculator(pair_potential(cutoff=6.0))
    stress = crystal.get_stress()
    assert np.ptp(stress) > 1e-3  # a wrong order would show
    for k, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += 0.5 * sign * H
            strain[j, i] += 0.5 * sign * H
            moved = crystal.copy()
            moved.set_cell(crystal.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(direct_energy(moved, cutoff=6.0))
        assert stress[k] == pytest.approx((energies[0] - energies[1]) / (2 * H) / crystal.get_volume(), abs=1e-8)


def test_complete_graphs_need_no_list(pair_potential, cluster):
    cluster.calc = GeomolCalculator(pair_potential(cutoff=float("inf")))
    assert cluster.get_potential_energy() == pytest.approx(direct_energy(cluster, cutoff=1e9), rel=1e-12)
    cluster.positions *= 1.4
    assert cluster.get_potential_energy() == pytest.approx(direct_energy(cluster, cutoff=1e9), rel=1e-12)
    assert cluster.calc.neighbours.rebuilds == 1


def test_energies_per_atom_sum_to_the_energy(pair_potential, crystal):
    crystal.calc = GeomolCalculator(pair_potential())
    assert crystal.get_potential_energies().sum() == pytest.approx(crystal.get_potential_energy(), rel=1e-13)
    assert crystal.get_potential_energy(force_consistent=True) == crystal.get_potential_energy()


def test_committee_gives_mean_and_sample_deviation(pair_potential, crystal):
    depths, cutoffs = (0.30, 0.34, 0.41), (5.0, 6.0, 6.0)
    singles = []
    for depth, cutoff in zip(depths, cutoffs, strict=True):
        single = crystal.copy()
        single.calc = GeomolCalculator(pair_potential(depth=depth, cutoff=cutoff))
        singles.append((single.get_potential_energy(), single.get_forces(), single.get_stress()))
    committee = [pair_potential(depth=d, cutoff=c) for d, c in zip(depths, cutoffs, strict=True)]
    crystal.calc = GeomolCalculator(committee)
    assert crystal.get_potential_energy() == pytest.approx(np.mean([s[0] for s in singles]), rel=1e-13)
    np.testing.assert_allclose(crystal.get_forces(), np.mean([s[1] for s in singles], axis=0), atol=1e-12)
    np.testing.assert_allclose(crystal.get_stress(), np.mean([s[2] for s in singles], axis=0), atol=1e-13)
    results = crystal.calc.results
    assert results["energy_std"] == pytest.approx(np.std([s[0] for s in singles], ddof=1), rel=1e-12)
    np.testing.assert_allclose(results["forces_std"], np.std([s[1] for s in singles], axis=0, ddof=1), atol=1e-12)


def test_an_empty_committee_is_refused():
    with pytest.raises(ConfigError, match="at least one model"):
        GeomolCalculator([])


def test_results_do_not_depend_on_what_was_asked_first(pair_potential, crystal):
    a, b = crystal.copy(), crystal.copy()
    a.calc, b.calc = GeomolCalculator(pair_potential()), GeomolCalculator(pair_potential())
    first = (a.get_potential_energy(), a.get_forces(), a.get_stress())
    stress, forces, energy = b.get_stress(), b.get_forces(), b.get_potential_energy()
    assert first[0] == energy
    assert np.array_equal(first[1], forces)
    assert np.array_equal(first[2], stress)


def test_atoms_and_model_are_left_as_they_were(pair_potential, crystal):
    model = pair_potential().train()
    before = crystal.copy()
    crystal.calc = GeomolCalculator(model, dtype=torch.float64)
    crystal.get_stress()
    assert crystal == before
    assert crystal.info == before.info
    assert set(crystal.arrays) == set(before.arrays)
    assert model.training
    assert model.depth.grad is None


def test_its_atoms_are_those_of_the_last_call_whatever_becomes_of_them(pair_potential, crystal):
    crystal.calc = calculator = GeomolCalculator(pair_potential(cutoff=6.0))
    assert calculator.atoms is None
    crystal.set_constraint(FixAtoms([0]))
    crystal.info["name"], crystal.arrays["layer"] = "slab", np.arange(len(crystal))
    energy, before = crystal.get_potential_energy(), crystal.copy()
    crystal.positions[3] += 0.1
    crystal.set_constraint()
    assert calculator.atoms == before
    assert calculator.atoms.info == before.info
    assert calculator.atoms.calc is None
    assert [list(c.index) for c in calculator.atoms.constraints] == [[0]]
    np.testing.assert_array_equal(calculator.atoms.arrays["layer"], before.arrays["layer"])
    assert calculator.get_potential_energy() == energy  # of its own atoms
    assert calculator.check_state(crystal) == ["positions"]
    assert crystal.get_potential_energy() != energy


def test_casting_copies_the_model(pair_potential, crystal):
    model = pair_potential()
    calculator = GeomolCalculator(model, dtype=torch.float32)
    assert model.depth.dtype == torch.float64
    assert calculator.models[0].depth.dtype == torch.float32


def test_process_wide_torch_state_is_untouched(pair_potential, crystal):
    before = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state())
    crystal.calc = GeomolCalculator(pair_potential())
    crystal.get_forces()
    after = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state())
    assert before[:3] == after[:3]
    assert torch.equal(before[3], after[3])


def test_fixed_atoms_feel_no_force_and_do_not_move(pair_potential, cluster):
    cluster.set_constraint(FixAtoms([0, 3]))
    cluster.calc = GeomolCalculator(pair_potential())
    assert np.abs(cluster.get_forces(apply_constraint=False)[[0, 3]]).min() > 1e-3
    assert np.array_equal(cluster.get_forces()[[0, 3]], np.zeros((2, 3)))
    fixed, free = cluster.positions[[0, 3]].copy(), cluster.positions[1].copy()
    BFGS(cluster, logfile=None).run(fmax=0.05, steps=5)
    assert np.array_equal(cluster.positions[[0, 3]], fixed)
    assert np.abs(cluster.positions[1] - free).max() > 1e-4


def test_a_copied_calculator_gives_the_same_bits(pair_potential, crystal):
    calculator = GeomolCalculator([pair_potential(), pair_potential(depth=0.3)])
    crystal.calc = calculator
    expected = crystal.get_forces()
    for twin in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator))):
        other = crystal.copy()
        other.calc = twin
        assert np.array_equal(other.get_forces(), expected)


def test_the_fingerprint_tells_potentials_apart(pair_potential):
    one, same = GeomolCalculator(pair_potential()), GeomolCalculator(pair_potential())
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != GeomolCalculator(pair_potential(depth=0.35)).fingerprint
