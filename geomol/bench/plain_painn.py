"""PaiNN written out plainly, as `geomol.bench.plain` does for the others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from geomol.bench.plain_parts import plain_bessel, plain_edge_vectors, plain_sum
from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models import Features, PaiNN
from geomol.nn import polynomial_envelope


class PlainPaiNN(nn.Module):
    """Equations 7 to 10 of the paper, message by message: the split of φ(s_j) ∘ W(r_ij) of every edge is stored."""

    def __init__(self, model: PaiNN) -> None:
        super().__init__()
        if model.in_vectors or model.vector_readout is not None or model.readout is None:
            raise ConfigError("no plain form of this PaiNN", expected="scalars alone, in and out")
        self.model, self.cutoff, self.symmetry = model, model.cutoff, model.symmetry

    def forward(self, graph: Graph) -> Features:
        model = self.model
        dtype = model.embed.weight.dtype
        vec = plain_edge_vectors(graph, dtype)
        length = vec.norm(dim=1)
        unit = vec / length[:, None]
        window = self._window(length)[:, None]
        radial = plain_bessel(model.basis, length)
        filters = (radial @ model.filters.weight.T + model.filters.bias) * window
        s = model.embed(model.inputs(graph, dtype))
        v = s.new_zeros(graph.num_nodes, 3, s.shape[1])
        first = 0
        layers: Any = zip(model.messages, model.updates, model.widths, strict=True)
        for message, update, width in layers:
            weights = filters[:, first : first + width]
            first += width
            split = (message.context(s)[graph.src] * weights).split(s.shape[1], dim=1)
            to_vectors = unit[:, :, None] * split[1][:, None, :]
            if len(split) == 3:
                to_vectors = to_vectors + v[graph.src] * split[2][:, None, :]
            s, v = s + plain_sum(split[0], graph), v + plain_sum(to_vectors, graph)
            s, v = self._update(update, s, v)
        assert model.readout is not None
        return Features(model.readout(s))

    def _window(self, length: Tensor) -> Tensor:
        ratio, scale = length / self.cutoff, self.model.message_scale
        if self.model.envelope == "cosine":
            return scale * 0.5 * (torch.cos(math.pi * ratio) + 1) * (ratio < 1)
        return scale * polynomial_envelope(ratio)

    def _update(self, update: Any, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        to_u, to_v = update.mix.weight.chunk(2)
        u_v, v_v = v @ to_u.T, v @ to_v.T
        norm = torch.sqrt(v_v.square().sum(dim=1) + update.softness**2)
        a_ss, a_sv, a_vv = update.context(torch.cat([s, norm], dim=1)).chunk(3, dim=1)
        return s + a_ss + a_sv * torch.einsum("nxc,nxc->nc", u_v, v_v), v + a_vv[:, None, :] * u_v
