"""Made objects: surfaces in closed form, parts that move as rigid bodies, and sets that are repeatable."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from geomol.data import Clouds, load_clouds, make_parts
from geomol.data.cloud_categories import load_category
from geomol.data.made_parts import (
    CLASS_PARTS,
    JOINT_RANGES,
    KINDS,
    Design,
    bend,
    build,
    draw_design,
    sample_object,
)
from geomol.data.primitives import box, cone, disc, moved, rotation_about, sample_pieces
from geomol.errors import ConfigError


def two_poses(kind: str, num: int = 400) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Corresponding points and normals of one object at both ends of its joints' ranges, and their parts."""
    design = draw_design(kind, np.random.default_rng(0))
    pos, normals = [], []
    part = np.zeros(0)
    for share in (0.1, 0.8):
        joints = tuple(low + share * (high - low) for low, high in JOINT_RANGES[kind])
        bent = dataclasses.replace(design, joints=joints)
        points, slopes, part = sample_object(bent, num, np.random.default_rng(1))
        pos.append(points)
        normals.append(slopes)
    return pos, normals, part


def rigid_residual(a: np.ndarray, b: np.ndarray) -> float:
    """Largest change of a distance between corresponding points."""
    return float(np.abs(pairwise(a) - pairwise(b)).max())


