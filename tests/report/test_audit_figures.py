"""Figures of an audit: labels of long targets stay inside, and pure numbers have no unit."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from geomol.report.audit_page import _sizes
from geomol.report.audit_panels import quantity, with_unit
from geomol.report.audit_plots import ladder, orbit_curves, orbit_heatmap, pose_errors, sphere_map
from geomol.report.style import label_axes, new_figure

LONG = "isotropic_polarisability_of_the_neutral_molecule"


def sticks_out(figure: Figure) -> list[str]:
    """Texts that are cut at the edge of the figure."""
    figure.draw_without_rendering()
    box = figure.bbox
    texts = [text for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label)]
    texts += [text for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    extents = [(text.get_text(), text.get_window_extent()) for text in texts]
    return [
        words
        for words, at in extents
        if words and (at.x0 < box.x0 or at.y0 < box.y0 or at.x1 > box.x1 or at.y1 > box.y1)
    ]


@pytest.mark.parametrize("name", ["forces", "mp2_dipole", LONG])
def test_labels_stay_inside_however_long_the_target_is(name: str) -> None:
    table = np.random.default_rng(0).random((4, 24))
    directions = np.eye(3)
    figures = [
        orbit_curves(np.arange(24) * 15.0, table, ylabel=f"Error of the {name} (spreads)"),
        pose_errors(table.mean(0), table, ylabel=f"Error of the {name} against consensus (spreads)"),
        sphere_map(directions, table[0, :3], label=f"{name} error (spreads)"),
        orbit_heatmap([("rotations", table), ("reflections", table)], scale=1.0, label="relative error"),
        ladder([(f"motion {m}", f"{name} {k}", 1e-8, 1e-6, "pass") for k in range(5) for m in range(9)]),
    ]
    assert [sticks_out(figure) for figure in figures] == [[]] * len(figures)


def test_an_unbroken_label_would_stick_out() -> None:
    """Control: the length that is too much in one line."""
    figure, axes = new_figure(height=3.2)
    axes.set_ylabel(f"Error of the {LONG} against consensus (spreads)")
    assert sticks_out(figure)
    label_axes(axes, "", "Error of the forces")
    assert "\n" not in axes.get_ylabel()


def test_rounding_is_not_shown_as_a_difference_of_poses() -> None:
    table = 1e-15 * np.random.default_rng(0).random((4, 6))
    flat = pose_errors(table.mean(0), table, ylabel="Error", floor=1e-6)
    assert flat.axes[0].get_ylim()[1] > 1e-6
    assert [text.get_text() for text in flat.axes[0].texts] == ["no error beyond rounding"]
    steep = pose_errors(1e9 * table.mean(0), 1e9 * table, ylabel="Error", floor=1e-9)
    assert "% of the mean" in steep.axes[0].texts[0].get_text()


def test_pure_numbers_have_no_unit() -> None:
    assert (with_unit("mean error", ""), with_unit("mean error", "eV")) == ("mean error", "mean error (eV)")
    assert (quantity(1.5, ""), quantity(1.5, "eV")) == ("1.50", "1.50 eV")


def test_of_many_outputs_the_largest_error_is_named() -> None:
    assert _sizes({"energy": 1e-9, "forces": 2e-3}) == "1.0e-09 of the energy, 0.0020 of the forces"
    assert _sizes({"a": 0.01, "b": 0.03, "c": 0.02}) == "at most 0.030, of the b"
    assert _sizes({}) == "–"
