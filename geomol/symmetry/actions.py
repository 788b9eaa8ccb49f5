"""How motions act: on every field of a graph, on features, and on what models are asked for.

A model f is equivariant where f(g·x) = ρ(g) f(x): g·x is `act_on_graph`, ρ(g) is `act_on_target` for the kind of the
output. `TARGETS` is the one table that says which kind a name is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.errors import ConfigError, InputError, nearest
from geomol.graph import Graph
from geomol.models import Features
from geomol.symmetry.groups import Element, Generator, is_permutation

Form = Literal["scalar", "pseudoscalar", "vector", "pseudovector", "point", "tensor"]
Owner = Literal["node", "structure"]

_RANK: dict[str, int] = {"scalar": 0, "pseudoscalar": 0, "vector": 1, "pseudovector": 1, "point": 1, "tensor": 2}
_ODD_PARITY = ("pseudoscalar", "pseudovector")  # these take the sign of det R besides the rotation


@dataclass(frozen=True)
class Kind:
    """How a quantity transforms; further axes between the first and those of its form are channels.

    Attributes:
        form: "scalar"; "vector" (a difference of points); "point" (moves with translations and images); "tensor" (rank
            2); "pseudoscalar" and "pseudovector" (change sign under reflections, as torques do).
        per: one for each "node", or one for each "structure".
        unit: as it stands at the end of keys, such as "eV_per_A"; empty for pure numbers.
    """

    form: Form
    per: Owner
    unit: str = ""


TARGETS: dict[str, Kind] = {
    "energy": Kind("scalar", "structure", "eV"),
    "node_energy": Kind("scalar", "node", "eV"),
    "forces": Kind("vector", "node", "eV_per_A"),
    "stress": Kind("tensor", "structure", "eV_per_A3"),
    "dipole": Kind("vector", "structure", "e_A"),
    "polarizability": Kind("tensor", "structure", "A3"),
    "torque": Kind("pseudovector", "structure", "eV"),
    "charges": Kind("scalar", "node", "e"),
    "velocities": Kind("vector", "node", "A_per_fs"),
    "displacement": Kind("vector", "node", "A"),
    "positions": Kind("point", "node", "A"),
    "label": Kind("scalar", "structure"),
    "node_label": Kind("scalar", "node"),
    "scalars": Kind("scalar", "node"),
    "vectors": Kind("vector", "node"),
}


def kind_of(name: str) -> Kind:
    """The entry of `TARGETS`.

    Raises:
        ConfigError: unknown name.
    """
    if name not in TARGETS:
        raise ConfigError(f'unknown target "{name}"', remedy=nearest(name, TARGETS))
    return TARGETS[name]


def act_on_graph(element: Element, graph: Graph) -> Graph:
    """The graph of the moved structures: positions, cells, vectors; with its edges still sorted by receiver.

    The edges are the same pairs, so that only the model is under test and not the neighbour list.

    Raises:
        InputError: a renumbering that is none, or other images along a direction that is not periodic.
    """
    if element.images is not None:
        graph = _take_images(element.images, graph)
    rotation, shift = _rows(element, graph)
    changes: dict[str, object] = {
        "pos": _turn(graph.pos, rotation[graph.batch]) + shift[graph.batch],
        "cell": graph.cell @ rotation.mT,
    }
    if graph.node_vectors is not None:
        changes["node_vectors"] = _turn(graph.node_vectors, rotation[graph.batch])
    graph = graph.replace(**changes)
    return graph if element.permutation is None else _renumber(element.permutation, graph)


def act_on_target(kind: Kind, value: Float[Tensor, "M *F"], element: Element, graph: Graph) -> Float[Tensor, "M *F"]:
    """ρ(g) value: what an equivariant model says of the moved structures if it said `value` of `graph`.

    Args:
        kind: how the quantity transforms.
        value: one row per node or per structure of `graph`.
        element: the motion.
        graph: the structures before the motion.
    """
    per_node = kind.per == "node"
    rotation, shift = (rows[graph.batch] if per_node else rows for rows in _rows(element, graph))
    rotation, shift = rotation.to(value.dtype), shift.to(value.dtype)
    if kind.form == "point" and element.images is not None:
        moved = torch.einsum("ni,nij->nj", element.images.to(graph.cell.dtype), graph.cell[graph.batch])
        value = value + _beside(moved.to(value.dtype), value)
    if _RANK[kind.form] >= 1:
        value = _turn(value, rotation)
    if kind.form == "tensor":
        value = _turn(value.mT, rotation).mT
    if kind.form == "point":
        value = value + _beside(shift, value)
    if kind.form in _ODD_PARITY:
        sign = torch.linalg.det(rotation).sign()
        value = value * sign.view(-1, *[1] * (value.dim() - 1))
    if per_node and element.permutation is not None:
        value = value[element.permutation]
    return value


def act_on_features(features: Features, element: Element, graph: Graph) -> Features:
    """ρ(g) on what a backbone gives: scalars stay, vectors turn, both are renumbered."""
    vectors = features.vectors
    if vectors is not None:
        vectors = act_on_target(TARGETS["vectors"], vectors, element, graph)
    return Features(act_on_target(TARGETS["scalars"], features.scalars, element, graph), vectors, features.irreps)


def flow(generator: Generator, graph: Graph, centre: Float[Tensor, "G 3"], t: Float[Tensor, ""]) -> Graph:
    """Positions, cells and vectors moved by t along the velocity field x → A (x − centre) + b: the tangent at t = 0.

    A scaling leaves `node_vectors` as they are.
    """
    matrix, shift = generator.matrix.to(graph.pos), generator.shift.to(graph.pos)
    t = t.to(graph.pos.dtype)
    pos = graph.pos + t * ((graph.pos - centre[graph.batch]) @ matrix.T + shift)
    changes: dict[str, object] = {"pos": pos, "cell": graph.cell + t * (graph.cell @ matrix.T)}
    if graph.node_vectors is not None and generator.kind == "rotation":
        changes["node_vectors"] = graph.node_vectors + t * (graph.node_vectors @ matrix.T)
    return graph.replace(**changes)


def tangent_of_target(
    kind: Kind, value: Float[Tensor, "M *F"], generator: Generator, graph: Graph, centre: Float[Tensor, "G 3"]
) -> Float[Tensor, "M *F"]:
    """dρ(A) value: how an equivariant model's output begins to change along the generator.

    0 for scalars, A v for vectors, A (y − centre) + b for points, A T + T Aᵀ for tensors.
    """
    if generator.kind == "scale" and kind.form != "point":
        return torch.zeros_like(value)
    matrix = generator.matrix.to(value)
    if kind.form == "point":
        middle = centre[graph.batch] if kind.per == "node" else centre
        return (value - _beside(middle.to(value), value)) @ matrix.T + generator.shift.to(value)
    if _RANK[kind.form] == 0:
        return torch.zeros_like(value)
    if kind.form == "tensor":
        return matrix @ value + value @ matrix.T
    return value @ matrix.T


def about(rotation: Float[Tensor, "3 3"], centre: Float[Tensor, "G 3"]) -> Element:
    """The rotation (or reflection) of every structure about a point of its own, such as its centroid."""
    rotation = rotation.to(centre)
    return Element(rotation.expand(len(centre), 3, 3), centre - centre @ rotation.T)


def _rows(element: Element, graph: Graph) -> tuple[Tensor, Tensor]:
    """Rotation (G, 3, 3) and translation (G, 3) of each structure."""
    rotation = element.rotation.to(graph.pos).expand(graph.num_graphs, 3, 3)
    return rotation, element.translation.to(graph.pos).expand(graph.num_graphs, 3)


def _turn(value: Tensor, rotation: Tensor) -> Tensor:
    """R v along the last axis, one R per row, any number of channels between."""
    flat = value.reshape(len(value), -1, 3) if value.numel() else value.reshape(len(value), 0, 3)
    return torch.bmm(flat, rotation.to(value.dtype).mT).reshape(value.shape)


def _beside(rows: Tensor, value: Tensor) -> Tensor:
    """(M, 3) made to add to (M, *channels, 3)."""
    return rows.view(len(rows), *[1] * (value.dim() - 2), 3)


def _take_images(images: Tensor, graph: Graph) -> Graph:
    if bool((images * ~graph.pbc[graph.batch]).any()):
        raise InputError("other images along a direction that is not periodic", remedy="set these to 0")
    moved = torch.einsum("ni,nij->nj", images.to(graph.cell.dtype), graph.cell[graph.batch])
    shift = graph.cell_shift + images[graph.dst] - images[graph.src]
    return graph.replace(pos=graph.pos + moved, cell_shift=shift)


def _renumber(permutation: Tensor, graph: Graph) -> Graph:
    if not is_permutation(permutation, graph):
        raise InputError("not a renumbering of the nodes within their structures", expected="each number once")
    new_number = torch.argsort(permutation)
    src, dst = new_number[graph.src], new_number[graph.dst]
    order = torch.argsort(dst * graph.num_nodes + src, stable=True)
    degrees = graph.edge_ptr.diff()[permutation]
    return graph.replace(
        pos=graph.pos[permutation],
        numbers=graph.numbers[permutation],
        edge_index=torch.stack([src[order], dst[order]]),
        edge_ptr=torch.nn.functional.pad(degrees.cumsum(0), (1, 0)),
        cell_shift=graph.cell_shift[order],
        node_scalars=None if graph.node_scalars is None else graph.node_scalars[permutation],
        node_vectors=None if graph.node_vectors is None else graph.node_vectors[permutation],
    )
