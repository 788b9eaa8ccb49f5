"""Farthest point sampling: equal to the obvious double loop, and what it does and does not depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from geomol.errors import ConfigError, InputError
from geomol.geometry import random_rotations
from geomol.graph import farthest_points, kept_ptr, random_starts

SIZES = [1, 5, 40, 17, 2]


def clouds(sizes: list[int], *, seed: int = 0, grid: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pos = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64)
    if grid is not None:  # many equal distances, and points that occur twice
        pos = (pos * grid).round()
    return pos, torch.tensor([0, *sizes]).cumsum(0)


def by_double_loop(points: list[list[float]], count: int, start: int) -> list[int]:
    chosen = [start]
    while len(chosen) < count:
        best, farthest = -1, -1.0
        for i, p in enumerate(points):
            if i in chosen:
                continue
            gap = min(sum((a - b) ** 2 for a, b in zip(p, points[c], strict=True)) for c in chosen)
            if gap > farthest:
                best, farthest = i, gap
        chosen.append(best)
    return chosen


def expected(pos: Tensor, ptr: Tensor, kept: Tensor, starts: list[int]) -> list[int]:
    rows = []
    for i, start in enumerate(starts):
        first, last = int(ptr[i]), int(ptr[i + 1])
        count = int(kept[i + 1] - kept[i])
        rows += [first + j for j in by_double_loop(pos[first:last].tolist(), count, start)]
    return rows


@pytest.mark.parametrize("grid", [None, 2])
@pytest.mark.parametrize("ratio", [0.07, 0.25, 1.0])
def test_rows_are_those_of_a_double_loop(grid: int | None, ratio: float) -> None:
    pos, ptr = clouds(SIZES, grid=grid)
    kept = kept_ptr(ptr, ratio=ratio)
    starts = random_starts(ptr, generator=torch.Generator().manual_seed(3))
    rows = farthest_points(pos, ptr, ratio=ratio, start=starts)
    assert rows.tolist() == expected(pos, ptr, kept, starts.tolist())


def test_a_count_takes_all_of_a_cloud_that_has_fewer() -> None:
    pos, ptr = clouds(SIZES)
    rows = farthest_points(pos, ptr, count=5)
    assert kept_ptr(ptr, count=5).diff().tolist() == [1, 5, 5, 5, 2]
    assert rows.tolist() == expected(pos, ptr, kept_ptr(ptr, count=5), [0] * 5)
    assert sorted(farthest_points(pos, ptr, ratio=1.0).tolist()) == list(range(len(pos)))


def test_seven_percent_of_a_hundred_are_seven() -> None:
    ptr = torch.tensor([0, 100, 110])
    assert kept_ptr(ptr, ratio=0.07).diff().tolist() == [7, 1]
    assert kept_ptr(ptr, ratio=0.071).diff().tolist() == [8, 1]  # rounded up otherwise


def test_a_point_that_occurs_twice_is_taken_once_before_all_others() -> None:
    pos = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 3, 0]], dtype=torch.float64)
    rows = farthest_points(pos, torch.tensor([0, 5]), ratio=1.0)
    assert rows.tolist() == [0, 4, 2, 1, 3]


def test_clouds_of_a_batch_do_not_see_each_other() -> None:
    pos, ptr = clouds([30, 50, 20])
    together = farthest_points(pos, ptr, ratio=0.3)
    alone = farthest_points(pos[30:80], torch.tensor([0, 50]), ratio=0.3)
    assert together[9:24].tolist() == (alone + 30).tolist()


def test_the_sample_covers_better_than_a_random_one() -> None:
    pos, ptr = clouds([400])
    rows = farthest_points(pos, ptr, count=40)
    hole = torch.cdist(pos, pos[rows]).amin(1).max()
    drawn = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:40]
    assert hole < 0.6 * torch.cdist(pos, pos[drawn]).amin(1).max()


def test_rotation_keeps_the_choice_and_outermost_forgets_the_order_of_the_points() -> None:
    pos, ptr = clouds([60, 40])
    rows = farthest_points(pos, ptr, ratio=0.25, start="outermost")
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(1))[0]
    assert torch.equal(farthest_points(pos @ rotation.T + 5.0, ptr, ratio=0.25, start="outermost"), rows)
    order = torch.cat([torch.randperm(60), 60 + torch.randperm(40)])
    shuffled = farthest_points(pos[order], ptr, ratio=0.25, start="outermost")
    assert torch.equal(order[shuffled], rows)
    # control: with the first row as the start, the order of the points does matter
    assert not torch.equal(order[farthest_points(pos[order], ptr, ratio=0.25)], farthest_points(pos, ptr, ratio=0.25))


def test_the_choice_is_repeatable_and_leaves_no_gradient() -> None:
    pos, ptr = clouds([50])
    pos.requires_grad_()
    assert torch.equal(farthest_points(pos, ptr, count=9), farthest_points(pos.detach().float().double(), ptr, count=9))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, "stated once"),
        ({"ratio": 0.5, "count": 3}, "stated once"),
        ({"ratio": 0.0}, "out of range"),
        ({"ratio": 1.5}, "out of range"),
        ({"count": 0}, "not a count"),
        ({"count": 2, "start": 3}, "not a point of every cloud"),
        ({"count": 2, "start": "middle"}, "unknown start"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], fault: str) -> None:
    pos, ptr = clouds([4, 3])
    with pytest.raises(ConfigError, match=fault):
        farthest_points(pos, ptr, **settings)  # type: ignore[arg-type]


def test_empty_clouds_and_points_that_are_no_numbers_are_named() -> None:
    pos, ptr = clouds([4, 3])
    with pytest.raises(InputError, match="cloud 1 is empty"):
        farthest_points(pos, torch.tensor([0, 4, 4, 7]), count=1)
    pos[5, 1] = float("nan")
    with pytest.raises(InputError, match="point 1 of cloud 1 is not finite"):
        farthest_points(pos, ptr, count=1)
    with pytest.raises(InputError, match="no row pointers"):
        farthest_points(pos, torch.tensor([0, 4]), count=1)


@pytest.mark.gpu
@pytest.mark.parametrize("grid", [None, 2])
def test_a_gpu_takes_the_same_rows(grid: int | None) -> None:
    pos, ptr = clouds([*SIZES, 700], grid=grid)
    for start in (0, "outermost"):
        rows = farthest_points(pos, ptr, ratio=0.25, start=start)
        assert torch.equal(farthest_points(pos.cuda(), ptr.cuda(), ratio=0.25, start=start).cpu(), rows)
