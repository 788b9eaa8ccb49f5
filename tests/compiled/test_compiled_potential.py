"""A compiled potential is the potential: same results at any size, same errors, same weights, and it trains."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from geomol.checks import disordered_crystals, disordered_molecules, with_elements
from geomol.compiled import CompiledPotential, Form, has_many_pairs
from geomol.errors import ConfigError, GeomolError, ModelDomainError
from geomol.graph import build_graph
from geomol.md import GeomolCalculator
from geomol.models import EGNN, Morse, Ponita
from geomol.potential import Potential

ELEMENTS = [1, 6, 7, 8]
FAST = "aot_eager"  # the whole path but for the generation of machine code


def egnn(dtype: torch.dtype = torch.float64) -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = EGNN(elements=ELEMENTS, channels=4, num_layers=1, num_radial=2, cutoff=4.0, attention=True)
    return Potential(backbone, elements=ELEMENTS, e0=[-13.5, -1029.0, -1400.0, -2042.0], scale=0.7).to(dtype)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Potential, CompiledPotential]]:
    potential = Potential(Morse(cutoff=4.0), elements=ELEMENTS, e0=[-1.0, -2.0, -3.0, -4.0], zbl=True)
    yield potential, CompiledPotential(potential, backend=FAST)
    torch.compiler.reset()


@pytest.fixture(scope="module")
def trained() -> Iterator[tuple[Potential, CompiledPotential]]:
    potential = egnn()
    yield potential, CompiledPotential(potential, backend=FAST)
    torch.compiler.reset()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1e-9))


def test_one_step_serves_molecules_of_all_sizes(pair: tuple[Potential, CompiledPotential]) -> None:
    plain, compiled = pair
    lonely = [Atoms("H"), Atoms("OH", [[0, 0, 0], [0, 0, 9.0]])]  # computed by the plain potential
    for atoms in [*disordered_molecules(4), molecule("OH"), *lonely]:
        graph = build_graph(atoms, plain.cutoff)
        expected, got = plain(graph), compiled(graph)
        assert relative(got.energy, expected.energy) < 1e-10
        assert relative(got.node_energy, expected.node_energy) < 1e-10
        assert got.forces is not None
        assert expected.forces is not None
        assert float((got.forces - expected.forces).abs().max()) < 1e-10 * max(1, float(expected.forces.abs().max()))
        assert not got.forces.requires_grad
    assert list(compiled.seconds) == ["molecule, inference"]


def test_stress_of_crystals(pair: tuple[Potential, CompiledPotential]) -> None:
    plain, compiled = pair
    for atoms in disordered_crystals(3):
        graph = build_graph(with_elements(atoms, ELEMENTS), plain.cutoff)
        expected, got = plain(graph, stress=True), compiled(graph, stress=True)
        assert relative(got.stress, expected.stress) < 1e-10
        assert relative(got.forces, expected.forces) < 1e-9
    assert "crystal, inference with stress" in compiled.seconds


def test_what_the_potential_refuses_is_refused(pair: tuple[Potential, CompiledPotential]) -> None:
    plain, compiled = pair
    with pytest.raises(ModelDomainError, match="element outside the model"):
        compiled(build_graph(bulk("Cu", cubic=True), plain.cutoff))
    with pytest.raises(GeomolError, match="stress of a structure without a cell"):
        compiled(build_graph(molecule("H2O"), plain.cutoff), stress=True)
    with pytest.raises(ConfigError, match="only potentials are compiled"):
        CompiledPotential(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_force_training_gives_the_gradients_of_the_potential(trained: tuple[Potential, CompiledPotential]) -> None:
    plain, compiled = trained
    for number in (3, 5):
        graph = build_graph(disordered_molecules(number), plain.cutoff)
        gradients = []
        for model in (plain, compiled):
            out = model(graph, create_graph=True)
            loss = out.energy.square().mean() * 1e-6 + out.forces.square().sum()
            gradients.append(torch.autograd.grad(loss, list(plain.parameters())))
        for expected, got in zip(*gradients, strict=True):
            assert relative(got, expected) < 1e-10
    assert list(compiled.seconds) == ["molecules, training"]


def test_an_optimiser_step_on_the_potential_changes_the_compiled_one(
    trained: tuple[Potential, CompiledPotential],
) -> None:
    plain, compiled = trained
    graph = build_graph(disordered_molecules(4), plain.cutoff)
    before = compiled(graph, create_graph=True).forces.detach()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(1.1)
    after = compiled(graph, create_graph=True).forces.detach()
    assert relative(after, before) > 1e-3
    assert relative(after, plain(graph).forces) < 1e-10


def test_a_copy_compiles_for_itself(trained: tuple[Potential, CompiledPotential]) -> None:
    plain, compiled = trained
    assert compiled._steps
    copied = copy.deepcopy(compiled)
    assert not copied._steps
    assert copied.potential is not plain
    assert copied.config == compiled.config != plain.config


def test_the_calculator_compiles_where_it_is_asked_to() -> None:
    potential = egnn().eval()
    calculator = GeomolCalculator(potential, compile=True)
    (model,) = calculator.models
    assert isinstance(model, CompiledPotential)
    assert model.potential is potential
    assert calculator.fingerprint != GeomolCalculator(potential).fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_machine_code_gives_the_results_of_the_potential(dtype: torch.dtype, tolerance: float) -> None:
    potential = egnn(dtype)
    compiled = CompiledPotential(potential)
    assert compiled.prepare(Form(periodic=False, single=False, stress=False, training=True)) > 0
    calculators = GeomolCalculator(potential), GeomolCalculator(potential, compile=True)
    for atoms in disordered_molecules(3):
        plain, fast = (calculator.get_forces(atoms) for calculator in calculators)
        assert np.abs(fast - plain).max() < tolerance * np.abs(plain).max()
    torch.compiler.reset()


def test_with_many_pairs_and_in_training_the_separable_convolution_stays_whole() -> None:
    """All forms of a step give the results and the training gradients of the plain potential."""
    torch.manual_seed(0)
    backbone = Ponita(elements=[29], channels=8, num_layers=2, cutoff=4.0, orientations="octahedral")
    potential = Potential(backbone, elements=[29], e0=[0.0]).double()
    compiled = CompiledPotential(potential, backend="eager")
    for repeats, many in ((1, False), (3, True)):
        atoms = bulk("Cu", cubic=True) * (repeats, repeats, repeats)
        atoms.rattle(0.1, seed=1)
        graph = build_graph(atoms, 4.0)
        assert has_many_pairs(graph) == many
        torch.testing.assert_close(compiled(graph).forces, potential(graph).forces, rtol=1e-10, atol=1e-12)
        mine, plain = (m(graph, create_graph=True) for m in (compiled, potential))
        torch.testing.assert_close(mine.forces, plain.forces, rtol=1e-10, atol=1e-12)
        loss = [(out.forces.square().sum() + out.energy.square().sum()) for out in (mine, plain)]
        weights = list(potential.parameters())
        for a, b in zip(*(torch.autograd.grad(one, weights, allow_unused=True) for one in loss), strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    assert [(key[0].training, "separable" in key[-1]) for key in compiled._steps] == [
        (False, False),
        (True, True),
        (False, True),
    ]
