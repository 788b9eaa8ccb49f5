"""FAENet (Duval et al. 2023) with the frame averaging of its package, behind the shortest ASE calculator.

The network itself is not invariant: positions and cell are turned into the axes of the positions' covariance first, one
of them drawn at random at each call (`faenet`, the package's default) or all eight with their mean (`faenet-all`), and
the forces turned back, all by the package's `FrameAveraging` and `model_forward`. Forces are those of its option
`regress_forces="from_energy"`: minus the gradient in each frame, as if the axes did not turn with the positions. The
network has no envelope at the cutoff either, so its energy jumps when a pair comes or goes. Hence the gate holds frame
and pairs for the gradient, and tells the error without.
"""

from __future__ import annotations

import random
import sys
import types
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from .models import Peer, Settings, _count
from .wrapped import listed


def faenet(s: Settings) -> Peer:
    """FAENet in the size its package has by default, one random frame a call."""
    return _faenet(s, "stochastic", exact=False, text="one frame")


def faenet_all(s: Settings) -> Peer:
    """The same with the mean over all eight frames, which is invariant."""
    return _faenet(s, "all", exact=True, text="8 frames")


def _faenet(s: Settings, method: str, *, exact: bool, text: str) -> Peer:
    _stand_in_for_torch_scatter()
    from faenet import FAENet

    random.seed(s.seed)
    model = FAENet(
        cutoff=s.cutoff,
        preprocess="pbc_preprocess",  # for molecules too, with shifts of zero: its other one needs torch-cluster
        tag_hidden_channels=0,  # tags are of adsorbates on surfaces
        regress_forces="from_energy",
    )
    calculator = FrameCalculator(model.to(s.torch_dtype).eval(), method, s)
    return Peer(
        calculator,
        _count(model),
        lambda atoms: int(listed(atoms, s.cutoff)[0].shape[1]),
        f"C128, 4 interactions, {text}, gradient, vesin",
        exact=exact,
        held="frame and pairs",
        hold=calculator.hold,
    )


class FrameCalculator(Calculator):
    """Frames and prediction by the functions of the package, pairs by vesin."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, model: torch.nn.Module, method: str, s: Settings) -> None:
        from faenet import FrameAveraging

        super().__init__()
        self.model, self.settings, self.average = model, s, FrameAveraging("3D", method)
        self.held: tuple[tuple[torch.Tensor, torch.Tensor], list[torch.Tensor]] | None = None

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = tuple(all_changes)
    ) -> None:
        from faenet import model_forward

        super().calculate(atoms, properties, system_changes)
        graph = self._graph(self.atoms, self.settings.torch_dtype, listed_now=self.held is None)
        out = model_forward(graph, self.model, frame_averaging="3D", mode="inference", crystal_task=True)
        self.results = {"energy": float(out["energy"].detach()), "forces": out["forces"].detach().numpy()}

    def hold(self, atoms: Atoms | None) -> None:
        """Keeps the pairs of these atoms and their frame, found in float64 whatever the precision of the network."""
        self.held = None
        self.reset()
        if atoms is not None:
            random.seed(self.settings.seed)
            graph = self._graph(atoms, torch.float64, listed_now=True)
            self.held = (listed(atoms, self.settings.cutoff), graph.fa_rot)

    def _graph(self, atoms: Atoms, dtype: torch.dtype, *, listed_now: bool) -> Any:
        from torch_geometric.data import Data

        if listed_now or self.held is None:
            pairs, shift = listed(atoms, self.settings.cutoff)
        else:
            pairs, shift = self.held[0]
        graph = Data(
            pos=torch.tensor(atoms.positions, dtype=dtype),
            atomic_numbers=torch.from_numpy(atoms.numbers).long(),
            batch=torch.zeros(len(atoms), dtype=torch.long),
            natoms=torch.tensor([len(atoms)]),
            cell=torch.tensor(np.asarray(atoms.cell.array)[None], dtype=dtype),
            edge_index=pairs.flip(0),  # senders first
            cell_offsets=shift,
            neighbors=torch.tensor([pairs.shape[1]]),
        )
        if self.held is None:
            return self.average(graph)
        graph.fa_rot = [frame.to(dtype) for frame in self.held[1]]
        centred = graph.pos - graph.pos.mean(dim=0, keepdim=True)
        graph.fa_pos = [centred @ frame[0] for frame in graph.fa_rot]
        graph.fa_cell = [graph.cell @ frame[0] for frame in graph.fa_rot]
        return graph


def _stand_in_for_torch_scatter() -> None:
    """FAENet asks torch-scatter, which is source to be compiled, for one sum; PyG has it under the same name."""
    import torch_geometric.utils

    if "torch_scatter" not in sys.modules:
        module = types.ModuleType("torch_scatter")
        module.scatter = torch_geometric.utils.scatter  # type: ignore[attr-defined]
        sys.modules["torch_scatter"] = module
