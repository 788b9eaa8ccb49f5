"""Publishing a trained generator: its weights, its metrics beside those of the data, and a card that says both."""

from __future__ import annotations

import importlib.util
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geomol.checkpoint import load_denoiser, save_model
from geomol.data import Structures
from geomol.diffusion import Denoiser
from geomol.errors import DataError
from geomol.generate.driver import sample
from geomol.generate.molecules import Molecules
from geomol.generate.physics import physics_figures
from geomol.generate.protocols import PROTOCOLS
from geomol.generate.request import make_requests
from geomol.generate.results import to_molecules
from geomol.generate.sampling import SampleSettings
from geomol.generate.score import Score, score
from geomol.generate.smiles import rdkit_version
from geomol.report.card import copy_records, make_folder, read_record
from geomol.train import TrainConfig, evaluate_generation, generation_parts

DATA_ROW = 10_000  # molecules of the training data that are scored by the same code
XTB_MOLECULES = 100


@dataclass(frozen=True, eq=False)
class GeneratorMetrics:
    """What was measured of a generator.

    Attributes:
        scores: by protocol, of the generated molecules.
        data: the same of molecules of the data.
        likelihood: denoising errors and NLL on the test part, see `evaluate_generation`.
        physics: strain, and distances of geometry and composition from the test part.
        seconds: of sampling.
    """

    scores: Mapping[str, Score]
    data: Mapping[str, Score]
    likelihood: Mapping[str, float]
    physics: Mapping[str, float]
    seconds: float

    def figures(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "scores": {name: s.figures() for name, s in self.scores.items()},
            "data": {name: s.figures() for name, s in self.data.items()},
            "likelihood": dict(self.likelihood),
            "physics": dict(self.physics),
            "sampling_s": self.seconds,
            "rdkit_version": rdkit_version(),
        }


def measure_generator(
    denoiser: Denoiser, parts: Mapping[str, Structures], *, num: int, settings: SampleSettings, seed: int = 0
) -> GeneratorMetrics:
    """Samples `num` molecules and holds them against the training and test parts."""
    start = time.perf_counter()
    made = sample(denoiser, make_requests(num, seed=seed, sizes=denoiser.sizes), settings)
    seconds = time.perf_counter() - start
    molecules = to_molecules(made)
    train = Molecules(parts["train"])
    rows = np.sort(np.random.default_rng(0).permutation(len(train))[:DATA_ROW])
    scores, data = {}, {}
    for name in ("edm", "strict", *(["graph"] if denoiser.bonds is not None else [])):
        known = None
        if name != "graph":
            known = {text for text in PROTOCOLS[name](train).smiles if text}
            data[name] = score(train.subset(rows), PROTOCOLS[name])
        scores[name] = score(molecules, PROTOCOLS[name], train_smiles=known)
    test = parts["test"].subset(np.arange(min(DATA_ROW, len(parts["test"]))))
    return GeneratorMetrics(scores, data, evaluate_generation(denoiser, test), _physics(molecules, test), seconds)


def _physics(molecules: Molecules, test: Structures) -> dict[str, float]:
    """Strain by MMFF94 of all, by GFN2-xTB of some where tblite is installed, and distances from the test part."""
    found = physics_figures(["mmff", "geometry", "composition"], molecules, Molecules(test))
    if importlib.util.find_spec("tblite") is not None:
        found |= physics_figures(["xtb"], molecules.subset(np.arange(min(XTB_MOLECULES, len(molecules)))), None)
    return found


