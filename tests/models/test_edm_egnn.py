"""The EGNN of EDM: published sizes and numbers, symmetry, and what it departs in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusion.edm_case import read_edm
from torch import Tensor, nn

from geomol.diffusion.cloud import Cloud
from geomol.errors import ConfigError
from geomol.graph import Graph, complete_graph
from geomol.models.edm_egnn import EDMEGNN

QM9: dict[str, Any] = {"in_scalars": 7, "out_scalars": 7}
GEOM: dict[str, Any] = {"in_scalars": 17, "out_scalars": 17, "num_layers": 4}
CONDITIONAL: dict[str, Any] = {"in_scalars": 7, "out_scalars": 7, "channels": 192}
DYNAMICS = ["dynamics", "dynamics_sin_context", "dynamics_mean"]
VARIANTS: dict[str, dict[str, Any]] = {
    "released": {},
    "two rounds": {"inv_sublayers": 2, "attention": False, "tanh": False, "normalization_factor": 10.0},
    "sines": {"sin_embedding": True, "norm_constant": 0.0},
    "mean": {"aggregation": "mean"},
}
every_variant = pytest.mark.parametrize("variant", list(VARIANTS))


def make(variant: str = "released", **changes: Any) -> EDMEGNN:
    """A small model with all its parameters moved off their start, so that every one of them matters."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        settings = {"in_scalars": 4, "out_scalars": 3, "channels": 8, "num_layers": 2, **VARIANTS[variant], **changes}
        model = EDMEGNN(**settings).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def batch(*sizes: int, seed: int = 0) -> Graph:
    """Complete graphs of random points with four scalars each."""
    gen = torch.Generator().manual_seed(seed)
    pos, scalars = (torch.randn(sum(sizes), k, generator=gen, dtype=torch.float64) for k in (3, 4))
    blank = torch.zeros(sum(sizes), dtype=torch.long)
    return complete_graph(1.5 * pos, blank, torch.tensor([0, *sizes]).cumsum(0), node_scalars=scalars)


def turn() -> Tensor:
    """A rotation with a reflection."""
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    return -q * torch.linalg.det(q).sign()


# published sizes and numbers


@pytest.mark.parametrize(
    ("settings", "count"), [(QM9, 5_339_920), (GEOM, 2_380_565), (CONDITIONAL, 3_009_616)], ids=["qm9", "geom", "alpha"]
)
def test_the_released_models_have_their_published_size(settings: dict[str, Any], count: int) -> None:
    assert sum(p.numel() for p in EDMEGNN(**settings).parameters()) == count


@pytest.mark.parametrize("name", DYNAMICS)
def test_official_weights_give_the_official_noise_and_gradient(name: str, golden: Path) -> None:
    case = read_edm(golden, name)
    z = case.flat("z").requires_grad_()
    context = case.flat("context") if "context" in case.arrays else None
    out = case.eps()(Cloud(z[:, :3], z[:, 3:], case.ptr), case.arrays["t"][:, 0], context)
    both = torch.cat([out.pos, out.feats], dim=1)
    torch.testing.assert_close(both, case.flat("net_out"), **case.tolerance)
    (grad,) = torch.autograd.grad((both * case.flat("probe")).sum(), z)
    torch.testing.assert_close(grad, case.flat("grad_z"), **case.tolerance)


@pytest.mark.parametrize("wrong", [{"attention": False}, {"norm_constant": 0.0}, {"tanh": False}], ids=str)
def test_with_other_settings_the_official_noise_is_missed(wrong: dict[str, Any], golden: Path) -> None:
    """The control of the test above."""
    case = read_edm(golden, "dynamics")
    out = case.eps(**wrong)(case.cloud("z"), case.arrays["t"][:, 0])
    assert (out.pos - case.flat("net_out")[:, :3]).abs().max() > 1e-3


# symmetry


