"""Figures from arrays with known answers: what is written on them, what is drawn, what is kept when thinning."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.io import write
from matplotlib.figure import Figure

from geomol.errors import InputError
from geomol.report import (
    distribution,
    drift_plot,
    element_bars,
    energy_series,
    error_histogram,
    learning_curve,
    parity,
    time_series,
)
from geomol.report.distributions import bond_distribution, radial_distribution
from geomol.report.markup import duration, flatten
from geomol.report.metrics import drift_estimate, element_errors, force_angles
from geomol.report.panels import training_panels
from geomol.report.plots import MAX_POINTS, number, thin
from geomol.report.style import CSS_VARIABLES, to_svg
from geomol.report.trajectory import MAX_BYTES, MAX_FRAMES, read_trajectory, to_json


def texts(figure: Figure) -> str:
    """Everything written inside the axes."""
    (axes,) = figure.axes
    return " ".join(text.get_text() for text in axes.texts)


@pytest.mark.parametrize("count", [200, 4 * MAX_POINTS])
def test_the_parity_plot_states_the_mae_and_rmse_of_numpy(count: int) -> None:
    rng = np.random.default_rng(count)
    reference = rng.normal(size=(count, 3))
    predicted = reference + 0.1 * rng.normal(size=(count, 3))
    figure = parity(reference, predicted, quantity="force", unit="eV/Å", error_unit="meV/Å", error_scale=1e3)
    mae = 1e3 * np.abs(predicted - reference).mean()
    rmse = 1e3 * np.sqrt(((predicted - reference) ** 2).mean())
    assert f"MAE {mae:#.3g} meV/Å" in texts(figure).replace("\n", " ")
    assert f"RMSE {rmse:#.3g} meV/Å" in texts(figure).replace("\n", " ")
    assert f"n = {3 * count:,}" in texts(figure)


def test_many_points_are_drawn_as_a_density_that_counts_every_point() -> None:
    reference = np.random.default_rng(0).normal(size=5 * MAX_POINTS)
    few = parity(reference[:100], reference[:100], quantity="x", unit="eV", error_unit="eV")
    many = parity(reference, reference, quantity="x", unit="eV", error_unit="eV")
    assert few.axes[0].collections
    assert not few.axes[0].images
    assert many.axes[0].images[0].get_array().sum() == reference.size


def test_centring_moves_both_axes_by_the_mean_of_the_reference() -> None:
    reference = np.array([-100.0, -98.0, -96.0])
    figure = parity(reference, reference + 1.0, quantity="energy", unit="eV", error_unit="eV", centre=True)
    offsets = np.asarray(figure.axes[0].collections[0].get_offsets())
    np.testing.assert_allclose(offsets, [[-2, -1], [0, 1], [2, 3]])
    assert "MAE 1.00 eV" in texts(figure)  # the offset of the model is an error and stays one


def test_parity_of_a_constant_or_empty_array_is_drawn() -> None:
    for array in (np.ones(5), np.zeros(3), np.zeros(0), np.full(3, np.nan)):
        to_svg(parity(array, array, quantity="x", unit="eV", error_unit="eV"), prefix="p", label="x")


def test_the_histogram_states_mean_and_spread_of_all_values() -> None:
    values = np.random.default_rng(1).normal(loc=0.3, scale=2.0, size=10_000)
    note = texts(error_histogram(values, xlabel="Error", unit="meV"))
    assert f"mean {values.mean():#.3g} meV" in note
    assert f"std {values.std():#.3g} meV" in note
    assert "20 beyond the axis" in note


def test_element_errors_are_those_of_each_mask() -> None:
    numbers = np.array([6, 1, 1, 8])
    reference = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [2.0, 0, 0]])
    predicted = reference.copy()
    predicted[0, 0], predicted[2] = 1.3, [0.0, 1.0, 0.0]
    rows = element_errors(numbers, reference, predicted)
    assert [row.symbol for row in rows] == ["H", "C", "O"]
    assert [row.atoms for row in rows] == [2, 1, 1]
    np.testing.assert_allclose([row.errors.mae for row in rows], [2 / 6, 0.1, 0.0])
    np.testing.assert_allclose([row.angle for row in rows], [45.0, 0.0, 0.0], atol=1e-12)  # median of 0° and 90°
    heights = [bar.get_height() for bar in element_bars(rows).axes[0].patches]
    np.testing.assert_allclose(heights[:3], [1e3 * row.errors.mae for row in rows])


def test_force_angles_are_accurate_when_small_and_when_opposite() -> None:
    reference = np.array([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0], [0.0, 0, 0]])
    predicted = np.array([[1.0, 1e-9, 0], [-2.0, 0, 0], [0, 3.0, 0], [1.0, 0, 0]])
    angles = force_angles(reference, predicted)
    np.testing.assert_allclose(angles[:3], [np.degrees(1e-9), 180.0, 90.0], rtol=1e-6)
    assert np.isnan(angles[3])


def test_thinning_keeps_every_spike_and_both_ends() -> None:
    x = np.arange(100_000.0)
    y = np.sin(x / 300)
    y[[123, 77_777]] = [9.0, -7.0]
    thin_x, thin_y = thin(x, y)
    assert len(thin_x) <= 1.1 * MAX_POINTS
    assert (thin_y.max(), thin_y.min()) == (9.0, -7.0)
    assert (thin_x[0], thin_x[-1]) == (0.0, 99_999.0)
    assert (np.diff(thin_x) > 0).all()


def test_the_learning_curve_marks_its_lowest_value() -> None:
    step = np.arange(10.0)
    values = np.array([9, 8, 7, 6, 5, 4.5, np.nan, 3.25, 6, 7])
    figure = learning_curve(step, {"MAE": values}, ylabel="Force MAE (meV/Å)", unit="meV/Å", mark_best=True)
    assert "best 3.25 meV/Å\nat step 7" in texts(figure)
    assert figure.axes[0].get_yscale() == "linear"


def test_only_curves_over_a_wide_range_get_a_logarithmic_axis() -> None:
    for last, scale in ((2.0, "linear"), (50.0, "log")):
        figure = learning_curve(np.arange(2.0), {"MAE": np.array([1.0, last])}, ylabel="y")
        assert figure.axes[0].get_yscale() == scale


def test_validation_errors_are_drawn_in_milli_electronvolts() -> None:
    metrics = {"step": np.arange(3.0), "valid_force_mae_eV_per_A": np.array([0.3, 0.2, 0.1])}
    (panel,) = training_panels(metrics)
    np.testing.assert_allclose(panel.figure.axes[0].lines[0].get_ydata(), [300, 200, 100])
    assert panel.figure.axes[0].get_ylabel() == "Force MAE (meV/Å)"


def test_the_drift_line_has_the_slope_of_the_data() -> None:
    time = np.linspace(0, 20_000, 500)
    total = -100.0 + 2.5e-9 * 9 * time  # eV; 2.5 meV/atom/ns for nine atoms
    assert drift_estimate(time, total, 9).value == pytest.approx(2.5, rel=1e-6)  # type: ignore[union-attr]
    line = drift_plot(time, total, num_atoms=9).axes[0].lines[1]
    (x0, x1), (y0, y1) = line.get_xdata(), line.get_ydata()
    assert (y1 - y0) / (x1 - x0) * 1e3 == pytest.approx(2.5, rel=1e-6)  # meV/atom/ps to per ns


def test_series_without_values_are_drawn_empty() -> None:
    time, nothing = np.arange(4.0), np.full(4, np.nan)
    for figure in (
        time_series(time, nothing, ylabel="Temperature", unit="K", target=300.0),
        energy_series(time, nothing, nothing, num_atoms=3),
        drift_plot(time, nothing, num_atoms=3),
        learning_curve(time, {"a": nothing}, ylabel="x", mark_best=True),
        error_histogram(nothing, xlabel="x", unit="eV"),
        element_bars([]),
    ):
        assert to_svg(figure, prefix="p", label="x").startswith("<svg")


def test_names_with_dollar_signs_are_text_not_mathematics() -> None:
    curve = (np.linspace(0, 1, 5), np.ones(5))
    figure = distribution({"$\\frac{": curve, "<b>": curve}, xlabel="$x_{", ylabel="y$$")
    svg = to_svg(figure, prefix="p", label='"<b>')
    assert "$\\frac{" in svg
    assert "<b>" not in svg


def test_an_inlined_figure_has_page_colours_and_no_foreign_address() -> None:
    figure = learning_curve(np.arange(5.0), {"a": np.arange(1.0, 6.0), "b": np.arange(2.0, 7.0)}, ylabel="y")
    svg = to_svg(figure, prefix="q7", label="a curve")
    assert svg.startswith('<svg role="img" aria-label="a curve" viewBox="0 0 ')
    assert "var(--c1)" in svg
    assert not [colour for colour in CSS_VARIABLES if colour in svg.lower()]
    assert "http" not in svg
    assert svg == to_svg(figure, prefix="q7", label="a curve")


def test_the_state_of_matplotlib_is_left_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    to_svg(learning_curve(np.arange(3.0), {"a": np.ones(3)}, ylabel="y"), prefix="p", label="x")
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (11.28, "11.3"), (0.4321, "0.432"), (1234.5, "1,234"), (99.96, "100"), (-2.5, "-2.50"),
     (3e-7, "3.00e-07"),     (np.nan, "not finite"), (1.0, "1.00"), (123.4, "123"), (0.00012345, "0.000123")],
)  # fmt: skip
def test_numbers_are_written_with_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (5.0, ("5.00", "s")),
        (754.2, ("12 min 34", "s")),
        (960.1, ("16", "min")),
        (3600.0, ("1", "h")),
        (4500.0, ("1 h 15", "min")),
        (np.nan, ("not known", "")),
    ],
)
def test_durations_are_written_in_two_units(seconds: float, text: tuple[str, str]) -> None:
    assert duration(seconds) == text


def test_settings_are_flattened_to_dotted_names() -> None:
    nested = {"a": {"b": 1, "c": {"d": None}}, "e": [1, 2], "f": True, "g": {}}
    assert flatten(nested) == {"a.b": "1", "a.c.d": "not set", "e": "[1, 2]", "f": "yes", "g": "{}"}


def test_trajectories_are_thinned_to_the_frame_and_size_budget(tmp_path) -> None:
    path = tmp_path / "long.extxyz"
    rng = np.random.default_rng(0)
    frames = [Atoms("H20", positions=30 * rng.normal(size=(20, 3)), info={"time_fs": 2.0 * i}) for i in range(450)]
    write(path, frames)
    found = read_trajectory(path)
    assert len(found.frame_index) == MAX_FRAMES
    assert (found.frame_index[0], found.frame_index[-1], found.num_frames) == (0, 449, 450)
    assert found.time_fs == [2.0 * i for i in found.frame_index]
    small = read_trajectory(path, max_bytes=20_000)
    assert 1 < len(small.frame_index) < MAX_FRAMES
    assert len(to_json(small)) < 20_000 < MAX_BYTES


@pytest.mark.parametrize(
    ("text", "match"),
    [("", "no complete frame"), ("hello\n", "no complete frame"), ("2\nx\nH 0 0 0\n", "no complete frame"),
     ("1\nx\nQq 0 0 0\n", "a frame that cannot be read"), ("1\n\nH 0 0 nan\n", "not finite"),
     ("1\n\nH 0 0 0\n1\n\nO 0 0 0\n", "the atoms change")],
)  # fmt: skip
def test_trajectories_that_cannot_be_shown_say_why(tmp_path, text: str, match: str) -> None:
    path = tmp_path / "bad.extxyz"
    path.write_text(text)
    with pytest.raises(InputError, match=match):
        read_trajectory(path)


def test_bond_lengths_and_g_of_r_peak_at_the_distances_of_the_structure(tmp_path) -> None:
    from ase.build import bulk, molecule

    rng = np.random.default_rng(5)
    for name, atoms in (("water", molecule("H2O")), ("copper", bulk("Cu", cubic=True) * (3, 3, 3))):
        frames = []
        for _ in range(60 if name == "water" else 8):
            frame = atoms.copy()
            frame.positions += 0.01 * rng.normal(size=frame.positions.shape)
            frames.append(frame)
        write(tmp_path / f"{name}.extxyz", frames)
    bonds = bond_distribution(read_trajectory(tmp_path / "water.extxyz"))
    assert list(bonds) == ["H-O"]
    r, density = bonds["H-O"]
    assert r[density.argmax()] == pytest.approx(molecule("H2O").get_distance(0, 1), abs=0.02)
    assert np.trapezoid(density, r) == pytest.approx(1.0, abs=0.05)
    r, g = radial_distribution(read_trajectory(tmp_path / "copper.extxyz"))["all pairs"]
    assert r[g.argmax()] == pytest.approx(3.61 / np.sqrt(2), abs=0.05)
    assert radial_distribution(read_trajectory(tmp_path / "water.extxyz")) == {}


def test_the_parts_of_a_generators_loss_are_drawn_and_those_that_stay_zero_are_not():
    steps = np.arange(4.0)
    parts = {"positions": 1 / (1 + steps), "positions_low": 0.5 / (1 + steps), "types": 0.3 / (1 + steps)}
    metrics = {"step": steps, "valid_bonds": 0 * steps, **{f"valid_{name}": values for name, values in parts.items()}}
    (panel,) = training_panels(metrics)
    assert panel.name == "valid_denoising"
    lines = {line.get_label(): line.get_ydata() for line in panel.figure.axes[0].get_lines()}
    for name, values in zip(("positions", "positions, low noise", "elements"), parts.values(), strict=True):
        np.testing.assert_array_equal(lines[name], values)
    assert "bonds" not in lines
