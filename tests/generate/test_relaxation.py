"""Relaxations end where independent force fields say, lose no molecule, and change nothing they are given."""

from __future__ import annotations

import importlib.util
import sys

import ase.build
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.optimize import FIRE
from rdkit import Chem
from rdkit.Chem import AllChem, rdForceFieldHelpers
from scipy.spatial.transform import Rotation

from geomol.data import Structures
from geomol.data.units import KCAL_PER_MOL
from geomol.errors import ConfigError, InputError
from geomol.generate.alignment import bonded, edm_orders, kabsch_rmsd, same_bonds
from geomol.generate.relaxation import Limits
from geomol.generate.relaxers import MoleculeCalculator, relax_mmff, relax_molecules, relax_potential, relax_xtb
from geomol.generate.smiles import orders_of
from geomol.graph import build_graph
from geomol.models.pair import Morse
from geomol.potential import Potential

H2O = ase.build.molecule("H2O")


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
    return mol


def positions(mol: Chem.Mol) -> np.ndarray:
    return np.array(mol.GetConformer().GetPositions())


def structures_of(frames: list[Atoms]) -> Structures:
    return Structures.from_atoms(frames)


def morse() -> Potential:
    return Potential(Morse(elements=[29], cutoff=1e6), elements=[29], e0=[-1.5])


def mmff_energy(mol: Chem.Mol) -> float:
    """kcal/mol, by another entry to RDKit."""
    return rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(Chem.Mol(mol), maxIters=0)[0][1]


# --- alignment ---


def test_rmsd_is_zero_after_any_rotation_and_shift_but_not_after_a_reflection():
    pos = np.random.default_rng(0).normal(size=(7, 3))
    for seed in range(5):
        turn = Rotation.random(random_state=seed).as_matrix()
        assert kabsch_rmsd(pos, pos @ turn.T + [3, -100, 7]) < 1e-12
    assert kabsch_rmsd(pos, pos * [1, 1, -1]) > 0.3
    flat = pos * [1, 1, 0]  # a flat molecule is its own mirror image
    assert kabsch_rmsd(flat, flat * [1, -1, 1]) < 1e-12


def test_rmsd_is_that_of_scipy_and_no_rotation_is_better():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(9, 3)), rng.normal(size=(9, 3))
    centred = a - a.mean(0), b - b.mean(0)
    _, distance = Rotation.align_vectors(*centred)
    assert kabsch_rmsd(a, b) == pytest.approx(distance / 3)
    for turn in Rotation.random(200, random_state=2):
        assert kabsch_rmsd(a, b) <= np.sqrt(((turn.apply(centred[0]) - centred[1]) ** 2).sum() / 9)
    assert np.isnan(kabsch_rmsd(np.zeros((0, 3)), np.zeros((0, 3))))
    assert kabsch_rmsd(np.ones((1, 3)), np.zeros((1, 3))) == 0.0


def test_bonds_count_as_changed_only_when_they_clearly_are():
    carbons = np.array([6, 6])

    def pair(distance: float) -> np.ndarray:
        return np.array([[0, 0, 0], [distance, 0, 0.0]])

    assert bonded(carbons, pair(1.54)).tolist() == [[False, True], [True, False]]
    assert same_bonds(carbons, pair(1.54), pair(1.75))
    assert same_bonds(carbons, pair(1.95), pair(1.99))
    assert not same_bonds(carbons, pair(1.54), pair(2.5))
    assert not same_bonds(carbons, pair(2.5), pair(1.54))
    orders = edm_orders(carbons, pair(1.20))
    assert orders is not None
    assert orders.tolist() == [[0, 3], [3, 0]]
    assert edm_orders(np.array([14, 6]), pair(1.8)) is None


# --- MMFF94 ---


def test_mmff_strain_of_a_minimum_is_zero_and_of_a_stretched_bond_the_difference_of_energies():
    mol = embedded("CC(=O)NC")
    assert rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=5000) == 0
    rest = relax_mmff(mol)
    assert rest.converged
    assert abs(rest.strain_kcal_per_mol) < 0.01
    assert rest.rmsd < 0.02
    stretched = Chem.Mol(mol)
    pos = positions(mol)
    moved = pos.copy()
    moved[1] += 0.15 * (pos[1] - pos[0]) / np.linalg.norm(pos[1] - pos[0])
    stretched.GetConformer().SetPositions(moved)
    result = relax_mmff(stretched)
    assert result.converged
    assert result.failure is None
    assert result.strain_kcal_per_mol == pytest.approx(mmff_energy(stretched) - mmff_energy(mol), abs=0.01)
    assert result.strain_kcal_per_mol > 10
    assert result.strain == pytest.approx(result.strain_kcal_per_mol * KCAL_PER_MOL)
    assert result.bonds_kept
    assert np.array_equal(result.before, moved)
    assert np.array_equal(positions(stretched), moved), "the molecule given was changed"


