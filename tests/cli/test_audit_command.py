"""`geomol audit`: verdict, exit codes, JSON and page, on exact and broken models of every kind."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import typer
from ase.build import molecule
from typer.testing import CliRunner

from geomol.checkpoint import save_model
from geomol.cli.audit import audit_command
from geomol.data import Clouds, load_structures, write_clouds, write_extxyz
from geomol.data.nbody import NBody
from geomol.diffusion import Denoiser, build_levels, fit_backbone
from geomol.errors import ConfigError, DataError
from geomol.forecast import Forecaster
from geomol.labels import LabelModel
from geomol.models import EGNN, MPNN, Symmetry
from geomol.potential import Potential
from geomol.properties import PropertyModel, Target
from geomol.symmetry import build_backbone
from geomol.symmetry.audit import Audit, Pictures

ELEMENTS = [1, 6, 8]


def run(*words: str) -> tuple[int, str]:
    """Exit code and printed text of `geomol audit …`, through the command's own parser."""
    app = typer.Typer()
    app.command()(audit_command)
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "160"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def saved(folder: Path, backbone: torch.nn.Module) -> str:
    potential = Potential(backbone, elements=ELEMENTS, e0=[-1.0, -2.0, -3.0], scale=0.5).double()
    path = folder / "model.safetensors"
    save_model(path, potential, provenance={"data": "none"}, errors={}, symmetry={})
    return str(path)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = EGNN(elements=ELEMENTS, channels=8, num_layers=2, cutoff=3.0, num_radial=4)
    return saved(tmp_path_factory.mktemp("exact"), backbone)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    frames = [molecule(name) for name in ("CH3CH2OH", "H2O", "CH4", "CH3OH")]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    path = tmp_path_factory.mktemp("data") / "frames.xyz"
    ase.io.write(path, frames)
    return str(path)


class Links(html.parser.HTMLParser):
    """Everything in a page that could be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in ("src", "href", "xlink:href") and value and not value.startswith(("#", "data:")):
                self.found.append(value)
            if key == "id" and value:
                self.ids.append(value)


def test_an_exact_model_passes_with_a_page_and_figures(exact, data, tmp_path):
    page, figures = tmp_path / "audit.html", tmp_path / "audit.json"
    words = [exact, data, "--motions", "3", "--num", "3", "--html", str(page), "--json", str(figures), "--strict"]
    code, text = run(*words)
    assert code == 0
    assert "passed" in text
    assert "The claim E(3), exact, holds." in text
    found = json.loads(figures.read_text())
    assert found["passed"] is True
    assert found["settings"]["num_structures"] == 3
    assert found["settings"]["precision"] == "float64"
    assert found["orbits"]["forces"]["reference"] == "consensus"
    assert {check["status"] for check in found["checks"]} <= {"pass", "not claimed"}
    shares = next(share for share in found["layer_shares"] if share["generators"] == "rotations")
    assert set(shares["layers"]) == {"layer 1", "layer 2", "readout"}
    shown = page.read_text(encoding="utf-8")
    for part in (
        "Which turns are wrong",
        "Once around",
        "The ladder of motions",
        "Where the symmetry is lost",
        "float64",
    ):
        assert part in shown
    links = Links()
    links.feed(shown)
    assert links.found == [], "the page fetches nothing"
    assert len(links.ids) == len(set(links.ids))
    assert "<script" not in shown
    assert str(tmp_path) not in shown, "no path of the machine"


def test_a_broken_model_is_named_and_fails_only_where_strict(exact, data, tmp_path, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = MPNN(elements=ELEMENTS, channels=8, num_layers=2, cutoff=3.0)
    model = saved(tmp_path, backbone)
    code, text = run(model, data, "--motions", "3", "--num", "1", "--strict")
    assert code == 0, "it claims translations only, and keeps them"
    assert "rotations are off by" in text
    everything = Symmetry(group="E(3)", exact=True, smooth=True)
    monkeypatch.setattr(Potential, "symmetry", property(lambda self: everything))
    code, text = run(model, data, "--motions", "3", "--num", "1", "--strict")
    assert code == 1
    assert "failed" in text
    assert "rotations and reflections are broken" in " ".join(text.split())
    monkeypatch.setattr(
        "geomol.cli.audit_models.audit_potential", lambda *words, **more: audit_of_nothing(passed=False)
    )
    assert run(model, data)[0] == 0, "without --strict the verdict is all"


def audit_of_nothing(*, passed: bool) -> Audit:
    claim = Symmetry(group="1", exact=True, smooth=True)
    return Audit(claim, [], "words", passed, "1", {}, {}, {}, "", [], [], {}, Pictures())


def test_labels_enter_the_orbits_of_the_error(exact, data, tmp_path):
    structures = load_structures(data)
    labelled = tmp_path / "labelled.xyz"
    forces = np.zeros_like(structures.pos)
    energy = np.full(len(structures), -5.0)
    write_extxyz(labelled, type(structures)(**{**structures.__dict__, "energy": energy, "forces": forces}))
    out = tmp_path / "audit.json"
    assert run(exact, str(labelled), "--motions", "3", "--num", "1", "--json", str(out))[0] == 0
    orbits = json.loads(out.read_text())["orbits"]
    assert orbits["forces"]["reference"] == "labels"
    assert orbits["forces"]["range_over_mean"] < 1e-9
    assert orbits["forces"]["mean_eV_per_A"] > 1e-3


def test_single_precision_is_held_to_its_own_bars(exact, data, tmp_path):
    out = tmp_path / "audit.json"
    code, _ = run(exact, data, "--motions", "3", "--num", "1", "--dtype", "float32", "--json", str(out), "--strict")
    assert code == 0
    found = json.loads(out.read_text())
    rotation = next(c for c in found["checks"] if c["check"] == "rotations" and c["output"] == "forces")
    assert 1e-10 < rotation["largest_error_eV_per_A"] < 1e-4


def few_systems(name: str) -> NBody:
    """Four arbitrary systems, instead of the whole benchmark."""
    rng = np.random.default_rng(0)
    pos, velocity, target = rng.normal(size=(3, 4, 5, 3))
    charge = rng.choice([-1.0, 1.0], size=(4, 5))
    return NBody(name, pos, velocity, charge, target, {"test": np.arange(4)})


def test_a_forecaster_is_audited_by_its_displacements(tmp_path, monkeypatch):
    monkeypatch.setattr("geomol.cli.audit_models.load_nbody", few_systems)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = EGNN(
            cutoff=float("inf"), envelope=False, num_radial=0, in_scalars=1, in_vectors=1, update_pos=True,
            speed_input=True, edge_inputs=["charge_product", "squared_distance"], readout="none", out_vectors=1,
            channels=8, num_layers=2,
        )  # fmt: skip
    path, out = tmp_path / "model.safetensors", tmp_path / "audit.json"
    save_model(path, Forecaster(backbone).double(), provenance={}, errors={}, symmetry={})
    code, text = run(
        str(path), "nbody/charged5", "--split", "test", "--num", "2", "--motions", "3", "--json", str(out), "--strict"
    )
    assert code == 0, text
    found = json.loads(out.read_text())
    assert {check["output"] for check in found["checks"]} == {"displacement"}
    assert found["measured_group"] == "E(3)"


FEW = ("--motions", "3", "--num", "2", "--paths", "1", "--strict")
NETWORKS = {
    "exact": {"name": "egnn", "channels": 8, "num_layers": 2, "num_radial": 0},
    "plain": {"name": "deep_sets", "channels": 8, "num_layers": 2},
}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng, num, size = np.random.default_rng(0), 6, 14
    sides = np.array([1.0, 0.4, 0.2]) * rng.uniform(0.8, 1.2, (num, 1, 3))
    clouds = Clouds(
        name="boxes",
        pos=(rng.uniform(-1, 1, (num, size, 3)) * sides).reshape(-1, 3),
        ptr=np.arange(num + 1) * size,
        label=np.arange(num) % 2,
        class_names=("even", "odd"),
        splits={"train": np.arange(2), "test": np.arange(2, num)},
    )
    return str(write_clouds(tmp_path_factory.mktemp("clouds") / "boxes.npz", clouds))


def model_of(folder: Path, kind: str, network: str) -> str:
    """A model of random weights in a file."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = NETWORKS[network]
        made: torch.nn.Module
        if kind == "labels":
            net = build_backbone({**config, "elements": [0], "out_scalars": 6})
            made = LabelModel(net, class_names=("even", "odd"), features=6, edges="knn-4", num_points=12)
        elif kind == "property":
            net = build_backbone({**config, "elements": ELEMENTS, "out_scalars": 1})
            made = PropertyModel(net, elements=ELEMENTS, targets=[Target("gap", "eV", mean=6.0, spread=1.2)])
        else:
            moves = {"update_pos": True} if network == "exact" else {"out_vectors": 1}
            fitted = fit_backbone({**config, **moves}, num_types=0, self_conditioning=False)
            made = Denoiser(
                build_backbone(fitted), elements=(), levels=build_levels({"name": "karras"}), length_unit=0.4,
                sizes={12: 4}, edges="fc", self_conditioning=False,
            )  # fmt: skip
    path = folder / f"{kind}-{network}.safetensors"
    save_model(path, made.double(), provenance={"data": "none"}, errors={}, symmetry={})
    return str(path)


