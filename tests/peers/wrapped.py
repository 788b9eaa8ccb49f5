"""Peers whose package has no ASE calculator: the package's model, a neighbour list, and the shortest way between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from .models import PAIRS_PER_ATOM, Peer, Settings, _count


class EnergyCalculator(Calculator):
    """Forces as minus the gradient of `energy(atoms, positions)`, a tensor in eV."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, energy: Callable[[Atoms, torch.Tensor], torch.Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self.energy, self.dtype = energy, dtype

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        pos = torch.tensor(self.atoms.positions, dtype=self.dtype, requires_grad=True)
        energy = self.energy(self.atoms, pos)
        (gradient,) = torch.autograd.grad(energy, pos)
        self.results = {"energy": float(energy), "forces": -gradient.numpy()}


def listed(atoms: Atoms, cutoff: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Directed pairs (2, E), receivers first, and the shift of the sender in cell vectors, float64, by vesin."""
    import vesin

    periodic = bool(atoms.pbc.any())
    if periodic and not atoms.pbc.all():
        raise NotImplementedError("periodic in some directions only")
    box = np.asarray(atoms.cell.array, dtype=np.float64)
    lists = vesin.NeighborList(cutoff=cutoff, full_list=True)
    i, j, shift = lists.compute(points=atoms.positions, box=box, periodic=periodic, quantities="ijS")
    return torch.from_numpy(np.stack([i, j]).astype(np.int64)), torch.from_numpy(shift.astype(np.float64))


def neighbours(atoms: Atoms, cutoff: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Directed pairs (2, E), receivers first, and the shift of the sender, Å."""
    pairs, shift = listed(atoms, cutoff)
    return pairs, shift @ torch.from_numpy(np.asarray(atoms.cell.array, dtype=np.float64))


def vectors(atoms: Atoms, pos: torch.Tensor, cutoff: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs and the vectors from receiver to sender, Å, differentiable in `pos`."""
    pairs, shift = neighbours(atoms, cutoff)
    return pairs, pos[pairs[1]] - pos[pairs[0]] + shift.to(pos.dtype)


def schnet_pyg(s: Settings) -> Peer:
    """SchNet of PyG: 128 channels and filters, 3 interactions, on vesin's list (its own knows no periodicity)."""
    from torch_geometric.nn import SchNet

    graph: dict[str, torch.Tensor] = {}
    model = SchNet(
        hidden_channels=128,
        num_filters=128,
        num_interactions=3,
        num_gaussians=50,
        cutoff=s.cutoff,
        interaction_graph=lambda pos, batch: (graph["pairs"], graph["length"]),
    )
    model = model.to(s.torch_dtype).eval()

    def energy(atoms: Atoms, pos: torch.Tensor) -> torch.Tensor:
        pairs, vec = vectors(atoms, pos, s.cutoff)
        graph["pairs"], graph["length"] = pairs.flip(0), vec.norm(dim=1)
        out: torch.Tensor = model(torch.from_numpy(atoms.numbers).long(), pos).sum()
        return out

    calculator = EnergyCalculator(energy, s.torch_dtype)
    return Peer(calculator, _count(model), lambda a: neighbours(a, s.cutoff)[0].shape[1], "C128, 3 interactions, vesin")


def e3nn(s: Settings) -> Peer:
    """The message-passing network that e3nn ships (v2106): 32 scalars and 16 vectors of each parity, two gates."""
    from e3nn import o3
    from e3nn.math import soft_one_hot_linspace
    from e3nn.nn.models.v2106.gate_points_message_passing import MessagePassing

    hidden, basis = "32x0e + 32x0o + 16x1e + 16x1o", 8
    kinds = f"{len(s.elements)}x0e"
    harmonics = o3.Irreps.spherical_harmonics(2)
    model = MessagePassing([kinds, hidden, hidden, "1x0e"], kinds, harmonics, [basis, 64], PAIRS_PER_ATOM)
    for name, weight in model.named_parameters():
        if ".alpha." in name:  # e3nn starts with its messages switched off
            torch.nn.init.normal_(weight)
    model = model.to(s.torch_dtype).eval()
    index = torch.full((120,), -1)
    index[list(s.elements)] = torch.arange(len(s.elements))

    def energy(atoms: Atoms, pos: torch.Tensor) -> torch.Tensor:
        pairs, vec = vectors(atoms, pos, s.cutoff)
        length = vec.norm(dim=1)
        attributes = o3.spherical_harmonics(harmonics, vec, True, normalization="component")
        # the messages end smoothly: the envelope multiplies the harmonics, and the filters are linear in them
        envelope = 0.5 * (torch.cos(torch.pi * length / s.cutoff) + 1.0)
        radial = soft_one_hot_linspace(length, 0.0, s.cutoff, basis, basis="gaussian", cutoff=False) * basis**0.5
        nodes = torch.nn.functional.one_hot(index[atoms.numbers], len(s.elements)).to(pos.dtype)
        out: torch.Tensor = model(nodes, nodes, pairs[1], pairs[0], attributes * envelope[:, None], radial).sum()
        return out

    calculator = EnergyCalculator(energy, s.torch_dtype)
    return Peer(calculator, _count(model), lambda a: neighbours(a, s.cutoff)[0].shape[1], f"{hidden}, l = 2, vesin")


def standing(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions and cell turned until the cell is lower triangular, as TorchMD-NET's list wants it, and the turn.

    The list of TorchMD-NET finds wrong pairs in other cells, without a word or with an error of its buffer. Row vectors
    times the turn are in the frame of `atoms` again.
    """
    cell = np.asarray(atoms.cell.array, dtype=np.float64)
    if not atoms.pbc.any() or np.array_equal(cell, np.tril(cell)):
        return atoms.positions, cell, np.eye(3)
    _, turn = atoms.cell.standard_form()  # cell = standard form @ turn
    return atoms.positions @ turn.T, np.tril(cell @ turn.T), turn


def tensornet(s: Settings) -> Peer:
    """TensorNet of TorchMD-NET, 128 × 2, with the package's own neighbour list."""
    own = {"model": "tensornet", "num_layers": 2, "static_shapes": False, "equivariance_invariance_group": "O(3)"}
    return _torchmdnet(s, own, "128 × 2, own neighbour list")


def equivariant_transformer(s: Settings) -> Peer:
    """ET of TorchMD-NET, 128 × 6 as in its examples, with the package's own neighbour list.

    Unlike there the cutoff acts on its vectors too (`vector_cutoff`): without it the energy jumps when a pair comes or
    goes.
    """
    own = {"model": "equivariant-transformer", "num_layers": 6, "num_heads": 8, "attn_activation": "silu"}
    own |= {"distance_influence": "both", "neighbor_embedding": True, "vector_cutoff": True}
    return _torchmdnet(s, own, "128 × 6, own neighbour list")


def _torchmdnet(s: Settings, own: dict[str, Any], text: str) -> Peer:
    from torchmdnet.models.model import create_model

    args: dict[str, Any] = {
        **own,
        "embedding_dimension": 128,
        "num_rbf": 32,
        "rbf_type": "expnorm",
        "trainable_rbf": False,
        "activation": "silu",
        "cutoff_lower": 0.0,
        "cutoff_upper": s.cutoff,
        "max_z": 100,
        "max_num_neighbors": 128,
        "check_errors": True,
        "derivative": True,
        "output_model": "Scalar",
        "reduce_op": "add",
        "aggr": "add",
        "atom_filter": -1,
        "prior_model": None,
        "precision": 32,
        "box_vecs": None,
        "charge": False,
        "spin": False,
    }
    model = create_model(args).to(s.torch_dtype).eval()

    class TorchMDNetCalculator(Calculator):
        implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

        def calculate(
            self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
        ) -> None:
            super().calculate(atoms, properties, system_changes)
            positions, cell, turn = standing(self.atoms)
            pos = torch.tensor(positions, dtype=s.torch_dtype)
            box = torch.tensor(cell, dtype=s.torch_dtype) if self.atoms.pbc.any() else None
            energy, forces = model(torch.from_numpy(self.atoms.numbers).long(), pos, box=box)
            self.results = {"energy": float(energy.detach().sum()), "forces": forces.detach().numpy() @ turn}

    return Peer(TorchMDNetCalculator(), _count(model), lambda atoms: None, text)
