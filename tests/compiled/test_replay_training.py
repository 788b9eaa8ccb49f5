"""Replayed training steps, with a stand-in for the CUDA graphs (`replay_stand_in.py`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ase.build import bulk, molecule
from replay_stand_in import TrainingOnCPU
from torch import Tensor

from geomol.compiled import ReplayedTraining
from geomol.errors import ConfigError, GeomolError
from geomol.graph import Graph, build_graph
from geomol.models import EGNN, Ponita
from geomol.potential import Potential, Prediction


@pytest.fixture(params=["egnn", "ponita"])
def potential(request: pytest.FixtureRequest) -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = {"elements": [1, 6, 8, 29], "channels": 8, "num_layers": 2, "cutoff": 4.0}
        backbone = EGNN(**small) if request.param == "egnn" else Ponita(**small, num_radial=3)
    return Potential(backbone, elements=[1, 6, 8, 29], e0=[-1.0, -2.0, -3.0, -4.0]).double()


def batch(names: list[str], seed: int) -> Graph:
    found = []
    for name in names:
        atoms = bulk("Cu", cubic=True) if name == "Cu" else molecule(name)
        atoms.rattle(0.05, seed=seed)
        found.append(atoms)
    return build_graph(found, 4.0)


def loss_of(out: Prediction) -> Tensor:
    value = out.energy.sin().sum() + (out.forces**3).sum() + (out.node_energy**2).sum()
    return value if out.stress is None else value + out.stress.square().sum()


def gradients(model: Any, graph: Graph, **wanted: Any) -> list[Tensor]:
    weights = [p for p in model.parameters() if p.requires_grad]
    loss = loss_of(model(graph, create_graph=True, **wanted))
    return list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True))


def assert_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10 * float(1 + b.abs().max()))


@pytest.mark.parametrize(("backend", "stress"), [(None, False), (None, True), ("inductor", False)])
def test_batches_of_many_sizes_have_the_gradients_of_the_potential(
    potential: Potential, backend: str | None, stress: bool
) -> None:
    if backend and isinstance(potential.backbone, Ponita):
        pytest.skip("one backbone through Inductor is enough: compiling takes a minute")
    replayed = TrainingOnCPU(potential, backend=backend)
    other = ["Cu", "Cu"] if stress else ["H2O", "CH4"]
    for seed, names in enumerate([["Cu", "Cu"] if stress else ["CH3CH2OH", "CH4"], other]):
        graph = batch(names, seed)
        out, expected = (m(graph, stress=stress, create_graph=True) for m in (replayed, potential))
        torch.testing.assert_close(out.energy, expected.energy, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(out.forces, expected.forces, rtol=1e-10, atol=1e-12)
        del out
        assert_equal(gradients(replayed, graph, stress=stress), gradients(potential, graph, stress=stress))
    assert replayed.recordings == 1


def test_room_grows_and_every_number_of_structures_has_its_own(potential: Potential) -> None:
    replayed = TrainingOnCPU(potential, slack=1.0)
    for names in (["H2O", "H2O"], ["CH3CH2OH", "CH4"], ["H2O", "H2O"], ["CH4"]):
        graph = batch(names, 0)
        assert_equal(gradients(replayed, graph), gradients(potential, graph))
    assert replayed.recordings == 3


def test_a_pass_before_the_derivatives_of_the_last_goes_another_way(potential: Potential) -> None:
    """As REMUL does it: two passes, then one sum is differentiated. A recording would have overwritten the first."""
    replayed = TrainingOnCPU(potential)
    graphs = [batch(["CH3CH2OH", "CH4"], seed) for seed in range(2)]
    weights = [p for p in potential.parameters() if p.requires_grad]
    found = []
    for model in (replayed, potential):
        loss = sum(loss_of(model(graph, create_graph=True)) for graph in graphs)
        found.append(list(torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)))
    assert_equal(*found)
    assert replayed.recordings == 1
    assert len(replayed.otherwise.seconds) == 1  # the second pass was computed there
    dropped = replayed(graphs[0], create_graph=True)
    del dropped  # nobody can ask for its derivatives any more
    assert_equal(gradients(replayed, graphs[0]), gradients(potential, graphs[0]))


def test_derivatives_may_be_asked_for_twice_but_not_too_late(potential: Potential) -> None:
    replayed = TrainingOnCPU(potential)
    weights = [p for p in potential.parameters() if p.requires_grad]
    graph = batch(["CH3CH2OH", "CH4"], 0)
    loss = loss_of(replayed(graph, create_graph=True))
    first, second = (torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True) for _ in range(2))
    assert all(a is None if b is None else torch.equal(a, b) for a, b in zip(first, second, strict=True))
    again = replayed(batch(["CH3CH2OH", "CH4"], 1), create_graph=True)
    with pytest.raises(GeomolError, match="differentiated again after another one had run"):
        torch.autograd.grad(loss, weights, allow_unused=True)
    assert again.energy.requires_grad


def test_gradients_add_up_over_passes(potential: Potential) -> None:
    """Where gradients of several batches are gathered before a step: none may lie in the memory of a recording."""
    replayed = TrainingOnCPU(potential)
    sums = []
    for model in (replayed, potential):
        potential.zero_grad()
        for seed in range(3):
            loss_of(model(batch(["CH3CH2OH", "CH4"], seed), create_graph=True)).backward()
        sums.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in potential.parameters()])
    assert_equal(*sums)


def test_what_no_recording_serves_is_computed_all_the_same(potential: Potential) -> None:
    replayed = TrainingOnCPU(potential)
    graph = batch(["H2O", "CH4"], 0)
    torch.testing.assert_close(replayed(graph).forces, potential(graph).forces)
    torch.testing.assert_close(replayed(graph, forces=False).energy, potential(graph).energy)
    assert replayed.recordings == 0


def test_without_a_device_it_says_so(potential: Potential) -> None:
    with pytest.raises(ConfigError, match="CUDA graphs need a CUDA device"):
        ReplayedTraining(potential)
    with pytest.raises(ConfigError, match="slack must be at least 1"):
        TrainingOnCPU(potential, slack=0.9)
