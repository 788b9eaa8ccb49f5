"""Long runs: order, progress, and a folder from which an interrupted run goes on to the same molecules."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from generate.tiny_denoiser import tiny_denoiser

from geomol.checkpoint import save_model
from geomol.diffusion import Denoiser
from geomol.errors import ConfigError, OutputError, ResumeError
from geomol.generate.driver import SampleProgress, forget, run_key, sample
from geomol.generate.request import Lead, Request, Scaffold, make_requests
from geomol.generate.sampling import Sample, SampleSettings, sample_batch

SETTINGS = SampleSettings(steps=4, batch_size=3)
SIZES = {4: 1, 5: 3, 7: 2, 9: 4}


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return tiny_denoiser()


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return make_requests(10, seed=1, sizes=SIZES)


@pytest.fixture(scope="module")
def expected(denoiser: Denoiser, requests: list[Request]) -> list[Sample]:
    return sample(denoiser, requests, SETTINGS)


def same(a: Sequence[Sample], b: Sequence[Sample]) -> bool:
    """Bit by bit; with equal batches, rounding is equal too."""
    return len(a) == len(b) and all(
        np.array_equal(x.pos, y.pos)
        and np.array_equal(x.numbers, y.numbers)
        and np.array_equal(x.orders, y.orders)
        and x.request is y.request
        for x, y in zip(a, b, strict=True)
    )


class StopError(Exception):
    pass


def stopping_after(batches: int):
    count = iter(range(1, 1000))

    def stop(progress: SampleProgress) -> None:
        if next(count) == batches:
            raise StopError

    return stop


# without a folder


def test_molecules_come_in_the_order_of_the_requests(denoiser, requests, expected) -> None:
    for request, made in zip(requests, expected, strict=True):
        assert made.request is request
        alone = sample_batch(denoiser, [request], SETTINGS)[0]
        assert np.abs(alone.pos - made.pos).max() < 1e-9
        assert np.array_equal(alone.numbers, made.numbers)


def test_progress_counts_every_molecule_once(denoiser, requests) -> None:
    seen: list[SampleProgress] = []
    sample(denoiser, requests, SETTINGS, on_progress=seen.append)
    assert [p.done for p in seen] == [3, 6, 9, 10]
    assert all(p.made == p.done and p.wanted == 10 for p in seen)


def test_trajectories_are_kept_of_the_chosen_alone(denoiser, requests, expected) -> None:
    made = sample(denoiser, requests, SETTINGS, trajectories=[0, 7])
    assert [i for i, s in enumerate(made) if s.frames is not None] == [0, 7]
    for one, other in zip(made, expected, strict=True):
        assert np.abs(one.pos - other.pos).max() < 1e-9, "batched otherwise, hence to rounding"


# with one


@pytest.mark.parametrize("batches", [1, 2, 3, 4])
def test_an_interrupted_run_goes_on_to_the_same_molecules(batches, denoiser, requests, expected, tmp_path) -> None:
    with pytest.raises(StopError):
        sample(denoiser, requests, SETTINGS, folder=tmp_path / "run", key="k", on_progress=stopping_after(batches))
    seen: list[SampleProgress] = []
    made = sample(denoiser, requests, SETTINGS, folder=tmp_path / "run", key="k", on_progress=seen.append)
    assert same(made, expected)
    assert [p.made for p in seen] == [3, 6, 7][: 4 - batches] if batches == 1 else True
    kept = min(10, 3 * batches)
    assert all(p.done == p.made + kept for p in seen)
    assert len(seen) == 4 - batches
    forget(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_stored_is_not_made_again(denoiser, requests, expected, tmp_path) -> None:
    sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k")
    other = tiny_denoiser(bond_channels=0)
    assert same(sample(other, requests, SETTINGS, folder=tmp_path, key="k"), expected)


def test_trajectories_survive_an_interruption(denoiser, requests, tmp_path) -> None:
    whole = sample(denoiser, requests, SETTINGS, trajectories=range(4))
    with pytest.raises(StopError):
        sample(
            denoiser,
            requests,
            SETTINGS,
            folder=tmp_path,
            key="k",
            trajectories=range(4),
            on_progress=stopping_after(1),
        )
    made = sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k", trajectories=range(4))
    for a, b in zip(made, whole, strict=True):
        assert (a.frames is None) == (b.frames is None)
        if a.frames is not None:
            assert all(np.array_equal(x, y) for x, y in zip(a.frames, b.frames, strict=True))


def test_another_batch_size_may_go_on(denoiser, requests, expected, tmp_path) -> None:
    with pytest.raises(StopError):
        sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k", on_progress=stopping_after(2))
    made = sample(denoiser, requests, replace(SETTINGS, batch_size=2), folder=tmp_path, key="k")
    assert all(np.abs(a.pos - b.pos).max() < 1e-9 for a, b in zip(made, expected, strict=True))


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 0x40
    path.write_bytes(
        {
            "empty": b"",
            "one byte": data[:1],
            "half": data[: len(data) // 2],
            "all but one byte": data[:-1],
            "a flipped bit": bytes(flipped),
            "other": b"not an archive",
            "text": b"{}" * 40,
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "one byte", "half", "all but one byte", "a flipped bit", "other", "text"])
def test_damaged_batches_are_made_again(how, denoiser, requests, expected, tmp_path) -> None:
    with pytest.raises(StopError):
        sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k", on_progress=stopping_after(3))
    files = sorted(tmp_path.glob("batch-*.npz"))
    assert len(files) == 3
    spoil(files[1], how)
    seen: list[SampleProgress] = []
    assert same(sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k", on_progress=seen.append), expected)
    assert seen[0].made == 3
    assert seen[-1].made == 4


def test_a_file_that_is_an_array_and_no_archive_is_made_again(denoiser, requests, expected, tmp_path) -> None:
    sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k")
    target = sorted(tmp_path.glob("batch-*.npz"))[0]
    with target.open("wb") as file:
        np.save(file, np.arange(3))
    assert same(sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k"), expected)


def test_molecules_of_another_request_are_kept_from_harm(denoiser, requests, tmp_path) -> None:
    with pytest.raises(StopError):
        sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k", on_progress=stopping_after(2))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ResumeError, match="another request are kept here"):
        sample(denoiser, requests, SETTINGS, folder=tmp_path, key="other")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    (tmp_path / "run.json").unlink()
    with pytest.raises(ResumeError, match="another request"):
        sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k")


def test_a_refused_request_does_not_bar_the_way(denoiser, requests, expected, tmp_path) -> None:
    with pytest.raises(ConfigError, match="not trained on"):
        sample(denoiser, [replace(requests[0], context={"gap": 1.0})], SETTINGS, folder=tmp_path, key="wrong")
    assert same(sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k"), expected)
    assert json.loads((tmp_path / "run.json").read_text())["key"] == "k"


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_record_is_an_error_in_a_line(text, denoiser, requests, tmp_path) -> None:
    sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k")
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(OutputError, match="cannot use the folder") as caught:
        sample(denoiser, requests, SETTINGS, folder=tmp_path, key="k")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_a_file_is_an_error(denoiser, requests, tmp_path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputError, match="cannot use the folder"):
        sample(denoiser, requests, SETTINGS, folder=tmp_path / "run", key="k")


# keys


def test_the_key_tells_apart_all_that_changes_molecules() -> None:
    base = make_requests(2, seed=0, sizes=SIZES)
    numbers, pos = np.array([6, 8]), np.zeros((2, 3))
    with_scaffold = [replace(r, scaffold=Scaffold(numbers, pos)) for r in base]
    variants = [
        ("m", SETTINGS, base),
        ("n", SETTINGS, base),
        ("m", SETTINGS, base[:1]),
        ("m", SETTINGS, base[::-1]),
        ("m", replace(SETTINGS, steps=5), base),
        ("m", replace(SETTINGS, sampler="ddim"), base),
        ("m", replace(SETTINGS, churn=1.0), base),
        ("m", replace(SETTINGS, guidance=2.0), base),
        ("m", SETTINGS, make_requests(2, seed=1, sizes=SIZES)),
        ("m", SETTINGS, [replace(r, context={"gap": 1.0}) for r in base]),
        ("m", SETTINGS, [replace(r, numbers=np.full(r.size, 6)) for r in base]),
        ("m", SETTINGS, [replace(r, numbers=np.full(r.size, 8)) for r in base]),
        ("m", SETTINGS, with_scaffold),
        ("m", SETTINGS, [replace(r, scaffold=Scaffold(numbers[::-1], pos)) for r in base]),
        ("m", SETTINGS, [replace(r, scaffold=Scaffold(numbers, pos + 1)) for r in base]),
        ("m", SETTINGS, [replace(r, lead=Lead(numbers, pos, 0.5)) for r in base]),
        ("m", SETTINGS, [replace(r, lead=Lead(numbers[::-1], pos, 0.5)) for r in base]),
        ("m", SETTINGS, [replace(r, lead=Lead(numbers, pos, 0.6)) for r in base]),
    ]
    keys = [run_key(*variant) for variant in variants]
    assert len(set(keys)) == len(keys)
    assert run_key("m", replace(SETTINGS, batch_size=99), make_requests(2, seed=0, sizes=SIZES)) == keys[0]


# kills

SCRIPT = """
import pickle, sys, torch
from pathlib import Path
from geomol.checkpoint import load_denoiser
from geomol.generate.driver import sample
from geomol.generate.request import make_requests
from geomol.generate.sampling import SampleSettings
torch.set_num_threads(1)
requests = make_requests(int(sys.argv[3]), seed=1, sizes={4: 1, 5: 3, 7: 2, 9: 4})
sample(load_denoiser(sys.argv[1]), requests, SampleSettings(steps=4, batch_size=3), folder=Path(sys.argv[2]), key="k")
""".replace("pickle, ", "")


def test_kills_at_random_moments_change_no_bit(denoiser, tmp_path) -> None:
    num, rng = 240, random.Random(0)
    requests = make_requests(num, seed=1, sizes=SIZES)
    expected = sample(denoiser, requests, SETTINGS)
    model, folder = tmp_path / "model.safetensors", tmp_path / "run"
    save_model(model, denoiser, provenance={}, errors={}, symmetry={})
    hits = 0
    for _ in range(2):
        before = len(list(folder.glob("batch-*"))) if folder.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(model), str(folder), str(num)])
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if folder.exists() and len(list(folder.glob("batch-*"))) > before + 5:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        hits += process.returncode == -signal.SIGKILL
    assert hits == 2, "the run ended before all kills: make it longer"
    stored = len(list(folder.glob("batch-*.npz")))
    assert 10 <= stored < num // 3
    seen: list[SampleProgress] = []
    made = sample(denoiser, requests, SETTINGS, folder=folder, key="k", on_progress=seen.append)
    assert same(made, expected)
    assert seen[-1].made <= num - 3 * (stored - 1)
