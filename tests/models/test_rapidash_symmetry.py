"""Which inputs and kernels keep which symmetry of Rapidash, as facts; what is said to be lost is lost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from geomol.errors import ConfigError, ModelDomainError
from geomol.geometry import random_rotations
from geomol.geometry.grids import icosahedral_rotations
from geomol.graph import Graph, complete_graph
from geomol.models import Features, Rapidash
from geomol.models.rapidash_attributes import Space

SMALL = {"channels": 8, "basis_dim": 12, "basis_hidden": 10, "num_layers": 2, "in_scalars": 2, "out_scalars": 2}
NORMALS = {"in_vectors": 1}
FRAME = {"in_vectors": 4, "frame": "given"}
AXES = {"in_vectors": 1, "frame": "identity"}
PLAIN = {"kernel_group": "T(n)"}
COORDINATES = {kind: {"coordinates": kind} for kind in ("vectors", "scalars", "centred_scalars")}
AS_SCALARS = {**NORMALS, "vectors_as": "scalars"}
POLYNOMIAL = {"cutoff": float("inf")}
RADIAL = {"basis": "radial", "cutoff": 2.5, "num_radial": 4}

ALL, MOVED, NOTHING = ("turned", "mirrored", "moved"), ("moved",), ()
# what enters, and which motions the network then follows
TABLE: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {
    "no geometry": ({}, ALL),
    "coordinates as vectors": (COORDINATES["vectors"], ALL),
    "coordinates as scalars": (COORDINATES["scalars"], NOTHING),
    "centred coordinates as scalars": (COORDINATES["centred_scalars"], MOVED),
    "normals as vectors": (NORMALS, ALL),
    "normals as scalars": (AS_SCALARS, MOVED),
    "frame that turns with the points": (FRAME, ALL),
    "frame beside normals as scalars": ({**FRAME, "vectors_as": "scalars"}, MOVED),
    "axes of the lab": (AXES, MOVED),
    "kernels of T(n)": (PLAIN, MOVED),
    "kernels of T(n), coordinates as scalars": ({**PLAIN, **COORDINATES["scalars"]}, NOTHING),
    "kernels of T(n), coordinates as vectors": ({**PLAIN, **COORDINATES["vectors"]}, MOVED),
    "kernels of T(n), frame": ({**PLAIN, **FRAME}, MOVED),
}
NEEDS_GRID = [name for name, (given, _) in TABLE.items() if "vectors" in given.get("coordinates", "")] + [
    name for name, (given, _) in TABLE.items() if "in_vectors" in given and given != AS_SCALARS
]


def model_of(seed: int = 0, **settings: object) -> Rapidash:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Rapidash(**{**SMALL, **settings}).double().eval()
    model.calibrate(cloud(model, flat=model.space.base == "R2xS1", seed=9))
    return model


def cloud(model: Rapidash, *, flat: bool = False, seed: int = 0) -> Graph:
    """Two structures of 9 and 7 points, with what the model reads."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    pos = normal(16, 3) + 0.4  # away from the centroid
    vectors = normal(16, model.inputs.in_vectors, 3)
    if flat:
        pos[:, 2], vectors[:, :, 2] = 0.7, 0.0
    if model.inputs.frame == "given":
        vectors[:, -3:] = random_rotations(1, generator=rng)[0]
    ptr = torch.tensor([0, 9, 16])
    return complete_graph(
        pos,
        torch.zeros(16, dtype=torch.long),
        ptr,
        node_scalars=normal(16, 2),
        node_vectors=vectors if model.inputs.in_vectors else None,
    )


def seen_from(graph: Graph, turn: Tensor, shift: Tensor | None = None) -> Graph:
    pos = graph.pos @ turn.T
    vectors = None if graph.node_vectors is None else graph.node_vectors @ turn.T
    return graph.replace(pos=pos if shift is None else pos + shift, node_vectors=vectors)


def difference(after: Features, before: Features, turn: Tensor) -> float:
    """Largest change of scalars, and of vectors turned along, relative to their size."""
    found = [(after.scalars - before.scalars).abs().max() / before.scalars.std()]
    if before.vectors is not None and after.vectors is not None:
        found.append((after.vectors - before.vectors @ turn.T).abs().max() / before.vectors.std())
    return float(max(found))


