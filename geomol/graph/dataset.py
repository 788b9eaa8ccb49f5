"""A GraphStore as a dataset for PyTorch Geometric's `DataLoader`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import Dataset

from geomol.errors import InputError
from geomol.graph.convert_pyg import graph_to_pyg
from geomol.graph.store import GraphStore

if TYPE_CHECKING:
    from torch_geometric.data import Data


class GraphDataset(Dataset["Data"]):
    """Structures as PyG `Data`, with labels: `DataLoader(GraphDataset(store), batch_size=32)` gives PyG batches.

    It serves models written for PyG; training in geomol batches with `GraphStore.batch`, which is faster.

    Args:
        store: the structures.
        graph_labels: values per structure, (S, ...), by name; each item gets its row with a leading axis of 1.
        node_labels: values per atom, (A, ...), by name.

    Raises:
        InputError: if a label has another length than the structures or atoms.
    """

    def __init__(
        self,
        store: GraphStore,
        *,
        graph_labels: Mapping[str, Tensor] | None = None,
        node_labels: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.store = store
        self.graph_labels, self.node_labels = dict(graph_labels or {}), dict(node_labels or {})
        for labels, length in ((self.graph_labels, len(store)), (self.node_labels, len(store.pos))):
            for name, value in labels.items():
                if len(value) != length:
                    raise InputError(f"label {name} has a wrong length", expected=str(length), got=str(len(value)))

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> Data:
        if not -len(self) <= index < len(self):
            raise IndexError(index)  # ends iteration
        index = range(len(self))[index]
        data = graph_to_pyg(self.store.batch(torch.tensor([index])))
        rows = self.store.node_index([index])
        for name, value in self.graph_labels.items():
            data[name] = value[index : index + 1]
        for name, value in self.node_labels.items():
            data[name] = value[rows]
        return data
