"""Rapidash calibrated, at its corners, and in heads, potentials and denoisers."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from geomol.diffusion import Denoiser, fit_backbone
from geomol.diffusion.cloud import Cloud, zero_mean
from geomol.errors import ConfigError, ModelDomainError
from geomol.geometry.grids import icosahedral_rotations
from geomol.models import Features, PooledHead, Rapidash
from geomol.potential import Potential
from geomol.symmetry import build_backbone
from tests.models.rapidash_case import SMALL, cloud


def test_calibration_keeps_the_spread_of_every_convolution() -> None:
    graph = cloud(sizes=(9, 8))
    model = Rapidash(**{**SMALL, "num_layers": 3}).double()
    model.calibrate(graph)
    x, ratios = model.lift(graph, model.grid), []
    for block in model.trunk.blocks[0]:
        block.register_forward_pre_hook(lambda block, given: ratios.append(spread(block, *given)))
    model.hidden(graph)
    assert x.std() > 0
    assert len(ratios) == 3
    assert all(ratio == pytest.approx(1, abs=1e-6) for ratio in ratios)


def spread(block: torch.nn.Module, x: Tensor, values: object, edges: object) -> float:
    return float((block.mix_orientations(block.convolve(x, values, edges), values).std() / x.std()).detach())


def test_a_lone_point_does_not_spoil_calibration() -> None:
    graph = cloud(sizes=(1,))
    for settings in ({}, {"self_loops": False}):
        model = Rapidash(**SMALL, **settings).double()
        model.calibrate(graph)
        assert all(p.isfinite().all() for p in model.parameters())
        assert model(graph).scalars.isfinite().all()


@pytest.mark.parametrize("settings", [{}, {"basis": "radial", "cutoff": 4.0}])
def test_coincident_points_have_finite_values_and_gradients(settings: dict) -> None:
    model = Rapidash(**SMALL, **settings).double()
    graph = cloud(sizes=(4,))
    pos = graph.pos.clone()
    pos[1] = pos[0]
    pos.requires_grad_()
    (gradient,) = torch.autograd.grad(model(graph.replace(pos=pos)).scalars.sum(), pos)
    assert gradient.isfinite().all()


def test_a_constant_stands_in_where_there_is_no_other_scalar() -> None:
    model = Rapidash(**{**SMALL, "in_scalars": 0}, orientations="none").double()
    out = model(cloud(0)).scalars
    assert out.std() > 1e-4
    with pytest.raises(ConfigError, match="`node_scalars` does not fit"):
        model(cloud(1))
    with pytest.raises(ConfigError, match="`node_vectors` does not fit"):
        model(cloud(0, 1))


def test_configurations_are_json_and_make_the_same_network() -> None:
    model = Rapidash(**SMALL, elements=[6, 0], edges=("knn-3", "fc"), ratios=(0.5,), orientations="circle:8")
    config = json.loads(json.dumps(model.config))
    twin = build_backbone({"name": "rapidash", **config})
    twin.load_state_dict(model.state_dict())
    assert twin.config == model.config


# heads, potentials, denoisers


def test_order_of_readout_and_pool_matters_for_the_bias_alone_when_both_are_linear() -> None:
    graph = cloud(sizes=(5, 3))
    features = Rapidash(**SMALL, readout="none").double()(graph)
    heads = [
        PooledHead(channels=8, out_scalars=2, order=order).double()
        for order in ("readout_then_pool", "pool_then_readout")
    ]
    heads[1].load_state_dict(heads[0].state_dict())
    first, last = (head(features, graph.ptr)[0] for head in heads)
    surplus = (graph.ptr.diff() - 1)[:, None] * heads[0].read.bias
    torch.testing.assert_close(first, last + surplus)


def test_heads_pool_vectors_and_refuse_unknown_words() -> None:
    graph = cloud(0, sizes=(3, 2))
    features = Features(torch.randn(5, 8), torch.randn(5, 2, 3))
    scalars, vectors = PooledHead(channels=8, pool="mean", hidden=4)(features, graph.ptr)
    assert scalars.shape == (2, 1)
    torch.testing.assert_close(vectors[1], features.vectors[3:].mean(0))
    with pytest.raises(ConfigError, match="unknown pool"):
        PooledHead(channels=8, pool="median")


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"cutoff": 4.0}, True),
        ({"edges": "fc"}, True),
        ({"cutoff": 4.0, "envelope": False}, False),
        ({"edges": "knn-8"}, False),
        ({"edges": ["knn-8", "fc"], "ratios": [0.5]}, False),
        ({"edges": "radius-2.5"}, True),
    ],
)
def test_potentials_take_smooth_settings_only(settings: dict, allowed: bool) -> None:
    model = Rapidash(**{**SMALL, "in_scalars": 0}, elements=[0], **settings)
    if allowed:
        Potential(model, elements=[0], e0=[0.0])
        return
    with pytest.raises(ConfigError, match="allow_discontinuous"):
        Potential(model, elements=[0], e0=[0.0])


def test_periodic_structures_are_read_through_the_edges_of_the_graph_alone() -> None:
    graph = cloud().replace(
        pbc=torch.ones(2, 3, dtype=torch.bool), cell=torch.eye(3, dtype=torch.float64).expand(2, 3, 3) * 9
    )
    assert Rapidash(**SMALL).double()(graph).scalars.isfinite().all()
    for settings in ({"edges": "fc"}, {"coordinates": "vectors"}):
        with pytest.raises(ModelDomainError, match="periodic"):
            Rapidash(**SMALL, **settings).double()(graph)


@pytest.mark.parametrize(
    "settings",
    [
        {"orientations": "icosahedral", "last_feature_conditioning": True},
        {"orientations": "none", "kernel_group": "T(n)", "vectors_as": "scalars", "last_feature_conditioning": True},
        {"orientations": "icosahedral", "frame": "identity"},
    ],
)
def test_it_denoises_with_the_symmetry_that_it_claims(settings: dict) -> None:
    from_user = {"name": "rapidash", "channels": 8, "basis_dim": 12, "basis_hidden": 8, "num_layers": 2, **settings}
    backbone = build_backbone(fit_backbone(from_user, num_types=3))
    assert backbone.cutoff == float("inf")
    levels = {"name": "flow"}
    denoiser = Denoiser.from_config(
        {"backbone": {"name": "rapidash", **backbone.config}, "elements": [1, 6, 8], "levels": levels}
    ).double()
    ptr = torch.tensor([0, 5, 9])
    noisy = Cloud(zero_mean(torch.randn(9, 3, dtype=torch.float64), ptr), torch.randn(9, 3, dtype=torch.float64), ptr)
    level = torch.tensor([0.5, 2.0], dtype=torch.float64)
    denoiser.calibrate(noisy)
    out = denoiser(noisy, level)
    turn = icosahedral_rotations()[17]
    turned = denoiser(Cloud(noisy.pos @ turn.T, noisy.feats, ptr), level)
    error = (turned.clean.pos - out.clean.pos @ turn.T).abs().max()
    assert error < 1e-10 if denoiser.symmetry.group == "E(3)" else error > 1e-4
    (out.clean.pos.square().sum() + out.logits.square().sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in denoiser.parameters())
