"""Potentials whose kernels are read from tables: the same forces to a stated error, and all that a potential obeys."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import nn

from geomol.checkpoint import save_model
from geomol.checks import (
    cutoff_jumps,
    disordered_crystals,
    disordered_molecules,
    force_error,
    force_error_order,
    forces_of,
    rotation_errors,
    stress_error,
    with_elements,
)
from geomol.cli import main
from geomol.compiled import CompiledPotential, PackagedPotential, TabulatedPotential, export_package, tabulated
from geomol.errors import CheckpointError, ConfigError
from geomol.graph import build_graph
from geomol.md import GeomolCalculator
from geomol.models import FAENet, Ponita, Rapidash, tabulate
from geomol.models.tabulated import TabulatedKernel
from geomol.potential import Potential, hessian_vector
from geomol.symmetry import FrameAveraging

ELEMENTS = [1, 6, 7, 8]
SMALL = {"elements": ELEMENTS, "channels": 8, "num_layers": 2, "cutoff": 4.0}
POLYNOMIAL = {"basis_dim": 6, "widening": 2}
BACKBONES = {
    "ponita": lambda: Ponita(**SMALL, **POLYNOMIAL, kernel="polynomial", orientations="octahedral"),
    "pnita": lambda: Ponita(**SMALL, **POLYNOMIAL, kernel="polynomial", orientations="none"),
    "rapidash": lambda: Rapidash(**SMALL, **POLYNOMIAL, basis_hidden=8, orientations="octahedral"),
    "rapidash, R3, no self": lambda: Rapidash(
        **SMALL, **POLYNOMIAL, basis_hidden=8, orientations="none", self_loops=False
    ),
    "faenet": lambda: FAENet(**SMALL, filters=8),
    "faenet in frames": lambda: FrameAveraging(backbone=FAENet(**SMALL, filters=8), frames="robust", group="SE(3)"),
}
BY_TABLE = ["ponita", "pnita", "rapidash", "rapidash, R3, no self"]


def potential(make, dtype: torch.dtype = torch.float64) -> Potential:
    """Untrained, with forces of about 1 eV/Å."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone: nn.Module = make()
        found = Potential(backbone, elements=ELEMENTS, e0=[0.0] * 4).double()
        molecules = disordered_molecules(4)
        backbone.calibrate(build_graph(molecules, 4.0))
    forces = np.concatenate([forces_of(found, atoms) for atoms in molecules])
    scale = 1 / np.sqrt(np.mean(forces**2))
    return Potential(backbone, elements=ELEMENTS, e0=[-1.0, -5.0, -7.0, -9.0], scale=scale).to(dtype).eval()


@pytest.fixture(params=BACKBONES)
def pair(request) -> tuple[Potential, TabulatedPotential]:
    plain = potential(BACKBONES[request.param])
    return plain, tabulated(plain)


def test_forces_change_by_no_more_than_is_said(pair: tuple[Potential, TabulatedPotential]) -> None:
    """On molecules that had no part in the choice of the spacing."""
    plain, fast = pair
    errors = [np.abs(forces_of(fast, a) - forces_of(plain, a)).max() for a in disordered_molecules(8, seed=5)]
    assert 0 < max(errors) <= 1e-4
    assert fast.force_error <= 1e-4 / 3


def test_coarse_tables_change_them_by_more() -> None:
    """Control: the error is that of the spacing, and is seen."""
    plain = potential(BACKBONES["ponita"])
    loose, tight = tabulated(plain, tolerance=1e-1), tabulated(plain, tolerance=1e-6)
    assert loose.spacing > tight.spacing
    assert loose.table_bytes < tight.table_bytes
    atoms = disordered_molecules(1, seed=5)[0]
    errors = [np.abs(forces_of(fast, atoms) - forces_of(plain, atoms)).max() for fast in (loose, tight)]
    assert errors[0] > 1e-4
    assert errors[1] < 1e-6


def test_forces_and_stress_are_derivatives_of_the_new_energy(pair: tuple[Potential, TabulatedPotential]) -> None:
    fast = pair[1]
    atoms = disordered_molecules(1, seed=3)[0]
    assert force_error(fast, atoms) < 1e-7
    assert 3.5 < force_error_order(fast, atoms, step=0.01) < 4.5
    if "robust" in str(fast.config):
        return  # frames know no crystals
    crystal = with_elements(disordered_crystals(1)[0], ELEMENTS)
    error, size = stress_error(fast, crystal)
    assert error < 1e-7 * (1 + size)


def test_nothing_jumps_at_the_cutoff(pair: tuple[Potential, TabulatedPotential]) -> None:
    energy_jump, force_jump = cutoff_jumps(pair[1], ELEMENTS[:2])
    assert energy_jump < 1e-9
    assert force_jump < 1e-5