def test_mmff_counts_its_steps_and_says_when_they_run_out():
    mol = embedded("CCCCO")
    short = relax_mmff(mol, limits=Limits(steps=3))
    assert (short.converged, short.steps) == (False, 3)
    assert short.failure == "not converged in 3 steps"
    assert short.energy_after < short.energy_before
    full = relax_mmff(mol)
    assert full.converged
    assert 3 < full.steps < 500
    assert full.energy_after < short.energy_after


def test_fragments_of_a_molecule_see_each_other():
    """Control: RDKit leaves their interactions out unless told otherwise, and this clash would cost nothing."""
    mol = embedded("C.C")
    pos = positions(mol)
    first, second = Chem.GetMolFrags(mol)
    pos[list(second)] += pos[list(first)].mean(0) - pos[list(second)].mean(0) + [0, 0, 1.5]
    mol.GetConformer().SetPositions(pos)
    assert relax_mmff(mol).strain_kcal_per_mol > 50


# --- every molecule comes back ---


def test_no_molecule_is_dropped_and_each_failure_has_its_reason():
    good = embedded("CO")
    pos, orders = positions(good), orders_of(good)
    numbers = np.array([a.GetAtomicNum() for a in good.GetAtoms()])
    frames = [Atoms(numbers, pos), Atoms(numbers, pos), Atoms([54, 9, 9], [[0, 0, 0], [0, 0, 2], [0, 0, -2.0]])]
    structures = structures_of(frames)
    five = orders.copy()
    five[0, 1] = five[1, 0] = 3  # a carbon with six bonds
    xenon = np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=np.int8)
    before, seen = structures.pos.copy(), []
    results = relax_molecules(structures, "mmff", orders=[orders, five, xenon], on_result=seen.append)
    assert [r.converged for r in results] == [True, False, False]
    assert "no valid molecule: Explicit valence for atom # 0 C" in (results[1].failure or "")
    assert "MMFF94 has no parameters" in (results[2].failure or "")
    assert results[1].after is None
    assert np.isnan(results[1].energy_before)
    assert results[1].bonds_kept is None
    assert all(np.array_equal(r.before, frame.positions) for r, frame in zip(results, frames, strict=True))
    assert seen == results
    assert np.array_equal(structures.pos, before)


def test_positions_that_are_not_finite_and_molecules_without_atoms_fail_with_their_reason():
    bad = H2O.positions.copy()
    bad[1, 2] = np.nan
    result = relax_potential(np.full(3, 29), bad, morse())
    assert result.failure == "a position is not a finite number"
    assert relax_potential(np.zeros(0, int), np.zeros((0, 3)), morse()).failure == "the molecule has no atoms"


def test_input_that_cannot_be_relaxed_is_refused():
    structures = structures_of([H2O])
    with pytest.raises(ConfigError, match='unknown method of relaxation, expected "mmff", "xtb" or a Potential'):
        relax_molecules(structures, "uff")
    with pytest.raises(ConfigError, match="MMFF94 needs to know the bonds"):
        relax_molecules(structures, "mmff")
    with pytest.raises(InputError, match="one matrix of orders per molecule, expected 1, got 0"):
        relax_molecules(structures, "mmff", orders=[])
    with pytest.raises(InputError, match="one charge per atom, expected 3, got 1"):
        relax_molecules(structures, "xtb", charges=np.zeros(1, int))
    with pytest.raises(InputError, match="not periodic structures"):
        relax_molecules(structures_of([ase.build.bulk("Cu")]), "xtb")
    with pytest.raises(ConfigError, match="limits of a relaxation must be positive"):
        Limits(steps=0)


# --- potentials ---


def test_a_pair_relaxes_to_the_minimum_of_its_well_by_a_potential():
    potential = morse().train()
    pos = np.array([[0, 0, 0], [0, 0, 2.5]])
    (result,) = relax_molecules(structures_of([Atoms("Cu2", pos)]), potential, limits=Limits(fmax=1e-4))
    assert potential.training, "the potential given was changed"
    assert result.converged
    assert result.after is not None
    scan = np.linspace(2.5, 3.2, 7001)
    frames = [Atoms("Cu2", [[0, 0, 0], [0, 0, d]]) for d in scan]
    energies = potential(build_graph(frames, potential.cutoff), forces=False).energy.numpy()
    assert np.linalg.norm(result.after[0] - result.after[1]) == pytest.approx(scan[energies.argmin()], abs=2e-4)
    assert result.energy_after == pytest.approx(energies.min(), abs=1e-6)
    assert result.strain == pytest.approx(energies[0] - energies.min(), abs=1e-6)
    assert result.rmsd == pytest.approx((scan[energies.argmin()] - 2.5) / 2, abs=1e-4)


