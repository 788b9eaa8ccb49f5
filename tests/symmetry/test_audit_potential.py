"""The audit of potentials: exact ones, grids of orientations, frames, random poses, a raw coordinate in disguise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from geomol.checks import disordered_molecules
from geomol.checks.audit import POTENTIAL_KINDS, PotentialOutputs, audit_potential, layers_of, off_the_grid
from geomol.graph import Graph, build_graph
from geomol.models import EGNN, MPNN, Features, Ponita
from geomol.potential import Potential
from geomol.symmetry import FrameAveraging, TestTimeAverage
from geomol.symmetry.audit import Audit, Effort, families, finite_errors, lie_derivatives

ELEMENTS = [1, 6, 7, 8]
SMALL = Effort(num_elements=4, num_axes=0, num_paths=1)


def potential_of(backbone: nn.Module) -> Potential:
    made = Potential(backbone, elements=ELEMENTS, e0=[-13.0, -1030.0, -1485.0, -2042.0], allow_discontinuous=True)
    return made.double().eval()


def plain() -> MPNN:
    torch.manual_seed(0)
    return MPNN(elements=ELEMENTS, channels=8, num_layers=2, cutoff=4.0)


def exact() -> EGNN:
    torch.manual_seed(0)
    return EGNN(elements=ELEMENTS, channels=8, num_layers=2, cutoff=4.0)


def audited(backbone: nn.Module, effort: Effort = SMALL) -> Audit:
    return audit_potential(potential_of(backbone), disordered_molecules(2, seed=1), effort=effort)


def failures(found: Audit) -> set[str]:
    return {row.check for row in found.rows if row.status == "fail"}


class ReadsZ(nn.Module):
    """A backbone that adds a small function of the raw z coordinate, and claims what the one inside claims."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.cutoff, self.symmetry = inner, inner.cutoff, inner.symmetry

    def forward(self, graph: Graph) -> Features:
        return Features(self.inner(graph).scalars + 0.02 * torch.sin(graph.pos[:, 2:]))


def test_an_exact_potential_passes_and_its_outputs_are_those_of_the_potential():
    potential, graph = potential_of(exact()), build_graph(disordered_molecules(2, seed=1), 4.0)
    found = audit_potential(potential, disordered_molecules(2, seed=1), effort=SMALL)
    assert found.passed, failures(found)
    assert found.measured_group == "E(3)"
    for graph_now in (graph, graph.replace(pos=graph.pos.clone().requires_grad_())):
        out, reference = PotentialOutputs(potential)(graph_now), potential(graph)
        assert torch.allclose(out["forces"].detach(), reference.forces)
        offsets = torch.tensor([sum({1: -13.0, 6: -1030.0, 7: -1485.0, 8: -2042.0}[int(z)] for z in graph.numbers[part])
                                for part in (slice(0, int(graph.ptr[1])), slice(int(graph.ptr[1]), None))])  # fmt: skip
        assert torch.allclose(out["energy"].detach() + offsets, reference.energy)


def test_a_raw_coordinate_is_found_and_its_direction_named():
    found = audited(ReadsZ(exact()))
    assert not found.passed
    assert "translations (only those along (0, 0, 1); the others hold)" in found.verdict
    assert "rotations (those about (0, 0, 1) hold)" in found.verdict
    assert found.measured_group == "1"
    assert {"net force", "net torque"} <= failures(found)
    assert not {row.check for row in found.rows if row.claim == "gradient"} & failures(found)


def rotation_error(grid: str) -> dict[str, float]:
    torch.manual_seed(0)
    backbone = Ponita(elements=ELEMENTS, channels=8, num_layers=2, cutoff=4.0, orientations=grid)
    graph = build_graph(disordered_molecules(2, seed=1), 4.0)
    backbone.double().calibrate(graph)
    family = families(graph, num=6)[0]
    found = finite_errors(PotentialOutputs(potential_of(backbone)), graph, POTENTIAL_KINDS, family)
    return {error.output: error.relative for error in found}


def test_the_error_of_a_grid_falls_with_its_size_and_with_its_quality():
    errors = {g: rotation_error(g) for g in ("icosahedral", "design24", "fibonacci:24", "design60")}
    for output in ("energy", "forces"):
        by_size = [errors[g][output] for g in ("icosahedral", "design24", "design60")]
        assert by_size == sorted(by_size, reverse=True)
        assert by_size[-1] < 0.1 * by_size[0]
        assert errors["design24"][output] < errors["fibonacci:24"][output]


