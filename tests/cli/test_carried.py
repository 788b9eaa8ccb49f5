"""What a file holds beside positions reaches `geomol md` and `geomol relax`, and the relaxed file."""

from __future__ import annotations

import json
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from geomol.checkpoint import save_model
from geomol.cli import main
from geomol.models.pair import Morse
from geomol.potential import Potential

COLUMNS = ["symbols", "positions", "momenta", "masses", "tags", "move_mask"]


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.safetensors"
    potential = Potential(Morse(elements=[29], cutoff=6.0), elements=[29], e0=[-1.5]).double()
    save_model(path, potential, provenance={"data": "none"}, errors={}, symmetry={})
    return str(path)


@pytest.fixture
def full() -> Atoms:
    """Five copper atoms, off their minimum, with everything that a file can hold."""
    rng = np.random.default_rng(0)
    r = 1.95
    pos = np.array([[r, 0, 0], [-r, 0, 0], [0, r, 0], [0, -r, 0], [0, 0, r]])
    atoms = Atoms("Cu5", positions=pos + 0.05 * rng.standard_normal(pos.shape))
    atoms.set_momenta(rng.standard_normal(pos.shape))
    atoms.set_masses([63.5, 63.5, 63.5, 63.5, 65.0])
    atoms.set_tags([0, 1, 2, 3, 4])
    atoms.set_constraint(FixAtoms([0, 1]))
    atoms.info.update(label="two words", batch=3)
    return atoms


def stored(atoms: Atoms, path: Path) -> str:
    if path.suffix == ".db":
        ase.db.connect(path).write(atoms, label=atoms.info["label"], batch=atoms.info["batch"])
    else:
        ase.io.write(path, atoms, **({"columns": COLUMNS} if path.suffix == ".xyz" else {}))
    return str(path)


@pytest.mark.parametrize("suffix", [".xyz", ".traj", ".db"])
@pytest.mark.parametrize("optimiser", ["bfgs", "fire"])
def test_relaxation_leaves_fixed_atoms_and_keeps_what_else_there_is(model, full, tmp_path, suffix, optimiser):
    start, out = stored(full, tmp_path / f"start{suffix}"), tmp_path / "out.xyz"
    assert main(["relax", model, start, "-o", str(out), "--optimiser", optimiser]) == 0
    relaxed = ase.io.read(out)
    step = np.abs(relaxed.positions - full.positions).max(axis=1)
    assert step[:2].max() < 1e-7
    assert step[2:].min() > 1e-3
    assert relaxed.constraints[0].index.tolist() == [0, 1]
    assert np.array_equal(relaxed.get_tags(), full.get_tags())
    assert np.array_equal(relaxed.get_masses(), full.get_masses())
    assert (relaxed.info["label"], relaxed.info["batch"]) == ("two words", 3)
    assert np.abs(relaxed.get_forces(apply_constraint=False)[:2]).max() > 1e-3


def test_without_fixed_atoms_all_move(model, full, tmp_path):
    """Control of the test above."""
    full.set_constraint()
    start, out = stored(full, tmp_path / "start.xyz"), tmp_path / "out.xyz"
    assert main(["relax", model, start, "-o", str(out)]) == 0
    relaxed = ase.io.read(out)
    assert not relaxed.constraints
    assert np.abs(relaxed.positions - full.positions).max(axis=1).min() > 1e-3


def test_single_axes_can_be_fixed_alone_and_are_refused_at_once(model, full, tmp_path, capsys):
    full.set_constraint(FixCartesian([2], mask=(True, False, False)))
    start, out = stored(full, tmp_path / "start.xyz"), tmp_path / "out.xyz"
    assert main(["relax", model, start, "-o", str(out)]) == 0
    relaxed = ase.io.read(out)
    step = np.abs(relaxed.positions - full.positions)
    assert step[2, 0] < 1e-7 < 1e-3 < step[2, 1]
    (held,) = (c for c in relaxed.constraints if c.get_removed_dof(relaxed))
    assert held.index.tolist() == [2]
    assert main(["relax", model, start, "-o", str(tmp_path / "not.xyz"), "--optimiser", "fire"]) == 2
    assert "got FixCartesian" in capsys.readouterr().err
    assert not (tmp_path / "not.xyz").exists()


