"""PaiNN: the authors' figures, the equations written out per atom, and its vectors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph, build_graph
from geomol.models import PaiNN

ELEMENTS = [1, 6, 8]
OFFICIAL = Path(__file__).parent / "painn_schnetpack.npz"


class _VectorFeatures(nn.Module):
    """In place of the vector readout: the vector features themselves."""

    def forward(self, feats: Tensor, vectors: Tensor) -> Tensor:
        return vectors.mT


def moved_off(model: PaiNN) -> PaiNN:
    """All parameters moved off their start, so that every one of them matters."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.double()


def molecule(seed: int = 0, *, vectors: int = 0) -> Graph:
    rng = np.random.default_rng(seed)
    pos = np.array([[0, 0, 0], [1.4, 0, 0], [-0.5, 0.9, 0.1], [1.8, 0.2, 0.9], [2.9, -1.6, 0.4], [5.2, 1.0, -1.1]])
    graph = build_graph(Atoms([6, 8, 1, 1, 6, 1], pos + rng.normal(0, 0.1, pos.shape)), 4.0, dtype=torch.float64)
    return graph.replace(node_vectors=torch.from_numpy(rng.normal(size=(6, vectors, 3)))) if vectors else graph


def official() -> tuple[PaiNN, Graph, dict[str, np.ndarray[Any, Any]]]:
    """The model with the weights of `painn_schnetpack.npz`, which lists rows in another order."""
    case = dict(np.load(OFFICIAL))
    channels, num_radial, cutoff = 8, 5, 4.0
    model = PaiNN(
        elements=ELEMENTS,
        channels=channels,
        num_layers=2,
        cutoff=cutoff,
        num_radial=num_radial,
        envelope="cosine",
        softness=1e-4,
    ).double()
    weight = {key: torch.from_numpy(value) for key, value in case.items()}
    model.embed.weight.data, model.embed.bias.data = weight["embedding"].T.contiguous(), torch.zeros(channels).double()
    used = torch.arange(2 * 3 * channels)
    used = used[(used < 2 * channels) | (used >= 3 * channels)]  # the first message has no vectors to take
    _set(
        model.filters,
        weight["filter_net.weight"][used] / math.sqrt(cutoff / num_radial),
        weight["filter_net.bias"][used],
    )
    for k, (message, update) in enumerate(zip(model.messages, model.updates, strict=True)):
        rows = 2 * channels if k == 0 else 3 * channels
        first, last = f"interactions.{k}.interatomic_context_net.0", f"interactions.{k}.interatomic_context_net.1"
        _set(message.context[0], weight[f"{first}.weight"], weight[f"{first}.bias"])
        _set(message.context[2], weight[f"{last}.weight"][:rows], weight[f"{last}.bias"][:rows])
        v, u = weight[f"mixing.{k}.mu_channel_mix.weight"].chunk(2)
        update.mix.weight.data = torch.cat([u, v])
        first, last = f"mixing.{k}.intraatomic_context_net.0", f"mixing.{k}.intraatomic_context_net.1"
        _set(update.context[0], weight[f"{first}.weight"], weight[f"{first}.bias"])
        to_ss_vv_sv = (x.chunk(3) for x in (weight[f"{last}.weight"], weight[f"{last}.bias"]))
        _set(update.context[2], *(torch.cat([x[0], x[2], x[1]]) for x in to_ss_vv_sv))
    model.readout, model.vector_readout = nn.Identity(), _VectorFeatures()
    atoms = Atoms(case["numbers"], case["pos"])
    return model, build_graph(atoms, cutoff, dtype=torch.float64), case


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    layer.weight.data, layer.bias.data = weight.clone(), bias.clone()


