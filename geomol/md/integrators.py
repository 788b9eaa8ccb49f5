"""ASE's integrators as the driver uses them: construction, degrees of freedom, and their state as plain data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.md.bussi import Bussi
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import IsotropicMTKNPT, NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

from geomol.md.config import MDConfig

_PARTS = ("_thermostat", "_barostat")  # objects inside ASE's integrators that carry state of their own


def make_integrator(atoms: Atoms, config: MDConfig, rng: np.random.Generator, freedoms: int) -> Any:
    """The ASE integrator of an ensemble, told the true number of degrees of freedom.

    ASE's deterministic and rescaling thermostats assume 3N. They keep the momentum (and, without periodicity, the
    angular momentum) of the whole at zero, so that N atoms would share the energy of 3N freedoms among fewer, and a
    molecule of nine atoms would run at 386 K instead of 300 K. A Langevin thermostat acts on every freedom and needs no
    correction.
    """
    dt = config.timestep_fs * units.fs
    kelvin, tau = config.temperature_K, config.thermostat_fs * units.fs
    if config.ensemble == "nve":
        return VelocityVerlet(atoms, dt)
    if config.ensemble == "nvt-langevin":
        friction = config.friction_per_ps / (1000.0 * units.fs)
        return Langevin(atoms, dt, temperature_K=kelvin, friction=friction, fixcm=False, rng=rng)
    if config.ensemble == "nvt-bussi":
        dyn = Bussi(atoms, dt, temperature_K=kelvin, taut=tau, rng=rng)
        dyn.ndof = freedoms
        dyn.target_kinetic_energy = 0.5 * freedoms * units.kB * kelvin
        return dyn
    if config.ensemble == "nvt-nose-hoover":
        dyn = NoseHooverChainNVT(atoms, dt, temperature_K=kelvin, tdamp=tau)
    else:
        pressure, pdamp = config.pressure_GPa * units.GPa, config.barostat_fs * units.fs
        dyn = IsotropicMTKNPT(atoms, dt, temperature_K=kelvin, pressure_au=pressure, tdamp=tau, pdamp=pdamp)
    # 3 × this number is the count of freedoms in the equations of the chain
    assert dyn._thermostat._num_atoms_global == len(atoms)
    dyn._thermostat._num_atoms_global = freedoms / 3
    return dyn


def degrees_of_freedom(atoms: Atoms, ensemble: str) -> int:
    """Number of momenta that share the thermal energy: 3N less what constraints and conservation laws take away.

    Langevin noise reaches all 3N. All else conserves the total momentum, and without periodicity the angular momentum,
    both of which start at zero; constraints that hold atoms break both laws.
    """
    freedoms = int(atoms.get_number_of_degrees_of_freedom())
    if ensemble == "nvt-langevin" or atoms.constraints or len(atoms) == 1:
        return max(freedoms, 1)
    if atoms.pbc.any():
        return max(freedoms - 3, 1)
    return max(freedoms - 3 - _rotations(atoms), 1)


def draw_momenta(atoms: Atoms, config: MDConfig, rng: np.random.Generator) -> None:
    """Maxwell–Boltzmann momenta, p = √(m kT) ξ, less the motion of the whole where the dynamics conserves it."""
    masses = atoms.get_masses()[:, None]
    kT = units.kB * config.temperature_K
    atoms.set_momenta(np.sqrt(masses * kT) * rng.standard_normal((len(atoms), 3)))
    if config.ensemble != "nvt-langevin" and not atoms.constraints and len(atoms) > 1:
        remove_motion(atoms, rotation=not atoms.pbc.any())
    energy = atoms.get_kinetic_energy()
    if config.exact_temperature and energy > 0:
        wanted = 0.5 * degrees_of_freedom(atoms, config.ensemble) * kT
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(wanted / energy))


def remove_motion(atoms: Atoms, *, rotation: bool) -> None:
    """Set the total momentum to zero, and the total angular momentum too if asked.

    The rotation is v = ω × (r − r_com) with I ω = L; the pseudo-inverse leaves out the axis of a linear molecule.
    """
    masses = atoms.get_masses()[:, None]
    momenta = atoms.get_momenta()
    momenta -= masses * momenta.sum(axis=0) / masses.sum()
    if rotation:
        arm = atoms.positions - atoms.get_center_of_mass()
        omega = np.linalg.pinv(_inertia(atoms), rcond=1e-8) @ np.cross(arm, momenta).sum(axis=0)
        momenta -= masses * np.cross(omega, arm)
    atoms.set_momenta(momenta)


def _inertia(atoms: Atoms) -> np.ndarray:
    arm = atoms.positions - atoms.get_center_of_mass()
    masses = atoms.get_masses()
    out: np.ndarray = (masses * (arm**2).sum(axis=1)).sum() * np.eye(3) - np.einsum("n,ni,nj->ij", masses, arm, arm)
    return out


def _rotations(atoms: Atoms) -> int:
    return int(np.linalg.matrix_rank(_inertia(atoms), rtol=1e-8, hermitian=True))


def integrator_state(dyn: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Every number and array of the integrator and of its thermostat and barostat, and the state of the noise."""
    state: dict[str, Any] = {"rng": json.dumps(rng.bit_generator.state), "own": _numbers_of(dyn)}
    for part in _PARTS:
        if hasattr(dyn, part):
            state[part] = _numbers_of(getattr(dyn, part))
    return state


def restore_integrator(dyn: Any, rng: np.random.Generator, state: dict[str, Any]) -> None:
    """Put back what `integrator_state` took, into an integrator made with the same settings."""
    rng.bit_generator.state = json.loads(state["rng"])
    _assign(dyn, state["own"])
    for part in _PARTS:
        if hasattr(dyn, part):
            _assign(getattr(dyn, part), state[part])


def _numbers_of(thing: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(thing).items():
        # numpy scalars stay apart from floats, whose powers may round differently
        if isinstance(value, np.ndarray | np.floating) and value.dtype == np.float64:
            found[name] = torch.from_numpy(np.array(value, order="C"))
        elif isinstance(value, float):
            found[name] = value
    return found


def _assign(thing: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(thing, name, value.numpy().copy()[()] if isinstance(value, torch.Tensor) else value)
