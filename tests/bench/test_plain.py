"""The plain forms, typed from the papers' equations, are an independent witness of the fast ones."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk, molecule

from geomol.bench import measure_stages, plain_potential
from geomol.bench.stages import _timed
from geomol.errors import ConfigError, GeomolError
from geomol.graph import build_graph
from geomol.models import EGNN, Morse, Ponita
from geomol.potential import Potential

BACKBONES = {
    "egnn": lambda: EGNN(elements=[1, 6, 8, 29], channels=12, num_layers=3, cutoff=4.0),
    "egnn, gated": lambda: EGNN(elements=[1, 6, 8, 29], channels=12, num_layers=2, cutoff=4.0, attention=True),
    "ponita": lambda: Ponita(elements=[1, 6, 8, 29], channels=12, num_layers=3, cutoff=4.0),
    "ponita, last readout": lambda: Ponita(
        elements=[1, 6, 8, 29], channels=12, num_layers=2, cutoff=4.0, readout_every_block=False, layer_scale=0.3
    ),
    "pnita": lambda: Ponita(elements=[1, 6, 8, 29], channels=12, num_layers=3, cutoff=4.0, orientations="none"),
}


@pytest.fixture(params=list(BACKBONES))
def potential(request: pytest.FixtureRequest) -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Potential(BACKBONES[request.param](), elements=[1, 6, 8, 29], e0=[0.0] * 4).double()


def test_plain_and_fast_forms_agree_in_energy_forces_and_stress(potential: Potential) -> None:
    atoms = molecule("CH3CH2OH")
    atoms.center(vacuum=3.0)
    atoms.pbc = True
    graph = build_graph([atoms, bulk("Cu", cubic=True)], potential.cutoff)
    fast, plain = (p(graph, stress=True) for p in (potential, plain_potential(potential)))
    for name in ("energy", "node_energy", "forces", "stress"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), atol=1e-11, rtol=1e-10)
    assert fast.forces.abs().max() > 1e-4


def test_stages_are_timed_after_the_forces_were_compared(potential: Potential) -> None:
    report = measure_stages(potential.float(), molecule("CH3CH2OH"), rounds=3, warmup=1)
    assert {t.stage for t in report.stages} >= {"neighbour list", "forward", "backward", "ASE call", "ASE call, plain"}
    assert report.num_edges == build_graph(molecule("CH3CH2OH"), 4.0).num_edges
    assert report.ratio > 0
    assert report.figures()["forward_median_s"] > 0


def test_a_benchmark_of_different_functions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without agreement there is no ratio."""
    potential = Potential(BACKBONES["egnn"](), elements=[1, 6, 8, 29], e0=[0.0] * 4)

    def wrong(p: Potential) -> Potential:
        other = plain_potential(p)
        other.scale_value = 2.0
        return other

    monkeypatch.setattr("geomol.bench.stages.plain_potential", wrong)
    with pytest.raises(GeomolError, match="other forces"):
        measure_stages(potential, molecule("CH3CH2OH"), rounds=3)


def test_models_without_a_plain_form_say_so() -> None:
    with pytest.raises(ConfigError, match="no plain form of Morse"):
        plain_potential(Potential(Morse(), elements=[29], e0=[0.0]))
    with pytest.raises(ConfigError, match="no plain form of this PONITA"):
        plain_potential(Potential(Ponita(elements=[1], kernel="polynomial"), elements=[1], e0=[0.0]))


def test_stages_wait_for_the_device_of_the_model_and_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waited.append(device))
    for name, expected in (("cpu", []), ("cuda:1", [torch.device("cuda:1")])):
        seconds, result = _timed(lambda: 3, torch.device(name))
        assert result == 3
        assert seconds >= 0
        assert waited == expected
