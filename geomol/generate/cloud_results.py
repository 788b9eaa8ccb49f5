"""Generated point clouds as sets, and as files that other programs open."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from geomol.checkpoint.atomic import write_atomically
from geomol.data import Clouds, write_clouds
from geomol.data.clouds import join_clouds
from geomol.errors import ConfigError
from geomol.generate.sampling import Sample

KINDS = (".npz", ".ply", ".xyz")


def to_clouds(samples: Sequence[Sample], *, name: str = "generated", source: str = "") -> Clouds:
    """The points of all samples as one set, each cloud centred on the mean of its points."""
    pos, ptr, _ = join_clouds([sample.pos for sample in samples], name=name)
    return Clouds(name=name, pos=pos, ptr=ptr, source=source)


def check_cloud_output(path: Path) -> None:
    """Raises ConfigError for a file of a kind that point clouds are not written to."""
    if path.suffix.lower() not in KINDS:
        raise ConfigError("point clouds are not written to such files", where=str(path), expected=", ".join(KINDS))


def save_clouds(path: Path, clouds: Clouds) -> list[Path]:
    """Writes a set, and says to which files.

    `.npz`: one file, which `geomol score`, `geomol.data.read_clouds` and training read back. `.xyz`: one file of a
    frame for each cloud, points as element X. `.ply` (binary, float32): a file for each cloud, `name-0000.ply` and so
    on, as the format holds one.

    Raises:
        ConfigError: another kind of file. OutputError: it cannot be written.
    """
    check_cloud_output(path)
    kind = path.suffix.lower()
    if kind == ".npz":
        return [write_clouds(path, clouds)]
    pieces = np.split(clouds.pos, clouds.ptr[1:-1])
    if kind == ".xyz":
        write_atomically(path, "".join(_frame(number, piece) for number, piece in enumerate(pieces)).encode())
        return [path]
    digits = max(4, len(str(len(pieces) - 1)))
    files = [path.with_name(f"{path.stem}-{number:0{digits}d}.ply") for number in range(len(pieces))]
    for file, piece in zip(files, pieces, strict=True):
        write_atomically(file, _ply(piece))
    return files


def _frame(number: int, points: Float[np.ndarray, "n 3"]) -> str:
    text = io.StringIO()
    text.write(f"{len(points)}\ncloud {number}\n")
    np.savetxt(text, points, fmt="X %.6f %.6f %.6f")
    return text.getvalue()


def _ply(points: Float[np.ndarray, "n 3"]) -> bytes:
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{axes}end_header\n"
    return head.encode() + np.ascontiguousarray(points, dtype="<f4").tobytes()
