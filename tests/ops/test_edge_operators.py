"""gather, reduce, conv and edge_dot: right by slow loops, twice differentiable, registered with PyTorch, repeatable."""

import pytest
import torch

from geomol.graph import Graph
from geomol.ops import conv, edge_dot, gather_receivers, gather_senders, sum_to_receivers

NUM_NODES = 5


def directed_graph(src, dst, num_nodes=NUM_NODES):
    """Edges of one direction only: an operator that mixes up sender and receiver shows."""
    src, dst = torch.tensor(src, dtype=torch.int64), torch.tensor(dst, dtype=torch.int64)
    counts = torch.bincount(dst, minlength=num_nodes)
    return Graph(
        pos=torch.zeros(num_nodes, 3),
        numbers=torch.zeros(num_nodes, dtype=torch.int64),
        edge_index=torch.stack([src, dst]),
        edge_ptr=torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]),
        cell_shift=torch.zeros(len(src), 3, dtype=torch.int64),
        cell=torch.zeros(1, 3, 3),
        pbc=torch.zeros(1, 3, dtype=torch.bool),
        batch=torch.zeros(num_nodes, dtype=torch.int64),
        ptr=torch.tensor([0, num_nodes]),
    )


@pytest.fixture(params=["edges", "none"])
def graph(request):
    """A node without edges, one that only sends, one that only receives, an edge given twice; or no edges."""
    if request.param == "none":
        return directed_graph(src=[], dst=[])
    return directed_graph(src=[4, 1, 4, 1, 1, 0, 4], dst=[0, 0, 1, 3, 3, 3, 3])


def values(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_a_directed_edge_carries_from_its_sender_to_its_receiver():
    """PyG order: row 0 sends, row 1 receives."""
    edge = directed_graph(src=[0], dst=[1], num_nodes=2)
    x, w = torch.tensor([[2.0], [7.0]]), torch.tensor([[3.0]])
    assert gather_senders(x, edge).tolist() == [[2.0]]
    assert gather_receivers(x, edge).tolist() == [[7.0]]
    assert sum_to_receivers(w, edge).tolist() == [[0.0], [3.0]]
    assert conv(x, w, edge).tolist() == [[0.0], [6.0]]
    assert edge_dot(x, x + 1, edge).tolist() == [[2.0 * 8.0]]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_operators_agree_with_loops_over_edges(graph, shape):
    x, y, w = values(NUM_NODES, *shape), values(NUM_NODES, *shape, seed=1), values(graph.num_edges, *shape, seed=2)
    summed, convolved = torch.zeros_like(x), torch.zeros_like(x)
    for e, (j, i) in enumerate(graph.edge_index.t().tolist()):
        summed[i] = summed[i] + w[e]
        convolved[i] = convolved[i] + x[j] * w[e]
        assert torch.equal(gather_senders(x, graph)[e], x[j])
        assert torch.equal(gather_receivers(x, graph)[e], x[i])
        assert torch.equal(edge_dot(x, y, graph)[e], x[j] * y[i])
    torch.testing.assert_close(sum_to_receivers(w, graph), summed, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(conv(x, w, graph), convolved, rtol=1e-14, atol=1e-14)
    assert edge_dot(x, y, graph).shape == w.shape


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_weights_of_one_are_shared_along_their_axis(graph, shape):
    x, w = values(NUM_NODES, 3, 2), values(graph.num_edges, *shape, seed=1)
    torch.testing.assert_close(conv(x, w, graph), conv(x, w.expand(-1, 3, 2).contiguous(), graph), rtol=0, atol=0)
    torch.autograd.gradcheck(lambda x, w: conv(x, w, graph), (x, w))
    torch.autograd.gradgradcheck(lambda x, w: conv(x, w, graph), (x, w))


OPERATORS = {
    "gather_senders": (lambda x, y, w, g: gather_senders(x, g)),
    "gather_receivers": (lambda x, y, w, g: gather_receivers(x, g)),
    "sum_to_receivers": (lambda x, y, w, g: sum_to_receivers(w, g)),
    "conv": (lambda x, y, w, g: conv(x, w, g)),
    "edge_dot": (lambda x, y, w, g: edge_dot(x, y, g)),
    # forces are first derivatives of such a chain, training on forces second ones
    "chain": (lambda x, y, w, g: conv(x, torch.tanh(edge_dot(x, y, g)) * gather_senders(y, g) * w, g)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_derivatives_agree_with_finite_differences_twice(name, graph):
    x, y, w = values(NUM_NODES, 2), values(NUM_NODES, 2, seed=1), values(graph.num_edges, 2, seed=2)
    used = {"gather_senders": "x", "gather_receivers": "x", "sum_to_receivers": "w", "conv": "xw", "edge_dot": "xy"}
    names = used.get(name, "xyw")
    inputs = {"x": x, "y": y, "w": w}

    def function(*free):
        given = inputs | dict(zip(names, free, strict=True))
        return OPERATORS[name](given["x"], given["y"], given["w"], graph)

    free = tuple(inputs[letter] for letter in names)
    assert torch.autograd.gradcheck(function, free)
    assert torch.autograd.gradgradcheck(function, free)


def test_gradcheck_rejects_a_wrong_derivative():
    """Control: a derivative that forgets one of its two parts is seen."""
    graph = directed_graph(src=[4, 1, 4, 1, 1, 0, 4], dst=[0, 0, 1, 3, 3, 3, 3])
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda x: edge_dot(x, x.detach(), graph), (values(NUM_NODES, 2),))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_operators_are_registered_as_pytorch_asks():
    """Schema, fake kernels, autograd registration, and agreement under ahead-of-time tracing."""
    graph = directed_graph(src=[4, 1, 4, 1, 1, 0, 4], dst=[0, 0, 1, 3, 3, 3, 3])
    send, receive = (graph.src, graph.send_ptr, graph.send_perm), (graph.dst, graph.edge_ptr, None)
    x, y, w = values(NUM_NODES, 2), values(NUM_NODES, 2, seed=1), values(7, 2, seed=2)
    for operator, args in (
        (torch.ops.geomol.gather, (x, *send)),
        (torch.ops.geomol.reduce, (w, *send)),
        (torch.ops.geomol.conv, (x, w, *send, *receive)),
        (torch.ops.geomol.edge_dot, (x, y, *send, *receive)),
    ):
        assert set(torch.library.opcheck(operator.default, args).values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_repeated_runs_are_equal_bit_for_bit(dtype):
    generator = torch.Generator().manual_seed(0)
    dst = torch.randint(50, (4000,), generator=generator).sort().values
    graph = directed_graph(torch.randint(50, (4000,), generator=generator).tolist(), dst.tolist(), 50)
    x = torch.randn(50, 16, generator=generator, dtype=dtype, requires_grad=True)
    w = torch.randn(4000, 16, generator=generator, dtype=dtype, requires_grad=True)

    def run():
        out = conv(x, w, graph)
        grads = torch.autograd.grad(out.square().sum(), (x, w), create_graph=True)
        return out, *grads, *torch.autograd.grad(sum(g.square().sum() for g in grads), (x, w))

    first = run()
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


def test_only_the_inputs_that_need_it_are_differentiated(graph):
    x, w = values(NUM_NODES, 2), values(graph.num_edges, 2)
    assert not conv(x.detach(), w.detach(), graph).requires_grad
    conv(x, w.detach(), graph).sum().backward()
    assert x.grad is not None
    assert w.grad is None
    before = x.detach().clone()
    conv(x.detach(), w.detach(), graph)
    edge_dot(x.detach(), x.detach(), graph)
    assert torch.equal(x.detach(), before)  # nothing is multiplied in place
