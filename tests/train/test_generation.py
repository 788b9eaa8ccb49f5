"""Learning to make molecules: batches of one size, fixed validation, bonds, conditions, coupling, exact resume."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import nn

from geomol.checkpoint import load_denoiser
from geomol.data import Structures, bond_thresholds, write_extxyz
from geomol.diffusion import Clean, Cloud, Denoiser, Estimate, FeatureScaling, Karras, pairs_of
from geomol.errors import ConfigError
from geomol.generate import SampleSettings, sample
from geomol.generate.bonds import edm_bonds
from geomol.generate.request import make_requests
from geomol.geometry import random_rotations
from geomol.train import evaluate_generation, parse_config, train
from geomol.train.generation_task import GenerationTask, MoleculePart, forget_some, prepare_generation
from geomol.train.start import start_from
from geomol.train.tasks import own_randomness, seeded

NAMES = ["CH4", "CH3OH", "H2O", "C2H6", "CH3CHO", "C6H6", "HCOOH", "NH3"]
MODEL = {"name": "conditioned_egnn", "channels": 8, "pair_channels": 4, "num_vectors": 2, "num_layers": 1}


@pytest.fixture(scope="module")
def small_molecules() -> Structures:
    frames = []
    for k in range(48):
        atoms = molecule(NAMES[k % len(NAMES)])
        atoms.rattle(0.01, seed=k)
        frames.append(Atoms(atoms.numbers, atoms.positions + 3.0))
    return Structures.from_atoms(frames)


@pytest.fixture(scope="module")
def source(small_molecules: Structures, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("molecules") / "molecules.extxyz"
    write_extxyz(path, small_molecules)
    return path


@pytest.fixture
def settings_of(source: Path, tmp_path: Path) -> Callable[..., dict]:
    def make(generation: dict | None = None, *, epochs: int = 3, folder: str = "runs", **run: object) -> dict:
        return {
            "name": "maker",
            "task": "generation",
            "data": {"source": str(source), "split": "random", "num_train": 36, "num_valid": 12},
            "model": MODEL,
            "generation": {"bond_channels": 2, **(generation or {})},
            "optimiser": {"learning_rate": 3e-3, "ema": 0.9},
            "schedule": {"epochs": epochs, "warmup_steps": 3},
            "run": {
                "folder": str(tmp_path / folder),
                "threads": 1,
                "batch_size": 6,
                "tensorboard": False,
                "rotate": False,
                **run,
            },
        }

    return make


def part_of(sizes: np.ndarray) -> MoleculePart:
    """Structures of nothing but sizes."""
    counts = torch.from_numpy(sizes)
    total = int(counts.sum())
    return MoleculePart(
        torch.zeros(total, 3),
        torch.zeros(total, dtype=torch.long),
        counts,
        counts.cumsum(0) - counts,
        None,
        None,
        torch.eye(1),
        1.0,
    )


# order


@pytest.mark.parametrize(("num", "batch"), [(1000, 7), (64, 64), (5, 8), (10_000, 32)])
def test_an_epoch_is_a_permutation_that_follows_the_seed_alone(num: int, batch: int) -> None:
    part = part_of(np.random.default_rng(0).integers(3, 30, num))
    orders = [part.order(seeded(seed, 1, 0), batch) for seed in (0, 0, 1)]
    assert orders[0].sort().values.tolist() == list(range(num))
    assert torch.equal(orders[0], orders[1])
    if num > 10:
        assert not torch.equal(orders[0], orders[2])


def test_molecules_of_a_batch_are_of_nearly_one_size_in_ever_new_company() -> None:
    part = part_of(np.random.default_rng(0).integers(3, 30, 6400))
    first, second = (part.order(seeded(0, 1, epoch), 32) for epoch in (0, 1))

    def spread(order: torch.Tensor) -> float:
        sizes = part.sizes[order].view(-1, 32)
        return float((sizes.max(1).values - sizes.min(1).values).double().mean())

    assert spread(first) < 1.5
    assert spread(torch.randperm(6400)) > 20, "the control"
    # batches come in random order of size, not from small to large
    means = part.sizes[first].view(-1, 32).double().mean(1)
    assert abs(float(np.corrcoef(np.arange(200), means)[0, 1])) < 0.25
    companions = [{frozenset(row.tolist()) for row in order.view(-1, 32)} for order in (first, second)]
    assert not companions[0] & companions[1]


# batches


def test_a_batch_holds_the_structures_centred_in_units_of_the_denoiser(settings_of, small_molecules) -> None:
    prepared = prepare_generation(parse_config(settings_of(dtype="float64")))
    data, model = prepared.parts["train"], prepared.model
    index = torch.tensor([3, 0, 17])
    clean, labels = prepared.train.batch(index)
    assert labels is None
    for k, row in enumerate(index.tolist()):
        rows = slice(int(clean.cloud.ptr[k]), int(clean.cloud.ptr[k + 1]))
        atoms = data.to_atoms(row)
        expected = atoms.positions - atoms.positions.mean(0)
        assert np.allclose(clean.cloud.pos[rows] * model.length_unit, expected, atol=1e-12)
        assert [model.elements[t] for t in clean.types[rows]] == atoms.numbers.tolist()
        assert torch.equal(clean.cloud.feats[rows].argmax(1), clean.types[rows])
        assert float(clean.cloud.feats[rows].sum()) == pytest.approx(0.25 * len(atoms))
    encoded = model.encode(
        torch.from_numpy(data.pos), torch.from_numpy(data.numbers), torch.from_numpy(np.asarray(data.ptr))
    )
    whole = prepared.train.batch(torch.arange(len(data)))[0]
    assert torch.allclose(encoded.pos, whole.cloud.pos, atol=1e-12)
    assert torch.equal(encoded.feats, whole.cloud.feats)
    turn = random_rotations(3, generator=torch.Generator().manual_seed(0))
    turned = prepared.train.batch(index, turn)[0]
    assert torch.allclose(turned.cloud.pos, torch.einsum("nij,nj->ni", turn[clean.cloud.batch], clean.cloud.pos))
    assert torch.equal(turned.orders, clean.orders)


def test_bonds_from_thresholds_are_those_of_the_table(settings_of) -> None:
    prepared = prepare_generation(parse_config(settings_of()))
    data = prepared.parts["train"]
    clean = prepared.train.batch(torch.arange(len(data)))[0]
    expected = []
    for matrix, n in zip(edm_bonds(data), data.n_atoms, strict=True):
        i, j = np.triu_indices(n, 1)
        expected.append(np.asarray(matrix)[i, j])
    assert np.array_equal(clean.orders.numpy(), np.concatenate(expected))
    assert set(clean.orders.tolist()) >= {0, 1, 2}


def test_thresholds_of_clean_qm9_molecules_give_their_table(benchmark_data) -> None:
    from geomol.data import load_qm9

    data = load_qm9()[0].subset(np.arange(0, 120_000, 1200))
    elements = data.elements()
    ptr = torch.from_numpy(np.asarray(data.ptr, dtype=np.int64))
    pairs = pairs_of(ptr).numpy()
    types = np.searchsorted(elements, data.numbers)
    length = np.linalg.norm(data.pos[pairs[0]] - data.pos[pairs[1]], axis=1)
    orders = (length[:, None] < bond_thresholds(elements)[types[pairs[0]], types[pairs[1]]]).sum(1)
    expected = np.concatenate(
        [np.asarray(m)[np.triu_indices(n, 1)] for m, n in zip(edm_bonds(data), data.n_atoms, strict=True)]
    )
    assert np.array_equal(orders, expected)
    assert set(orders) == {0, 1, 2, 3}


def test_bond_thresholds_never_rise_and_are_symmetric() -> None:
    table = bond_thresholds([1, 6, 7, 8, 9])
    assert (table[..., 1:] <= table[..., :-1]).all()
    assert np.array_equal(table, table.transpose(1, 0, 2))
    assert table[1, 1].tolist() == [1.64, 1.39, 1.23]
    assert table[0, 1].tolist() == [pytest.approx(1.19), -np.inf, -np.inf]


def test_hydrogens_can_be_left_out(settings_of, small_molecules) -> None:
    bare = small_molecules.without_hydrogens()
    assert 1 not in bare.numbers
    for i in (0, 1, 5, 47):
        atoms = small_molecules.to_atoms(i)
        assert np.array_equal(bare.to_atoms(i).positions, atoms.positions[atoms.numbers != 1])
    prepared = prepare_generation(parse_config(settings_of({"hydrogens": False})))
    assert prepared.model.elements == (6, 7, 8)
    assert max(prepared.model.sizes) == 6
    with pytest.raises(ValueError, match="no atom but hydrogen"):
        Structures.from_atoms([molecule("CH4"), molecule("H2")]).without_hydrogens()


# the task


def validation(settings: dict) -> tuple[dict[str, float], Denoiser, GenerationTask, MoleculePart]:
    prepared = prepare_generation(parse_config(settings))
    return prepared.task.errors(prepared.model, prepared.valid), prepared.model, prepared.task, prepared.valid


@pytest.mark.parametrize(
    "generation",
    [
        {},
        {"process": {"name": "flow"}, "coupling": "optimal_transport"},
        {
            "process": {"name": "variational", "num_steps": 100},
            "types": "gaussian",
            "self_conditioning": False,
            "bond_channels": 0,
            "prediction": "noise",
        },
    ],
    ids=["karras", "flow", "variational"],
)
def test_validation_repeats_exactly_and_leaves_the_generators_alone(generation: dict, settings_of) -> None:
    first, model, task, part = validation(settings_of(generation))
    before = torch.get_rng_state()
    assert task.errors(model, part) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert set(first) == set(task.columns)
    assert all(np.isfinite(value) for value in first.values())
    torch.manual_seed(12345)
    assert task.errors(model, part) == first
    assert task.score(first) == first["valid_loss"]


def test_training_draws_new_noise_from_the_process_wide_generator(settings_of) -> None:
    prepared = prepare_generation(parse_config(settings_of()))
    clean = prepared.train.batch(torch.arange(12))[0]

    def loss(seed: int) -> float:
        with own_randomness(seed):
            return prepared.task.loss(prepared.model, clean, None).item()

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)


def conditioned(settings_of: Callable[..., dict], **generation: object):
    return prepare_generation(parse_config(settings_of({"conditions": ["heavy_atoms"], **generation})))


def test_conditions_are_dropped_for_the_share_of_structures_asked_for(settings_of, monkeypatch) -> None:
    context = torch.arange(4000.0).view(2000, 2)
    with own_randomness(0):
        dropped = forget_some(context, 0.3)
    gone = dropped.isnan()
    assert torch.equal(gone[:, 0], gone[:, 1]), "all conditions of a structure or none"
    assert torch.equal(dropped[~gone], context[~gone])
    assert abs(float(gone[:, 0].double().mean()) - 0.3) < 4 * (0.21 / 2000) ** 0.5
    assert torch.equal(forget_some(context, 0.0), context)
    # and the task does so in training alone
    prepared = conditioned(settings_of, drop_conditions=0.5)
    seen: list[torch.Tensor] = []
    original = Denoiser.forward

    def spy(self: Denoiser, noisy: Cloud, level: torch.Tensor, **given: object):
        seen.append(given["context"])
        return original(self, noisy, level, **given)

    monkeypatch.setattr(Denoiser, "forward", spy)
    clean: Clean = prepared.train.batch(torch.arange(36))[0]
    with own_randomness(3):
        prepared.task.loss(prepared.model, clean, None)
    assert 5 < int(seen[0].isnan().sum()) < 31
    assert all(torch.equal(a.isnan(), seen[0].isnan()) for a in seen), "the same for both estimates"
    seen.clear()
    prepared.task.errors(prepared.model, prepared.valid)
    assert not any(bool(a.isnan().any()) for a in seen)


def test_conditions_are_standardised_by_the_training_part(settings_of) -> None:
    prepared = conditioned(settings_of)
    data = prepared.parts["train"]
    counts = np.array([(data.to_atoms(i).numbers > 1).sum() for i in range(len(data))], dtype=float)
    mean, spread = prepared.model.conditions["heavy_atoms"]
    assert mean == pytest.approx(counts.mean())
    assert spread == pytest.approx(np.abs(counts - counts.mean()).mean())
    assert prepared.train.batch(torch.arange(36))[0].context[:, 0].tolist() == counts.tolist()


def test_coupling_lowers_the_loss_of_an_untrained_flow(settings_of, monkeypatch) -> None:
    """Noise nearer to the data: an estimate that is y itself, in essence, errs less. And the switch does something."""
    losses = {}
    for coupling in ("independent", "optimal_transport"):
        prepared = prepare_generation(
            parse_config(settings_of({"process": {"name": "flow"}, "coupling": coupling, "weights": {"types": 0.0}}))
        )
        clean = prepared.train.batch(torch.arange(36))[0]
        with own_randomness(3):
            losses[coupling] = prepared.task.loss(prepared.model, clean, None).item()
    assert losses["optimal_transport"] < 0.9 * losses["independent"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generation": {"process": {"name": "variational"}}}, 'the process "variational" needs types = "gaussian"'),
        (
            {
                "generation": {
                    "process": {"name": "variational"},
                    "types": "gaussian",
                    "self_conditioning": False,
                    "coupling": "optimal_transport",
                }
            },
            'holds for coupling = "independent" alone',
        ),
        ({"generation": {"prediction": "score"}}, "generation.prediction"),
        ({"generation": {"drop_conditions": 1.0}}, "generation.drop_conditions"),
        ({"generation": {"conditons": ["gap"]}}, "generation.conditons"),
        ({"loss": {"per_atom": True}}, 'loss: of no use in task = "generation"'),
        ({"task": "potential"}, 'generation: of no use in task = "potential"'),
        ({"model": {**MODEL, "chanels": 8}}, "chanels"),
    ],
)
def test_faults_of_the_configuration_are_listed(changes: dict, message: str, settings_of) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({**settings_of(), **changes})


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"process": {"name": "karas"}}, "unknown noise process"),
        ({"process": {"name": "karras", "sigma": 3}}, "arguments of noise process"),
        ({"conditions": ["gap"]}, 'no property "gap"'),
    ],
)
def test_faults_that_the_data_or_the_process_show_are_errors_in_a_line(
    generation: dict, message: str, settings_of
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        prepare_generation(parse_config(settings_of(generation)))
    assert "\n" not in str(caught.value)


# whole runs


def folder_of(settings: dict) -> Path:
    return Path(settings["run"]["folder"]) / settings["name"]


def test_a_run_leaves_a_denoiser_its_course_and_a_snapshot_of_every_validation(settings_of) -> None:
    settings = settings_of(epochs=4, snapshots=True)
    assert train(parse_config(settings)).finished
    folder = folder_of(settings)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [6, 12, 18, 24]
    names = sorted(path.name for path in (folder / "snapshots").iterdir())
    assert names == [f"step-{step:07d}.safetensors" for step in (6, 12, 18, 24)]
    best = min(rows, key=lambda row: float(row["valid_loss"]))
    kept = load_denoiser(folder / "model.safetensors").state_dict()
    snapshot = load_denoiser(folder / "snapshots" / f"step-{int(best['step']):07d}.safetensors").state_dict()
    assert all(torch.equal(kept[key], snapshot[key]) for key in kept)
    prepared = prepare_generation(parse_config(settings))
    prepared.model.load_state_dict(kept)
    again = prepared.task.errors(prepared.model.eval(), prepared.valid)
    assert again["valid_loss"] == pytest.approx(float(best["valid_loss"]), rel=1e-5)
    assert float(rows[-1]["valid_loss"]) < float(rows[0]["valid_loss"])


FILES = ["model.safetensors", "metrics.csv"]
SCRIPT = """
import json, sys
from geomol.train import evaluate_generation, parse_config, train
train(parse_config(json.load(open(sys.argv[1]))))
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(settings_of, tmp_path: Path) -> None:
    generation = {"conditions": ["heavy_atoms"], "process": {"name": "flow"}, "coupling": "optimal_transport"}
    whole = settings_of(generation, epochs=30, folder="whole")
    killed = settings_of(generation, epochs=30, folder="killed", save_every_minutes=0.002)
    train(parse_config(whole))
    (tmp_path / "config.json").write_text(json.dumps(killed))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "config.json")], stderr=subprocess.PIPE)
    state, deadline = folder_of(killed) / "state.safetensors", time.monotonic() + 120
    while time.monotonic() < deadline and not state.exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before the kill: make it longer"
    train(parse_config(killed))
    for name in FILES:
        assert (folder_of(killed) / name).read_bytes() == (folder_of(whole) / name).read_bytes()


