"""Forward-mode derivatives: PyTorch would take those of our operators for zero, so they are refused."""

import pytest
import torch
from ase.build import bulk
from torch.autograd import forward_ad

from geomol.graph import build_graph
from geomol.models import EGNN, FAENet, Ponita
from geomol.ops import conv, edge_dot, mix_orientations, segment_sum
from geomol.potential import Potential

GRAPH = build_graph(bulk("Cu", cubic=True), 3.0)
X, W = torch.randn(4, 2, dtype=torch.float64), torch.randn(GRAPH.num_edges, 2, dtype=torch.float64)
K = torch.randn(3, 2, 2, dtype=torch.float64)
OPERATORS = {
    "conv of features": (lambda x: conv(x, W, GRAPH), X),
    "conv of weights": (lambda w: conv(X, w, GRAPH), W),
    "edge_dot": (lambda x: edge_dot(X, x, GRAPH), X),
    "segment_sum": (lambda x: segment_sum(x, torch.tensor([0, 1, 4])), X),
    "mixing": (lambda x: mix_orientations(x.view(2, 2, 2), K), X),
}


@pytest.mark.parametrize(("function", "x"), OPERATORS.values(), ids=OPERATORS)
def test_no_operator_drops_a_tangent(function, x):
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jvp(function, (x,), (torch.ones_like(x),))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="reverse mode"):
        function(forward_ad.make_dual(x, torch.ones_like(x)))


BACKBONES = {
    "egnn": EGNN(elements=[29], channels=4, num_layers=1, cutoff=3.0),  # of PyTorch's own operators on a CPU
    "ponita": Ponita(elements=[29], channels=4, num_layers=1, cutoff=3.0),
    "faenet": FAENet(elements=[29], cutoff=3.0),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_potential_gives_the_right_derivative_or_none(name):
    potential = Potential(BACKBONES[name], elements=[29], e0=[0.0], allow_discontinuous=True).double()
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=0)
    graph = build_graph(crystal, 3.0)
    step = torch.randn(4, 3, dtype=torch.float64)
    with forward_ad.dual_level():
        moved = graph.replace(pos=forward_ad.make_dual(graph.pos, step))
        try:
            with torch.no_grad():
                tangent = forward_ad.unpack_dual(potential.node_energy(moved)).tangent
        except NotImplementedError:
            assert name != "egnn"
        else:
            assert float(tangent.sum()) == pytest.approx(-float((potential(graph).forces * step).sum()), rel=1e-9)


def test_a_level_without_tangents_is_no_matter():
    with forward_ad.dual_level():
        assert conv(X, W, GRAPH).shape == X.shape