def test_features_are_those_of_the_authors_package() -> None:
    """Made with SchNetPack 2.0.4, `PaiNN(8, 2, BesselRBF(5, 4.0), CosineCutoff(4.0))` with random weights, float64."""
    model, graph, case = official()
    found = model(graph)
    assert found.vectors is not None
    vectors = found.vectors.mT.detach().numpy()
    np.testing.assert_allclose(found.scalars.detach().numpy(), case["scalars"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(vectors, case["vectors"], rtol=0, atol=1e-12)
    model.updates[0].mix.weight.data = model.updates[0].mix.weight.data.roll(8, dims=0)  # control: U and V exchanged
    assert np.abs(model(graph).scalars.detach().numpy() - case["scalars"]).max() > 1e-2


def test_the_published_size_has_the_published_number_of_parameters() -> None:
    """589 057 in SchNetPack for 100 elements, without biases of elements and with a readout of half the width."""
    model = PaiNN(elements=ELEMENTS, channels=128, num_layers=3, num_radial=20, envelope="cosine")
    count = sum(p.numel() for p in model.parameters())
    embedding = 128 * 3 + 128 - 128 * 100
    left_out = (128 + 20 + 2) * 128  # rows of the first message
    readout = (128 * 128 + 128 + 128 + 1) - (128 * 64 + 64 + 64 + 1)
    assert count == 589_057 + embedding - left_out + readout


@pytest.mark.parametrize("in_vectors", [0, 2])
def test_features_follow_the_equations_written_out_per_atom(in_vectors: int) -> None:
    settings: dict[str, Any] = {"channels": 6, "num_layers": 3, "cutoff": 4.0, "num_radial": 4, "message_scale": 0.6}
    model = moved_off(PaiNN(elements=ELEMENTS, in_vectors=in_vectors, **settings))
    graph = molecule(vectors=in_vectors)
    s = model.embed(nn.functional.one_hot(torch.tensor([1, 2, 0, 0, 1, 0]), 3).double())
    v = torch.zeros(6, 6, 3, dtype=torch.float64)
    if in_vectors:
        assert model.embed_vectors is not None
        assert graph.node_vectors is not None
        v = torch.einsum("cv,nvk->nck", model.embed_vectors.weight, graph.node_vectors)
    first = 0
    for message, update in zip(model.messages, model.updates, strict=True):
        rows = slice(first, first + message.width)
        first += message.width
        new_s, new_v = s.clone(), v.clone()
        for i in range(6):
            for j in range(6):
                vec = graph.pos[j] - graph.pos[i]
                r = vec.norm()
                if i == j or r >= 4.0:
                    continue
                u = r / 4.0
                window = 1 - 28 * u**6 + 48 * u**7 - 21 * u**8
                radial = torch.stack([torch.sin(k * math.pi * u) / r for k in range(1, 5)]) * window * 1.0
                part = (message.context(s[j]) * model.filters(radial)[rows] * window * 0.6).chunk(message.parts)
                new_s[i] = new_s[i] + part[0]
                new_v[i] = new_v[i] + part[1][:, None] * (vec / r)
                if message.parts == 3:
                    new_v[i] = new_v[i] + part[2][:, None] * v[j]
        big_u, big_v = (new_v.mT @ w.T for w in update.mix.weight.chunk(2))
        norm = (big_v.square().sum(1) + 0.25).sqrt()
        ss, sv, vv = update.context(torch.cat([new_s, norm], dim=1)).chunk(3, dim=1)
        s = new_s + ss + sv * (big_u * big_v).sum(1)
        v = new_v + vv[:, :, None] * big_u.mT
    torch.testing.assert_close(model(graph).scalars, model.readout(s), rtol=0, atol=1e-12)


def test_vectors_turn_with_the_structure_and_change_sign_in_a_mirror() -> None:
    model = moved_off(PaiNN(elements=ELEMENTS, in_vectors=1, out_vectors=2, channels=8, cutoff=4.0))
    graph = molecule(vectors=1)
    assert graph.node_vectors is not None
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    for matrix in (turn * torch.linalg.det(turn), -turn * torch.linalg.det(turn)):
        moved = graph.replace(pos=graph.pos @ matrix.T + 3.0, node_vectors=graph.node_vectors @ matrix.T)
        here, there = model(graph), model(moved)
        torch.testing.assert_close(there.scalars, here.scalars, rtol=0, atol=1e-11)
        torch.testing.assert_close(there.vectors, here.vectors @ matrix.T, rtol=0, atol=1e-11)
        assert (there.vectors - here.vectors).abs().max() > 1e-2  # control


def test_vectors_alone_come_without_scalars() -> None:
    found = PaiNN(elements=ELEMENTS, out_scalars=0, out_vectors=2, channels=8, cutoff=4.0)(molecule())
    assert found.scalars.shape == (6, 0)
    assert found.vectors is not None
    assert found.vectors.shape == (6, 2, 3)


def test_angles_count_at_equal_distances() -> None:
    """Two neighbours at the same distances, 90° or 180° apart: sums over distances cannot tell them from each other."""
    model = moved_off(
        PaiNN(elements=ELEMENTS, channels=8, cutoff=1.5, softness=0.1)
    )  # the outer atoms do not see each other
    bent = build_graph(Atoms("OC2", [[0, 0, 0], [1.2, 0, 0], [0, 1.2, 0]]), 1.5, dtype=torch.float64)
    straight = build_graph(Atoms("OC2", [[0, 0, 0], [1.2, 0, 0], [-1.2, 0, 0]]), 1.5, dtype=torch.float64)
    assert bent.num_edges == straight.num_edges == 4
    assert (model(bent).scalars - model(straight).scalars).abs().max() > 1e-3


@pytest.mark.parametrize("envelope", ["polynomial", "cosine"])
def test_the_last_bit_of_a_pair_vanishes_at_the_cutoff(envelope: str) -> None:
    model = moved_off(PaiNN(elements=ELEMENTS, channels=8, cutoff=4.0, envelope=envelope))

    def change(gap: float) -> float:
        inside = build_graph(Atoms("CO", [[0, 0, 0], [4.0 - gap, 0, 0]]), 4.0, dtype=torch.float64)
        outside = build_graph(Atoms("CO", [[0, 0, 0], [4.0 + gap, 0, 0]]), 4.0, dtype=torch.float64)
        assert (inside.num_edges, outside.num_edges) == (2, 0)
        return float((model(inside).scalars - model(outside).scalars).detach().abs().max())

    assert change(0.5) > 1e-4  # control
    assert change(1e-6) < 1e-10


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"envelope": "gaussian"}, "unknown envelope"),
        ({"cutoff": math.inf}, "finite positive cutoff"),
        ({"num_layers": 0}, "num_layers"),
        ({"out_vectors": -1}, "out_vectors"),
        ({"elements": []}, "needs node inputs"),
        ({"num_radial": 0}, "num_radial"),
        ({"softness": 0.0}, "softness"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PaiNN(**{"elements": ELEMENTS, **changes})


def test_graphs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 vectors"):
        PaiNN(elements=ELEMENTS, in_vectors=1)(molecule())
    with pytest.raises(ConfigError, match="0 vectors"):
        PaiNN(elements=ELEMENTS)(molecule(vectors=2))