def error(model: Rapidash, turn: Tensor, shift: Tensor | None = None, *, flat: bool = False) -> float:
    graph = cloud(model, flat=flat)
    with torch.no_grad():
        return difference(model(seen_from(graph, turn, shift)), model(graph), turn)


def rotation(seed: int = 0) -> Tensor:
    return random_rotations(1, generator=torch.Generator().manual_seed(seed))[0]


def planar(angle: float) -> Tensor:
    c, s = np.cos(angle), np.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)


EYE = torch.eye(3, dtype=torch.float64)
SHIFT = torch.tensor([3.0, -5.0, 2.0], dtype=torch.float64)
IN_PLANE = torch.tensor([3.0, -5.0, 0.0], dtype=torch.float64)
MIRROR = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))  # of every grid used here


# the table


@pytest.mark.parametrize("basis", [POLYNOMIAL, RADIAL], ids=["polynomial", "radial"])
@pytest.mark.parametrize("name", [name for name in TABLE if name not in NEEDS_GRID])
def test_on_r3_each_input_leaves_the_symmetry_of_the_table_to_rounding(name: str, basis: dict) -> None:
    given, kept = TABLE[name]
    model = model_of(orientations="none", **given, **basis)
    motions = {"turned": (rotation(), None), "mirrored": (-rotation(1), None), "moved": (EYE, SHIFT)}
    assert_table(model, motions, kept)


@pytest.mark.parametrize("basis", [POLYNOMIAL, RADIAL], ids=["polynomial", "radial"])
@pytest.mark.parametrize("name", list(TABLE))
def test_on_r3xs2_each_input_leaves_the_symmetry_of_the_table_exactly_on_the_grid(name: str, basis: dict) -> None:
    given, kept = TABLE[name]
    model = model_of(orientations="icosahedral", out_vectors=1, **given, **basis)
    turn = icosahedral_rotations()[17]
    assert (turn - EYE).abs().max() > 0.5
    assert_table(model, {"turned": (turn, None), "mirrored": (-turn, None), "moved": (EYE, SHIFT)}, kept)


@pytest.mark.parametrize("basis", [POLYNOMIAL, RADIAL], ids=["polynomial", "radial"])
@pytest.mark.parametrize("name", list(TABLE))
def test_in_the_plane_each_input_leaves_the_same_but_mirror_images_differ(name: str, basis: dict) -> None:
    given, kept = TABLE[name]
    model = model_of(orientations="circle:8", out_vectors=1, **given, **basis)
    motions = {"turned": (planar(np.pi / 4), None), "mirrored": (MIRROR, None), "moved": (EYE, IN_PLANE)}
    assert_table(model, motions, tuple(k for k in kept if k != "mirrored"), flat=True)


def assert_table(model: Rapidash, motions: dict, kept: tuple[str, ...], *, flat: bool = False) -> None:
    for motion, (turn, shift) in motions.items():
        found = error(model, turn, shift, flat=flat)
        assert found < 1e-11 if motion in kept else found > 1e-4, (motion, found)
    claimed = {"E(3)": ALL, "SE(2)": ("turned", "moved"), "T(3)": MOVED, "1": NOTHING}
    assert claimed[model.symmetry.group] == kept


@pytest.mark.parametrize("orientations", ["none", "icosahedral", "circle:8"])
@pytest.mark.parametrize("group", ["SE(n)", "T(n)"])
def test_renumbering_renumbers_the_output(orientations: str, group: str) -> None:
    model = model_of(orientations=orientations, kernel_group=group, coordinates="scalars")
    graph = cloud(model, flat=True)
    order = torch.cat([torch.randperm(9), 9 + torch.randperm(7)])
    other = complete_graph(graph.pos[order], graph.numbers, graph.ptr, node_scalars=graph.node_scalars[order])
    torch.testing.assert_close(model(other).scalars, model(graph).scalars[order], rtol=0, atol=1e-12)


# other rotations than those of the grid


def mean_error(num: int, **settings: object) -> float:
    errors = []
    for seed in range(num):
        model = model_of(seed, **settings)
        errors.append(error(model, rotation(seed)))
    return float(np.mean(errors))


