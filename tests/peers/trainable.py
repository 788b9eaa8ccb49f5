"""The peers of `models.py` as they are trained: their network out of their calculator, its graphs, its batches.

The network is the one that the package's ASE calculator holds, so what is timed afterwards is what was trained. Graphs
and batches are made by each package's own functions. Energies are those above the mean of the training part.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ase import Atoms
from torch import Tensor, nn

from . import models
from .models import Peer, Settings
from .worker import builder


@dataclass(frozen=True)
class Trainable:
    """What the loop of `training.py` needs of a package.

    Attributes:
        graph: what one structure becomes, once, before the clock starts; its neighbour list is in it where the package
            takes one from outside.
        collate: several of them as one batch that may be changed by `predict`.
        predict: energies (B,) in eV and forces (N, 3) in eV/Å, differentiable by the weights in training mode.
        learning_rate: of a few tried for a minute each on ethanol, see the README.
    """

    peer: Peer
    model: nn.Module
    graph: Callable[[Atoms], Any]
    collate: Callable[[Sequence[Any]], Any]
    predict: Callable[[Any], tuple[Tensor, Tensor]]
    learning_rate: float


def mace(s: Settings, name: str = "mace", learning_rate: float = 2e-2) -> Trainable:
    """MACE; the scale is the buffer that its own trainer fills."""
    from mace import data
    from mace.tools import torch_geometric

    peer = _built(name, s)
    calculator = peer.calculator
    model = calculator.models[0]
    model.requires_grad_(True)  # the calculator has turned them off
    model.scale_shift.scale.fill_(s.options["scale"])

    def graph(atoms: Atoms) -> Any:
        config = data.config_from_atoms(atoms)
        return data.AtomicData.from_config(config, z_table=calculator.z_table, cutoff=s.cutoff)

    def predict(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        out = model(batch, training=model.training)
        return out["energy"], out["forces"]

    return Trainable(
        peer,
        model,
        graph,
        lambda graphs: torch_geometric.Batch.from_data_list(list(graphs)).to_dict(),
        predict,
        learning_rate,
    )


def mace_l1(s: Settings) -> Trainable:
    return mace(s, "mace-l1", learning_rate=1e-2)


def nequip(s: Settings) -> Trainable:
    """NequIP; the scale is that of its layer `PerTypeScaleShift`, one for all elements."""
    from nequip.data import AtomicDataDict
    from nequip.nn.atomwise import PerTypeScaleShift

    peer = _built("nequip", s)
    model = peer.calculator.model
    for layer in model.modules():
        if isinstance(layer, PerTypeScaleShift):
            layer.scales = torch.full((1, 1), s.options["scale"], dtype=layer.out_dtype)
            layer.has_scales = layer.scales_shortcut = True

    def predict(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        out = model(batch)
        return out[AtomicDataDict.TOTAL_ENERGY_KEY].flatten(), out[AtomicDataDict.FORCE_KEY]

    return Trainable(
        peer, model, peer.calculator.atoms_to_data, AtomicDataDict.batched_from_list, predict, learning_rate=2e-2
    )


def tensornet(s: Settings) -> Trainable:
    """TensorNet of TorchMD-NET; it searches its neighbours itself, in every step, inside the clock."""
    peer = _built("tensornet", s)
    model = inspect.getclosurevars(peer.calculator.calculate).nonlocals["model"]  # the calculator has it there alone
    model.std.fill_(s.options["scale"])

    def graph(atoms: Atoms) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(atoms.numbers).long(), torch.tensor(atoms.positions, dtype=s.torch_dtype)

    def collate(graphs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        numbers, positions = zip(*graphs, strict=True)
        index = torch.repeat_interleave(torch.tensor([len(z) for z in numbers]))
        return torch.cat(numbers), torch.cat(positions), index

    def predict(batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        energy, forces = model(*batch)
        return energy.flatten(), forces

    return Trainable(peer, model, graph, collate, predict, learning_rate=2e-3)


def schnetpack(s: Settings) -> Trainable:
    """PaiNN of SchNetPack; its networks have no scale, so a hook multiplies the energy by it before the forces."""
    peer = _built("schnetpack", s)
    from schnetpack.data.loader import _atoms_collate_fn

    calculator = peer.calculator
    model = calculator.model

    def scaled(module: nn.Module, given: Any, out: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**out, "energy": s.options["scale"] * out["energy"]}

    model.output_modules[0].register_forward_hook(scaled)

    def predict(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        out = model(batch)
        return out["energy"], out["forces"]

    def collate(graphs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {key: value.detach().clone() for key, value in _atoms_collate_fn(graphs).items()}

    def graph(atoms: Atoms) -> dict[str, Tensor]:
        made: dict[str, Tensor] = calculator.converter(atoms)
        return made

    return Trainable(peer, model, graph, collate, predict, learning_rate=2e-3)


TRAINABLE: dict[str, Callable[[Settings], Trainable]] = {
    "mace": mace,
    "mace-l1": mace_l1,
    "nequip": nequip,
    "tensornet": tensornet,
    "schnetpack": schnetpack,
}


def trainable(name: str, s: Settings) -> Trainable:
    """One of `TRAINABLE`, or what the function of a file (`FILE.py:FUNCTION`) makes of these settings."""
    made: Any = builder(name)(s) if ":" in name else TRAINABLE[name](s)
    assert isinstance(made, Trainable)
    return made


def _built(name: str, s: Settings) -> Peer:
    # models are built once in a process; with the neighbours of the data in place of those of any structure
    models.PAIRS_PER_ATOM = s.options["neighbours"]
    return models.BUILDERS[name](s)
