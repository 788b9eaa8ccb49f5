"""Official cases of EDM: arrays without padding, and their network under our names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geomol.diffusion.cloud import Cloud
from geomol.diffusion.eps_model import EpsModel
from geomol.models.edm_egnn import EDMEGNN

# official layer: ours
_LAYERS = {
    "edge_mlp.0": "from_edges",
    "edge_mlp.2": "message",
    "att_mlp.0": "gate",
    "node_mlp.0": "from_sum",
    "node_mlp.2": "update",
    "coord_mlp.0": "from_edges",
    "coord_mlp.2": "hidden",
    "coord_mlp.4": "pull",
}


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        config: of the case.
        network: that of its network.
        tolerance: to compare with.
        weights: official, without prefix.
        arrays: inputs and outputs.
    """

    config: dict[str, Any]
    network: dict[str, Any]
    tolerance: dict[str, float]
    weights: dict[str, Tensor]
    arrays: dict[str, Tensor]

    @property
    def real(self) -> Tensor:
        """Which places hold atoms."""
        return self.arrays["node_mask"][..., 0] > 0

    @property
    def ptr(self) -> Tensor:
        return torch.cat([torch.zeros(1), self.real.sum(1).cumsum(0)]).long()

    def flat(self, name: str) -> Tensor:
        """An array of the atoms alone."""
        return self.arrays[name][self.real]

    def cloud(self, array: Tensor | str) -> Cloud:
        """A padded array of positions and features."""
        both = self.flat(array) if isinstance(array, str) else array[self.real]
        return Cloud(both[:, :3], both[:, 3:], self.ptr)

    def eps(self, **changes: Any) -> EpsModel:
        """The network. What the official code calls "mean" is a sum over the padded number of atoms."""
        official = self.network | changes
        inputs = official["in_node_nf"] + official.get("context_node_nf", 0)
        mean = official["aggregation_method"] == "mean"
        model = EDMEGNN(
            in_scalars=inputs,
            out_scalars=inputs,
            channels=official["hidden_nf"],
            num_layers=official["n_layers"],
            inv_sublayers=official["inv_sublayers"],
            attention=official["attention"],
            tanh=official["tanh"],
            sin_embedding=official["sin_embedding"],
            norm_constant=official["norm_constant"],
            normalization_factor=self.real.shape[1] if mean else official["normalization_factor"],
        ).double()
        model.load_state_dict(_split(self.weights, official["hidden_nf"]), strict=not changes)
        return EpsModel(model)


def read_edm(golden: Path, name: str) -> Case:
    meta = json.loads((golden / "edm" / f"{name}.json").read_text())
    with np.load(golden / "edm" / f"{name}.npz", allow_pickle=False) as z:
        every = {k: torch.from_numpy(z[k]) for k in z.files}
    weights = {k.split("egnn.", 1)[-1]: v for k, v in every.items() if k.startswith("weights/")}
    arrays = {k.split("/", 1)[1]: v for k, v in every.items() if not k.startswith("weights/")}
    config = meta["config"]
    return Case(config, config.get("dynamics", config), meta["tolerance"], weights, arrays)


def _split(weights: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """First layers, which act on concatenations, are cut into the parts that act on each input."""
    ours: dict[str, Tensor] = {}
    for key, value in weights.items():
        if key.startswith("embedding"):
            ours[key.replace("embedding_out", "readout").replace("embedding", "embed")] = value
            continue
        block, layer, part, number, kind = key.removeprefix("e_block_").split(".")
        to = f"blocks.{block}." + ("move" if layer == "gcl_equiv" else f"messages.{layer[4:]}")
        ours[f"{to}.{_LAYERS[f'{part}.{number}']}.{kind}"] = value
    for name in [n for n in ours if n.endswith("from_edges.weight")]:
        whole, to = ours[name], name.removesuffix("from_edges.weight")
        nodes = [whole[:, :channels], whole[:, channels : 2 * channels]]
        ours[name] = whole[:, 2 * channels :]
        if f"{to}from_sum.weight" in ours:
            node = ours[f"{to}from_sum.weight"]
            ours[f"{to}from_sum.weight"] = node[:, channels:]
            nodes.append(node[:, :channels])
        ours[f"{to}from_nodes.weight"] = torch.cat(nodes)
    return ours
