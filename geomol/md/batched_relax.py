"""Relaxation of thousands of structures at once by FIRE, each at its own pace."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geomol.errors import ConfigError, GeomolWarning, InputError
from geomol.md.batched_forces import BatchedForces, check_structures
from geomol.md.batched_systems import Systems, positions_of
from geomol.md.calculator import GeomolCalculator, ModelSource
from geomol.md.relax import RelaxResult
from geomol.ops import segment_sum

# Bitzek et al. 2006, with the values of ASE
DT_START, DT_MAX, DT_UP, DT_DOWN, UPHILL_FREE_STEPS = 0.1, 1.0, 1.1, 0.5, 5
MIX_START, MIX_DOWN, LARGEST_STEP = 0.1, 0.99, 0.2


@dataclass(frozen=True, eq=False)
class FireState:
    """What FIRE knows of each structure.

    Attributes:
        velocity: of each atom; unit masses.
        dt: time step of each structure.
        mix: part of the velocity that is turned towards the force.
        downhill: steps since the velocity last pointed uphill.
        started: whether a step has been taken.
    """

    velocity: Float[Tensor, "N 3"]
    dt: Float[Tensor, " G"]
    mix: Float[Tensor, " G"]
    downhill: Int[Tensor, " G"]
    started: Bool[Tensor, " G"]


def fire_init(systems: Systems) -> FireState:
    """All structures at rest."""
    zeros = torch.zeros(len(systems), dtype=torch.float64, device=systems.ptr.device)
    velocity = zeros.new_zeros(systems.numbers.shape[0], 3)
    return FireState(velocity, zeros + DT_START, zeros + MIX_START, zeros.long(), zeros.bool())


def fire_step(
    systems: Systems, state: FireState, pos: Float[Tensor, "N 3"], forces: Float[Tensor, "N 3"]
) -> tuple[FireState, Float[Tensor, "N 3"]]:
    """One step of FIRE (Bitzek et al. 2006) for each structure, as in ASE's `FIRE`: new state and positions.

    Where F·v > 0: v ← (1 − a) v + a |v| F/|F|, and after five such steps Δt grows and a falls. Elsewhere v ← 0, Δt is
    halved and a starts anew. Then v ← v + Δt F and r ← r + Δt v, by at most 0.2 Å in the norm of all atoms together.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return segment_sum((a * b).sum(1), systems.ptr)

    batch, velocity = systems.batch, state.velocity
    power = dot(forces, velocity)
    goes_down = (power > 0) & state.started
    length = dot(forces, forces).sqrt()
    turned = state.mix * dot(velocity, velocity).sqrt() / torch.where(length > 0, length, 1.0)
    mixed = (1.0 - state.mix)[batch, None] * velocity + turned[batch, None] * forces
    velocity = torch.where(goes_down[batch, None], mixed, 0.0)
    is_steady = goes_down & (state.downhill > UPHILL_FREE_STEPS)
    is_reset = ~goes_down & state.started
    dt = torch.where(is_steady, (state.dt * DT_UP).clamp(max=DT_MAX), state.dt)
    dt = torch.where(is_reset, state.dt * DT_DOWN, dt)
    mix = torch.where(is_steady, state.mix * MIX_DOWN, torch.where(is_reset, MIX_START, state.mix))
    downhill = torch.where(goes_down, state.downhill + 1, 0)
    velocity = velocity + dt[batch, None] * forces
    step = dt[batch, None] * velocity
    size = dot(step, step).sqrt()
    step = step * torch.where(size > LARGEST_STEP, LARGEST_STEP / size, 1.0)[batch, None]
    return FireState(velocity, dt, mix, downhill, torch.ones_like(state.started)), pos + step


