"""What an atom costs, in time and memory, as a periodic structure grows."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from geomol.errors import ConfigError, ModelDomainError
from geomol.graph import build_graph, neighbour_list
from geomol.nn import device_of
from geomol.potential import Potential

MOVE = 1e-3  # Å, between two calls
RATTLE = 0.05  # Å, off the lattice: perfect crystals have no forces and many equal distances


@dataclass(frozen=True)
class SizePoint:
    """One size.

    Attributes:
        num_atoms, num_pairs: of the structure; pairs in both directions.
        list_s: median seconds of the neighbour list alone.
        step_s: median seconds of energy and forces, graph included.
        peak_bytes: most memory of the process (or of the device) during these calls, beyond what it had before the
            first; NaN where the system does not say.
    """

    num_atoms: int
    num_pairs: int
    list_s: float
    step_s: float
    peak_bytes: float

    @property
    def us_per_atom(self) -> float:
        return 1e6 * self.step_s / self.num_atoms

    @property
    def list_ns_per_pair(self) -> float:
        return 1e9 * self.list_s / max(1, self.num_pairs)

    def figures(self) -> dict[str, float]:
        """Everything, ready for JSON."""
        return {**asdict(self), "us_per_atom": self.us_per_atom, "list_ns_per_pair": self.list_ns_per_pair}


def repeated(atoms: Atoms, num: int) -> Atoms:
    """A periodic structure repeated, as evenly as it can be, to about `num` atoms, and moved off its lattice.

    Raises:
        ConfigError: a structure that is not periodic in all directions.
    """
    if not atoms.pbc.all():
        raise ConfigError("only a crystal or a liquid can grow by repetition", got=f"pbc = {atoms.pbc.tolist()}")
    times = np.array([1, 1, 1])
    lengths = atoms.cell.lengths()
    while len(atoms) * int(np.prod(times)) < 0.9 * num:
        times[np.argmin(times * lengths)] += 1
    found: Atoms = atoms.repeat(times.tolist())
    found.positions += np.random.default_rng(0).normal(scale=RATTLE, size=found.positions.shape)
    return found


def measure_size(potential: Potential, atoms: Atoms, *, rounds: int = 3, base_bytes: float | None = None) -> SizePoint:
    """Times neighbour list and step of one structure, atoms moved before every call; the first round warms up.

    Args:
        potential: what is timed.
        atoms: a periodic structure; its atoms are moved.
        rounds: calls.
        base_bytes: memory that does not count; None: what is in use now.

    Raises:
        ModelDomainError: a model without a cutoff.
    """
    if math.isinf(potential.cutoff):
        raise ModelDomainError("a model without a cutoff has no periodic form", remedy="use one with a finite cutoff")
    device = device_of(potential)
    rng, lists, steps, pairs = np.random.default_rng(1), [], [], 0
    base = memory_in_use(device) if base_bytes is None else base_bytes
    _reset_peak(device)
    for _ in range(rounds + 1):
        atoms.positions += rng.normal(scale=MOVE, size=atoms.positions.shape)
        start = time.perf_counter()
        pairs = len(neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, potential.cutoff, device=device)[0])
        middle = time.perf_counter()
        potential(build_graph(atoms, potential.cutoff, device=device))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        lists.append(middle - start)
        steps.append(time.perf_counter() - middle)
    return SizePoint(len(atoms), pairs, float(np.median(lists[1:])), float(np.median(steps[1:])), _peak(device) - base)


def measure_sizes(
    potential: Potential,
    atoms: Atoms,
    sizes: Sequence[int],
    *,
    rounds: int = 3,
    on_point: Callable[[SizePoint], None] | None = None,
) -> list[SizePoint]:
    """`measure_size` of the structure repeated to each of these numbers of atoms, ascending."""
    device = device_of(potential)
    found, base = [], memory_in_use(device)
    for num in sorted(sizes):
        found.append(measure_size(potential, repeated(atoms, num), rounds=rounds, base_bytes=base))
        if on_point is not None:
            on_point(found[-1])
    return found


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the peak starts anew from here


def memory_in_use(device: torch.device) -> float:
    """Bytes that the process, or on a GPU its tensors, have now; NaN where the system does not say."""
    return float(torch.cuda.memory_allocated(device)) if device.type == "cuda" else _status("VmRSS")


def _peak(device: torch.device) -> float:
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else _status("VmHWM")


def _status(key: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return math.nan
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(key)), math.nan)
