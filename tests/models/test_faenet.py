"""FAENet in potentials: smooth, conservative, separable, and without rotational symmetry; its settings and inputs."""

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
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph
from geomol.models.faenet import FAENet
from geomol.models.faenet_inputs import period_and_group
from geomol.models.faenet_layers import MESSAGES
from geomol.models.faenet_published import published_settings
from geomol.potential import Potential

ELEMENTS = [1, 6, 7, 8, 11, 14, 17, 26, 29]
VARIANTS: dict[str, dict[str, Any]] = {
    **{message: {"message": message} for message in MESSAGES},
    "add": {"skip": "add", "deep_update": True},
    "concat": {"skip": "concat", "atom_weights": "initial", "deep_embedding": False},
    "concat_atom": {"skip": "concat_atom", "atom_weights": "final", "period_group_channels": 2},
}
every_variant = pytest.mark.parametrize("variant", list(VARIANTS))


def make(variant: str = "updownscale_base", **changes: Any) -> FAENet:
    """A small model with all its parameters moved off their start, so that every one of them matters."""
    settings = {"elements": ELEMENTS, "channels": 16, "filters": 16, "num_layers": 3, "num_radial": 8, "cutoff": 4.0}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = FAENet(**{**settings, **VARIANTS[variant], **changes}).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def potential_of(model: FAENet) -> Potential:
    return Potential(
        model, elements=ELEMENTS, e0=[-0.1 * z for z in ELEMENTS], allow_discontinuous=not model.symmetry.smooth
    )


def energies(model: FAENet, *structures: Atoms) -> np.ndarray:
    return checks.energy_of(potential_of(model), structures)


# derivatives


@every_variant
def test_forces_are_minus_the_energy_gradient(variant: str) -> None:
    potential = potential_of(make(variant))
    for atoms in [*checks.disordered_molecules(2, seed=1), checks.disordered_crystals(2, seed=2)[1]]:
        assert np.abs(checks.forces_of(potential, atoms)).max() > 1e-3
        assert checks.force_error(potential, atoms) < 1e-7


@every_variant
def test_forces_are_twice_differentiable(variant: str) -> None:
    """Second derivatives, as training on forces needs them, through float64 finite differences."""
    model = make(variant, num_layers=2)
    graph = build_graph(molecule("H2O"), model.cutoff)

    def energy(pos: Tensor) -> Tensor:
        total: Tensor = model(graph.replace(pos=pos)).scalars.sum()
        return total

    pos = graph.pos.clone().requires_grad_()
    assert torch.autograd.gradcheck(energy, (pos,))
    assert torch.autograd.gradgradcheck(energy, (pos,))


@every_variant
def test_every_parameter_learns_from_forces(variant: str) -> None:
    model = make(variant)
    out = potential_of(model)(build_graph(checks.disordered_molecules(2), model.cutoff), create_graph=True)
    assert out.forces is not None
    out.forces.square().sum().backward()
    silent = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max() == 0
    }
    # the tables of elements that are not in the structures are used in part; the last bias is a constant energy
    assert silent <= {"readout.out.bias"}


def test_stress_is_the_symmetric_strain_derivative() -> None:
    model, step = make(), 1e-4
    atoms = checks.disordered_crystals(2, seed=2)[1]
    potential = potential_of(model)
    stress = potential(build_graph(atoms, model.cutoff), stress=True).stress
    assert stress is not None
    for a, b in ((0, 0), (0, 1), (1, 2)):
        strained = []
        for h in (step, -step):
            strain = np.zeros((3, 3))
            strain[a, b] += h / 2
            strain[b, a] += h / 2
            copy = atoms.copy()
            copy.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            strained.append(copy)
        plus, minus = energies(model, *strained)
        assert float(stress[0, a, b]) == pytest.approx((plus - minus) / (2 * step * atoms.get_volume()), rel=1e-5)


# cutoff


