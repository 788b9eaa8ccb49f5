"""PairTransformer: the published n-body transformer, a token for every ordered pair of a fixed number of nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError, ModelDomainError
from geomol.graph import Graph
from geomol.models.base import Features, Symmetry, config_of
from geomol.models.plain_inputs import EDGE_INPUTS, as_features, charges, check_outputs, node_coordinates
from geomol.nn import LayerNorm, NodeInputs

_CODE_STD = 0.02  # of the positional code at the start; the authors' code leaves the choice to the framework


class PairTransformer(nn.Module):
    """Transformer over n × n tokens: token (i, i) is node i, token (i, j) what the pair shares.

    Token (i, j) = Linear [δ_ij (x_i, v_i, …), q_i q_j, |x_i − x_j|²] + code_ij, with the last two 0 for i = j and
    nothing but numbers of nodes to tell tokens apart: the code is learned. Then pre-norm blocks (`torch.nn`), and ReLU
    Linear ReLU Linear of the diagonal tokens gives the outputs.

    Source: Kim et al., NeurIPS 2023 (arXiv:2306.02866), n-body backbone; layout of the inputs as in the authors' code:
    coordinate by coordinate, [x of the position, x of the velocity, y of the position, …], then other node inputs, then
    those of the pair. Published: 4 heads, 64 channels, 64 hidden; 107 523 parameters with 4 layers, 208 387 with 8.

    Symmetry: none, and unlike all other backbones not even permutations, since the code tells nodes apart by number:
    it is made to be wrapped by a symmetriser for permutations and rotations. `Symmetry` has no word for that; "1" is
    the nearest. All structures have the same number of nodes; edges of the graph are not read.

    Args:
        num_nodes: n.
        elements: atomic numbers that enter as one-hot vectors.
        in_scalars: columns of `graph.node_scalars`; with "charge_product" the last is the charge and enters pairs only.
        in_vectors: vectors of `graph.node_vectors`.
        out_scalars: scalars per node.
        out_vectors: vectors per node.
        predicts: "displacement" (as published), or "position", see `MPNN`.
        coordinates: "absolute", or "centred" on the centroid.
        channels: width, a multiple of num_heads.
        num_heads: attention heads.
        ff_channels: hidden width of the network per token.
        num_layers: number of blocks.
        dropout: rate, in blocks and outputs.
        edge_inputs: of "charge_product" and "squared_distance", in this order.
        cutoff: radius of the graph, whose edges are not read, Å.

    Raises:
        ConfigError: settings that contradict each other, or a graph whose inputs do not fit them.
        ModelDomainError: at call, a structure of another size, or a periodic one.
    """

    def __init__(
        self,
        *,
        num_nodes: int,
        elements: Sequence[int] = (),
        in_scalars: int = 0,
        in_vectors: int = 0,
        out_scalars: int = 0,
        out_vectors: int = 1,
        predicts: str = "displacement",
        coordinates: str = "absolute",
        channels: int = 64,
        num_heads: int = 4,
        ff_channels: int = 64,
        num_layers: int = 4,
        dropout: float = 0.0,
        edge_inputs: Sequence[str] = EDGE_INPUTS,
        cutoff: float = math.inf,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.cutoff, self.coordinates, self.predicts = float(cutoff), coordinates, predicts
        self.num_nodes, self.edge_inputs = num_nodes, tuple(edge_inputs)
        self.in_vectors, self.out_scalars, self.out_vectors = in_vectors, out_scalars, out_vectors
        check_outputs(predicts, coordinates, out_scalars, out_vectors)
        self._check(in_scalars, channels, num_heads)
        self.symmetry = Symmetry(
            group="1" if coordinates == "absolute" else "T(3)", exact=True, smooth=True, separable=False
        )
        self.inputs = NodeInputs(elements, in_scalars - ("charge_product" in self.edge_inputs))
        num_inputs = 3 * (1 + in_vectors) + self.inputs.num_features
        self.embed = nn.Linear(num_inputs + len(self.edge_inputs), channels)
        self.code = nn.Parameter(_CODE_STD * torch.randn(num_nodes * num_nodes, channels))
        block = nn.TransformerEncoderLayer(
            channels, num_heads, ff_channels, dropout, "gelu", batch_first=True, norm_first=True
        )
        block.norm1, block.norm2 = LayerNorm(channels), LayerNorm(channels)
        # nested tensors are for ragged batches, and would warn here
        self.encoder = nn.TransformerEncoder(block, num_layers, LayerNorm(channels), enable_nested_tensor=False)
        self.readout = nn.Sequential(
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(channels, out_scalars + 3 * out_vectors),
        )

    def _check(self, in_scalars: int, channels: int, num_heads: int) -> None:
        if self.num_nodes < 1:
            raise ConfigError("num_nodes must be at least 1", got=str(self.num_nodes))
        if self.coordinates not in ("absolute", "centred"):
            raise ConfigError("unknown coordinates", expected="absolute or centred", got=self.coordinates)
        if num_heads < 1 or channels % num_heads:
            raise ConfigError("channels must be a multiple of num_heads", got=f"{channels} and {num_heads}")
        if self.edge_inputs not in ((), EDGE_INPUTS, EDGE_INPUTS[:1], EDGE_INPUTS[1:]):
            raise ConfigError(
                "unknown edge_inputs", expected=f"of {EDGE_INPUTS}, in this order", got=str(self.edge_inputs)
            )
        if "charge_product" in self.edge_inputs and in_scalars < 1:
            raise ConfigError("charge_product needs the charge as the last of in_scalars columns", got="in_scalars=0")

    def forward(self, graph: Graph) -> Features:
        """Scalars per node, and vectors in the frame of the coordinates."""
        if bool((graph.ptr.diff() != self.num_nodes).any()):
            sizes = sorted(set(graph.ptr.diff().tolist()))
            raise ModelDomainError(
                "structure of another size", expected=f"{self.num_nodes} nodes each", got=", ".join(map(str, sizes))
            )
        coordinates = node_coordinates(graph, self.coordinates)
        tokens = self.encoder(self.embed(self._tokens(graph, coordinates)) + self.code)
        diagonal = tokens.unflatten(1, (self.num_nodes, self.num_nodes)).diagonal(dim1=1, dim2=2).mT
        return as_features(
            self.readout(diagonal.flatten(0, 1)), self.out_scalars, coordinates if self.predicts == "position" else None
        )

    def _tokens(self, graph: Graph, coordinates: Float[Tensor, "N 3"]) -> Float[Tensor, "G T I"]:
        """Inputs of all pairs, row by row."""
        dtype, num = self.embed.weight.dtype, self.num_nodes
        got = 0 if graph.node_vectors is None else graph.node_vectors.shape[1]
        if got != self.in_vectors:
            raise ConfigError(
                "`node_vectors` does not fit the model", expected=f"{self.in_vectors} vectors", got=str(got)
            )
        vectors = [] if graph.node_vectors is None else list(graph.node_vectors.to(dtype).unbind(1))
        nodes = torch.stack([coordinates.to(dtype), *vectors], dim=-1).flatten(1)
        pairs = self._pairs(graph, dtype)
        if "charge_product" in self.edge_inputs and graph.node_scalars is not None:
            graph = graph.replace(node_scalars=graph.node_scalars[:, :-1])
        if self.inputs.num_features or graph.node_scalars is not None:
            nodes = torch.cat([nodes, self.inputs(graph, dtype)], dim=1)
        diagonal = torch.diag_embed(nodes.view(-1, num, nodes.shape[1]).mT).movedim(1, -1)  # (G, n, n, S)
        return torch.cat([diagonal, *pairs], dim=-1).flatten(1, 2)

    def _pairs(self, graph: Graph, dtype: torch.dtype) -> list[Float[Tensor, "G n n 1"]]:
        parts, other = [], 1 - torch.eye(self.num_nodes, dtype=dtype, device=graph.device)
        if "charge_product" in self.edge_inputs:
            charge = charges(graph, dtype).view(-1, self.num_nodes)
            parts.append((charge[:, :, None] * charge[:, None, :] * other)[..., None])
        if "squared_distance" in self.edge_inputs:
            pos = graph.pos.view(-1, self.num_nodes, 3)
            parts.append((pos[:, :, None] - pos[:, None, :]).to(dtype).square().sum(-1, keepdim=True))
        return parts
