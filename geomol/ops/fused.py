"""The separable convolution of R³×S²: project, gather and reduce in one operator, closed under differentiation.

    out_i[o, c] = Σ_{e into i} x[a_e, o, c] Σ_l A[e, o, l] Σ_k r[e, k] W[k, l, c]

The sum T = Σ y·out is linear in each of x, y, A, r and W. `separable_conv` is its derivative by y,
`separable_grads` all the others at once, and `separable_grads_twice` the derivative of those. Forces take the first
two, training on forces all three, and every further derivative is written with the same three. None stores an array
of the size E × O × C, nor one of E × L × C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.ops import fused_cpu, fused_cpu_twice, fused_native
from geomol.ops.backend import fused, use_triton
from geomol.ops.constant import as_weight
from geomol.ops.edges import Edges, one_dtype
from geomol.ops.forward_mode import refuse_tangents
from geomol.ops.fused_cpu import NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT, NEED_X, NEED_Y
from geomol.ops.shapes import check_shapes

_PAIR = "Tensor a, Tensor a_ptr, Tensor? a_perm, Tensor b, Tensor b_ptr, Tensor? b_perm"
_FACTORS = "Tensor angular, Tensor radial, Tensor weight"
_TANGENTS = "Tensor? tx, Tensor? t_angular, Tensor? t_radial, Tensor? t_weight"
torch.library.define("geomol::separable_conv", f"(Tensor x, {_FACTORS}, {_PAIR}) -> Tensor")
torch.library.define(
    "geomol::separable_grads",
    f"(Tensor x, Tensor y, {_FACTORS}, {_PAIR}, int need) -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "geomol::separable_grads_twice",
    f"({_TANGENTS}, Tensor x, Tensor y, {_FACTORS}, {_PAIR}, int need) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
_ops = torch.ops.geomol
_PAIR_SIZE = 6


@torch.library.impl("geomol::separable_conv", "default")
def _conv(x: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, *pair: Any) -> Tensor:
    factors = angular.contiguous(), radial.contiguous(), weight.contiguous()
    _check((x, None, *factors), pair, (x, weight))
    if use_triton(x):
        out: Tensor = fused("separable").conv(x, *factors, pair[0], pair[4], pair[5])
        return out
    on_cpu = fused_native.conv if fused_native.takes(weight, x, angular, radial) else fused_cpu.conv
    return on_cpu(x, *factors, pair[0], pair[3], len(pair[4]) - 1)


@torch.library.impl("geomol::separable_grads", "default")
def _grads(x: Tensor, y: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    factors = angular.contiguous(), radial.contiguous(), weight.contiguous()
    *pair, need = rest
    _check((x, y, *factors), pair, (x, weight))
    if use_triton(x):
        out: tuple[Tensor, ...] = fused("separable").grads(x, y, *factors, pair, need)
        return out
    on_cpu = fused_native.grads if fused_native.takes(weight, x, y, angular, radial) else fused_cpu.grads
    return on_cpu(x, y, *factors, pair[0], pair[3], need)


@torch.library.impl("geomol::separable_grads_twice", "default")
def _grads_twice(*args: Any) -> tuple[Tensor, ...]:
    tensors: list[Any] = [None if t is None else t.contiguous() for t in args[:9]]
    *pair, need = args[9:]
    tx, t_angular, t_radial, t_weight, x, y, angular, radial, weight = tensors
    _check((x, y, angular, radial, weight), pair, (x, weight))
    _check((tx, None, t_angular, t_radial, t_weight), pair, (x, weight))
    if use_triton(x):
        out: tuple[Tensor, ...] = fused("separable_twice").grads_twice(*tensors, pair, need)
        return out
    in_c = fused_native.takes(weight, *(t for t in tensors if t is not None))
    on_cpu = fused_native.grads_twice if in_c else fused_cpu_twice.grads_twice
    return on_cpu(tx, t_angular, t_radial, t_weight, x, y, angular, radial, weight, a=pair[0], b=pair[3], need=need)


def _check(given: Sequence[Tensor | None], pair: Sequence[Any], like: tuple[Tensor, Tensor]) -> None:
    """Refuses x, y, A, r and W, or tangents of them, that do not fit `like`: x and W."""
    (nodes, num_ori, channels), (basis, degrees, _), edges = like[0].shape, like[1].shape, len(pair[3])
    shapes: dict[str, Sequence[int]] = {
        "x": (nodes, num_ori, channels),
        "y": (len(pair[4]) - 1, num_ori, channels),
        "angular": (edges, num_ori, degrees),
        "radial": (edges, basis),
        "weight": (basis, degrees, channels),
        "a": (edges,),
        "b": (edges,),
    }
    check_shapes(dict(zip(shapes, (*given, pair[0], pair[3]), strict=True)), shapes)


@torch.library.register_fake("geomol::separable_conv")  # type: ignore[untyped-decorator]
def _conv_fake(x: Tensor, angular: Tensor, radial: Tensor, weight: Tensor, *pair: Any) -> Tensor:
    return x.new_empty(pair[4].shape[0] - 1, *x.shape[1:])


def _like(tensors: tuple[Tensor, ...], flags: tuple[int, ...], need: int) -> tuple[Tensor, ...]:
    return tuple(
        t.new_empty(t.shape) if need & flag else t.new_empty(0) for t, flag in zip(tensors, flags, strict=True)
    )


@torch.library.register_fake("geomol::separable_grads")  # type: ignore[untyped-decorator]
def _grads_fake(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _like((x, *rest[:3]), (NEED_X, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT), rest[-1])


@torch.library.register_fake("geomol::separable_grads_twice")  # type: ignore[untyped-decorator]
def _grads_twice_fake(*args: Any) -> tuple[Tensor, ...]:
    return _like(args[4:9], (NEED_X, NEED_Y, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT), args[-1])


def _save(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    """Tensors are saved, the number `need` is kept; a derivative that is zero arrives as None."""
    tensors = [value for value in inputs if not isinstance(value, int)]
    ctx.need = inputs[-1] if isinstance(inputs[-1], int) else 0
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _wanted(needs: tuple[bool, ...], flags: tuple[int, ...]) -> int:
    return sum(flag for asked, flag in zip(needs, flags, strict=True) if asked)


def _chosen(values: tuple[Tensor, ...], flags: tuple[int, ...], need: int) -> tuple[Tensor | None, ...]:
    return tuple(value if need & flag else None for value, flag in zip(values, flags, strict=True))


def _conv_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    flags = (NEED_X, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT)
    need = _wanted(ctx.needs_input_grad[:4], flags)
    if grad is None or not need:
        return (None,) * (4 + _PAIR_SIZE)
    x, *rest = ctx.saved_tensors
    return (*_chosen(_ops.separable_grads(x, grad, *rest, need), flags, need), *(None,) * _PAIR_SIZE)


def _grads_backward(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
    flags = (NEED_X, NEED_Y, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT)
    need = _wanted(ctx.needs_input_grad[:5], flags)
    kept = _chosen(tangents, (NEED_X, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT), ctx.need)  # type: ignore[arg-type]
    if not need or all(t is None for t in kept):
        return (None,) * (6 + _PAIR_SIZE)
    out = _ops.separable_grads_twice(*kept, *ctx.saved_tensors, need)
    return (*_chosen(out, flags, need), *(None,) * (_PAIR_SIZE + 1))


def _grads_twice_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    """Third derivatives: those of Σ T with a tangent in one place and a cotangent in another, over all such places."""
    tensors, pair = ctx.saved_tensors[:9], ctx.saved_tensors[9:]
    create = torch.is_grad_enabled()
    flags = (NEED_X, NEED_Y, NEED_ANGULAR, NEED_RADIAL, NEED_WEIGHT)
    second = _chosen(cotangents, flags, ctx.need)  # type: ignore[arg-type]
    with torch.enable_grad():
        # a new name for each, so that no input is differentiated through another
        own = [
            None if t is None else t.detach().requires_grad_() if not t.requires_grad else t.view_as(t) for t in tensors
        ]
        first, point = (own[0], None, *own[1:4]), own[4:]
        value = sum(
            _product([s if k == j else t if k == i else p for k, p in enumerate(point)], pair)
            for i, t in enumerate(first)
            for j, s in enumerate(second)
            if i != j and t is not None and s is not None
        )
        named = [t for t in own if t is not None]
        if isinstance(value, int):
            return (None,) * (len(own) + _PAIR_SIZE + 1)
        by = iter(torch.autograd.grad(value, named, create_graph=create, allow_unused=True))
    return (*(None if t is None else next(by) for t in own), *(None,) * (_PAIR_SIZE + 1))


def _product(factors: list[Any], pair: tuple[Any, ...]) -> Tensor:
    """T = Σ y·out."""
    x, y, *rest = factors
    out: Tensor = (y * _ops.separable_conv(x, *rest, *pair)).sum()
    return out


torch.library.register_autograd("geomol::separable_conv", _conv_backward, setup_context=_save)
torch.library.register_autograd("geomol::separable_grads", _grads_backward, setup_context=_save)
torch.library.register_autograd("geomol::separable_grads_twice", _grads_twice_backward, setup_context=_save)


def separable_conv(
    x: Float[Tensor, "N O C"],
    angular: Float[Tensor, "E O L"],
    radial: Float[Tensor, "E K"],
    weight: Float[Tensor, "K L C"],
    edges: Edges,
) -> Float[Tensor, "M O C"]:
    """Convolution with the kernel Σ_l angular_l Σ_k radial_k W_kl, formed on the way and never stored.

    Args:
        x: features of the nodes.
        angular: functions of the angle between each edge and each orientation.
        radial: functions of the length of each edge.
        weight: coefficients.
        edges: pairs sorted by receiver.
    """
    pair = (edges.src, edges.send_ptr, edges.send_perm, edges.dst, edges.edge_ptr, None)
    factors = one_dtype(x, angular, radial, as_weight(weight))
    refuse_tangents(*factors)
    out: Tensor = _ops.separable_conv(*factors, *pair)
    return out