def test_the_claim_of_a_grid_is_approximate_and_its_layers_are_not_split():
    torch.manual_seed(0)
    backbone = Ponita(elements=ELEMENTS, channels=8, num_layers=2, cutoff=4.0, orientations="icosahedral")
    found = audited(backbone)
    assert found.measured_group == "T(3)"
    assert "The rotations of the icosahedral group" in found.verdict
    assert next(row for row in found.rows if row.check == "net torque").status == "not claimed"
    assert found.shares == []
    assert layers_of(backbone) == {}


def test_a_plain_network_keeps_its_modest_claim_and_its_layers_share_the_error():
    found = audited(plain())
    assert found.passed, failures(found)
    assert found.measured_group == "T(3)"
    share = next(s for s in found.shares if s.generators == "rotations")
    assert set(share.layers) == {"layer 1", "layer 2", "readout"}
    assert share.layers["layer 1"] > 1e-6
    assert share.layers["readout"] < 1e-12


@pytest.mark.filterwarnings("ignore:.*equal principal moments")
def test_plain_frames_jump_as_they_admit_and_fail_on_symmetric_molecules():
    found = audited(FrameAveraging(backbone=plain(), frames="pca"))
    jump = next(
        row for row in found.rows if row.check.startswith("jumps along a path through") and row.output == "energy"
    )
    assert jump.value > 1e-6
    assert jump.status == "not claimed"
    assert "As it admits, the output jumps along a path through equal axes" in found.verdict
    assert failures(found) <= {f"{m} of symmetric structures" for m in ("rotations", "reflections", "inversion")}
    assert "rotations of symmetric structures" in failures(found)


def test_robust_frames_keep_everything_that_they_claim():
    found = audited(FrameAveraging(backbone=plain(), frames="robust"))
    assert found.passed, failures(found)
    assert found.measured_group == "E(3)"
    assert next(row for row in found.rows if row.check.startswith("jumps along a path through")).status == "pass"


def test_random_poses_are_held_to_their_average_and_left_as_they_were():
    backbone = TestTimeAverage(backbone=plain(), group="SE(3)", rotations="random", samples=2, seed=5)
    potential = potential_of(backbone).train()
    graph = build_graph(disordered_molecules(2, seed=1), 4.0)
    before = potential.eval()(graph).energy
    potential.train()
    found = audit_potential(
        potential, disordered_molecules(2, seed=1), effort=Effort(num_elements=3, num_axes=0, num_paths=1, num_draws=24)
    )
    assert potential.training
    assert backbone.seed == 5
    assert torch.equal(potential.eval()(graph).energy, before)
    assert {entry.output for entry in found.expectation} == {"energy", "forces"}
    assert all(entry.deviations < 4 for entry in found.expectation)
    assert found.passed, failures(found)
    assert not any(row.claim == "continuity" for row in found.rows)


def test_lie_derivatives_of_trained_forms_are_minus_net_force_and_torque():
    """An approximate model, so that both sides are far from 0."""
    torch.manual_seed(0)
    backbone = Ponita(elements=ELEMENTS, channels=8, num_layers=2, cutoff=4.0, orientations="icosahedral")
    outputs, graph = PotentialOutputs(potential_of(backbone)), build_graph(disordered_molecules(2, seed=1), 4.0)
    found, method = lie_derivatives(outputs, graph, POTENTIAL_KINDS)
    assert method == "double backward"
    forces = outputs(graph)["forces"].detach()
    arms = torch.cat([part - part.mean(0) for part in graph.pos.split(graph.ptr.diff().tolist())])
    torque = [t.sum(0) for t in torch.linalg.cross(arms, forces).split(graph.ptr.diff().tolist())]
    rates = [d.value for d in found if d.output == "energy" and d.generator.kind == "rotation"]
    assert float(torch.stack(torque).abs().min()) > 1e-6
    assert torch.allclose(torch.stack(rates, -1), -torch.stack(torque), rtol=1e-6, atol=1e-12)


def test_positions_on_a_coarse_grid_of_numbers_are_moved_off_it():
    """In single precision translations are free of rounding in float64, and nothing could be learnt of them."""
    graph = build_graph(disordered_molecules(1), 4.0)
    graph = graph.replace(pos=graph.pos.float().double())
    moved = off_the_grid(graph)
    assert 0 < float((moved.pos - graph.pos).abs().max()) < 1e-7

    def rounding(pos: Tensor) -> float:
        return float(((pos + 1000.3) - 1000.3 - pos).abs().max())

    shift = torch.tensor(1000.3, dtype=torch.float64).float().double()
    assert float(((graph.pos + shift) - shift - graph.pos).abs().max()) == 0
    assert rounding(moved.pos) > 0
