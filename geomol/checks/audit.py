"""The symmetry audit of a potential: its energy and forces as the audit wants them, and where to look inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from geomol.checks.systems import symmetric_molecules, with_elements
from geomol.graph import Graph, build_graph
from geomol.ops import segment_sum
from geomol.potential import Potential
from geomol.symmetry.actions import TARGETS, Kind
from geomol.symmetry.audit import Audit, Effort, Layers, audit

POTENTIAL_KINDS: dict[str, Kind] = {name: TARGETS[name] for name in ("energy", "forces")}

_LAYER_LISTS = ("layers", "blocks")  # names under which backbones keep what runs in turn


class PotentialOutputs:
    """Interaction energies (without the energies of the isolated atoms, beside which any error would vanish) and forces.

    Unlike the potential itself, differentiable with respect to the positions of the graph, forces included.
    """

    def __init__(self, potential: Potential, *, forces: bool = True) -> None:
        self.potential, self.forces = potential, forces
        table = torch.zeros(max(potential.elements) + 1, dtype=torch.float64)
        table[torch.tensor(potential.elements)] = torch.tensor(potential.e0_values, dtype=torch.float64)
        self.offsets = table

    def __call__(self, graph: Graph) -> dict[str, Tensor]:
        pos = graph.pos
        wanted = torch.is_grad_enabled() and pos.requires_grad
        if not self.forces:
            return {"energy": self._energy(graph)}
        with torch.enable_grad():
            if not pos.requires_grad:
                # on a view without history, so that forward-mode tangents, which detach() drops, are kept
                pos = pos.view_as(pos).requires_grad_()
            energy = self._energy(graph.replace(pos=pos))
            (slope,) = torch.autograd.grad(
                energy.sum(), pos, create_graph=wanted or _has_tangent(pos), allow_unused=True, materialize_grads=True
            )
        return {"energy": energy, "forces": -slope}

    def _energy(self, graph: Graph) -> Tensor:
        offsets = self.offsets.to(graph.pos)[graph.numbers]
        return segment_sum(self.potential.node_energy(graph) - offsets, graph.ptr)


def _has_tangent(pos: Tensor) -> bool:
    return torch.autograd.forward_ad.unpack_dual(pos).tangent is not None


def audit_potential(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    effort: Effort | None = None,
    labels: Mapping[str, np.ndarray] | None = None,
    on_progress: Callable[[float, str], None] | None = None,
) -> Audit:
    """Hold a potential to the symmetry that it claims.

    The bars are those of the precision of its weights: audit a float64 copy to tell a broken symmetry from rounding.

    Args:
        potential: to be audited.
        structures: typical of what it is used on; a handful is enough.
        effort: how much to measure.
        labels: "energy" (S,) in eV and "forces" (A, 3) in eV/Å of the structures, for orbits of the error.
        on_progress: called with the part that is done and what is being done.
    """
    graph = build_graph(list(structures), potential.cutoff)
    molecules = [with_elements(atoms, potential.elements) for atoms in symmetric_molecules().values() if len(atoms) < 20]
    outputs = PotentialOutputs(potential)
    more = {} if on_progress is None else {"on_progress": on_progress}
    with _fixed(potential):
        return audit(
            outputs,
            graph,
            POTENTIAL_KINDS,
            claim=potential.symmetry,
            effort=effort,
            labels=None if labels is None else interaction_labels(outputs, graph, labels),
            layers=potential_layers(potential),
            special=build_graph(molecules, potential.cutoff),
            reseed=reseeder(potential) if potential.symmetry.stochastic else None,
            precision=potential.dtype,
            **more,  # type: ignore[arg-type]
        )
