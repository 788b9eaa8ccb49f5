"""DimeNet++ of PyG, behind the shortest ASE calculator.

Its neighbour list and its triplets are those of pyg-lib and torch-sparse, which PyPI has no builds of. The pairs are
vesin's instead and the triplets a few calls of torch; all else is the package's own. It knows no periodic images.
"""

from __future__ import annotations

import torch
from ase import Atoms
from torch import Tensor

from .models import Peer, Settings, _count
from .wrapped import EnergyCalculator, neighbours


def dimenet(s: Settings) -> Peer:
    """DimeNet++ in the size its package has by default, its last layers drawn rather than zero.

    Raises:
        NotImplementedError: at call, periodic atoms.
    """
    from torch_geometric.nn.models import dimenet as package

    model = package.DimeNetPlusPlus(
        hidden_channels=128,
        out_channels=1,
        num_blocks=4,
        int_emb_size=64,
        basis_emb_size=8,
        out_emb_channels=256,
        num_spherical=7,
        num_radial=6,
        cutoff=s.cutoff,
        output_initializer="glorot_orthogonal",
    )
    model = model.to(s.torch_dtype).eval()
    found: dict[str, Tensor] = {}
    package.radius_graph = lambda *args, **kwargs: found["pairs"]
    package.triplets = triplets

    def energy(atoms: Atoms, pos: Tensor) -> Tensor:
        if atoms.pbc.any():
            raise NotImplementedError("PyG's DimeNet++ knows no periodic images")
        found["pairs"] = neighbours(atoms, s.cutoff)[0].flip(0)  # senders first
        out: Tensor = model(torch.from_numpy(atoms.numbers).long(), pos).sum()
        return out

    calculator = EnergyCalculator(energy, s.torch_dtype)
    return Peer(calculator, _count(model), lambda a: neighbours(a, s.cutoff)[0].shape[1], "C128, 4 blocks, vesin")


def triplets(pairs: Tensor, num_nodes: int) -> tuple[Tensor, ...]:
    """All k → j → i with k ≠ i, in the form of PyG's function of this name.

    Args:
        pairs: (2, E), senders j and receivers i.
        num_nodes: of the graph.

    Returns:
        i and j of each pair; i, j and k of each triplet; the pair k → j and the pair j → i of each.
    """
    j, i = pairs
    by_receiver, into = torch.argsort(i, stable=True), torch.bincount(i, minlength=num_nodes)
    first, many = into.cumsum(0) - into, into[j]  # pairs that end where each pair begins
    second = torch.repeat_interleave(many)
    rank = torch.arange(len(second)) - (many.cumsum(0) - many)[second]
    before = by_receiver[first[j[second]] + rank]
    turns_back = j[before] == i[second]
    second, before = second[~turns_back], before[~turns_back]
    return i, j, i[second], j[second], j[before], before, second
