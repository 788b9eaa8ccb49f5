"""Publishing a trained model: a folder with the weights, their measured errors, and a card that says what they are
worth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.units
import numpy as np
import torch

from geomol.checkpoint import load_potential, read_manifest, save_model
from geomol.checks import net_force_and_torque, rotation_errors
from geomol.data import Structures
from geomol.errors import ConfigError, DataError, OutputError
from geomol.md import GeomolCalculator
from geomol.potential import Potential
from geomol.train import Evaluation, TrainConfig, evaluate, parse_config, save_evaluation
from geomol.train.setup import load_splits

ROTATIONS, ROTATED_FRAMES, TIMED_CALLS = 20, 10, 30


def measure_symmetry(potential: Potential, structures: Structures) -> dict[str, float]:
    """How far the model is from rotation invariance on real structures: largest errors over random rotations and
    reflections.
    """
    frames = [structures.to_atoms(i) for i in np.linspace(0, len(structures) - 1, ROTATED_FRAMES).astype(int)]
    pairs = [
        rotation_errors(potential, atoms, ROTATIONS, seed=k, reflect=bool(k % 2), relative=False)
        for k, atoms in enumerate(frames)
    ]
    energy, force = np.array(pairs).max(axis=0)
    measured = {"rotation_energy_error_eV": float(energy), "rotation_force_error_eV_per_A": float(force)}
    if not structures.pbc.any():
        measured["net_torque_eV"] = max(net_force_and_torque(potential, atoms)[1] for atoms in frames)
    return measured


def measure_cost(potential: Potential, structures: Structures) -> dict[str, float]:
    """Median seconds of one energy + force call through ASE, atoms moved each time, largest structure."""
    atoms = structures.to_atoms(int(np.diff(structures.ptr).argmax()))
    atoms.calc = GeomolCalculator(potential)
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(TIMED_CALLS):
        atoms.positions += rng.normal(scale=1e-3, size=atoms.positions.shape)
        start = time.perf_counter()
        atoms.get_forces()
        seconds.append(time.perf_counter() - start)
    return {"num_atoms": float(len(atoms)), "energy_and_forces_s": float(np.median(seconds))}


def publish(run_dir: Path, out: Path, *, command: str) -> Evaluation:
    """Evaluates the best weights of a run on its test part and writes `out`/model.safetensors, its card and its
    settings.

    Args:
        run_dir: a folder of `geomol train`; figures of its md/ folder enter the card.
        out: folder of the published model.
        command: how the model was trained, for the card.

    Raises:
        DataError: the run has no model yet, or its data have no test part. ConfigError: `out` holds something else.
    """
    config, summary, provenance = read_record(run_dir)
    make_folder(out)
    potential = load_potential(run_dir / "model.safetensors")
    _, parts = load_splits(config.data)
    if "test" not in parts:
        raise DataError("no test part to measure on", where=config.data.source, remedy="set data.num_test")
    evaluation = evaluate(potential, parts["test"])
    save_evaluation(evaluation, run_dir / "eval", "test")
    symmetry = measure_symmetry(potential, parts["test"])
    cost = measure_cost(potential, parts["test"])
    card = model_card(out.name, config, summary, evaluation, symmetry, cost, read_drifts(run_dir), command)
    save_model(
        out / "model.safetensors", potential, provenance=provenance, errors=evaluation.metrics, symmetry=symmetry
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    copy_records(run_dir, out, ("config.json", "summary.json"))
    return evaluation


def read_record(run_dir: Path) -> tuple[TrainConfig, dict[str, Any], dict[str, Any]]:
    """Settings and summary of a finished run, and the provenance that its published model states.

    Raises:
        DataError: the run has no model yet.
    """
    for name in ("config.json", "summary.json", "model.safetensors"):
        if not (run_dir / name).exists():
            raise DataError("the run holds no trained model", where=str(run_dir), expected=name)
    config = parse_config(json.loads((run_dir / "config.json").read_text(encoding="utf-8")))
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    provenance = dict(read_manifest(run_dir / "model.safetensors")["provenance"])
    return config, summary, {**provenance, "training_minutes": summary["training_minutes"]}


def make_folder(out: Path) -> None:
    """A folder for a published model; one that holds something else would lose its README, and a run its weights.

    Raises:
        ConfigError: it does. OutputError: it cannot be made.
    """
    held = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.is_dir() else set()
    if "state.safetensors" in held or (held and "model.safetensors" not in held):
        raise ConfigError(
            "this folder holds something else than a model",
            where=str(out),
            remedy="give a new one, such as models/mine",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("the folder cannot be made", where=str(out), got=error.strerror or str(error)) from error


def copy_records(run_dir: Path, out: Path, names: Sequence[str]) -> None:
    """Copies what a run wrote beside its model; in the settings the folder of runs is left at its default, because
    where this one lay concerns nobody else.
    """
    for name in names:
        text = (run_dir / name).read_text(encoding="utf-8")
        if name == "config.json":
            settings = json.loads(text)
            settings.get("run", {}).pop("folder", None)
            text = json.dumps(settings, indent=1) + "\n"
        (out / name).write_text(text, encoding="utf-8")


def read_drifts(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Summaries of the constant-energy simulations in the run's md/ folder."""
    found = {}
    for path in sorted((run_dir / "md").glob("*.json")):
        info = json.loads(path.read_text(encoding="utf-8"))
        if "drift_meV_per_atom_per_ns" in info:
            found[path.stem] = info
    return found


