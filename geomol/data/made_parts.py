"""A made set with true part labels: lamps, scissors, chests and windmills whose parts move about joints.

Each object is put together from boxes, tubes, cones and discs of random proportions, bent at its joints by random
angles. A part moves as a whole, relative to the others: a rotation of the object is not the only one that leaves the
labels as they are, one of each part alone does too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from geomol.data.clouds import Clouds, join_clouds
from geomol.data.primitives import Piece, box, cone, disc, moved, rotation_about, sample_pieces
from geomol.errors import ConfigError

KINDS = ("lamp", "scissors", "chest", "windmill")
PART_NAMES = (
    *("lamp base", "lamp lower arm", "lamp upper arm", "lamp shade"),
    *("scissors blade", "scissors handle"),
    *("chest body", "chest lid"),
    *("windmill tower", "windmill blade"),
)
CLASS_PARTS = ((0, 1, 2, 3), (4, 5), (6, 7), (8, 9))
JOINT_RANGES = {
    "lamp": ((-0.9, 0.9), (0.3, 2.2), (-1.2, 1.2)),  # tilt of the lower arm, elbow, head
    "scissors": ((0.05, 0.9),),  # half the opening
    "chest": ((0.0, 2.4),),  # lid from closed to folded back
    "windmill": ((0.0, 2 * np.pi), (-np.pi, np.pi)),  # turn of the wheel, and of the head about the tower
}
SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}
NEAR, FAR = (0.0, 0.5), (0.5, 1.0)
BENDS: dict[str, dict[str, tuple[float, float]]] = {
    "made-parts": {},
    "made-parts-near": {"train": NEAR, "valid": NEAR, "test": NEAR},
    "made-parts-far": {"train": NEAR, "valid": NEAR, "test": FAR},
}
"""The named sets, by how far the joints of each part of the data are bent, see `bend`. "far" is the same to train on as
"near" and has the same objects in its test part, point for point, with every joint in the outer quarters of its range:
does a model know parts, or postures?"""


@dataclass(frozen=True, eq=False)
class Design:
    """One object: proportions, and angles of its joints in radians. Third axis up.

    Attributes:
        kind: one of `KINDS`.
        sizes: lengths, in the order in which the builder of the kind uses them.
        joints: angles, in the order of `JOINT_RANGES`.
    """

    kind: str
    sizes: tuple[float, ...]
    joints: tuple[float, ...]


def draw_design(kind: str, random: np.random.Generator) -> Design:
    """Random proportions and joint angles.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f'no object "{kind}"', expected=", ".join(KINDS))
    sizes = tuple(random.uniform(0.7, 1.3, size=8).tolist())
    return Design(kind, sizes, tuple(float(random.uniform(*bounds)) for bounds in JOINT_RANGES[kind]))


def bend(design: Design, low: float, high: float) -> Design:
    """The same object, each joint moved away from the middle of its range, to the side on which it is.

    Args:
        low, high: how far from the middle, where 0 is the middle and 1 an end of the range: what lay at a share s of
            the way comes to low + (high − low) s. From 0 to 1 leaves the object as it is, but for rounding.

    Raises:
        ConfigError: no interval within 0 to 1.
    """
    if not 0 <= low <= high <= 1:
        raise ConfigError(
            "joints are bent by shares of their range", expected="0 ≤ low ≤ high ≤ 1", got=f"{low}, {high}"
        )
    joints = []
    for angle, (first, last) in zip(design.joints, JOINT_RANGES[design.kind], strict=True):
        middle, half = (first + last) / 2, (last - first) / 2
        away = abs(angle - middle) / half
        joints.append(middle + float(np.copysign(half * (low + (high - low) * away), angle - middle)))
    return replace(design, joints=tuple(joints))


def build(design: Design) -> list[Piece]:
    """The surfaces that an object is made of, each with its part."""
    return {"lamp": _lamp, "scissors": _scissors, "chest": _chest, "windmill": _windmill}[design.kind](design)


def _lamp(design: Design) -> list[Piece]:
    base, lower, upper, head, thin, *_ = design.sizes
    tilt, elbow, nod = design.joints
    lengths, radius = (0.8 * lower, 0.7 * upper), 0.035 * thin
    pieces = [
        cone(0.35 * base, 0.35 * base, 0.08, part=0),
        moved(disc(0.35 * base, part=0), None, (0, 0, 0.08)),
        disc(0.35 * base, part=0, down=True),
    ]
    turn, foot = rotation_about((0, 1, 0), tilt), np.array([0, 0, 0.08])
    pieces.append(moved(cone(radius, radius, lengths[0], part=1), turn, foot))
    joint = foot + turn @ np.array([0, 0, lengths[0]])
    turn = turn @ rotation_about((0, 1, 0), elbow)
    pieces.append(moved(cone(radius, radius, lengths[1], part=2), turn, joint))
    joint = joint + turn @ np.array([0, 0, lengths[1]])
    turn = turn @ rotation_about((0, 1, 0), np.pi / 2 + 0.5 * nod)
    pieces.append(moved(cone(0.08 * head, 0.26 * head, 0.3 * head, part=3), turn, joint))
    pieces.append(moved(disc(0.08 * head, part=3, down=True), turn, joint))
    return pieces


