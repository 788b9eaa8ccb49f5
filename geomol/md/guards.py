"""What stops a simulation that has left the physical domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from numpy.typing import NDArray

from geomol.graph import neighbour_list
from geomol.md.config import MDConfig

_DENSE_ATOMS = 128  # below this all distances are cheaper than a neighbour list
_LIST_INTERVAL = 20  # steps between searches for lost atoms in larger systems


@dataclass(frozen=True)
class State:
    """The quantities of one step that the guards and the table read. Energies eV, forces eV/Å, temperature K."""

    step: int
    potential: float
    kinetic: float
    temperature: float
    forces: NDArray[np.float64]

    @property
    def total(self) -> float:
        return self.potential + self.kinetic


@dataclass(frozen=True)
class Fault:
    """Why a step is refused, and the atom that shows it best."""

    what: str
    expected: str
    got: str
    atom: int


def observe(atoms: Atoms, step: int, freedoms: int) -> State:
    """Energies, forces (without constraints) and temperature, T = 2 E_kin / (freedoms · k_B)."""
    kinetic = float(atoms.get_kinetic_energy())
    return State(
        step=step,
        potential=float(atoms.get_potential_energy()),
        kinetic=kinetic,
        temperature=2.0 * kinetic / (freedoms * units.kB),
        forces=atoms.get_forces(apply_constraint=False),
    )


class Guards:
    """Limits of a run, fixed by its configuration and its first step.

    Rules, checked after every step (escape: every 20 steps above 128 atoms or with periodicity):
    finite positions, momenta, energy and forces; largest force; temperature; an atom without neighbours that had some;
    for nve the total energy, against its start and against the step before.
    """

    def __init__(self, atoms: Atoms, config: MDConfig, first: State) -> None:
        self.config = config
        self.first = first
        self.max_force = max(config.max_force_eV_per_A, 10.0 * _largest(first.forces)[1])
        hot = 10.0 * max(config.temperature_K, first.temperature)
        self.max_temperature = config.max_temperature_K if config.max_temperature_K is not None else max(hot, 5000.0)
        self.watched = np.flatnonzero(~_isolated(atoms, config.max_isolation_A))
        self._dense = not atoms.pbc.any() and len(atoms) <= _DENSE_ATOMS

    def check(self, atoms: Atoms, state: State, last: State | None) -> Fault | None:
        """The first rule that this step breaks, if any."""
        return (
            self._finite(atoms, state)
            or self._force(state)
            or self._temperature(atoms, state)
            or self._energy(atoms, state, last)
            or self._escape(atoms, state.step)
        )

    def _finite(self, atoms: Atoms, state: State) -> Fault | None:
        for what, values in (
            ("force", state.forces),
            ("position", atoms.positions),
            ("momentum", atoms.get_momenta()),
        ):
            if not np.isfinite(values).all():
                atom = int(np.argwhere(~np.isfinite(values))[0, 0])
                return Fault(f"a {what} is not finite", "finite numbers", str(values[atom].tolist()), atom)
        if not np.isfinite(state.potential):
            return Fault("the energy is not finite", "a finite number", f"{state.potential}", _largest(state.forces)[0])
        return None

    def _force(self, state: State) -> Fault | None:
        atom, force = _largest(state.forces)
        if force <= self.max_force:
            return None
        return Fault("a force ran away", f"at most {self.max_force:g} eV/Å", f"{force:.4g} eV/Å", atom)

    def _temperature(self, atoms: Atoms, state: State) -> Fault | None:
        if state.temperature <= self.max_temperature:
            return None
        kinetic = (atoms.get_momenta() ** 2).sum(axis=1) / atoms.get_masses()
        limit, got = f"at most {self.max_temperature:g} K", f"{state.temperature:.4g} K"
        return Fault("the temperature ran away", limit, got, int(kinetic.argmax()))

    def _energy(self, atoms: Atoms, state: State, last: State | None) -> Fault | None:
        if self.config.ensemble != "nve":
            return None
        drift, limit = state.total - self.first.total, self.config.max_energy_drift_eV_per_atom * len(atoms)
        worst = _largest(state.forces)[0]
        if abs(drift) > limit:
            return Fault(
                "the total energy drifted away", f"within {limit:g} eV of its start", f"{drift:+.4g} eV", worst
            )
        jump = 0.0 if last is None else state.total - last.total
        limit = self.config.max_energy_jump_eV * len(atoms) ** 0.5
        if abs(jump) > limit:
            return Fault("the total energy jumped", f"at most {limit:g} eV in a step", f"{jump:+.4g} eV", worst)
        return None

    def _escape(self, atoms: Atoms, step: int) -> Fault | None:
        if len(self.watched) == 0 or not (self._dense or step % _LIST_INTERVAL == 0):
            return None
        lost = self.watched[_isolated(atoms, self.config.max_isolation_A)[self.watched]]
        if len(lost) == 0:
            return None
        limit = f"{self.config.max_isolation_A:g} Å"
        return Fault("an atom escaped", f"a neighbour within {limit}", f"none within {limit}", int(lost[0]))


def _largest(forces: NDArray[np.float64]) -> tuple[int, float]:
    """Atom with the largest force, and that force."""
    norm = np.sqrt((forces**2).sum(axis=1))
    atom = int(norm.argmax())
    return atom, float(norm[atom])


def _isolated(atoms: Atoms, radius: float) -> NDArray[np.bool_]:
    """Which atoms have no other (and no periodic image) within the radius."""
    count = len(atoms)
    if not atoms.pbc.any() and count <= _DENSE_ATOMS:
        vec = atoms.positions[:, None] - atoms.positions[None]
        square = np.einsum("ijk,ijk->ij", vec, vec)
        np.fill_diagonal(square, np.inf)
        out: NDArray[np.bool_] = square.min(axis=1) > radius**2
        return out
    dst, _, _ = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, radius)
    alone: NDArray[np.bool_] = np.bincount(dst, minlength=count) == 0
    return alone
