"""What `geomol predict` and `geomol embed` refuse, leave out and warn of, so that no number is silently wrong."""

from __future__ import annotations

import csv
from pathlib import Path

import ase.io
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from geomol.checkpoint import save_model
from geomol.cli import main
from geomol.data import Structures, load_structures, write_extxyz
from geomol.generate import write_sdf
from geomol.models import EGNN
from geomol.potential import Potential
from geomol.properties import PropertyModel, Target
from geomol.symmetry import build_backbone

pytestmark = pytest.mark.filterwarnings("default::geomol.errors.GeomolWarning")  # commands print them


NOTHING: dict[str, dict[str, float]] = {"provenance": {}, "errors": {}, "symmetry": {}}  # is known of these models


@pytest.fixture(scope="module")
def gap(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A property model of complete graphs for H, C, O, in a file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone({"name": "conditioned_egnn", "elements": [1, 6, 8], "channels": 8, "num_layers": 1})
    path = tmp_path_factory.mktemp("gap") / "model.safetensors"
    save_model(path, PropertyModel(backbone, elements=[1, 6, 8], targets=[Target("gap", "eV")]).eval(), **NOTHING)
    return str(path)


@pytest.fixture(scope="module")
def energy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A potential for H, C, O, Si, in a file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = EGNN(elements=[1, 6, 8, 14], channels=8, num_layers=1, cutoff=3.0, num_radial=4)
    path = tmp_path_factory.mktemp("energy") / "model.safetensors"
    save_model(path, Potential(backbone, elements=[1, 6, 8, 14], e0=[0.0] * 4, scale=0.1), **NOTHING)
    return str(path)


def written(path: Path, *frames: Atoms) -> str:
    ase.io.write(path, list(frames), format="extxyz" if path.suffix == ".xyz" else None)
    return str(path)


def given(name: str, **info: object) -> Atoms:
    atoms = molecule(name)
    atoms.info.update(info)
    return atoms


def doubled() -> Atoms:
    """Water whose first hydrogen is there twice."""
    atoms = molecule("H2O")
    return atoms + atoms[1:2]


def names_of(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return [row["structure"] for row in csv.DictReader(file)]


def predicted(model: str, data: str, out: Path, *words: str) -> int:
    return main(["predict", model, data, "-o", str(out), *words])


@pytest.mark.parametrize("kind", ["xyz", "traj"])
@pytest.mark.parametrize("info", [{"charge": 1}, {"spin": 2}, "initial charges"])
def test_charge_and_spin_of_molecules_are_warned_of_once(gap, tmp_path, capsys, kind, info):
    ion = given("CH4") if info == "initial charges" else given("CH4", **info)
    if info == "initial charges":
        ion.set_initial_charges([1, 0, 0, 0, 0])
    data = written(tmp_path / f"in.{kind}", given("H2O", charge=0, spin=1), ion, ion)
    assert predicted(gap, data, tmp_path / "t.csv") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: charges and spin are ignored: this model does not depend on them")
    assert line.endswith(f"given for 2 of 3 structures, the first: {data}, frame 1")
    assert len(names_of(tmp_path / "t.csv")) == 3


def test_neutral_singlets_are_no_reason_to_warn(gap, tmp_path, capsys):
    assert predicted(gap, written(tmp_path / "in.xyz", given("H2O", charge=0, spin=1)), tmp_path / "t.csv") == 0
    assert capsys.readouterr().err == ""


def test_a_charged_periodic_cell_is_refused_or_left_out(energy, tmp_path, capsys):
    neutral, charged = bulk("Si"), bulk("Si")
    charged.info["charge"] = 1
    data, out = written(tmp_path / "in.xyz", neutral, charged), tmp_path / "out.xyz"
    assert predicted(energy, data, out) == 2
    assert f"{data}, frame 1: this model knows nothing of charges" in capsys.readouterr().err
    assert not out.exists()
    assert predicted(energy, data, out, "--skip-bad") == 0
    assert "1 bad of 2 frames left out (1)" in capsys.readouterr().err
    assert len(ase.io.read(out, ":")) == 1


def test_a_charge_that_is_no_number_is_ignored_aloud_and_half_a_charge_refused(energy, tmp_path, capsys):
    data = Path(written(tmp_path / "in.xyz", given("H2O", charge=1)))
    data.write_text(data.read_text().replace("charge=1", "charge=one"))
    assert predicted(energy, str(data), tmp_path / "out.xyz") == 0
    assert 'frame 0, line 2: charge is not a number, expected numbers, got "one": ignored' in capsys.readouterr().err
    assert predicted(energy, written(tmp_path / "half.xyz", given("H2O", charge=0.5)), tmp_path / "out.xyz") == 2
    assert "half.xyz, frame 0: the charge is not a whole number" in capsys.readouterr().err


BAD: list[tuple[Atoms, str]] = [(doubled(), "atoms 1 and 3 coincide"), (molecule("NH3"), "atom 0: element outside")]


@pytest.mark.parametrize(("atoms", "fault"), BAD)
@pytest.mark.parametrize("model", ["gap", "energy"])
def test_structures_that_a_model_cannot_answer_for_are_named_and_left_out(
    request, model, atoms, fault, tmp_path, capsys
):
    path, out = request.getfixturevalue(model), tmp_path / ("t.csv" if model == "gap" else "out.xyz")
    data = written(tmp_path / "in.xyz", molecule("CH4"), atoms, molecule("H2O"))
    assert predicted(path, data, out) == 2
    message = capsys.readouterr().err
    assert f"{data}, frame 1" in message
    assert fault in message
    assert predicted(path, data, out, "--skip-bad") == 0
    assert "1 bad of 3 frames left out (1); the first:" in capsys.readouterr().err
    assert main(["embed", path, data, "-o", str(tmp_path / "f.npz")]) == 2
    assert predicted(path, written(tmp_path / "bad.xyz", atoms), out, "--skip-bad") == 2
    if model == "gap":
        assert names_of(out) == ["0", "2"]
    else:
        assert [len(frame) for frame in ase.io.read(out, ":")] == [5, 3]


def test_smiles_of_elements_outside_the_model_are_left_out(gap, tmp_path, capsys):
    (tmp_path / "in.smi").write_text("CO methanol\nCN methylamine\nC1C broken\nO\n")
    assert predicted(gap, str(tmp_path / "in.smi"), tmp_path / "t.csv", "--skip-bad") == 0
    assert "methylamine, atom 1: element outside the model" in capsys.readouterr().err
    assert names_of(tmp_path / "t.csv") == ["methanol", "O"]


def test_molecules_of_an_sdf_file_go_into_every_command(gap, energy, tmp_path):
    """What `geomol sample -o mols.sdf` writes; the same structures as extended xyz are the witness."""
    frames = [molecule("CH3OH"), molecule("H2O")]
    structures = Structures.from_atoms(frames)
    data = str(write_sdf(tmp_path / "mols.sdf", structures, [None, None]))
    xyz = str(write_extxyz(tmp_path / "mols.xyz", load_structures(data)))
    for source in (data, xyz):
        assert predicted(gap, source, Path(f"{source}.csv")) == 0
        assert main(["embed", gap, source, "-o", f"{source}.npz"]) == 0
        assert main(["relax", energy, source, "-o", f"{source}-out.xyz"]) == 0
    assert Path(f"{data}.csv").read_bytes() == Path(f"{xyz}.csv").read_bytes()
    assert [len(frame) for frame in ase.io.read(f"{data}-out.xyz", ":")] == [6, 3]


@pytest.mark.parametrize("name", ["x.pdb", "x.cif", "POSCAR", "x.csv", "x.json"])
def test_files_of_other_kinds_are_called_so(gap, tmp_path, capsys, name):
    (tmp_path / name).write_text("something\n")
    assert predicted(gap, str(tmp_path / name), tmp_path / "t.csv") == 2
    assert f"{name}: this kind of file is not read, expected .xyz" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["predict", "{package}", "x.xyz", "-o", "t.csv"], ["info", "{package}"]])
