"""Molecules from requests: seeds, companions, formulas, scaffolds, leads, targets, and what cannot be followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import molecule
from generate.tiny_denoiser import tiny_denoiser

from geomol.diffusion import SAMPLERS, Denoiser
from geomol.errors import ConfigError
from geomol.generate.request import Lead, Request, Scaffold, make_requests, parse_formula
from geomol.generate.sampling import Sample, SampleSettings, sample_batch

FEW = SampleSettings(steps=8)
SIZES = {4: 1, 5: 3, 7: 2, 9: 4}


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return tiny_denoiser()


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return make_requests(6, seed=3, sizes=SIZES)


def largest_difference(a: Sequence[Sample], b: Sequence[Sample]) -> float:
    """Of positions, Å; elements and bonds must be the same."""
    for one, other in zip(a, b, strict=True):
        assert np.array_equal(one.numbers, other.numbers)
        assert (one.orders is None) == (other.orders is None)
        assert one.orders is None or np.array_equal(one.orders, other.orders)
    return max(float(np.abs(one.pos - other.pos).max()) for one, other in zip(a, b, strict=True))


# seeds


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_molecules_depend_on_their_seeds_alone(name: str, denoiser: Denoiser, requests: list[Request]) -> None:
    settings = SampleSettings(sampler=name, steps=8, churn=3.0 if name == "heun" else 0.0)
    whole = sample_batch(denoiser, requests, settings)
    alone = [sample_batch(denoiser, [request], settings)[0] for request in requests]
    backwards = sample_batch(denoiser, requests[::-1], settings)[::-1]
    assert largest_difference(whole, alone) < 1e-9
    assert largest_difference(whole, backwards) < 1e-9
    other = [replace(r, seed=r.seed + 1) for r in requests]
    moved = sample_batch(denoiser, other, settings)
    assert all(np.abs(a.pos - b.pos).max() > 1e-3 for a, b in zip(whole, moved, strict=True)), "the control"


def test_in_single_precision_companions_change_rounding_only(requests: list[Request]) -> None:
    """Three steps: rounding grows along the way, as it does on any chaotic path."""
    single, settings = tiny_denoiser(dtype=torch.float32), SampleSettings(steps=3)
    whole = sample_batch(single, requests, settings)
    alone = [sample_batch(single, [request], settings)[0] for request in requests]
    assert largest_difference(whole, alone) < 1e-4


def test_a_sample_is_what_was_asked_for(denoiser: Denoiser, requests: list[Request]) -> None:
    for request, made in zip(requests, sample_batch(denoiser, requests, FEW), strict=True):
        assert made.request is request
        assert made.pos.shape == (request.size, 3)
        assert made.pos.dtype == np.float64
        assert set(made.numbers) <= {1, 6, 8}
        assert np.abs(made.pos.mean(0)).max() < 1e-12
        assert made.orders is not None
        assert np.array_equal(made.orders, made.orders.T)
        assert not made.orders.diagonal().any()
        assert made.frames is None
    assert tiny_denoiser(bond_channels=0).bonds is None
    assert sample_batch(tiny_denoiser(bond_channels=0), requests[:1], FEW)[0].orders is None


def test_trajectories_lead_to_the_molecule(denoiser: Denoiser, requests: list[Request]) -> None:
    settings = replace(FEW, steps=30, frames=10)
    made = sample_batch(denoiser, requests, settings, trajectories=True)
    assert largest_difference(made, sample_batch(denoiser, requests, settings)) == 0.0
    for sample in made:
        assert sample.frames is not None
        pos, numbers = sample.frames
        assert pos.shape == (len(pos), sample.request.size, 3)
        assert numbers.shape == pos.shape[:2]
        assert 10 <= len(pos) <= 20
    every = sample_batch(denoiser, requests[:1], replace(settings, frames=1000), trajectories=True)[0]
    assert np.array_equal(every.frames[0][-1], every.pos)


# formula, scaffold, lead


def test_the_formula_is_kept_exactly(denoiser: Denoiser) -> None:
    numbers = parse_formula("C2H6O")
    free = sample_batch(denoiser, make_requests(3, seed=0, sizes={9: 1}), FEW)
    assert any(sorted(s.numbers) != sorted(numbers) for s in free), "the control: not so by itself"
    for types in ("cross_entropy", "gaussian"):
        made = sample_batch(tiny_denoiser(types=types), make_requests(3, seed=0, sizes={}, numbers=numbers), FEW)
        assert all(np.array_equal(s.numbers, numbers) for s in made)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_the_scaffold_stays_where_it_is_bit_by_bit(name: str, denoiser: Denoiser) -> None:
    atoms = molecule("C6H6")[:6]
    scaffold = Scaffold(atoms.numbers, atoms.positions + 11.3, "ring")
    requests = make_requests(4, seed=1, sizes={9: 1, 8: 1}, scaffold=scaffold)
    plain = make_requests(1, seed=5, sizes={5: 1})
    for made in sample_batch(denoiser, [*requests, *plain], SampleSettings(sampler=name, steps=20))[:4]:
        assert np.array_equal(made.pos[:6], scaffold.pos)
        assert np.array_equal(made.numbers[:6], scaffold.numbers)
        rest = np.linalg.norm(made.pos[6:, None] - scaffold.pos.mean(0), axis=-1)
        assert rest.max() < 15.0, "Å from the scaffold"
        assert np.isfinite(made.pos).all()


def test_the_rest_of_a_scaffold_follows_it(denoiser: Denoiser) -> None:
    """A shifted scaffold shifts the molecule; a turned one gives another with the same noise."""
    atoms = molecule("CH3OH")[:2]
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])

    def rest(pos: np.ndarray) -> np.ndarray:
        request = make_requests(1, seed=4, sizes={5: 1}, scaffold=Scaffold(atoms.numbers, pos))
        return sample_batch(denoiser, request, FEW)[0].pos[2:] - pos.mean(0)

    here = rest(atoms.positions)
    assert np.abs(rest(atoms.positions + np.array([5.0, -3.0, 2.0])) - here).max() < 1e-8
    assert np.abs(rest(atoms.positions @ turn.T) - here).max() > 1e-6


def test_a_lead_with_next_to_no_noise_comes_back(denoiser: Denoiser) -> None:
    atoms = molecule("CH3OH")
    pos = atoms.positions - atoms.positions.mean(0)
    differences = []
    for level in (0.006, 2.0):
        requests = make_requests(2, seed=0, sizes={}, lead=Lead(atoms.numbers, atoms.positions, level))
        made = sample_batch(denoiser, requests, SampleSettings(steps=20))
        differences.append(max(float(np.abs(s.pos - pos).max()) for s in made))
        assert not np.allclose(made[0].pos, made[1].pos, atol=1e-5), "each has noise of its own"
    assert differences[0] < 0.05
    assert differences[1] > 0.2


def test_a_lead_is_disturbed_by_as_much_as_said() -> None:
    """A denoiser that removes nothing ("velocity" with all noise believed to be signal) shows what was put in."""
    made = tiny_denoiser()
    atoms = molecule("C6H6")
    numbers, level = atoms.numbers, 0.01
    requests = make_requests(300, seed=0, sizes={}, lead=Lead(numbers, atoms.positions, level))
    with torch.no_grad():
        for parameter in made.backbone.parameters():
            parameter.zero_()
    # F = 0: x̂ = y/(1 + s²), which is y to 10⁻⁵
    samples = sample_batch(made, requests, SampleSettings(sampler="ddim", steps=5))
    moved = np.stack([s.pos for s in samples]) - (atoms.positions - atoms.positions.mean(0))
    degrees = 3 * (len(atoms) - 1)
    measured = np.sqrt(np.square(moved).sum((1, 2)).mean() / degrees)
    assert measured == pytest.approx(level, rel=0.05)


# targets and guidance


def test_targets_pull_and_guidance_extrapolates() -> None:
    """With one level there is one estimate, x̂ = x̂_free + w (x̂_told − x̂_free)."""
    made = tiny_denoiser(conditions={"gap": (6.0, 2.0)}, bond_channels=0)
    request = make_requests(1, seed=0, sizes={5: 1}, context={"gap": 9.0})

    def pos(guidance: float, context: dict[str, float] | None = None) -> np.ndarray:
        asked = request if context is None else [replace(request[0], context=context)]
        return sample_batch(made, asked, SampleSettings(sampler="ddim", steps=1, guidance=guidance))[0].pos

    free, told = pos(1.0, {}), pos(1.0)
    assert np.abs(told - free).max() > 1e-6
    for weight in (0.0, 0.5, 2.0, -1.0):
        assert np.abs(pos(weight) - (free + weight * (told - free))).max() < 1e-10
    assert np.array_equal(pos(3.0, {}), free), "nothing is told: nothing to be guided by"


def test_guidance_of_nought_is_a_model_that_is_told_nothing() -> None:
    made = tiny_denoiser(conditions={"gap": (6.0, 0.05)})
    told = make_requests(4, seed=0, sizes=SIZES, context={"gap": 9.0})
    free = [replace(r, context={}) for r in told]
    assert (
        largest_difference(sample_batch(made, told, replace(FEW, guidance=0.0)), sample_batch(made, free, FEW)) < 1e-9
    )
    plain = sample_batch(made, told, FEW)
    assert (
        max(float(np.abs(a.pos - b.pos).max()) for a, b in zip(plain, sample_batch(made, free, FEW), strict=True))
        > 1e-3
    )


def test_targets_of_one_molecule_do_not_reach_another() -> None:
    made = tiny_denoiser(conditions={"gap": (6.0, 2.0)})
    plain = make_requests(3, seed=0, sizes=SIZES)
    mixed = [plain[0], replace(plain[1], context={"gap": 12.0}), plain[2]]
    settings = replace(FEW, guidance=2.0)
    a, b = sample_batch(made, plain, settings), sample_batch(made, mixed, settings)
    assert largest_difference(a[::2], b[::2]) < 1e-9
    assert np.abs(a[1].pos - b[1].pos).max() > 1e-6


# what cannot be followed


def faulty(name: str) -> list[Request]:
    carbon = np.array([6, 6])
    base = Request(4, 0)
    return {
        "nothing": [],
        "no atoms": [replace(base, size=0)],
        "element": [Request(2, 0, np.array([6, 79]))],
        "element of the scaffold": [replace(base, scaffold=Scaffold(np.array([79]), np.zeros((1, 3))))],
        "element of the lead": [Request(2, 0, lead=Lead(np.array([79, 6]), np.zeros((2, 3)), 0.5))],
        "condition": [replace(base, context={"gap": 1.0})],
        "two levels": [Request(2, i, lead=Lead(carbon, np.zeros((2, 3)), 0.5 + i)) for i in range(2)],
        "lead and none": [Request(2, 0, lead=Lead(carbon, np.zeros((2, 3)), 0.5)), Request(2, 0)],
        "formula of another size": [replace(base, numbers=carbon)],
        "lead of another size": [replace(base, lead=Lead(carbon, np.zeros((2, 3)), 0.5))],
        "large scaffold": [replace(base, scaffold=Scaffold(np.full(5, 6), np.zeros((5, 3))))],
        "two minds": [Request(2, 0, np.array([1, 6]), scaffold=Scaffold(np.array([6]), np.zeros((1, 3))))],
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no molecules asked for"),
        ("no atoms", "a molecule needs an atom"),
        ("element", r"does not make this element, expected \[1, 6, 8\], got 79"),
        ("element of the scaffold", "does not make this element"),
        ("element of the lead", "elements that the model does not make"),
        ("condition", r'not trained on "gap", expected no conditions'),
        ("two levels", "one level of noise"),
        ("lead and none", "one level of noise"),
        ("formula of another size", "the formula has another number of atoms, expected 4, got 2"),
        ("lead of another size", "the lead has another number of atoms"),
        ("large scaffold", "the scaffold has more atoms than the molecule, expected at most 4, got 5"),
        ("two minds", "begin with the elements of the scaffold"),
    ],
)
def test_requests_that_the_model_cannot_follow_are_refused(name: str, message: str, denoiser: Denoiser) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        sample_batch(denoiser, faulty(name), FEW)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SampleSettings(sampler="huen"), 'unknown sampler "huen"; did you mean "heun"'),
        (SampleSettings(steps=0), "must be positive"),
        (SampleSettings(batch_size=0), "must be positive"),
        (SampleSettings(frames=0), "must be positive"),
        (SampleSettings(churn=-1.0), "churn"),
        (SampleSettings(sampler="ddim", churn=1.0), "churn is a positive setting of the sampler heun"),
        (SampleSettings(guidance=float("nan")), "guidance"),
        (SampleSettings(churn=float("nan")), "churn"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: SampleSettings, message: str, denoiser: Denoiser) -> None:
    with pytest.raises(ConfigError, match=message):
        sample_batch(denoiser, [Request(3, 0)], settings)


def test_evaluations_are_counted() -> None:
    made = tiny_denoiser(conditions={"gap": (6.0, 2.0)})
    calls: list[int] = []
    made.register_forward_hook(lambda *_: calls.append(1))
    for name in SAMPLERS:
        for guidance in (1.0, 2.0):
            settings = SampleSettings(sampler=name, steps=4, guidance=guidance)
            calls.clear()
            sample_batch(made, [Request(3, 0, context={"gap": 6.0})], settings)
            assert len(calls) == settings.evaluations