def model_card(
    name: str,
    config: TrainConfig,
    summary: dict[str, Any],
    evaluation: Evaluation,
    symmetry: dict[str, float],
    cost: dict[str, float],
    drifts: dict[str, dict[str, Any]],
    command: str,
) -> str:
    """The card as Markdown: data, training, errors, symmetry, drift, cost; figures as measured."""
    m = evaluation.metrics
    model = ", ".join(f"{k} = {v}" for k, v in config.model.items())
    lines = [
        f"# {name}",
        "",
        f'Energies and conservative forces. Load it with `geomol.load("{name}")` or `GeomolCalculator("{name}")`.',
        "",
        "| | |",
        "|---|---|",
        f"| data | `{config.data.source}`, split `{config.data.split}` |",
        f"| model | {model}; {summary['num_parameters']} parameters, {config.run.dtype} |",
        f"| training | `{command}`; {summary['training_minutes']:.1f} minutes ({config.schedule.clock} time, "
        f"{config.run.threads or 'all'} thread), {summary['epochs']:.0f} epochs, {summary['steps']} steps |",
        f"| test structures | {m['num_structures']:.0f} |",
        f"| energy MAE / RMSE | {1e3 * m['energy_mae_eV']:.2f} / {1e3 * m['energy_rmse_eV']:.2f} meV "
        f"({1e3 * m['energy_per_atom_mae_eV']:.2f} meV/atom MAE) |",
    ]
    if "force_mae_eV_per_A" in m:
        mae, rmse = (1e3 * m[f"force_{kind}_eV_per_A"] for kind in ("mae", "rmse"))
        lines.append(f"| force MAE / RMSE | {mae:.2f} / {rmse:.2f} meV/Å |")
    if "stress_mae_eV_per_A3" in m:
        mae, rmse = (m[f"stress_{kind}_eV_per_A3"] / ase.units.GPa for kind in ("mae", "rmse"))
        lines.append(f"| stress MAE / RMSE | {mae:.3f} / {rmse:.3f} GPa |")
    lines += [
        f"| rotation error | energy {1e3 * symmetry['rotation_energy_error_eV']:.3g} meV, forces "
        f"{1e3 * symmetry['rotation_force_error_eV_per_A']:.3g} meV/Å (largest over {ROTATIONS} rotations or "
        f"rotation-reflections of {ROTATED_FRAMES} test structures) |",
    ]
    if "net_torque_eV" in symmetry:
        lines.append(f"| net torque | {1e3 * symmetry['net_torque_eV']:.3g} meV at most |")
    for key, info in drifts.items():
        drift, half = info["drift_meV_per_atom_per_ns"], info["drift_95_meV_per_atom_per_ns"]
        half_text = "no interval" if half is None else f"± {half:.3g} (95 %)"
        lines.append(
            f"| energy drift | {drift:.3g} {half_text} meV/atom/ns ({key}: {info['time_ps']:g} ps at "
            f"{info['settings']['timestep_fs']:g} fs, NVE) |"
        )
    lines += [
        f"| cost | {1e3 * cost['energy_and_forces_s']:.1f} ms per energy + force call through ASE "
        f"({cost['num_atoms']:.0f} atoms, {torch.get_num_threads()} CPU threads) |",
        "",
        "Not for molecules, elements or conditions outside the training data.",
        "",
    ]
    return "\n".join(lines)
