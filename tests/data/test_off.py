"""Reading OFF meshes: both headers, polygons, and a sentence for every kind of damage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from geomol.data import parse_off, read_off
from geomol.errors import DataError, InputError
from geomol.geometry import area_vectors

BODY = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n0.5 0.5 1\n4 0 1 2 3\n3 0 1 4\n3 1 2 4\n3 2 3 4\n3 3 0 4\n"
GOOD = f"OFF\n5 5 8\n{BODY}"


def parse(text: str) -> tuple[list[list[float]], list[list[int]]]:
    mesh = parse_off(text.encode(), where="x.off")
    return mesh.vertices.tolist(), mesh.faces.tolist()


def test_a_pyramid_is_read_with_its_quadrilateral_as_two_triangles(tmp_path: Path) -> None:
    (tmp_path / "x.off").write_text(GOOD)
    mesh = read_off(tmp_path / "x.off")
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]
    assert mesh.vertices.dtype == torch.float64
    areas = area_vectors(mesh).norm(dim=1)
    assert areas[:2].sum().item() == pytest.approx(1.0)  # the square
    assert areas.sum().item() == pytest.approx(1 + 4 * 0.5 * 1.25**0.5)


@pytest.mark.parametrize(
    "header",
    ["OFF5 5 8\n", "OFF 5 5 8\n", "OFF\n5 5\n", "# made by hand\nOFF\n\n5 5 0  # edges unknown\n", "OFF\r\n5 5 8\r\n"],
)
def test_headers_in_use_mean_the_same(header: str) -> None:
    assert parse(header + BODY) == parse(GOOD)


def test_colours_comments_and_blank_lines_are_passed_over() -> None:
    text = GOOD.replace("3 0 1 4\n", "3 0 1 4 255 0 0\n\n# the front\n").replace("1 0 0\n1 1", "1 0 0 # b\n1 1")
    assert parse(text) == parse(GOOD)


def test_a_polygon_becomes_a_fan_of_the_same_area() -> None:
    angle = 2 * torch.pi * torch.arange(7, dtype=torch.float64) / 7
    lines = "".join(f"{x} {y} 0\n" for x, y in zip(angle.cos().tolist(), angle.sin().tolist(), strict=True))
    mesh = parse_off(f"OFF\n7 1 7\n{lines}7 0 1 2 3 4 5 6\n".encode(), where="x")
    assert mesh.faces.shape == (5, 3)
    total = area_vectors(mesh).sum(0)
    torch.testing.assert_close(total[2], 3.5 * (2 * torch.pi / torch.tensor(7.0, dtype=torch.float64)).sin())


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "file is empty"),
        (" \n \n", "file is empty"),
        ("ply\nformat ascii 1.0\n", "not an OFF mesh, .*got 'ply'"),
        ("COFF\n5 5 8\n", "not an OFF mesh, .*got 'COFF'"),
        ("# only a comment\n", "not an OFF mesh"),
        ("OFF\n", "cut off, expected counts"),
        ("OFF\nfive 5 8\n" + BODY, "line 2: the counts cannot be read"),
        ("OFF\n-5 5 8\n" + BODY, "line 2: the counts cannot be read"),
        ("OFF\n5\n" + BODY, "counts cannot be read"),
        ("OFF\n99999999999 5 8\n" + BODY, "counts cannot be read"),
        ("OFF\n900000000 5 8\n" + BODY, "cut off, expected 900000000 vertices"),
        ("OFF\n0 0 0\n", "no surface"),
        ("OFF\n5 0 0\n0 0 0\n", "no surface"),
        (GOOD[: len(GOOD) // 2], "cut off, expected 5 vertices and 5 polygons"),
        (GOOD + "3 0 1 2\n", "line 13: more lines than the counts promise"),
        (GOOD.replace("1 1 0\n", "1 1\n"), "line 5: a vertex has the wrong number of columns, expected x y z"),
        (GOOD.replace("1 1 0\n", "1 1 0 7\n"), "line 5: a vertex has the wrong number of columns"),
        (GOOD.replace("1 1 0\n", "1 l 0\n"), "line 5: a vertex is not three numbers, got '1 l 0'"),
        (GOOD.replace("1 1 0\n", "1 nan 0\n"), "line 5: a vertex is not finite"),
        (GOOD.replace("1 1 0\n", "1 1e999 0\n"), "line 5: a vertex is not finite"),
        (GOOD.replace("3 0 1 4\n", "2 0 1\n"), "line 9: a polygon with so many corners, .*got 2"),
        (GOOD.replace("3 0 1 4\n", "-3 0 1 4\n"), "line 9: a polygon with so many corners"),
        (GOOD.replace("3 0 1 4\n", "3 0 1\n"), "line 9: a polygon lacks corners"),
        (GOOD.replace("3 0 1 4\n", "3 0 1 5\n"), "line 9: .*corner that does not exist, expected 0 to 4, got 5"),
        (GOOD.replace("3 0 1 4\n", "3 0 -1 4\n"), "line 9: .*corner that does not exist, .*got -1"),
        (GOOD.replace("3 0 1 4\n", "3 0 x 4\n"), "line 9: a polygon cannot be read"),
        (GOOD.replace("3 0 1 4\n", "3.0 0 1 4\n"), "line 9: a polygon cannot be read"),
    ],
)
def test_damage_is_named_with_its_line(text: str, fault: str) -> None:
    with pytest.raises(InputError, match=fault) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x.off")


def test_binary_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a text file"):
        parse_off(b"OFF\n\x00\xff\x01\n", where="x.off")
    with pytest.raises(InputError, match="not an OFF mesh"):
        parse_off(bytes(range(128, 255)), where="x.off")
    with pytest.raises(DataError, match="cannot be opened"):
        read_off(tmp_path / "none.off")
    with pytest.raises(DataError, match="cannot be opened"):
        read_off(tmp_path)
