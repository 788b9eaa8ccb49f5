"""Training without a configuration file: the same settings as nested dictionaries."""

import tempfile

from geomol import load
from geomol.data import load_structures
from geomol.train import evaluate, parse_config, split_structures, train

with tempfile.TemporaryDirectory() as folder:
    config = parse_config(
        {
            "name": "small",
            "data": {"source": "ethanol-gfn2"},
            "model": {"name": "egnn", "channels": 24, "num_layers": 2, "cutoff": 5.0},
            "schedule": {"epochs": 1},
            "run": {"folder": folder, "batch_size": 20, "threads": 1, "tensorboard": False},
        }
    )
    result = train(
        config, on_progress=lambda p: print(f"step {p.step}: loss {p.loss:.3f}") if p.step % 25 == 0 else None
    )
    model = load(result.run_dir)
    test = split_structures(load_structures("ethanol-gfn2"), config.data)["test"].subset(range(50))
    errors = evaluate(model, test).metrics
    print(
        f"after {result.steps} steps: forces {1e3 * errors['force_mae_eV_per_A']:.0f} meV/Å on {len(test)} test frames"
    )
    assert errors["force_mae_eV_per_A"] < 1.0
