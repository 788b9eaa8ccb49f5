"""The audit of label models: classes and parts, normals, poses that are told, nearest neighbours, false claims."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from geomol.checks.audit_labels import LabelOutputs, audit_labels
from geomol.checks.audit_points import POSE_TOLD
from geomol.data import CloudBatch
from geomol.errors import InputError
from geomol.graph import Graph
from geomol.labels import LabelModel
from geomol.models import Features, Symmetry
from geomol.symmetry import build_backbone
from geomol.symmetry.audit import Audit, Effort, choose_method

F64 = torch.float64
SMALL = Effort(num_elements=3, num_axes=0, num_paths=0)
E3 = Symmetry(group="E(3)", exact=True, smooth=True)
INVARIANT = {"name": "ponita", "orientations": "none", "channels": 8, "num_layers": 2, "cutoff": 1.5, "out_scalars": 6}
PAIRS = {"name": "egnn", "channels": 8, "num_layers": 2, "num_radial": 0, "out_scalars": 6}  # of any distance
GRID = {**INVARIANT, "orientations": "octahedral"}
PLAIN = {"name": "deep_sets", "channels": 8, "num_layers": 2, "out_scalars": 6}
EXACT_PARTS = {"rotations", "reflections", "Lie derivative, rotations"}


class Claiming(nn.Module):
    """A backbone with another claim than its own."""

    def __init__(self, inner: nn.Module, symmetry: Symmetry) -> None:
        super().__init__()
        self.inner, self.cutoff, self.symmetry = inner, inner.cutoff, symmetry

    def forward(self, graph: Graph) -> Features:
        return self.inner(graph)


def clouds(num: int = 2, points: int = 16) -> CloudBatch:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2, num * points, 3, generator=generator, dtype=F64)
    return CloudBatch(
        pos=normal[0],
        ptr=torch.arange(num + 1) * points,
        normals=nn.functional.normalize(normal[1], dim=1),
        label=torch.arange(num) % 2,
        part=torch.arange(num * points) % 3,
        frame=torch.eye(3, dtype=F64).repeat(num, 1, 1),
    )


def model(backbone: dict, claim: Symmetry | None = None, **settings: object) -> LabelModel:
    defaults = {"class_names": ("a", "b"), "features": 6, "edges": "radius-1.5"}
    normals = settings.get("normals", "none")
    inputs: dict = {"elements": [0], "in_scalars": 3 if normals == "scalars" else 0}
    vectors = (normals == "vectors") + 3 * bool(settings.get("frame", False))
    inputs |= {"in_vectors": vectors} if vectors or backbone["name"] != "ponita" else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build_backbone({**inputs, **backbone})
        net = net if claim is None else Claiming(net, claim)
        return LabelModel(net, **{**defaults, **settings}).double().eval()  # type: ignore[arg-type]


def failures(found: Audit) -> set[str]:
    return {row.check for row in found.rows if row.status == "fail"}


def test_an_invariant_classifier_passes_by_probabilities_and_logits() -> None:
    found = audit_labels(model(INVARIANT), clouds(), effort=SMALL, truth=torch.tensor([0, 1]))
    assert found.passed, failures(found)
    assert found.measured_group == "E(3)"
    assert list(found.kinds) == ["probabilities", "logits"]
    assert found.pictures.orbits["probabilities"].reference == "labels"
    assert not any("Å" in row.check + row.detail for row in found.rows), "lengths of clouds have no unit"
    assert "translations by 10" in {row.check for row in found.rows}


def test_a_plain_classifier_keeps_its_claim_of_translations_and_fails_a_false_one() -> None:
    honest = audit_labels(model(PLAIN, edges="none"), clouds(), effort=SMALL)
    assert honest.passed, failures(honest)
    assert (honest.claim.group, honest.measured_group) == ("T(3)", "T(3)")
    assert "rotations are off by" in honest.verdict
    false = audit_labels(model(PLAIN, E3, edges="none"), clouds(), effort=SMALL)
    assert failures(false) >= EXACT_PARTS
    assert "rotations and reflections are broken" in false.verdict


def test_normals_read_as_scalars_are_turned_all_the_same_and_cost_the_rotations() -> None:
    found = audit_labels(model(INVARIANT, normals="scalars"), clouds(), effort=SMALL)
    assert found.passed, failures(found)
    assert (found.claim.group, found.measured_group) == ("T(3)", "T(3)")
    rotations = next(row for row in found.rows if (row.check, row.output) == ("rotations", "logits"))
    assert rotations.value > 1e-3


def test_a_grid_of_orientations_tells_its_error_and_holds_for_its_own_rotations() -> None:
    found = audit_labels(model(GRID, normals="vectors", frame=True), clouds(), effort=SMALL)
    assert not found.claim.exact
    assert "rotations are off by" in found.verdict
    assert "The rotations of the octahedral group" in found.verdict
    assert found.verdict.endswith(POSE_TOLD)
    claiming = audit_labels(model(GRID, E3, normals="vectors", frame=True), clouds(), effort=SMALL)
    assert not claiming.passed, "the same errors are no exact symmetry"


def test_parts_of_points_follow_their_numbering() -> None:
    settings = {"part_names": ("x", "y", "z"), "class_parts": ((0, 1), (1, 2)), "level": "point"}
    batch = clouds()
    found = audit_labels(model(INVARIANT, **settings), batch, effort=SMALL, truth=batch.part)
    assert found.passed, failures(found)
    assert found.kinds["logits"].per == "node"

    class Counts(nn.Module):
        """Reads the number of each point."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.cutoff, self.symmetry = inner, inner.cutoff, E3

        def forward(self, graph: Graph) -> Features:
            number = torch.arange(graph.num_nodes) - graph.ptr[graph.batch]
            return Features(self.inner(graph).scalars * (1 + 0.1 * number[:, None]))

    wrong = model(INVARIANT, **settings)
    wrong.backbone = Counts(wrong.backbone)
    assert failures(audit_labels(wrong, batch, effort=SMALL)) == {"permutations"}


def test_nearest_neighbours_hold_still_for_derivatives_and_are_found_anew_elsewhere() -> None:
    net, batch = model(PAIRS, edges="knn-5"), clouds()
    found = audit_labels(net, batch, effort=SMALL)
    assert found.passed, failures(found)
    assert not found.claim.continuous
    assert found.measured_group == "E(3)"
    assert found.method != "finite differences", "an exact derivative agrees with differences at fixed neighbours"
    outputs = LabelOutputs(net, batch)
    assert outputs.held is not None
    graph, held = outputs.reference, outputs.held
    toward = torch.randn(graph.pos.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    far = graph.replace(pos=graph.pos + toward)
    torch.testing.assert_close(outputs(far)["logits"], net(replace(batch, pos=far.pos)))  # its own neighbours
    outputs.held = None
    assert choose_method(outputs, graph, outputs.kinds) in ("forward", "double backward", "finite differences")
    assert torch.equal(held.pos, graph.pos)


@pytest.mark.parametrize("edges", ["fc", "knn-5"])
def test_the_outputs_are_those_of_the_model(edges: str) -> None:
    net, batch = model(PAIRS, edges=edges), clouds()
    outputs = LabelOutputs(net, batch)
    torch.testing.assert_close(outputs(outputs.reference)["logits"], net(batch), atol=1e-6, rtol=0)


def test_clouds_without_the_normals_that_are_read_are_refused() -> None:
    with pytest.raises(InputError, match="no normals"):
        audit_labels(model(INVARIANT, normals="scalars"), replace(clouds(), normals=None), effort=SMALL)
