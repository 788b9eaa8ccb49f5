"""Every model and symmetriser that a configuration can name is held to the contract, or listed with the reason."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from ase import Atoms
from contract.modes import (
    ALL_ELEMENTS,
    JUMPING,
    MODES,
    MOLECULES_ONLY,
    NO_POTENTIALS,
    PERIODIC,
    crystals,
    make,
    molecules,
    potential_of,
)

from geomol import checks
from geomol.errors import ConfigError, GeomolWarning, ModelDomainError
from geomol.md import GeomolCalculator, MDConfig, run_md
from geomol.models import MODELS
from geomol.symmetry import SYMMETRISERS


def test_every_registered_model_is_tested() -> None:
    tested = {config["name"] for config in MODES.values()}
    assert tested.isdisjoint(NO_POTENTIALS)
    assert tested | set(NO_POTENTIALS) == set(MODELS) | set(SYMMETRISERS)


@pytest.mark.parametrize("name", sorted(set(NO_POTENTIALS) - {"pair_transformer"}))
def test_models_without_energies_are_refused_in_a_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"velocit|node_vectors|node_scalars|charge") as caught:
        checks.energy_of(potential_of(NO_POTENTIALS[name][0], calibrated=False), molecules(1))
    assert "\n" not in str(caught.value)


def test_a_model_of_numbered_nodes_has_an_energy_that_depends_on_their_order() -> None:
    potential = potential_of(NO_POTENTIALS["pair_transformer"][0], calibrated=False)
    atoms = molecules(1)[0]
    assert len(atoms) == 9
    assert checks.permutation_error(potential, atoms, 5) > 1e-6


@pytest.mark.parametrize("mode", list(MODES))
def test_predictions_are_not_trivially_zero(mode: str) -> None:
    atoms = molecules(1)[0]
    potential = make(mode)
    assert np.abs(checks.forces_of(potential, atoms)).max() > 1e-3
    assert abs(checks.energy_of(potential, [atoms])[0]) > 1.0


@pytest.mark.parametrize("mode", list(MODES))
def test_a_potential_is_made_anew_from_its_configuration(mode: str) -> None:
    potential = make(mode)
    twin = type(potential).from_config(potential.config).to(potential.dtype).eval()
    twin.load_state_dict(potential.state_dict())
    assert np.array_equal(*(checks.forces_of(p, molecules(1)[0]) for p in (potential, twin)))


# what cannot be used


@pytest.mark.parametrize("mode", list(MOLECULES_ONLY))
def test_periodic_structures_are_refused_with_the_reason(mode: str, tmp_path) -> None:
    atoms = crystals(1)[0]
    atoms.calc = GeomolCalculator(make(mode))
    with pytest.raises(ModelDomainError, match=MOLECULES_ONLY[mode]) as caught:
        atoms.get_potential_energy()
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelDomainError, match=MOLECULES_ONLY[mode]):
        run_md(atoms, GeomolCalculator(make(mode)), MDConfig(ensemble="nve", steps=2), tmp_path)


@pytest.mark.parametrize("mode", PERIODIC)
def test_all_others_take_periodic_structures(mode: str) -> None:
    atoms = crystals(1)[0]
    atoms.calc = GeomolCalculator(make(mode))
    assert np.isfinite(atoms.get_stress()).all()


@pytest.mark.parametrize("name", list(JUMPING))
def test_energies_that_jump_need_consent_and_run_with_it(name: str) -> None:
    config, reason = JUMPING[name]
    with pytest.raises(ConfigError, match=rf"{reason}.*allow_discontinuous = true"):
        potential_of(config)
    potential = potential_of(config, allow_discontinuous=True)
    atoms = molecules(1)[0]
    atoms.calc = GeomolCalculator(potential)
    assert np.abs(atoms.get_forces()).max() > 1e-3
    assert type(potential).from_config(potential.config).elements == ALL_ELEMENTS


@pytest.mark.parametrize("name", [name for name, (_, reason) in JUMPING.items() if "cutoff" in reason])
def test_those_said_to_jump_at_the_cutoff_do(name: str) -> None:
    """Poses that stretch show a pair at another length than that by which it is listed."""
    assert checks.cutoff_jumps(potential_of(JUMPING[name][0], allow_discontinuous=True), [1, 6, 8])[0] > 1e-5


@pytest.mark.parametrize("mode", ["canonical-soft", "orbit-distance"])
def test_poses_that_vanish_by_symmetry_hide_the_shape(mode: str) -> None:
    """Their price, which robust frames do not pay: carbon dioxide may be stretched at will."""
    stretched = [Atoms("OCO", [[-d, 0, 0], [0, 0, 0], [d, 0, 0]]) for d in (1.0, 1.16, 1.5)]
    assert np.ptp(checks.energy_of(make(mode), stretched)) < 1e-12
    assert np.ptp(checks.energy_of(make("robust-mpnn"), stretched)) > 1e-3


@pytest.mark.parametrize("name", ["pca", "single"])
def test_those_said_to_jump_between_poses_do(name: str) -> None:
    """Benzene stretched and squeezed by next to nothing: the first two axes change places."""
    benzene = checks.symmetric_molecules()["C6H6"]
    benzene.rattle(0.1, seed=0)
    pos = benzene.positions - benzene.positions.mean(0)
    moments, axes = np.linalg.eigh(pos.T @ pos)
    sides = []
    for eps in (1e-7, -1e-7):
        atoms = benzene.copy()
        equal = np.sqrt([1, (1 + eps) * moments[2] / moments[1], 1])
        atoms.positions = pos @ axes * equal @ axes.T
        sides.append(atoms)
    robust = make("robust-mpnn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeomolWarning)  # equal moments, which is the point
        plain = potential_of(JUMPING[name][0], allow_discontinuous=True)
        assert np.ptp(checks.energy_of(plain, sides)) > 1e-4
    assert np.ptp(checks.energy_of(robust, sides)) < 1e-5