@every_variant
def test_scalars_are_invariant_and_displacements_turn_along(variant: str) -> None:
    model, graph, q = make(variant), batch(5, 1, 7), turn()
    shift = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
    out, turned = model(graph), model(graph.replace(pos=graph.pos @ q.T + shift))
    assert out.scalars.std() > 1e-3
    assert out.vectors is not None
    assert out.vectors.abs().max() > 1e-2
    # sines of 429 d, of the shortest wavelength, enlarge the rounding of distances as much
    floor = 1e-8 if variant == "sines" else 1e-11
    torch.testing.assert_close(turned.scalars, out.scalars, rtol=floor, atol=floor)
    torch.testing.assert_close(turned.vectors, out.vectors @ q.T, rtol=floor, atol=floor)
    assert model.symmetry.group == "E(3)"
    assert model.symmetry.exact


def test_a_network_fed_with_coordinates_is_not_invariant() -> None:
    """The control of the test above."""
    model, graph, q = make(), batch(6), turn()
    assert graph.node_scalars is not None
    fed = torch.cat([graph.pos, graph.node_scalars[:, :1]], dim=1)
    turned = torch.cat([graph.pos @ q.T, graph.node_scalars[:, :1]], dim=1)
    error = (
        model(graph.replace(node_scalars=fed)).scalars
        - model(graph.replace(pos=graph.pos @ q.T, node_scalars=turned)).scalars
    )
    assert error.abs().max() > 1e-3


@every_variant
def test_structures_of_a_batch_do_not_feel_each_other(variant: str) -> None:
    model, graph = make(variant), batch(5, 1, 7)
    alone = batch(7).replace(pos=graph.pos[6:], node_scalars=graph.node_scalars[6:])  # type: ignore[index]
    together, single = model(graph), model(alone)
    torch.testing.assert_close(together.scalars[6:], single.scalars, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(together.vectors[6:], single.vectors, rtol=1e-13, atol=1e-13)


def test_the_mean_is_over_real_neighbours() -> None:
    """Unlike the authors' code, where padding counts: see `official`."""
    graph, mean = batch(6), make("mean")
    as_sum = make(normalization_factor=5.0)
    torch.testing.assert_close(mean(graph).scalars, as_sum(graph).scalars, rtol=1e-13, atol=1e-13)


def test_coincident_points_have_finite_gradients() -> None:
    graph = batch(4)
    pos = graph.pos.clone()
    pos[1] = pos[0]
    pos.requires_grad_()
    out = make()(graph.replace(pos=pos))
    (grad,) = torch.autograd.grad(out.scalars.sum() + out.vectors.square().sum(), pos)
    assert grad.isfinite().all()


@torch.no_grad()
def test_weights_of_split_layers_start_within_the_bounds_of_whole_ones() -> None:
    layer: nn.Module = EDMEGNN(in_scalars=7, channels=64, num_layers=1).blocks[0]
    whole = nn.Linear(2 * 64 + 2, 64).weight.abs().max()
    largest = layer.messages[0].from_nodes.weight[:128].abs().max()  # type: ignore[union-attr,index]
    assert float(largest) == pytest.approx(float(whole), rel=0.02)


# what cannot be used


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aggregation": "max"}, "unknown aggregation"),
        ({"in_scalars": 0}, "needs node inputs"),
        ({"out_vectors": 2}, "out_vectors is 0 or 1"),
        ({"normalization_factor": 0.0}, "must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**settings)


def test_graphs_with_a_cutoff_or_with_vectors_are_refused() -> None:
    graph = batch(4)
    with pytest.raises(ConfigError, match="complete graphs"):
        make()(graph.replace(cutoff=5.0))
    with pytest.raises(ConfigError, match="`node_vectors` does not fit"):
        make()(graph.replace(node_vectors=graph.pos[:, None]))


def test_sines_are_not_claimed_to_have_forces() -> None:
    """They are taken of detached distances."""
    assert make().symmetry.smooth
    assert not make("sines").symmetry.smooth
