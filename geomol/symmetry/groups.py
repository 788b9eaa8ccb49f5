"""Groups of motions of space: uniform samples, infinitesimal generators and membership.

A motion is x → R x + t with an orthogonal R. `GROUPS` names the groups that do not depend on a direction; those that do
are functions: `axis_rotations` (SO(2) about an axis) and `mirror` (one plane).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.geometry.grids import icosahedral_rotations, octahedral_rotations
from geomol.graph import Graph

AXES = "xyz"
REACH = 10.0  # Å, half the side of the cube that translations are drawn from: there is no uniform one on all of space


@dataclass(frozen=True, eq=False)
class Element:
    """A motion x → R x + t, with a renumbering of the nodes and other periodic images of them where asked for.

    Images are taken first, then the motion, then the renumbering.

    Attributes:
        rotation: R, orthogonal with determinant ±1; one for all structures, or one for each.
        translation: t, Å; one for all structures, or one for each.
        permutation: old number of each new node; nodes stay within their structure.
        images: lattice translations of each node, in units of the cell rows.
    """

    rotation: Float[Tensor, "*B 3 3"]
    translation: Float[Tensor, "*B 3"]
    permutation: Int[Tensor, " N"] | None = None
    images: Int[Tensor, "N 3"] | None = None

    def inverse(self) -> Element:
        """The element that undoes this one."""
        rotation = self.rotation.mT
        back = -(rotation @ self.translation[..., None])[..., 0]
        permutation = None if self.permutation is None else torch.argsort(self.permutation)
        images = self.images
        if images is not None:
            images = -images if self.permutation is None else -images[self.permutation]
        return Element(rotation, back, permutation, images)


def identity(dtype: torch.dtype = torch.float64) -> Element:
    """The element that changes nothing."""
    return Element(torch.eye(3, dtype=dtype), torch.zeros(3, dtype=dtype))


@dataclass(frozen=True, eq=False)
class Generator:
    """A direction of a Lie group at its identity: the velocity field x → A x + b.

    Attributes:
        name: such as "rotation x".
        kind: "translation" (per Å), "rotation" (per radian) or "scale" (per e-fold; no isometry).
        matrix: A; antisymmetric for a rotation.
        shift: b, Å.
    """

    name: str
    kind: str
    matrix: Float[Tensor, "3 3"]
    shift: Float[Tensor, " 3"]

    def element(self, t: float) -> Element:
        """exp(t (A, b)) for a translation or rotation.

        Raises:
            ConfigError: a scaling is not a motion.
        """
        if self.kind == "scale":
            raise ConfigError("a scaling is no motion of space", expected="a translation or rotation generator")
        return Element(_rodrigues(self.matrix, torch.tensor(t, dtype=torch.float64)), t * self.shift)


def _rodrigues(matrix: Float[Tensor, "3 3"], angle: Tensor) -> Tensor:
    """exp(angle A) = 1 + sin(angle) A + (1 − cos(angle)) A² for A = n ×, n a unit vector (or A = 0).

    Orthogonal to the last digit, where `torch.linalg.matrix_exp` is off by 1e-12 at some small angles.
    """
    return torch.eye(3, dtype=matrix.dtype) + angle.sin() * matrix + (1 - angle.cos()) * (matrix @ matrix)


def translation_generators() -> list[Generator]:
    """e_x, e_y, e_z."""
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    return [Generator(f"translation {a}", "translation", zero, eye[k]) for k, a in enumerate(AXES)]


def rotation_generator(axis: Float[Tensor, " 3"], name: str) -> Generator:
    """x → n × x for the unit vector n along `axis`."""
    x, y, z = (axis.double() / axis.double().norm()).tolist()
    matrix = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
    return Generator(f"rotation {name}", "rotation", matrix, torch.zeros(3, dtype=torch.float64))


def rotation_generators() -> list[Generator]:
    """Rotations about x, y and z."""
    eye = torch.eye(3, dtype=torch.float64)
    return [rotation_generator(eye[k], a) for k, a in enumerate(AXES)]


def scale_generator() -> Generator:
    """x → x: no symmetry of molecules, but the derivative of an energy along it is the trace of the virial."""
    return Generator("scale", "scale", torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Group:
    """A group of motions.

    Attributes:
        name: as in `GROUPS`.
        draw: uniform samples of its orthogonal part, (num, 3, 3).
        is_member: which of some orthogonal matrices (B, 3, 3) belong to it, to a tolerance.
        translations: whether it contains all translations.
        generators: basis of its Lie algebra; empty for a finite group.
        elements: all matrices of a finite group without translations, else None.
    """

    name: str
    draw: Callable[[int, torch.Generator], Tensor]
    is_member: Callable[[Tensor, float], Tensor]
    translations: bool
    generators: list[Generator]
    elements: Float[Tensor, "K 3 3"] | None = None

    def sample(self, num: int, *, generator: torch.Generator, reach: float = REACH) -> Element:
        """`num` elements drawn uniformly, as one Element of `num` rows; translations from the cube [−reach, reach]³."""
        rotation = self.draw(num, generator)
        shift = torch.zeros(num, 3, dtype=torch.float64)
        if self.translations:
            shift = reach * (2 * torch.rand(num, 3, generator=generator, dtype=torch.float64) - 1)
        return Element(rotation, shift)

    def contains(self, element: Element, *, tolerance: float = 1e-9) -> bool:
        """Whether the motions (all of them, if there are several) belong to the group."""
        rotation = element.rotation.reshape(-1, 3, 3).double()
        orthogonal = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2)) <= tolerance
        moves = float(element.translation.abs().max()) > tolerance
        fits = orthogonal & self.is_member(rotation, tolerance)
        return bool(fits.all()) and (self.translations or not moves)


def _signs(num: int, generator: torch.Generator) -> Tensor:
    return 1.0 - 2.0 * torch.randint(0, 2, (num, 1, 1), generator=generator).double()


def _rotations(num: int, generator: torch.Generator) -> Tensor:
    return random_rotations(num, generator=generator)


def _with_reflections(num: int, generator: torch.Generator) -> Tensor:
    return random_rotations(num, generator=generator) * _signs(num, generator)


def _nothing(num: int, generator: torch.Generator) -> Tensor:
    return torch.eye(3, dtype=torch.float64).expand(num, 3, 3)


def _is_identity(matrices: Tensor, tolerance: float) -> Tensor:
    same: Tensor = (matrices - torch.eye(3, dtype=matrices.dtype)).abs().amax((1, 2)) <= tolerance
    return same


def _is_rotation(matrices: Tensor, tolerance: float) -> Tensor:
    proper: Tensor = (torch.linalg.det(matrices) - 1).abs() <= 10 * tolerance
    return proper


def _is_orthogonal(matrices: Tensor, tolerance: float) -> Tensor:
    either: Tensor = (torch.linalg.det(matrices).abs() - 1).abs() <= 10 * tolerance
    return either


def finite_group(name: str, elements: Float[Tensor, "K 3 3"]) -> Group:
    """The group of these matrices, which must be closed under products."""

    def draw(num: int, generator: torch.Generator) -> Tensor:
        return elements[torch.randint(0, len(elements), (num,), generator=generator)]

    def is_member(matrices: Tensor, tolerance: float) -> Tensor:
        distance = (matrices[:, None] - elements.to(matrices.dtype)).abs().amax((2, 3))
        near: Tensor = distance.amin(1) <= tolerance
        return near

    return Group(name, draw, is_member, False, [], elements)


def axis_rotations(axis: Float[Tensor, " 3"]) -> Group:
    """SO(2): all rotations about one axis."""
    unit = axis.double() / axis.double().norm()
    generator_of = rotation_generator(unit, "about the axis")

    def draw(num: int, generator: torch.Generator) -> Tensor:
        angle = 2 * math.pi * torch.rand(num, 1, 1, generator=generator, dtype=torch.float64)
        return _rodrigues(generator_of.matrix, angle)

    def is_member(matrices: Tensor, tolerance: float) -> Tensor:
        kept: Tensor = (matrices @ unit.to(matrices.dtype) - unit).abs().amax(1) <= tolerance
        return kept & _is_rotation(matrices, tolerance)

    return Group("SO(2)", draw, is_member, False, [generator_of])


def reflection(normal: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """1 − 2 n nᵀ: the mirror image in the plane through the origin with this normal (of any length)."""
    n: Tensor = normal / normal.norm(dim=-1, keepdim=True)
    return torch.eye(3, dtype=n.dtype) - 2 * n[..., :, None] * n[..., None, :]


def mirror(normal: Float[Tensor, " 3"]) -> Group:
    """The identity and the reflection in one plane."""
    eye = torch.eye(3, dtype=torch.float64)
    return finite_group("mirror", torch.stack([eye, reflection(normal.double())]))


def random_reflections(num: int, *, generator: torch.Generator) -> Float[Tensor, "{num} 3 3"]:
    """Reflections in uniformly distributed planes through the origin."""
    return reflection(torch.randn(num, 3, generator=generator, dtype=torch.float64))


def random_permutation(graph: Graph, *, generator: torch.Generator) -> Int[Tensor, " N"]:
    """A uniformly drawn renumbering of the nodes of each structure: the old number of each new node."""
    key = torch.rand(graph.num_nodes, generator=generator, dtype=torch.float64).to(graph.device)
    return torch.argsort(graph.batch + key)  # structures are consecutive, and each key is below 1


def random_images(graph: Graph, *, generator: torch.Generator, reach: int = 2) -> Int[Tensor, "N 3"]:
    """Lattice translations of each node, up to `reach` cells along periodic directions only."""
    images = torch.randint(-reach, reach + 1, (graph.num_nodes, 3), generator=generator).to(graph.device)
    return images * graph.pbc[graph.batch]


def is_permutation(permutation: Int[Tensor, " N"], graph: Graph) -> bool:
    """Whether every node occurs once, within its own structure."""
    every = torch.arange(graph.num_nodes, device=graph.device)
    return bool(torch.equal(permutation.sort().values, every) and torch.equal(graph.batch[permutation], graph.batch))


def _full(rotations: Tensor) -> Tensor:
    return torch.cat([rotations, -rotations])


def _motion_generators() -> list[Generator]:
    return translation_generators() + rotation_generators()


def _identity() -> Tensor:
    return torch.eye(3, dtype=torch.float64)[None]


class _Groups(Mapping[str, Group]):
    """Groups by name, each made when it is first asked for: importing a module makes no tensors."""

    def __init__(self, makers: Mapping[str, Callable[[str], Group]]) -> None:
        self._makers, self._made = makers, dict[str, Group]()

    def __getitem__(self, name: str) -> Group:
        if name not in self._made:
            self._made[name] = self._makers[name](name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


GROUPS: Mapping[str, Group] = _Groups(
    {
        "1": lambda name: finite_group(name, _identity()),
        "T(3)": lambda name: Group(name, _nothing, _is_identity, True, translation_generators()),
        "SO(3)": lambda name: Group(name, _rotations, _is_rotation, False, rotation_generators()),
        "O(3)": lambda name: Group(name, _with_reflections, _is_orthogonal, False, rotation_generators()),
        "SE(3)": lambda name: Group(name, _rotations, _is_rotation, True, _motion_generators()),
        "E(3)": lambda name: Group(name, _with_reflections, _is_orthogonal, True, _motion_generators()),
        "inversion": lambda name: finite_group(name, _full(_identity())),
        "octahedral rotations": lambda name: finite_group(name, octahedral_rotations()),
        "octahedral": lambda name: finite_group(name, _full(octahedral_rotations())),
        "icosahedral rotations": lambda name: finite_group(name, icosahedral_rotations()),
        "icosahedral": lambda name: finite_group(name, _full(icosahedral_rotations())),
    }
)
"""Groups by name; O(3) and SO(3) leave the origin where it is."""
