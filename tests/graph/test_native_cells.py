"""The search in C finds what the one in PyTorch finds, element by element, and nothing depends on a compiler."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from geomol.errors import CapacityError
from geomol.graph import brute_force_neighbour_list, neighbour_list, neighbours
from geomol.graph.cells import search_cells
from geomol.graph.images import smallest_square
from geomol.graph.native_search import cells_in_c
from geomol.native import library as library_module
from geomol.native.library import SWITCH, find_compiler, library

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler on this machine")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache and nothing loaded; the folder that libraries are kept in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library_module._loaded.cache_clear()
    yield tmp_path / "geomol" / "native"
    library_module._loaded.cache_clear()


def search(frames: list[Atoms], cutoff: float, *, in_c: bool) -> tuple[list[torch.Tensor], list[float]]:
    """dst, src, shift, and the closest distance if it was noticed."""
    pos = torch.from_numpy(np.concatenate([a.positions for a in frames]))
    ptr = torch.nn.functional.pad(torch.tensor([len(a) for a in frames]).cumsum(0), (1, 0))
    cell = torch.from_numpy(np.array([a.cell.array for a in frames]))
    pbc = torch.from_numpy(np.array([a.pbc for a in frames]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "1" if in_c else "0")
        assert (cells_in_c() is not None) == in_c
        pairs, close = search_cells(pos, ptr, cell, pbc, cutoff)
    return list(pairs), [min(close)[0]] if close else []


def assert_same(frames: list[Atoms], cutoff: float) -> int:
    found, close = search(frames, cutoff, in_c=True)
    expected, expected_close = search(frames, cutoff, in_c=False)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.is_contiguous()
        assert torch.equal(one, other)
    assert close == expected_close
    return len(found[0])


def random_structure(rng: np.random.Generator) -> Atoms:
    """Up to 40 atoms, some far outside; a skewed cell of either handedness, perhaps thin, with open directions."""
    while True:
        cell = rng.normal(size=(3, 3)) * rng.uniform(1, 8) * 10 ** rng.uniform(-0.5, 0.3, (3, 1))
        if abs(np.linalg.det(cell)) > 2:
            break
    n = int(rng.integers(1, 40))
    pos = rng.uniform(-1, 1, (n, 3)) * 10 ** rng.uniform(0.3, 2)
    atoms = Atoms("C" * n, positions=pos, cell=cell, pbc=rng.random(3) < 0.6)
    if rng.random() < 0.3:  # far away: where nothing is periodic too, so that bins must be made coarser
        atoms.positions += rng.normal(size=3) * 1e5
        atoms.positions[0] += rng.normal(size=3) * 1e5
    return atoms


@needs_compiler
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 6), cutoff=st.floats(0.3, 6))
def test_both_searches_give_the_same_list(seed: int, num: int, cutoff: float) -> None:
    rng = np.random.default_rng(seed)
    assert_same([random_structure(rng) for _ in range(num)], cutoff)


@needs_compiler
@pytest.mark.parametrize("seed", range(12))
def test_the_search_in_c_gives_the_list_of_the_obvious_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    atoms, cutoff = random_structure(rng)[:8], float(rng.uniform(1, 5))
    truth = np.column_stack(brute_force_neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff))
    found = np.column_stack([x.numpy() for x in search([atoms], cutoff, in_c=True)[0]])
    assert np.array_equal(found, truth[np.lexsort(truth.T[::-1])])
    wider = np.column_stack([x.numpy() for x in search([atoms], 1.5 * cutoff, in_c=True)[0]])
    assert len(truth) == 0 or not np.array_equal(found, wider)  # control


@needs_compiler
@pytest.mark.parametrize("name", ["Cu", "Si", "Fe", "NaCl"])
def test_pairs_on_the_cutoff_are_decided_alike_to_the_last_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Perfect crystals, cut at a shell, rotated and moved so that rounding puts half of the shell inside."""
    rng, some_in, all_in = np.random.default_rng(3), 0, 0
    for k in range(8):
        atoms = bulk(name, cubic=True, **({"crystalstructure": "rocksalt", "a": 5.64} if name == "NaCl" else {})) * 2
        atoms.rotate(float(rng.uniform(0, 90)), rng.normal(size=3), rotate_cell=True)
        atoms.positions += rng.uniform(-30, 30, 3)
        cutoff = float(atoms.cell.lengths()[0] / 2)
        pairs = assert_same([atoms], cutoff)
        assert pairs == assert_same([atoms, atoms], cutoff) // 2
        inner, outer = (assert_same([atoms], cutoff * (1 + x)) for x in (-1e-9, 1e-9))
        some_in += inner < pairs < outer
        all_in += pairs in (inner, outer)
        arrays, lists = (atoms.positions, atoms.cell.array, atoms.pbc, cutoff), []
        for switch, least in (("1", 0), ("0", 0), ("0", 10**6)):  # in C, in PyTorch, by vesin
            monkeypatch.setenv(SWITCH, switch)
            monkeypatch.setattr(neighbours, "C_ATOMS", least)
            monkeypatch.setattr(neighbours, "CELL_LIST_ATOMS", least)
            monkeypatch.setattr(neighbours, "SMALL_TABLE", 0)
            lists.append(np.column_stack(neighbour_list(*arrays)))
        assert np.array_equal(lists[0], lists[1]), k
        assert np.array_equal(lists[0], lists[2]), k
    assert some_in > 0  # the question arises


