"""What a compiled step is made for, and the tensors that it takes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from geomol.graph import Graph, build_graph
from geomol.nn import device_of
from geomol.potential import Potential

# the fields of a graph that a step may read, in the order of its arguments
FIELDS = (
    "pos",
    "numbers",
    "edge_index",
    "edge_ptr",
    "send_perm",
    "send_ptr",
    "cell_shift",
    "cell",
    "pbc",
    "batch",
    "ptr",
)
_SPACING = 0.4  # of the samples, in units of the cutoff: every atom has neighbours at several distances
_SPACINGS = (1.3, 2.4)  # Å, bounds of the above
_JITTER = 0.12  # of the spacing
_SIZES = {True: ((7,), (12,)), False: ((7, 5), (4, 10, 6))}  # atoms of the samples, for one structure and for several


@dataclass(frozen=True)
class Form:
    """What is fixed in one compiled step; the numbers of atoms, pairs and structures are not.

    Attributes:
        periodic: pairs may cross cell boundaries.
        single: exactly one structure.
        stress: the derivative by the strain is computed too.
        training: results can be differentiated again.
    """

    periodic: bool
    single: bool
    stress: bool
    training: bool

    @staticmethod
    def of(graph: Graph, *, stress: bool, training: bool) -> Form:
        """The form that serves this graph. Without training the stress of a crystal costs little and always comes."""
        periodic = graph.is_periodic or stress
        return Form(periodic, graph.num_graphs == 1, stress or (periodic and not training), training)

    def __str__(self) -> str:
        kind = (
            ("crystal" if self.single else "crystals") if self.periodic else "molecule" if self.single else "molecules"
        )
        use = "training" if self.training else "inference"
        return f"{kind}, {use}{' with stress' if self.stress else ''}"


def fits(graph: Graph) -> bool:
    """Whether a compiled step may serve this graph: PyTorch treats sizes 0 and 1 as constants, not as variables."""
    plain = graph.node_scalars is None and graph.node_vectors is None
    return plain and graph.num_nodes > 1 and graph.num_edges > 1 and graph.num_graphs > 0


def graph_of(values: dict[str, Tensor], *, cutoff: float, periodic: bool) -> Graph:
    """The graph that these fields make up; what would be derived from them, or looked up in them, is given."""
    given = dict(values)
    derived = {name: given.pop(name) for name in ("send_perm", "send_ptr")}
    graph = Graph(**given, cutoff=cutoff)
    graph.__dict__.update(derived, is_periodic=periodic)
    return graph


def sample_graphs(potential: Potential, form: Form) -> tuple[Graph, Graph]:
    """Two graphs of different sizes on which a step of this form is traced and compared with the plain potential."""
    device = device_of(potential)
    first, second = (
        build_graph(
            [_cluster(potential, size, seed, periodic=form.periodic) for seed, size in enumerate(sizes)],
            potential.cutoff,
            dtype=torch.float64,
            device=device,
            complete=not np.isfinite(potential.cutoff),
        )
        for sizes in _SIZES[form.single]
    )
    return first, second


def _cluster(potential: Potential, size: int, seed: int, *, periodic: bool) -> Atoms:
    """Atoms near the points of a small lattice, all elements in turn; in a sheared cell on request."""
    rng = np.random.default_rng(size + 100 * seed)
    spacing = float(np.clip(_SPACING * min(potential.cutoff, 10.0), *_SPACINGS))
    points = np.array(list(product(range(3), range(2), range(3))), dtype=float)[:size]
    pos = spacing * (points + rng.normal(scale=_JITTER, size=points.shape).clip(-2 * _JITTER, 2 * _JITTER))
    numbers = [potential.elements[k % len(potential.elements)] for k in range(size)]
    if not periodic:
        return Atoms(numbers, pos)
    cell = spacing * (np.diag([3.0, 2.0, 3.0]) + 0.1 * rng.normal(size=(3, 3)))
    return Atoms(numbers, pos, cell=cell, pbc=True)
