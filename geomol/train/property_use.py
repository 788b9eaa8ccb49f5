"""What trained property models say, and how far they are off."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.data import Structures, structures_from_smiles
from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.graph.checks import TOO_CLOSE
from geomol.graph.neighbours import find_pairs
from geomol.ops import segment_mean
from geomol.properties import PropertyModel
from geomol.train.property_task import PropertyPart, column_of, predict_properties


def evaluate_properties(
    model: PropertyModel, structures: Structures, values: Float[np.ndarray, "S D"]
) -> tuple[dict[str, float], np.ndarray]:
    """Errors per target with units in the names, and the predictions; NaN values are not counted."""
    device = str(next(model.parameters()).device)
    part = PropertyPart.from_structures(structures, values, model.cutoff, vector=model.vector, device=device)
    predicted = predict_properties(model, part).numpy()
    figures = {"num_structures": float(len(structures))}
    errors = np.abs(predicted - values) / model.spreads().numpy()
    figures["mae_of_spread"] = float(np.nanmean(errors))
    for k, target in enumerate(model.targets):
        error = predicted - values if model.vector else predicted[:, k] - values[:, k]
        known = error[np.isfinite(error)]
        name = column_of(target.name, target.unit).removeprefix("valid_")
        figures[name] = float(np.abs(known).mean())
        figures[name.replace("_mae_", "_rmse_")] = float(np.sqrt(np.mean(known**2)))
        if model.vector:
            figures[name.replace("_mae_", "_length_error_")] = float(np.linalg.norm(error, axis=1).mean())
    return figures, predicted


def properties_of(model: PropertyModel, what: Structures | str | Sequence[str]) -> dict[str, np.ndarray]:
    """Predictions by target, with the unit in the key: `properties_of(load("qm9-gap"), "CCO")`.

    Args:
        model: a property model.
        what: structures, or SMILES, of which RDKit makes conformers.

    Raises:
        InputError: text that is no SMILES, or atoms at one place. ModelDomainError: an element outside the model.
    """
    if not isinstance(what, Structures):
        what = structures_from_smiles([what] if isinstance(what, str) else what)
    for k, (start, stop) in enumerate(pairwise(what.ptr)):  # graphs of all pairs are made without looking at distances
        find_pairs(what.pos[start:stop], what.cell[k], what.pbc[k], TOO_CLOSE, where=f"structure {k}")
    width = 3 if model.vector else len(model.targets)
    device = str(next(model.parameters()).device)
    part = PropertyPart.from_structures(
        what, np.zeros((len(what), width)), model.cutoff, vector=model.vector, device=device
    )
    found = predict_properties(model, part).numpy()
    names = [
        column_of(target.name, target.unit).removeprefix("valid_").replace("_mae_", "_") for target in model.targets
    ]
    return {names[0]: found} if model.vector else {name: found[:, k] for k, name in enumerate(names)}


@torch.no_grad()
def embed(backbone: nn.Module, structures: Structures, *, batch_size: int = 100) -> Float[np.ndarray, "S C"]:
    """Mean over nodes, and over orientations where there are any, of what the last hidden layer of a backbone holds:
    features of each structure, as invariant as the backbone claims to be.

    Taken as the input of the last linear layer of the backbone, so that it exists for every architecture that reads
    structures as they are.

    Raises:
        ConfigError: a backbone without linear layers, or one that reads structures in frames.
    """
    layers = [module for module in backbone.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ConfigError("this backbone has no hidden features", got=type(backbone).__name__)
    seen: list[tuple[nn.Linear, Tensor]] = []
    hooks = [m.register_forward_hook(lambda module, inputs, _: seen.append((module, inputs[0]))) for m in layers]
    part = PropertyPart.from_structures(
        structures,
        np.zeros((len(structures), 1)),
        float(backbone.cutoff),  # type: ignore[arg-type]
        vector=False,
        device=str(layers[0].weight.device),
    )
    rows = []
    try:
        for start in range(0, len(structures), batch_size):
            graph, _ = part.batch(torch.arange(start, min(start + batch_size, len(structures))))
            seen.clear()
            backbone(graph)
            hidden = next((x for _, x in reversed(seen) if x.shape[0] == graph.num_nodes), None)
            if hidden is None:
                raise ConfigError(
                    "this backbone has no hidden features of the nodes as they are", got=type(backbone).__name__
                )
            over_grid = hidden.flatten(1, -2).mean(1) if hidden.dim() > 2 else hidden
            rows.append(segment_mean(over_grid, graph.ptr).double().cpu().numpy())
    finally:
        for hook in hooks:
            hook.remove()
    return np.concatenate(rows)


@torch.no_grad()
def property_rotation_error(model: PropertyModel, structures: Structures, *, seed: int = 0, num: int = 200) -> float:
    """Largest change of a prediction (of a vector, of its length of difference after turning back) over random
    rotations of some structures, in units of the target's spread.
    """
    rows = np.unique(np.linspace(0, len(structures) - 1, min(num, len(structures))).round().astype(int))
    chosen = structures.subset(rows)
    values = np.zeros((len(chosen), 3 if model.vector else len(model.targets)))
    device = str(next(model.parameters()).device)
    part = PropertyPart.from_structures(chosen, values, model.cutoff, vector=model.vector, device=device)
    turn = random_rotations(len(chosen), generator=torch.Generator().manual_seed(seed))
    index = torch.arange(len(chosen))
    here, there = model(part.batch(index)[0]), model(part.batch(index, turn)[0])
    if model.vector:
        here = torch.bmm(here[:, None], turn.to(here).mT)[:, 0]
        return float(((there - here).norm(dim=1) / model.spreads(here.device)).max())
    return float(((there - here).abs() / model.spreads(here.device)).max())
