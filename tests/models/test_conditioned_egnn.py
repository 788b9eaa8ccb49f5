"""The network on all pairs: symmetry with all its inputs, padding, conditions, precision, refusals."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from geomol.errors import ConfigError, ModelDomainError
from geomol.geometry import random_rotations
from geomol.graph import Graph, complete_graph
from geomol.models import Features
from geomol.models.conditioned_egnn import ConditionedEGNN, ConditionedLayer

SIZES = [4, 1, 7, 2]
SWITCHES = list(itertools.product([False, True], repeat=3))  # update_pos, step_condition, in_vectors
switches = pytest.mark.parametrize(("update_pos", "step_condition", "in_vectors"), SWITCHES)


def model(**changes: object) -> ConditionedEGNN:
    """With every weight moved off its start: as made, most layers are the identity."""
    settings: dict = {
        "in_scalars": 5,
        "num_conditions": 3,
        "in_vectors": 1,
        "out_scalars": 4,
        "out_vectors": 1,
        "channels": 12,
        "pair_channels": 6,
        "num_vectors": 3,
        "num_layers": 3,
        "num_radial": 6,
        **changes,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = ConditionedEGNN(**settings).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return made


def batch(sizes: list[int] = SIZES, *, vectors: bool = True, seed: int = 0) -> Graph:
    """Each structure's inputs depend on its number of nodes alone, so batches of others can be made."""
    parts = []
    for n in sizes:
        g = torch.Generator().manual_seed(100 * seed + n)
        conditions = torch.rand(3, generator=g, dtype=torch.float64).expand(n, 3)
        draw = torch.randn(n, 8, generator=g, dtype=torch.float64)
        parts.append(torch.cat([draw, conditions], dim=1))
    rows = torch.cat(parts)
    return complete_graph(
        rows[:, :3],
        torch.zeros(len(rows), dtype=torch.long),
        torch.tensor([0, *itertools.accumulate(sizes)]),
        node_scalars=rows[:, 6:],
        node_vectors=rows[:, None, 3:6] if vectors else None,
    )


def run(net: ConditionedEGNN, graph: Graph) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        out: Features = net(graph)
    assert out.vectors is not None
    return out.scalars, out.vectors[:, 0]


def turned(graph: Graph, rotation: Tensor, shift: Tensor) -> Graph:
    vectors = None if graph.node_vectors is None else graph.node_vectors @ rotation.mT
    return graph.replace(pos=graph.pos @ rotation.mT + shift, node_vectors=vectors)


@switches
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scalars_are_invariant_and_vectors_equivariant_under_e3(
    update_pos: bool, step_condition: bool, in_vectors: bool, sign: float
) -> None:
    net = model(update_pos=update_pos, step_condition=step_condition, in_vectors=int(in_vectors))
    graph = batch(vectors=in_vectors)
    rotation = sign * random_rotations(1, generator=torch.Generator().manual_seed(1))[0]
    scalars, vectors = run(net, graph)
    again, moved = run(net, turned(graph, rotation, torch.tensor([3.0, -2.0, 5.0], dtype=torch.float64)))
    assert (again - scalars).abs().max() < 1e-12
    assert (moved - vectors @ rotation.mT).abs().max() < 1e-12
    # the control: vectors are there, and turning is seen
    assert vectors.abs().max() > 0.1
    assert (moved - vectors).abs().max() > 0.1


def test_vectors_that_do_not_turn_along_are_noticed() -> None:
    graph, net = batch(), model()
    rotation = random_rotations(1, generator=torch.Generator().manual_seed(1))[0]
    wrong = graph.replace(pos=graph.pos @ rotation.mT)
    assert (run(net, wrong)[0] - run(net, graph)[0]).abs().max() > 1e-3


@switches
def test_permuted_nodes_give_permuted_results(update_pos: bool, step_condition: bool, in_vectors: bool) -> None:
    net = model(update_pos=update_pos, step_condition=step_condition, in_vectors=int(in_vectors))
    graph = batch([6], vectors=in_vectors)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    other = graph.replace(
        pos=graph.pos[order],
        node_scalars=graph.node_scalars[order],
        node_vectors=None if graph.node_vectors is None else graph.node_vectors[order],
    )
    for got, expected in zip(run(net, other), run(net, graph), strict=True):
        assert (got - expected[order]).abs().max() < 1e-12


@switches
def test_a_structure_alone_is_the_same_in_any_company(update_pos: bool, step_condition: bool, in_vectors: bool) -> None:
    net = model(update_pos=update_pos, step_condition=step_condition, in_vectors=int(in_vectors))
    whole = [part.split(SIZES) for part in run(net, batch(vectors=in_vectors))]
    for number, size in enumerate(SIZES):
        for parts, alone in zip(whole, run(net, batch([size], vectors=in_vectors)), strict=True):
            assert (parts[number] - alone).abs().max() < 1e-10


def test_padding_has_no_gradient() -> None:
    graph, net = batch(), model()
    pos = graph.pos.clone().requires_grad_()
    scalars = net(graph.replace(pos=pos)).scalars
    (gradient,) = torch.autograd.grad(scalars[graph.batch == 2].sum(), pos)
    assert torch.equal(gradient[graph.batch != 2], torch.zeros_like(gradient[graph.batch != 2]))
    assert gradient[graph.batch == 2].abs().max() > 1e-3