@needs_compiler
def test_larger_and_denser_systems_than_a_block_holds() -> None:
    rng = np.random.default_rng(1)
    crystal = bulk("Cu", cubic=True) * 6
    crystal.rattle(0.1, seed=2)
    assert assert_same([crystal], 5.0) > 30_000
    dense = Atoms("H2000", positions=rng.uniform(0, 9, (2000, 3)), cell=np.eye(3) * 9, pbc=[True, True, False])
    assert assert_same([dense, crystal, dense[:3]], 3.0) > 200_000
    thin = Atoms("C3", positions=rng.uniform(0, 1, (3, 3)), cell=np.diag([0.9, 1.1, 30.0]), pbc=True)
    assert assert_same([thin], 9.0) > 1000


@pytest.mark.parametrize("distance", [0.3, 1.0, 2.0**0.5, math.pi, 6.0, 1e-200, 1e200])
def test_squares_can_stand_for_distances(distance: float) -> None:
    square = smallest_square(distance)
    assert math.sqrt(square) >= distance
    assert math.sqrt(math.nextafter(square, 0.0)) < distance


@needs_compiler
def test_what_does_not_fit_is_refused() -> None:
    crystal = bulk("Cu", cubic=True) * 4
    pos, cell, pbc = (
        torch.from_numpy(crystal.positions),
        torch.from_numpy(crystal.cell.array)[None],
        torch.ones(1, 3) > 0,
    )
    ptr = torch.tensor([0, len(crystal)])
    with pytest.raises(CapacityError, match=r"neighbour pairs of 256 atoms .*never dropped"):
        search_cells(pos, ptr, cell, pbc, 5.0, max_bytes=500_000)
    with pytest.raises(CapacityError, match="periodic images around 256 atoms"):
        search_cells(pos, ptr, cell, pbc, 1e5)
    with pytest.raises(CapacityError, match="periodic images around 256 atoms"):
        search_cells(pos, ptr, cell, pbc, 1e30)


@needs_compiler
def test_a_library_is_compiled_once_and_kept(fresh: Path) -> None:
    assert isinstance(library("cells"), ctypes.CDLL)
    (kept,) = fresh.iterdir()
    before = kept.stat()
    library_module._loaded.cache_clear()
    assert isinstance(library("cells"), ctypes.CDLL)
    assert [path.stat().st_ino for path in fresh.iterdir()] == [before.st_ino]


