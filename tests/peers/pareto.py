"""The command: `python -m tests.peers.pareto --peers mace,nequip,tensornet,schnetpack --environments FOLDER -o FOLDER`.

Every package's network is trained on the same 950 configurations of a molecule for the same CPU time of one thread,
geomol's by its own trainer; then the time of a call is measured as in `compare.py`, with the trained weights. Called
again, it goes on where it was interrupted: finished trainings are kept, and one that was going on continues.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from geomol.data import Structures, load_structures, official_split

from . import compare
from .environments import GROUP_OF
from .own import CONFIG_OF, figures_of, run_logged, train_own
from .pareto_report import write
from .pareto_timing import FORMS, Model, Plan, plain, time_all
from .process import PeerFailedError


def pareto(peers: Sequence[str], ours: Sequence[str], plan: Plan) -> dict[str, Any]:
    """All rows, written to `plan.out` after each training and each timing."""
    plan.out.mkdir(parents=True, exist_ok=True)
    source = f"rmd17/{plan.molecule}"
    data = load_structures(source)
    parts = {name: data.subset(rows) for name, rows in official_split(data, 1).items()}
    write_data(parts, plan.out / "data.npz", plan.cutoff)
    models: dict[str, Model] = {}
    failed: dict[str, dict[str, Any]] = {}
    results: dict[str, Any] = {"settings": _settings(plan, source), "machine": compare._machine(), "rows": []}
    for name in [*peers, *ours]:
        try:
            made = _own(name, parts["test"], plan) if name in ours else {name: _peer(name, plan)}
            models |= made
        except PeerFailedError as error:
            failed[name] = {"peer": name, "status": "failed", "reason": str(error)}
        results["rows"] = [*(m.row for m in models.values()), *failed.values()]
        write(plan.out, results)
    first = parts["test"].to_atoms(0)
    timed = [name for name in models if name in peers]
    time_all(models, timed, Atoms(first.numbers, first.positions), plan)
    write(plan.out, results)
    return results


def write_data(parts: dict[str, Structures], path: Path, cutoff: float) -> None:
    """The parts as arrays for the peers' environments, with mean energy, rms force and mean number of neighbours."""
    arrays: dict[str, Any] = {"numbers": parts["train"].to_atoms(0).numbers}
    for name, part in parts.items():
        arrays[f"{name}_positions"] = part.pos.reshape(len(part), -1, 3)
        arrays[f"{name}_energy"] = part.energy
        assert part.forces is not None
        arrays[f"{name}_forces"] = part.forces.reshape(len(part), -1, 3)
    positions = arrays["train_positions"]
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1)
    arrays["neighbours"] = (distances < cutoff).sum(axis=2).mean() - 1.0
    arrays["mean"] = arrays["train_energy"].mean()
    arrays["scale"] = np.sqrt(np.mean(arrays["train_forces"] ** 2))
    np.savez(path, **arrays)


def _peer(name: str, plan: Plan) -> Model:
    """A peer's network, trained here unless it is there already; NAME+muon by geomol's optimiser."""
    peer, _, optimiser = name.partition("+")
    python = compare._python(peer, plan)
    if isinstance(python, str):
        raise PeerFailedError(python)
    folder = plan.models / plain(name)
    job: dict[str, Any] = {"peer": peer, "data": "../../data.npz", "minutes": plan.minutes, "cutoff": plan.cutoff}
    job |= {"batch_size": plan.batch_size, "learning_rate": plan.rates.get(name), "seed": plan.seed}
    job |= {"optimiser": optimiser} if optimiser else {}
    text = json.dumps(job, indent=1) + "\n"
    path, done = folder / "job.json", folder / "figures.json"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise PeerFailedError(f"models/{folder.name} has a training with other settings: remove it, or name another -o")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if not done.is_file():
        print(f"training {name}; its progress is in logs/{plain(name)}.txt", flush=True)
        run_logged([str(python), "-m", "peers.training", str(folder.resolve())], GROUP_OF.get(peer), _log(plan, name))
    figures = json.loads(done.read_text(encoding="utf-8"))
    with np.load(plan.out / "data.npz") as file:
        options: dict[str, Any] = {key: float(file[key]) for key in ("scale", "neighbours")}
    options |= {"trained": peer, "weights": str((folder / "weights.pt").resolve())}
    return Model({"peer": name, **figures}, python, GROUP_OF.get(peer), "peer", options)


def _own(name: str, test: Structures, plan: Plan) -> dict[str, Model]:
    """One of geomol's models, by the name of its configuration or the folder of its run; once in each form."""
    run = Path(name)
    if name in CONFIG_OF:
        print(f"training {name}", flush=True)
        run = train_own(
            name,
            source=f"rmd17/{plan.molecule}",
            minutes=plan.minutes,
            batch_size=plan.batch_size,
            seed=plan.seed,
            folder=plan.models,
            log=_log(plan, name),
        )
    figures = figures_of(run, test)
    models = {}
    for form in plan.forms:
        label = run.name + ("" if form == "plain" else f" {form}")
        options = {"model": str(run.resolve()), "form": form, "text": figures["settings"]}
        models[label] = Model({"peer": label, **figures}, Path(sys.executable), None, "geomol", options)
    return models


def _settings(plan: Plan, source: str) -> dict[str, Any]:
    return {**compare._settings(plan), "source": source, **{k: asdict(plan)[k] for k in ("minutes", "batch_size")}}


def _log(plan: Plan, name: str) -> Path:
    return plan.out / "logs" / f"{plain(name)}.txt"


def _rates(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (pair.split("=") for pair in text.split(","))}


def _forms(text: str) -> tuple[str, ...]:
    forms = tuple(text.split(","))
    if not set(forms) <= set(FORMS):
        raise argparse.ArgumentTypeError(f"{text}: a list of {', '.join(FORMS)}")
    return forms


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m tests.peers.pareto", description=__doc__.splitlines()[0])
    p.add_argument(
        "--peers", default="", help="mace, mace-l1, nequip, tensornet, schnetpack, or FILE.py:FUNCTION; NAME+muon"
    )
    p.add_argument("--ours", default=",".join(CONFIG_OF), help="geomol-egnn, geomol-r3s2, or folders of runs")
    p.add_argument("-o", "--out", type=Path, required=True, help="where the trainings, table.md and pareto.png go")
    p.add_argument("--environments", type=compare._outside, help="folder of the virtual environments")
    p.add_argument("--minutes", type=float, default=10.0, help="CPU minutes of each training")
    p.add_argument("--molecule", default="ethanol", help="of rMD17")
    p.add_argument("--batch-size", type=int, default=5)
    p.add_argument("--rates", type=_rates, default={}, metavar="PEER=RATE,…", help="learning rates in place of mine")
    p.add_argument("--cutoff", type=float, default=5.0, help="Å, of the peers")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--warmup", type=int, default=3, help="rounds not counted")
    p.add_argument("--limit", type=float, default=900.0, help="seconds to wait for one answer of the timing")
    p.add_argument(
        "--forms", type=_forms, default=("plain",), metavar="FORM,…", help=f"of {', '.join(FORMS)}: geomol's as timed"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    given = vars(parser().parse_args(arguments))
    peers, ours = ([name for name in given.pop(key).split(",") if name] for key in ("peers", "ours"))
    pareto(peers, ours, Plan(**given))
    print((given["out"] / "table.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
