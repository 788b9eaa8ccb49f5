"""The model of classes and parts: what enters, what comes out, and which symmetry is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from geomol.checkpoint import load_model, save_model
from geomol.data import CloudBatch, draw_rotations, rotate
from geomol.errors import ConfigError, InputError
from geomol.graph import Graph, parse_edge_rule
from geomol.labels import LabelModel
from geomol.models import Features, Symmetry
from geomol.symmetry import build_backbone

F64 = torch.float64
INVARIANT = {"name": "ponita", "orientations": "none", "channels": 8, "num_layers": 2, "cutoff": 1.0, "out_scalars": 6}
SEES_VECTORS = {**INVARIANT, "orientations": "octahedral"}
PLAIN = {"name": "deep_sets", "channels": 8, "num_layers": 2, "out_scalars": 6}


def clouds(num: int = 4, points: int = 20, seed: int = 0) -> CloudBatch:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=F64)

    return CloudBatch(
        pos=normal(num * points, 3),
        ptr=torch.arange(num + 1) * points,
        normals=nn.functional.normalize(normal(num * points, 3), dim=1),
        label=torch.arange(num) % 2,
        part=torch.arange(num * points) % 3,
        frame=torch.eye(3, dtype=F64).repeat(num, 1, 1),
    )


def model(backbone: dict, *, in_scalars: int = 0, in_vectors: int = 0, **settings: object) -> LabelModel:
    torch.manual_seed(0)
    inputs = {"elements": [0], "in_scalars": in_scalars, "in_vectors": in_vectors}
    if in_vectors == 0 and backbone["name"] == "ponita":
        inputs.pop("in_vectors")
    net = build_backbone({**inputs, **backbone})
    defaults = {"class_names": ("a", "b"), "features": 6, "edges": "radius-1.0"}
    return LabelModel(net, **{**defaults, **settings}).double().eval()  # type: ignore[arg-type]


def change(net: LabelModel, batch: CloudBatch) -> float:
    """Largest change of a logit when every cloud is turned by a rotation of its own."""
    turned = rotate(batch, draw_rotations("so3", len(batch), generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        return float((net(turned) - net(batch)).abs().max())


@pytest.mark.parametrize(
    ("settings", "arguments", "group"),
    [
        ({}, {}, "E(3)"),
        ({"edges": "knn-5"}, {}, "E(3)"),
        ({"edges": "fc"}, {}, "E(3)"),
        ({"pooling": "max"}, {}, "E(3)"),
        ({"normals": "scalars"}, {"in_scalars": 3}, "T(3)"),
    ],
)
def test_the_claimed_symmetry_is_the_one_that_the_inputs_leave(settings: dict, arguments: dict, group: str) -> None:
    net = model(INVARIANT, **arguments, **settings)
    assert net.symmetry.group == group
    assert net.symmetry.exact
    moved = replace(clouds(), pos=clouds().pos + torch.tensor([3.0, -2.0, 1.0], dtype=F64))
    with torch.no_grad():
        assert torch.allclose(net(moved), net(clouds()), atol=1e-10)
    error = change(net, clouds())
    assert error < 1e-10 if group == "E(3)" else error > 1e-4


def test_a_plain_network_claims_translations_only_and_changes_when_turned() -> None:
    net = model(PLAIN, edges="none")
    assert net.symmetry.group == "T(3)"
    assert change(net, clouds()) > 1e-4


def test_normals_and_the_frame_turn_as_vectors_and_do_enter() -> None:
    """The octahedral grid is exact for its own rotations; told vectors, the model sees them."""
    net = model(SEES_VECTORS, in_vectors=4, normals="vectors", frame=True)
    assert net.symmetry.group == "E(3)"
    assert not net.symmetry.exact
    batch = clouds()
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=F64).repeat(4, 1, 1)
    with torch.no_grad():
        here = net(batch)
        assert torch.allclose(net(rotate(batch, quarter)), here, atol=1e-10)
        other_normals = replace(batch, normals=-batch.normals)
        other_frame = replace(batch, frame=quarter)
        assert (net(other_normals) - here).abs().max() > 1e-5
        assert (net(other_frame) - here).abs().max() > 1e-5
    axes = net.graph(rotate(batch, quarter)).node_vectors
    assert axes is not None
    assert torch.equal(axes[0, 1], torch.tensor([0.0, 1, 0], dtype=F64)), "the first axis of the source, turned"


def test_smoothness_is_claimed_only_where_a_pair_loses_its_weight_before_it_is_cut_off() -> None:
    assert model(INVARIANT).symmetry.smooth
    assert model(INVARIANT, edges="radius-1.5").symmetry.smooth
    assert not model(INVARIANT, edges="radius-0.5").symmetry.continuous
    assert not model(INVARIANT, edges="knn-5").symmetry.continuous
    peaked = model(INVARIANT, pooling="max").symmetry
    assert (peaked.smooth, peaked.continuous) == (False, True)
    assert not model(INVARIANT).symmetry.separable


class Ramp(nn.Module):
    """Features that are known: the number of the node, and one."""

    cutoff = float("inf")
    symmetry = Symmetry("E(3)", exact=True, smooth=True)

    def forward(self, graph: Graph) -> Features:
        number = torch.arange(graph.num_nodes, dtype=F64)
        return Features(torch.stack([number, torch.ones_like(number)], dim=1))


def test_a_cloud_is_read_out_from_the_pool_of_its_points() -> None:
    for pooling, pooled in (("mean", [9.5, 29.5]), ("max", [19.0, 39.0])):
        net = LabelModel(Ramp(), class_names=("a", "b"), features=2, edges="none", pooling=pooling).double()
        read = net.head.read  # type: ignore[union-attr]
        expected = read(torch.tensor([[value, 1.0] for value in pooled], dtype=F64))
        assert torch.allclose(net(clouds(2)), expected, atol=1e-12)


def test_parts_that_a_class_does_not_have_are_never_found_and_without_the_table_they_are() -> None:
    settings = {"level": "point", "part_names": ("p", "q", "r")}
    batch = clouds()
    told = model(INVARIANT, class_parts=((0,), (1, 2)), **settings)
    untold = model(INVARIANT, **settings)
    with torch.no_grad():
        logits, free = told(batch), untold(batch)
    assert logits.shape == (80, 3)
    first = batch.label[batch.batch] == 0  # type: ignore[index]
    assert bool((logits[first].argmax(1) == 0).all())
    assert bool((logits[~first].argmax(1) != 0).all())
    assert torch.equal(logits[first][:, 0], free[first][:, 0])
    assert bool(free.isfinite().all())
    with torch.no_grad():
        assert bool(told(replace(batch, label=None)).isfinite().all()), "an unknown class may have any part"


def test_clouds_of_one_point_and_of_many_sizes_have_logits() -> None:
    batch = clouds(1, 30)
    batch = replace(batch, ptr=torch.tensor([0, 1, 4, 30]), frame=batch.frame.repeat(3, 1, 1), label=None)
    for edges in ("knn-5", "radius-1.0", "fc"):
        with torch.no_grad():
            assert bool(model(INVARIANT, edges=edges)(batch).isfinite().all())


def test_a_model_of_labels_survives_its_file(tmp_path: Path) -> None:
    net = model(
        SEES_VECTORS,
        in_vectors=1,
        normals="vectors",
        level="point",
        part_names=("p", "q", "r"),
        class_parts=((0,), (1, 2)),
        num_points=16,
    )
    save_model(tmp_path / "model.safetensors", net, provenance={}, errors={}, symmetry={})
    again = load_model(tmp_path / "model.safetensors")
    assert isinstance(again, LabelModel)
    assert again.config == net.config
    with torch.no_grad():
        assert torch.equal(again(clouds()), net(clouds()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "edge"}, "unknown level, expected cloud, point, got edge"),
        ({"pooling": "sum"}, "unknown pooling, expected mean, max"),
        ({"normals": "yes"}, "unknown normals"),
        ({"class_names": ("a",)}, "nothing to tell apart"),
        ({"level": "point"}, "nothing to tell apart, expected two names of a point"),
        ({"edges": "knn"}, 'unknown edges "knn"'),
        ({"level": "point", "part_names": ("p", "q"), "class_parts": ((0,), (2,))}, "parts of classes that do not fit"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model(INVARIANT, **settings)


@pytest.mark.parametrize("text", ["knn-0", "knn-1.5", "knn--3", "radius-0", "radius-inf", "radius-x", "all", ""])
def test_edges_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="unknown edges"):
        parse_edge_rule(text)


def test_clouds_and_backbones_that_do_not_fit_are_refused() -> None:
    net = model(SEES_VECTORS, in_vectors=1, normals="vectors")
    with pytest.raises(InputError, match="these clouds have no normals"):
        net(replace(clouds(), normals=None))
    with pytest.raises(ConfigError, match="other features than the model reads, expected out_scalars=5, got 6"):
        model(INVARIANT, features=5)(clouds())
