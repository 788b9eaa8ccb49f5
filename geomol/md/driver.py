"""The simulation driver: steps, guards, files, and restarts that continue bit for bit."""

# ruff: noqa: N815 — units keep their capitals

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed

from geomol.checkpoint import save_state
from geomol.checkpoint.atomic import write_atomically
from geomol.errors import CapacityError, InputError, MDInstabilityError
from geomol.md.calculator import calculator_for
from geomol.md.config import MDConfig, check_setup
from geomol.md.guards import Fault, Guards, State, observe
from geomol.md.integrators import (
    degrees_of_freedom,
    draw_momenta,
    integrator_state,
    make_integrator,
    restore_integrator,
)
from geomol.md.output import Recorder, extxyz_frame
from geomol.md.resume import check_resumable, find_checkpoint, identity, state_folder
from geomol.md.summary import summarise

_MOMENTA_STREAM, _NOISE_STREAM = 0, 1  # independent random streams of one seed
_FAILURES = (InputError, CapacityError, ArithmeticError, np.linalg.LinAlgError, CalculationFailed)


@dataclass(frozen=True)
class Progress:
    """What a progress display needs."""

    step: int
    steps: int
    time_fs: float
    temperature_K: float
    potential_eV: float
    total_eV: float
    ns_per_day: float
    eta_s: float


@dataclass(frozen=True)
class MDResult:
    """Outcome of a simulation.

    Attributes:
        atoms: final structure with momenta and calculator.
        summary: what stands in the JSON file.
        trajectory: extended xyz.
        table: CSV of observables.
        ns_per_day: speed of this session (0 if nothing was left to do).
    """

    atoms: Atoms
    summary: dict[str, Any]
    trajectory: Path
    table: Path
    ns_per_day: float


