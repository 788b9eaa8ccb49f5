"""What the calculator refuses, and what it accepts though it is odd (rows 2, 3, 18, 20, 25, 47)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from torch.nn import Linear

from geomol import load
from geomol.errors import ConfigError, GeomolWarning, InputError, ModelDomainError
from geomol.md import GeomolCalculator


def test_an_element_outside_the_model_is_refused_with_the_known_ones(pair_potential):
    atoms = Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 2.6]], calculator=GeomolCalculator(pair_potential()))
    with pytest.raises(ModelDomainError, match=r"atom 1: .*expected one of Cu, got Au"):
        atoms.get_potential_energy()


def test_a_committee_knows_the_elements_that_all_members_know(pair_potential):
    members = [pair_potential(elements=(29, 79)), pair_potential(elements=(29,))]
    atoms = Atoms("CuAu", positions=[[0, 0, 0], [0, 0, 2.6]], calculator=GeomolCalculator(members))
    with pytest.raises(ModelDomainError, match="got Au"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("cutoff", [6.0, float("inf")])
def test_a_single_atom_has_its_reference_energy_and_no_force(pair_potential, cutoff):
    atoms = Atoms("Cu", positions=[[1.0, 2.0, 3.0]], calculator=GeomolCalculator(pair_potential(cutoff=cutoff)))
    assert atoms.get_potential_energy() == -1.5
    assert np.array_equal(atoms.get_forces(), np.zeros((1, 3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_position_that_is_not_finite_is_named(pair_potential, cluster, bad):
    cluster.calc = GeomolCalculator(pair_potential())
    cluster.get_potential_energy()
    cluster.positions[4, 1] = bad
    with pytest.raises(InputError, match=r"atom 4, axis y: a position is not a finite number"):
        cluster.get_potential_energy()


@pytest.mark.parametrize("cutoff", [6.0, float("inf")])
def test_coincident_atoms_are_refused_also_without_a_new_search(pair_potential, cutoff):
    atoms = Atoms("Cu3", positions=[[0, 0, 0], [0.2, 0, 0], [0, 0, 3]])
    atoms.calc = GeomolCalculator(pair_potential(cutoff=cutoff), skin=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeomolWarning)  # closer than any bond
        atoms.get_potential_energy()
    atoms.positions[1] = 0
    with pytest.raises(InputError, match="atoms 0 and 1 coincide"):
        atoms.get_potential_energy()
    assert atoms.calc.neighbours.rebuilds == 1


def test_no_atoms_are_refused(pair_potential):
    with pytest.raises(InputError, match="no atoms"):
        Atoms(calculator=GeomolCalculator(pair_potential())).get_potential_energy()


def test_charges_given_to_a_model_that_ignores_them_warn_once(pair_potential, cluster):
    cluster.calc = GeomolCalculator(pair_potential())
    cluster.set_initial_charges([1, 0, 0, 0, 0, 0])
    with pytest.warns(GeomolWarning, match="charges and spin are ignored"):
        cluster.get_potential_energy()
    cluster.rattle(0.01)
    cluster.get_potential_energy()  # a second warning would be an error


@pytest.mark.parametrize("info", [{"charge": -1}, {"spin": 2}])
def test_charge_or_spin_in_info_warns(pair_potential, cluster, info):
    cluster.info.update(info)
    cluster.calc = GeomolCalculator(pair_potential())
    with pytest.warns(GeomolWarning, match="ignored"):
        cluster.get_potential_energy()


def test_neutral_singlets_do_not_warn(pair_potential, cluster):
    cluster.info.update(charge=0, spin=1)
    cluster.set_initial_charges(np.zeros(6))
    cluster.calc = GeomolCalculator(pair_potential())
    cluster.get_potential_energy()


def test_a_charged_periodic_cell_is_refused(pair_potential, crystal):
    crystal.calc = GeomolCalculator(pair_potential())
    crystal.info["charge"] = 1
    with pytest.raises(ModelDomainError, match="charged periodic cell has no defined energy"):
        crystal.get_potential_energy()


def test_stress_of_a_molecule_is_not_implemented(pair_potential, cluster):
    cluster.calc = GeomolCalculator(pair_potential())
    cluster.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="stress needs a periodic structure"):
        cluster.get_stress()


def test_a_complete_graph_model_refuses_periodic_structures(pair_potential, crystal):
    crystal.calc = GeomolCalculator(pair_potential(cutoff=float("inf")))
    with pytest.raises(ModelDomainError, match="no periodic form"):
        crystal.get_potential_energy()


def test_nonconservative_forces_need_consent(pair_potential, cluster):
    model = pair_potential(conservative=False)
    with pytest.raises(ModelDomainError, match="not the gradient of its energy"):
        GeomolCalculator(model)
    cluster.calc = GeomolCalculator(model, allow_nonconservative=True)
    assert np.isfinite(cluster.get_potential_energy())


def test_a_committee_without_a_common_element_is_refused(pair_potential):
    with pytest.raises(ConfigError, match=r"no element in common, got Cu; Au"):
        GeomolCalculator([pair_potential(elements=(29,)), pair_potential(elements=(79,))])


@pytest.mark.parametrize("source", [None, 3, (x for x in ()), Linear(2, 2)])
def test_what_is_no_potential_is_called_so(source):
    with pytest.raises(ConfigError, match=f"not a potential, expected .*a list of these, got {type(source).__name__}"):
        GeomolCalculator(source)


@pytest.mark.parametrize("name", ["qm9-gap", "modelnet10", "qm9-generator"])
def test_models_of_something_else_are_refused(name):
    with pytest.raises(ConfigError, match="this model predicts no energies, expected Potential"):
        GeomolCalculator(load(name))


def test_a_skin_may_be_any_number(pair_potential, cluster):
    for skin in (np.float32(0.5), np.int64(1), 0):
        cluster.calc = GeomolCalculator(pair_potential(), skin=skin)
        assert np.isfinite(cluster.get_potential_energy())


def test_several_spins_are_refused(pair_potential, cluster):
    cluster.info["spin"] = np.array([0, 0])
    cluster.calc = GeomolCalculator(pair_potential())
    with pytest.raises(InputError, match="spin is not a number, expected one number"):
        cluster.get_potential_energy()


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf"), "x", None, True])
def test_a_skin_that_is_no_length_is_refused(pair_potential, skin):
    with pytest.raises(ConfigError, match="skin must be a length"):
        GeomolCalculator(pair_potential(), skin=skin)


def test_machine_code_is_run_only_when_asked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"GeomolCalculator\.from_package"):
        GeomolCalculator(tmp_path / "model.pt2")


@pytest.mark.parametrize("charge", [1.5, float("nan"), "one", [1, 0]])
def test_a_charge_that_is_not_whole_is_refused(pair_potential, cluster, charge):
    cluster.info["charge"] = charge
    cluster.calc = GeomolCalculator(pair_potential())
    with pytest.raises(InputError, match="the charge is not a whole number"):
        cluster.get_potential_energy()


@pytest.mark.parametrize("charge", [None, 0, 0.0, np.int64(0), np.array(0)])
def test_no_charge_is_fine_in_any_type(pair_potential, cluster, charge):
    cluster.info["charge"] = charge
    cluster.calc = GeomolCalculator(pair_potential())
    cluster.get_potential_energy()


@pytest.mark.parametrize("number", [0, -1, 119, 1000])
def test_a_number_that_is_no_element_is_named(pair_potential, number):
    atoms = Atoms(numbers=[29, 29], positions=[[0, 0, 0], [0, 0, 2.6]], calculator=GeomolCalculator(pair_potential()))
    atoms.numbers[1] = number
    with pytest.raises(InputError, match=f"atom 1: a number is no element, .* got {number}"):
        atoms.get_potential_energy()
