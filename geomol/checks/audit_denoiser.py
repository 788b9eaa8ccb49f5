"""The symmetry audit of a denoiser: its estimate of the clean structure, at several levels of noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.checks.audit import fixed, off_the_grid, reseeder
from geomol.checks.audit_points import (
    POSE_TOLD,
    HeldEdges,
    axes_on_nodes,
    bare_graph,
    frame_of,
    scalar_layers,
    with_remark,
    without_units,
)
from geomol.checks.place import asked_there
from geomol.diffusion import Cloud, Denoiser, Estimate, gaussian_cloud, pairs_of, zero_mean
from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.ops import sum_to_rows
from geomol.symmetry.actions import Kind
from geomol.symmetry.audit import Audit, Effort, audit

LEVELS = (0.05, 0.5, 5.0)  # of noise, in standard deviations of the coordinates: bonds, shape, nothing but noise


def _silent(fraction: float, text: str) -> None:
    return None


class DenoiserOutputs:
    """Estimates behind x + s ε at several levels s, for a graph of clean structures that carries the noise.

    The noise of the positions is a vector on every node, hence turned and renumbered with them, that of the features a
    scalar. Structures are centred before noise comes to them, as in training and in sampling: denoisers live in the
    space of zero centroids, on which translations do nothing. A denoiser that reads earlier estimates gets one; one
    that reads conditions is told the mean of each.

    Args:
        denoiser: to be audited.
        levels: s.
        pos, ptr, numbers: clean structures, in Å where they are molecules.
        frame: rotation of each from the pose of its source; None for none.
        seed: of the noise.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        levels: Sequence[float],
        pos: Float[Tensor, "N 3"],
        ptr: Int[Tensor, " P"],
        numbers: Int[Tensor, " N"] | None,
        frame: Float[Tensor, "G 3 3"] | None,
        seed: int,
    ) -> None:
        self.denoiser, self.levels = denoiser, tuple(levels)
        if not levels or min(levels) <= 0:
            raise ConfigError("levels of noise must be positive", got=str(list(levels)))
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + k) for k in range(len(ptr) - 1)]
        noise = gaussian_cloud(ptr, denoiser.scaling.num_feats, generators, dtype=torch.float64)
        frame = torch.eye(3, dtype=torch.float64).expand(len(ptr) - 1, 3, 3) if frame is None else frame
        vectors = [noise.pos[:, None], axes_on_nodes(frame, ptr)]
        self.reference = off_the_grid(bare_graph(pos, ptr, numbers=numbers, scalars=noise.feats, vectors=vectors))
        self.held: HeldEdges | None = None
        if denoiser.rule.name == "knn":
            self.held = HeldEdges(self, denoiser.backbone, self.reference)

    @property
    def kinds(self) -> dict[str, Kind]:
        """Positions at each level; elements and bonds, in which the levels lie side by side."""
        unit = "A" if self.denoiser.elements else ""
        found = {f"positions at noise {s:g}": Kind("vector", "node", unit) for s in self.levels}
        if self.denoiser.scaling.num_feats:
            found["elements"] = Kind("scalar", "node")
        if self.denoiser.bonds is not None:
            found["bonds"] = Kind("scalar", "node")
        return found

    def __call__(self, graph: Graph) -> dict[str, Tensor]:
        if self.held is None:
            return asked_there(self.denoiser, self._outputs, graph)
        with self.held.around(graph):
            return asked_there(self.denoiser, self._outputs, graph)

    def _outputs(self, graph: Graph) -> dict[str, Tensor]:
        assert graph.node_vectors is not None
        assert graph.node_scalars is not None
        denoiser = self.denoiser
        clean = denoiser.encode(graph.pos, graph.numbers, graph.ptr)
        clean = dataclasses.replace(clean, frame=frame_of(graph, 1).to(clean.pos) if denoiser.frame else None)
        eps = zero_mean(graph.node_vectors[:, 0], graph.ptr).to(clean.pos)
        noise = Cloud(eps, graph.node_scalars.to(clean.feats), graph.ptr)
        unit = denoiser.length_unit if denoiser.elements else 1.0
        found: dict[str, Tensor] = {}
        elements, bonds = [], []
        for s in self.levels:
            estimate = self._estimate(clean, noise, s)
            found[f"positions at noise {s:g}"] = estimate.clean.pos * unit
            elements.append(estimate.clean.feats if estimate.logits is None else estimate.logits)
            if denoiser.bonds is not None:
                bonds.append(self._bonds(estimate, graph))
        found["elements"] = torch.cat(elements, dim=1)
        return found | ({"bonds": torch.cat(bonds, dim=1)} if bonds else {})

    def _estimate(self, clean: Cloud, noise: Cloud, s: float) -> Estimate:
        denoiser = self.denoiser
        level = clean.pos.new_full((clean.num_graphs,), s)
        noisy = clean.plus(noise.scaled(level))
        means = [mean for mean, _ in denoiser.conditions.values()]
        context = clean.pos.new_tensor(means).expand(clean.num_graphs, len(means)) if means else None
        found: Estimate = denoiser(noisy, level, context=context)
        if denoiser.self_conditioning:
            found = denoiser(noisy, level, earlier=found, context=context)
        return found

    def _bonds(self, estimate: Estimate, graph: Graph) -> Float[Tensor, "N 4"]:
        """Mean scores of the pairs that each node is in."""
        pairs = pairs_of(graph.ptr)
        logits = self.denoiser.bond_logits(estimate, pairs)
        total = sum_to_rows(logits, pairs[0], graph.num_nodes) + sum_to_rows(logits, pairs[1], graph.num_nodes)
        return total / (graph.ptr.diff() - 1).clamp(min=1)[graph.batch][:, None]


