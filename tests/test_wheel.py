"""The wheel is the package `geomol/`, all of it and nothing else."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


def ignored_by_git(paths: list[str]) -> set[str]:
    """Those of the paths that git ignores; none where this is no checkout."""
    if not (ROOT / ".git").exists():
        return set()
    done = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        input="\n".join(paths),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in the wheel, built by the declared backend in this process: no network, no second environment."""
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_file_of_the_package(wheel):
    files = [str(p.relative_to(ROOT)) for p in (ROOT / "geomol").rglob("*") if p.is_file()]
    files = [name for name in files if "__pycache__" not in name]
    expected = set(files) - ignored_by_git(files)
    assert {"geomol/__init__.py", "geomol/py.typed", "geomol/native/cells.c"} <= expected
    assert sorted(name for name in wheel if name.startswith("geomol/")) == sorted(expected)


def test_no_file_of_the_package_is_ignored_by_git():
    """An unanchored `data/` or `models/` in .gitignore would silently leave geomol/data out of a clone."""
    kinds = {".py", ".js", ".html", ".css", ".c", ".h"}
    files = [str(p.relative_to(ROOT)) for p in (ROOT / "geomol").rglob("*") if p.suffix in kinds]
    assert ignored_by_git(files) == set()


def test_the_wheel_holds_nothing_but_the_package(wheel):
    tops = {name.split("/")[0] for name in wheel}
    (metadata,) = tops - {"geomol"}
    assert metadata.startswith("geomol-")
    assert metadata.endswith(".dist-info")
    assert f"{metadata}/licenses/LICENSE" in wheel
    assert f"{metadata}/entry_points.txt" in wheel