@pytest.mark.parametrize("basis", [POLYNOMIAL, RADIAL], ids=["polynomial", "radial"])
def test_error_under_random_rotations_falls_as_the_grid_grows(basis: dict) -> None:
    grids = ("octahedral", "icosahedral", "design24", "design60")
    errors = [mean_error(4, orientations=grid, out_vectors=1, **NORMALS, **basis) for grid in grids]
    assert all(b < a for a, b in itertools.pairwise(errors)), errors
    assert errors[-1] < errors[0] / 10
    assert not model_of(orientations="design60").symmetry.exact


def test_in_the_plane_the_error_falls_fast_with_the_number_of_directions() -> None:
    errors = []
    for num in (4, 8, 16, 32):
        model = model_of(orientations=f"circle:{num}", out_vectors=1, **NORMALS, **RADIAL)
        errors.append(error(model, planar(0.3), flat=True))
    assert all(b < a for a, b in itertools.pairwise(errors)), errors
    assert errors[-1] < errors[0] / 100


def test_a_grid_does_not_help_kernels_of_translations() -> None:
    """The control: with T(n) kernels the finest grid is as far from rotations as the coarsest."""
    errors = [mean_error(3, orientations=grid, **PLAIN) for grid in ("icosahedral", "design60")]
    assert min(errors) > 0.1


def test_a_frame_turned_with_the_points_costs_nothing_and_is_seen() -> None:
    with_frame, without = (
        mean_error(4, orientations="design60", out_vectors=1, **given) for given in (FRAME, {"in_vectors": 1})
    )
    assert with_frame < 2 * without
    model = model_of(orientations="icosahedral", **FRAME)
    graph = cloud(model)
    posed = seen_from(graph, icosahedral_rotations()[17]).replace(node_vectors=graph.node_vectors)
    assert (model(posed).scalars - model(graph).scalars).abs().max() > 1e-3  # the pose, which the frame tells


def test_the_axes_of_the_lab_are_the_frame_of_an_unturned_cloud() -> None:
    told, given = (
        model_of(orientations="icosahedral", in_vectors=n, frame=f) for n, f in ((0, "identity"), (3, "given"))
    )
    given.load_state_dict(told.state_dict())
    graph = cloud(told)
    with_axes = graph.replace(node_vectors=EYE.expand(16, 3, 3))
    torch.testing.assert_close(told(graph).scalars, given(with_axes).scalars)


# attributes


@pytest.mark.parametrize("basis", [POLYNOMIAL, RADIAL], ids=["polynomial", "radial"])
@pytest.mark.parametrize(("orientations", "flat"), [("octahedral", False), ("circle:5", True)])
def test_turning_the_grid_is_turning_the_points_the_other_way(orientations: str, flat: bool, basis: dict) -> None:
    given = {**basis, **NORMALS, "out_vectors": 1, "orientations": orientations}
    fixed, turning = model_of(**given), model_of(**given, turn_grid=True)
    graph = cloud(fixed, flat=flat)
    with torch.no_grad():
        before = fixed(graph)
        assert difference(turning(graph), before, EYE) == 0  # only in training
        turning.train()
        torch.manual_seed(5)
        after = turning(graph)
        torch.manual_seed(5)
        turn = (turning.directions(torch.float64).mT @ fixed.grid) / (len(fixed.grid) / (2 if flat else 3))
        if flat:
            turn[2, 2] = 1.0
        assert torch.allclose(turn @ turn.T, EYE, atol=1e-12)  # Σ o oᵀ of these grids is a multiple of one
        assert difference(after, fixed(seen_from(graph, turn.T)), turn) < 1e-10
        assert difference(after, before, EYE) > 1e-3
        assert difference(turning(graph), after, EYE) > 1e-3  # another turn each time


