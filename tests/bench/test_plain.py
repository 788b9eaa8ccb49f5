"""The plain forms, typed from the papers' equations, are an independent witness of the fast ones."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk, molecule

from geomol.bench import has_plain_form, plain_potential
from geomol.errors import ConfigError
from geomol.graph import build_graph
from geomol.models import EGNN, Morse, PaiNN, Ponita
from geomol.potential import Potential

BACKBONES = {
    "egnn": lambda: EGNN(elements=[1, 6, 8, 29], channels=12, num_layers=3, cutoff=4.0),
    "egnn, gated": lambda: EGNN(elements=[1, 6, 8, 29], channels=12, num_layers=2, cutoff=4.0, attention=True),
    "painn": lambda: PaiNN(elements=[1, 6, 8, 29], channels=12, num_layers=3, cutoff=4.0, message_scale=0.3),
    "painn, published": lambda: PaiNN(
        elements=[1, 6, 8, 29], channels=12, cutoff=4.0, envelope="cosine", softness=1e-4
    ),
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


def test_models_without_a_plain_form_say_so() -> None:
    assert not has_plain_form(Potential(Morse(), elements=[29], e0=[0.0]))
    assert not has_plain_form(Potential(Ponita(elements=[1], kernel="polynomial"), elements=[1], e0=[0.0]))
    assert has_plain_form(Potential(Ponita(elements=[1]), elements=[1], e0=[0.0]))
    with pytest.raises(ConfigError, match="no plain form of Morse"):
        plain_potential(Potential(Morse(), elements=[29], e0=[0.0]))
    with pytest.raises(ConfigError, match="no plain form of this PONITA"):
        plain_potential(Potential(Ponita(elements=[1], kernel="polynomial"), elements=[1], e0=[0.0]))
