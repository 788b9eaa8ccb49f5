"""Finite errors: how far f(g·x) is from ρ(g) f(x) for motions of every kind.

    E′ = mean ‖f(g·x) − ρ(g) f(x)‖ / mean ‖f(x)‖

over structures x and sampled elements g. Unlike Lie derivatives these see reflections, permutations and jumps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from geomol.geometry import random_rotations
from geomol.geometry.grids import icosahedral_rotations, octahedral_rotations
from geomol.graph import Graph
from geomol.symmetry.actions import Kind, about
from geomol.symmetry.audit.lie import centres
from geomol.symmetry.audit.model import Model, entry_norms, pulled_back, sample_norms, scale_of
from geomol.symmetry.groups import (
    AXES,
    Element,
    finite_group,
    identity,
    random_images,
    random_permutation,
    random_reflections,
    reflection,
)

DISTANCES = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
"""Å; the long ones show what a model loses that reads coordinates in single precision."""


@dataclass(frozen=True, eq=False)
class Family:
    """Elements that are tested together.

    Attributes:
        name: such as "rotations".
        claim: what a model must claim to be held to them: "rotations", "reflections", "translations" or "permutations".
        elements, labels: the motions, and what to call each.
        elementary: whether they are a sample of the whole kind, and not a chosen subgroup that may hold by itself.
    """

    name: str
    claim: str
    elements: list[Element]
    labels: list[str]
    elementary: bool = True


@dataclass(frozen=True, eq=False)
class FiniteError:
    """Errors of one output under one family.

    Attributes:
        family, output: names.
        mean: over structures and elements, of the length per structure; in the unit of the output.
        scale: mean ‖f(x)‖.
        largest, scale_there: length of one row (node or structure) and ‖f(x)‖ of its structure, where the first is
            largest beside 1 + the second.
        relative: E′ = mean / scale.
        worst: label of the element with the largest mean error.
        table: (S, M) length per structure and element.
    """

    family: str
    output: str
    mean: float
    scale: float
    largest: float
    scale_there: float
    relative: float
    worst: str
    table: Tensor


def families(graph: Graph, *, num: int = 24, seed: int = 0, distances: tuple[float, ...] = DISTANCES) -> list[Family]:
    """What a model is tried on: all motions turn structures about their centroids.

    Args:
        graph: the structures.
        num: random elements of each kind.
        seed: of all random numbers.
        distances: lengths of the translations, Å.
    """
    rng = torch.Generator().manual_seed(seed)
    centre = centres(graph)
    turns = random_rotations(num, generator=rng)
    found = [_about("rotations", "rotations", turns, [_turn_label(r) for r in turns], centre)]
    eye = torch.eye(3, dtype=torch.float64)
    planes = torch.cat([reflection(eye), random_reflections(max(num // 3, 1), generator=rng)])
    normals = [_direction(torch.linalg.eigh(p).eigenvectors[:, 0]) for p in planes[3:]]  # with eigenvalue −1
    labels = [f"mirror {a} → −{a}" for a in AXES] + [f"mirror with normal {n}" for n in normals]
    found.append(_about("reflections", "reflections", planes, labels, centre))
    found.append(_about("inversion", "reflections", -eye[None], ["inversion"], centre))
    found += [_translations(distance, max(num // 3, 3), rng) for distance in distances]
    found.append(_permutations(graph, num, rng))
    if bool(graph.pbc.any()):
        elements = [_with(images=random_images(graph, generator=rng)) for _ in range(max(num // 3, 1))]
        found.append(Family("periodic images", "translations", elements, [""] * len(elements)))
    for name, rotations in (("octahedral", octahedral_rotations()), ("icosahedral", icosahedral_rotations())):
        group = finite_group(name, rotations)
        chosen = group.sample(min(num, len(rotations)), generator=rng).rotation
        family = _about(f"{name} rotations", "rotations", chosen, [_turn_label(r) for r in chosen], centre)
        found.append(Family(family.name, family.claim, family.elements, family.labels, elementary=False))
    return found


def finite_errors(model: Model, graph: Graph, kinds: Mapping[str, Kind], family: Family) -> list[FiniteError]:
    """Errors of every output under a family."""
    moved = pulled_back(model, graph, kinds, [identity(), *family.elements])
    found = []
    for name, kind in kinds.items():
        difference = moved[name][1:] - moved[name][:1]
        table = sample_norms(kind, difference, graph)
        scale = scale_of(kind, moved[name][0], graph)
        mean = float(table.mean())
        largest, there = _largest(kind, difference, moved[name][0], graph)
        found.append(
            FiniteError(
                family=family.name,
                output=name,
                mean=mean,
                scale=scale,
                largest=largest,
                scale_there=there,
                relative=mean / scale if scale > 0 else (0.0 if mean == 0 else float("inf")),
                worst=family.labels[int(table.mean(1).nan_to_num(torch.inf).argmax())],
                table=table.T,
            )
        )
    return found


def _largest(kind: Kind, difference: Tensor, value: Tensor, graph: Graph) -> tuple[float, float]:
    errors = entry_norms(kind, difference).amax(0)
    sizes = sample_norms(kind, value[None], graph)[0]
    sizes = sizes[graph.batch] if kind.per == "node" else sizes
    worst = int((errors / (1 + sizes)).nan_to_num(torch.inf).argmax())
    return float(errors[worst]), float(sizes[worst])


def _with(permutation: Tensor | None = None, images: Tensor | None = None) -> Element:
    still = identity()
    return Element(still.rotation, still.translation, permutation, images)


def _about(name: str, claim: str, matrices: Tensor, labels: list[str], centre: Tensor) -> Family:
    return Family(name, claim, [about(matrix, centre) for matrix in matrices], labels)


def _translations(distance: float, num: int, rng: torch.Generator) -> Family:
    directions = torch.nn.functional.normalize(torch.randn(num, 3, generator=rng, dtype=torch.float64), dim=1)
    eye = torch.eye(3, dtype=torch.float64)
    elements = [Element(eye, distance * direction) for direction in directions]
    labels = [f"along {_direction(direction)}" for direction in directions]
    return Family(f"translations by {distance:g} Å", "translations", elements, labels)


def _permutations(graph: Graph, num: int, rng: torch.Generator) -> Family:
    elements = [_with(permutation=random_permutation(graph, generator=rng)) for _ in range(num)]
    return Family("permutations", "permutations", elements, [""] * num)


def _turn_label(rotation: Tensor) -> str:
    """Angle and axis in words."""
    angle = float(torch.rad2deg(torch.arccos(((rotation.trace() - 1) / 2).clamp(-1, 1))))
    axis = torch.linalg.eigh((rotation + rotation.mT) / 2).eigenvectors[:, -1]  # the axis has eigenvalue 1
    twist = torch.stack(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    axis = axis if float(axis @ twist) >= 0 else -axis
    return f"{angle:.0f}° about {_direction(axis)}"


def _direction(axis: Tensor) -> str:
    return "(" + ", ".join(f"{round(value, 2) + 0.0:.2f}" for value in axis.tolist()) + ")"
