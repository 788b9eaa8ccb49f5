"""Velocity Verlet and Langevin steps of many structures at once: pairs of functions, and the noise they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from ase import units
from jaxtyping import Float
from torch import Tensor

from geomol.md.batched_systems import BatchedState, Systems

ForceFunction = Callable[[Tensor], tuple[Tensor, Tensor]]  # positions to energies and forces

_NOISE_STREAM = 1  # of a seed; the number that the driver of single structures uses
_BLOCK_NUMBERS = 1 << 19  # random numbers that are drawn at a time


def nve_init(forces: ForceFunction, pos: Float[Tensor, "N 3"], momenta: Float[Tensor, "N 3"]) -> BatchedState:
    """The state that `nve_step` and `langevin_step` continue from."""
    energy, force = forces(pos)
    return BatchedState(pos, momenta, force, energy)


langevin_init = nve_init


def nve_step(systems: Systems, forces: ForceFunction, state: BatchedState, *, dt: float) -> BatchedState:
    """One step of velocity Verlet (Swope et al. 1982), operation by operation as in ASE's `VelocityVerlet`.

    p ← p + ½ F(r) Δt;  r ← r + Δt p / m;  p ← p + ½ F(r) Δt.  The only error is of order Δt², and the total energy
    oscillates with that amplitude and does not drift.

    Args:
        systems: masses.
        forces: the potential.
        state: as after the last step.
        dt: time step in ASE's unit (`ase.units.fs` is one femtosecond).
    """
    momenta = state.momenta + 0.5 * dt * state.forces
    pos = state.pos + dt * momenta / systems.masses
    energy, force = forces(pos)
    return BatchedState(pos, momenta + 0.5 * dt * force, force, energy)


def langevin_step(
    systems: Systems,
    forces: ForceFunction,
    state: BatchedState,
    *,
    dt: float,
    friction: float,
    kT: Float[Tensor, " G"],
    noise: Float[Tensor, "2 N 3"],
) -> BatchedState:
    """One Langevin step of second order (Vanden-Eijnden and Ciccotti 2006, eq. 21), as in ASE's `Langevin`.

    With σ = √(2 kT γ / m), normal numbers ξ, η and the kick
    K(F, v) = (Δt/2 − Δt² γ/8) F/m − (Δt γ/2 − Δt² γ²/8) v + (√Δt/2 − Δt^{3/2} γ/8) σ ξ − γ Δt^{3/2} σ η / (4√3):
    v ← v + K(F, v);  r ← r + Δt v + Δt^{3/2} σ η / (2√3);  v ← v + K(F, v), with the same ξ and η.
    The noise reaches all 3N momenta; the centre of mass diffuses, as it does in the driver of single structures.

    Args:
        systems: masses.
        forces: the potential.
        state: as after the last step.
        dt: time step in ASE's unit.
        friction: γ, in inverse units of `dt`.
        kT: temperature of each structure, eV.
        noise: ξ and η.
    """
    mass, gamma, (xi, eta) = systems.masses, friction, noise
    sigma = torch.sqrt(2 * kT[systems.batch][:, None] * gamma / mass)
    c1, c2 = dt / 2.0 - dt * dt * gamma / 8.0, dt * gamma / 2 - dt * dt * gamma * gamma / 8.0
    c3 = dt**0.5 * sigma / 2.0 - dt**1.5 * gamma * sigma / 8.0
    c5 = dt**1.5 * sigma / (2 * 3**0.5)
    moved = c5 * eta
    kicked = c3 * xi - gamma / 2.0 * c5 * eta
    v = state.momenta / mass
    v = v + (c1 * state.forces / mass - c2 * v + kicked)
    pos = state.pos + dt * v + moved
    # from the positions, as they were rounded
    v = (pos - state.pos - moved) / dt
    energy, force = forces(pos)
    v = v + (c1 * force / mass - c2 * v + kicked)
    return BatchedState(pos, v * mass, force, energy)


class Noise:
    """The normal numbers of Langevin steps, a stream of its own for each structure.

    A structure's numbers depend on its seed alone, not on what else is in the batch, and are those that `run_md` draws
    with this seed. They are drawn on the CPU for many steps at a time, and moved to the device together.

    Args:
        seeds: entropy of each structure: its seed, or the seed of the run and the number of the replica.
        sizes: atoms of each structure.
        device: where they are used.
    """

    def __init__(self, seeds: Sequence[Sequence[int]], sizes: Sequence[int], device: torch.device | str) -> None:
        self._sizes, self._device = list(sizes), torch.device(device)
        self._streams = [np.random.default_rng([seed[0], _NOISE_STREAM, *seed[1:]]) for seed in seeds]
        self._block: Tensor | None = None
        self._states: Tensor | None = None
        self._used = 0

    @property
    def steps_per_block(self) -> int:
        """Steps whose numbers are drawn together."""
        return max(1, min(256, _BLOCK_NUMBERS // max(1, 6 * sum(self._sizes))))

    def next(self) -> Float[Tensor, "2 N 3"]:
        """ξ and η of the next step."""
        if self._block is None or self._used == len(self._block):
            self._draw()
        assert self._block is not None
        self._used += 1
        return self._block[self._used - 1]

    def select(self, keep: Sequence[int]) -> None:
        """Go on with some of the structures."""
        if self._block is not None:
            bounds = np.concatenate([[0], np.cumsum(self._sizes)])
            rows = np.concatenate([np.arange(bounds[k], bounds[k + 1]) for k in keep])
            self._block = self._block[:, :, torch.from_numpy(rows).to(self._device)]
        self._sizes, self._streams = [self._sizes[k] for k in keep], [self._streams[k] for k in keep]
        self._states = None if self._states is None else self._states[keep]

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs to go on with the same numbers."""
        steps = 0 if self._block is None else len(self._block)
        return {"streams": self._now() if self._states is None else self._states, "steps": steps, "used": self._used}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave, into a source of the same structures."""
        for stream, words in zip(self._streams, state["streams"].tolist(), strict=True):
            high, low, inc_high, inc_low, has_half, half = (word % (1 << 64) for word in words)
            stream.bit_generator.state = {
                "bit_generator": "PCG64",
                "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
                "has_uint32": has_half,
                "uinteger": half,
            }
        if state["steps"]:
            self._draw(state["steps"])
        self._used = state["used"]

    def _now(self) -> Tensor:
        """Where the streams are: numbers of 128 bits in two words each, as signed integers."""
        rows = []
        for stream in self._streams:
            state: Any = stream.bit_generator.state
            words = []
            for name in ("state", "inc"):
                words += divmod(state["state"][name], 1 << 64)
            rows.append([*words, state["has_uint32"], state["uinteger"]])
        return torch.from_numpy(np.array(rows, dtype=np.uint64).view(np.int64))

    def _draw(self, steps: int | None = None) -> None:
        steps = self.steps_per_block if steps is None else steps
        self._states, self._used = self._now(), 0
        drawn = [s.standard_normal((steps, 2, n, 3)) for s, n in zip(self._streams, self._sizes, strict=True)]
        self._block = torch.from_numpy(np.concatenate(drawn, axis=2)).to(self._device)


def thermal_energies(temperatures_K: Sequence[float], device: torch.device | str) -> Float[Tensor, " G"]:
    """kT of each temperature, eV."""
    return torch.tensor([units.kB * kelvin for kelvin in temperatures_K], dtype=torch.float64, device=device)