@pytest.mark.parametrize("orientations", ["none", "design24", "circle:5"])
def test_attributes_are_the_rows_of_the_table(orientations: str) -> None:
    vec = torch.randn(6, 3, dtype=torch.float64)
    if orientations.startswith("circle"):
        vec[:, 2] = 0
    space, ori = Space.of(orientations, "SE(n)")
    plain, _ = Space.of(orientations, "T(n)")
    found, raw = space.attributes(vec, ori), plain.attributes(vec, ori)
    assert (found.shape[-1], raw.shape[-1]) == (space.num_attributes, plain.num_attributes)
    for e, r in enumerate(vec.numpy()):
        if ori is None:
            assert found[e].tolist() == pytest.approx([np.linalg.norm(r)])
            assert raw[e].tolist() == r.tolist()
            continue
        for o, direction in enumerate(ori.numpy()):
            along, rest = r @ direction, r - (r @ direction) * direction
            turned = np.array([-direction[1], direction[0], 0.0])
            row = [along, r @ turned if space.base == "R2xS1" else np.linalg.norm(rest)]
            assert found[e, o].tolist() == pytest.approx(row)
            assert raw[e, o].tolist() == pytest.approx([*(r[:2] if space.base == "R2xS1" else r), *row])


def test_in_the_plane_the_attributes_label_pairs_up_to_rotation_and_the_sum_of_components_does_not() -> None:
    """The control: what published code computes in two dimensions, the sum of the components of r − (r·o)o."""
    space, ori = Space.of("circle:7", "SE(n)")
    vec = torch.randn(5, 3, dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0])
    turn = planar(0.8)
    before, after = space.attributes(vec, ori), space.attributes(vec @ turn.T, ori @ turn.T)
    torch.testing.assert_close(after, before)

    def published(vec: Tensor, ori: Tensor) -> Tensor:
        return (vec[:, None] - (vec @ ori.T)[..., None] * ori).sum(-1)

    assert (published(vec @ turn.T, ori @ turn.T) - published(vec, ori)).abs().max() > 0.1
    mirrored = space.attributes(vec @ MIRROR, ori @ MIRROR)
    torch.testing.assert_close(mirrored[..., 1], -before[..., 1])


@pytest.mark.parametrize("orientations", ["none", "design24", "circle:6"])
@pytest.mark.parametrize("group", ["SE(n)", "T(n)"])
@pytest.mark.parametrize("num", [1, 2, 4])
def test_functions_of_the_direction_are_as_many_as_said(orientations: str, group: str, num: int) -> None:
    space, ori = Space.of(orientations, group)
    unit = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    found = space.directions(unit, ori, num)
    assert found.shape[-1] == space.num_directions(num)
    assert torch.linalg.matrix_rank(found.flatten(0, -2)) > 0


# what is refused


def test_the_plane_refuses_points_outside_it() -> None:
    model = model_of(orientations="circle:8")
    assert model(cloud(model, flat=True)).scalars.isfinite().all()
    with pytest.raises(ModelDomainError, match="outside the plane"):
        model(cloud(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_group": "SE(3)"}, "unknown kernel_group"),
        ({"orientations": "circle:2"}, "at least 3 directions"),
        ({"orientations": "sphere"}, "unknown orientation grid"),
        ({"coordinates": "absolute"}, "unknown coordinates"),
        ({"vectors_as": "numbers"}, "unknown vectors_as"),
        ({"frame": "given"}, "last 3 of in_vectors"),
        ({"orientations": "none", "in_vectors": 1}, 'orientations="none" carries no vectors'),
        ({"orientations": "none", "out_vectors": 1}, "hold no vectors"),
        ({"basis": "radial"}, "needs one scale, a finite cutoff"),
        ({"basis": "radial", "cutoff": 3.0, "envelope": False}, "vanishes at the cutoff"),
        ({"edges": "knn"}, 'unknown edges "knn"'),
        ({"edges": "radius--1"}, "unknown edges"),
        ({"ratios": [0.5], "edges": "graph"}, "first scale only"),
        ({"ratios": [0.5], "edges": ["knn-4"]}, "does not fit `ratios`"),
        ({"ratios": [0.0], "edges": "fc"}, "ratios must be"),
        ({"last_feature_conditioning": True, "in_scalars": 0}, "last of in_scalars"),
        ({"cutoff": 0.0}, "cutoff must be positive"),
        ({"activation": "relu"}, "unknown activation"),
        ({"orientations": "none", "turn_grid": True}, "no grid to turn"),
    ],
)
def test_settings_that_contradict_each_other_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Rapidash(**{**SMALL, **settings})
