"""Chamfer distances and the scores of sets of clouds, against the definitions written out and cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geomol.errors import InputError
from geomol.generate.cloud_metrics import _by_blocks, chamfer_distances, cloud_score, score_clouds
from geomol.geometry import random_rotations

RNG = np.random.default_rng(0)


def some_clouds(num: int, *, shift: float = 0.0, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(int(n), 3)) + shift for n in rng.integers(1, 40, num)]


def chamfer_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    squared = [[sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) for y in b] for x in a]
    ahead = sum(min(row) for row in squared) / len(a)
    behind = sum(min(row[j] for row in squared) for j in range(len(b))) / len(b)
    return float(ahead + behind)


def scores_by_definition(
    made: list[np.ndarray], wanted: list[np.ndarray], distance: dict[tuple[int, int], float]
) -> tuple[float, float, float]:
    """`distance` is between rows of made + wanted."""
    n, total = len(made), len(made) + len(wanted)
    mmd = sum(min(distance[x, y] for x in range(n)) for y in range(n, total)) / len(wanted)
    matched = {min(range(n, total), key=lambda y: distance[x, y]) for x in range(n)}
    right = 0
    for one in range(total):
        nearest = min((other for other in range(total) if other != one), key=lambda other: distance[one, other])
        right += (nearest < n) == (one < n)
    return mmd, len(matched) / len(wanted), right / total


def test_distances_are_those_of_the_definition_for_clouds_of_any_sizes() -> None:
    first, second = some_clouds(5), some_clouds(4, seed=1)
    found = chamfer_distances(first, second)
    expected = [[chamfer_by_definition(a, b) for b in second] for a in first]
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_one_set_gives_a_symmetric_table_with_zeros_and_the_same_as_twice_the_set() -> None:
    clouds = some_clouds(6)
    found = chamfer_distances(clouds)
    assert (found == found.T).all()
    assert (np.diag(found) == 0).all()
    np.testing.assert_array_equal(found, chamfer_distances(clouds, clouds))


@pytest.mark.parametrize("block_bytes", [1, 64 << 20])
def test_blocks_of_a_gpu_agree_with_the_trees(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr("geomol.generate.cloud_metrics.BLOCK_BYTES", block_bytes)
    first, second = some_clouds(5), some_clouds(4, seed=1)
    ahead, behind = _by_blocks(first, second, torch.device("cpu"))
    np.testing.assert_allclose(ahead + behind, chamfer_distances(first, second), rtol=1e-13)


def test_a_point_against_two_points_by_hand() -> None:
    one, two = np.zeros((1, 3)), np.array([[1.0, 0, 0], [0, 2.0, 0]])
    assert chamfer_distances([one], [two])[0, 0] == 1 + (1 + 4) / 2


def test_distances_do_not_change_when_both_clouds_move_or_their_points_change_places() -> None:
    a, b = RNG.normal(size=(30, 3)), RNG.normal(size=(20, 3))
    turn = random_rotations(1, generator=torch.Generator().manual_seed(0))[0].numpy()
    before = chamfer_distances([a], [b])
    moved = chamfer_distances([a[::-1] @ turn.T + 3], [RNG.permutation(b) @ turn.T + 3])
    np.testing.assert_allclose(moved, before, rtol=1e-12)
    assert abs(chamfer_distances([a @ turn.T], [b]) - before) > 1e-3  # control: one alone


def test_scores_are_those_of_the_definitions() -> None:
    made, wanted = some_clouds(7), some_clouds(7, shift=0.2, seed=3)
    both = made + wanted
    table = {(i, j): chamfer_by_definition(both[i], both[j]) for i in range(14) for j in range(14)}
    found = score_clouds(made, wanted)
    assert (found.mmd, found.coverage, found.one_nna) == pytest.approx(scores_by_definition(made, wanted, table))


def test_a_set_against_itself_is_matched_and_covered_and_told_apart_by_nothing() -> None:
    clouds = some_clouds(8)
    found = score_clouds(clouds, clouds)
    # every cloud's nearest is its twin in the other set: the mark of a generator that repeats the references
    assert (found.mmd, found.coverage, found.one_nna) == (0, 1, 0)


def test_two_samples_of_one_law_are_told_apart_by_chance_only() -> None:
    rng = np.random.default_rng(5)

    def boxes(num: int) -> list[np.ndarray]:
        return [rng.uniform(-1, 1, (60, 3)) * rng.uniform(0.3, 1, 3) for _ in range(num)]

    found = score_clouds(boxes(150), boxes(150))
    assert abs(found.one_nna - 0.5) < 3.5 * found.one_nna_error
    assert 0.3 < found.coverage < 0.8


def test_disjoint_sets_are_told_apart_always() -> None:
    found = score_clouds(some_clouds(6), some_clouds(6, shift=50, seed=1))
    assert found.one_nna == 1
    assert found.mmd > 1000


def test_one_cloud_again_and_again_covers_one_reference() -> None:
    wanted = some_clouds(5)
    found = score_clouds([wanted[2]] * 5, wanted)
    assert found.coverage == 1 / 5
    # its copies find each other; the reference that they copy finds a copy
    assert 0.5 < found.one_nna < 1


def test_equally_near_clouds_count_one_half() -> None:
    zero, away = np.zeros((2, 2)), np.full((2, 2), 3.0)
    assert cloud_score(zero, zero, zero).one_nna == 0.5
    assert cloud_score(zero, away, zero).one_nna == 1


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros((4, 2)), np.full((2, 3), np.nan)])
def test_clouds_that_are_none_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="cloud 1 of the first set"):
        chamfer_distances([np.zeros((3, 3)), bad])


def test_sets_of_different_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="two sets of one size"):
        score_clouds(some_clouds(3), some_clouds(4))
