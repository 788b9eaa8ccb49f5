"""What enters a backbone: elements as one-hot vectors, beside any scalars the graph carries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from geomol.errors import ConfigError, ModelDomainError
from geomol.graph import Graph

MAX_ATOMIC_NUMBER = 118


class SpeciesIndex(nn.Module):
    """Index of each atomic number in the model's element list.

    Raises:
        ConfigError: an element list with repeats or numbers outside 0..118 (0: points without element).
        ModelDomainError: at call, an element that is not in the list.
    """

    table: Tensor

    def __init__(self, elements: Sequence[int]) -> None:
        super().__init__()
        self.elements = [int(z) for z in elements]
        if len(set(self.elements)) != len(self.elements) or any(not 0 <= z <= MAX_ATOMIC_NUMBER for z in self.elements):
            raise ConfigError("elements must be distinct atomic numbers", got=str(self.elements))
        table = torch.full((MAX_ATOMIC_NUMBER + 1,), -1, dtype=torch.long)
        table[torch.tensor(self.elements, dtype=torch.long)] = torch.arange(len(self.elements))
        self.register_buffer("table", table, persistent=False)

    def forward(self, numbers: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        species: Tensor = self.table[numbers]
        if bool((species < 0).any()):
            unknown = sorted(set(numbers[species < 0].tolist()))
            raise ModelDomainError(
                "element outside the model",
                expected=f"atomic numbers {self.elements}",
                got=str(unknown),
                remedy="use a model trained on these elements",
            )
        return species


class NodeInputs(nn.Module):
    """Concatenates a one-hot vector over `elements` with the graph's `node_scalars`: (N, len(elements) + in_scalars).

    Raises:
        ConfigError: the graph carries another number of scalars than the model was built for.
    """

    def __init__(self, elements: Sequence[int], in_scalars: int) -> None:
        super().__init__()
        self.species = SpeciesIndex(elements) if len(elements) else None
        self.in_scalars = in_scalars
        self.num_features = len(elements) + in_scalars

    def forward(self, graph: Graph, dtype: torch.dtype) -> Float[Tensor, "N S"]:
        parts = []
        if self.species is not None:
            one_hot = torch.nn.functional.one_hot(self.species(graph.numbers), len(self.species.elements))
            parts.append(one_hot.to(dtype))
        got = 0 if graph.node_scalars is None else graph.node_scalars.shape[1]
        if got != self.in_scalars:
            raise ConfigError(
                "`node_scalars` does not fit the model", expected=f"{self.in_scalars} columns", got=str(got)
            )
        if graph.node_scalars is not None:
            parts.append(graph.node_scalars.to(dtype))
        return torch.cat(parts, dim=1) if parts else torch.zeros(graph.num_nodes, 0, dtype=dtype, device=graph.device)
