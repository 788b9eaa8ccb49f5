"""The audit of denoisers: estimates at several levels, elements, bonds, poses that are told, false claims."""

from __future__ import annotations

import pytest
import torch
from generate.tiny_denoiser import tiny_denoiser
from torch import nn

from geomol.checks.audit_denoiser import DenoiserOutputs, audit_denoiser
from geomol.checks.audit_points import POSE_TOLD
from geomol.diffusion import Cloud, Denoiser, build_levels, fit_backbone
from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.graph import Graph
from geomol.models import Features, Symmetry
from geomol.symmetry import build_backbone
from geomol.symmetry.actions import act_on_graph
from geomol.symmetry.audit import Audit, Effort
from geomol.symmetry.groups import Element

F64 = torch.float64
SMALL = Effort(num_elements=3, num_axes=0, num_paths=0)
E3 = Symmetry(group="E(3)", exact=True, smooth=True)
PLANAR = {"name": "rapidash", "channels": 8, "num_layers": 1, "basis_dim": 8, "basis_hidden": 8}
PLAIN = {**PLANAR, "orientations": "none", "kernel_group": "T(n)"}
GRID = {**PLANAR, "orientations": "octahedral", "coordinates": "vectors"}
EXACT = {"name": "egnn", "channels": 8, "num_layers": 2, "update_pos": True, "num_radial": 0}


class Claiming(nn.Module):
    """A backbone with another claim than its own."""

    def __init__(self, inner: nn.Module, symmetry: Symmetry) -> None:
        super().__init__()
        self.inner, self.cutoff, self.symmetry = inner, inner.cutoff, symmetry

    def forward(self, graph: Graph) -> Features:
        return self.inner(graph)


def of_clouds(backbone: dict, *, claim: Symmetry | None = None, frame: bool = False, edges: str = "knn-4") -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = build_backbone(fit_backbone(backbone, num_types=0, self_conditioning=False, frame=frame))
        made = Denoiser(
            net if claim is None else Claiming(net, claim),
            elements=(),
            levels=build_levels({"name": "karras"}),
            self_conditioning=False,
            length_unit=0.3,
            sizes={12: 1},
            edges=edges,
            frame=frame,
        ).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval()


