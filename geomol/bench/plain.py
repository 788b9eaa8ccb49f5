"""The same models written out plainly in eager PyTorch: every edge tensor in full, no operators of our own.

These are what a paper's equations give when typed in directly. They are the yardstick of `geomol bench`, and an
independent witness that the fast forms compute the same function.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geomol.bench.plain_painn import PlainPaiNN
from geomol.bench.plain_parts import plain_bessel, plain_edge_vectors, plain_sum
from geomol.errors import ConfigError
from geomol.graph import Graph
from geomol.models import EGNN, Features, PaiNN, Ponita
from geomol.models.egnn_layer import EGNNLayer
from geomol.models.ponita import PonitaBlock
from geomol.models.ponita_kernels import LegendreBasis, LegendreKernel
from geomol.nn import legendre, polynomial_envelope
from geomol.potential import Potential


class PlainPonita(nn.Module):
    """R³×S² or R³ with the Legendre kernel: the product basis (E, O, K·L) and the kernels (E, O, C) of all edges are
    stored.
    """

    def __init__(self, model: Ponita) -> None:
        super().__init__()
        if not isinstance(model.basis, LegendreBasis) or model.in_vectors or model.out_vectors:
            raise ConfigError("no plain form of this PONITA", expected='kernel="legendre" without vectors')
        self.model, self.cutoff, self.symmetry = model, model.cutoff, model.symmetry

    def forward(self, graph: Graph) -> Features:
        model = self.model
        assert isinstance(model.basis, LegendreBasis)
        dtype = model.embed.weight.dtype
        vec = plain_edge_vectors(graph, dtype)
        length = vec.norm(dim=1)
        radial = model.basis.radial(length)  # (E, K)
        ori = model.grid if model.grid is not None else vec.new_tensor([[0.0, 0.0, 1.0]])
        angular = legendre((vec / length[:, None]) @ ori.T, model.basis.num_angular)  # (E, O, L)
        basis = (radial[:, None, :, None] * angular[:, :, None, :]).flatten(2)  # (E, O, K L)
        x = model.inputs(graph, dtype) @ model.embed.weight.T
        x = x[:, None, :].repeat(1, ori.shape[0], 1)
        read = []
        for number, block in enumerate(model.blocks):
            assert isinstance(block, PonitaBlock)
            x = self._block(block, x, basis, ori, graph)
            readout = number - (len(model.blocks) - len(model.readouts))
            if readout >= 0:
                read.append(model.readouts[readout](x))
        return Features(torch.stack(read).mean(0).mean(1))

    def _block(self, block: PonitaBlock, x: Tensor, basis: Tensor, ori: Tensor, graph: Graph) -> Tensor:
        spatial = block.spatial
        assert isinstance(spatial, LegendreKernel)
        assert spatial.self_weight is not None
        kernel = basis @ spatial.weight.flatten(0, 1)  # (E, O, C)
        y = plain_sum(x[graph.src] * kernel, graph) + x * spatial.self_weight
        if block.fibre is not None:
            assert isinstance(block.fibre, LegendreKernel)
            fibre = legendre(ori @ ori.T, block.fibre.weight.shape[1]) @ block.fibre.weight[0]
            y = torch.einsum("noc,poc->npc", y, fibre) / ori.shape[0]
        y = block.linear_2(block.act(block.linear_1(block.norm(y + block.bias))))
        if block.layer_scale is not None:
            y = y * block.layer_scale
        out: Tensor = x + y
        return out


class PlainEGNN(nn.Module):
    """EGNN with the concatenation [h_i, h_j, a_ij] of every edge, as in the paper's equations; smooth cutoff, no
    coordinate update.
    """

    def __init__(self, model: EGNN) -> None:
        super().__init__()
        if model.update_pos or model.edge_inputs or not model.envelope:
            raise ConfigError("no plain form of this EGNN", expected="envelope=True, update_pos=False, no edge_inputs")
        self.model, self.cutoff, self.symmetry = model, model.cutoff, model.symmetry

    def forward(self, graph: Graph) -> Features:
        model = self.model
        dtype = model.embed.weight.dtype
        vec = plain_edge_vectors(graph, dtype)
        length = vec.norm(dim=1)
        feats = length.square()[:, None] if model.basis is None else plain_bessel(model.basis, length)
        window = polynomial_envelope(length / model.cutoff)[:, None] * model.message_scale
        h = model.embed(model.inputs(graph, dtype))
        for layer in model.layers:
            assert isinstance(layer, EGNNLayer)
            receiver, sender, own = torch.tensor_split(layer.from_nodes.weight, 3)
            edge_weight = torch.cat([receiver, sender, layer.from_edges.weight], dim=1)
            edge_input = torch.cat([h[graph.dst], h[graph.src], feats], dim=1)
            hidden = nn.functional.linear(edge_input, edge_weight, layer.from_edges.bias)
            message = nn.functional.silu(layer.message(nn.functional.silu(hidden)))
            if layer.gate is not None:
                message = message * torch.sigmoid(layer.gate(message))
            total = plain_sum(message * window, graph)
            node_weight = torch.cat([own, layer.from_sum.weight], dim=1)
            update = nn.functional.linear(torch.cat([h, total], dim=1), node_weight, layer.from_sum.bias)
            new = layer.update(nn.functional.silu(update))
            h = h + new if layer.residual else new
        return Features(model.readout(h))


_FORMS: dict[type, type[nn.Module]] = {Ponita: PlainPonita, EGNN: PlainEGNN, PaiNN: PlainPaiNN}


def has_plain_form(potential: Potential) -> bool:
    """Whether `plain_potential` takes it."""
    form = _FORMS.get(type(potential.backbone))
    if form is None:
        return False
    try:
        form(potential.backbone)
    except ConfigError:
        return False
    return True


def plain_potential(potential: Potential) -> Potential:
    """The same potential on the plain form of its backbone, sharing the weights.

    Raises:
        ConfigError: there is no plain form of this backbone or of these settings.
    """
    form = _FORMS.get(type(potential.backbone))
    if form is None:
        raise ConfigError(f"no plain form of {type(potential.backbone).__name__}", expected="EGNN, PaiNN or Ponita")
    plain = Potential(
        form(potential.backbone),
        elements=potential.elements,
        e0=potential.e0_values,
        scale=potential.scale_value,
        zbl=potential.zbl is not None,
        allow_discontinuous=potential.allow_discontinuous,
    )
    return plain.to(next(potential.backbone.parameters()).device)  # its tables too