@pytest.mark.parametrize("suffix", [".xyz", ".traj", ".db"])
def test_dynamics_starts_with_the_momenta_masses_and_constraints_of_the_file(model, full, tmp_path, capsys, suffix):
    start = stored(full, tmp_path / f"start{suffix}")
    words = ["md", model, start, "--ensemble", "nve", "--steps", "2", "--interval", "1", "-o", str(tmp_path / "out")]
    assert main([*words, "momenta=keep", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["degrees_of_freedom"] == 9
    first, *_, last = ase.io.read(tmp_path / "out/nve.extxyz", ":")
    assert first.get_momenta() == pytest.approx(full.get_momenta(), abs=1e-7)
    assert np.abs(last.positions - full.positions)[:2].max() < 1e-7
    kinetic = float(Path(tmp_path / "out/nve.csv").read_text().splitlines()[1].split(",")[3])
    assert kinetic == pytest.approx(full.get_kinetic_energy(), rel=1e-6)
    full.set_masses("defaults")
    assert kinetic != pytest.approx(full.get_kinetic_energy(), rel=1e-4)
    assert main([*words, "--overwrite", "--replicas", "2"]) == 2
    assert "know no constraints, got FixAtoms" in capsys.readouterr().err


def test_a_trajectory_is_gone_on_from_its_last_frame(model, full, tmp_path):
    words = ["--ensemble", "nve", "--steps", "3", "--interval", "1", "-o", str(tmp_path), "--name"]
    assert main(["md", model, stored(full, tmp_path / "start.xyz"), *words, "a"]) == 0
    before = str(tmp_path / "a.extxyz")
    assert main(["md", model, before, "--index", "-1", *words, "b", "momenta=keep"]) == 0
    ends = ase.io.read(before), ase.io.read(tmp_path / "b.extxyz", 0)
    assert np.array_equal(ends[0].get_momenta(), ends[1].get_momenta())
    assert ends[0].get_momenta().any()
    for atoms in ends:
        assert np.array_equal(atoms.get_masses(), full.get_masses())
        assert atoms.constraints[0].index.tolist() == [0, 1]


def test_momenta_to_keep_must_be_there(model, full, tmp_path, capsys):
    path = tmp_path / "bare.xyz"
    path.write_text("2\n\nCu 0 0 0\nCu 0 0 2.5\n")
    assert main(["md", model, str(path), "--steps", "2", "-o", str(tmp_path / "out"), "momenta=keep"]) == 2
    assert "there are no momenta to keep" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_mask_that_lets_all_atoms_go_holds_nothing(model, full, tmp_path):
    full.set_constraint()
    lines = stored(full, tmp_path / "start.xyz")
    text = Path(lines).read_text().splitlines()
    text[1] = text[1].replace(":tags:I:1", ":tags:I:1:move_mask:L:1")
    Path(lines).write_text("\n".join([*text[:2], *(f"{line} T" for line in text[2:])]) + "\n")
    assert main(["md", model, lines, "--steps", "2", "--replicas", "2", "-o", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("masses", "0.0", "frame 0, atom 1: masses cannot be"), ("momenta", "nan", "momenta cannot be")],
)
def test_masses_and_momenta_that_cannot_be_are_refused(model, tmp_path, capsys, name, value, text):
    width = 3 if name == "momenta" else 1
    path = tmp_path / "bad.xyz"
    row = " ".join([value] * width), " ".join(["1.0"] * width)
    path.write_text(f"2\nProperties=species:S:1:pos:R:3:{name}:R:{width}\nCu 0 0 0 {row[1]}\nCu 0 0 2.5 {row[0]}\n")
    assert main(["md", model, str(path), "--steps", "2", "-o", str(tmp_path / "out")]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("optimiser", ["bfgs", "fire"])
def test_coincident_atoms_are_named_before_any_structure_moves(model, full, tmp_path, capsys, optimiser):
    full.set_constraint()
    double, out = full.copy(), tmp_path / "out.xyz"
    double.positions[4] = double.positions[3]
    ase.io.write(tmp_path / "frames.xyz", [full, full, double, full])
    words = ["relax", model, str(tmp_path / "frames.xyz"), "-o", str(out), "--optimiser", optimiser]
    assert main(words) == 2
    said = capsys.readouterr()
    assert "structure 2: atoms 3 and 4 coincide" in said.err
    assert "converged" not in said.out
    assert not out.exists()


def test_what_is_finished_is_written_when_a_later_structure_fails(model, full, tmp_path, capsys):
    periodic = full.copy()
    periodic.set_cell([20, 20, 20])
    periodic.pbc = True
    ase.io.write(tmp_path / "frames.xyz", [periodic, full])
    out = tmp_path / "out.xyz"
    assert main(["relax", model, str(tmp_path / "frames.xyz"), "-o", str(out), "--cell", "--steps", "2"]) == 2
    assert "structure 1: a cell can only be relaxed where there is one" in capsys.readouterr().err
    assert len(ase.io.read(out, ":")) == 1
