"""What enters FAENet: tables by element on the nodes, raw vectors and Gaussians of the distance on the edges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from geomol.errors import ConfigError, InputError
from geomol.graph import Graph
from geomol.models.faenet_layers import xavier
from geomol.nn import SpeciesIndex, safe_norm

NUM_TAGS = 3  # OC20: 0 fixed, 1 surface, 2 adsorbate
NUM_PERIODS, NUM_GROUPS = 7, 19  # group 19: lanthanides and actinides
_NOBLE_GASES = (0, 2, 10, 18, 36, 54, 86, 118)


def period_and_group(number: int) -> tuple[int, int]:
    """Row and column of the periodic table, 1-based; 4f and 5f elements beside La and Ac are in group 19."""
    if number < 1:
        return 1, 1
    period = next(p for p in range(1, 8) if number <= _NOBLE_GASES[p])
    place = number - _NOBLE_GASES[period - 1]
    length = _NOBLE_GASES[period] - _NOBLE_GASES[period - 1]
    in_s_block = place <= 2 - (period == 1)
    if in_s_block or (length == 32 and place == 3):
        return period, place
    from_the_right = 18 - (length - place)  # counted back from the noble gas
    return period, from_the_right if from_the_right > 3 or length == 18 else NUM_GROUPS


class NodeEmbedding(nn.Module):
    """swish(Linear [element, tag, properties, period, group, scalars, vectors]), and a second time if `deep`.

    Args:
        elements: rows of the element table.
        channels: width of the result; the element table takes what the other tables leave of it.
        properties: fixed numbers per element, one row for each of `elements`; empty for none.
        tag_channels: width of the table of tags, which are read from the last column of `graph.node_scalars`.
        period_group_channels: width of each of the tables of periods and groups.
        in_scalars: columns of `graph.node_scalars`, the tag included.
        in_vectors: vectors per node, read as plain components.
        deep: two layers.

    Raises:
        ConfigError: no channels left for the elements; a table of properties of the wrong shape; at call, inputs of
            the graph that do not fit.
        ModelDomainError: at call, an element outside `elements`.
        InputError: at call, a tag that is none of 0, 1, 2.
    """

    properties: Tensor
    period: Tensor
    group: Tensor

    def __init__(
        self,
        elements: Sequence[int],
        channels: int,
        *,
        properties: Sequence[Sequence[float]],
        tag_channels: int,
        period_group_channels: int,
        in_scalars: int,
        in_vectors: int,
        deep: bool,
    ) -> None:
        super().__init__()
        self.species = SpeciesIndex(elements)
        self.in_scalars, self.in_vectors = in_scalars, in_vectors
        table = _property_table(properties, len(elements))
        self.register_buffer("properties", table, persistent=False)
        own = channels - tag_channels - 2 * period_group_channels - table.shape[1]
        if own < 1:
            raise ConfigError(
                "no channels left for the element table", expected=f"channels > {channels - own}", got=str(channels)
            )
        self.element = nn.Embedding(len(elements), own)
        self.tag = nn.Embedding(NUM_TAGS, tag_channels) if tag_channels else None
        self.of_period: nn.Embedding | None = None
        self.of_group: nn.Embedding | None = None
        if period_group_channels:
            self.of_period = nn.Embedding(NUM_PERIODS, period_group_channels)
            self.of_group = nn.Embedding(NUM_GROUPS, period_group_channels)
            places = torch.tensor([period_and_group(z) for z in elements]) - 1
            self.register_buffer("period", places[:, 0], persistent=False)
            self.register_buffer("group", places[:, 1], persistent=False)
        num_inputs = channels + in_scalars - (tag_channels > 0) + 3 * in_vectors
        self.hidden = xavier(nn.Linear(num_inputs, channels))
        self.second = xavier(nn.Linear(channels, channels)) if deep else None

    def forward(self, graph: Graph) -> Float[Tensor, "N C"]:
        dtype = self.hidden.weight.dtype
        scalars, vectors = self._given(graph, dtype)
        species = self.species(graph.numbers)
        parts = [self.element(species)]
        if self.tag is not None:
            parts.append(self.tag(_tags(scalars[:, -1])))
            scalars = scalars[:, :-1]
        parts.append(self.properties[species].to(dtype))
        if self.of_period is not None and self.of_group is not None:
            parts += [self.of_period(self.period[species]), self.of_group(self.group[species])]
        feats = silu(self.hidden(torch.cat([*parts, scalars, vectors], dim=1)))
        return feats if self.second is None else silu(self.second(feats))

    def _given(self, graph: Graph, dtype: torch.dtype) -> tuple[Float[Tensor, "N S"], Float[Tensor, "N V"]]:
        """Scalars of the graph, and the components of its vectors."""
        out = []
        for name, value, expected in (
            ("node_scalars", graph.node_scalars, self.in_scalars),
            ("node_vectors", graph.node_vectors, self.in_vectors),
        ):
            got = 0 if value is None else value.shape[1]
            if got != expected:
                raise ConfigError(f"`{name}` does not fit the model", expected=f"{expected} columns", got=str(got))
            out.append(graph.pos.new_zeros(graph.num_nodes, 0) if value is None else value.flatten(1))
        return out[0].to(dtype), out[1].to(dtype)


class EdgeEmbedding(nn.Module):
    """swish [Linear r_ij, Linear Gaussians(|r_ij|)], then if `deep` swish(Linear).

    The Gaussians are exp(−½ (d − μ_k)² / w²), with centres μ_k from 0 to `reach` Å and w their spacing.
    """

    centres: Tensor

    def __init__(self, filters: int, *, num_radial: int, reach: float, deep: bool) -> None:
        super().__init__()
        self.width = reach / (num_radial - 1)
        centres = torch.linspace(0, reach, num_radial, dtype=torch.float64)
        self.register_buffer("centres", centres, persistent=False)
        self.from_vector = xavier(nn.Linear(3, filters // 2))
        self.from_length = nn.Linear(num_radial, filters - filters // 2)
        self.second = xavier(nn.Linear(filters, filters)) if deep else None

    def forward(self, vec: Float[Tensor, "E 3"]) -> tuple[Float[Tensor, "E F"], Float[Tensor, " E"]]:
        """Edge features and lengths; `vec` points from receiver to sender, Å."""
        length = safe_norm(vec)
        gaussians = torch.exp(-0.5 * ((length[:, None] - self.centres.to(vec.dtype)) / self.width).square())
        feats = silu(torch.cat([self.from_vector(vec), self.from_length(gaussians)], dim=1))
        return (feats if self.second is None else silu(self.second(feats))), length


def _property_table(rows: Sequence[Sequence[float]], num: int) -> Float[Tensor, "A P"]:
    if len(rows) == 0:
        return torch.zeros(num, 0, dtype=torch.float64)
    if len(rows) != num or len({len(row) for row in rows}) != 1:
        raise ConfigError(
            "`properties` needs one row per element, all of one length", expected=f"{num} rows", got=f"{len(rows)}"
        )
    return torch.tensor(rows, dtype=torch.float64)


def _tags(column: Float[Tensor, " N"]) -> Tensor:
    tags = column.round().long()
    if bool(((tags < 0) | (tags >= NUM_TAGS) | (tags != column)).any()):
        raise InputError(
            "tags are the last column of `node_scalars`", expected="0, 1 or 2", got=str(sorted(set(column.tolist())))
        )
    return tags