@every_variant
def test_energy_and_forces_are_continuous_when_an_atom_crosses_the_cutoff(variant: str) -> None:
    model = make(variant)
    assert model.symmetry.smooth
    energy_jump, force_jump = checks.cutoff_jumps(potential_of(model), [1, 6, 8])
    assert energy_jump < 1e-10
    assert force_jump < 1e-5


@every_variant
def test_energy_jumps_at_the_cutoff_without_the_envelope(variant: str) -> None:
    """The control: the published form is not smooth."""
    model = make(variant, envelope=False)
    assert not model.symmetry.smooth
    energy_jump, force_jump = checks.cutoff_jumps(potential_of(model), [1, 6, 8])
    assert energy_jump > 1e-4
    assert force_jump > 1e-4


def test_second_derivative_is_continuous_at_the_cutoff() -> None:
    """Energy of a pair near the cutoff grows as the third power of the distance to it, the first that is left."""
    model = make()

    def window(gap: float) -> float:
        pair, far = (Atoms("CO", [[0, 0, 0], [0, 0.6 * d, 0.8 * d]]) for d in (model.cutoff - gap, 5.0))
        near_energy, far_energy = energies(model, pair, far)
        return abs(float(near_energy - far_energy))

    assert window(0.02) / window(0.01) == pytest.approx(8, rel=0.1)


# symmetry


def test_energy_changes_under_rotations_and_reflections() -> None:
    """The bare network has no such symmetry, and says so. It is what frames are measured against."""
    model = make()
    assert model.symmetry.group == "T(3)"
    atoms = checks.disordered_molecules(1)[0]
    for reflect in (False, True):
        assert checks.rotation_errors(potential_of(model), atoms, 5, reflect=reflect)[0] > 1e-3


@every_variant
def test_translations_and_renumbering_change_nothing(variant: str) -> None:
    potential = potential_of(make(variant))
    for atoms in [*checks.disordered_molecules(1), *checks.disordered_crystals(1)]:
        assert checks.translation_error(potential, atoms, 10.0) < 1e-11
        assert checks.permutation_error(potential, atoms, 5) < 1e-12


def test_vectors_are_components_in_the_axes_of_the_input() -> None:
    """Averaging over the group makes them equivariant; alone they are not: they ignore how the structure lies."""
    model = make(out_vectors=1, vector_head="res", vector_norm="layer", vector_channels=8)
    graph = build_graph(checks.disordered_molecules(1)[0], model.cutoff)
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(0))[0]
    before = model(graph).vectors
    after = model(graph.replace(pos=graph.pos @ rotation.mT)).vectors
    assert before.shape == (graph.num_nodes, 1, 3)
    assert (after - before @ rotation.mT).abs().max() > 1e-2


# separability


@every_variant
def test_far_fragments_and_supercells_add_up(variant: str) -> None:
    model = make(variant)
    assert model.symmetry.separable
    assert checks.separability_error(potential_of(model), checks.disordered_molecules(1)[0], 3) < 1e-11
    assert checks.supercell_error(potential_of(model), checks.disordered_crystals(1)[0], (1, 2, 3)) < 1e-11


@pytest.mark.parametrize("setting", [{"graph_norm": True}, {"skip": "concat", "envelope": False}])
def test_published_settings_that_are_not_separable_say_so(setting: dict[str, Any]) -> None:
    model = make(**setting)
    assert not model.symmetry.separable
    with torch.no_grad():
        if model.offset is not None:
            model.offset.fill_(1.0)
    one, other = checks.disordered_molecules(2)
    both = one + other
    both.positions[len(one) :] += 100.0
    single, alone, together = energies(model, one, other, both)
    assert abs(together - single - alone) > 1e-3


@pytest.mark.parametrize("setting", [{}, {"graph_norm": True}, {"skip": "concat", "envelope": False}])
def test_structures_of_a_batch_do_not_feel_each_other(setting: dict[str, Any]) -> None:
    structures = [*checks.disordered_molecules(3), *checks.disordered_crystals(2)]
    energy_error, force_error = checks.batch_error(potential_of(make(**setting)), structures)
    assert energy_error < 1e-12
    assert force_error < 1e-11


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
