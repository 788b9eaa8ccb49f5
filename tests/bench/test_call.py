"""A time counts if the model passes its gates; a wrong model, form or result has no ratio."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from geomol.bench import CallReport, measure_call, measure_drift, plain_potential
from geomol.bench.call import _timed
from geomol.bench.gates import check_form, check_model, in_float64
from geomol.bench.roofline import Machine
from geomol.checkpoint import save_model
from geomol.cli import main
from geomol.errors import ConfigError, InputError
from geomol.graph import build_graph
from geomol.md import GeomolCalculator
from geomol.models import EGNN, MPNN, Morse, Ponita, Symmetry
from geomol.potential import Potential, Prediction


@pytest.fixture(autouse=True)
def same_weights() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def made(backbone: torch.nn.Module) -> Potential:
    return Potential(backbone, elements=[1, 6, 8], e0=[-13.0, -1000.0, -2000.0])


def egnn() -> Potential:
    return made(EGNN(elements=[1, 6, 8], channels=12, num_layers=2, cutoff=4.0))


def ethanol() -> Atoms:
    atoms: Atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=0)
    return atoms


def report_of(potential: Potential, atoms: Atoms | None = None, **options: Any) -> CallReport:
    return measure_call(potential, atoms or ethanol(), rounds=3, warmup=1, repeats=3, **options)


def test_forms_and_stages_are_timed_and_the_gates_hold() -> None:
    potential = egnn().train()
    report = report_of(potential)
    assert potential.training  # as it was
    assert potential.backbone.training
    assert [form.name for form in report.forms] == ["plain", "eager"]
    assert report.forms[0].ratio == 1.0
    assert report.forms[1].ratio is not None
    assert {t.stage for t in report.stages} == {"neighbour list", "forward", "backward", "overhead of ASE"}
    assert report.num_edges == build_graph(ethanol(), 4.0).num_edges
    assert report.failed == []
    assert report.gates.gradient_error < 1e-5
    assert report.gates.rotation_error < 1e-10
    for form in report.forms:
        assert form.gates.other_bits == 0
        assert 0 < form.gates.force_rms_eV_per_A < 1e-4 * report.gates.rms_force
        assert form.gates.force_rms_eV_per_A <= form.gates.force_max_eV_per_A
    assert json.loads(json.dumps(report.figures()))["forms"][1]["name"] == "eager"
    assert report_of(egnn().double()).forms[1].gates.force_max_eV_per_A < 1e-12


def test_tables_are_forms_of_their_own() -> None:
    backbone = Ponita(
        elements=[1, 6, 8], channels=4, num_layers=1, kernel="polynomial", basis_dim=4, orientations="none", cutoff=4.0
    )
    report = report_of(made(backbone), tables=True)
    assert [form.name for form in report.forms] == ["eager", "eager, tables"]
    assert not report.failed
    tables = report.forms[1].gates
    assert 0 < tables.force_max_eV_per_A < 1e-4


def test_a_structure_at_rest_is_refused() -> None:
    """Errors are told relative to its forces."""
    morse = Potential(Morse(elements=[29], cutoff=5.0), elements=[29], e0=[0.0])
    for potential, atoms in ((morse, bulk("Cu", cubic=True)), (egnn(), Atoms("H", [[0.0, 0, 0]]))):
        with pytest.raises(InputError, match=f"the structure is at rest.*for {len(atoms)} atoms; displace its atoms"):
            report_of(potential, atoms)


def test_a_plain_form_accepts_what_its_model_accepts() -> None:
    backbone = EGNN(elements=[1, 6, 8], channels=4, num_layers=1, cutoff=4.0)
    backbone.symmetry = dataclasses.replace(backbone.symmetry, smooth=False)
    potential = Potential(backbone, elements=[1, 6, 8], e0=[0.0] * 3, allow_discontinuous=True)
    assert plain_potential(potential).allow_discontinuous


def test_the_digits_of_products_are_set_for_the_measurement_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        "geomol.bench.call.measure_machine",
        lambda *args: seen.append(torch.get_float32_matmul_precision()) or Machine(1e9, 1e9),
    )
    monkeypatch.setattr(
        "geomol.bench.call._times",
        lambda p, c, *args: seen.append(torch.get_float32_matmul_precision()) or {f"ASE call, {k}": [1.0] for k in c},
    )
    assert report_of(egnn(), products="high").products == "high"
    assert seen == ["high", "highest"]
    with pytest.raises(ConfigError, match="unknown precision of products"):
        report_of(egnn(), products="low")
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_form_of_another_function_has_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(p: Potential) -> Potential:
        other = plain_potential(p)
        other.scale_value = 1.01
        return other

    monkeypatch.setattr("geomol.bench.call.plain_potential", wrong)
    report = report_of(egnn())
    assert report.failed == ["plain: the forces are not those of float64"]
    assert [form.ratio is None for form in report.forms] == [True, False]


class Crooked(Potential):
    """Forces that are the gradient and one percent."""

    def forward(self, *args: Any, **options: Any) -> Prediction:
        out = super().forward(*args, **options)
        return dataclasses.replace(out, forces=None if out.forces is None else 1.01 * out.forces)


def test_forces_that_are_no_gradient_leave_no_ratio_at_all() -> None:
    crooked = Crooked(egnn().backbone, elements=[1, 6, 8], e0=[0.0] * 3)
    report = report_of(crooked)
    assert "the forces are not the gradient of the energy" in report.failed
    assert report.gates.gradient_error == pytest.approx(0.01, rel=2)
    assert all(form.ratio is None for form in report.forms)


def test_an_energy_that_turns_fails_where_it_was_claimed_not_to() -> None:
    potential = made(MPNN(elements=[1, 6, 8], channels=8, num_layers=2, cutoff=4.0)).double()
    gates = check_model(potential, ethanol())
    assert gates.rotation_error > 1e-3
    assert not gates.is_exact
    assert gates.failed == []
    potential.backbone.symmetry = Symmetry(group="E(3)", exact=True, smooth=True, separable=True)  # type: ignore[assignment]
    assert check_model(potential, ethanol()).failed == ["the energy changes with the pose"]


def test_calls_that_differ_are_counted() -> None:
    class Restless(GeomolCalculator):
        calls = 0

        def calculate(self, *args: Any, **options: Any) -> None:
            super().calculate(*args, **options)
            Restless.calls += 1
            self.results["forces"] = self.results["forces"] * (1 + 1e-7 * (Restless.calls > 3))

    potential = egnn()
    gates = check_form(Restless(potential), in_float64(potential), ethanol(), repeats=5)
    assert gates.other_bits == 3
    assert gates.failed(1.0) == ["calls give different bits"]


def test_dynamics_keep_their_energy_and_stop_in_time() -> None:
    crystal = bulk("Cu", cubic=True) * 2
    crystal.rattle(0.05, seed=0)
    potential = Potential(Morse(elements=[29], cutoff=5.0), elements=[29], e0=[0.0]).double()
    drift, steps = measure_drift(GeomolCalculator(potential), crystal, steps=60)
    assert steps == 60
    assert abs(drift.value) < 1000  # meV per atom per ns: a thousandth of a meV in this run
    assert measure_drift(GeomolCalculator(potential), crystal, steps=60, seconds=0.0)[1] == 20
    crooked = Crooked(Morse(elements=[29], cutoff=5.0), elements=[29], e0=[0.0]).double()
    crooked_drift, _ = measure_drift(GeomolCalculator(crooked), crystal, steps=60)
    assert abs(crooked_drift.value) > 10 * abs(drift.value)


def test_the_command_writes_a_page_figures_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, structure = tmp_path / "model.safetensors", tmp_path / "ethanol.xyz"
    save_model(path, egnn(), provenance={"data": "none"}, errors={}, symmetry={})
    ethanol().write(structure)
    words = ["bench", "cost", str(path), str(structure), "--rounds", "3", "--drift", "-o", str(tmp_path / "out")]
    assert main([*words, "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "out" / "cost.json").read_text())
    assert told["failed"] == []
    assert np.isfinite(told["drift_meV_per_atom_ns"])
    page = (tmp_path / "out" / "cost.md").read_text()
    assert "| plain |" in page
    assert "0 of 100" in page
    assert (tmp_path / "out" / "cost.png").stat().st_size > 5000


def test_the_command_fails_with_its_gates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, structure = tmp_path / "model.safetensors", tmp_path / "ethanol.xyz"
    save_model(path, egnn(), provenance={"data": "none"}, errors={}, symmetry={})
    ethanol().write(structure)
    monkeypatch.setattr("geomol.bench.gates.LARGEST_GRADIENT_ERROR", 0.0)
    assert main(["bench", "cost", str(path), str(structure), "--rounds", "3"]) == 1
    assert "the forces are not the gradient of the energy" in " ".join(capsys.readouterr().out.split())


def test_stages_wait_for_the_device_of_the_model_and_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waited.append(device))
    for name, expected in (("cpu", []), ("cuda:1", [torch.device("cuda:1")])):
        seconds, result = _timed(lambda: 3, torch.device(name))
        assert result == 3
        assert seconds >= 0
        assert waited == expected
