"""Orders of the nodes that are learned: hard permutations with the gradient of soft ones."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from geomol.graph import Graph
from geomol.nn.nearest import equal_size_blocks

_TINY = 1e-12  # below this a probability carries no entropy


def soft_permutation(scores: Float[Tensor, "B n"], *, tau: float, iterations: int) -> Float[Tensor, "B n n"]:
    """exp(−|s_i − s_(j)| / τ), made doubly stochastic by Sinkhorn's rounds (rows, then columns); s_(j) descending.

    Sources: Prillo, Eisenschlos, ICML 2020 (arXiv:2006.16038); Mena et al., ICLR 2018 (arXiv:1802.08665).
    """
    ordered = scores.sort(dim=-1, descending=True, stable=True).values
    log_p = -(scores[:, :, None] - ordered[:, None, :]).abs() / tau
    for _ in range(iterations):
        log_p = log_p - log_p.logsumexp(-1, keepdim=True)
        log_p = log_p - log_p.logsumexp(-2, keepdim=True)
    return log_p.exp()


def hard_permutation(scores: Float[Tensor, "B n"]) -> Float[Tensor, "B n n"]:
    """P[i, j] = 1 where node i comes j-th in descending order; equal scores keep their order."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return torch.nn.functional.one_hot(order, scores.shape[-1]).mT.to(scores.dtype)


def permutation_entropy(soft: Float[Tensor, "B n n"]) -> Float[Tensor, " B"]:
    """Mean entropy of the rows plus that of the columns; 0 for a hard permutation, 2 log n for an even spread."""

    def entropy(axis: int) -> Tensor:
        p = soft.clamp(min=_TINY)
        p = p / p.sum(axis, keepdim=True)
        return -(p * p.log()).sum(axis).mean(-1)

    return entropy(-2) + entropy(-1)


class Ordering:
    """The learned order of the nodes of every structure in a batch.

    Source: Kim et al., NeurIPS 2023 (arXiv:2306.02866, section 2.3): normalised scores, sorted; forward the hard
    permutation, backward the soft one (straight-through).

    Args:
        scores: one per node.
        ptr: first node of each structure.
        tau: temperature of the soft permutation.
        iterations: rounds of Sinkhorn.
        straight_through: let gradients pass by the soft permutation; otherwise the order is a constant.
    """

    def __init__(
        self,
        scores: Float[Tensor, " N"],
        ptr: Int[Tensor, " P"],
        *,
        tau: float,
        iterations: int,
        straight_through: bool,
    ) -> None:
        self.blocks: list[tuple[Tensor, Tensor]] = []
        self.place = torch.empty_like(scores, dtype=torch.long)
        entropy = scores.new_zeros(len(ptr) - 1)
        for structure, rows in equal_size_blocks(ptr):
            unit = torch.nn.functional.normalize(scores[rows], dim=-1)
            matrix, soft = hard_permutation(unit), soft_permutation(unit, tau=tau, iterations=iterations)
            self.place[rows] = rows[:, :1] + matrix.argmax(-1)
            entropy = entropy.index_add(0, structure, permutation_entropy(soft))
            if straight_through:
                matrix = matrix + (soft - soft.detach())  # the bracket is exactly 0
            self.blocks.append((rows, matrix))
        self.entropy = entropy.mean()

    def sort(self, values: Float[Tensor, "N *F"]) -> Float[Tensor, "N *F"]:
        """Values by place: out_j = Σ_i P_ij x_i."""
        return self._mix(values, transposed=True)

    def restore(self, values: Float[Tensor, "N *F"]) -> Float[Tensor, "N *F"]:
        """Values by place given back to their nodes: out_i = Σ_j P_ij y_j."""
        return self._mix(values, transposed=False)

    def _mix(self, values: Tensor, *, transposed: bool) -> Tensor:
        flat = values.flatten(1)
        out = torch.zeros_like(flat)
        for rows, matrix in self.blocks:
            matrix = (matrix.mT if transposed else matrix).to(flat.dtype)
            out = out.index_copy(0, rows.flatten(), (matrix @ flat[rows]).flatten(0, 1))
        return out.view(values.shape)

    def sort_graph(self, graph: Graph) -> Graph:
        """The graph with its nodes in the learned order and its edges sorted by receiver again."""
        node = torch.argsort(self.place)
        src, dst = self.place[graph.src], self.place[graph.dst]
        order = torch.argsort(dst * graph.num_nodes + src, stable=True)
        degrees = graph.edge_ptr.diff()[node]
        return graph.replace(
            pos=self.sort(graph.pos),
            numbers=graph.numbers[node],
            edge_index=torch.stack([src[order], dst[order]]),
            edge_ptr=torch.nn.functional.pad(degrees.cumsum(0), (1, 0)),
            cell_shift=graph.cell_shift[order],
            node_scalars=None if graph.node_scalars is None else self.sort(graph.node_scalars),
            node_vectors=None if graph.node_vectors is None else self.sort(graph.node_vectors),
        )
