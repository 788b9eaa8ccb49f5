"""FAENet: message passing on raw relative vectors, without any rotational symmetry of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from geomol.errors import ConfigError
from geomol.graph import Graph, edge_vectors
from geomol.models.base import Features, Symmetry, config_of
from geomol.models.faenet_inputs import EdgeEmbedding, NodeEmbedding
from geomol.models.faenet_layers import MESSAGES, VECTOR_HEADS, VECTOR_NORMS, Interaction, ScalarHead, VectorHead
from geomol.nn import polynomial_envelope, unit_variance

SKIPS = ("none", "add", "concat", "concat_atom")
ATOM_WEIGHTS = ("none", "initial", "final")
PUBLISHED_ELEMENTS = tuple(range(85))  # rows of the authors' element table; row 0 is for points without element


class FAENet(nn.Module):
    """Filters from relative vectors and both end points, summed over neighbours; meant to be used under frames.

        e_ij = swish [Linear r_ij, Linear Gaussians(|r_ij|)]      h_i = swish(Linear [tables by element])
        h_i ← h_i + swish(Linear Σ_j swish(Linear h_j) ∘ swish(Linear [e_ij, h_j, h_i]))
        ε_i = Linear swish Linear h_i

    Source: Duval et al., ICML 2023 (arXiv:2305.05577), section 4 and appendix; details as in the authors' code.

    Departs from it: (1) `envelope`: every message is multiplied by a polynomial that vanishes at the cutoff with two
    derivatives; without this, energies jump when an atom crosses the cutoff, so potentials must use it. (2) Features
    are normalised structure by structure; the authors' code mixes the structures of a batch. (3) There is no limit on
    the number of neighbours: the nearest 30 or 40 change abruptly. (4) Energies are per node. The bias that the
    published mixing of "concat" adds once per structure is shared out over its nodes, and left out with `envelope`, so
    that energies are extensive. (5) Elements may be listed, instead of 85 rows for all; properties are not trained.

    Symmetry: translations exactly; neither rotations nor reflections. Wrap it in frames or augment. Permutation
    equivariant.

    The published settings are in `geomol.models.faenet_published`; the defaults are a narrow smooth variant for
    potentials.

    Args:
        elements: atomic numbers, the rows of the element table; empty for 0..84, as published.
        in_scalars: columns of `graph.node_scalars`; with `tag_channels` the last is the tag.
        in_vectors: vectors in `graph.node_vectors`, read as plain components.
        out_scalars: scalars per node.
        out_vectors: 1 for a vector per node read straight from the features (direct forces), else 0.
        channels: width of the node features.
        filters: width of the edge features, and of the messages with the "updown" kinds.
        num_layers: rounds of messages.
        cutoff: radius of the graph, Å; inf for complete or given graphs.
        envelope: smooth cutoff, see above.
        num_radial: Gaussians of the distance.
        radial_range: distance that the Gaussians span, Å; None for the cutoff.
        message: kind of message, see `geomol.models.faenet_layers.Interaction`.
        product: messages are filters times features of the sender; False: filters alone.
        deep_embedding: two layers in the embeddings (the authors' `second_layer_MLP`).
        deep_update: two layers in the update of the nodes (`complex_mp`).
        graph_norm: normalise sums of messages over each structure.
        skip: what is read out: "none" the last features; "add" the outputs of all rounds; "concat" their linear
            mixture; "concat_atom" a linear mixture of all features.
        atom_weights: scalars times a learned weight per node from the "initial" features, or from those read ("final").
        properties: fixed numbers per element, one row for each element.
        tag_channels: width of the table of tags 0, 1, 2 (OC20).
        period_group_channels: width of the tables of periods and groups.
        vector_head: "mlp", "res" or "res_updown".
        vector_channels: width within it.
        vector_norm: "none", "layer" or "batch" within it.

    Raises:
        ConfigError: settings that contradict each other, or a graph whose inputs do not fit them.
        ModelDomainError: at call, an element outside `elements`.
    """

    def __init__(
        self,
        *,
        elements: Sequence[int] = (),
        in_scalars: int = 0,
        in_vectors: int = 0,
        out_scalars: int = 1,
        out_vectors: int = 0,
        channels: int = 128,
        filters: int = 64,
        num_layers: int = 4,
        cutoff: float = 5.0,
        envelope: bool = True,
        num_radial: int = 32,
        radial_range: float | None = None,
        message: str = "updownscale_base",
        product: bool = True,
        deep_embedding: bool = True,
        deep_update: bool = False,
        graph_norm: bool = False,
        skip: str = "none",
        atom_weights: str = "none",
        properties: Sequence[Sequence[float]] = (),
        tag_channels: int = 0,
        period_group_channels: int = 0,
        vector_head: str = "mlp",
        vector_channels: int = 64,
        vector_norm: str = "none",
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        self.cutoff = float(cutoff)
        self.envelope, self.skip, self.atom_weights = envelope, skip, atom_weights
        self.out_scalars, self.out_vectors = out_scalars, out_vectors
        reach = self.cutoff if radial_range is None else float(radial_range)
        self._check_choices(message, vector_head, vector_norm)
        self._check_numbers(reach, num_radial, in_scalars, tag_channels)
        if message == "simple" and filters != channels:
            raise ConfigError('message "simple" needs filters = channels', got=f"{filters} and {channels}")
        self.nodes = NodeEmbedding(
            elements if len(elements) else PUBLISHED_ELEMENTS,
            channels,
            properties=properties,
            tag_channels=tag_channels,
            period_group_channels=period_group_channels,
            in_scalars=in_scalars,
            in_vectors=in_vectors,
            deep=deep_embedding,
        )
        self.edges: nn.Module = EdgeEmbedding(filters, num_radial=num_radial, reach=reach, deep=deep_embedding)
        self.layers = nn.ModuleList(
            Interaction(channels, filters, message=message, deep=deep_update, graph_norm=graph_norm, product=product)
            for _ in range(num_layers)
        )
        self.weigh = nn.Linear(channels, 1) if atom_weights != "none" else None
        self.readout = ScalarHead(channels, out_scalars)
        self._add_skip(channels, num_layers + 1)
        self.vectors = (
            VectorHead(channels, vector_channels, kind=vector_head, norm=vector_norm) if out_vectors else None
        )
        self.symmetry = Symmetry(
            group="T(3)",
            exact=True,
            smooth=envelope or math.isinf(self.cutoff),
            separable=not graph_norm and self.offset is None and math.isfinite(self.cutoff),
        )

    def _add_skip(self, channels: int, num_states: int) -> None:
        """The maps over what all rounds have left."""
        self.mix: nn.Linear | None = None
        self.offset: nn.Parameter | None = None
        if self.skip == "concat":
            self.mix = nn.Linear(num_states * self.out_scalars, self.out_scalars, bias=False)
            if not self.envelope:
                self.offset = nn.Parameter(torch.zeros(self.out_scalars))
        self.merge = nn.Linear(num_states * channels, channels) if self.skip == "concat_atom" else None

    def _check_choices(self, message: str, vector_head: str, vector_norm: str) -> None:
        for name, value, known in (
            ("message", message, MESSAGES),
            ("skip", self.skip, SKIPS),
            ("atom_weights", self.atom_weights, ATOM_WEIGHTS),
            ("vector_head", vector_head, VECTOR_HEADS),
            ("vector_norm", vector_norm, VECTOR_NORMS),
        ):
            if value not in known:
                raise ConfigError(f"unknown {name}", expected=" or ".join(known), got=value)

    def _check_numbers(self, reach: float, num_radial: int, in_scalars: int, tag_channels: int) -> None:
        if not self.cutoff > 0:
            raise ConfigError("cutoff must be positive (Å)", got=str(self.cutoff))
        if self.envelope and math.isinf(self.cutoff):
            raise ConfigError("the envelope needs a cutoff", remedy="give a cutoff, or envelope=False")
        if not (math.isfinite(reach) and reach > 0):
            raise ConfigError("the Gaussians need a finite range (Å)", got=str(reach), remedy="give radial_range")
        if num_radial < 2:
            raise ConfigError("num_radial must be at least 2", got=str(num_radial))
        if self.out_scalars < 1 or self.out_vectors not in (0, 1):
            raise ConfigError("out_scalars must be at least 1, and out_vectors 0 or 1")
        if tag_channels and in_scalars < 1:
            raise ConfigError("tag_channels needs the tag as the last of in_scalars columns", got="in_scalars=0")

    def forward(self, graph: Graph) -> Features:
        """Scalars per node, and vectors in the axes of the input where asked for."""
        states = self._states(graph)
        final = self._final(states)
        scalars = self._read(states, final, graph)
        return Features(scalars, None if self.vectors is None else self.vectors(final)[:, None])

    def hidden(self, graph: Graph) -> Float[Tensor, "N C"]:
        """The features that are read out last."""
        return self._final(self._states(graph))

    def calibrate(self, graph: Graph) -> None:
        """Gives the linear layers of an untrained network unit output on a typical batch, see `unit_variance`."""
        unit_variance(self, lambda: self(graph))

    def _states(self, graph: Graph) -> list[Float[Tensor, "N C"]]:
        """Node features before the first round and after each."""
        feats = self.nodes(graph)
        edges, length = self.edges(edge_vectors(graph, feats.dtype))
        window = polynomial_envelope(length / self.cutoff)[:, None] if self.envelope else None
        states = [feats]
        for layer in self.layers:
            states.append(layer(states[-1], edges, window, graph))
        return states

    def _final(self, states: list[Float[Tensor, "N C"]]) -> Float[Tensor, "N C"]:
        return states[-1] if self.merge is None else silu(self.merge(torch.cat(states, dim=1)))

    def _read(self, states: list[Tensor], final: Float[Tensor, "N C"], graph: Graph) -> Float[Tensor, "N S"]:
        """Scalars of the last features, or of all rounds together."""
        every = torch.stack(states) if self.skip in ("add", "concat") else final[None]  # (rounds, N, C)
        weight = None if self.weigh is None else self.weigh(states[0] if self.atom_weights == "initial" else every)
        scalars: Tensor = self.readout(every)
        if weight is not None:
            scalars = scalars * weight
        if self.mix is None:
            return scalars.sum(dim=0)
        mixed: Tensor = self.mix(scalars.transpose(0, 1).flatten(1))
        if self.offset is not None:
            mixed = mixed + self.offset / graph.ptr.diff()[graph.batch, None].to(mixed.dtype)
        return mixed
