"""Property regression: targets in their units, vectors that turn, training, and use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase.build import molecule
from torch import nn

import geomol.train.property_data as property_data
from geomol.checkpoint import load_model, save_model
from geomol.data import PropertyTable, Structures, structures_from_smiles
from geomol.errors import ConfigError, InputError, ModelDomainError
from geomol.geometry.grids import icosahedral_rotations
from geomol.graph import CompleteStore, Graph, GraphStore, build_graph, complete_graph
from geomol.models import Features, Symmetry
from geomol.properties import PropertyModel, Target
from geomol.symmetry import build_backbone
from geomol.train import (
    embed,
    evaluate_properties,
    parse_config,
    properties_of,
    property_rotation_error,
    train,
)
from geomol.train.property_task import PropertyPart


class Counting(nn.Module):
    """Gives 1 per node, and its position from the centroid as vector."""

    cutoff = float("inf")
    symmetry = Symmetry(group="E(3)", exact=True, smooth=True)
    config: ClassVar[dict[str, object]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, graph: Graph) -> Features:
        return Features(
            self.weight * torch.ones(graph.num_nodes, 1, dtype=torch.float64), self.weight * graph.pos[:, None]
        )


def molecules(num: int, seed: int = 0) -> Structures:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 9, num)
    ptr = np.concatenate([[0], sizes.cumsum()])
    numbers = rng.choice([1, 6, 8], ptr[-1])
    return Structures(
        name="made",
        numbers=numbers,
        pos=rng.normal(size=(ptr[-1], 3)),
        ptr=ptr,
        cell=np.zeros((num, 3, 3)),
        pbc=np.zeros((num, 3), dtype=bool),
    )


def graph_of(structures: Structures) -> Graph:
    pos, numbers, ptr = (torch.from_numpy(np.asarray(a)) for a in (structures.pos, structures.numbers, structures.ptr))
    return complete_graph(pos, numbers, ptr)


def test_predictions_are_mean_plus_spread_times_pool_plus_references() -> None:
    structures = molecules(4)
    target = Target("e", "eV", mean=2.0, spread=3.0, references={1: -1.0, 6: -40.0, 8: -75.0})
    counts = structures.n_atoms
    energy = {1: -1.0, 6: -40.0, 8: -75.0}
    references = [
        sum(energy[int(z)] for z in structures.numbers[a:b])
        for a, b in zip(structures.ptr, structures.ptr[1:], strict=False)
    ]
    for pooling, pooled in (("sum", counts), ("mean", np.ones(4))):
        model = PropertyModel(Counting(), elements=[1, 6, 8], targets=[target], pooling=pooling)
        found = model(graph_of(structures))[:, 0].detach().numpy()
        np.testing.assert_allclose(found, 2 + 3 * pooled + np.array(references), rtol=1e-12)


def test_elements_outside_the_model_are_refused() -> None:
    model = PropertyModel(Counting(), elements=[1, 6], targets=[Target("e", "eV")])
    with pytest.raises(ModelDomainError, match="element outside the model"):
        model(graph_of(molecules(4)))


def test_a_vector_target_turns_with_the_structure_and_a_wrong_model_does_not() -> None:
    structures = molecules(6)
    equivariant = PropertyModel(
        Counting(), elements=[1, 6, 8], targets=[Target("d", "Debye")], vector=True, pooling="sum"
    )
    assert property_rotation_error(equivariant, structures) < 1e-12

    class InTheLab(Counting):
        def forward(self, graph: Graph) -> Features:
            out = super().forward(graph)
            assert out.vectors is not None
            return Features(out.scalars, out.vectors * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))

    wrong = PropertyModel(InTheLab(), elements=[1, 6, 8], targets=[Target("d", "Debye")], vector=True, pooling="sum")
    assert property_rotation_error(wrong, structures) > 0.1


def test_errors_are_those_of_the_definition_and_unknown_values_are_not_counted() -> None:
    structures = molecules(5)
    model = PropertyModel(
        Counting(), elements=[1, 6, 8], targets=[Target("a", "eV"), Target("b", "Bohr^3")], pooling="mean"
    )
    model.backbone.forward = lambda graph: Features(torch.ones(graph.num_nodes, 2, dtype=torch.float64))  # type: ignore[method-assign]
    values = np.array([[1.5, 1.0], [np.nan, 3.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    figures, predicted = evaluate_properties(model, structures, values)
    assert predicted.shape == (5, 2)
    assert figures["a_mae_eV"] == pytest.approx((0.5 + 1.0) / 4)
    assert figures["b_mae_Bohr3"] == pytest.approx(2.0 / 5)
    assert figures["b_rmse_Bohr3"] == pytest.approx(np.sqrt(4.0 / 5))


def test_the_complete_store_gives_the_graphs_of_the_other_store() -> None:
    s = molecules(7)
    index = torch.tensor([3, 0, 5, 3])
    rotation = torch.linalg.qr(torch.randn(4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    a = CompleteStore.from_arrays(s.pos, s.numbers, s.ptr).batch(index, rotation=rotation)
    b = GraphStore.from_arrays(s.pos, s.numbers, s.ptr, s.cell, s.pbc).batch(index, rotation=rotation)
    for name in ("numbers", "edge_index", "edge_ptr", "batch", "ptr", "send_perm", "send_ptr"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.allclose(a.pos, b.pos, atol=1e-12)
    with pytest.raises(InputError, match="do not make structures"):
        CompleteStore.from_arrays(s.pos, s.numbers[:-1], s.ptr)


def test_a_model_survives_its_file(tmp_path: Path) -> None:
    backbone = build_backbone(
        {"name": "conditioned_egnn", "elements": [1, 6, 8], "channels": 8, "pair_channels": 4, "num_layers": 1}
    )
    targets = [Target("gap", "eV", 6.9, 1.1, {1: 0.5, 6: 0.25, 8: 0.0})]
    model = PropertyModel(backbone, elements=[1, 6, 8], targets=targets, pooling="sum").eval()
    save_model(tmp_path / "model.safetensors", model, provenance={}, errors={}, symmetry={})
    again = load_model(tmp_path / "model.safetensors")
    assert isinstance(again, PropertyModel)
    assert again.targets == model.targets
    with torch.no_grad():
        graph = graph_of(molecules(3))
        assert torch.equal(again(graph), model(graph))


@pytest.fixture
def made_qm9(monkeypatch: pytest.MonkeyPatch) -> None:
    """Molecules whose property is the number of oxygens plus half the number of carbons."""
    structures = molecules(400)
    owner = np.repeat(np.arange(400), structures.n_atoms)
    values = np.bincount(
        owner, weights=1.0 * (structures.numbers == 8) + 0.5 * (structures.numbers == 6), minlength=400
    )
    holdout = np.arange(400) % 10 == 0
    dipole = np.add.reduceat(structures.pos * (structures.numbers == 8)[:, None], structures.ptr[:-1])
    table = PropertyTable(
        ("oxygens",), ("eV",), values[:, None], np.arange(400), holdout, {"dipole": (dipole, "Debye")}
    )
    monkeypatch.setattr(property_data, "load_qm9", lambda: (structures, table))


def config(tmp_path: Path, **changes: object) -> dict[str, object]:
    raw = {
        "name": "p",
        "task": "property",
        "data": {"source": "qm9", "split": "random", "num_train": 300, "num_valid": 50},
        "model": {"name": "conditioned_egnn", "channels": 16, "pair_channels": 8, "num_layers": 1},
        "properties": {"targets": ["oxygens"], "pooling": "sum"},
        "optimiser": {"learning_rate": 5e-3},
        "schedule": {"epochs": 12},
        "run": {"folder": str(tmp_path), "batch_size": 20, "rotate": False, "tensorboard": False},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        raw[section] = {**raw[section], name: value}  # type: ignore[dict-item]
    return raw


@pytest.mark.usefixtures("made_qm9")
def test_training_learns_a_property_that_counts_atoms(tmp_path: Path) -> None:
    result = train(parse_config(config(tmp_path, schedule__epochs=40)))
    spread = json.loads((tmp_path / "p" / "config.json").read_text())["properties"]["targets"]
    assert spread == ["oxygens"]
    assert result.best["valid_oxygens_mae_eV"] < 0.25  # the mean absolute deviation is about 0.9


@pytest.mark.usefixtures("made_qm9")
def test_references_take_out_what_composition_explains(tmp_path: Path) -> None:
    whole = parse_config(config(tmp_path, properties__references=True, schedule__epochs=1))
    result = train(whole)
    assert result.best["valid_oxygens_mae_eV"] < 1e-6 * 300  # nothing is left for the network


@pytest.mark.usefixtures("made_qm9")
def test_the_official_holdout_is_never_trained_on(tmp_path: Path) -> None:
    parts, units = property_data.property_parts(parse_config(config(tmp_path, data__split="holdout")))
    assert units == ["eV"]
    assert len(parts["test"].values) == 40
    held = {
        structure.tobytes() for structure in np.split(parts["test"].structures.pos, parts["test"].structures.ptr[1:-1])
    }
    for name in ("train", "valid"):
        s = parts[name].structures
        assert not held & {structure.tobytes() for structure in np.split(s.pos, s.ptr[1:-1])}


@pytest.mark.usefixtures("made_qm9")
def test_vector_targets_are_learned_and_turn_with_the_batch(tmp_path: Path) -> None:
    whole = parse_config(config(tmp_path, properties__targets=["dipole"], properties__vector=True, schedule__epochs=2))
    assert train(whole).finished
    parts, _ = property_data.property_parts(whole)
    part = PropertyPart.from_structures(
        parts["valid"].structures, parts["valid"].values, float("inf"), vector=True, device="cpu"
    )
    turn = torch.linalg.qr(torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    _, plain = part.batch(torch.arange(5))
    _, turned = part.batch(torch.arange(5), turn)
    assert torch.allclose(torch.einsum("bij,bj->bi", turn, plain), turned, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"properties__targets": []}, "properties.targets: missing"),
        ({"properties__targets": ["oxygen"]}, 'unknown target "oxygen"'),
        ({"properties__targets": ["dipol"], "properties__vector": True}, 'unknown vector target "dipol"'),
        ({"data__source": "rmd17/ethanol"}, "properties are learned from data"),
    ],
)
@pytest.mark.usefixtures("made_qm9")
def test_wrong_settings_are_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(parse_config(config(tmp_path, **changes)))


def test_smiles_become_conformers_and_nonsense_is_refused() -> None:
    structures = structures_from_smiles(["CCO", "C#N"])
    assert structures.n_atoms.tolist() == [9, 3]
    ends = structures.pos[structures.ptr[1] :]
    assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(1.15, abs=0.05)  # C≡N
    for text in ("C1CC", "CC.O", ""):
        with pytest.raises(InputError):
            structures_from_smiles([text])


def test_properties_of_smiles_and_embeddings_are_one_call() -> None:
    backbone = build_backbone(
        {"name": "conditioned_egnn", "elements": [1, 6, 8], "channels": 8, "pair_channels": 4, "num_layers": 1}
    )
    model = PropertyModel(backbone, elements=[1, 6, 8], targets=[Target("gap", "eV", 7.0)]).eval()
    found = properties_of(model, ["CCO", "CO"])
    assert list(found) == ["gap_eV"]
    assert found["gap_eV"].shape == (2,)
    structures = molecules(5)
    features = embed(backbone, structures)
    assert features.shape == (5, 8)
    turned = structures.pos @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    again = embed(backbone, Structures(**{**structures.__dict__, "pos": turned}))
    np.testing.assert_allclose(again, features, atol=1e-5)


def test_embeddings_on_a_grid_turn_with_the_symmetries_of_the_grid() -> None:
    backbone = build_backbone({"name": "ponita", "elements": [1, 6, 8], "channels": 8, "num_layers": 1}).double()
    structures = Structures.from_atoms([molecule(name) for name in ("CH3CH2OH", "H2O", "C6H6", "CH4")])
    features = embed(backbone, structures)
    assert features.shape == (4, 8)
    turned = structures.pos @ icosahedral_rotations()[7].numpy()
    again = embed(backbone, Structures(**{**structures.__dict__, "pos": turned}))
    np.testing.assert_allclose(again, features, atol=1e-7)  # the grid is kept in float32
    assert np.ptp(features, axis=0).max() > 1e-3


def test_embeddings_of_frames_are_refused() -> None:
    inner = {"name": "mpnn", "elements": [1, 6, 8], "cutoff": 5.0}
    backbone = build_backbone({"name": "frame_averaging", "backbone": inner})
    with pytest.raises(ConfigError, match="no hidden features"):
        embed(backbone, molecules(3))


def test_a_graph_without_all_pairs_is_refused() -> None:
    backbone = build_backbone({"name": "egnn", "elements": [1, 6, 8], "channels": 8, "num_layers": 1, "cutoff": 4.0})
    model = PropertyModel(backbone, elements=[1, 6, 8], targets=[Target("gap", "eV")])
    ethanol = molecule("CH3CH2OH")
    assert torch.isfinite(model(build_graph(ethanol, 4.0))).all()
    assert torch.isfinite(model(build_graph(ethanol, 5.0))).all()
    with pytest.raises(ConfigError, match="within 4, got those within 2"):
        model(build_graph(ethanol, 2.0))


def test_atoms_at_one_place_have_no_properties() -> None:
    backbone = build_backbone({"name": "conditioned_egnn", "elements": [1], "channels": 8, "num_layers": 1})
    model = PropertyModel(backbone, elements=[1], targets=[Target("gap", "eV")]).eval()
    hydrogen, nothing = molecule("H2"), molecule("H2")
    nothing.positions[:] = 0.0
    assert np.isfinite(properties_of(model, Structures.from_atoms([hydrogen]))["gap_eV"]).all()
    with pytest.raises(InputError, match="structure 1: atoms 0 and 1 coincide"):
        properties_of(model, Structures.from_atoms([hydrogen, nothing]))