@pytest.mark.parametrize("name", ["pnita", "rapidash, R3, no self", "faenet in frames"])
def test_what_was_exactly_invariant_still_is(name: str) -> None:
    fast = tabulated(potential(BACKBONES[name]))
    energy, forces = rotation_errors(fast, disordered_molecules(1)[0], 4)
    assert energy < 1e-12
    assert forces < 1e-9


def test_a_grid_keeps_its_own_rotations() -> None:
    """A quarter turn about z is a symmetry of the octahedron, and another is none."""
    fast = tabulated(potential(BACKBONES["ponita"]))
    atoms = disordered_molecules(1)[0]
    quarter, other = atoms.copy(), atoms.copy()
    quarter.rotate(90, "z")
    other.rotate(35, (1, 2, 3))
    energies = [fast(build_graph(a, 4.0), forces=False).energy.item() for a in (atoms, quarter, other)]
    assert abs(energies[1] - energies[0]) < 1e-11
    assert abs(energies[2] - energies[0]) > 1e-6


def test_second_derivatives_are_those_of_the_forces() -> None:
    fast = tabulated(potential(BACKBONES["ponita"]))
    atoms = disordered_molecules(1, seed=2)[0]
    graph = build_graph(atoms, 4.0)
    along = torch.randn(len(atoms), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = []
    for sign in (1, -1):
        there = atoms.copy()
        there.positions += sign * 1e-5 * along.numpy()
        moved.append(forces_of(fast, there))
    numeric = -(moved[0] - moved[1]) / 2e-5
    np.testing.assert_allclose(hessian_vector(fast, graph, along), numeric, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BY_TABLE)
def test_a_compiled_step_gives_the_same(name: str) -> None:
    """The convolution stays one operator there; the recorded graph is compared, not machine code."""
    fast = tabulated(potential(BACKBONES[name]))
    compiled = CompiledPotential(fast, backend="eager")
    for atoms in disordered_molecules(3):
        np.testing.assert_allclose(forces_of(compiled, atoms), forces_of(fast, atoms), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ponita", "pnita", "faenet"])
def test_a_package_holds_tables(name: str, tmp_path: Path) -> None:
    plain = potential(BACKBONES[name], torch.float32)
    fast = tabulated(plain)
    manifest = export_package(fast, tmp_path / "model.pt2")
    assert manifest["config"]["tabulated"]["spacing"] == fast.spacing
    package = PackagedPotential(tmp_path / "model.pt2")
    for atoms in disordered_molecules(3):
        forces = package(build_graph(atoms, 4.0)).forces.numpy()
        np.testing.assert_allclose(forces, forces_of(plain, atoms), atol=2e-4)


def test_no_work_is_done_on_a_way_that_ends_where_it_began() -> None:
    """All atoms on ellipses of 0.1 Å: what a thermostat would have to take away."""
    fast = tabulated(potential(BACKBONES["ponita"]))
    atoms, rng = disordered_molecules(1)[0], np.random.default_rng(0)
    cosine, sine = rng.normal(scale=0.1, size=(2, len(atoms), 3))
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    work = size = 0.0
    for angle in angles:
        there = atoms.copy()
        there.positions += np.cos(angle) * cosine + np.sin(angle) * sine
        step = (np.cos(angle) * sine - np.sin(angle) * cosine) * (2 * np.pi / len(angles))
        done = forces_of(fast, there) * step
        work, size = work + done.sum(), size + np.abs(done).sum()
    assert abs(work) < 1e-6 * size


def test_the_model_itself_is_not_changed_and_the_new_one_is_not_trained() -> None:
    plain = potential(BACKBONES["rapidash"])
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    fast = tabulated(plain)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert not any(p.requires_grad for p in fast.parameters())
    assert any(isinstance(m, TabulatedKernel) for m in fast.modules())
    assert not any(isinstance(m, TabulatedKernel) for m in plain.modules())


def test_single_precision_keeps_float32_tables() -> None:
    plain = potential(BACKBONES["ponita"], torch.float32)
    fast = tabulated(plain)
    assert all(m.table.dtype == torch.float32 for m in fast.modules() if isinstance(m, TabulatedKernel))
    for atoms in disordered_molecules(3):
        assert np.abs(forces_of(fast, atoms) - forces_of(plain, atoms)).max() < 2e-4


def test_without_a_compiler_the_forces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = tabulated(potential(BACKBONES["ponita"]))
    atoms = disordered_molecules(1)[0]
    in_c = forces_of(fast, atoms)
    monkeypatch.setenv("GEOMOL_NATIVE", "0")
    np.testing.assert_allclose(forces_of(fast, atoms), in_c, rtol=1e-11, atol=1e-11)


REFUSED = {
    "short sums already": (lambda: Ponita(**SMALL, orientations="octahedral"), "no kernels to tabulate"),
    "three variables": (lambda: Rapidash(**SMALL, orientations="none", kernel_group="T(n)"), "3 variables"),
    "nearest neighbours": (lambda: Rapidash(**SMALL, orientations="none", edges="knn-4"), "no cutoff"),
    "bonds": (lambda: Ponita(**SMALL, kernel="polynomial", orientations="bonds"), "not tabulated"),
    "no cutoff": (
        lambda: FAENet(elements=ELEMENTS, channels=8, cutoff=float("inf"), radial_range=5.0, envelope=False),
        "finite cutoff",
    ),
    "vectors": (lambda: Ponita(**SMALL, kernel="polynomial", orientations="none", out_vectors=1), "vectors"),
    "the plane": (lambda: Rapidash(**SMALL, orientations="circle:4"), "the plane"),
    "too fine": (lambda: Ponita(**SMALL, kernel="polynomial", basis_dim=4), "too large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_table_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        tabulate(make(), 0.1 if name != "too fine" else 1e-3)


def test_errors_that_tables_cannot_reach_are_refused() -> None:
    plain = potential(BACKBONES["pnita"])
    with pytest.raises(ConfigError, match="do not reach"):
        tabulated(plain, tolerance=1e-14)
    with pytest.raises(ConfigError, match="must be positive"):
        tabulated(plain, tolerance=0)
    with pytest.raises(ConfigError, match="only potentials"):
        tabulated(CompiledPotential(plain))
    with pytest.raises(ConfigError, match="are tables already"):
        tabulated(tabulated(plain))
    with pytest.raises(ConfigError, match="made from the weights"):
        TabulatedPotential.from_config(tabulated(plain).config)
    with pytest.raises(ConfigError, match="only potentials"):
        GeomolCalculator(CompiledPotential(plain), tabulate=True)


def test_an_error_that_is_no_number_is_none_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([1e-9, float("nan"), 1e-9, 1e-9] * 20)
    monkeypatch.setattr("geomol.compiled.tables._error", lambda *_: next(errors))
    with pytest.raises(ConfigError, match="do not reach"):
        tabulated(potential(BACKBONES["pnita"]))


def test_every_element_is_looked_at() -> None:
    """Twenty elements, of which the last feels ten times the kernel of the first."""
    elements = list(range(1, 21))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = BACKBONES["pnita"]()
        backbone = Ponita(**{**backbone.config, "elements": elements})
        with torch.no_grad():
            backbone.embed.weight[:, -1] *= 10
    plain = Potential(backbone, elements=elements, e0=[0.0] * 20, scale=0.3).double().eval()
    fast = tabulated(plain)
    atoms = Atoms([20] * 6, positions=2.0 * np.random.default_rng(0).uniform(size=(6, 3)) + np.arange(6)[:, None])
    assert np.abs(forces_of(fast, atoms) - forces_of(plain, atoms)).max() < 1e-4 * max(
        1, np.abs(forces_of(plain, atoms)).max()
    )


def test_the_fingerprint_is_that_of_weights_and_spacing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables made without C differ in the last bits, and a run goes on with them."""
    plain = potential(BACKBONES["ponita"])
    prints = [GeomolCalculator(plain, tabulate=True).fingerprint]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setenv("GEOMOL_NATIVE", "0")
    prints.append(GeomolCalculator(plain, tabulate=True).fingerprint)
    torch.set_num_threads(threads)
    assert prints[0] == prints[1] != GeomolCalculator(plain).fingerprint
    with torch.no_grad():
        plain.backbone.basis.spatial[0].weight[0, 0] += 1e-3  # tables alone know of it
    assert GeomolCalculator(plain, tabulate=True).fingerprint != prints[0]


def test_a_tabulated_potential_is_not_saved(tmp_path: Path) -> None:
    fast = tabulated(potential(BACKBONES["pnita"]))
    with pytest.raises(CheckpointError, match="cannot be saved"):
        save_model(tmp_path / "m.safetensors", fast, provenance={}, errors={}, symmetry={})


def test_dynamics_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = potential(BACKBONES["pnita"])
    save_model(tmp_path / "m.safetensors", plain, provenance={}, errors={}, symmetry={})
    atoms: Atoms = disordered_molecules(1, displacement=0.02)[0]
    atoms.write(tmp_path / "a.xyz")
    words = ["md", str(tmp_path / "m.safetensors"), str(tmp_path / "a.xyz"), "--steps", "5", "--ensemble", "nve"]
    assert main([*words, "--tabulate", "--out", str(tmp_path / "md")]) == 0
    capsys.readouterr()
    package = tmp_path / "p.pt2"
    package.write_bytes(b"")
    assert main(["md", str(package), str(tmp_path / "a.xyz"), "--tabulate", "--out", str(tmp_path / "no")]) == 2
    assert "geomol export --tabulate" in capsys.readouterr().err
