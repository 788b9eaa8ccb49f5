"""Denoisers of point clouds: what the backbone sees, and what turns with what in the steps of a sampler."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from geomol.diffusion import SAMPLERS, Churn, Cloud, Denoiser, Estimate, build_levels, fit_backbone, gaussian_cloud
from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.geometry.grids import octahedral_rotations
from geomol.graph import complete_graph, knn_graph
from geomol.symmetry import build_backbone

PLANAR = {"name": "rapidash", "channels": 8, "num_layers": 1, "basis_dim": 8, "basis_hidden": 8}
BACKBONES = {
    # on R³×S² exact for the rotations of its grid; a second scale of its own edges
    "grid": {
        **PLANAR,
        "orientations": "octahedral",
        "coordinates": "vectors",
        "num_layers": [1, 1],
        "edges": ["graph", "fc"],
        "ratios": [0.25],
    },
    "exact": {"name": "egnn", "channels": 8, "num_layers": 2, "update_pos": True, "num_radial": 0},
    "plain": {**PLANAR, "orientations": "none", "kernel_group": "T(n)"},
}


def denoiser(name: str, *, edges: str = "knn-5", frame: bool = False) -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = fit_backbone(BACKBONES[name], num_types=0, self_conditioning=False, frame=frame)
        made = Denoiser(
            build_backbone(config),
            elements=(),
            levels=build_levels({"name": "karras"}),
            self_conditioning=False,
            length_unit=0.3,
            sizes={24: 1},
            edges=edges,
            frame=frame,
        ).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval()


def turned(cloud: Cloud, rotation: Tensor) -> Cloud:
    return cloud.replace(cloud.pos @ rotation.T, cloud.feats)


def framed(cloud: Cloud, rotation: Tensor) -> Cloud:
    return Cloud(cloud.pos, cloud.feats, cloud.ptr, rotation.expand(cloud.num_graphs, 3, 3))


def two_steps(model: Denoiser, start: Cloud, turn: Tensor | None = None) -> Tensor:
    """Two steps of the sampler that puts noise back, all noise turned with `turn`."""
    generators = [torch.Generator().manual_seed(i) for i in range(start.num_graphs)]

    def noise() -> Cloud:
        made = gaussian_cloud(start.ptr, 0, generators, dtype=torch.float64)
        return made if turn is None else turned(made, turn)

    def denoise(noisy: Cloud, level: float, earlier: Estimate | None) -> Estimate:
        return model(noisy, torch.full((noisy.num_graphs,), level, dtype=torch.float64), earlier=earlier)

    grid = torch.tensor([2.0, 0.7, 0.2, 0.0], dtype=torch.float64)
    with torch.no_grad():
        return SAMPLERS["heun"](denoise, start, grid, noise, churn=Churn(5.0)).clean.pos


def start_cloud() -> Cloud:
    generators = [torch.Generator().manual_seed(50 + i) for i in range(2)]
    return gaussian_cloud(torch.tensor([0, 24, 44]), 0, generators, dtype=torch.float64).scaled(2.0)


ANY = random_rotations(1, generator=torch.Generator().manual_seed(4))[0]
QUARTER = octahedral_rotations()[7]


@pytest.mark.parametrize(("name", "rotation"), [("exact", ANY), ("exact", QUARTER), ("grid", QUARTER)])
def test_the_same_noise_turned_gives_the_same_cloud_turned(name: str, rotation: Tensor) -> None:
    model, start = denoiser(name), start_cloud()
    torch.testing.assert_close(
        two_steps(model, turned(start, rotation), rotation), two_steps(model, start) @ rotation.T, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("rotation", [ANY, QUARTER])
def test_a_network_without_the_symmetry_fails_that(rotation: Tensor) -> None:
    model, start = denoiser("plain"), start_cloud()
    change = two_steps(model, turned(start, rotation), rotation) - two_steps(model, start) @ rotation.T
    assert float(change.abs().max()) > 1e-2


def test_told_the_pose_clouds_turn_with_noise_and_frame_together_and_with_neither_alone() -> None:
    model, start = denoiser("grid", frame=True), start_cloud()
    expected = two_steps(model, start) @ QUARTER.T
    both = two_steps(model, framed(turned(start, QUARTER), QUARTER), QUARTER)
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-9)
    noise_alone = two_steps(model, turned(start, QUARTER), QUARTER)
    frame_alone = two_steps(model, framed(start, QUARTER))
    assert float((noise_alone - expected).abs().max()) > 1e-2
    assert float((frame_alone - two_steps(model, start)).abs().max()) > 1e-2


def test_a_frame_that_is_not_given_is_that_of_the_source() -> None:
    model, start = denoiser("grid", frame=True), start_cloud()
    torch.testing.assert_close(
        two_steps(model, framed(start, torch.eye(3, dtype=torch.float64))), two_steps(model, start), rtol=0, atol=0
    )


def test_the_backbone_sees_the_neighbours_among_the_noisy_points_and_the_axes_as_rows() -> None:
    model, start = denoiser("grid", frame=True), framed(start_cloud(), ANY)
    level = torch.tensor([2.0, 0.5], dtype=torch.float64)
    seen = model.inputs(start, level, None, None)
    expected = knn_graph(start.pos * (1 + level.square()).rsqrt()[start.batch][:, None], start.ptr, 5)
    assert torch.equal(seen.edge_index, expected.edge_index)
    assert seen.node_vectors is not None
    torch.testing.assert_close(seen.node_vectors[7, 1], ANY[:, 1])
    moved = start.replace(start.pos.flip(0), start.feats)
    assert not torch.equal(model.inputs(moved, level, None, None).edge_index, seen.edge_index)


def test_all_pairs_remain_the_default_of_denoisers() -> None:
    model, start = denoiser("exact", edges="fc"), start_cloud()
    seen = model.inputs(start, torch.ones(2, dtype=torch.float64), None, None)
    numbers = torch.zeros(44, dtype=torch.int64)
    assert torch.equal(seen.edge_index, complete_graph(start.pos, numbers, start.ptr).edge_index)
    assert model.symmetry.continuous
    assert not denoiser("exact").symmetry.continuous


def test_its_configuration_builds_the_same_denoiser() -> None:
    model, start = denoiser("grid", frame=True), start_cloud()
    again = Denoiser.from_config(json.loads(json.dumps(model.config))).double().eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(two_steps(again, start), two_steps(model, start), rtol=0, atol=0)


def test_a_backbone_that_reads_no_vectors_cannot_be_told_a_frame() -> None:
    with pytest.raises(ConfigError, match="vectors"):
        denoiser("plain", frame=True)