def test_training_begins_from_a_trained_generator_and_new_conditions_change_nothing_at_first(
    settings_of: Callable[..., dict], tmp_path: Path
) -> None:
    first = train(parse_config(settings_of(save_every_minutes=1.0)))
    told = settings_of({"conditions": ["heavy_atoms"]}, folder="told", start=str(first.run_dir / "model.safetensors"))
    prepared = prepare_generation(parse_config(told))
    trained = load_denoiser(first.run_dir)
    start_from(prepared.model, str(first.run_dir))
    clean, _ = prepared.valid.batch(torch.arange(4))
    level = torch.full((4,), 0.5)
    for context in (None, torch.full((4, 1), 3.0)):
        with torch.no_grad():
            ours = prepared.model.eval()(clean.cloud, level, context=context)
            theirs = trained(clean.cloud, level)
        torch.testing.assert_close(ours.clean.pos, theirs.clean.pos, rtol=0, atol=1e-6)
    result = train(parse_config(told))
    moved = load_denoiser(result.run_dir)
    with torch.no_grad():  # and with training they do
        a, b = (moved(clean.cloud, level, context=torch.full((4, 1), v)).clean.pos for v in (1.0, 6.0))
    assert float((a - b).abs().max()) > 1e-6
    again = train(parse_config(told))  # a finished run needs its start no more
    assert again.steps == result.steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {**MODEL, "num_layers": 2}}, "with other layers"),
        ({"model": {**MODEL, "channels": 12}}, "with other layers"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(settings_of: Callable[..., dict], changes: dict, message: str) -> None:
    first = train(parse_config(settings_of(epochs=1)))
    raw = settings_of(folder="other", start=str(first.run_dir)) | changes
    with pytest.raises(ConfigError, match=message):
        train(parse_config(raw))


def test_sizes_follow_the_condition_by_bayes_rule() -> None:
    denoiser = Denoiser(
        nn.Identity(),
        elements=[1, 6],
        levels=Karras(),
        conditions={"gap": (5.0, 1.0)},
        sizes={4: 30, 5: 10, 6: 60},
        condition_sizes={"gap": {4: (3.0, 0.5), 5: (5.0, 0.5), 6: (7.0, 2.0)}},
    )
    weights = denoiser.sizes_for({"gap": 5.0})
    density = {4: np.exp(-8.0) / 0.5, 5: 1 / 0.5, 6: np.exp(-0.5) / 2.0}
    expected = {size: count * density[size] for size, count in denoiser.sizes.items()}
    for size in expected:
        assert weights[size] / sum(weights.values()) == pytest.approx(expected[size] / sum(expected.values()))
    assert denoiser.sizes_for({}) == denoiser.sizes


def test_tables_of_sizes_come_with_training(settings_of: Callable[..., dict]) -> None:
    raw = settings_of({"conditions": ["heavy_atoms"]}, epochs=1)
    denoiser = load_denoiser(train(parse_config(raw)).run_dir)
    table = denoiser.condition_sizes["heavy_atoms"]
    assert set(table) == set(denoiser.sizes)
    assert table[3][0] < table[12][0]  # water, benzene
    weights = denoiser.sizes_for({"heavy_atoms": 6.0})
    assert max(weights, key=weights.__getitem__) == 12


def test_charges_are_a_further_feature_that_is_learned_made_and_weighed(settings_of: Callable[..., dict]) -> None:
    edm = {
        "process": {"name": "variational"}, "prediction": "noise", "types": "gaussian", "charge_scale": 0.1,
        "self_conditioning": False, "bond_channels": 0,
    }  # fmt: skip
    prepared = prepare_generation(parse_config(settings_of(edm)))
    denoiser = prepared.model
    assert isinstance(denoiser, Denoiser)
    clean, _ = prepared.valid.batch(torch.arange(4))
    elements = torch.tensor(denoiser.elements)
    hot = torch.nn.functional.one_hot(clean.types, len(elements)) * 0.25
    torch.testing.assert_close(clean.cloud.feats, torch.cat([hot, 0.1 * elements[clean.types, None]], dim=1))
    encoded = denoiser.encode(clean.cloud.pos * denoiser.length_unit, elements[clean.types], clean.cloud.ptr)
    torch.testing.assert_close(encoded.feats, clean.cloud.feats)
    assert torch.equal(denoiser.decode(Estimate(encoded))[1], elements[clean.types])
    assert denoiser.scaling == FeatureScaling(len(elements), pos=denoiser.length_unit, types=4.0, charge=10.0)
    trained = load_denoiser(train(parse_config(settings_of(edm, epochs=1))).run_dir)
    made = sample(trained, make_requests(3, seed=0, sizes={9: 1}, numbers=None), SampleSettings(steps=4))
    assert [len(molecule.numbers) for molecule in made] == [9, 9, 9]
    figures = evaluate_generation(trained, prepared.parts["valid"], num_nll=4, nll_times=2)
    assert np.isfinite(figures["nll_total_nats"])
    without = prepare_generation(parse_config(settings_of({**edm, "charge_scale": 0.0}))).model
    assert sum(p.numel() for p in denoiser.parameters()) > sum(p.numel() for p in without.parameters())
    with pytest.raises(ConfigError, match="charge_scale is positive"):
        prepare_generation(parse_config(settings_of({"charge_scale": 0.1})))
