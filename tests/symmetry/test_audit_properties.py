"""The audit of property models: exact ones, false claims, grids of orientations, vectors, and errors in spreads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from geomol.checks import disordered_molecules
from geomol.checks.audit_properties import PropertyOutputs, audit_properties
from geomol.graph import Graph, build_graph
from geomol.models import EGNN, MPNN, ConditionedEGNN, Features, Ponita, Symmetry
from geomol.properties import PropertyModel, Target
from geomol.symmetry.audit import Audit, Effort

ELEMENTS = [1, 6, 7, 8]
SMALL = Effort(num_elements=3, num_axes=0, num_paths=0)
E3 = Symmetry(group="E(3)", exact=True, smooth=True)
TARGETS = (Target("gap", "eV", mean=7.0, spread=1.5), Target("u0", "eV", spread=0.2, references={6: -1030.0}))
VECTOR = (Target("dipole", "e_A", spread=0.4),)


class Claiming(nn.Module):
    """A backbone with another claim than its own."""

    def __init__(self, inner: nn.Module, symmetry: Symmetry) -> None:
        super().__init__()
        self.inner, self.cutoff, self.symmetry = inner, inner.cutoff, symmetry

    def forward(self, graph: Graph) -> Features:
        return self.inner(graph)


def backbone(kind: type[nn.Module], **settings: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(elements=ELEMENTS, channels=8, num_layers=2, cutoff=4.0, **settings)


def model(net: nn.Module, targets: tuple[Target, ...] = TARGETS) -> PropertyModel:
    return PropertyModel(net, elements=ELEMENTS, targets=targets, vector=targets is VECTOR).double().eval()


def audited(net: nn.Module, targets: tuple[Target, ...] = TARGETS) -> Audit:
    return audit_properties(model(net, targets), disordered_molecules(2, seed=1), effort=SMALL)


def failures(found: Audit) -> set[str]:
    return {row.check for row in found.rows if row.status == "fail"}


def test_an_exact_model_passes_target_by_target() -> None:
    found = audited(backbone(EGNN, out_scalars=2))
    assert found.passed, failures(found)
    assert found.measured_group == "E(3)"
    assert list(found.kinds) == ["gap", "u0"]
    assert {row.output for row in found.rows} == {"gap", "u0"}
    assert max(row.relative or 0.0 for row in found.rows if row.check == "rotations") < 1e-11


def test_a_plain_network_keeps_its_own_claim_and_fails_a_false_one() -> None:
    honest = audited(backbone(MPNN, out_scalars=2))
    assert honest.passed, failures(honest)
    assert honest.measured_group == "T(3)"
    assert "rotations are off by" in honest.verdict
    false = audited(Claiming(backbone(MPNN, out_scalars=2), E3))
    assert not false.passed
    assert {"rotations", "reflections", "Lie derivative, rotations"} <= failures(false)
    assert "rotations and reflections are broken" in false.verdict
    assert not {"permutations", "translations by 1 Å"} & failures(false)


def test_the_error_of_a_grid_is_told_and_is_not_called_rounding() -> None:
    net = backbone(Ponita, orientations="octahedral", out_scalars=2)
    net.double().calibrate(build_graph(disordered_molecules(2, seed=1), 4.0))
    found = audited(net)
    assert not found.claim.exact
    assert "approximate" in found.verdict
    assert "rotations are off by" in found.verdict
    assert "The rotations of the octahedral group" in found.verdict
    assert found.measured_group == "T(3)"
    exact = audited(Claiming(net, E3))
    assert not exact.passed, "the same errors are no exact symmetry"


@pytest.mark.parametrize(("kind", "group"), [(EGNN, "E(3)"), (MPNN, "T(3)")])
def test_a_vector_turns_with_the_structure(kind: type[nn.Module], group: str) -> None:
    settings = {"update_pos": True} if kind is EGNN else {}
    found = audited(backbone(kind, out_vectors=1, **settings), VECTOR)
    assert found.passed, failures(found)
    assert found.kinds["dipole"].form == "vector"
    assert found.measured_group == group


def test_a_vector_that_stays_where_it_is_breaks_the_claim() -> None:
    """An invariant where a vector is claimed: not broken by the network, but by its meaning."""

    class Still(nn.Module):
        cutoff, symmetry = 4.0, E3

        def __init__(self) -> None:
            super().__init__()
            self.inner = backbone(EGNN, out_scalars=3)

        def forward(self, graph: Graph) -> Features:
            scalars = self.inner(graph).scalars
            return Features(scalars[:, :0], scalars[:, None])

    assert {"rotations", "reflections"} <= failures(audited(Still(), VECTOR))


def test_errors_are_in_spreads_without_the_offsets_beside_which_they_would_vanish() -> None:
    structures = disordered_molecules(2, seed=1)
    net = model(backbone(EGNN, out_scalars=2))
    graph = build_graph(structures, net.cutoff)
    outputs = PropertyOutputs(net)
    told = net(graph).detach()
    assert told[:, 1].abs().max() > 1000  # the references
    for name, column in outputs.labels(told, graph).items():
        torch.testing.assert_close(column, outputs(graph)[name].detach())
    moved = dataclasses.replace(TARGETS[0], mean=1e9), TARGETS[1]
    far = audit_properties(
        model(Claiming(backbone(MPNN, out_scalars=2), E3), moved), structures, effort=SMALL, values=told
    )
    assert not far.passed, "a large mean hides nothing"
    assert far.pictures.orbits["gap"].reference == "labels"


def test_layers_that_give_scalars_alone_share_the_error() -> None:
    share = next(s for s in audited(backbone(MPNN, out_scalars=2)).shares if s.generators == "rotations")
    assert share.total > 1e-6
    assert set(share.layers) == {"layer 1", "layer 2", "readout"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        moving = ConditionedEGNN(elements=ELEMENTS, channels=8, pair_channels=4, num_vectors=2, num_layers=1)
    assert audited(moving, TARGETS[:1]).shares == [], "layers that hand on places and vectors of their own"
