"""FAENet's corners, calibration, settings and inputs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

from geomol import checks
from geomol.errors import ConfigError, InputError, ModelDomainError
from geomol.graph import Graph, build_graph
from geomol.models.faenet import FAENet
from geomol.models.faenet_inputs import period_and_group
from geomol.models.faenet_published import published_settings
from tests.models.faenet_variants import ELEMENTS, energies, every_variant, make, potential_of

# corners


@every_variant
def test_isolated_atoms_have_an_energy_and_no_forces(variant: str) -> None:
    potential = potential_of(make(variant))
    far = Atoms("HOH", [[0, 0, 0], [0, 0, 50], [0, 50, 0]])
    graph = build_graph([Atoms("H"), far], potential.cutoff)
    assert graph.num_edges == 0
    out = potential(graph, create_graph=True)
    assert out.forces is not None
    assert bool(torch.isfinite(out.energy).all())
    assert bool((out.forces == 0).all())
    assert out.node_energy[1] == out.node_energy[0]


def test_coincident_atoms_give_finite_derivatives() -> None:
    """Structures with coincident atoms are refused, but a step of a simulation or a sampler may come close."""
    model = make()
    graph = build_graph(Atoms("CO", [[0, 0, 0], [0, 0, 1.0]]), model.cutoff)
    pos = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(graph.replace(pos=pos)).scalars.sum(), pos)
    assert bool(torch.isfinite(gradient).all())


def test_float32_weights_with_float64_positions_agree_to_float32_accuracy() -> None:
    model = make()
    atoms = checks.disordered_molecules(1)[0]
    exact = checks.forces_of(potential_of(model), atoms)
    potential = potential_of(model).float()
    out = potential(build_graph(atoms, model.cutoff))
    assert out.energy.dtype == torch.float64
    assert np.abs(checks.forces_of(potential, atoms) - exact).max() < 1e-4 * (1 + np.abs(exact).max())
    assert checks.translation_error(potential, atoms, 1e6) < 1e-5


def test_calibration_gives_layers_outputs_of_unit_spread() -> None:
    torch.manual_seed(0)
    model = FAENet(elements=ELEMENTS).double()
    graph = build_graph(checks.disordered_molecules(8), model.cutoff)
    spreads: dict[str, float] = {}

    def record(name: str) -> Any:
        return lambda module, inputs, output: spreads.__setitem__(name, float(output.detach().std()))

    hooks = [
        module.register_forward_hook(record(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    model(graph)
    assert min(spreads.values()) < 0.5, "nothing to calibrate"
    model.calibrate(graph)
    model(graph)
    for hook in hooks:
        hook.remove()
    del spreads["readout.out"]
    assert list(spreads.values()) == pytest.approx([1.0] * len(spreads), rel=1e-6)


# settings and inputs


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [("oc20-is2re", 4_147_731), ("oc20-s2ef", 5_742_485), ("qm9", 6_494_673), ("qm7x", 7_105_033)],
)
def test_published_settings_have_the_published_number_of_parameters(name: str, num_parameters: int) -> None:
    settings = published_settings(name)
    if name in ("oc20-is2re", "qm7x"):
        settings["properties"] = [[0.0] * 14] * 85
    assert sum(p.numel() for p in FAENet(**settings).parameters()) == num_parameters


@every_variant
def test_config_rebuilds_the_model(variant: str) -> None:
    model = make(variant, properties=[[0.1 * z, 1.0] for z in ELEMENTS])
    copy = FAENet(**json.loads(json.dumps(model.config))).double()
    copy.load_state_dict(model.state_dict())
    atoms = checks.disordered_molecules(1)[0]
    assert energies(copy, atoms) == energies(model, atoms)
    assert copy.config == model.config


def test_properties_reach_the_nodes_of_their_element() -> None:
    one, other = ([[0.1 * z] if z != 8 else [value] for z in ELEMENTS] for value in (1.0, 2.0))
    before, after = make(properties=one), make(properties=other)
    water, methane = molecule("H2O"), molecule("CH4")
    assert abs(energies(before, water) - energies(after, water)) > 1e-4
    assert energies(before, methane) == energies(after, methane)


@pytest.mark.parametrize(
    ("number", "place"),
    [
        (1, (1, 1)),
        (2, (1, 18)),
        (4, (2, 2)),
        (5, (2, 13)),
        (21, (4, 3)),
        (36, (4, 18)),
        (57, (6, 3)),
        (58, (6, 19)),
        (71, (6, 19)),
        (72, (6, 4)),
        (86, (6, 18)),
        (103, (7, 19)),
        (118, (7, 18)),
    ],
)
def test_period_and_group_of_an_element(number: int, place: tuple[int, int]) -> None:
    assert period_and_group(number) == place


def with_inputs(scalars: Tensor | None = None, vectors: Tensor | None = None) -> Graph:
    graph = build_graph(molecule("H2O"), 4.0)
    return graph.replace(node_scalars=scalars, node_vectors=vectors)


def test_scalars_vectors_and_tags_of_the_graph_are_read() -> None:
    model = make(in_scalars=2, in_vectors=1, tag_channels=3)
    gen = torch.Generator().manual_seed(0)
    charge, velocity = torch.randn(3, 1, generator=gen).double(), torch.randn(3, 1, 3, generator=gen).double()
    tag = torch.tensor([[0.0], [1.0], [2.0]]).double()
    first = model(with_inputs(torch.cat([charge, tag], 1), velocity)).scalars
    for scalars, vectors in (
        (torch.cat([charge + 0.1, tag], 1), velocity),
        (torch.cat([charge, tag.flip(0)], 1), velocity),
        (torch.cat([charge, tag], 1), -velocity),
    ):
        assert (model(with_inputs(scalars, vectors)).scalars - first).abs().max() > 1e-4
    with pytest.raises(InputError, match="tags are the last column"):
        model(with_inputs(torch.cat([charge, tag + 0.5], 1), velocity))
    with pytest.raises(ConfigError, match="`node_scalars` does not fit the model, expected 2 columns, got 0"):
        model(with_inputs(None, velocity))
    with pytest.raises(ConfigError, match="`node_vectors` does not fit the model, expected 1 columns, got 0"):
        model(with_inputs(torch.cat([charge, tag], 1)))


def test_complete_graphs_need_no_cutoff() -> None:
    model = make(cutoff=float("inf"), envelope=False, radial_range=6.0)
    assert model.symmetry.smooth
    graph = build_graph(Atoms("CO", [[0, 0, 0], [0, 0, 30.0]]), model.cutoff, complete=True)
    assert bool(torch.isfinite(model(graph).scalars).all())


def test_an_element_outside_the_model_is_refused() -> None:
    with pytest.raises(ModelDomainError, match=r"element outside the model.*got \[92\]"):
        make()(build_graph(Atoms("U"), 4.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"message": "updown"}, "unknown message, expected simple or base"),
        ({"skip": "dense"}, "unknown skip"),
        ({"atom_weights": "mean"}, "unknown atom_weights"),
        ({"vector_head": "linear"}, "unknown vector_head"),
        ({"vector_norm": "graph"}, "unknown vector_norm"),
        ({"cutoff": -1.0}, "cutoff must be positive"),
        ({"cutoff": float("inf")}, "the envelope needs a cutoff"),
        ({"cutoff": float("inf"), "envelope": False}, "the Gaussians need a finite range"),
        ({"num_radial": 1}, "num_radial must be at least 2"),
        ({"out_scalars": 0}, "out_scalars must be at least 1"),
        ({"out_vectors": 2}, "out_vectors 0 or 1"),
        ({"tag_channels": 4}, "tag_channels needs the tag"),
        ({"message": "simple", "filters": 8}, "needs filters = channels"),
        ({"period_group_channels": 8}, "no channels left for the element table, expected channels > 16, got 16"),
        ({"properties": [[1.0]]}, "`properties` needs one row per element"),
        ({"elements": [1, 1]}, "elements must be distinct"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_unknown_published_settings_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r'no published settings "qm8".*did you mean "qm9"'):
        published_settings("qm8")
