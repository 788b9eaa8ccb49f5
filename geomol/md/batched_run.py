"""A batch of simulations in progress: steps, guards, rows and frames, checkpoints."""

# ruff: noqa: N815 — units keep their capitals

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.io import read
from torch import Tensor

from geomol.checkpoint import save_state
from geomol.checkpoint.atomic import write_atomically
from geomol.errors import GeomolWarning, MDInstabilityError
from geomol.md.batched_forces import BatchedForces
from geomol.md.batched_guards import BatchedGuards, make_guards
from geomol.md.batched_integrators import Noise, langevin_step, nve_init, nve_step, thermal_energies
from geomol.md.batched_output import BatchRecorder, last_good_path
from geomol.md.batched_systems import BatchedState, Systems, kinetic_energy, momenta_of, positions_of
from geomol.md.calculator import GeomolCalculator
from geomol.md.config import MDConfig
from geomol.md.guards import Fault, State
from geomol.md.integrators import degrees_of_freedom, draw_momenta
from geomol.md.output import extxyz_frame
from geomol.md.resume import check_resumable, state_folder

_MOMENTA_STREAM = 0  # of a seed; the number that the driver of single structures uses


@dataclass(frozen=True)
class Replica:
    """One of the simulations of a batch.

    Attributes:
        atoms: its start; with `momenta = "keep"` also its momenta.
        temperature_K: target of its thermostat, and temperature of its initial momenta.
        seed: what its random numbers follow from.
    """

    atoms: Atoms
    temperature_K: float
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Stopped:
    """A replica that a guard has stopped, and why; the step is the one that was refused."""

    replica: int
    step: int
    reason: str


