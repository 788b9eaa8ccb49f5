"""A training run that is killed and continued ends with the same bytes as one that was left alone."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from geomol.train import parse_config, train

SCRIPT = """
import json, sys
from geomol.train import parse_config, train
train(parse_config(json.load(open(sys.argv[1]))))
"""
FILES = ["model.safetensors", "metrics.csv"]


KNOWN = {"config.json", "metrics.csv", "timing.csv", "summary.json", "model.safetensors"}


def long_config(raw_config: Callable[..., dict], *, epochs: int) -> dict:
    return {**raw_config(save_every_minutes=0.0005), "schedule": {"epochs": epochs, "warmup_steps": 5}}


def final_bytes(raw: dict) -> dict[str, bytes]:
    folder = Path(raw["run"]["folder"]) / raw["name"]
    return {name: (folder / name).read_bytes() for name in FILES}


def kill_repeatedly(raw: dict, path: Path, kills: int, wait: Callable[[Path], None]) -> int:
    """Starts the run, kills it after `wait`, again and again; returns how many kills found it running."""
    path.write_text(json.dumps(raw))
    done = 0
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], stderr=subprocess.PIPE)
        wait(Path(raw["run"]["folder"]) / raw["name"])
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done += process.returncode == -signal.SIGKILL
    return done


def random_moment(rng: random.Random) -> Callable[[Path], None]:
    """Waits until the process has saved a state of its own, then a little longer."""

    def wait(folder: Path) -> None:
        started, deadline = time.time(), time.monotonic() + 120
        state = folder / "state.safetensors"
        while time.monotonic() < deadline and not (state.exists() and state.stat().st_mtime > started):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.7))

    return wait


def inside_a_save(folder: Path) -> None:
    """Waits until a temporary file of the state is on disk."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if folder.exists() and any(p.name not in KNOWN and "tmp" in p.name for p in folder.iterdir()):
            return
        time.sleep(0.0005)


def kills_change_nothing(make: Callable[[str], dict], path: Path, random_kills: int, kills_in_save: int) -> None:
    whole, killed = make("whole"), make("killed")
    train(parse_config(whole))
    hits = kill_repeatedly(killed, path, random_kills, random_moment(random.Random(1)))
    assert hits == random_kills, "the run ended before all kills: make it longer"
    assert kill_repeatedly(killed, path, kills_in_save, inside_a_save) == kills_in_save
    train(parse_config(killed))
    assert final_bytes(killed) == final_bytes(whole)


def test_kills_change_no_byte(raw_config: Callable[..., dict], tmp_path: Path) -> None:
    def make(kind: str) -> dict:
        raw = long_config(raw_config, epochs=120)
        raw["run"]["folder"] = str(tmp_path / kind)
        return raw

    kills_change_nothing(make, tmp_path / "config.json", random_kills=1, kills_in_save=1)


@pytest.mark.slow
def test_twenty_random_kills_and_five_inside_a_save_change_no_byte(
    raw_config: Callable[..., dict], tmp_path: Path
) -> None:
    def make(kind: str) -> dict:
        raw = long_config(raw_config, epochs=1000)
        raw["run"]["folder"] = str(tmp_path / kind)
        return raw

    kills_change_nothing(make, tmp_path / "config.json", random_kills=20, kills_in_save=5)


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_stopping_and_continuing_changes_no_byte(
    raw_config: Callable[..., dict], tmp_path: Path, optimiser: str
) -> None:
    raws = []
    for kind in ("whole", "parts"):
        raw = {**raw_config(save_every_minutes=1000.0), "schedule": {"epochs": 8, "warmup_steps": 5}}
        raw["optimiser"] = {"name": optimiser}
        raw["run"]["folder"] = str(tmp_path / kind)
        raws.append(raw)
    train(parse_config(raws[0]))
    parts = {**raws[1], "run": {**raws[1]["run"], "stop_after_minutes": 0.2 / 60}}
    calls = 1
    while not train(parse_config(parts)).finished:
        calls += 1
    assert calls > 1
    whole, stopped = (final_bytes(raw) for raw in raws)
    assert stopped == whole
