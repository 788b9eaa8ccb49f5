"""geomol's own models of the Pareto table: trained by geomol's trainer, or read from the folders of finished runs.

Run as `python -m peers.own CONFIG.json` in the folder `tests`, it is the process of one training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from geomol.checkpoint import load_model
from geomol.data import Structures
from geomol.potential import Potential
from geomol.train import evaluate, load_config, train

from .environments import worker_variables
from .process import TESTS, PeerFailedError

CONFIGS = TESTS.parent / "examples" / "configs"
CONFIG_OF = {
    "geomol-egnn": CONFIGS / "rmd17-ethanol-10min.toml",
    "geomol-painn": CONFIGS / "rmd17-ethanol.toml",
    "geomol-r3s2": CONFIGS / "rmd17-r3s2.toml",
}


def train_own(name: str, *, source: str, minutes: float, batch_size: int, seed: int, folder: Path, log: Path) -> Path:
    """Trains one of `CONFIG_OF` in a process of its own, or goes on with it; the folder of the run.

    Raises:
        PeerFailedError: the training ended without a result; the message holds the last line of its log.
    """
    run = folder / name
    if finished(run, minutes):
        return run
    changes = {"name": name, "data.source": source, "schedule.minutes": minutes, "schedule.clock": "cpu"}
    changes |= {"run.folder": str(folder), "run.threads": 1, "run.batch_size": batch_size, "run.seed": seed}
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    config = load_config(CONFIG_OF[name], overrides)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    run_logged([sys.executable, "-m", "peers.own", str(path)], None, log)
    return run


def finished(run: Path, minutes: float) -> bool:
    """Whether the folder has a whole training of this length."""
    if not (run / "summary.json").is_file():
        return False
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return bool(summary["finished"]) and float(summary["training_minutes"]) >= minutes


def figures_of(run: Path, test: Structures) -> dict[str, Any]:
    """What the table has of a run: errors on `test`, size, steps and minutes of the training.

    Raises:
        PeerFailedError: no finished run of a potential is there.
    """
    try:
        config, summary = (json.loads((run / f"{name}.json").read_text("utf-8")) for name in ("config", "summary"))
    except (OSError, ValueError) as error:
        raise PeerFailedError(f"no finished run of geomol: {error}") from error
    potential = load_model(run)
    if not isinstance(potential, Potential):
        raise PeerFailedError(f"{run} has no potential but {type(potential).__name__}")
    found = evaluate(potential, test)
    model = config["model"]
    kind = ", ".join(str(model[key]) for key in ("name", "orientations") if key in model)
    return {
        "test": {key: found.metrics[key] for key in ("energy_mae_eV", "force_mae_eV_per_A")},
        "valid": {key: summary["best"][f"valid_{key}"] for key in ("energy_mae_eV", "force_mae_eV_per_A")},
        "first_forces": found.arrays["forces_pred"][: test.ptr[1]].tolist(),
        "own": True,
        "steps": summary["steps"],
        "cpu_seconds": 60 * summary["training_minutes"],
        "learning_rate": config["optimiser"]["learning_rate"],
        "optimiser": config["optimiser"]["name"],
        "parameters": summary["num_parameters"],
        "settings": f"{kind}, C{model['channels']}, {model['num_layers']} layers, cutoff {model['cutoff']:g} Å",
    }


def run_logged(command: list[str], group: str | None, log: Path) -> None:
    """Runs one training to its end, with what it prints in `log`.

    Raises:
        PeerFailedError: it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        try:
            done = subprocess.run(
                command,
                cwd=TESTS,
                env=worker_variables(group, 1, TESTS.parent),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        except OSError as error:
            raise PeerFailedError(f"does not start: {error.strerror}") from error
    if done:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = (lines[-1] if lines else "no output").replace(str(Path.home()), "~")
        raise PeerFailedError(f"the training ended with code {done}: {last[:300]}")


def main(config: Path) -> None:
    parent = os.getppid()

    def stop_without_parent(_: object) -> None:
        if os.getppid() != parent:  # saved as on Ctrl-C; nobody would read the result
            raise KeyboardInterrupt

    train(load_config(config), on_progress=stop_without_parent)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