class BatchRun:
    """The replicas that still run, and everything they write.

    Args:
        replicas: all of them, also those that have been stopped before a checkpoint.
        calculator: whose models give the forces.
        config: settings; the temperature is that of each replica.
        folder, recorder: for the files.
        identity, saved: what a checkpoint must belong to, and the checkpoint to continue from.
        at_once: structures computed in one call.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        calculator: GeomolCalculator,
        config: MDConfig,
        folder: Path,
        recorder: BatchRecorder,
        identity: dict[str, Any],
        saved: dict[str, Any] | None,
        at_once: int | None,
    ) -> None:
        self.replicas, self.calculator, self.config = replicas, calculator, config
        self.folder, self.recorder, self._identity, self._at_once = folder, recorder, identity, at_once
        self.step, self.stopped = 0, [Stopped(**entry) for entry in json.loads(saved["stopped"])] if saved else []
        self.atoms = [replica.atoms.copy() for replica in replicas]
        self._configs = [config.model_copy(update={"temperature_K": r.temperature_K}) for r in replicas]
        for replica, atoms, own in zip(replicas, self.atoms, self._configs, strict=True):
            if config.momenta == "maxwell-boltzmann":
                draw_momenta(atoms, own, np.random.default_rng([replica.seed[0], _MOMENTA_STREAM, *replica.seed[1:]]))
        self.freedoms = [degrees_of_freedom(atoms, config.ensemble) for atoms in self.atoms]
        self._prepare(list(range(len(replicas))) if saved is None else saved["active"].tolist())
        if saved is None:
            self._begin()
        else:
            self._restore(saved)

    def advance(self, on_step: Callable[[], None] | None) -> None:
        """Go on to the last step."""
        for step in range(self.step + 1, self.config.steps + 1):
            self._advance(step)
            self._write()
            if on_step is not None and step % self.config.steps_per_row == 0:
                on_step()
            if step % self.config.checkpoint_interval == 0 or step == self.config.steps:
                self._checkpoint()

    def mean_temperature(self) -> float:
        """Of the replicas that run, K."""
        return float(self._temperature.mean())

    def final_atoms(self) -> list[Atoms]:
        """All replicas as they are now; those that were stopped as they were last."""
        self._update_atoms()
        return [atoms.copy() for atoms in self.atoms]

    def _prepare(self, active: list[int]) -> None:
        """What depends on which replicas run."""
        self.active, device = active, self.calculator.neighbours.device
        chosen = [self.atoms[k] for k in active]
        self.systems = Systems.from_atoms(chosen, device)
        self._forces = BatchedForces(self.calculator, self.systems, at_once=self._at_once)
        self._kT = thermal_energies([self.replicas[k].temperature_K for k in active], device)
        self._freedoms = torch.tensor([self.freedoms[k] for k in active], dtype=torch.float64, device=device)

    def _begin(self) -> None:
        device = self.calculator.neighbours.device
        self.state = nve_init(self._forces, positions_of(self.atoms, device), momenta_of(self.atoms, device))
        self._noise = self._make_noise()
        self._observe()
        self._first = self._states()
        self._set_guards()
        bad = self._faults(self.state, self._temperature, self._total, None, 0)
        if bad:
            which, fault = next(iter(bad.items()))
            raise MDInstabilityError(
                fault.what, where=self._where(which, fault, 0), expected=fault.expected, got=fault.got
            )
        self._write()

    def _restore(self, saved: dict[str, Any]) -> None:
        device = self.calculator.neighbours.device
        self.step = saved["step"]
        energy, forces = self._forces(saved["positions"].to(device))
        self.state = BatchedState(saved["positions"].to(device), saved["momenta"].to(device), forces, energy)
        before, now = saved["potential_eV"].tolist(), energy.tolist()
        worst = max(range(len(now)), key=lambda k: abs(now[k] - before[k]))
        check_resumable(before[worst], now[worst])
        self._noise = self._make_noise()
        self._noise.restore(saved["noise"])
        self._observe()
        first = saved["first"]
        parts = torch.split(first["forces"], [len(atoms) for atoms in self.atoms])
        columns = [first[name].tolist() for name in ("potential", "kinetic", "temperature")]
        self._first = [State(0, e, k, t, f.numpy()) for e, k, t, f in zip(*columns, parts, strict=True)]
        self._set_guards()
        for entry in self.stopped:
            atoms = read(last_good_path(self.folder, self.config.name, entry.replica))
            self.atoms[entry.replica].arrays["positions"][:] = atoms.positions
            self.atoms[entry.replica].set_momenta(atoms.get_momenta())

    def _make_noise(self) -> Noise:
        device = self.calculator.neighbours.device
        seeds = [self.replicas[k].seed for k in self.active]
        return Noise(seeds, [len(self.atoms[k]) for k in self.active], device)

    def _set_guards(self) -> None:
        starts = [self.replicas[k].atoms for k in self.active]
        chosen = [self._configs[k] for k in self.active], [self._first[k] for k in self.active]
        self._guards = BatchedGuards(make_guards(starts, *chosen), self.systems)

    def _advance(self, step: int) -> None:
        before, last_total = self.state, self._total
        dt = self.config.timestep_fs * units.fs
        if self.config.ensemble == "nve":
            state = nve_step(self.systems, self._forces, before, dt=dt)
        else:
            friction = self.config.friction_per_ps / (1000.0 * units.fs)
            noise = self._noise.next()
            state = langevin_step(
                self.systems, self._forces, before, dt=dt, friction=friction, kT=self._kT, noise=noise
            )
        kinetic, temperature = self._thermal(state)
        if faults := self._faults(state, temperature, state.energy + kinetic, last_total, step):
            self._stop(faults, step)
            keep = [k for k in range(len(self.active)) if k not in faults]
            state = state.select(self.systems, keep)
            self._noise.select(keep)
            self._prepare([self.active[k] for k in keep])
            self._set_guards()
        self.step, self.state = step, state
        self._observe()

    def _thermal(self, state: BatchedState) -> tuple[Tensor, Tensor]:
        """Kinetic energy and temperature of each replica."""
        kinetic = kinetic_energy(self.systems, state.momenta)
        return kinetic, 2.0 * kinetic / (self._freedoms * units.kB)

    def _observe(self) -> None:
        self._kinetic, self._temperature = self._thermal(self.state)
        self._total = self.state.energy + self._kinetic

    def _faults(
        self, state: BatchedState, temperature: Tensor, total: Tensor, last_total: Tensor | None, step: int
    ) -> dict[int, Fault]:
        """Which of the running replicas break a rule, and which rule."""
        faults = {}
        for which in self._guards.suspects(state, temperature, total, last_total, step):
            rows = slice(int(self.systems.ptr[which]), int(self.systems.ptr[which + 1]))
            atoms = self.atoms[self.active[which]].copy()
            atoms.arrays["positions"][:] = state.pos[rows].cpu().numpy()
            atoms.set_momenta(state.momenta[rows].cpu().numpy())
            potential, kinetic = float(state.energy[which]), float(total[which] - state.energy[which])
            forces = state.forces[rows].cpu().numpy()
            now = State(step, potential, kinetic, float(temperature[which]), forces)
            # of the step before only the total energy is asked
            last = None if last_total is None else State(step - 1, float(last_total[which]), 0.0, 0.0, forces)
            with np.errstate(all="ignore"):
                fault = self._guards.judge(which, atoms, now, last)
            if fault is not None:
                faults[which] = fault
        return faults

    def _stop(self, faults: dict[int, Fault], step: int) -> None:
        """Write the last good frames; raise if nothing is left to run."""
        self._update_atoms()
        states = dict(zip(self.active, self._states(), strict=True))
        for which, fault in faults.items():
            replica = self.active[which]
            frame = extxyz_frame(self.atoms[replica], states[replica], (step - 1) * self.config.timestep_fs)
            write_atomically(last_good_path(self.folder, self.config.name, replica), frame.encode())
            reason = f"{self._where(which, fault, step)}: {fault.what}, expected {fault.expected}, got {fault.got}"
            self.stopped.append(Stopped(replica, step, reason))
            if len(faults) < len(self.active):
                warnings.warn(f"{reason}; the other replicas go on", GeomolWarning, stacklevel=2)
        if len(faults) == len(self.active):
            raise MDInstabilityError(
                f"no replica is left: {self.stopped[-1].reason}",
                remedy=f"the last good frames are in {self.folder}; "
                "try a smaller time step, a relaxed start or a model trained on such structures",
            )

    def _where(self, which: int, fault: Fault, step: int) -> str:
        replica, time_fs = self.active[which], step * self.config.timestep_fs
        symbol = self.atoms[replica].get_chemical_symbols()[fault.atom]
        return f"replica {replica}, step {step} ({time_fs:g} fs), atom {fault.atom} ({symbol})"

    def _write(self) -> None:
        time_fs = self.step * self.config.timestep_fs
        if self.step % self.config.interval == 0:
            self._update_atoms()
            for replica, state in zip(self.active, self._states(), strict=True):
                self.recorder.frame(replica, extxyz_frame(self.atoms[replica], state, time_fs))
        if self.step % self.config.steps_per_row == 0:
            columns = torch.stack([self._temperature, self.state.energy, self._kinetic, self._total]).t().tolist()
            rows = zip(self.active, columns, strict=True)
            self.recorder.rows("".join(f"{k},{','.join(map(repr, [time_fs, *row]))}\n" for k, row in rows))

    def _update_atoms(self) -> None:
        """Bring the atoms of the running replicas to the present state."""
        sizes = [len(self.atoms[k]) for k in self.active]
        pos, momenta = torch.split(self.state.pos.cpu(), sizes), torch.split(self.state.momenta.cpu(), sizes)
        for replica, x, p in zip(self.active, pos, momenta, strict=True):
            self.atoms[replica].arrays["positions"][:] = x.numpy()
            self.atoms[replica].set_momenta(p.numpy())

    def _states(self) -> list[State]:
        """The present state of each running replica, as the driver of single structures has it."""
        forces = torch.split(self.state.forces.cpu(), [len(self.atoms[k]) for k in self.active])
        columns = torch.stack([self.state.energy, self._kinetic, self._temperature]).tolist()
        return [State(self.step, e, k, t, f.numpy()) for e, k, t, f in zip(*columns, forces, strict=True)]

    def _checkpoint(self) -> None:
        offsets = self.recorder.sync()
        first = self._first
        columns = {
            name: torch.tensor([getattr(s, name) for s in first]) for name in ("potential", "kinetic", "temperature")
        }
        save_state(
            state_folder(self.folder, self.config.name),
            {
                "identity": json.dumps(self._identity),
                "step": self.step,
                "offsets": offsets,
                "active": torch.tensor(self.active),
                "stopped": json.dumps([vars(entry) for entry in self.stopped]),
                "potential_eV": self.state.energy.cpu(),
                "positions": self.state.pos.cpu(),
                "momenta": self.state.momenta.cpu(),
                "noise": self._noise.state(),
                "first": {
                    **{name: values.double() for name, values in columns.items()},
                    "forces": torch.from_numpy(np.concatenate([s.forces for s in first])),
                },
            },
        )