def test_every_parameter_and_condition_matters() -> None:
    graph, net = batch(), model(step_condition=True)
    out = net(graph)
    (out.scalars.square().sum() + out.vectors.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    for column in range(5):
        changed = graph.node_scalars.clone()
        changed[:, column] += 0.5
        assert (run(net, graph.replace(node_scalars=changed))[0] - run(net, graph)[0]).abs().max() > 1e-4


def test_conditions_of_one_structure_do_not_reach_another() -> None:
    graph, net = batch(), model()
    changed = graph.node_scalars.clone()
    changed[graph.batch == 0, -3:] += 1.0
    scalars, other = run(net, graph)[0], run(net, graph.replace(node_scalars=changed))[0]
    assert torch.equal(scalars[graph.batch != 0], other[graph.batch != 0])
    assert not torch.allclose(scalars[graph.batch == 0], other[graph.batch == 0])


def test_the_step_condition_is_the_unit_of_moves_not_of_displacements() -> None:
    """With a step of zero positions stay, and the displacement is that of a network that never moved them."""
    graph = batch()
    still = graph.node_scalars.clone()
    still[:, -1] = 0.0
    graph = graph.replace(node_scalars=still)
    moving, fixed = model(step_condition=True), model(step_condition=True, update_pos=False)
    for a, b in zip(run(moving, graph), run(fixed, graph), strict=True):
        assert (a - b).abs().max() < 1e-12
    assert (run(model(), graph)[0] - run(fixed, graph)[0]).abs().max() > 1e-3


def test_an_untrained_network_moves_nothing() -> None:
    torch.manual_seed(0)
    net = ConditionedEGNN(in_scalars=2, out_vectors=1, channels=8, pair_channels=4, num_layers=2)
    out = net(complete_graph(torch.randn(3, 3), torch.zeros(3, dtype=torch.long), torch.tensor([0, 3]),
                             node_scalars=torch.randn(3, 2)))  # fmt: skip
    assert not out.vectors.any()


def test_lengths_are_measured_in_the_length_unit() -> None:
    graph, unit = batch(), 1.72
    scaled = graph.replace(pos=graph.pos * unit, node_vectors=graph.node_vectors * unit)
    scalars, vectors = run(model(), graph)
    again, longer = run(model(length_unit=unit), scaled)
    assert torch.allclose(again, scalars, atol=1e-12)
    assert torch.allclose(longer, vectors * unit, atol=1e-12)


def test_coincident_points_have_finite_values_and_gradients() -> None:
    graph, net = batch([4]), model()
    pos = graph.pos.clone()
    pos[1] = pos[0]
    pos.requires_grad_()
    out = net(graph.replace(pos=pos))
    (gradient,) = torch.autograd.grad(out.scalars.sum() + out.vectors.sum(), pos)
    assert bool(out.vectors.isfinite().all())
    assert bool(gradient.isfinite().all())


def test_float32_weights_lose_nothing_far_from_the_origin() -> None:
    graph = batch()
    net = model().float()
    near, far = run(net, graph)[1], run(net, graph.replace(pos=graph.pos + 1e5))[1]
    assert near.dtype == torch.float32
    assert (far - near).abs().max() < 1e-5
    # the control: positions that are cut off first lose their digits
    lost = run(net, graph.replace(pos=(graph.pos + 1e5).float()))[1]
    assert (lost - near).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_vectors": 2}, "in_vectors and out_vectors are 0 or 1"),
        ({"num_conditions": 6}, "num_conditions counts the last"),
        ({"num_conditions": 0, "step_condition": True}, "num_conditions counts the last"),
        ({"num_conditions": 5}, "node inputs are needed"),
        ({"softness": 0.0}, "softness and length_unit must be positive"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model(**settings)


def test_graphs_that_do_not_fit_are_refused() -> None:
    graph, net = batch(), model()
    with pytest.raises(ConfigError, match=r"node_vectors.*expected 1 vectors, got 0"):
        net(batch(vectors=False))
    with pytest.raises(ConfigError, match=r"node_scalars.*conditions"):
        net(graph.replace(node_scalars=None))
    with pytest.raises(ConfigError, match=r"node_scalars.*2 columns, got 1"):
        net(graph.replace(node_scalars=graph.node_scalars[:, 1:]))
    told = model(elements=[0], in_scalars=3)
    with pytest.raises(ConfigError, match=r"node_scalars.*conditions"):
        told(graph.replace(node_scalars=graph.node_scalars[:, :2]))
    with pytest.raises(ModelDomainError, match="periodic"):
        net(graph.replace(pbc=torch.ones(len(SIZES), 3, dtype=torch.bool)))


# PyTorch looks, hides this warning of its own by other means than a filter, and must not be stopped by ours
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_layers_are_compiled_a_few_times_whatever_shapes_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_module = torch.nn.Module.compile
    compilations = []

    def as_it_stands(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        compilations.append(module)
        return module.forward

    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **settings: compile_module(self, backend=as_it_stands, **settings)
    )
    # the checker of shapes, which is there in tests alone, is nothing to compile
    monkeypatch.setattr(ConditionedLayer, "forward", inspect.unwrap(ConditionedLayer.forward))
    torch.compiler.reset()
    plain, compiled = model(), model()
    compiled.compile_parts()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for sizes in ([5, 4, 5], [6, 6], [7] * 5, [9, 3, 8, 2], [11, 10], [12] * 4, [4, 4]):
            graph = batch(sizes)
            for got, expected in zip(run(compiled, graph), run(plain, graph), strict=True):
                assert (got - expected).abs().max() < 1e-12
            for net in (compiled, plain):
                net.zero_grad()
                net(graph).scalars.square().sum().backward()
            for got, expected in zip(compiled.parameters(), plain.parameters(), strict=True):
                assert (got.grad is None) == (expected.grad is None)
                assert got.grad is None or torch.allclose(got.grad, expected.grad, rtol=1e-9, atol=1e-12)
    # with and without derivatives, the first layer and the others
    assert 0 < len(compilations) <= 4
    torch.compiler.reset()
