"""The n-body benchmark: trajectories as published, physics of the simulator, and the file it is kept in."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from geomol.data import nbody
from geomol.errors import ConfigError, DataError

GOLDEN = os.environ.get("GEOMOL_GOLDEN")
needs_golden = pytest.mark.skipif(GOLDEN is None, reason="GEOMOL_GOLDEN is not set: no reference cases here")


@needs_golden
@pytest.mark.parametrize("case", ["charged5_seed43", "charged5_seed14_freq500"])
def test_trajectories_are_the_published_ones(case: str) -> None:
    folder = Path(str(GOLDEN)) / "nbody_simulator"
    arrays = np.load(folder / f"{case}.npz")
    config = json.loads((folder / f"{case}.json").read_text())["config"]
    state = [arrays[f"inputs/{key}"][None] for key in ("charges", "loc0", "vel0")]
    pos, velocity = nbody.simulate(
        state[0][..., 0], *state[1:], frames=len(arrays["outputs/loc"]), frequency=config["sample_freq"]
    )
    np.testing.assert_allclose(pos[:, 0], arrays["outputs/loc"], atol=1e-6, rtol=1e-6)
    np.testing.assert_allclose(velocity[:, 0], arrays["outputs/vel"], atol=1e-6, rtol=1e-6)


@needs_golden
def test_the_first_system_of_the_benchmark_is_that_of_the_published_generator() -> None:
    arrays = np.load(Path(str(GOLDEN)) / "nbody_simulator" / "charged5_seed43.npz")
    charge, pos, velocity = nbody.draw_initial_states(2, seed=43)
    np.testing.assert_allclose(pos[0], arrays["inputs/loc0"], rtol=1e-14)
    np.testing.assert_allclose(velocity[0], arrays["inputs/vel0"], rtol=1e-14)
    np.testing.assert_array_equal(charge[0], arrays["inputs/charges"][:, 0])


def test_momentum_is_conserved_where_no_force_is_clipped() -> None:
    charge, pos, velocity = nbody.draw_initial_states(50, seed=1)
    _, later = nbody.simulate(charge, pos, velocity, frames=3)
    drift = np.abs(later[-1].sum(1) - velocity.sum(1)).max(axis=1)
    assert np.median(drift) < 1e-12


def test_two_equal_charges_part_along_their_line() -> None:
    """Energy of the pair, ½ v² of each + 1/r, is kept to the order of the time step."""
    pos = np.array([[[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]])
    frames, velocity = nbody.simulate(np.ones((1, 2)), pos, np.zeros_like(pos), frames=20)
    gap = frames[-1, 0, 1, 0] - frames[-1, 0, 0, 0]
    assert abs(np.square(velocity[-1]).sum() / 2 + 1 / gap - 1.0) < 2e-3
    assert np.abs(frames[:, 0, :, 1:]).max() == 0.0


def test_systems_do_not_see_each_other() -> None:
    charge, pos, velocity = nbody.draw_initial_states(4, seed=3)
    together, _ = nbody.simulate(charge, pos, velocity, frames=2)
    alone, _ = nbody.simulate(charge[2:3], pos[2:3], velocity[2:3], frames=2)
    np.testing.assert_array_equal(together[:, 2], alone[:, 0])


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A benchmark of a few systems over a few frames, in a cache of its own."""
    monkeypatch.setattr(nbody, "PARTS", {"train": (0, 4), "valid": (6, 2), "test": (8, 3)})
    monkeypatch.setitem(nbody.VARIANTS, "nbody/charged5", nbody.NBodyVariant(start=1, end=2, frequency=5))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GEOMOL_DATA", raising=False)
    return tmp_path / "geomol" / "nbody" / "charged5.npz"


def test_the_set_is_made_once_and_read_back_bit_by_bit(short: Path) -> None:
    made = nbody.load_nbody()
    assert short.is_file()
    assert len(list(short.parent.iterdir())) == 1
    read = nbody.load_nbody()
    assert made.content_hash() == read.content_hash()
    assert [len(read.split(part)) for part in ("train", "valid", "test")] == [4, 2, 3]
    assert not np.array_equal(made.pos, made.target)


def test_parts_skip_the_systems_that_the_published_generator_drew_and_did_not_use(short: Path) -> None:
    charge, pos, velocity = nbody.draw_initial_states(11, seed=43, frequency=5)
    frames, _ = nbody.simulate(charge, pos, velocity, frames=3, frequency=5)
    np.testing.assert_array_equal(nbody.load_nbody().split("valid").pos, frames[1, 6:8])


def test_a_damaged_file_is_named(short: Path) -> None:
    nbody.load_nbody()
    short.write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="not an n-body data set"):
        nbody.load_nbody()


def test_unknown_variants_and_parts_are_named(short: Path) -> None:
    with pytest.raises(ConfigError, match="no n-body data set"):
        nbody.load_nbody("nbody/charged6")
    with pytest.raises(ConfigError, match='no part "tset"'):
        nbody.load_nbody().split("tset")
