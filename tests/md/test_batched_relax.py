"""Relaxing many structures at once ends where relaxing each alone ends, by the same steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms, FixBondLength

from geomol.errors import ConfigError, GeomolWarning
from geomol.md import GeomolCalculator, relax
from geomol.md import batched_relax as module
from geomol.md.batched_relax import fire_init, fire_step, relax_batched
from geomol.md.batched_systems import Systems
from geomol.models.pair import Morse
from geomol.potential import Potential


@pytest.fixture
def calculator() -> GeomolCalculator:
    return GeomolCalculator(Potential(Morse(elements=[29], cutoff=6.0), elements=[29], e0=[-1.5]).double())


def starts(cluster: Atoms) -> list[Atoms]:
    """Clusters and crystals of several sizes, some far from their minimum and one in it."""
    rng = np.random.default_rng(3)
    frames = [cluster[: 3 + k % 4] for k in range(7)]
    frames.insert(2, bulk("Cu", a=3.8, cubic=True) * (2, 1, 1))
    for k, atoms in enumerate(frames):
        atoms.positions += (0.02 + 0.05 * k) * rng.standard_normal(atoms.positions.shape)
    return [*frames, bulk("Cu", a=3.8)]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_structure_takes_the_steps_of_ase(calculator, cluster, batch_size):
    frames = starts(cluster)
    before = [atoms.copy() for atoms in frames]
    counts: list[int] = []
    results = relax_batched(
        frames, calculator, 0.02, 300, batch_size=batch_size, on_progress=lambda done, _: counts.append(done)
    )
    for atoms, result in zip(frames, results, strict=True):
        alone = relax(atoms, calculator, 0.02, 300, optimiser="fire")
        assert (result.steps, result.converged) == (alone.steps, alone.converged)
        assert result.energy == pytest.approx(alone.energy, abs=1e-9)
        assert np.abs(result.atoms.positions - alone.atoms.positions).max() < 1e-8
        assert result.fmax == pytest.approx(alone.fmax, abs=1e-8)
        assert result.atoms.get_potential_energy() == result.energy
    assert {result.steps for result in results} != {results[0].steps}
    assert counts[-1] == len(frames)
    assert counts == sorted(counts)
    assert frames == before


def test_another_scheme_takes_other_steps(calculator, cluster, monkeypatch):
    """Control of the test above."""
    monkeypatch.setattr(module, "DT_UP", 1.05)
    result = relax_batched([cluster], calculator, 0.02)[0]
    alone = relax(cluster, calculator, 0.02, optimiser="fire")
    assert np.abs(result.atoms.positions - alone.atoms.positions).max() > 1e-4
    assert result.energy == pytest.approx(alone.energy, abs=1e-3)  # the minimum is the same all the same


def test_a_pair_relaxes_to_the_minimum_of_its_well(cluster):
    calculator = GeomolCalculator(Potential(Morse(elements=[29], cutoff=1e6), elements=[29], e0=[0.0]).double())
    pairs = [Atoms("Cu2", positions=[[0, 0, 0], [0, 0, z]]) for z in np.linspace(2.2, 3.5, 20)]
    results = relax_batched(pairs, calculator, 1e-5, batch_size=8)
    assert all(result.converged and result.fmax < 1e-5 for result in results)
    lengths = [result.atoms.get_distance(0, 1) for result in results]
    assert np.ptp(lengths) < 1e-4
    energies = [
        calculator.get_potential_energy(Atoms("Cu2", positions=[[0, 0, 0], [0, 0, r]]))
        for r in (lengths[0] - 0.01, lengths[0] + 0.01)
    ]
    assert min(energies) > results[0].energy


def test_running_out_of_steps_is_said(calculator, cluster):
    for steps in (0, 2):
        (result,) = relax_batched([cluster], calculator, 1e-6, steps)
        assert not result.converged
        assert result.steps == steps
        assert result.fmax > 1e-6


def test_fixed_atoms_stay_and_do_not_count(calculator, cluster):
    fixed = cluster.copy()
    fixed.set_constraint(FixAtoms([0, 1]))
    (result,) = relax_batched([fixed], calculator, 0.01)
    alone = relax(fixed, calculator, 0.01, optimiser="fire")
    assert np.array_equal(result.atoms.positions[:2], cluster.positions[:2])
    assert np.abs(result.atoms.positions - alone.atoms.positions).max() < 1e-8
    assert result.converged
    assert result.fmax == pytest.approx(alone.fmax, abs=1e-9)


def test_forces_that_vanish_move_nothing():
    systems = Systems.from_atoms([Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 9]])])
    pos = torch.zeros(2, 3, dtype=torch.float64)
    state = fire_init(systems)
    for _ in range(3):
        state, pos = fire_step(systems, state, pos, torch.zeros_like(pos))
    assert torch.equal(pos, torch.zeros_like(pos))


class Cliff(Potential):
    """Forces on three atoms that are no numbers once two of them are near."""

    def forward(self, graph, *, forces=True, stress=False, create_graph=False):
        out = super().forward(graph, forces=forces, stress=stress, create_graph=create_graph)
        near = (graph.pos[graph.src] - graph.pos[graph.dst]).norm(dim=1) < 3.0
        near &= graph.ptr.diff()[graph.batch[graph.dst]] == 3
        assert out.forces is not None
        out.forces[graph.dst[near]] = torch.nan
        return out


def test_a_structure_that_breaks_down_is_named_and_left_as_it_was(cluster):
    calculator = GeomolCalculator(Cliff(Morse(elements=[29], cutoff=6.0), elements=[29], e0=[0.0]).double())
    good = Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.9]])
    bad = Atoms("Cu3", positions=[[0, 0, 0], [0, 0, 3.2], [2.8, 0, 1.6]])
    bad.positions[:, 2] *= 1.05
    with pytest.warns(GeomolWarning, match=r"structure 1: forces are not finite after \d+ steps"):
        one, two = relax_batched([good, bad], calculator, 1e-4)
    assert one.converged
    assert not two.converged
    assert np.isfinite(two.energy)
    assert np.isfinite(two.fmax)
    assert np.isfinite(two.atoms.get_forces()).all()


def test_settings_out_of_range_are_refused(calculator, cluster):
    with pytest.raises(ConfigError, match="fmax must be positive"):
        relax_batched([cluster], calculator, 0.0)
    with pytest.raises(ConfigError, match="`batch_size` is out of range"):
        relax_batched([cluster], calculator, batch_size=0)
    with pytest.raises(ConfigError, match="`steps` is out of range"):
        relax_batched([cluster], calculator, steps=-1)
    free = cluster.copy()
    cluster.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ConfigError, match="structure 1: many structures at once know no constraint but FixAtoms"):
        relax_batched([free, cluster], calculator)
    assert relax_batched([], calculator) == []
