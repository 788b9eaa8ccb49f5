"""Frame averaging lends its symmetry to a network that has none; with robust frames the energy is smooth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor, nn

from geomol import checks
from geomol.errors import ConfigError, GeomolWarning, ModelDomainError
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph, edge_vectors
from geomol.models import Features, Symmetry
from geomol.ops import gather_senders, sum_to_receivers
from geomol.potential import Potential
from geomol.symmetry.frame_averaging import FrameAveraging


class Raw(nn.Module):
    """A network that reads the components of vectors as they come: no symmetry but that of translations."""

    cutoff = float("inf")

    def __init__(self, *, absolute: bool = False) -> None:
        super().__init__()
        self.absolute = absolute
        self.symmetry = Symmetry("1" if absolute else "T(3)", exact=True, smooth=True)
        self.config: dict[str, object] = {"absolute": absolute}
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.first, self.last = nn.Linear(4, 16).double(), nn.Linear(16, 4).double()

    def forward(self, graph: Graph) -> Features:
        sender = gather_senders(graph.numbers[:, None].double(), graph)
        hidden = sum_to_receivers(
            torch.tanh(self.first(torch.cat([edge_vectors(graph).double(), sender / 8], dim=1))), graph
        )
        if self.absolute or graph.num_edges == 0:
            hidden = hidden + torch.tanh(self.first(torch.cat([graph.pos.double(), graph.numbers[:, None] / 8], dim=1)))
        if graph.node_vectors is not None:
            hidden = hidden + torch.tanh(graph.node_vectors[:, 0] @ self.first.weight[:, :3].T)
        out = self.last(torch.tanh(0.3 * hidden))
        return Features(out[:, :1], out[:, None, 1:])


class Echo(nn.Module):
    """Gives back positions, and a constant vector."""

    cutoff, symmetry = float("inf"), Symmetry("1", exact=True, smooth=True)
    config: dict[str, object] = {}  # noqa: RUF012

    def forward(self, graph: Graph) -> Features:
        constant = torch.eye(3, dtype=graph.pos.dtype)[0].expand_as(graph.pos)
        return Features(graph.pos[:, :1], torch.stack([graph.pos, constant], dim=1))


def generic(seed: int = 0, num: int = 9) -> Atoms:
    rng = np.random.default_rng(seed)
    return Atoms(rng.choice([1, 6, 7, 8], num), positions=1.5 * rng.normal(size=(num, 3)))


def moved(graph: Graph, g: Tensor, *, shift: float = 0.0) -> Graph:
    vectors = None if graph.node_vectors is None else graph.node_vectors @ g
    return graph.replace(pos=graph.pos @ g + shift, node_vectors=vectors)


def turn(seed: int = 0) -> Tensor:
    return random_rotations(1, generator=torch.Generator().manual_seed(seed))[0]


def about_z(angle: float) -> Tensor:
    c, s = np.cos(angle), np.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)


def differences(model: nn.Module, graph: Graph, g: Tensor, *, shift: float = 0.0) -> float:
    """Largest change of scalars, and of vectors against the turned ones."""
    before, after = model(graph), model(moved(graph, g, shift=shift))
    assert before.vectors is not None
    assert float(before.vectors.detach().abs().max()) > 1e-3
    error = max((after.scalars - before.scalars).abs().max(), (after.vectors - before.vectors @ g).abs().max())
    return float(error.detach())


def potential_of(**settings: Any) -> Potential:
    backbone = FrameAveraging(backbone=Raw(), **settings)
    return Potential(backbone, elements=[1, 6, 7, 8], e0=[0.0] * 4, allow_discontinuous=True)


# what full averages promise


@pytest.mark.parametrize("frames", ["pca", "robust", "single", "stochastic"])
@pytest.mark.parametrize("group", ["SE(3)", "E(3)"])
@pytest.mark.parametrize("absolute", [False, True])
def test_any_network_becomes_exactly_symmetric(frames: str, group: str, absolute: bool) -> None:
    model = FrameAveraging(backbone=Raw(absolute=absolute), frames=frames, group=group).eval()
    for seed in range(5):
        graph = build_graph([generic(seed), generic(seed + 50, 5)], model.cutoff)
        velocity = torch.randn(14, 1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for given in (graph, graph.replace(node_vectors=velocity)):
            assert differences(model, given, turn(seed), shift=3.0) < 1e-12
            error = differences(model, given, -turn(seed))
            assert error < 1e-12 if group == "E(3)" else error > 1e-4


def test_the_network_itself_has_no_symmetry() -> None:
    graph = build_graph(generic(), float("inf"))
    assert differences(Raw(), graph, turn()) > 0.1
    assert differences(Raw(absolute=True), graph, torch.eye(3).double(), shift=1.0) > 0.01


@pytest.mark.parametrize("frames", ["pca", "robust"])
def test_groups_without_translations_turn_about_the_centroid_and_keep_it(frames: str) -> None:
    model = FrameAveraging(backbone=Raw(absolute=True), frames=frames, group="O(3)")
    graph = build_graph(generic(), model.cutoff)
    for g in (turn(), -turn()):
        about = graph.pos.mean(0) - graph.pos.mean(0) @ g
        before, after = model(graph), model(graph.replace(pos=graph.pos @ g + about))
        torch.testing.assert_close(after.scalars, before.scalars, rtol=0, atol=1e-12)
    assert differences(model, graph, torch.eye(3).double(), shift=1.0) > 1e-3


@pytest.mark.parametrize("frames", ["pca", "robust"])
def test_positions_come_back_and_constants_vanish(frames: str) -> None:
    graph = build_graph(generic(), float("inf"))
    for group in ("SE(3)", "E(3)"):
        vectors = FrameAveraging(backbone=Echo(), frames=frames, group=group)(graph).vectors
        torch.testing.assert_close(vectors[:, 0], graph.pos - graph.pos.mean(0))
    if frames == "pca":
        assert float(vectors[:, 1].abs().max()) < 1e-15


def test_order_of_the_axes_matters_to_the_result_and_not_to_its_symmetry() -> None:
    graph = build_graph(generic(), float("inf"))
    up, down = (FrameAveraging(backbone=Raw(), frames="pca", order=order) for order in ("ascending", "descending"))
    assert differences(down, graph, turn()) < 1e-12
    assert float((up(graph).scalars - down(graph).scalars).detach().abs().max()) > 1e-4


def test_planar_frames_turn_about_z_alone() -> None:
    model = FrameAveraging(backbone=Raw(), frames="pca2d")
    graph = build_graph(generic(), model.cutoff)
    assert differences(model, graph, about_z(1.0)) < 1e-12
    assert differences(model, graph, turn()) > 1e-3
    absolute = FrameAveraging(backbone=Raw(absolute=True), frames="pca2d")
    assert differences(absolute, graph, torch.eye(3).double(), shift=1.0) > 1e-4, "z is passed on as it is"


def test_permutations_and_batches_change_nothing() -> None:
    for frames in ("pca", "robust", "single"):
        model = FrameAveraging(backbone=Raw(), frames=frames)
        structures = [generic(0), molecule("CO2"), generic(1, 4)] if frames == "robust" else [generic(0), generic(1, 4)]
        together = model(build_graph(structures, model.cutoff)).scalars
        alone = torch.cat([model(build_graph(a, model.cutoff)).scalars for a in structures])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
        order = np.random.default_rng(0).permutation(9)
        permuted = model(build_graph(generic(0)[order], model.cutoff)).scalars
        torch.testing.assert_close(permuted, together[:9][order], rtol=0, atol=1e-12)


# one frame at random


def test_random_frames_repeat_with_the_draw_and_average_to_the_full_set() -> None:
    model = FrameAveraging(backbone=Raw(), frames="stochastic").train()
    full = FrameAveraging(backbone=Raw(), frames="pca")
    graph = build_graph([generic(k) for k in range(4)], model.cutoff)
    draws = []
    for draw in range(400):
        model.reseed(draw)
        draws.append(model(graph).scalars.detach())
    model.reseed(7)
    assert torch.equal(model(graph).scalars, draws[7])
    assert not torch.equal(draws[7], draws[8])
    spread = torch.stack(draws).std(0)
    error = (torch.stack(draws).mean(0) - full(graph).scalars.detach()).abs()
    assert float(spread.min()) > 1e-4
    assert float((error / spread).max()) < 5 / 20
    model.eval()
    torch.testing.assert_close(model(graph).scalars, full(graph).scalars)


def test_one_frame_in_evaluation_repeats_and_is_claimed_as_stochastic() -> None:
    model = FrameAveraging(backbone=Raw(), frames="stochastic", evaluation="one").eval()
    structures = [generic(k) for k in range(4)]
    together = model(build_graph(structures, model.cutoff)).scalars
    model.reseed(5)
    alone = torch.cat([model(build_graph(a, model.cutoff)).scalars for a in structures])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    assert model.symmetry.stochastic
    assert not FrameAveraging(backbone=Raw(), frames="stochastic").symmetry.stochastic


# degenerate structures


@pytest.mark.parametrize("name", ["H", "N2", "CO2", "C6H6", "CH4", "cubane"])
def test_symmetric_molecules_are_finite_and_invariant_with_robust_frames(name: str) -> None:
    atoms = checks.with_elements(checks.symmetric_molecules()[name], [6, 1, 8, 7])
    potential = potential_of()
    energy, forces = checks.rotation_errors(potential, atoms, 3)
    mirrored = checks.rotation_errors(potential, atoms, 3, reflect=True)
    assert max(energy, mirrored[0]) < 1e-12
    assert max(forces, mirrored[1]) < 1e-10
    if len(atoms) > 1:
        assert checks.force_error(potential, atoms) < 1e-6


def test_pca_frames_of_methane_are_finite_and_said_to_be_arbitrary() -> None:
    model = FrameAveraging(backbone=Raw(), frames="pca")
    graph = build_graph(checks.symmetric_molecules()["CH4"], model.cutoff)
    graph = graph.replace(pos=graph.pos.requires_grad_())
    with pytest.warns(GeomolWarning, match='1 of 1 structures have equal principal moments .* use frames="robust"'):
        out = model(graph)
    (gradient,) = torch.autograd.grad(out.scalars.sum(), graph.pos, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), graph.pos)
    assert bool(torch.isfinite(second).all())
    error = differences(model, graph.replace(pos=graph.pos.detach()), turn())  # and the warning comes once
    assert error > 1e-3


def test_linear_molecules_have_useful_pca_frames() -> None:
    model = FrameAveraging(backbone=Raw(), frames="pca")
    for name in ("H", "N2", "CO2"):
        graph = build_graph(checks.symmetric_molecules()[name], model.cutoff)
        before, after = model(graph).scalars, model(moved(graph, turn())).scalars
        torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


# energies and forces


def crossing(eps: float) -> Atoms:
    """A molecule whose two larger principal moments cross at eps = 0, in a general orientation."""
    atoms = generic(3)
    pos = atoms.positions - atoms.positions.mean(0)
    pos = pos @ np.linalg.eigh(pos.T @ pos)[1]
    pos *= np.array([3.0, 4.5, 4.5]) / np.sqrt((pos**2).sum(0))
    tilt = np.eye(3)
    tilt[1, 2] = tilt[2, 1] = eps
    return Atoms(atoms.numbers, positions=pos @ tilt @ turn(4).numpy())


def test_forces_are_minus_the_gradient_through_a_crossing_of_moments() -> None:
    """[7] with robust frames; the energy of plain PCA frames jumps there."""
    robust, plain = potential_of(), potential_of(frames="pca")
    for eps in (0.0, 1e-8, 1e-4, -1e-3):
        assert checks.force_error(robust, crossing(eps)) < 1e-6
    sides = [crossing(1e-8), crossing(-1e-8)]
    assert float(np.ptp(checks.energy_of(robust, sides))) < 1e-6
    with pytest.warns(GeomolWarning, match="equal principal moments"):
        assert float(np.ptp(checks.energy_of(plain, sides))) > 1e-3


def test_forces_are_the_gradient_only_if_frames_have_derivatives() -> None:
    for frames in ("pca", "robust", "single"):
        assert checks.force_error(potential_of(frames=frames), generic(5)) < 1e-7
        assert checks.force_error(potential_of(frames=frames, differentiable=False), generic(5)) > 1e-3


def test_net_force_and_torque_vanish() -> None:
    assert max(checks.net_force_and_torque(potential_of(), generic(2))) < 1e-12


def test_training_on_forces_reaches_the_backbone() -> None:
    potential = potential_of()
    out = potential(build_graph([generic(0), molecule("CO2")], potential.cutoff), create_graph=True)
    out.forces.square().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in potential.parameters() if p.grad is not None)
    assert float(potential.backbone.backbone.first.weight.grad.abs().max()) > 0


def test_single_precision_positions_give_single_precision_accuracy() -> None:
    model = FrameAveraging(backbone=Raw())
    atoms = [*(generic(k) for k in range(5)), molecule("CO2"), molecule("CH4")]
    for graph in (build_graph(a, model.cutoff) for a in atoms):
        exact, rounded = (model(graph.to(dtype=dtype)).scalars for dtype in (torch.float64, torch.float32))
        torch.testing.assert_close(rounded, exact, rtol=0, atol=2e-5)


# settings


def test_periodic_structures_need_consent() -> None:
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=0)
    for frames in ("pca", "robust"):
        model = FrameAveraging(backbone=Raw(), frames=frames)
        with pytest.raises(ModelDomainError, match=r"change when its atoms are wrapped.*set periodic=True"):
            model(build_graph(crystal, 4.0))
        allowed = FrameAveraging(backbone=Raw(), frames=frames, periodic=True)
        graph = build_graph(crystal, 4.0)
        turned = graph.replace(pos=graph.pos @ turn(), cell=graph.cell @ turn())
        torch.testing.assert_close(allowed(turned).scalars, allowed(graph).scalars, rtol=0, atol=1e-11)


def test_claims_are_those_of_the_frames() -> None:
    robust = FrameAveraging(backbone=Raw()).symmetry
    assert (robust.group, robust.exact, robust.continuous, robust.separable) == ("E(3)", True, True, False)
    plain = FrameAveraging(backbone=Raw(), frames="pca", group="SE(3)").symmetry
    assert (plain.group, plain.continuous, plain.separable, plain.stochastic) == ("SE(3)", False, False, False)
    assert robust.smooth
    assert not FrameAveraging(backbone=Raw(), differentiable=False).symmetry.smooth
    assert FrameAveraging(backbone=Raw(), frames="pca2d").symmetry.group == "T(3)"
    assert FrameAveraging(backbone=Echo(), frames="stochastic2d").symmetry.group == "1"


def test_settings_rebuild_the_same_wrapper() -> None:
    model = FrameAveraging(backbone=Raw(), frames="stochastic", group="SO(3)", evaluation="one", seed=4)
    again = FrameAveraging(backbone=Raw(), **model.config).eval()  # type: ignore[arg-type]
    graph = build_graph(generic(), model.cutoff)
    assert again.config == model.config
    assert torch.equal(again(graph).scalars, model.eval()(graph).scalars)


def test_unknown_settings_are_refused() -> None:
    for settings in ({"group": "T(3)"}, {"frames": "det"}, {"order": "up"}, {"evaluation": "none"}):
        with pytest.raises(ConfigError, match=f"unknown {next(iter(settings))} of frame averaging, expected"):
            FrameAveraging(backbone=Raw(), **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="between 0 and 1"):
        FrameAveraging(backbone=Raw(), bound=1.0)