@needs_compiler
def test_libraries_that_nobody_has_used_for_long_are_removed(fresh: Path) -> None:
    fresh.mkdir(parents=True, exist_ok=True)
    now = time.time()
    days = {"cells-old-1.so": 91, "cells-young-1.so": 89, "mixing-old-1.so": 91}
    for name, age in days.items():
        (fresh / name).write_bytes(b"x")
        os.utime(fresh / name, (now - age * 86400,) * 2)
    assert isinstance(library("cells"), ctypes.CDLL)
    left = {path.name for path in fresh.iterdir()}
    assert left > {"cells-young-1.so", "mixing-old-1.so"}
    assert "cells-old-1.so" not in left
    (kept,) = (fresh / name for name in left - days.keys())
    os.utime(kept, (now - 100 * 86400,) * 2)
    library_module._loaded.cache_clear()
    library("cells")  # to use one is to keep it
    assert now - kept.stat().st_mtime < 60


@needs_compiler
@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_a_damaged_library_is_never_loaded(fresh: Path, part: float) -> None:
    library("cells")
    (kept,) = fresh.iterdir()
    good = kept.read_bytes()
    kept.unlink()  # not written over: it is in use
    kept.write_bytes(good[: int(part * len(good))] + b"x")
    library_module._loaded.cache_clear()
    assert isinstance(library("cells"), ctypes.CDLL)
    sizes = sorted(path.stat().st_size for path in fresh.iterdir())
    assert sizes[-1] >= len(good)
    assert any(path.read_bytes() == good for path in fresh.iterdir())


@needs_compiler
def test_without_a_place_to_keep_it_a_library_lasts_for_the_process(fresh: Path, tmp_path: Path) -> None:
    (tmp_path / "geomol").write_text("a file where a folder should be")
    found = library("cells")
    assert isinstance(found, ctypes.CDLL)
    assert not Path(found._name).exists()
    assert cells_in_c() is not None


@needs_compiler
def test_processes_may_begin_at_once(fresh: Path) -> None:
    """Each loads the module by its file, which takes no time, and finds or builds the library."""
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('native_library', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.library('cells').geomol_cells_find is not None)\n"
    )
    command = [sys.executable, "-c", code, str(library_module.__file__)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) for _ in range(3)]
    assert [process.communicate(timeout=120)[0].strip() for process in started] == ["True"] * 3
    assert 1 <= len(list(fresh.iterdir())) <= 3
    assert all(path.suffix == ".so" for path in fresh.iterdir())  # nothing half-made is left


def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: None)


def failing_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken-cc").write_text("#!/bin/sh\necho no such header >&2\nexit 1\n")
    (tmp_path / "broken-cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "broken-cc"))


def compiler_of_nonsense(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = '#!/bin/sh\nwhile [ "$1" != "-o" ]; do shift; done\necho nonsense > "$2"\n'
    (tmp_path / "odd-cc").write_text(script)
    (tmp_path / "odd-cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "odd-cc"))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (no_compiler, "no C compiler"),
        (failing_compiler, "no such header"),
        (compiler_of_nonsense, "cannot be loaded"),
    ],
)
def test_without_a_working_compiler_lists_are_made_in_python(way, said, fresh, tmp_path, monkeypatch, caplog) -> None:
    atoms = bulk("Cu", cubic=True) * 4
    atoms.rattle(0.1, seed=1)
    arrays = atoms.positions, atoms.cell.array, atoms.pbc, 5.0
    monkeypatch.setenv(SWITCH, "0")
    expected = neighbour_list(*arrays)
    monkeypatch.delenv(SWITCH)
    way(monkeypatch, tmp_path)
    with caplog.at_level(logging.INFO, logger="geomol"):
        assert library("cells") is None
        found = neighbour_list(*arrays)
    assert said in caplog.text
    assert caplog.text.count(said) <= 2  # said once, not at every list
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
