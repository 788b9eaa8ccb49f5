"""The figures of a command: rounded in the units people read, and unrounded as strict JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from rich.console import Console

from geomol.cli.output import console_for, named_figure, print_figures, write_json
from geomol.errors import OutputError


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("force_mae_eV_per_A", 0.0071234, ("force mae", "7.123", "meV/Å")),
        ("energy_mae_eV", 0.0004, ("energy mae", "0.4", "meV")),
        ("energy_mae_eV_per_atom", 0.0004, ("energy mae", "0.4", "meV/atom")),
        ("drift_eV_per_atom_per_ns", 0.0005, ("drift", "0.5", "meV/atom/ns")),
        ("stress_mae_eV_per_A3", 1 / 160.21766208, ("stress mae", "1", "GPa")),
        ("force_mae_eV_per_A", 1.25, ("force mae", "1.25", "eV/Å")),
        ("potential_eV_mean", -4209.123456, ("potential mean", "-4209.1235", "eV")),
        ("temperature_K_mean_95", 12.0, ("temperature 95 % ±", "12", "K")),
        ("drift_meV_per_atom_per_ns", 0.5, ("drift", "0.5", "meV/atom/ns")),
        ("speed_ns_per_day", 3.25, ("speed", "3.25", "ns/day")),
        ("time_s", 1.5, ("time", "1.5", "s")),
        ("step", 123456.0, ("step", "123456", "")),
        ("structures", 950, ("structures", "950", "")),
        ("angle_cosine", 0.99954, ("angle cosine", "0.9995", "")),
    ],
)
def test_a_figure_is_shown_in_the_unit_people_read(key, value, shown):
    assert named_figure(key, value) == shown


def test_the_json_has_every_digit_and_the_types_of_json(tmp_path):
    path = tmp_path / "figures.json"
    figures = {"a_eV": 0.1 + 0.2, "b": np.float64(1 / 3), "c": np.arange(3), "d": math.nan, "e": {"f": (True, None)}}
    write_json(figures, str(path))
    text = path.read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a_eV": 0.30000000000000004,
        "b": 1 / 3,
        "c": [0, 1, 2],
        "d": None,
        "e": {"f": [True, None]},
    }


def test_a_dash_sends_the_json_to_standard_output_and_the_tables_to_standard_error(capsys):
    console_for("-").print("for people")
    write_json({"a": 1}, "-")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": 1}
    assert captured.err == "for people\n"


def test_no_json_is_written_unless_asked_for(capsys):
    write_json({"a": 1}, None)
    console_for(None).print("for people")
    assert capsys.readouterr().out == "for people\n"


def test_a_json_file_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match=r"no-such-folder.*cannot be written"):
        write_json({"a": 1}, str(tmp_path / "no-such-folder" / "a.json"))


def test_a_table_has_a_line_for_each_figure():
    console = Console(width=80, record=True)
    with console.capture() as capture:
        print_figures(console, {"force_mae_eV_per_A": 0.01, "structures": 3}, title="a[b]")
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines == [["a[b]"], ["force", "mae", "10", "meV/Å"], ["structures", "3"]]
