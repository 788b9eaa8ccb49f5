"""Linear motion and the radial field: official numbers, closed forms and symmetry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.graph import Graph, build_graph
from geomol.models.nbody_baselines import LinearMotion, RadialField


def graph_of(pos: Tensor, velocity: Tensor, charge: Tensor, sizes: list[int]) -> Graph:
    frames, first = [], 0
    for size in sizes:
        frames.append(Atoms("H" * size, pos[first : first + size].numpy()))
        first += size
    return build_graph(frames).replace(node_vectors=velocity[:, None], node_scalars=charge[:, None])


def cloud(num: int = 8, sizes: list[int] | None = None) -> Graph:
    gen = torch.Generator().manual_seed(0)
    pos, velocity = torch.randn(2, num, 3, generator=gen, dtype=torch.float64)
    charge = torch.randint(2, (num,), generator=gen).double() * 2 - 1
    return graph_of(pos, velocity, charge, [num] if sizes is None else sizes)


def make() -> RadialField:
    """A model with all its parameters moved off their start, so that every one of them matters."""
    torch.manual_seed(1)
    model = RadialField(channels=8, num_layers=3).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@pytest.fixture
def case(golden: Path) -> tuple[dict[str, Any], dict[str, Tensor], Graph]:
    meta = json.loads((golden / "egnn" / "nbody_baselines.json").read_text())
    with np.load(golden / "egnn" / "nbody_baselines.npz", allow_pickle=False) as file:
        z = {key: torch.from_numpy(file[key]) for key in file.files}
    product, (receivers, senders) = z["inputs/charge_product"][:, 0], z["inputs/edge_index"]
    charge = torch.ones(10, dtype=torch.float64)  # the first of each structure is taken as +1
    for node in (1, 2, 3, 4, 6, 7, 8, 9):
        charge[node] = product[(receivers == 5 * (node // 5)) & (senders == node)].item()
    graph = graph_of(z["inputs/loc"], z["inputs/vel"], charge, [5, 5])
    assert torch.equal(charge[graph.dst] * charge[graph.src], product)
    return meta, z, graph


def test_linear_motion_gives_the_official_positions(case: tuple[dict[str, Any], dict[str, Tensor], Graph]) -> None:
    meta, z, graph = case
    moved = graph.pos + LinearMotion(time=meta["config"]["linear_time"]).double()(graph).vectors[:, 0]
    # 0.7 passes through float32 here and through float64 there
    torch.testing.assert_close(moved, z["outputs/linear_motion"], rtol=1e-7, atol=3e-8)


def test_radial_field_gives_the_official_positions(case: tuple[dict[str, Any], dict[str, Tensor], Graph]) -> None:
    meta, z, graph = case
    model = RadialField(channels=meta["config"]["hidden_nf"], num_layers=meta["config"]["n_layers"]).double()
    renamed = {}
    for key, value in z.items():
        if key.startswith("weights/rf."):
            _, layer, part, *rest = key.split(".")
            ours = {"phi": "pull", "coord_mlp_vel": "keep"}[part]
            renamed[".".join([ours, layer.removeprefix("gcl_"), *rest])] = value
    model.load_state_dict(renamed)
    torch.testing.assert_close(graph.pos + model(graph).vectors[:, 0], z["outputs/radial_field"], **meta["tolerance"])


def test_time_of_linear_motion_is_the_only_parameter_and_can_be_learned() -> None:
    model, graph = LinearMotion().double(), cloud()
    assert [p.numel() for p in model.parameters()] == [1]
    assert graph.node_vectors is not None
    target = 1.9 * graph.node_vectors
    optimiser = torch.optim.LBFGS(model.parameters())

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = (model(graph).vectors - target).square().mean()
        value.backward()
        return value

    optimiser.step(loss)
    assert model.time.item() == pytest.approx(1.9, abs=1e-6)


@pytest.mark.parametrize("mirror", [False, True], ids=["rotation", "reflection"])
@pytest.mark.parametrize("model", [LinearMotion().double(), make()], ids=["linear", "radial"])
def test_motion_is_equivariant(model: Any, mirror: bool) -> None:
    assert model.symmetry.group == "E(3)"
    graph = cloud()
    turn = random_rotations(1, generator=torch.Generator().manual_seed(3))[0] * (-1 if mirror else 1)
    assert graph.node_vectors is not None
    moved = graph.replace(pos=graph.pos @ turn.T + 2.0, node_vectors=graph.node_vectors @ turn.T)
    out = model(graph).vectors
    assert out.abs().max() > 0.1
    torch.testing.assert_close(model(moved).vectors, out @ turn.T, rtol=1e-12, atol=1e-12)
    half = model(graph.replace(pos=graph.pos @ turn.T)).vectors
    assert (half - out @ turn.T).abs().max() > 1e-2, "the control: velocities must turn with the positions"


@pytest.mark.parametrize("model", [LinearMotion().double(), make()], ids=["linear", "radial"])
def test_order_and_batch_do_not_matter(model: Any) -> None:
    graph = cloud(sizes=[3, 1, 4])
    order = torch.tensor([2, 0, 1])
    scalars, vectors = graph.node_scalars, graph.node_vectors
    assert scalars is not None
    assert vectors is not None
    together = model(graph).vectors
    single = graph_of(graph.pos[order], vectors[order, 0], scalars[order, 0], [3])
    torch.testing.assert_close(model(single).vectors, together[order], rtol=1e-12, atol=1e-12)


def test_two_equal_particles_at_rest_move_along_their_line_and_keep_their_centre() -> None:
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.9, -0.4, 1.1]], dtype=torch.float64)
    step = make()(graph_of(pos, torch.zeros_like(pos), torch.ones(2).double(), [2])).vectors[:, 0]
    assert step.norm(dim=1).min() > 1e-3
    torch.testing.assert_close(step[0], -step[1], rtol=0, atol=1e-14)
    cross = torch.linalg.cross(step[0], pos[1] - pos[0])
    torch.testing.assert_close(cross, torch.zeros_like(cross), rtol=0, atol=1e-14)


def test_particles_at_rest_or_on_top_of_each_other_have_finite_gradients() -> None:
    pos = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    graph = cloud(3).replace(pos=pos, node_vectors=torch.zeros(3, 1, 3, dtype=torch.float64))
    out = make()(graph).vectors
    assert not out.any()
    assert torch.isfinite(torch.autograd.grad(out.square().sum(), pos)[0]).all()


def test_config_rebuilds_the_models() -> None:
    graph = cloud()
    for model in (make(), LinearMotion(time=1.3).double()):
        again = type(model)(**json.loads(json.dumps(model.config))).double()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(graph).vectors, model(graph).vectors)


def test_graphs_without_velocities_or_charges_are_refused() -> None:
    graph = cloud()
    with pytest.raises(ConfigError, match=r"`node_vectors` does not fit the model, expected 1 vector, the velocity"):
        LinearMotion()(graph.replace(node_vectors=None))
    with pytest.raises(ConfigError, match=r"`node_scalars` does not fit the model, expected the charge"):
        make()(graph.replace(node_scalars=None))