@pytest.mark.parametrize(("network", "group"), [("exact", "E(3)"), ("plain", "T(3)")])
@pytest.mark.parametrize("kind", ["labels", "property", "clouds"])
def test_models_of_every_kind_are_held_to_their_claims(kind, network, group, boxes, data, tmp_path):
    page, out = tmp_path / "page.html", tmp_path / "audit.json"
    where = (data,) if kind == "property" else (boxes, "--split", "test")
    # the page, whose map of the sphere is many predictions, once for each kind
    wanted = ("--html", str(page)) if network == "plain" else ()
    code, text = run(model_of(tmp_path, kind, network), *where, *FEW, *wanted, "--json", str(out))
    assert code == 0, text
    found = json.loads(out.read_text())
    assert found["measured_group"] == group
    outputs = {"labels": "logits", "property": "gap", "clouds": "positions at noise 0.5"}
    assert outputs[kind] in {check["output"] for check in found["checks"]}
    assert ("rotations are off by" in " ".join(text.split())) == (network == "plain")
    if wanted:
        shown = page.read_text(encoding="utf-8")
        assert "Which turns are wrong" in shown
        assert "torque" not in shown, "nothing is said of forces that there are not"


def test_data_of_another_kind_are_refused_with_what_to_give(boxes, data, tmp_path):
    labels, properties = (model_of(tmp_path, kind, "exact") for kind in ("labels", "property"))
    with pytest.raises(ConfigError, match=r"another kind than the model's.*point clouds"):
        run(labels, data, *FEW)
    with pytest.raises(ConfigError, match=r"another kind than the model's.*structures"):
        run(properties, boxes, *FEW)
    with pytest.raises(ConfigError, match="--points is for models of point clouds"):
        run(properties, data, *FEW, "--points", "8")
    with pytest.raises(DataError, match=r"missing\.npz"):
        run(labels, str(tmp_path / "missing.npz"), *FEW)
