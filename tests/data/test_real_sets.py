"""The public benchmark sets in their compact form: sizes as published, units right, splits whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from geomol.data import check_splits, load_qm9, load_structures, official_split, unlikely_units, write_extxyz
from geomol.data.unit_check import energy_force_slope
from geomol.errors import ConfigError


@pytest.fixture
def real(benchmark_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GEOMOL_DATA", str(benchmark_data))
    return benchmark_data


@pytest.mark.parametrize(
    ("name", "structures", "elements", "stress"),
    [
        ("3bpa", 877, [1, 6, 7, 8], False),
        ("acac", 2360, [1, 6, 8], False),
        ("water", 400, [1, 8], False),
        ("mlearn/Si", 239, [14], True),
        ("mlearn/Cu", 31, [29], True),
        ("fitsnap/Ta", 363, [73], True),
        ("fitsnap/WBe", 5000, [4, 74], False),
        ("rmd17/uracil", 9633, [1, 6, 7, 8], False),
    ],
)
def test_every_compact_set_loads_whole_and_without_a_warning(real, name, structures, elements, stress):
    loaded = load_structures(name)
    assert len(loaded) == structures
    assert loaded.elements() == elements
    assert loaded.labelled("energy").all()
    assert (loaded.stress is not None) == stress
    assert unlikely_units(loaded) is None
    assert str(real) not in loaded.source


def test_official_rmd17_splits_are_whole_and_disjoint(real):
    ethanol = load_structures("rmd17/ethanol")
    for k in range(1, 5):
        split = official_split(ethanol, k)
        assert {name: len(rows) for name, rows in split.items()} == {"train": 950, "valid": 50, "test": 1000}
        check_splits(split, len(ethanol))
    with pytest.raises(ConfigError, match="test_5 missing"):
        official_split(ethanol, 5)


def test_energies_and_forces_of_a_real_set_are_in_the_same_units(real):
    assert energy_force_slope(load_structures("rmd17/naphthalene").subset(slice(0, 400))) == pytest.approx(1, abs=0.1)


def test_named_splits_have_the_published_sizes(real):
    silicon = load_structures("mlearn/Si")
    assert (len(silicon.split("train")), len(silicon.split("test"))) == (214, 25)
    acac = load_structures("acac")
    assert acac.split("train_300K").labelled("forces").all()
    assert not acac.split("test_dihedral").labelled("forces").any()
    assert len(load_structures("3bpa").isolated_energies) == 4


def test_a_real_periodic_set_survives_the_way_through_extxyz(real, tmp_path):
    silicon = load_structures("mlearn/Si").split("test")
    back = load_structures(write_extxyz(tmp_path / "si.extxyz", silicon))
    for key in ("numbers", "pos", "cell", "pbc", "energy", "forces", "stress"):
        np.testing.assert_allclose(getattr(back, key), getattr(silicon, key), atol=6e-11, rtol=1e-14, err_msg=key)


def test_qm9_comes_with_its_targets(real):
    structures, table = load_qm9()
    assert len(structures) == len(table.values) == 126_744
    known = ~np.isnan(table.column("gap"))
    gap = table.column("lumo") - table.column("homo")
    both = known & ~np.isnan(gap)
    assert both.sum() > 80_000
    np.testing.assert_allclose(gap[both], table.column("gap")[both], atol=0.006)
    methane = int(np.flatnonzero(table.ids == 1)[0])
    assert sorted(structures.subset([methane]).numbers.tolist()) == [1, 1, 1, 1, 6]
    with pytest.raises(ConfigError, match=r'unknown target "gapp"; did you mean "gap"'):
        table.column("gapp")
