"""Many replicas at once take the steps of single runs, keep the laws of dynamics, and know nothing of each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms, units
from scipy import stats
from torch import Tensor

from geomol.graph import build_graph
from geomol.md import GeomolCalculator, MDConfig, run_md
from geomol.md.batched import run_batched_md
from geomol.md.batched_forces import BatchedForces, BatchedNeighbours
from geomol.md.batched_integrators import Noise, langevin_step, nve_init, nve_step
from geomol.md.batched_systems import BatchedState, Systems, kinetic_energy, positions_of
from geomol.models.pair import Morse
from geomol.potential import Potential


def morse(cutoff: float = 5.0) -> Potential:
    return Potential(Morse(elements=[29], cutoff=cutoff), elements=[29], e0=[-1.5]).double()


@pytest.fixture
def calculator() -> GeomolCalculator:
    return GeomolCalculator(morse(), skin=0.3)


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin"])
def test_replicas_follow_the_driver_of_single_structures(calculator, cluster, crystal, tmp_path, ensemble):
    config = MDConfig(ensemble=ensemble, steps=60, timestep_fs=3.0, temperature_K=400, interval=60, seed=7)
    frames = [cluster, crystal, cluster]
    seeds, kelvins = [7, 8, 9], [400.0, 500.0, 300.0]
    batch = run_batched_md(frames, calculator, config, tmp_path / "b", seeds=seeds, temperatures_K=kelvins).atoms
    alone = []
    for k, (atoms, seed, kelvin) in enumerate(zip(frames, seeds, kelvins, strict=True)):
        own = config.model_copy(update={"seed": seed, "temperature_K": kelvin})
        alone.append(run_md(atoms, calculator, own, tmp_path / str(k)).atoms)
    for one, other in zip(batch, alone, strict=True):
        assert np.abs(one.positions - other.positions).max() < 1e-10
        assert np.abs(one.get_momenta() - other.get_momenta()).max() < 1e-9
    # control: another seed is another trajectory
    assert np.abs(batch[0].positions - batch[2].positions).max() > 0.01


def test_the_first_replica_is_the_run_of_the_seed_and_the_others_are_not(calculator, cluster, tmp_path):
    config = MDConfig(steps=20, timestep_fs=3.0, interval=20, seed=3)
    batch = run_batched_md(cluster, calculator, config, tmp_path / "b", replicas=3).atoms
    alone = run_md(cluster, calculator, config, tmp_path / "a").atoms
    distances = [np.abs(atoms.positions - alone.positions).max() for atoms in batch]
    assert distances[0] < 1e-10
    assert min(distances[1:]) > 0.01
    assert np.abs(batch[1].positions - batch[2].positions).max() > 0.01


def test_a_replica_does_not_depend_on_the_others(calculator, cluster, crystal, tmp_path):
    config = MDConfig(steps=40, timestep_fs=3.0, interval=40)
    together = run_batched_md([cluster, crystal, cluster], calculator, config, tmp_path / "a", seeds=[1, 2, 3]).atoms
    parted = run_batched_md(
        [cluster, crystal, cluster], calculator, config, tmp_path / "b", seeds=[1, 2, 3], at_once=2
    ).atoms
    (last,) = run_batched_md(cluster, calculator, config, tmp_path / "c", seeds=[3]).atoms
    for one, other in zip([*together, together[2]], [*parted, last], strict=True):
        assert np.abs(one.positions - other.positions).max() < 1e-10


def fluctuation(step: Callable[..., BatchedState], atoms: Atoms, timestep_fs: float) -> np.ndarray:
    """Standard deviations of the total energies of three replicas over 400 fs."""
    rng = np.random.default_rng(0)
    systems = Systems.from_atoms([atoms] * 3)
    forces = BatchedForces(GeomolCalculator(morse(8.0)), systems)
    thermal = rng.standard_normal((3 * len(atoms), 3)) * np.sqrt(systems.masses.numpy() * units.kB * 300)
    state = nve_init(forces, positions_of([atoms] * 3), torch.from_numpy(thermal))
    totals = []
    for _ in range(round(400 / timestep_fs)):
        state = step(systems, forces, state, dt=timestep_fs * units.fs)
        totals.append((state.energy + kinetic_energy(systems, state.momenta)).numpy())
    return np.std(totals, axis=0)


def first_order_step(systems: Systems, forces: Callable[..., tuple[Tensor, Tensor]], state: BatchedState, *, dt: float):
    """Symplectic Euler: right in the limit, but of first order."""
    momenta = state.momenta + dt * state.forces
    pos = state.pos + dt * momenta / systems.masses
    energy, force = forces(pos)
    return BatchedState(pos, momenta, force, energy)


def test_energy_fluctuations_fall_by_four_when_the_step_halves(cluster):
    ratio = fluctuation(nve_step, cluster, 4.0) / fluctuation(nve_step, cluster, 2.0)
    assert ratio == pytest.approx(4, abs=0.4)
    # control: an integrator of first order falls by two
    wrong = fluctuation(first_order_step, cluster, 4.0) / fluctuation(first_order_step, cluster, 2.0)
    assert wrong == pytest.approx(2, abs=0.4)


def test_a_trajectory_runs_backwards(cluster):
    systems = Systems.from_atoms([cluster] * 2)
    forces = BatchedForces(GeomolCalculator(morse(8.0)), systems)
    start = positions_of([cluster] * 2)
    momenta = torch.from_numpy(np.random.default_rng(0).standard_normal(start.shape))
    state = nve_init(forces, start, momenta)
    for _ in range(200):
        state = nve_step(systems, forces, state, dt=2 * units.fs)
    assert (state.pos - start).abs().max() > 0.1
    state = nve_init(forces, state.pos, -state.momenta)
    for _ in range(200):
        state = nve_step(systems, forces, state, dt=2 * units.fs)
    assert (state.pos - start).abs().max() < 1e-9


TRAP = 1.5  # eV/Å²


def trap(pos: Tensor) -> tuple[Tensor, Tensor]:
    """Each atom a system of its own, E = ½ k r²."""
    return 0.5 * TRAP * pos.square().sum(1), -TRAP * pos


def sampled(kelvins: list[float], each: int, *, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """2 E_kin / kT and 2 E_pot / kT of many trapped atoms: (samples, temperatures, atoms of each)."""
    count = each * len(kelvins)
    systems = Systems.from_atoms([Atoms("He")] * count)
    kT = units.kB * torch.tensor(kelvins, dtype=torch.float64).repeat_interleave(each)
    zeros = torch.zeros(count, 3, dtype=torch.float64)
    state, noise = nve_init(trap, zeros, zeros), Noise([(1, k) for k in range(count)], [1] * count, "cpu")
    dt, out = 0.5 * units.fs, []
    for step in range(900):
        kicks = scale * noise.next()
        state = langevin_step(systems, trap, state, dt=dt, friction=0.1 / units.fs, kT=kT, noise=kicks)
        if step >= 300 and step % 100 == 0:
            kinetic = kinetic_energy(systems, state.momenta)
            out.append(torch.stack([2 * kinetic / kT, 2 * state.energy / kT]).view(2, len(kelvins), each).numpy())
    kinetic, potential = np.stack(out, axis=1)
    return kinetic, potential


def test_langevin_shares_the_energy_evenly_at_every_temperature():
    """Both 2 E_kin / kT and 2 E_pot / kT of a trapped atom are χ² with three freedoms."""
    for values in sampled([100.0, 300.0, 1000.0], 150):
        for at_one_temperature in values.transpose(1, 0, 2):
            assert at_one_temperature.mean() == pytest.approx(3, abs=4 * (6 / 900) ** 0.5)
            assert stats.kstest(at_one_temperature[::3].ravel(), stats.chi2(3).cdf).pvalue > 1e-3
    # control: the test sees noise that is 7 % too strong
    kinetic, potential = sampled([300.0], 450, scale=1.07)
    assert stats.kstest(kinetic[-1].ravel(), stats.chi2(3).cdf).pvalue < 0.05
    assert kinetic.mean() > 3 + 4 * (6 / 2700) ** 0.5
    assert potential.mean() > 3 + 4 * (6 / 2700) ** 0.5


def test_noise_goes_on_where_it_was_and_is_that_of_each_seed_alone():
    whole = Noise([(1, 0), (1, 1), (5,)], [4, 2, 3], "cpu")
    steps = [whole.next() for _ in range(300)]  # more than one block
    again = Noise([(1, 0), (1, 1), (5,)], [4, 2, 3], "cpu")
    for _ in range(100):
        again.next()
    state = again.state()
    other = Noise([(1, 0), (1, 1), (5,)], [4, 2, 3], "cpu")
    other.restore(state)
    for step in steps[100:]:
        assert torch.equal(other.next(), step)
    # what remains after one is left out is unchanged, in the middle of a block
    again.select([0, 2])
    rows = torch.tensor([0, 1, 2, 3, 6, 7, 8])
    for step in steps[100:]:
        assert torch.equal(again.next(), step[:, rows])
    drawn = np.random.default_rng([5, 1]).standard_normal((2, 3, 3))
    assert np.array_equal(steps[0][:, 6:].numpy(), drawn)


@pytest.mark.parametrize("kind", ["molecules", "crystals"])
def test_neighbours_are_exact_at_every_step_and_rarely_searched(cluster, crystal, kind):
    frames = [cluster, cluster[:4]] if kind == "molecules" else [crystal, cluster]
    neighbours = BatchedNeighbours(Systems.from_atoms(frames), 4.0, skin=0.6)
    rng = np.random.default_rng(0)
    for _ in range(30):
        for atoms in frames:
            atoms.positions += 0.02 * rng.standard_normal(atoms.positions.shape)
        graph, expected = neighbours.graph(positions_of(frames)), build_graph(frames, 4.0)
        for name in ("pos", "edge_index", "edge_ptr", "cell_shift", "send_perm", "send_ptr", "batch"):
            assert torch.equal(getattr(graph, name), getattr(expected, name)), name
    if kind == "molecules":
        assert neighbours.rebuilds == 0
    else:
        assert 1 < neighbours.rebuilds < 15


def test_a_jump_beyond_half_the_skin_is_searched_again(crystal):
    neighbours = BatchedNeighbours(Systems.from_atoms([crystal]), 4.0, skin=1.0)
    for jump, rebuilds in ((0.0, 1), (0.499, 1), (0.5, 2), (0.5 + 3.9 * 2, 3)):
        moved = crystal.copy()
        moved.positions[5, 0] += jump
        graph = neighbours.graph(positions_of([moved]))
        assert neighbours.rebuilds == rebuilds
        assert torch.equal(graph.edge_index, build_graph(moved, 4.0).edge_index)


def test_a_committee_gives_its_mean(cluster):
    models = [morse(5.0), morse(4.0)]
    systems = Systems.from_atoms([cluster] * 2)
    energy, forces = BatchedForces(GeomolCalculator(models), systems)(positions_of([cluster] * 2))
    cluster.calc = GeomolCalculator(models)
    assert energy.tolist() == pytest.approx([cluster.get_potential_energy()] * 2, abs=1e-12)
    assert np.abs(forces.numpy()[:6] - cluster.get_forces()).max() < 1e-12