def points(num: int = 2, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(num * size, 3, generator=rng, dtype=F64), torch.arange(num + 1) * size


def molecules() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    numbers = torch.tensor([6, 1, 1, 1, 1, 8, 1, 1, 8])
    return 1.5 * torch.randn(9, 3, generator=rng, dtype=F64), torch.tensor([0, 5, 9]), numbers


def failures(found: Audit) -> set[str]:
    return {row.check for row in found.rows if row.status == "fail"}


def error(found: Audit, check: str, output: str) -> float:
    return next(row.value for row in found.rows if (row.check, row.output) == (check, output))


def test_a_denoiser_of_molecules_is_held_to_its_claim_by_places_elements_and_bonds() -> None:
    pos, ptr, numbers = molecules()
    model = tiny_denoiser(conditions={"gap": (7.0, 1.0)})
    found = audit_denoiser(model, pos, ptr, numbers=numbers, effort=SMALL, levels=(0.1, 2.0))
    assert found.passed, failures(found)
    assert found.measured_group == "E(3)"
    assert list(found.kinds) == ["positions at noise 0.1", "positions at noise 2", "elements", "bonds"]
    assert found.pictures.orbits["positions at noise 2"].reference == "labels"


def test_continuous_elements_are_audited_too() -> None:
    pos, ptr, numbers = molecules()
    found = audit_denoiser(
        tiny_denoiser(bond_channels=0, types="gaussian"), pos, ptr, numbers=numbers, effort=SMALL, levels=(1.0,)
    )
    assert found.passed, failures(found)
    assert list(found.kinds) == ["positions at noise 1", "elements"]


@pytest.mark.parametrize(
    ("backbone", "group", "exact"), [(EXACT, "E(3)", True), (PLAIN, "T(3)", True), (GRID, "E(3)", False)]
)
def test_denoisers_of_clouds_show_what_they_are(backbone: dict, group: str, exact: bool) -> None:
    found = audit_denoiser(of_clouds(backbone), *points(), effort=SMALL)
    assert (found.claim.group, found.claim.exact, found.claim.continuous) == (group, exact, False)
    assert found.measured_group == (group if exact else "T(3)")
    assert "permutations" in found.verdict.lower()
    if exact:
        assert found.passed, failures(found)
    assert error(found, "translations by 100", "positions at noise 0.5") < 1e-10
    if found.measured_group == "T(3)":
        assert "rotations are off by" in found.verdict
        assert error(found, "rotations", "positions at noise 0.5") > 1e-6


def test_a_false_claim_fails_and_the_true_one_of_the_same_weights_does_not() -> None:
    found = audit_denoiser(of_clouds(PLAIN, claim=E3, edges="fc"), *points(), effort=SMALL)
    assert {"rotations", "reflections", "Lie derivative, rotations"} <= failures(found)
    assert not {"permutations", "translations by 1"} & failures(found)
    assert audit_denoiser(of_clouds(PLAIN, edges="fc"), *points(), effort=SMALL).passed


def test_a_grid_holds_for_its_own_rotations_with_the_pose_turned_along() -> None:
    found = audit_denoiser(of_clouds(GRID, frame=True), *points(), effort=SMALL)
    assert "The rotations of the octahedral group" in found.verdict
    assert found.verdict.endswith(POSE_TOLD)


def test_a_pose_that_stays_behind_would_be_seen() -> None:
    model = of_clouds(GRID, frame=True)
    outputs = DenoiserOutputs(model, (0.5,), *points(), None, None, 0)
    name, graph = "positions at noise 0.5", outputs.reference
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
    moved = act_on_graph(Element(quarter, torch.zeros(3, dtype=F64)), graph)
    told = outputs(graph)[name] @ quarter.T
    torch.testing.assert_close(outputs(moved)[name], told)
    assert moved.node_vectors is not None
    assert graph.node_vectors is not None
    vectors = torch.cat([moved.node_vectors[:, :1], graph.node_vectors[:, 1:]], dim=1)  # noise turned, axes not
    assert float((outputs(moved.replace(node_vectors=vectors))[name] - told).detach().abs().max()) > 1e-4


def test_the_estimate_is_that_of_the_model_behind_the_noise_that_the_nodes_carry() -> None:
    model = of_clouds(EXACT, edges="fc")
    pos, ptr = points()
    outputs = DenoiserOutputs(model, (0.7,), pos, ptr, None, None, 5)
    graph = outputs.reference
    assert graph.node_vectors is not None
    clean = model.encode(graph.pos, graph.numbers, ptr)
    noisy = Cloud(clean.pos + 0.7 * graph.node_vectors[:, 0], clean.feats, ptr)
    found = model(noisy, torch.full((2,), 0.7, dtype=F64)).clean.pos
    torch.testing.assert_close(outputs(graph)["positions at noise 0.7"], found)
    turn = random_rotations(1, generator=torch.Generator().manual_seed(1))[0]
    other = DenoiserOutputs(model, (0.7,), pos @ turn.T, ptr, None, None, 5).reference
    assert other.node_vectors is not None
    assert torch.equal(other.node_vectors[:, 0], graph.node_vectors[:, 0]), "the noise follows the seed alone"


def test_levels_and_elements_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="levels of noise must be positive"):
        audit_denoiser(of_clouds(EXACT), *points(), levels=(0.0,), effort=SMALL)
    pos, ptr, numbers = molecules()
    with pytest.raises(ConfigError, match="elements that the model does not make"):
        audit_denoiser(tiny_denoiser(), pos, ptr, numbers=numbers + 20, effort=SMALL)
