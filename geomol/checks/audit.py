"""The symmetry audit of a potential: its energy and forces as the audit wants them, and where to look inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from geomol.checks.place import asked_there
from geomol.checks.systems import symmetric_molecules, with_elements
from geomol.forecast import Forecaster
from geomol.graph import Graph, build_graph
from geomol.ops import segment_sum
from geomol.potential import Potential
from geomol.symmetry.actions import TARGETS, Kind
from geomol.symmetry.audit import Audit, Effort, Layers, audit

POTENTIAL_KINDS: dict[str, Kind] = {name: TARGETS[name] for name in ("energy", "forces")}

GRAIN = 1e-8  # Å
FORECAST_KINDS: dict[str, Kind] = {"displacement": Kind("vector", "node")}  # of particles without units

_LAYER_LISTS = ("layers", "blocks")  # names under which backbones keep what runs in turn


def _silent(fraction: float, text: str) -> None:
    return None


class PotentialOutputs:
    """Forces, and interaction energies: without those of the isolated atoms, beside which any error would vanish.

    Unlike the potential itself, differentiable with respect to the positions of the graph, forces included.
    """

    def __init__(self, potential: Potential, *, forces: bool = True) -> None:
        self.potential, self.forces = potential, forces
        table = torch.zeros(max(potential.elements) + 1, dtype=torch.float64)
        table[torch.tensor(potential.elements)] = torch.tensor(potential.e0_values, dtype=torch.float64)
        self.offsets = table

    def __call__(self, graph: Graph) -> dict[str, Tensor]:
        return asked_there(self.potential, self._outputs, graph)

    def _outputs(self, graph: Graph) -> dict[str, Tensor]:
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
    return torch.autograd.forward_ad.unpack_dual(pos).tangent is not None  # type: ignore[no-untyped-call]


def audit_potential(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    effort: Effort | None = None,
    labels: Mapping[str, np.ndarray] | None = None,
    on_progress: Callable[[float, str], None] = _silent,
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
    graph = off_the_grid(build_graph(list(structures), potential.cutoff))
    molecules = [
        with_elements(atoms, potential.elements) for atoms in symmetric_molecules().values() if len(atoms) < 20
    ]
    outputs, layers = PotentialOutputs(potential), layers_of(potential.backbone)
    with fixed(potential):
        return audit(
            outputs,
            graph,
            POTENTIAL_KINDS,
            claim=potential.symmetry,
            effort=effort,
            labels=None if labels is None else interaction_labels(outputs, graph, labels),
            layers=None if not layers else Layers(PotentialOutputs(potential, forces=False), layers),
            special=build_graph(molecules, potential.cutoff),
            reseed=reseeder(potential) if potential.symmetry.stochastic else None,
            precision=potential.dtype,
            on_progress=on_progress,
        )


def audit_forecaster(
    forecaster: Forecaster,
    graph: Graph,
    *,
    effort: Effort | None = None,
    later: Tensor | None = None,
    on_progress: Callable[[float, str], None] = _silent,
) -> Audit:
    """Hold a forecaster to the symmetry that it claims, by the displacements that it predicts.

    Args:
        forecaster: to be audited.
        graph: present states, with velocities and charges as the forecaster reads them.
        effort: how much to measure.
        later: where the nodes are in the end, for orbits of the error.
        on_progress: called with the part that is done and what is being done.
    """
    graph = off_the_grid(graph)

    def displacement(graph: Graph) -> dict[str, Tensor]:
        return asked_there(forecaster, lambda there: {"displacement": forecaster(there) - there.pos}, graph)

    layers = layers_of(forecaster.backbone)
    with fixed(forecaster):
        return audit(
            displacement,
            graph,
            FORECAST_KINDS,
            claim=forecaster.symmetry,
            effort=effort,
            labels=None if later is None else {"displacement": later.to(graph.pos) - graph.pos},
            layers=None if not layers else Layers(displacement, layers, outputs=("displacement",)),
            reseed=reseeder(forecaster) if forecaster.symmetry.stochastic else None,
            precision=forecaster.dtype,
            on_progress=on_progress,
        )


def off_the_grid(graph: Graph) -> Graph:
    """The structures on the CPU, with positions moved by rounding errors of single precision or less.

    Data that was stored in single precision lies on so coarse a grid of numbers that translations in float64 are free
    of rounding; nothing could be learnt of them there.
    """
    graph, rng = graph.to("cpu"), torch.Generator().manual_seed(0)
    return graph.replace(pos=graph.pos + GRAIN * torch.randn(graph.pos.shape, generator=rng, dtype=graph.pos.dtype))


def interaction_labels(outputs: PotentialOutputs, graph: Graph, labels: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Labels as tensors, energies without the potential's energies of the isolated atoms."""
    found = {name: torch.as_tensor(value, dtype=graph.pos.dtype) for name, value in labels.items()}
    if "energy" in found:
        found["energy"] = found["energy"] - segment_sum(outputs.offsets.to(graph.pos)[graph.numbers], graph.ptr)
    return found


def layers_of(backbone: nn.Module) -> dict[str, nn.Module]:
    """The layers of a backbone (or of the one inside a symmetriser) in their order; their outputs should be invariants.

    Empty where they are not known, or live on a grid of orientations: a motion mixes the points of a grid, and no
    action on them is exact.
    """
    while isinstance(getattr(backbone, "backbone", None), nn.Module):
        backbone = backbone.backbone  # type: ignore[assignment]
    if isinstance(getattr(backbone, "grid", None), Tensor):
        return {}
    for name in _LAYER_LISTS:
        found = getattr(backbone, name, None)
        if isinstance(found, nn.ModuleList):
            return {f"{name[:-1]} {k + 1}": module for k, module in enumerate(found)}
    return {}


def reseeder(model: nn.Module) -> Callable[[int], None]:
    """Sets the random numbers of every random pose in a model, in evaluation too, where they otherwise never change."""
    random = [(module, int(module.seed)) for module in model.modules() if _draws(module)]  # type: ignore[arg-type]

    def reseed(number: int) -> None:
        for module, seed in random:
            module.seed = seed + number  # type: ignore[assignment]

    return reseed


def _draws(module: nn.Module) -> bool:
    return callable(getattr(module, "reseed", None)) and isinstance(getattr(module, "seed", None), int)


@contextmanager
def fixed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of a block, with seeds and mode as they were afterwards."""
    training, seeds = model.training, [(module, module.seed) for module in model.modules() if _draws(module)]
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        for module, seed in seeds:
            module.seed = seed