def pairwise(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


BODIES = {  # (part, whether it is one rigid body): the two halves of a pair of scissors share their labels
    "lamp": [(0, True), (1, True), (2, True), (3, True)],
    "scissors": [(4, False), (5, False)],
    "chest": [(6, True), (7, True)],
    "windmill": [(8, True), (9, True)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_parts_move_as_rigid_bodies_and_the_object_does_not(kind: str) -> None:
    pos, normals, part = two_poses(kind)
    for label, rigid in BODIES[kind]:
        mine = part == label
        residual = rigid_residual(pos[0][mine], pos[1][mine])
        assert (residual < 1e-12) == rigid
        dots = [slopes[mine] @ slopes[mine].T for slopes in normals]
        assert (np.abs(dots[0] - dots[1]).max() < 1e-12) == rigid
    assert rigid_residual(*pos) > 0.1
    assert set(part.tolist()) == set(CLASS_PARTS[KINDS.index(kind)])


def test_scissors_are_two_bodies_that_open_against_each_other() -> None:
    design = draw_design("scissors", np.random.default_rng(0))
    first = [piece for piece in build(design) if piece.part == 4]
    turned = [
        piece for piece in build(dataclasses.replace(design, joints=(design.joints[0] + 0.2,))) if piece.part == 4
    ]
    change = [b.rotation @ a.rotation.T for a, b in zip(first, turned, strict=True)]
    np.testing.assert_allclose(change[0], rotation_about((0, 0, 1), -0.2), atol=1e-12)
    np.testing.assert_allclose(change[1], rotation_about((0, 0, 1), 0.2), atol=1e-12)


def test_primitives_have_their_area_and_unit_normals_by_moments() -> None:
    assert box((1, 2, 3), part=0).area == pytest.approx(22)
    assert box((1, 2, 3), part=0, open_top=True).area == pytest.approx(20)
    assert cone(1, 1, 2, part=0).area == pytest.approx(4 * np.pi)
    assert cone(0, 3, 4, part=0).area == pytest.approx(15 * np.pi)
    random = np.random.default_rng(0)
    u = random.random((40_000, 3))
    points, normals = cone(0, 3, 4, part=0).draw(u)
    np.testing.assert_allclose(np.linalg.norm(points[:, :2], axis=1), 0.75 * points[:, 2], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-12)
    np.testing.assert_allclose((points * normals).sum(1), 0, atol=1e-12)  # every ray from the tip lies in the surface
    assert points[:, 2].mean() == pytest.approx(8 / 3, rel=0.01)  # area grows with z: uniform z would give 2
    flat, _ = disc(2.0, part=0).draw(u)
    assert np.linalg.norm(flat, axis=1).mean() == pytest.approx(4 / 3, rel=0.01)


def test_boxes_are_covered_by_area_and_face_outward() -> None:
    u = np.random.default_rng(0).random((40_000, 3))
    points, normals = box((1, 2, 3), part=0).draw(u)
    np.testing.assert_allclose((points * normals).sum(1), np.abs(normals) @ [0.5, 1, 1.5])
    np.testing.assert_allclose(np.abs(normals).mean(0), np.array([6, 3, 2]) / 11, atol=0.01)
    lid, up = box((1, 2, 3), part=0, open_top=True).draw(u)
    assert not (up[:, 2] > 0).any()
    assert lid[:, 2].max() <= 1.5


def test_normals_of_a_moved_piece_turn_with_it() -> None:
    turn = rotation_about((1, 1, 0), 0.7)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-15)
    np.testing.assert_allclose(turn @ [1, 1, 0], [1, 1, 0], atol=1e-15)
    piece = box((1, 2, 3), part=4)
    still = sample_pieces([piece], 50, np.random.default_rng(2))
    shifted = sample_pieces([moved(moved(piece, turn, (1, 0, 0)), turn, (0, 2, 0))], 50, np.random.default_rng(2))
    np.testing.assert_allclose(shifted[0], (still[0] @ turn.T + [1, 0, 0]) @ turn.T + [0, 2, 0], atol=1e-12)
    np.testing.assert_allclose(shifted[1], still[1] @ turn.T @ turn.T, atol=1e-12)


def test_a_set_has_all_parts_in_the_unit_sphere_and_splits_that_share_no_row() -> None:
    clouds = make_parts(20, num_points=64, seed=5)
    assert [clouds.class_names[i] for i in clouds.label[:5]] == ["lamp", "scissors", "chest", "windmill", "lamp"]
    for i in range(20):
        rows = slice(int(clouds.ptr[i]), int(clouds.ptr[i + 1]))
        assert set(clouds.part[rows].tolist()) == set(CLASS_PARTS[clouds.label[i]])
        assert np.linalg.norm(clouds.pos[rows], axis=1).max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(np.linalg.norm(clouds.normals, axis=1), 1, atol=1e-6)
    assert sorted(itertools.chain(*(rows.tolist() for rows in clouds.splits.values()))) == list(range(20))
    assert [len(clouds.splits[key]) for key in ("train", "valid", "test")] == [14, 2, 4]


def test_a_set_is_repeatable_and_a_larger_one_begins_with_it() -> None:
    small, large = make_parts(12, num_points=64, seed=5), make_parts(16, num_points=64, seed=5)
    assert small.content_hash() == large.subset(slice(0, 12)).content_hash()
    assert small.content_hash() != make_parts(12, num_points=64, seed=6).content_hash()


def test_labels_cannot_be_read_off_the_place_alone() -> None:
    """Control for the purpose of the set: where a part is, in the frame of the object, says too little."""
    clouds = make_parts(160, num_points=32, seed=0)
    lamps = clouds.subset(clouds.label == 0)
    train, test = lamps.subset(slice(0, 30)), lamps.subset(slice(30, 40))
    nearest = np.linalg.norm(test.pos[:, None] - train.pos[None], axis=2).argmin(1)
    correct = (train.part[nearest] == test.part).mean()
    assert 0.4 < correct < 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_joints_are_bent_away_from_the_middle_to_their_own_side(kind: str) -> None:
    design = draw_design(kind, np.random.default_rng(3))
    middles = [(low + high) / 2 for low, high in JOINT_RANGES[kind]]
    halves = [(high - low) / 2 for low, high in JOINT_RANGES[kind]]
    asked = np.array([(a - m) / h for a, m, h in zip(design.joints, middles, halves, strict=True)])
    for low, high in ((0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.0, 0.0)):
        bent = bend(design, low, high)
        away = np.array([(a - m) / h for a, m, h in zip(bent.joints, middles, halves, strict=True)])
        np.testing.assert_allclose(np.abs(away), low + (high - low) * np.abs(asked), atol=1e-12)
        assert (away * asked >= 0).all()
        assert bent.sizes == design.sizes


def shapes(clouds: Clouds) -> list[np.ndarray]:
    """Distances within each object, over the largest: what neither place nor size of an object changes."""
    return [(d := pairwise(pos)) / d.max() for pos in np.split(clouds.pos.astype(float), clouds.ptr[1:-1])]


def test_far_joints_are_bent_further_than_near_ones_in_the_test_alone() -> None:
    near, far = (load_clouds(f"made-parts-{which}", num_points=32, num=20) for which in ("near", "far"))
    assert near.name == "made-parts-near"
    for part in ("train", "valid"):
        assert near.split(part).content_hash() == far.split(part).content_hash()
    left, right = near.split("test"), far.split("test")
    assert (left.part == right.part).all()
    apart = [np.abs(a - b).max() for a, b in zip(shapes(left), shapes(right), strict=True)]
    assert min(apart) > 0.1
    base = np.flatnonzero(left.part[:32] == 0)  # of a lamp: the same points of the same body, but for the common scale
    ratio = [pairwise(s.pos[base].astype(float))[np.triu_indices(len(base), 1)] for s in (left, right)]
    assert np.ptp(ratio[1] / ratio[0]) < 1e-3


def test_named_bends_have_categories_and_the_whole_range_is_what_none_asks_for() -> None:
    chests = load_category("made-parts-far/chest", num_points=32)
    assert set(chests.label.tolist()) == {KINDS.index("chest")}
    plain = make_parts(12, num_points=64, seed=5)
    assert plain.content_hash() == make_parts(12, num_points=64, seed=5, joints={}).content_hash()
    whole = make_parts(12, num_points=64, seed=5, joints={"test": (0.0, 1.0)})
    np.testing.assert_allclose(plain.pos, whole.pos, atol=1e-6)


def test_bends_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match='no split "tets" to bend'):
        make_parts(12, num_points=32, joints={"tets": (0.0, 0.5)})
    for low, high in ((-0.1, 0.5), (0.5, 0.4), (0.5, 1.1), (float("nan"), 1.0)):
        with pytest.raises(ConfigError, match="shares of their range"):
            make_parts(12, num_points=32, joints={"test": (low, high)})


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="number of objects"):
        make_parts(3)
    with pytest.raises(ConfigError, match="number of points"):
        make_parts(10, num_points=1)
    with pytest.raises(ConfigError, match='no object "spoon"'):
        draw_design("spoon", np.random.default_rng(0))
    assert isinstance(draw_design("chest", np.random.default_rng(0)), Design)