def relax_batched(
    structures: Sequence[Atoms],
    calculator: GeomolCalculator | ModelSource,
    fmax: float = 0.01,
    steps: int = 500,
    *,
    batch_size: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[RelaxResult]:
    """Move the atoms of each structure downhill until no force exceeds `fmax`; `relax` with FIRE, many at a time.

    Each structure takes the steps that it would take alone, to rounding. What is finished leaves the batch at once and
    the next structure enters, so that none waits for another. Cells and atoms under `FixAtoms` stay as they are.
    A structure whose forces stop being finite is named in a warning and given back as it was before, not converged.

    Args:
        structures: starts, in any order and of any size; not modified.
        calculator: a calculator, a potential, or the path or name of one.
        fmax: limit of the largest force on an atom, eV/Å.
        steps: most steps of each structure; reaching it is not an error, see `RelaxResult.converged`.
        batch_size: structures that are relaxed at once.
        on_progress: called after each step with the numbers of structures that are finished, and of all.

    Returns:
        One result per structure, in their order. The atoms carry energy and forces.

    Raises:
        ConfigError: fmax, steps or batch_size out of range, or other constraints than `FixAtoms`.
        InputError: a structure with coincident atoms, or whose forces are not finite at the start.
    """
    if not (fmax > 0 and math.isfinite(fmax)):
        raise ConfigError("fmax must be positive", expected="a force in eV/Å", got=repr(fmax))
    for name, value, least in (("steps", steps, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ConfigError(f"`{name}` is out of range", expected=f"a number >= {least}", got=str(value))
    calculator = calculator if isinstance(calculator, GeomolCalculator) else GeomolCalculator(calculator)
    check_structures(calculator, structures)
    pool = _Pool(structures, calculator, fmax, steps, batch_size)
    while pool.advance():
        if on_progress is not None:
            on_progress(len(pool.finished), len(structures))
    return [pool.finished[k] for k in range(len(structures))]


class _Pool:
    """Structures that move, those that wait, and the results of the others.

    Attributes:
        active: numbers of the structures that move.
        finished: result of each structure that does not any more.
    """

    def __init__(
        self, structures: Sequence[Atoms], calculator: GeomolCalculator, fmax: float, steps: int, batch_size: int
    ) -> None:
        self.structures, self.calculator = structures, calculator
        self.fmax, self.steps, self.batch_size = fmax, steps, batch_size
        self.active: list[int] = []
        self.finished: dict[int, RelaxResult] = {}
        self._is_free = [_free_atoms(atoms, k) for k, atoms in enumerate(structures)]
        self._taken = [0] * len(structures)
        self._entered = 0
        self._systems: Systems
        self._forces: BatchedForces | None = None
        self._fire: FireState
        self._pos: Tensor
        self._free: Tensor
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def advance(self) -> bool:
        """Admit, evaluate, let go what is finished, and move the others; False when all are finished."""
        self._admit()
        if not self.active:
            return False
        if self._forces is None:
            self._forces = BatchedForces(self.calculator, self._systems)
        energy, forces = self._forces(self._pos)
        moving = torch.where(self._free[:, None], forces, 0.0)
        largest = torch.zeros_like(energy).scatter_reduce(0, self._systems.batch, moving.square().sum(1), "amax").sqrt()
        taken = torch.tensor([self._taken[k] for k in self.active], device=energy.device)
        # as in ASE, the limit itself is not below the limit
        goes_on = (largest >= self.fmax) & (taken < self.steps) & largest.isfinite() & energy.isfinite()
        keep = goes_on.nonzero()[:, 0].tolist()
        if len(keep) < len(self.active):
            self._finish(goes_on.tolist(), energy, forces, largest)
            rows = self._systems.rows(keep)
            self._select(keep, rows)
            energy, forces, moving = energy[goes_on], forces[rows], moving[rows]
        if keep:
            self._last = self._pos, energy, forces
            self._fire, self._pos = fire_step(self._systems, self._fire, self._pos, moving)
            for k in self.active:
                self._taken[k] += 1
        return True

    def _admit(self) -> None:
        """Fill up with structures that wait."""
        room = self.batch_size - len(self.active)
        entering = range(self._entered, min(self._entered + room, len(self.structures)))
        if not entering:
            return
        self._entered = entering.stop
        chosen, device = [self.structures[k] for k in entering], self.calculator.neighbours.device
        pos, systems = positions_of(chosen, device), Systems.from_atoms(chosen, device)
        free = torch.cat([self._is_free[k] for k in entering]).to(device)
        fire, unknown = fire_init(systems), torch.full((len(chosen),), math.nan, dtype=torch.float64, device=device)
        last = pos, unknown, torch.full_like(pos, math.nan)
        if self.active:
            assert self._last is not None
            pos, free = torch.cat([self._pos, pos]), torch.cat([self._free, free])
            systems, fire = _joined_systems(self._systems, systems), _joined_states(self._fire, fire)
            before, energy, forces = self._last
            last = torch.cat([before, last[0]]), torch.cat([energy, last[1]]), torch.cat([forces, last[2]])
        self._pos, self._free, self._systems, self._fire, self._last = pos, free, systems, fire, last
        self.active = [*self.active, *entering]
        self._forces = None

    def _select(self, keep: list[int], rows: Tensor) -> None:
        """Go on with some of the structures."""
        self.active = [self.active[k] for k in keep]
        if not keep:
            return
        index = torch.tensor(keep, device=rows.device)
        fire = self._fire
        self._fire = FireState(
            fire.velocity[rows], fire.dt[index], fire.mix[index], fire.downhill[index], fire.started[index]
        )
        self._pos, self._free, self._systems = self._pos[rows], self._free[rows], self._systems.select(keep)
        self._forces = None

    def _finish(self, goes_on: list[bool], energy: Tensor, forces: Tensor, largest: Tensor) -> None:
        """Make results of the structures that do not go on."""
        assert self._last is not None
        bounds = self._systems.ptr.tolist()
        for which, k in enumerate(self.active):
            if goes_on[which]:
                continue
            rows, fmax = slice(bounds[which], bounds[which + 1]), float(largest[which])
            found = self._pos[rows], float(energy[which]), forces[rows]
            if not (math.isfinite(fmax) and math.isfinite(found[1])):
                if self._taken[k] == 0:
                    raise InputError("the forces at the start are not finite", where=f"structure {k}")
                warnings.warn(
                    f"structure {k}: forces are not finite after {self._taken[k]} steps; it is left as it was before",
                    GeomolWarning,
                    stacklevel=4,
                )
                found = self._last[0][rows], float(self._last[1][which]), self._last[2][rows]
                fmax = float(torch.where(self._free[rows, None], found[2], 0.0).norm(dim=1).max())
            self.finished[k] = _result(self.structures[k], *found, fmax < self.fmax, self._taken[k], fmax)


def _result(
    start: Atoms, pos: Tensor, energy: float, forces: Tensor, converged: bool, taken: int, fmax: float
) -> RelaxResult:
    atoms = start.copy()
    atoms.arrays["positions"][:] = pos.cpu().numpy()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces.cpu().numpy())
    return RelaxResult(atoms, converged, taken, energy, fmax)


def _free_atoms(atoms: Atoms, number: int) -> Bool[Tensor, " N"]:
    """Which atoms may move."""
    free = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise ConfigError(
                "many structures at once know no constraint but FixAtoms",
                where=f"structure {number}",
                got=type(constraint).__name__,
                remedy="relax it alone",
            )
        free[constraint.index] = False
    return torch.from_numpy(free)


def _joined_systems(a: Systems, b: Systems) -> Systems:
    joined = {name: torch.cat([value, getattr(b, name)]) for name, value in vars(a).items()}
    joined["ptr"] = torch.cat([a.ptr, b.ptr[1:] + a.ptr[-1]])
    joined["batch"] = torch.cat([a.batch, b.batch + len(a)])
    return Systems(**joined)


def _joined_states(a: FireState, b: FireState) -> FireState:
    return FireState(**{name: torch.cat([value, getattr(b, name)]) for name, value in vars(a).items()})