def _scissors(design: Design) -> list[Piece]:
    length, width, thick, grip, *_ = design.sizes
    pieces = []
    for side in (-1.0, 1.0):
        turn = rotation_about((0, 0, 1), side * design.joints[0])
        lift = np.array([0, 0, side * 0.02 * thick])
        blade = box((0.9 * length, 0.09 * width, 0.03 * thick), part=4)
        pieces.append(moved(blade, turn, turn @ np.array([0.45 * length, 0, 0]) + lift))
        stem = box((0.35 * length, 0.07 * width, 0.03 * thick), part=5)
        pieces.append(moved(stem, turn, turn @ np.array([-0.175 * length, 0, 0]) + lift))
        bow = turn @ np.array([-0.35 * length - 0.11 * grip, side * -0.06, 0]) + lift
        ring = cone(0.13 * grip, 0.13 * grip, 0.05 * thick, part=5)
        pieces.append(moved(ring, turn, bow - np.array([0, 0, 0.025 * thick])))
    return pieces


def _chest(design: Design) -> list[Piece]:
    wide, deep, tall, lid, *_ = design.sizes
    x, y, z, cover = 1.0 * wide, 0.6 * deep, 0.5 * tall, 0.12 * lid
    body = moved(box((x, y, z), part=6, open_top=True), None, (0, 0, z / 2))
    hinge = np.array([0, y / 2, z])
    turn = rotation_about((1, 0, 0), -design.joints[0])
    return [body, moved(box((x, y, cover), part=7), turn, hinge + turn @ np.array([0, -y / 2, cover / 2]))]


def _windmill(design: Design) -> list[Piece]:
    tall, foot, reach, broad, hub, *_ = design.sizes
    height = 1.1 * tall
    pieces = [
        cone(0.28 * foot, 0.14 * foot, height, part=8),
        moved(disc(0.14 * foot, part=8), None, (0, 0, height)),
        disc(0.28 * foot, part=8, down=True),
    ]
    head = rotation_about((0, 0, 1), design.joints[1])
    centre = np.array([0, 0, 0.92 * height]) + head @ np.array([0, -(0.2 * foot + 0.05 * hub), 0])
    for quarter in range(4):
        turn = head @ rotation_about((0, 1, 0), design.joints[0] + quarter * np.pi / 2)
        blade = box((0.14 * broad, 0.02, 0.6 * reach), part=9)
        pieces.append(moved(blade, turn, centre + turn @ np.array([0, 0, 0.3 * reach + 0.05 * hub])))
    return pieces


def sample_object(
    design: Design, num_points: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points by area on the surface of an object (also where one part enters another), normals and parts.

    The draws depend on the proportions and not on the joints: with the same generator, the points of two poses of one
    object correspond.

    Returns:
        Positions and unit outward normals (n, 3), parts (n,) as rows of `PART_NAMES`.
    """
    return sample_pieces(build(design), num_points, random)


def make_parts(
    num: int = 2000,
    *,
    num_points: int = 1024,
    seed: int = 0,
    name: str = "made-parts",
    joints: Mapping[str, tuple[float, float]] | None = None,
) -> Clouds:
    """The set: objects of the four kinds in turn, centred on their mean and scaled into the unit sphere.

    Object i depends on `seed`, `num_points`, i and the bend of its joints alone, so that a larger set begins with the
    smaller one where all are bent alike. Splits "train", "valid", "test" are 70, 10 and 20 %, by row, with every kind
    alike in each where rows are many.

    Args:
        num, num_points: objects, and points of each.
        seed: of all random numbers.
        name: of the set.
        joints: how far the joints of a split are bent, see `bend`; those of a split that is not named, and of all by
            default, anywhere in their range.

    Raises:
        ConfigError: sizes that are no counts, no such split, or no such bend.
    """
    for value, what, least in ((num, "number of objects", 10), (num_points, "number of points", 16)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{what} out of range", expected=f"{least} or more", got=repr(value))
    bends = dict(joints or {})
    if unknown := sorted(bends.keys() - SHARES.keys()):
        raise ConfigError(f'no split "{unknown[0]}" to bend the joints of', expected=", ".join(SHARES))
    bounds = np.round(np.cumsum([0.0, *SHARES.values()]) * num).astype(np.int64)
    splits = {key: np.arange(a, b) for key, a, b in zip(SHARES, bounds[:-1], bounds[1:], strict=True)}
    drawn = [
        _draw_object(row, num_points, seed, bends.get(split)) for split, rows in splits.items() for row in rows.tolist()
    ]
    pos, normals, part = zip(*drawn, strict=True)
    points, ptr, slopes_of_all = join_clouds(pos, name=name, normals=normals)
    bent = "".join(f", {key} joints {low:g} to {high:g} from the middle" for key, (low, high) in bends.items())
    return Clouds(
        name=name,
        pos=points,
        ptr=ptr,
        normals=slopes_of_all,
        part=np.concatenate(part),
        label=np.arange(num) % len(KINDS),
        class_names=KINDS,
        part_names=PART_NAMES,
        class_parts=CLASS_PARTS,
        splits=splits,
        source=f"made by geomol: articulated objects of primitives, seed {seed}, {num_points} points by area{bent}",
    )


def _draw_object(
    row: int, num_points: int, seed: int, bent: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, normals and parts of one object of a set, in the unit sphere."""
    random = np.random.default_rng([seed, num_points, row])
    design = draw_design(KINDS[row % len(KINDS)], random)
    points, normals, part = sample_object(design if bent is None else bend(design, *bent), num_points, random)
    points -= points.mean(axis=0)
    return points / np.linalg.norm(points, axis=1).max(), normals, part
