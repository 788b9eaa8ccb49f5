"""The edge block of EGNN in blocks of edges that fit the cache: value, derivatives, and derivatives of those.

Of an edge with inputs f (K,) from node s to row d, with σ the logistic function and silu(t) = t σ(t):

    h = p_d + q_s + V f + e,  u = silu(h),  z = W u + b,  v = silu(z),  g = σ(w·v + c),  m = v g ω

Everything on edges is formed again in each pass, so that nothing but the inputs is kept between passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from geomol.ops.blocks import block_size

_silu_grad = torch.ops.aten.silu_backward


@dataclass(frozen=True, eq=False)
class Inputs:
    """p (N, C), q (N, C), f (E, K), ω (E, 1), V (C, K), e (C,), W (C, C), b (C,), w (1, C), c (1,); or tangents."""

    receiver: Tensor
    sender: Tensor
    feats: Tensor
    window: Tensor
    edge_weight: Tensor
    edge_bias: Tensor
    weight: Tensor
    bias: Tensor
    gate_weight: Tensor | None
    gate_bias: Tensor | None

    def tensors(self) -> list[Tensor | None]:
        return [getattr(self, name) for name in self.__dataclass_fields__]

    def zeros(self) -> Inputs:
        """A place for each to add up in."""
        return Inputs(*(None if t is None else torch.zeros_like(t) for t in self.tensors()))  # type: ignore[arg-type]


def _blocks(num_edges: int, like: Tensor) -> Iterator[slice]:
    size = block_size(like.shape[1], like.dtype)
    for first in range(0, num_edges, size):
        yield slice(first, first + size)


def _gathered(t: Inputs, send: Tensor, receive: Tensor) -> Tensor:
    return t.receiver.index_select(0, receive).add_(t.sender.index_select(0, send))


def _hidden(t: Inputs, f: Tensor, send: Tensor, receive: Tensor) -> Tensor:
    return _gathered(t, send, receive).addmm_(f, t.edge_weight.mT).add_(t.edge_bias)


def messages(t: Inputs, send: Tensor, receive: Tensor) -> Tensor:
    """Σ over the edges into each node of m."""
    out = torch.zeros_like(t.receiver)
    for block in _blocks(len(send), out):
        u = silu(_hidden(t, t.feats[block], send[block], receive[block]), inplace=True)
        v = silu(torch.addmm(t.bias, u, t.weight.mT), inplace=True)
        factor = t.window[block]
        if t.gate_weight is not None and t.gate_bias is not None:
            factor = torch.addmm(t.gate_bias, v, t.gate_weight.mT).sigmoid_().mul_(factor)
        out.index_add_(0, receive[block], v.mul_(factor))
    return out


def grads(y: Tensor, t: Inputs, send: Tensor, receive: Tensor, weights: bool) -> Inputs:
    """Derivatives of Σ y·out by every input; by V, e, W, b, w and c only if `weights`, zero otherwise."""
    by = t.zeros()
    for block in _blocks(len(send), y):
        f, window, to, out_of = t.feats[block], t.window[block], receive[block], send[block]
        h = _hidden(t, f, out_of, to)
        u = silu(h)
        z = torch.addmm(t.bias, u, t.weight.mT)
        v = silu(z)
        dv = y.index_select(0, to)
        along = torch.linalg.vecdot(dv, v)[:, None]
        if t.gate_weight is None or t.gate_bias is None:
            by.window[block] = along
            dv.mul_(window)
        else:
            g = torch.addmm(t.gate_bias, v, t.gate_weight.mT).sigmoid_()
            by.window[block] = along * g
            dq = along.mul_(window).mul_(g * (1 - g))
            if weights and by.gate_weight is not None and by.gate_bias is not None:
                by.gate_weight.addmm_(dq.mT, v)
                by.gate_bias.add_(dq.sum(0))
            dv.mul_(g * window).addmm_(dq, t.gate_weight)
        dz = _silu_grad(dv, z)
        dh = _silu_grad(dz @ t.weight, h)
        _add_to_nodes(by, t, dh, block, to, out_of)
        if weights:
            _add_to_weights(by, dz, u, dh, f)
    return by


def _add_to_nodes(by: Inputs, t: Inputs, dh: Tensor, block: slice, to: Tensor, out_of: Tensor) -> None:
    """What a derivative by h gives for p, q and f."""
    by.receiver.index_add_(0, to, dh)
    by.sender.index_add_(0, out_of, dh)
    by.feats[block].addmm_(dh, t.edge_weight)


def _add_to_weights(by: Inputs, dz: Tensor, u: Tensor, dh: Tensor, f: Tensor) -> None:
    """What derivatives by z and h give for W, b, V and e."""
    by.weight.addmm_(dz.mT, u)
    by.bias.add_(dz.sum(0))
    by.edge_weight.addmm_(dh.mT, f)
    by.edge_bias.add_(dh.sum(0))


def _silu_twice(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """silu and its first two derivatives."""
    s = torch.sigmoid(x)
    rest = 1 - s
    first = s * (1 + x * rest)
    return x * s, first, s * rest * (2 + x * (rest - s))


def grads_twice(
    dot: Inputs, weights: bool, y: Tensor, t: Inputs, send: Tensor, receive: Tensor
) -> tuple[Tensor, Inputs]:
    """Derivatives by y and by every input of the product of the tangents `dot` with the derivatives above.

    That product is the derivative of Σ y·out along `dot`; it is written with tangents (a dot) and run backwards.
    Without `weights` the tangents of V, e, W, b, w and c are zero, as they are when one trains on forces.
    """
    by_y, by = torch.zeros_like(y), t.zeros()
    for block in _blocks(len(send), y):
        f, f_dot, to, out_of = t.feats[block], dot.feats[block], receive[block], send[block]
        h = _hidden(t, f, out_of, to)
        h_dot = _hidden(dot, f, out_of, to) if weights else _gathered(dot, out_of, to)
        h_dot.addmm_(f_dot, t.edge_weight.mT)
        u, u_first, u_second = _silu_twice(h)
        u_dot = u_first * h_dot
        z = torch.addmm(t.bias, u, t.weight.mT)
        z_dot = u_dot @ t.weight.mT
        if weights:
            z_dot.addmm_(u, dot.weight.mT).add_(dot.bias)
        v, v_first, v_second = _silu_twice(z)
        v_dot = v_first * z_dot
        dv, dv_dot = _gate_twice(by_y, by, dot, y.index_select(0, to), t, block, to, v, v_dot)
        dz_dot = dv_dot * v_first
        dz = dv_dot.mul_(v_second).mul_(z_dot).addcmul_(dv, v_first)
        by.weight.addmm_(dz_dot.mT, u_dot)
        du, du_dot = dz @ t.weight, dz_dot @ t.weight
        if weights:
            du.addmm_(dz_dot, dot.weight)
        dh_dot = du_dot * u_first
        dh = du_dot.mul_(u_second).mul_(h_dot).addcmul_(du, u_first)
        if weights:
            by.feats[block].addmm_(dh_dot, dot.edge_weight)
        by.edge_weight.addmm_(dh_dot.mT, f_dot)
        _add_to_nodes(by, t, dh, block, to, out_of)
        _add_to_weights(by, dz, u, dh, f)
    return by_y, by


def _gate_twice(  # the last step, m = v g ω, forwards along the tangents and back
    by_y: Tensor,
    by: Inputs,
    dot: Inputs,
    received: Tensor,
    t: Inputs,
    block: slice,
    to: Tensor,
    v: Tensor,
    v_dot: Tensor,
) -> tuple[Tensor, Tensor]:
    """Derivatives by v and by its tangent; adds what belongs to y, ω, w and c."""
    window, window_dot = t.window[block], dot.window[block]
    along, along_dot = (torch.linalg.vecdot(received, a)[:, None] for a in (v, v_dot))
    if t.gate_weight is None:
        by_y.index_add_(0, to, torch.addcmul(v_dot * window, v, window_dot))
        by.window[block] = along_dot
        return received * window_dot, received * window
    assert t.gate_bias is not None
    assert dot.gate_weight is not None
    assert dot.gate_bias is not None
    assert by.gate_weight is not None
    assert by.gate_bias is not None
    g = torch.addmm(t.gate_bias, v, t.gate_weight.mT).sigmoid_()
    q_dot = torch.addmm(dot.gate_bias, v, dot.gate_weight.mT).addmm_(v_dot, t.gate_weight.mT)
    slope = g * (1 - g)
    g_dot = slope * q_dot
    c, c_dot = g * window, torch.addcmul(g * window_dot, g_dot, window)
    by_y.index_add_(0, to, torch.addcmul(v_dot * c, v, c_dot))
    by.window[block] = along_dot * g + along * g_dot
    dq_dot = along * window * slope
    dg = along_dot * window + along * window_dot + along * window * (1 - 2 * g) * q_dot
    dq = dg * slope
    by.gate_weight.addmm_(dq_dot.mT, v_dot).addmm_(dq.mT, v)
    by.gate_bias.add_(dq.sum(0))
    dv_dot = (received * c).addmm_(dq_dot, t.gate_weight)
    dv = (received * c_dot).addmm_(dq_dot, dot.gate_weight).addmm_(dq, t.gate_weight)
    return dv, dv_dot