def audit_denoiser(
    denoiser: Denoiser,
    pos: Float[Tensor, "N 3"],
    ptr: Int[Tensor, " P"],
    *,
    numbers: Int[Tensor, " N"] | None = None,
    frame: Float[Tensor, "G 3 3"] | None = None,
    levels: Sequence[float] = LEVELS,
    effort: Effort | None = None,
    on_progress: Callable[[float, str], None] = _silent,
) -> Audit:
    """Hold a denoiser to the symmetry that it claims: x̂(g·y, s) = g·x̂(y, s) for structure and noise moved together.

    Args:
        denoiser: to be audited.
        pos, ptr: clean structures, in Å where they are molecules.
        numbers: atomic numbers of molecules; None for points without elements.
        frame: rotation of each structure from the pose of its source, for denoisers that are told it; None: none.
        levels: of noise, in units of the standard deviation of the coordinates.
        effort: how much to measure.
        on_progress: called with the part that is done and what is being done.

    Raises:
        ConfigError: an element that it does not make, or a level that is not positive.
    """
    with fixed(denoiser):
        outputs = DenoiserOutputs(denoiser, levels, pos, ptr, numbers, frame, 0 if effort is None else effort.seed)
        graph = outputs.reference
        unit = 1.0 if denoiser.elements else denoiser.length_unit
        truth = zero_mean(graph.pos, graph.ptr) / unit
        found = audit(
            outputs,
            graph,
            outputs.kinds,
            claim=denoiser.symmetry,
            effort=effort,
            labels={f"positions at noise {s:g}": truth for s in outputs.levels},
            layers=scalar_layers(outputs, graph, denoiser.backbone, tuple(outputs.kinds)[: len(outputs.levels)]),
            reseed=reseeder(denoiser) if denoiser.symmetry.stochastic else None,
            precision=denoiser.dtype,
            on_progress=on_progress,
        )
    found = found if denoiser.elements else without_units(found)
    return with_remark(found, POSE_TOLD) if denoiser.frame else found