def test_a_package_is_called_so_where_it_cannot_be_used(tmp_path, capsys, words):
    package = tmp_path / "model.pt2"
    package.write_bytes(b"PK\x03\x04 compiled code")
    assert main([word.format(package=package) for word in words]) == 2
    message = capsys.readouterr().err
    assert "a package of compiled code" in message
    assert "geomol md, geomol relax" in message
    assert "pickle" not in message


def test_rows_keep_the_numbers_of_their_frames(gap, tmp_path, capsys):
    frames = [molecule(name) for name in ("CH4", "H2O", "CO", "CO2", "CH3OH")]
    assert predicted(gap, written(tmp_path / "all.xyz", *frames), tmp_path / "all.csv") == 0
    frames[1].positions[0, 0] = float("nan")
    frames[3] = doubled()
    for kind in ("xyz", "traj"):
        data = written(tmp_path / f"some.{kind}", *frames)
        assert predicted(gap, data, tmp_path / "some.csv", "--skip-bad") == 0
        every, some = ((tmp_path / name).read_text().splitlines() for name in ("all.csv", "some.csv"))
        assert some == [every[0], every[1], every[3], every[5]], kind
        assert names_of(tmp_path / "some.csv") == ["0", "2", "4"]


def test_answers_do_not_take_the_place_of_the_question(energy, gap, tmp_path, capsys):
    data = Path(written(tmp_path / "in.xyz", molecule("H2O")))
    before = data.read_bytes()
    assert predicted(energy, str(data), data) == 2
    assert "in.xyz: the answers would lie among the data" in capsys.readouterr().err
    assert data.read_bytes() == before
    assert main(["embed", gap, str(data), "-o", str(tmp_path / "e.csv")]) == 2
    assert "e.csv: features are not written to such files, expected .npz" in capsys.readouterr().err


def test_a_stated_charge_of_zero_is_not_overruled_by_partial_ones(energy, tmp_path, capsys):
    crystal = bulk("Si")
    crystal.set_initial_charges([0.4, 0.6])
    crystal.info["charge"] = 0
    for kind in ("xyz", "traj"):
        assert predicted(energy, written(tmp_path / f"in.{kind}", crystal), tmp_path / "out.xyz") == 0
    del crystal.info["charge"]
    assert predicted(energy, written(tmp_path / "in.xyz", crystal), tmp_path / "out.xyz") == 2
    assert "charged periodic cell" in capsys.readouterr().err