def run_md(
    atoms: Atoms,
    calculator: Any,
    config: MDConfig,
    out_dir: str | Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> MDResult:
    """Simulate, and write `<name>.extxyz`, `<name>.csv` and `<name>.json` into a folder.

    A run that was killed at any moment and is continued with `resume` leaves the same bytes in all three files as one
    that was not, on the same machine and number of threads, for calculators whose results depend on the atoms alone
    (`GeomolCalculator` is one). Positions are never wrapped.

    Args:
        atoms: start; not modified.
        calculator: any ASE calculator, a potential, or the path or name of one.
        config: settings.
        out_dir: folder for the files; created if needed.
        on_progress: called after every row of the table.
        resume: continue from the last checkpoint; without one, start. `steps` may have grown.
        overwrite: start anew over the files of an earlier run.

    Raises:
        ConfigError: settings that do not fit, or files of an earlier run without `resume` or `overwrite`.
        ResumeError: structure, settings or potential differ from those of the checkpoint.
        MDInstabilityError: a guard fired; the last good frame is in `<name>.last_good.extxyz`.
        OutputError: the disk is full or read-only; the last checkpoint is intact.
    """
    calculator = calculator_for(calculator)
    check_setup(atoms, calculator, config)
    folder = Path(out_dir)
    who = identity(atoms, calculator, config)
    saved = find_checkpoint(folder, config, who, resume=resume, overwrite=overwrite)
    atoms = atoms.copy()
    atoms.calc = calculator
    periodic = bool(atoms.pbc.all()) and atoms.cell.rank == 3 and "stress" in calculator.implemented_properties
    offsets = None if saved is None else saved["offsets"]
    with Recorder(folder, config.name, periodic=periodic, offsets=offsets) as recorder:
        run = _Run(atoms, config, folder, recorder, who, saved)
        speed = run.advance(on_progress)
    summary = summarise(recorder.table_path, atoms, config)
    write_atomically(folder / f"{config.name}.json", (json.dumps(summary, indent=1) + "\n").encode())
    return MDResult(atoms, summary, recorder.trajectory_path, recorder.table_path, speed)


class _Run:
    """One simulation in progress."""

    def __init__(
        self,
        atoms: Atoms,
        config: MDConfig,
        folder: Path,
        recorder: Recorder,
        who: dict[str, Any],
        saved: dict[str, Any] | None,
    ) -> None:
        self.atoms, self.config, self.folder, self.recorder, self.who = atoms, config, folder, recorder, who
        self.freedoms = degrees_of_freedom(atoms, config.ensemble)
        self.rng = np.random.default_rng([config.seed, _NOISE_STREAM])
        if saved is None:
            if config.momenta == "maxwell-boltzmann":
                draw_momenta(atoms, config, np.random.default_rng([config.seed, _MOMENTA_STREAM]))
            self._begin()
        else:
            self._restore(saved)

    def advance(self, on_progress: Callable[[Progress], None] | None) -> float:
        """Go on to the last step; the speed in ns/day."""
        start, first = time.perf_counter(), self.state.step
        speed = 0.0
        for step in range(first + 1, self.config.steps + 1):
            self._step(step)
            self._write(step)
            elapsed = max(time.perf_counter() - start, 1e-9)
            speed = (step - first) * self.config.timestep_fs * 1e-6 / (elapsed / 86400.0)
            if on_progress is not None and step % self.config.steps_per_row == 0:
                on_progress(self._progress(speed, elapsed * (self.config.steps - step) / (step - first)))
            if step % self.config.checkpoint_interval == 0 or step == self.config.steps:
                self._checkpoint()
        return speed

    def _begin(self) -> None:
        # an error of the calculator here is about the input and passes as it is
        with np.errstate(all="ignore"):
            self.state = observe(self.atoms, 0, self.freedoms)
        self._remember()
        self.guards = Guards(self.atoms, self.config, self.state)
        fault = self.guards.check(self.atoms, self.state, None)
        if fault is not None:
            self._stop(fault, 0)
        self.dyn = make_integrator(self.atoms, self.config, self.rng, self.freedoms)
        self._write(0)

    def _restore(self, saved: dict[str, Any]) -> None:
        atoms = self.atoms
        # the guards are those of the first step
        self.guards = Guards(
            atoms, self.config, State(**{**saved["first"], "forces": saved["first"]["forces"].numpy()})
        )
        atoms.set_cell(saved["cell"].numpy(), scale_atoms=False)
        atoms.arrays["positions"][:] = saved["positions"].numpy()
        atoms.set_momenta(saved["momenta"].numpy(), apply_constraint=False)
        self.dyn = make_integrator(atoms, self.config, self.rng, self.freedoms)
        restore_integrator(self.dyn, self.rng, saved["integrator"])
        self.state = observe(atoms, saved["step"], self.freedoms)
        check_resumable(saved["potential_eV"], self.state.potential)
        self._remember()

    def _step(self, step: int) -> None:
        atoms, last = self.atoms, self.state
        try:
            # overflows of an explosion are found by the guards
            with np.errstate(all="ignore"):
                self.dyn.step()
                state = observe(atoms, step, self.freedoms)
                fault = self.guards.check(atoms, state, last)
        except Exception as error:
            if not isinstance(error, _FAILURES) and np.isfinite(atoms.positions).all():
                raise
            self._stop(_fault_of(error, atoms), step)
        if fault is not None:
            self._stop(fault, step)
        self.state = state
        self._remember()

    def _write(self, step: int) -> None:
        time_fs = step * self.config.timestep_fs
        if step % self.config.interval == 0:
            self.recorder.frame(self.atoms, self.state, time_fs)
        if step % self.config.steps_per_row == 0:
            self.recorder.row(self.atoms, self.state, time_fs)

    def _remember(self) -> None:
        atoms = self.atoms
        self._good = (atoms.positions.copy(), atoms.get_momenta(), atoms.cell.array.copy())

    def _stop(self, fault: Fault, step: int) -> None:
        """Write the last good frame and raise."""
        good = self.atoms.copy()
        positions, momenta, cell = self._good
        good.set_cell(cell, scale_atoms=False)
        good.arrays["positions"][:] = positions
        good.set_momenta(momenta, apply_constraint=False)
        path = self.folder / f"{self.config.name}.last_good.extxyz"
        text = extxyz_frame(good, self.state, self.state.step * self.config.timestep_fs)
        write_atomically(path, text.encode())
        symbol = good.get_chemical_symbols()[fault.atom]
        raise MDInstabilityError(
            fault.what,
            where=f"step {step} ({step * self.config.timestep_fs:g} fs), atom {fault.atom} ({symbol})",
            expected=fault.expected,
            got=fault.got,
            remedy=f"the last good frame (step {self.state.step}) is {path}; "
            "try a smaller time step, a relaxed start or a model trained on such structures",
        )

    def _checkpoint(self) -> None:
        offsets = self.recorder.sync()
        atoms = self.atoms
        save_state(
            state_folder(self.folder, self.config.name),
            {
                "identity": json.dumps(self.who),
                "step": self.state.step,
                "offsets": offsets,
                "potential_eV": self.state.potential,
                "positions": _tensor(atoms.positions),
                "momenta": _tensor(atoms.get_momenta()),
                "cell": _tensor(atoms.cell.array),
                "integrator": integrator_state(self.dyn, self.rng),
                "first": {**vars(self.guards.first), "forces": _tensor(self.guards.first.forces)},
            },
        )

    def _progress(self, speed: float, eta: float) -> Progress:
        state = self.state
        time_fs = state.step * self.config.timestep_fs
        return Progress(
            state.step, self.config.steps, time_fs, state.temperature, state.potential, state.total, speed, eta
        )


def _fault_of(error: Exception, atoms: Atoms) -> Fault:
    bad = np.argwhere(~np.isfinite(atoms.positions))
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Fault("the structure broke down", "a structure with an energy", text, int(bad[0, 0]) if len(bad) else 0)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64, order="C"))
