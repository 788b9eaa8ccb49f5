"""Energies and forces of a batch of structures, and the neighbours that they need."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from ase import Atoms
from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import ConfigError, GeomolError, ModelDomainError
from geomol.graph import Graph, complete_graph
from geomol.graph.cells import cell_pairs
from geomol.graph.checks import TOO_CLOSE
from geomol.graph.dense_pairs import DensePairs
from geomol.graph.neighbours import find_pairs
from geomol.md.batched_systems import Systems
from geomol.md.calculator import GeomolCalculator, ModelSource

DENSE_ATOMS = 100  # structures up to here are tabulated whole at every step; larger ones keep a list with a skin
_ROUNDING = 1e-9  # Å; keeps the bound of the skin on the safe side of rounding in the displacement


class BatchedNeighbours:
    """Neighbours of a batch, the same whatever was asked before: exact pairs of the moment, in canonical order.

    Small finite structures are tabulated at every call. Otherwise the pairs within cutoff + skin are kept, and searched
    again once any atom of the batch has moved by more than half the skin: two atoms that moved less cannot have come
    nearer by more than the skin. As in `SkinList`, displacements are of the raw positions.

    Args:
        systems: the structures; their cells do not change.
        cutoff: Å; inf for complete graphs, which are never periodic.
        skin: extra radius, Å.

    Attributes:
        rebuilds: number of searches so far; 0 where none is needed.

    Raises:
        ConfigError: a skin that is not a length.
        ModelDomainError: an infinite cutoff and a periodic structure.
    """

    def __init__(self, systems: Systems, cutoff: float, *, skin: float) -> None:
        if not (math.isfinite(skin) and skin >= 0):
            raise ConfigError("the skin must be a length", expected="a number >= 0 (Å)", got=repr(skin))
        self.systems, self.cutoff, self.skin, self.rebuilds = systems, cutoff, skin, 0
        self.is_periodic = bool(systems.pbc.any())
        if math.isinf(cutoff) and self.is_periodic:
            remedy = "use a model with a finite cutoff"
            raise ModelDomainError("a model on complete graphs has no periodic form", remedy=remedy)
        largest = int(systems.ptr.diff().max())
        is_small = not self.is_periodic and largest <= DENSE_ATOMS and math.isfinite(cutoff)
        self._table = DensePairs(systems.ptr, cutoff) if is_small else None
        self._reference: Tensor | None = None
        self._pairs: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._mask: Tensor | None = None
        self._graph: Graph | None = None

    def graph(self, pos: Float[Tensor, "N 3"]) -> Graph:
        """The graph of the pairs within the cutoff at these positions."""
        if math.isinf(self.cutoff):
            if self._graph is None:
                self._graph = complete_graph(pos, self.systems.numbers, self.systems.ptr)
            return self._graph.replace(pos=pos)
        mask = self._table.near(pos) if self._table is not None else self._within(pos)
        # most of the time the pairs are those of the step before
        if self._graph is None or self._mask is None or not torch.equal(mask, self._mask):
            self._mask, self._graph = mask, self._dense(pos, mask) if self._table is not None else self._kept(pos, mask)
        return self._graph.replace(pos=pos)

    def _within(self, pos: Tensor) -> Tensor:
        """Which of the stored pairs are within the cutoff, after a search if one is due."""
        if self._reference is None or float((pos - self._reference).square().sum(1).max()) > self._allowed:
            systems = self.systems
            dst, src, shift = cell_pairs(pos, systems.ptr, systems.cell, systems.pbc, self.cutoff + self.skin)
            cell, steps = systems.cell[systems.batch[dst]], shift.to(pos.dtype)
            # written out because the rounding of a matrix product may depend on the number of rows
            offset = steps[:, 0:1] * cell[:, 0] + steps[:, 1:2] * cell[:, 1] + steps[:, 2:] * cell[:, 2]
            self._reference, self._pairs, self._mask = pos.clone(), (dst, src, shift, offset), None
            self.rebuilds += 1
        assert self._pairs is not None
        dst, src, _, offset = self._pairs
        vec = pos.index_select(0, src) + offset - pos.index_select(0, dst)
        return vec.square().sum(1) < self.cutoff * self.cutoff

    @property
    def _allowed(self) -> float:
        """Square of the largest displacement, Å², that needs no search."""
        return max(self.skin / 2 - _ROUNDING, 0.0) ** 2

    def _dense(self, pos: Tensor, mask: Tensor) -> Graph:
        assert self._table is not None
        edges = self._table.edges(mask)
        shift = edges.send_perm.new_zeros(edges.send_perm.shape[0], 3)
        graph = self._as_graph(pos, edges.edge_index, edges.edge_ptr, shift)
        graph.__dict__.update(send_perm=edges.send_perm, send_ptr=edges.edge_ptr)
        return graph

    def _kept(self, pos: Tensor, mask: Tensor) -> Graph:
        assert self._pairs is not None
        dst, src, shift, _ = self._pairs
        dst = dst[mask]
        counts = torch.bincount(dst, minlength=pos.shape[0])
        ptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return self._as_graph(pos, torch.stack([src[mask], dst]), ptr, shift[mask]).prepared()

    def _as_graph(self, pos: Tensor, edge_index: Int[Tensor, "2 E"], edge_ptr: Tensor, shift: Tensor) -> Graph:
        systems = self.systems
        graph = Graph(
            pos=pos,
            numbers=systems.numbers,
            edge_index=edge_index,
            edge_ptr=edge_ptr,
            cell_shift=shift,
            cell=systems.cell,
            pbc=systems.pbc,
            batch=systems.batch,
            ptr=systems.ptr,
            cutoff=self.cutoff,
        )
        graph.__dict__["is_periodic"] = self.is_periodic
        return graph


class BatchedForces:
    """Energies (eV) and forces (eV/Å) of a batch of structures, by the models of a `GeomolCalculator`.

    With several models the results are their means, as the calculator's are. Positions stay in float64.

    Args:
        source: a calculator, a potential, or the path or name of one.
        systems: the structures.
        at_once: structures computed in one call; None: all. More need more memory, and gain nothing once a call is
            large enough to keep the device busy.
    """

    def __init__(self, source: GeomolCalculator | ModelSource, systems: Systems, *, at_once: int | None = None) -> None:
        self.calculator = source if isinstance(source, GeomolCalculator) else GeomolCalculator(source)
        self.systems = systems
        size = len(systems) if at_once is None else at_once
        ends = [min(k + size, len(systems)) for k in range(0, len(systems), max(size, 1))]
        self._parts = []
        cutoffs = {float(model.cutoff) for model in self.calculator.models}
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            part = systems if end - start == len(systems) else systems.select(range(start, end))
            atoms = slice(int(systems.ptr[start]), int(systems.ptr[end]))
            skin = self.calculator.neighbours.skin
            self._parts.append((atoms, {c: BatchedNeighbours(part, c, skin=skin) for c in cutoffs}))

    def __call__(self, pos: Float[Tensor, "N 3"]) -> tuple[Float[Tensor, " G"], Float[Tensor, "N 3"]]:
        """Energy of each structure and force on each atom."""
        energies, forces = [], []
        models = self.calculator.models
        for atoms, neighbours in self._parts:
            graphs = {cutoff: found.graph(pos[atoms]) for cutoff, found in neighbours.items()}
            out = [model(graphs[float(model.cutoff)], forces=True, stress=False) for model in models]
            energies.append(torch.stack([p.energy.detach().double() for p in out]).mean(0))
            forces.append(torch.stack([p.forces.detach().double() for p in out]).mean(0))
        return torch.cat(energies), torch.cat(forces)


def check_structures(calculator: GeomolCalculator, structures: Sequence[Atoms]) -> None:
    """Refuse what the calculator and its neighbour list would refuse, naming the structure.

    Batches look for coincident atoms here alone, and not at every step.

    Raises:
        GeomolError: as the calculator, of the same class.
        InputError: coincident atoms, or a cell that cannot be used.
    """
    for k, atoms in enumerate(structures):
        place = f"structure {k}"
        try:
            calculator.check(atoms)
        except GeomolError as error:
            raise error.within(place) from None
        find_pairs(atoms.positions, atoms.cell.array, atoms.pbc, TOO_CLOSE, where=place)
