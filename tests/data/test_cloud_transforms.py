"""Transforms of point clouds: what they keep, what they change, and that normals follow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geomol.data import (
    PROTOCOLS,
    CloudBatch,
    choose_points,
    draw_rotations,
    drop_points,
    find_protocol,
    jitter,
    normalise_cube,
    normalise_sphere,
    random_rotate,
    random_scale,
    rotate,
    uniform_jitter,
)
from geomol.errors import ConfigError
from geomol.geometry import random_rotations

SIZES = [30, 1, 200]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds() -> CloudBatch:
    """Points of ellipsoids, with their true normals."""
    ptr = torch.tensor([0, *SIZES]).cumsum(0)
    on_sphere = torch.nn.functional.normalize(
        torch.randn(sum(SIZES), 3, generator=seeded(), dtype=torch.float64), dim=1
    )
    axes = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    return CloudBatch(
        pos=on_sphere * axes + torch.tensor([5.0, 0.0, -2.0], dtype=torch.float64),
        ptr=ptr,
        normals=torch.nn.functional.normalize(on_sphere / axes, dim=1),
        label=torch.tensor([0, 1, 2]),
        part=torch.arange(sum(SIZES)) % 4,
        frame=torch.eye(3, dtype=torch.float64).repeat(3, 1, 1),
    )


def pieces(batch: CloudBatch) -> list[Tensor]:
    return [batch.pos[a:b] for a, b in zip(batch.ptr[:-1], batch.ptr[1:], strict=True)]


def test_a_cloud_in_the_unit_sphere_is_centred_and_touches_it() -> None:
    for points, size in zip(pieces(normalise_sphere(clouds())), SIZES, strict=True):
        torch.testing.assert_close(points.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
        assert points.norm(dim=1).max().item() == pytest.approx(1.0 if size > 1 else 0.0, abs=1e-12)


def test_a_cloud_in_the_unit_cube_touches_it_on_both_sides_of_its_longest_axis() -> None:
    for points, size in zip(pieces(normalise_cube(clouds())), SIZES, strict=True):
        low, high = points.amin(0), points.amax(0)
        torch.testing.assert_close(low, -high)
        assert high.max().item() == pytest.approx(1.0 if size > 1 else 0.0)
    first = clouds()
    ratio = normalise_cube(first).pos[:30].std(0) / first.pos[:30].std(0)
    torch.testing.assert_close(ratio, ratio[:1].expand(3))  # one factor for all axes


def test_the_sphere_commutes_with_rotations_and_the_cube_does_not() -> None:
    batch, rotation = clouds(), random_rotations(3, generator=seeded(1))
    turned = normalise_sphere(rotate(batch, rotation)).pos
    torch.testing.assert_close(turned, rotate(normalise_sphere(batch), rotation).pos)
    assert (
        normalise_cube(rotate(batch, rotation)).pos - rotate(normalise_cube(batch), rotation).pos
    ).abs().max() > 0.05


def test_rotations_keep_distances_and_turn_normals_and_frame() -> None:
    batch, rotation = clouds(), random_rotations(3, generator=seeded(1))
    turned = rotate(batch, rotation)
    assert turned.normals is not None
    assert batch.normals is not None
    for i, (before, after) in enumerate(zip(pieces(batch), pieces(turned), strict=True)):
        torch.testing.assert_close(torch.pdist(after), torch.pdist(before))
        torch.testing.assert_close(after, before @ rotation[i].T)
    torch.testing.assert_close((turned.pos * turned.normals).sum(1), (batch.pos * batch.normals).sum(1))
    torch.testing.assert_close(turned.frame, rotation)
    again = rotate(turned, rotation.transpose(1, 2))
    torch.testing.assert_close(again.pos, batch.pos)
    torch.testing.assert_close(again.frame, batch.frame)


def test_rotations_about_z_keep_heights_and_those_of_so3_do_not() -> None:
    batch = clouds()
    about_z = random_rotate(batch, "z", generator=seeded(2))
    torch.testing.assert_close(about_z.pos[:, 2], batch.pos[:, 2])
    assert (about_z.pos[:, 0] - batch.pos[:, 0]).abs().max() > 0.1
    assert (random_rotate(batch, "so3", generator=seeded(2)).pos[:, 2] - batch.pos[:, 2]).abs().max() > 0.1
    assert torch.equal(random_rotate(batch, "none", generator=seeded(2)).pos, batch.pos)


@pytest.mark.parametrize(("group", "variance"), [("z", [0.5, 0.5, 0.0]), ("so3", [1 / 3, 1 / 3, 1 / 3])])
def test_rotations_are_uniform_in_their_group(group: str, variance: list[float]) -> None:
    rotation = draw_rotations(group, 20_000, generator=seeded())
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(20_000, dtype=torch.float64))
    image = rotation[:, :, 0]  # of the first axis: on the circle, or on the sphere
    assert image.mean(0).abs().max() < 0.03
    torch.testing.assert_close(image.square().mean(0), torch.tensor(variance, dtype=torch.float64), atol=0.02, rtol=0)


def test_protocols_have_the_names_of_the_literature() -> None:
    assert (find_protocol("z/z").train, find_protocol("z/z").test) == ("z", "z")
    assert (find_protocol("z/SO(3)").train, find_protocol("z/SO(3)").test) == ("z", "so3")
    assert (find_protocol("SO(3)/SO(3)").train, find_protocol("SO(3)/SO(3)").test) == ("so3", "so3")
    assert all(draw_rotations(p.train, 1).shape == (1, 3, 3) for p in PROTOCOLS.values())
    with pytest.raises(ConfigError, match="unknown protocol"):
        find_protocol("z/so3")
    with pytest.raises(ConfigError, match="unknown group of rotations"):
        draw_rotations("so2", 1)


def test_normals_of_a_stretched_ellipsoid_are_those_of_the_ellipsoid() -> None:
    """x → S x takes an ellipsoid of axes a to one of axes S a, whose normal at y is along y / (S a)²."""
    batch = clouds()
    centre = torch.tensor([5.0, 0.0, -2.0], dtype=torch.float64)
    stretched = random_scale(batch, 0.5, 2.0, generator=seeded(3), anisotropic=True)
    factor = stretched.pos / batch.pos
    axes = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64) * factor
    expected = torch.nn.functional.normalize((stretched.pos - centre * factor) / axes.square(), dim=1)
    assert stretched.normals is not None
    assert batch.normals is not None
    torch.testing.assert_close(stretched.normals, expected)
    # control: scaling the normals like the points would be wrong
    naive = torch.nn.functional.normalize(batch.normals * factor, dim=1)
    assert (naive - expected).abs().max() > 0.1


def test_an_even_scaling_keeps_normals_and_stays_in_its_range() -> None:
    batch = clouds()
    scaled = random_scale(batch, 0.8, 1.25, generator=seeded(3))
    factor = scaled.pos / batch.pos
    assert 0.8 <= factor.min() < factor.max() <= 1.25
    assert len({round(value, 9) for value in factor.flatten().tolist()}) == 3  # one for each cloud
    assert scaled.normals is batch.normals


def test_jitter_has_its_width_and_its_bounds() -> None:
    batch = clouds()
    shift = jitter(batch, 0.01, generator=seeded()).pos - batch.pos
    assert shift.std().item() == pytest.approx(0.01, rel=0.1)
    clipped = jitter(batch, 0.01, clip=0.005, generator=seeded()).pos - batch.pos
    torch.testing.assert_close(clipped, shift.clamp(-0.005, 0.005))
    even = uniform_jitter(batch, 1 / 30, generator=seeded()).pos - batch.pos
    assert even.abs().max() <= 1 / 30 + 1e-12
    assert even.std().item() == pytest.approx(1 / 30 / 3**0.5, rel=0.1)


def test_dropping_leaves_whole_points_in_order_and_never_none() -> None:
    batch = clouds()
    for seed in range(10):
        fewer = drop_points(batch, 1.0, generator=seeded(seed))
        assert bool((fewer.ptr.diff() >= 1).all())
        assert int(fewer.ptr[-1]) == len(fewer.pos) < len(batch.pos)
        rows = torch.cdist(fewer.pos, batch.pos).argmin(1)
        assert bool((rows.diff() > 0).all())
        assert torch.equal(fewer.batch, batch.batch[rows])
        assert fewer.part is not None
        assert batch.part is not None
        assert torch.equal(fewer.part, batch.part[rows])
    assert torch.equal(drop_points(batch, 0.0, generator=seeded()).pos, batch.pos)


def test_points_are_chosen_cloud_by_cloud() -> None:
    batch = clouds()
    some = choose_points(batch, torch.tensor([3, 1, 30, 40, 35]))
    assert some.ptr.tolist() == [0, 2, 3, 5]
    assert torch.equal(some.pos, batch.pos[[3, 1, 30, 40, 35]])
    for rows in ([1, 40, 30], [1, 30]):
        with pytest.raises(ConfigError, match="cloud by cloud"):
            choose_points(batch, torch.tensor(rows))


def test_the_same_seed_gives_the_same_clouds_and_nothing_is_changed_in_place() -> None:
    batch = clouds()
    before = batch.pos.clone()

    def changed(seed: int) -> Tensor:
        generator = seeded(seed)
        moved = random_rotate(drop_points(batch, 0.5, generator=generator), "so3", generator=generator)
        return jitter(random_scale(moved, 0.9, 1.1, generator=generator), 0.01, generator=generator).pos

    assert torch.equal(changed(1), changed(1))
    assert changed(1).shape != changed(2).shape
    assert torch.equal(batch.pos, before)


@pytest.mark.parametrize(
    ("name", "fault"),
    [("scale", "range of scales"), ("jitter", "width"), ("uniform", "width"), ("drop", "share of points")],
)
def test_settings_that_cannot_be_are_refused(name: str, fault: str) -> None:
    batch, generator = clouds(), seeded()
    with pytest.raises(ConfigError, match=fault):
        {
            "scale": lambda: random_scale(batch, 1.2, 0.8, generator=generator),
            "jitter": lambda: jitter(batch, -0.1, generator=generator),
            "uniform": lambda: uniform_jitter(batch, float("nan"), generator=generator),
            "drop": lambda: drop_points(batch, 1.1, generator=generator),
        }[name]()
