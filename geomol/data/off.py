"""The OFF mesh format: a header, counts, vertices, polygons. Read strictly; every kind of damage has its sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from geomol.data.cloud_text import is_number
from geomol.errors import DataError, InputError
from geomol.geometry import Mesh

MAX_BYTES = 1 << 30
MAX_CORNERS = 10_000  # of one polygon


def read_off(path: str | Path) -> Mesh:
    """The mesh of an OFF file; polygons become fans of triangles.

    Raises:
        DataError: no such file, or one that cannot be read.
        InputError: see `parse_off`.
    """
    return parse_off(read_bytes(path), where=str(path))


def read_bytes(path: str | Path) -> bytes:
    """A file of a mesh or of points, as far as one may be long.

    Raises:
        DataError: no such file, or one that cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError("the file cannot be opened", where=str(path), got=error.strerror or str(error)) from error


def parse_off(content: bytes, *, where: str) -> Mesh:
    """The mesh that the text of an OFF file describes.

    Read are a first line `OFF` with the counts `V F E` on the next, and the variant of many ModelNet files that has
    both on one line (`OFF123 456 0` or `OFF 123 456 0`); `#` comments and blank lines anywhere; one vertex and one
    polygon a line; colours after a polygon's corners are passed over. The number of edges is not looked at, as files
    often have it wrong. A polygon of n corners becomes n − 2 triangles about its first corner, which is exact for
    convex ones.

    Raises:
        InputError: another format; counts that the file does not hold; a vertex without three finite numbers; a polygon
            with fewer than 3 corners, with too few numbers, or with a corner that does not exist; no surface at all.
    """
    if len(content) > MAX_BYTES:
        raise InputError("the mesh is too large", where=where, expected=f"at most {MAX_BYTES} bytes")
    lines, numbers = _content_lines(content, where)
    num_vertices, num_faces, first = _counts(lines, numbers, where)
    body, at = lines[first:], numbers[first:]
    if len(body) < num_vertices + num_faces:
        raise InputError(
            "the file is cut off",
            where=where,
            expected=f"{num_vertices} vertices and {num_faces} polygons",
            got=f"{len(body)} lines",
        )
    if len(body) > num_vertices + num_faces:
        line = at[num_vertices + num_faces]
        raise InputError("more lines than the counts promise", where=f"{where}, line {line}")
    vertices = _vertices(body[:num_vertices], at, where)
    faces = _faces(body[num_vertices:], at[num_vertices:], num_vertices, where)
    return Mesh(torch.from_numpy(vertices), torch.from_numpy(faces))


def _content_lines(content: bytes, where: str) -> tuple[list[str], list[int]]:
    """Lines that say something, without comments, and their numbers in the file."""
    if not content.strip():
        raise InputError("the file is empty", where=where, expected="an OFF mesh")
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        # a comment may hold any character; numbers may not
        text = content.decode("latin-1")
        if "\x00" in text:
            raise InputError("not a text file", where=where, expected="an OFF mesh") from None
    lines, numbers = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = (line.partition("#")[0] if "#" in line else line).strip()
        if stripped:
            lines.append(stripped)
            numbers.append(number)
    return lines, numbers


def _counts(lines: list[str], numbers: list[int], where: str) -> tuple[int, int, int]:
    """Vertices, polygons, and the first line after the counts."""
    head = lines[0] if lines else ""
    if not head.startswith("OFF"):
        raise InputError("not an OFF mesh", where=where, expected='a first line "OFF"', got=repr(head[:20]))
    rest, first = head[3:].strip(), 1
    if not rest:
        if len(lines) < 2:
            raise InputError("the file is cut off", where=where, expected="counts of vertices, polygons and edges")
        rest, first = lines[1], 2
    words = rest.split()
    if len(words) not in (2, 3) or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise InputError(
            "the counts cannot be read",
            where=f"{where}, line {numbers[first - 1]}",
            expected="numbers of vertices, polygons and edges",
            got=repr(rest[:40]),
        )
    num_vertices, num_faces = int(words[0]), int(words[1])
    if num_vertices < 3 or num_faces < 1:
        got = f"{num_vertices} vertices and {num_faces} polygons"
        raise InputError("the mesh has no surface", where=where, expected="3 vertices and a polygon at least", got=got)
    return num_vertices, num_faces, first


def _vertices(lines: list[str], numbers: list[int], where: str) -> Float[np.ndarray, "V 3"]:
    rows = [line.split() for line in lines]
    wrong = next((i for i, row in enumerate(rows) if len(row) != 3), None)
    if wrong is not None:
        raise InputError(
            "a vertex has the wrong number of columns",
            where=f"{where}, line {numbers[wrong]}",
            expected="x y z",
            got=repr(lines[wrong][:60]),
        )
    try:
        vertices = np.array(rows, dtype=np.float64)
    except ValueError:
        wrong = next(i for i, row in enumerate(rows) if not all(map(is_number, row)))
        raise InputError(
            "a vertex is not three numbers", where=f"{where}, line {numbers[wrong]}", got=repr(lines[wrong][:60])
        ) from None
    good = np.isfinite(vertices).all(axis=1)
    if not good.all():
        wrong = int(np.argmin(good))
        got = repr(lines[wrong][:60])
        raise InputError("a vertex is not finite", where=f"{where}, line {numbers[wrong]}", got=got)
    return vertices


def _faces(lines: list[str], numbers: list[int], num_vertices: int, where: str) -> Int[np.ndarray, "F 3"]:
    polygons: list[list[int]] = []
    for line, number in zip(lines, numbers, strict=False):
        place = f"{where}, line {number}"
        words = line.split()
        try:
            count = int(words[0])
            corners = [int(word) for word in words[1 : 1 + max(count, 0)]]
        except ValueError:
            expected = "a count and so many vertex numbers"
            raise InputError("a polygon cannot be read", where=place, expected=expected, got=repr(line[:60])) from None
        if not 3 <= count <= MAX_CORNERS:
            expected = f"3 to {MAX_CORNERS}"
            raise InputError("a polygon with so many corners", where=place, expected=expected, got=str(count))
        if len(corners) < count:
            got = repr(line[:60])
            raise InputError("a polygon lacks corners", where=place, expected=f"{count} vertex numbers", got=got)
        if min(corners) < 0 or max(corners) >= num_vertices:
            bad = min(corners) if min(corners) < 0 else max(corners)
            expected = f"0 to {num_vertices - 1}"
            raise InputError("a polygon has a corner that does not exist", where=place, expected=expected, got=str(bad))
        polygons.append(corners)
    if all(len(polygon) == 3 for polygon in polygons):
        return np.array(polygons, dtype=np.int64)
    fans = [[p[0], p[i], p[i + 1]] for p in polygons for i in range(1, len(p) - 1)]
    return np.array(fans, dtype=np.int64)
