"""Orbit tables: flat for an equivariant model, and what they say of one that is not."""

from __future__ import annotations

import pytest
import torch
from symmetry.planted import KINDS, model_of, pairs, reads_bond_z, segment_sum
from torch import Tensor

from geomol.checks import disordered_molecules
from geomol.graph import Graph, build_graph
from geomol.graph.repeat import repeat_structures
from geomol.symmetry.actions import TARGETS, about, act_on_graph, act_on_target
from geomol.symmetry.audit import (
    circle_elements,
    families,
    orbit,
    principal_components,
    sphere_axes,
    sphere_elements,
)
from geomol.symmetry.audit.lie import centres
from geomol.symmetry.groups import GROUPS, Element


@pytest.fixture(scope="module")
def molecules() -> Graph:
    return build_graph(disordered_molecules(4, seed=1), 4.0)


@pytest.fixture(scope="module")
def turns(molecules) -> list[Element]:
    return families(molecules, num=12)[0].elements


def test_the_orbits_of_an_equivariant_model_are_flat(molecules, turns):
    labels = {"energy": torch.ones(4, dtype=torch.float64), "forces": torch.ones(molecules.num_nodes, 3).double()}
    for known in (None, labels):
        found = orbit(model_of(pairs), molecules, KINDS, turns, labels=known)
        for name, table in found.items():
            assert table.reference == ("consensus" if known is None else "labels")
            assert table.table.shape == (4, 12)
            size = 1.0 if known is None else float(table.table.mean())
            assert table.summary()["std_over_poses"] < 1e-12 * size
            assert float(principal_components(table.table)[1].sum()) < 1e-22
            assert float(table.spread.max()) < 1e-12
            if known is not None:
                assert table.summary()["range_over_mean"] < 1e-10, name


def test_the_orbits_of_a_model_that_reads_directions_are_not(molecules, turns):
    for name, table in orbit(model_of(reads_bond_z), molecules, KINDS, turns).items():
        assert table.summary()["mean"] > 1e-3, name
        assert table.summary()["range_over_mean"] > 0.2
        assert float(principal_components(table.table)[1].sum()) > 1e-8


def test_aggregate_and_individual_views_commute(molecules, turns):
    table = orbit(model_of(reads_bond_z), molecules, KINDS, turns)["forces"]
    assert torch.allclose(table.aggregate(), table.table.mean(0))
    assert table.summary()["worst_pose"] == int(table.table.mean(0).argmax())
    alone = []
    for k in range(4):
        part, _ = repeat_structures(molecules, torch.tensor([k]))
        elements = [Element(e.rotation[k : k + 1], e.translation[k : k + 1]) for e in turns]
        alone.append(orbit(model_of(reads_bond_z), part, KINDS, elements)["forces"].table)
    assert torch.allclose(torch.cat(alone), table.table, atol=1e-12)


def test_the_consensus_is_the_mean_of_the_turned_back_predictions(molecules, turns):
    model = model_of(reads_bond_z)
    back = []
    for element in turns:
        moved = act_on_graph(element, molecules)
        back.append(act_on_target(KINDS["forces"], model(moved)["forces"].detach(), element.inverse(), moved))
    assert torch.allclose(
        orbit(model, molecules, KINDS, turns)["forces"].consensus, torch.stack(back).mean(0), atol=1e-12
    )


def test_the_consensus_of_an_average_over_a_group_is_its_prediction(molecules):
    """A model averaged over the octahedral group, looked at in the poses of that group."""
    rotations = GROUPS["octahedral rotations"].elements
    inner = model_of(reads_bond_z)

    def averaged(graph: Graph) -> dict[str, Tensor]:
        energy = [inner(act_on_graph(about(r, centres(graph)), graph))["energy"].detach() for r in rotations]
        return {"energy": torch.stack(energy).mean(0)}

    elements = [about(r, centres(molecules)) for r in rotations]
    kinds = {"energy": KINDS["energy"]}
    found = orbit(averaged, molecules, kinds, elements)["energy"]
    assert torch.allclose(found.consensus, averaged(molecules)["energy"], atol=1e-12)
    assert float(found.table.max()) < 1e-11
    inner_found = orbit(inner, molecules, kinds, elements)["energy"]
    assert torch.allclose(inner_found.consensus, averaged(molecules)["energy"], atol=1e-12)
    assert float(inner_found.table.max()) > 1e-3, "the control"


def test_labels_turn_with_the_structure(molecules, turns):
    """Against its own prediction as label, a model errs by exactly what it lacks in equivariance."""
    for node_energy, floor in ((pairs, True), (reads_bond_z, False)):
        model = model_of(node_energy)
        labels = {name: value.detach() for name, value in model(molecules).items()}
        table = orbit(model, molecules, KINDS, turns, labels=labels)["forces"].table
        assert (float(table.max()) < 1e-12) == floor


def test_the_map_of_axes_finds_the_direction_that_a_model_singles_out(molecules):
    model = model_of(reads_bond_z)
    labels = {name: value.detach() for name, value in model(molecules).items()}
    axes = torch.cat([sphere_axes(40), torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], dtype=torch.float64)])
    error = orbit(model, molecules, KINDS, sphere_elements(molecules, axes), labels=labels)["forces"].aggregate()
    assert float(error[-2:].max()) < 1e-12
    assert float(error[axes[:, 2].abs() < 0.3].min()) > 1e-3
    assert float(error[:40].min()) > 1e-12


def test_a_circle_starts_and_ends_where_it_began(molecules):
    axis = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    model = model_of(reads_bond_z)
    labels = {name: value.detach() for name, value in model(molecules).items()}
    error = orbit(model, molecules, KINDS, circle_elements(molecules, axis, 8), labels=labels)["forces"].aggregate()
    assert float(error[0]) < 1e-12
    assert float(error[4]) < 1e-12, "z enters squared: half a turn about x changes nothing"
    assert float(error[2]) > 1e-3


def test_principal_components_separate_two_kinds_of_failure():
    rng = torch.Generator().manual_seed(0)
    poses = torch.randn(2, 30, generator=rng, dtype=torch.float64)
    table = torch.cat([poses[:1].repeat(5, 1), poses[1:].repeat(5, 1)]) + 7.0
    coordinates, variance = principal_components(table)
    assert float(variance[1]) < 1e-20 * float(variance[0]) + 1e-25
    sides = coordinates[:, 0].sign()
    assert bool((sides[:5] == sides[0]).all())
    assert bool((sides[5:] == -sides[0]).all())


def test_scalars_per_node_are_permuted_with_their_nodes(molecules):
    """Orbits over renumberings: the per-node energies of an equivariant model come back in order."""
    family = next(f for f in families(molecules, num=4) if f.name == "permutations")
    kinds = {"node_energy": TARGETS["node_energy"]}
    found = orbit(lambda g: {"node_energy": pairs(g)}, molecules, kinds, family.elements)["node_energy"]
    assert float(found.table.max()) < 1e-12
    wrong = orbit(lambda g: {"node_energy": torch.arange(g.num_nodes).double()}, molecules, kinds, family.elements)
    assert float(wrong["node_energy"].table.min()) > 0.1
    assert segment_sum(found.consensus, molecules.ptr).shape == (4,)
