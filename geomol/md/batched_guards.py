"""Guards over a batch: all structures are screened at once, and those that look wrong are judged one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase import Atoms
from jaxtyping import Float
from torch import Tensor

from geomol.md.batched_systems import BatchedState, Systems
from geomol.md.config import MDConfig
from geomol.md.guards import Fault, Guards, State

_LIST_INTERVAL = 20  # steps between searches for lost atoms in periodic and larger systems, as in `Guards`
_DENSE_ATOMS = 128


class BatchedGuards:
    """The rules of `Guards` for many structures, with one wait for the device per step.

    A screen that is never milder than the rules picks the structures that `Guards` itself then judges: faults and their
    wording are those of a single run.

    Args:
        guards: of each structure.
        systems: the structures.
    """

    def __init__(self, guards: Sequence[Guards], systems: Systems) -> None:
        device = systems.ptr.device
        self._guards, self._systems = list(guards), systems
        self._is_nve = guards[0].config.ensemble == "nve"
        self._isolation = min(g.config.max_isolation_A for g in guards)

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=device) * (1 - 1e-9)

        sizes = systems.ptr.diff()
        self._max_force = column([g.max_force for g in guards])
        self._max_temperature = column([g.max_temperature for g in guards])
        self._start = torch.tensor([g.first.total for g in guards], dtype=torch.float64, device=device)
        self._drift = column([g.config.max_energy_drift_eV_per_atom for g in guards]) * sizes
        self._jump = column([g.config.max_energy_jump_eV for g in guards]) * sizes.double().sqrt()
        self._is_listed = systems.pbc.any(1) | (sizes > _DENSE_ATOMS)
        self._can_lose = torch.tensor([len(g.watched) > 0 for g in guards], device=device)

    def suspects(
        self,
        state: BatchedState,
        temperature: Float[Tensor, " G"],
        total: Float[Tensor, " G"],
        last_total: Float[Tensor, " G"] | None,
        step: int,
    ) -> list[int]:
        """Structures that a rule may refuse."""
        systems = self._systems
        index = systems.batch
        force = state.forces.square().sum(1)
        largest = torch.zeros_like(total).scatter_reduce(0, index, force, "amax").sqrt()
        # comparisons with a number that is none are false: what is not finite is never fine
        fine = (largest <= self._max_force) & (temperature <= self._max_temperature) & state.energy.isfinite()
        if self._is_nve:
            fine &= (total - self._start).abs() <= self._drift
            if last_total is not None:
                fine &= (total - last_total).abs() <= self._jump
        wide = index[:, None].expand(-1, 3)
        empty = total.new_zeros(len(systems), 3)
        high = empty.scatter_reduce(0, wide, state.pos, "amax", include_self=False)
        extent = high - empty.scatter_reduce(0, wide, state.pos, "amin", include_self=False)
        # all atoms of a structure that is small enough see each other
        is_compact = extent.square().sum(1) < self._isolation**2
        is_due = ~self._is_listed if step % _LIST_INTERVAL else torch.ones_like(self._is_listed)
        fine &= is_compact | ~(is_due & self._can_lose)
        fine &= extent.isfinite().all(1)
        if bool(fine.all()):
            return []
        return [int(k) for k in (~fine).nonzero()[:, 0].tolist()]

    def judge(self, which: int, atoms: Atoms, state: State, last: State | None) -> Fault | None:
        """The first rule that a structure breaks, if any."""
        return self._guards[which].check(atoms, state, last)


def make_guards(structures: Sequence[Atoms], configs: Sequence[MDConfig], first: Sequence[State]) -> list[Guards]:
    """The limits of each structure, fixed by its start."""
    return [Guards(*each) for each in zip(structures, configs, first, strict=True)]