def test_it_ends_where_another_optimiser_ends():
    cluster = Atoms("Cu4", 2.6 * np.array([[0, 0, 0], [1, 0, 0], [0, 1.1, 0], [0.1, 0, 1.2]]))
    result = relax_potential(cluster.numbers, cluster.positions, morse(), limits=Limits(fmax=1e-4))
    cluster.calc = MoleculeCalculator(morse())
    FIRE(cluster, logfile=None).run(fmax=1e-4, steps=2000)
    assert result.energy_after == pytest.approx(cluster.get_potential_energy(), abs=1e-6)
    assert result.after is not None
    assert kabsch_rmsd(result.after, cluster.positions) < 1e-3


def test_an_element_that_the_potential_does_not_know_is_a_failure_of_that_molecule_alone():
    frames = [H2O, Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]])]
    first, second = relax_molecules(structures_of(frames), morse())
    assert "element" in (first.failure or "")
    assert second.converged


class Broken(Potential):
    """Gives up at the third call: after two good steps."""

    calls = 0

    def forward(self, graph, *, forces=True, stress=False, create_graph=False):  # type: ignore[no-untyped-def]
        self.calls += 1
        found = super().forward(graph, forces=forces)
        if self.calls < 3:
            return found
        return type(found)(found.energy * torch.nan, found.node_energy, found.forces)


def test_what_was_reached_before_a_failure_is_kept():
    potential = Broken(Morse(elements=[29], cutoff=1e6), elements=[29], e0=[-1.5])
    pos = np.array([[0, 0, 0], [0, 0, 2.2]])
    result = relax_potential(np.array([29, 29]), pos, potential, limits=Limits(fmax=1e-6))
    assert result.failure == "energy or forces are not finite"
    assert not result.converged
    assert result.after is not None
    assert np.isfinite(result.energy_after)
    assert result.energy_after < result.energy_before


def test_running_out_of_time_is_said():
    cluster = Atoms("Cu4", 2.0 * np.array([[0, 0, 0], [1, 0, 0], [0, 1.1, 0], [0.1, 0, 1.2]]))
    limits = Limits(fmax=1e-9, seconds=1e-6)
    result = relax_potential(cluster.numbers, cluster.positions, morse(), limits=limits)
    assert result.failure == "not converged in 1e-06 s"
    assert result.after is not None
    assert result.steps < 3


# --- GFN2-xTB ---

needs_tblite = pytest.mark.skipif(
    importlib.util.find_spec("tblite") is None, reason="tblite is not installed: no GFN2-xTB here"
)


@needs_tblite
def test_xtb_energy_of_water_is_that_of_the_documentation_of_tblite():
    result = relax_xtb(H2O.numbers.astype(int), H2O.positions)
    assert result.energy_before == pytest.approx(-137.96777625229421, abs=1e-5)
    assert result.converged
    assert 0 < result.strain < 0.02
    assert result.bonds_kept
    assert result.edm_orders_kept


@needs_tblite
def test_xtb_strain_of_a_stretched_bond_is_the_difference_of_single_points():
    from tblite.ase import TBLite

    rest = relax_xtb(H2O.numbers.astype(int), H2O.positions, limits=Limits(fmax=1e-3))
    assert rest.after is not None
    stretched = rest.after.copy()
    stretched[1] += 0.2 * (rest.after[1] - rest.after[0])
    result = relax_xtb(H2O.numbers.astype(int), stretched)
    energies = []
    for pos in (stretched, rest.after):
        atoms = Atoms("OHH", pos)
        atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
        energies.append(atoms.get_potential_energy())
    assert result.strain == pytest.approx(energies[0] - energies[1], abs=2e-4)
    assert result.strain_kcal_per_mol > 5
    assert relax_xtb(H2O.numbers.astype(int), rest.after).strain < 2e-4


@needs_tblite
def test_charges_and_odd_electrons_are_taken_into_account():
    methyl = ase.build.molecule("CH3")
    ammonium = ase.build.molecule("NH3") + Atoms("H", [[0, 0, 1.2]])
    frames = structures_of([methyl, ammonium, ammonium])
    charges = np.zeros(len(frames.numbers), int)
    charges[len(methyl)] = 1
    radical, cation, neutral = relax_molecules(frames, "xtb", charges=charges)
    assert radical.converged
    assert cation.converged
    # control: neutral NH4 is another species
    assert abs(cation.energy_after - neutral.energy_after) > 1.0


@needs_tblite
def test_what_xtb_refuses_is_a_failure_with_its_reason():
    frames = structures_of([Atoms("H2", np.zeros((2, 3))), Atoms("Og"), H2O])
    first, second, third = relax_molecules(frames, "xtb")
    assert "Too close" in (first.failure or "")
    assert "elements" in (second.failure or "")
    assert third.converged


def test_without_tblite_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(ConfigError, match=r'needs the package tblite; pip install "geomol\[physics\]"'):
        relax_molecules(structures_of([H2O]), "xtb")