def publish_generator(
    run_dir: Path, out: Path, *, command: str, num: int = 2000, settings: SampleSettings | None = None
) -> GeneratorMetrics:
    """Measures the best weights of a run and writes `out`/model.safetensors, metrics.json, the card and its settings.

    Args:
        run_dir: a folder of `geomol train` with task "generation".
        out: folder of the published model.
        command: how the model was trained, for the card.
        num: molecules to sample.
        settings: how they are sampled.

    Raises:
        DataError: the run has no model yet, or its data have no test part. ConfigError: `out` holds something else.
    """
    settings = settings or SampleSettings()
    config, summary, provenance = read_record(run_dir)
    make_folder(out)
    denoiser = load_denoiser(run_dir / "model.safetensors")
    parts = generation_parts(config)
    if "test" not in parts:
        raise DataError("no test part to measure on", where=config.data.source, remedy="set data.num_test")
    metrics = measure_generator(denoiser, parts, num=num, settings=settings)
    figures = metrics.figures()
    errors = {f"edm_{name}": share.value for name, share in metrics.scores["edm"].shares.items()}
    save_model(out / "model.safetensors", denoiser, provenance=provenance, errors=errors, symmetry={})
    card = generator_card(out.name, config, summary, metrics, settings, command)
    (out / "README.md").write_text(card, encoding="utf-8")
    (out / "metrics.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    copy_records(run_dir, out, ("config.json", "summary.json", "metrics.csv"))
    return metrics


_ROWS = (
    ("atom_stability", "stable atoms"),
    ("molecule_stability", "stable molecules"),
    ("valid", "valid"),
    ("valid_unique", "valid and unique"),
    ("novel_of_unique", "novel, of the unique"),
    ("valid_unique_novel", "valid, unique and novel"),
    ("connected", "connected"),
)


def _told(name: str, config: TrainConfig) -> list[str]:
    """Rows about what the model can be told, and the one that it began from."""
    rows = []
    if config.run.start is not None:
        rows.append(f"| began from | the weights of `{config.run.start}` |")
    if conditions := config.generation.conditions:
        rows.append(
            f"| conditions | {', '.join(conditions)}, in units of the data: "
            f"`geomol sample {name} --target {conditions[0]}=VALUE --guidance 2` |"
        )
    return rows


def generator_card(
    name: str,
    config: TrainConfig,
    summary: dict[str, Any],
    metrics: GeneratorMetrics,
    settings: SampleSettings,
    command: str,
) -> str:
    """The card as Markdown: data, training, metrics of the molecules and of the data, physics, likelihood, cost."""
    num = metrics.scores["edm"].molecules
    model = ", ".join(f"{k} = {v}" for k, v in config.model.items())
    lines = [
        f"# {name}",
        "",
        f"Molecules out of noise: `geomol sample {name} -n 100 -o mols.sdf --html gallery.html`.",
        "",
        "| | |",
        "|---|---|",
        f"| data | `{config.data.source}`, split `{config.data.split}`, seed {config.data.seed}, "
        f"{config.data.num_train} molecules |",
        f"| model | {model}; {summary['num_parameters']} parameters, {config.run.dtype} |",
        f"| process | `{config.generation.process['name']}`, prediction `{config.generation.prediction}`, elements "
        f"`{config.generation.types}` |",
        *_told(name, config),
        f"| training | `{command}`; {summary['training_minutes']:.1f} minutes ({config.schedule.clock} time, "
        f"{config.run.threads or 'all'} thread), {summary['epochs']:.1f} epochs, {summary['steps']} steps |",
        f"| sampling | {num} molecules, `{settings.sampler}`, {settings.steps} steps, churn {settings.churn:g}, "
        f"{settings.evaluations} "
        f"evaluations, sizes as in training, seed 0; {1000 * metrics.seconds / num:.0f} s per 1000 "
        f"({torch.get_num_threads()} CPU threads) |",
        "",
        f"Percent of all molecules, failures included, ± one standard error; RDKit {rdkit_version()}. In brackets: "
        f"{metrics.data['edm'].molecules} molecules of the training data by the same code.",
        "",
        "| | " + " | ".join(f"protocol `{p}`" for p in metrics.scores) + " |",
        "|---|" + "---|" * len(metrics.scores),
    ]
    for key, label in _ROWS:
        cells = [_cell(metrics, protocol, key) for protocol in metrics.scores]
        if any(cells):
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "| physics | |", "|---|---|"]
    lines += [f"| {key.replace('_', ' ')} | {value:.4g} |" for key, value in metrics.physics.items()]
    lines += ["", "| on the test part, without self-conditioning in the likelihood | |", "|---|---|"]
    lines += [f"| {key.replace('_', ' ')} | {value:.5g} |" for key, value in metrics.likelihood.items()]
    lines += ["", "Not for other elements, ions, radicals or larger molecules than those of the data.", ""]
    return "\n".join(lines)


def _cell(metrics: GeneratorMetrics, protocol: str, key: str) -> str:
    share = metrics.scores[protocol].shares.get(key)
    if share is None or math.isnan(share.value):
        return ""
    text = f"{100 * share.value:.1f} ± {100 * share.error:.1f}"
    of_data = metrics.data[protocol].shares.get(key) if protocol in metrics.data else None
    return text if of_data is None else f"{text} ({100 * of_data.value:.1f})"
