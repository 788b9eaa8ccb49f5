"""Runs inside a peer's environment: trains one network for so many minutes of CPU time, and measures its errors.

Started as `python -m peers.training FOLDER` in the folder `tests`; FOLDER has `job.json` (see `Job`) and gets
`state.pt` once a minute, from which a killed training goes on, and in the end `weights.pt` and `figures.json`.
One loop for all packages: Adam, or on request Muon for the matrices among the weights, the learning rate a half cosine
of the consumed time, the loss of geomol's trainer (lengths of force errors, and 0.02 of the energy), two averages of
the weights, of which validation picks one.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from .models import Settings
from .trainable import Trainable, trainable
from .worker import versions

ENERGY_WEIGHT = 0.02
KERNEL_STEPS = 3  # batches computed before the clock starts, in which packages compile their kernels
AVERAGES = (0.99, 0.999)  # decay of each average per step
AVERAGE_WARMUP = 10  # an average forgets its start over this many steps
WARMUP_STEPS = 200
CLIP = 10.0
MUON_RATE = 4e-3  # that of geomol's configuration
SAVE_EVERY_S = 60.0
EVALUATE_AT_ONCE = 25


@dataclass(frozen=True)
class Job:
    """What to train on what, how, and for how long. `data` is the npz of `pareto.write_data`, seen from the folder;
    `optimiser` is "adam", or "muon" as geomol's trainer has it, by PyTorch's own implementation.
    """

    peer: str
    data: str
    minutes: float
    cutoff: float = 5.0
    batch_size: int = 5
    learning_rate: float | None = None
    seed: int = 0
    optimiser: str = "adam"


class Data:
    """Graphs of one part of the data, and its labels less the mean energy of the training part."""

    def __init__(self, arrays: Any, part: str, network: Trainable, dtype: torch.dtype) -> None:
        numbers, positions = arrays["numbers"], arrays[f"{part}_positions"]
        self.network = network
        self.graphs = [network.graph(Atoms(numbers, frame)) for frame in positions]
        self.energy = torch.tensor(arrays[f"{part}_energy"] - arrays["mean"], dtype=dtype)
        self.forces = torch.tensor(arrays[f"{part}_forces"], dtype=dtype)

    def batch(self, index: list[int]) -> tuple[Any, Tensor, Tensor]:
        return self.network.collate([self.graphs[i] for i in index]), self.energy[index], self.forces[index]

    def first_forces(self) -> list[list[float]]:
        """By which the calculator is checked afterwards."""
        forces: list[list[float]] = self.network.predict(self.batch([0])[0])[1].detach().tolist()
        return forces

    def errors(self) -> dict[str, float]:
        """Mean absolute errors of energy (eV) and force components (eV/Å)."""
        energy, forces = [], []
        for start in range(0, len(self.graphs), EVALUATE_AT_ONCE):
            batch, e, f = self.batch(list(range(start, min(start + EVALUATE_AT_ONCE, len(self.graphs)))))
            found_e, found_f = self.network.predict(batch)
            energy.append((found_e.detach() - e).abs())
            forces.append((found_f.detach().view_as(f) - f).abs())
        return {
            "energy_mae_eV": float(torch.cat(energy).double().mean()),
            "force_mae_eV_per_A": float(torch.cat(forces).double().mean()),
        }


class Training:
    """Network, optimiser, averages, position in the data and consumed seconds; all of it in `state`."""

    def __init__(self, job: Job, arrays: Any) -> None:
        self.job, self.scale = job, float(arrays["scale"])
        settings = settings_of(arrays, job)
        torch.manual_seed(job.seed)
        self.network = trainable(job.peer, settings)
        self.model = self.network.model
        self.parts = {p: Data(arrays, p, self.network, settings.torch_dtype) for p in ("train", "valid", "test")}
        self.rate = job.learning_rate or (MUON_RATE if job.optimiser == "muon" else self.network.learning_rate)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimisers = optimisers(self.model, job.optimiser, self.rate)
        self.averages = [[p.detach().clone() for p in self.weights] for _ in AVERAGES]
        self.step, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        return min(1.0, self.seconds / (60 * self.job.minutes))

    def _gradient(self) -> float:
        """The loss of the batch of this step, and its gradient in the weights."""
        size, total = self.job.batch_size, len(self.parts["train"].graphs)
        epoch, place = divmod(self.step, math.ceil(total / size))
        order = torch.randperm(total, generator=torch.Generator().manual_seed(1_000_003 * self.job.seed + epoch))
        batch, energy, forces = self.parts["train"].batch(order[size * place : size * (place + 1)].tolist())
        self.model.train()
        found_energy, found_forces = self.network.predict(batch)
        lengths = (found_forces.view_as(forces) - forces).norm(dim=-1).mean()
        loss = (lengths + ENERGY_WEIGHT * (found_energy - energy).abs().mean()) / self.scale
        self.model.zero_grad()
        loss.backward()
        return float(loss.detach())

    def compile_kernels(self) -> None:
        for _ in range(KERNEL_STEPS):
            self._gradient()

    def train_step(self) -> float:
        """One batch; the time it took counts, the loss is returned."""
        start = time.process_time()
        value = self._gradient()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is not finite at step {self.step}")
        torch.nn.utils.clip_grad_norm_(self.weights, CLIP)
        warm = min(1.0, (self.step + 1) / WARMUP_STEPS)
        for optimiser in self.optimisers:
            optimiser.param_groups[0]["lr"] = self.rate * warm * 0.5 * (1 + math.cos(math.pi * self.progress))
            optimiser.step()
        for average, longest in zip(self.averages, AVERAGES, strict=True):
            decay = min(longest, (1 + self.step) / (AVERAGE_WARMUP + self.step))
            torch._foreach_lerp_(average, [p.detach() for p in self.weights], 1 - decay)
        self.step += 1
        self.seconds += time.process_time() - start
        return value

    def finish(self) -> dict[str, float]:
        """Gives the network the average with the smallest force error on the validation part; its errors there."""
        self.model.eval()
        found = [self._take(average) for average in self.averages]
        best = min(range(len(found)), key=lambda k: found[k]["force_mae_eV_per_A"])
        return {"average": AVERAGES[best], **self._take(self.averages[best])}

    def _take(self, average: list[Tensor]) -> dict[str, float]:
        with torch.no_grad():
            for p, a in zip(self.weights, average, strict=True):
                p.copy_(a)
        return self.parts["valid"].errors()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "averages": self.averages,
            "step": self.step,
            "seconds": self.seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        for optimiser, held in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(held)
        self.averages, self.step, self.seconds = state["averages"], state["step"], state["seconds"]


def optimisers(model: nn.Module, name: str, rate: float) -> list[torch.optim.Optimizer]:
    """Adam for all weights; or Muon for matrices that are no tables, scaled to Adam's steps, and Adam for the rest."""
    if name not in ("adam", "muon"):
        raise ValueError(f"unknown optimiser {name}: adam or muon")
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    weights = [p for p in model.parameters() if p.requires_grad]
    matrices = (
        {p for p in weights if p.dim() == 2 and min(p.shape) > 1 and p not in tables} if name == "muon" else set()
    )
    found: list[torch.optim.Optimizer] = []
    if matrices:
        taken = [p for p in weights if p in matrices]
        found.append(torch.optim.Muon(taken, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    rest = [p for p in weights if p not in matrices]
    return [*found, torch.optim.Adam(rest, lr=rate, fused=True)] if rest else found


def settings_of(arrays: Any, job: Job, dtype: str = "float32") -> Settings:
    """What a network is built with: elements, and scale (rms force) and neighbours of the training part."""
    elements = tuple(sorted({int(z) for z in arrays["numbers"]}))
    options = {"scale": float(arrays["scale"]), "neighbours": float(arrays["neighbours"])}
    return Settings(elements, job.cutoff, dtype, job.seed, options)


def save(value: Any, path: Path) -> None:
    """Written beside and renamed, so that a kill leaves the earlier one."""
    beside = path.with_suffix(".new")
    torch.save(value, beside)
    os.replace(beside, path)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    parent = os.getppid()
    job = Job(**json.loads((folder / "job.json").read_text(encoding="utf-8")))
    with np.load(folder / job.data) as file:
        training = Training(job, dict(file))
    if (folder / "state.pt").is_file():
        training.load(torch.load(folder / "state.pt", weights_only=True))
        print(f"goes on at step {training.step}, {training.seconds:.0f} s", flush=True)
    training.compile_kernels()
    saved, loss = time.monotonic(), math.nan
    while training.progress < 1:
        loss = training.train_step()
        gone = os.getppid() != parent  # whoever started this is no more, and nobody would read the result
        if gone or time.monotonic() - saved > SAVE_EVERY_S:
            save(training.state(), folder / "state.pt")
            saved = time.monotonic()
            print(f"step {training.step}  {training.seconds:.0f} s  loss {loss:.4f}", flush=True)
        if gone:
            sys.exit(3)
    save(training.state(), folder / "state.pt")
    figures: dict[str, Any] = {"valid": training.finish(), "test": training.parts["test"].errors()}
    save(training.model.state_dict(), folder / "weights.pt")
    figures |= {"steps": training.step, "cpu_seconds": training.seconds, "learning_rate": training.rate}
    figures |= {"parameters": sum(p.numel() for p in training.weights), "settings": training.network.peer.settings}
    figures |= {"optimiser": job.optimiser}
    figures |= {"versions": versions(), "first_forces": training.parts["test"].first_forces()}
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    (folder / "figures.new").write_text(text + "\n", encoding="utf-8")
    os.replace(folder / "figures.new", folder / "figures.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
