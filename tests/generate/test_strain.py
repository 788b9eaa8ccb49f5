"""Strain of a set: failures stay in the denominator, quantiles and changes are those of the definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from geomol.data.units import KCAL_PER_MOL
from geomol.errors import InputError
from geomol.generate.relaxation import Limits, Progress, Relaxation, recorded
from geomol.generate.strain import quantile, summarise

WATER = np.array([8, 1, 1]), np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])


def relaxed(strain_kcal: float, *, stretch: float = 0.0, method: str = "MMFF94") -> Relaxation:
    """Water that gives off this much energy, its first O-H bond longer by `stretch` afterwards."""
    numbers, pos = WATER
    after = pos + np.array([[0, 0, 0], [stretch, 0, 0], [0, 0, 0]])

    def run(progress: Progress, until: float) -> None:
        progress.pos, progress.energy_before, progress.energy = after, 1.0, 1.0 - strain_kcal * KCAL_PER_MOL
        progress.converged, progress.steps = True, 5

    return recorded(method, numbers, pos, run, Limits())


def failed(reason: str = "no valid molecule") -> Relaxation:
    def run(progress: Progress, until: float) -> None:
        raise InputError(reason)

    return recorded("MMFF94", *WATER, run, Limits())


def test_failures_are_infinite_strain_and_stay_in_every_denominator():
    summary = summarise([relaxed(2), relaxed(4), relaxed(6), failed("first"), failed("second"), failed("second")])
    assert (summary.molecules, summary.converged, summary.bonds_kept) == (6, 3, 3)
    assert summary.median == np.inf  # half of them failed
    assert summary.mean_of_converged == pytest.approx(4)
    assert summary.median_of_kept == pytest.approx(4)
    assert summary.failures == (("second", 2), ("first", 1))
    figures = summary.figures()
    assert figures["mmff_converged_share"] == figures["mmff_bonds_kept_share"] == 0.5
    assert figures["mmff_strain_q25_kcal_per_mol"] == pytest.approx(4.5)
    assert figures["mmff_strain_q95_kcal_per_mol"] == np.inf
    five = summarise([relaxed(2), relaxed(4), relaxed(6), failed(), failed()])
    assert five.median == pytest.approx(6)  # without the failures it would be 4
    assert all(isinstance(value, float) for value in figures.values())


def test_a_relaxation_that_ran_out_of_steps_is_a_failure_whatever_it_released():
    unfinished = dataclasses.replace(relaxed(3), converged=False, failure="not converged in 500 steps")
    summary = summarise([relaxed(1), unfinished, unfinished])
    assert summary.median == np.inf
    assert summary.figures()["mmff_converged_share"] == pytest.approx(1 / 3)


def test_broken_bonds_and_changed_orders_are_counted():
    kept, longer, broken = relaxed(1), relaxed(2, stretch=0.15), relaxed(90, stretch=1.5)
    assert (kept.bonds_kept, longer.bonds_kept, broken.bonds_kept) == (True, True, False)
    assert (kept.edm_orders_kept, longer.edm_orders_kept) == (True, False)  # O-H ends at 1.06 Å in EDM's table
    summary = summarise([kept, longer, broken])
    assert summary.bonds_kept == 2
    assert summary.edm_orders_kept == 1
    assert summary.median_of_kept == pytest.approx(1.5)
    # of the four bonds and two angles that were kept, one bond became longer by 0.15 Å
    assert dict(summary.change)["length_mean_change_A"] == pytest.approx(0.15 / 4)
    assert dict(summary.change)["angle_mean_change_deg"] == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(dict(summary.change)["torsion_mean_change_deg"])


def test_quantiles_are_those_of_numpy_and_hold_infinities():
    values = np.random.default_rng(0).normal(size=31)
    for level in (0.0, 0.25, 0.5, 0.77, 1.0):
        assert quantile(values, level) == pytest.approx(np.quantile(values, level))
    assert quantile(np.array([1, 2, np.inf]), 0.5) == 2
    assert quantile(np.array([1, np.inf, np.inf]), 0.5) == np.inf
    assert quantile(np.array([1, 3, np.nan]), 0.5) == 2
    assert np.isnan(quantile(np.array([]), 0.5))


def test_the_same_failure_of_two_atoms_is_one_reason():
    reasons = [failed(f"Explicit valence for atom # {k} C, 5, is greater than permitted") for k in (2, 11)]
    assert summarise(reasons).failures == (("Explicit valence for atom # n C, 5, is greater than permitted", 2),)


def test_nothing_and_mixtures_are_refused():
    with pytest.raises(InputError, match=r"relaxations of one method are summarised, expected one method, got \[\]"):
        summarise([])
    with pytest.raises(InputError, match=r"got \['GFN2-xTB', 'MMFF94'\]"):
        summarise([relaxed(1), relaxed(1, method="GFN2-xTB")])


def test_all_failed_is_said_without_a_warning():
    figures = summarise([failed(), failed()]).figures()
    assert figures["mmff_converged_share"] == 0.0
    assert figures["mmff_strain_median_kcal_per_mol"] == np.inf
    assert figures["mmff_rmsd_median_A"] == np.inf
    assert np.isnan(figures["mmff_strain_mean_of_converged_kcal_per_mol"])


def test_figures_of_one_molecule_carry_both_units():
    figures = relaxed(3).figures()
    assert figures["strain_kcal_per_mol"] == pytest.approx(3)
    assert figures["strain_eV"] == pytest.approx(3 * 0.0433641, rel=1e-5)
    assert figures["energy_before_kcal_per_mol"] == pytest.approx(23.0605, rel=1e-5)
