"""What every potential must obey, for every architecture and every symmetry mode. Numbers in brackets: the project's
list of checks.

Weights are random; energies are in units where forces are of order one. Everything is float64 unless a test says
otherwise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from geomol import checks
from geomol.graph import build_graph
from geomol.models import MODELS
from geomol.potential import Potential
from geomol.symmetry import build_backbone

ALL_ELEMENTS = sorted({1, 5, 6, 7, 8, 9, 11, 14, 16, 17, 26, 29})

MODES: dict[str, dict] = {
    "egnn": {"name": "egnn", "channels": 16, "num_layers": 3, "cutoff": 4.0},
    "ponita": {"name": "ponita", "channels": 12, "num_layers": 3, "cutoff": 4.0},
    "ponita-design24": {"name": "ponita", "channels": 12, "num_layers": 2, "cutoff": 4.0, "orientations": "design24"},
    "pnita": {"name": "ponita", "channels": 16, "num_layers": 3, "cutoff": 4.0, "orientations": "none"},
    "pnita-polynomial": {
        "name": "ponita",
        "channels": 12,
        "num_layers": 2,
        "cutoff": 4.0,
        "orientations": "none",
        "kernel": "polynomial",
        "basis_dim": 16,
    },
    "lennard_jones": {"name": "lennard_jones", "epsilon": 0.3, "sigma": 1.2, "cutoff": 4.0},
    "morse": {"name": "morse", "cutoff": 4.0},
}
EXACT = [m for m in MODES if not m.startswith("ponita")]
GRIDS = [m for m in MODES if m.startswith("ponita")]
LEARNED = [m for m in MODES if m not in ("lennard_jones", "morse")]


def make(
    mode: str,
    *,
    seed: int = 0,
    elements: list[int] = ALL_ELEMENTS,
    dtype: torch.dtype = torch.float64,
    zbl: bool = False,
    **changes: object,
) -> Potential:
    config = {**MODES[mode], **changes}
    if mode in LEARNED:
        config["elements"] = elements
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = build_backbone(config)
    e0 = [-(1.0 + 0.37 * z) for z in elements]
    return Potential(backbone, elements=elements, e0=e0, scale=1.0, zbl=zbl).to(dtype)


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


def molecules(num: int) -> list[Atoms]:
    return checks.disordered_molecules(num, seed=1, displacement=0.1)


def crystals(num: int) -> list[Atoms]:
    return checks.disordered_crystals(num, seed=2)


def test_every_registered_model_is_tested() -> None:
    assert {config["name"] for config in MODES.values()} == set(MODELS)


def test_predictions_are_not_trivially_zero(mode: str) -> None:
    atoms = molecules(1)[0]
    potential = make(mode)
    forces = checks.forces_of(potential, atoms)
    assert np.abs(forces).max() > 1e-3
    assert abs(checks.energy_of(potential, [atoms])[0]) > 1.0


# [1] forces


def test_forces_are_minus_the_energy_gradient(mode: str) -> None:
    potential = make(mode)
    for atoms in molecules(4):
        assert checks.force_error(potential, atoms) < 1e-7


def test_difference_error_falls_fourfold_when_the_step_halves(mode: str) -> None:
    assert 3.5 < checks.force_error_order(make(mode), molecules(1)[0], step=0.005) < 4.5


def test_forces_of_symmetric_molecules_are_the_gradient_too(mode: str) -> None:
    """[10] exactly symmetric, and perturbed by 1e-12 to 1e-3 Å; no NaN anywhere."""
    potential = make(mode)
    rng = np.random.default_rng(0)
    for name, atoms in checks.symmetric_molecules().items():
        if name == "C60":  # as large as all others together; covered by the rotation test
            continue
        for noise in (0.0, 1e-12, 1e-3):
            moved = atoms.copy()
            moved.positions += noise * rng.normal(size=moved.positions.shape)
            assert checks.force_error(potential, moved, step=1e-3) < 1e-6, (name, noise)


def test_the_force_check_rejects_scaled_forces() -> None:
    """The control: forces that are 0.01 % too large do not pass."""
    potential = make("egnn")
    atoms = molecules(1)[0]

    class Wrong(torch.nn.Module):
        cutoff = potential.cutoff

        def forward(self, graph, *, forces=True, stress=False):
            out = potential(graph, forces=forces, stress=stress)
            return (
                out if out.forces is None else type(out)(out.energy, out.node_energy, out.forces * 1.0001, out.stress)
            )

    assert checks.force_error(Wrong(), atoms) > 1e-7


# [2] stress


def test_stress_is_the_strain_derivative(mode: str) -> None:
    potential = make(mode)
    for atoms in crystals(6):
        error, size = checks.stress_error(potential, atoms)
        assert error < max(1e-7 * size, 1e-9)


def test_stress_is_symmetric(mode: str) -> None:
    graph = build_graph(crystals(6), MODES[mode]["cutoff"])
    stress = make(mode)(graph, stress=True).stress
    assert (stress - stress.mT).abs().max() < 1e-10


# [3] conservative


def test_force_jacobian_is_symmetric(mode: str) -> None:
    assert checks.jacobian_antisymmetry(make(mode), molecules(1)[0]) < 1e-10


# [5] cutoff


def test_energy_and_forces_are_continuous_when_an_atom_crosses_the_cutoff_in_a_crowd(mode: str) -> None:
    energy_jump, force_jump = checks.cutoff_jumps(make(mode), [1, 6, 8])
    assert energy_jump < 1e-10
    assert force_jump < 1e-5


# [8] symmetry, exact backbones; [9] grids


@pytest.mark.parametrize("exact_mode", EXACT)
@pytest.mark.parametrize("reflect", [False, True])
def test_exact_backbones_are_invariant_under_rotations_and_reflections(exact_mode: str, reflect: bool) -> None:
    potential = make(exact_mode)
    assert potential.symmetry.exact
    assert potential.symmetry.group == "E(3)"
    structures = molecules(8) + list(checks.symmetric_molecules().values())
    for atoms in structures:
        energy_error, force_error = checks.rotation_errors(potential, atoms, 10, reflect=reflect)
        assert energy_error < 1e-11
        assert force_error < 1e-10


@pytest.mark.parametrize("exact_mode", EXACT)
def test_float32_weights_keep_the_symmetry_to_float32_accuracy(exact_mode: str) -> None:
    potential = make(exact_mode, dtype=torch.float32)
    for atoms in molecules(4):
        energy_error, force_error = checks.rotation_errors(potential, atoms, 10)
        assert energy_error < 1e-5
        assert force_error < 1e-4 * (1 + np.abs(checks.forces_of(potential, atoms)).max() / 10)


@pytest.mark.parametrize("grid_mode", GRIDS)
def test_grid_backbones_say_that_they_are_approximate_and_are_exact_on_their_own_group(grid_mode: str) -> None:
    potential = make(grid_mode)
    assert not potential.symmetry.exact
    atoms = molecules(1)[0]
    cyclic = np.eye(3)[[1, 2, 0]]  # x → y → z: a symmetry of every grid used here
    before, after = checks.energy_of(potential, [atoms, checks.symmetries.turned(atoms, cyclic)])
    assert abs(after - before) < 1e-11 * (1 + abs(before))
    energy_error, _ = checks.rotation_errors(potential, atoms, 20)
    assert energy_error > 1e-9  # the control: a generic rotation is seen


def test_rotation_error_falls_as_the_grid_grows() -> None:
    """With random weights, which are not trained to be invariant; models in models/ state their own, far smaller,
    error.
    """
    errors = []
    for grid in ("octahedral", "icosahedral", "design24", "design60"):
        potential = make("ponita", orientations=grid)
        errors.append(np.mean([checks.rotation_errors(potential, atoms, 10)[0] for atoms in molecules(3)]))
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 2e-3


def test_translation_changes_nothing(mode: str) -> None:
    potential = make(mode)
    for atoms in molecules(2) + crystals(2):
        assert checks.translation_error(potential, atoms, 10.0) < 1e-11


@pytest.mark.parametrize("distance", [1e3, 1e4, 1e6])
def test_far_from_the_origin_nothing_changes(mode: str, distance: float) -> None:
    """[18] positions stay float64 until edge vectors are formed, also with float32 weights."""
    atoms = molecules(1)[0]
    assert checks.translation_error(make(mode), atoms, distance) < 1e-9
    assert checks.translation_error(make(mode, dtype=torch.float32), atoms, distance) < 1e-5


# [11] net force and torque


def test_net_force_vanishes(mode: str) -> None:
    for atoms in molecules(8):
        assert checks.net_force_and_torque(make(mode), atoms)[0] < 1e-10


@pytest.mark.parametrize("exact_mode", EXACT)
def test_net_torque_vanishes_for_exact_backbones(exact_mode: str) -> None:
    for atoms in molecules(8):
        assert checks.net_force_and_torque(make(exact_mode), atoms)[1] < 1e-9


# [12] permutation


def test_renumbering_changes_nothing(mode: str) -> None:
    for atoms in molecules(2) + crystals(2):
        assert checks.permutation_error(make(mode), atoms, 20) < 1e-12
        assert checks.permutation_error(make(mode, dtype=torch.float32), atoms, 20) < 1e-6


# [13] separability and extensivity


@pytest.mark.parametrize("copies", [2, 16, 64])
def test_far_fragments_add_up(mode: str, copies: int) -> None:
    assert checks.separability_error(make(mode), molecules(1)[0], copies) < 1e-11


@pytest.mark.parametrize("repeat", [(2, 1, 1), (1, 2, 3), (4, 4, 4)])
def test_supercells_are_extensive(mode: str, repeat: tuple[int, int, int]) -> None:
    assert checks.supercell_error(make(mode), crystals(1)[0], repeat) < 1e-11


# [15] small cells


@pytest.mark.parametrize("thickness", [0.2, 0.35, 0.6])
def test_a_cell_thinner_than_the_cutoff_equals_its_supercell(mode: str, thickness: float) -> None:
    a = thickness * MODES[mode]["cutoff"]
    atoms = Atoms("C", cell=[[a, 0.1 * a, 0], [0, 3.1, 0.2], [0.3, 0, 2.9]], pbc=True)
    assert checks.supercell_error(make(mode), atoms, (4, 1, 1)) < 1e-11


# [17], [20] degenerate inputs and batches


def test_an_isolated_atom_has_its_reference_energy_and_no_force(mode: str) -> None:
    potential = make(mode)
    atom = Atoms("C", [[0.3, -0.2, 0.9]])
    forces = checks.forces_of(potential, atom)
    assert np.array_equal(forces, np.zeros((1, 3)))
    # the energy of a lone atom is a constant of the model, the same anywhere and beside any stranger far away
    one, two = checks.energy_of(potential, [atom, Atoms("CO", [[0, 0, 0], [0, 0, 50.0]])])
    oxygen = checks.energy_of(potential, [Atoms("O", [[0, 0, 0]])])[0]
    assert two == pytest.approx(one + oxygen, abs=1e-12)
    if mode in ("lennard_jones", "morse"):
        assert one == pytest.approx(potential.e0_values[potential.elements.index(6)])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_chains_along_an_axis_have_finite_second_derivatives(mode: str, axis: int) -> None:
    positions = np.zeros((4, 3))
    positions[:, axis] = [0.0, 1.3, 2.5, 3.9]
    potential = make(mode)
    atoms = Atoms("CHOC", positions)
    assert np.isfinite(checks.forces_of(potential, atoms)).all()
    assert np.isfinite(checks.jacobian_antisymmetry(potential, atoms))


def test_batches_equal_single_structures_in_any_mixture(mode: str) -> None:
    potential = make(mode)
    mixed = molecules(6) + crystals(4) + [Atoms("H", [[0, 0, 0]])]
    for order in (range(len(mixed)), reversed(range(len(mixed)))):
        energy_error, force_error = checks.batch_error(potential, [mixed[i] for i in order])
        assert energy_error < 1e-12
        assert force_error < 1e-11


def test_a_nan_structure_leaves_its_batch_mates_alone(mode: str) -> None:
    potential = make(mode)
    graph = build_graph(molecules(3), potential.cutoff)
    pos = graph.pos.clone()
    pos[graph.batch == 1] = torch.nan
    clean, spoilt = potential(graph), potential(graph.replace(pos=pos))
    keep = graph.batch != 1
    assert torch.equal(clean.energy[[0, 2]], spoilt.energy[[0, 2]])
    assert torch.equal(clean.forces[keep], spoilt.forces[keep])


def test_structures_in_a_batch_do_not_see_each_other(mode: str) -> None:
    potential = make(mode)
    graph = build_graph(molecules(2), potential.cutoff)
    pos = graph.pos.clone().requires_grad_()
    energy = potential.node_energy(graph.replace(pos=pos))[graph.batch == 0].sum()
    (gradient,) = torch.autograd.grad(energy, pos)
    assert torch.equal(gradient[graph.batch == 1], torch.zeros_like(gradient[graph.batch == 1]))
    assert gradient[graph.batch == 0].abs().max() > 0


# training on forces


@pytest.mark.parametrize("learned_mode", LEARNED)
def test_force_loss_gradient_equals_finite_differences_in_the_weights(learned_mode: str) -> None:
    potential = make(learned_mode)
    graph = build_graph(molecules(2), potential.cutoff)

    def loss() -> torch.Tensor:
        return potential(graph, create_graph=True).forces.square().sum()

    parameters = list(potential.parameters())
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    torch.manual_seed(3)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(parameter)
        step = 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
            values.append(loss().item())
            with torch.no_grad():
                parameter.sub_(sign * step * direction)
        numeric = (values[0] - values[1]) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_zbl_keeps_the_contract_and_repels() -> None:
    potential = make("egnn", zbl=True)
    atoms = molecule("H2O")
    assert checks.force_error(potential, atoms) < 1e-7
    plain, repelled = (make("egnn", zbl=z) for z in (False, True))
    close = Atoms("O2", [[0, 0, 0], [0, 0, 0.45]])
    gain = checks.energy_of(repelled, [close])[0] - checks.energy_of(plain, [close])[0]
    # by hand: 14.3996 · 64 / 0.45 = 2047.9 eV, screened by φ(0.45 / 0.1453) = 0.1225, times the envelope at 0.45 /
    # 1.32, 0.982
    assert gain == pytest.approx(2047.9 * 0.1225 * 0.982, rel=5e-3)
    assert np.array_equal(*(checks.energy_of(p, [bulk("NaCl", "rocksalt", a=5.64)]) for p in (repelled, plain)))
