"""The whole audit: an exact model passes, and every planted fault is found and called by its name."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from symmetry import planted
from symmetry.planted import E3, KINDS, model_of
from torch import Tensor

from geomol.checks import disordered_crystals, disordered_molecules
from geomol.errors import GeomolError
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph
from geomol.models import Symmetry
from geomol.symmetry.actions import TARGETS
from geomol.symmetry.audit import Audit, Effort, audit, expected_errors, families, finite_errors, run
from geomol.symmetry.audit.finite import about, centres

SMALL = Effort(num_elements=6, num_axes=0, num_paths=1)


@pytest.fixture(scope="module")
def molecules() -> Graph:
    return build_graph(disordered_molecules(3, seed=1), 4.0)


@pytest.fixture(scope="module")
def crystals() -> Graph:
    return build_graph(disordered_crystals(3, seed=1), 3.5)


def failures(found: Audit) -> set[str]:
    return {row.check for row in found.rows if row.status == "fail"}


def parts(found: Audit) -> set[str]:
    return {row.claim for row in found.rows if row.status == "fail"}


def test_an_exact_model_passes_everything(molecules):
    found = audit(model_of(planted.pairs), molecules, KINDS, claim=E3, effort=SMALL)
    assert found.passed
    assert not failures(found)
    assert found.measured_group == "E(3)"
    assert found.verdict.startswith("The claim E(3), exact, holds.")
    assert all(row.status in ("pass", "not claimed") for row in found.rows)
    assert {row.claim for row in found.rows if row.status == "pass"} >= {
        "permutations", "translations", "rotations", "reflections", "momentum", "gradient", "continuity"
    }  # fmt: skip


def test_an_exact_model_of_crystals_passes_other_images_of_its_atoms_too(crystals):
    found = audit(model_of(planted.pairs), crystals, KINDS, claim=E3, effort=SMALL)
    assert found.passed
    assert any(row.check == "periodic images" and row.status == "pass" for row in found.rows)


@pytest.mark.parametrize(
    ("node_energy", "broken", "group", "words"),
    [
        ("reads_z", {"translations", "rotations", "reflections", "momentum"}, "1",
         "translations (only those along (0, 0, 1); the others hold), rotations (those about (0, 0, 1) hold) and"),
        ("reads_bond_z", {"rotations", "reflections", "momentum"}, "T(3)", "rotations (those about (0, 0, 1) hold)"),
        ("tells_hands_apart", {"reflections"}, "SE(3)", "does not hold: reflections are broken"),
        ("counts_nodes", {"permutations"}, "E(3)", "does not hold: permutations are broken"),
        ("sorts_axes", {"rotations", "reflections", "continuity"}, "T(3)", "jumps along"),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found_and_named(molecules, node_energy, broken, group, words):
    found = audit(model_of(getattr(planted, node_energy)), molecules, KINDS, claim=E3, effort=SMALL)
    assert not found.passed
    assert parts(found) == broken
    assert found.measured_group == group
    assert words in found.verdict


def test_single_precision_coordinates_are_told_from_a_broken_symmetry(molecules):
    found = audit(model_of(planted.loses_digits), molecules, KINDS, claim=E3, effort=SMALL)
    assert {"translations by 1000 Å", "translations by 10000 Å"} <= failures(found)
    assert found.verdict.endswith("Near the origin all errors are within those of single precision.")
    errors = {row.check: row.relative for row in found.rows if row.output == "energy"}
    assert errors["translations by 10000 Å"] > 100 * errors["translations by 10 Å"]


def test_raw_coordinates_break_other_images_of_the_atoms(crystals):
    found = audit(model_of(planted.reads_z), crystals, KINDS, claim=E3, effort=SMALL)
    assert "periodic images" in failures(found)


def test_forces_that_are_no_gradient_are_named(molecules):
    found = audit(model_of(planted.pairs, curl=0.1), molecules, KINDS, claim=E3, effort=SMALL)
    assert parts(found) == {"gradient", "momentum"}
    assert "forces are not the gradient of the energy" in found.verdict
    assert "net force and net torque must vanish and do not" in found.verdict


def test_a_model_is_held_to_what_it_claims_and_to_nothing_else(molecules):
    model = model_of(planted.reads_bond_z)
    modest = dataclasses.replace(E3, group="T(3)")
    found = audit(model, molecules, KINDS, claim=modest, effort=SMALL)
    rotation = next(row for row in found.rows if row.check == "rotations")
    assert rotation.status == "not claimed"
    assert rotation.value > 1e-2
    assert "rotations" not in parts(found)


def test_an_approximate_claim_has_a_wider_bar_for_rotations_alone(molecules):
    claim = dataclasses.replace(E3, exact=False)

    def slightly(graph: Graph) -> Tensor:
        return planted.pairs(graph) + 1e-3 * (planted.reads_bond_z(graph) - planted.pairs(graph))

    found = audit(model_of(slightly), molecules, KINDS, claim=claim, effort=SMALL)
    assert found.passed
    assert found.measured_group == "T(3)"
    strict = audit(model_of(slightly), molecules, KINDS, claim=E3, effort=SMALL)
    assert not strict.passed
    gross = audit(model_of(planted.reads_bond_z), molecules, KINDS, claim=claim, effort=SMALL)
    assert "rotations and reflections are above the bar of an approximate symmetry" in gross.verdict


def test_a_grid_of_orientations_is_recognised_by_the_group_that_it_keeps(molecules):
    """A cubic anisotropy: Σ x⁴ + y⁴ + z⁴ of every vector."""

    def cubic(graph: Graph) -> Tensor:
        vec = planted.edge_vectors(graph)
        term = vec.pow(4).sum(1) * torch.exp(-vec.square().sum(1))
        return planted.pairs(graph) + 0.05 * planted.sum_to_receivers(term, graph)

    found = audit(model_of(cubic), molecules, KINDS, claim=dataclasses.replace(E3, exact=False), effort=SMALL)
    assert "The rotations of the octahedral group" in found.verdict
    assert "icosahedral" not in found.verdict


def test_symmetric_structures_find_what_generic_ones_hide(molecules):
    """A function of the principal axes alone is invariant, but for structures that have none of their own."""
    special = build_graph(disordered_molecules(1, seed=3), 4.0)
    corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    cluster = special.replace(pos=torch.cat([corners, -1.7 * corners, torch.zeros(1, 3, dtype=torch.float64)]))
    found = audit(model_of(even_in_axes), molecules, KINDS, claim=dataclasses.replace(E3, continuous=False),
                  effort=SMALL, special=cluster)  # fmt: skip
    checks = {row.check for row in found.rows if row.status == "fail"}
    assert "rotations of symmetric structures" in checks
    assert "rotations" not in checks
    assert "As it admits, the output jumps along a path through equal axes" in found.verdict
    assert "rotations hold on generic structures" in found.verdict


def even_in_axes(graph: Graph) -> Tensor:
    mean = planted.segment_sum(graph.pos, graph.ptr) / graph.ptr.diff()[:, None]
    arms = graph.pos - mean[graph.batch]
    spread = planted.segment_sum(arms[:, :, None] * arms[:, None, :], graph.ptr)
    axes = torch.linalg.eigh(spread).eigenvectors.detach()
    along = torch.einsum("nk,nka->na", arms, axes[graph.batch])
    # forces are held to the energy elsewhere; detached axes keep them finite here
    return planted.pairs(graph) + 0.05 * torch.cos(along * torch.tensor([0.5, 0.9, 1.3], dtype=along.dtype)).prod(1)


def test_infinite_and_missing_outputs_do_not_pass(molecules):
    def broken(graph: Graph) -> dict[str, Tensor]:
        energy = planted.segment_sum(planted.pairs(graph), graph.ptr)
        return {"energy": torch.where(graph.pos[graph.ptr[:-1], 0] > 0.5, math.nan, energy)}

    kinds = {"energy": KINDS["energy"]}
    family = families(molecules, num=6)[0]
    error = finite_errors(broken, molecules, kinds, family)[0]
    assert math.isnan(error.mean)
    with pytest.raises(GeomolError, match='no "forces" per node'):
        run(broken, molecules, KINDS)


def test_relative_errors_are_means_over_means(molecules):
    model, family = model_of(planted.reads_bond_z), families(molecules, num=4, seed=5)[0]
    error = next(e for e in finite_errors(model, molecules, KINDS, family) if e.output == "energy")
    here = model(molecules)["energy"].detach()
    differences = []
    for matrix in random_rotations(4, generator=torch.Generator().manual_seed(5)):
        moved = planted.act_on_graph(about(matrix, centres(molecules)), molecules)
        differences.append(model(moved)["energy"].detach() - here)
    expected = torch.stack(differences).abs().mean() / here.abs().mean()
    assert error.relative == pytest.approx(float(expected), rel=1e-9)


def test_figures_are_json_with_units_in_their_keys(molecules):
    found = audit(model_of(planted.reads_z), molecules, KINDS, claim=E3, effort=SMALL)
    figures = json.loads(json.dumps(found.figures(), allow_nan=False))
    assert figures["passed"] is False
    assert figures["claim"]["group"] == "E(3)"
    first = {check["output"]: check for check in figures["checks"][:2]}
    assert first["energy"]["largest_error_eV"] > 0
    assert first["forces"]["largest_error_eV_per_A"] > 0
    assert figures["lie_derivatives"]["forces"]["rotation_x_eV_per_A_per_rad"] > 0
    assert figures["lee"]["energy_squared_eV"] > 0
    assert "std_over_poses_eV_per_A" in figures["orbits"]["forces"]


def test_equal_seeds_give_equal_audits(molecules):
    first, second = (audit(model_of(planted.reads_z), molecules, KINDS, claim=E3, effort=SMALL) for _ in range(2))
    assert first.figures() == second.figures()


NOISY = Symmetry(group="SO(3)", exact=False, smooth=True, stochastic=True)


class RandomPose:
    """Σ w·R x over random rotations R: invariant on average only; with `biased`, not even then."""

    def __init__(self, *, biased: bool) -> None:
        self.seed, self.biased = 0, biased

    def reseed(self, number: int) -> None:
        self.seed = number

    def __call__(self, graph: Graph) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(self.seed)
        turn = random_rotations(graph.num_graphs, generator=rng)
        arms = graph.pos - centres(graph)[graph.batch]
        seen = torch.einsum("nij,nj->ni", turn[graph.batch], arms) if not self.biased else arms
        noise = torch.randn(graph.num_graphs, generator=rng, dtype=torch.float64)
        return {"label": planted.segment_sum(seen[:, 2].square(), graph.ptr) + 0.1 * noise}


def test_a_symmetry_on_average_is_tested_on_averages(molecules):
    kinds = {"label": TARGETS["label"]}
    effort = dataclasses.replace(SMALL, num_draws=200)
    for biased in (False, True):
        model = RandomPose(biased=biased)
        found = audit(model, molecules, kinds, claim=NOISY, effort=effort, reseed=model.reseed)
        (entry,) = found.expectation
        assert entry.noise > 1e-3
        assert found.passed == (not biased)
        assert (entry.deviations > 4) == biased
        assert ("on average, holds" in found.verdict) == (not biased)
    elements = [planted.identity()] * 4
    assert expected_errors(model, model.reseed, molecules, kinds, elements)[0].draws == 4
