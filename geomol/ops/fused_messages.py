"""The edge block of EGNN as one operator that keeps nothing on edges between its passes.

On a CUDA device with Triton its passes are fused kernels without atomics, elsewhere blocks of edges that fit the cache.
Energies call `geomol::messages`, forces `geomol::messages_grads`, training on forces `geomol::messages_grads_twice`;
that is as far as it goes: a third derivative raises an error.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from geomol.errors import GeomolError
from geomol.ops import fused_messages_cpu as passes
from geomol.ops.backend import fused, use_triton
from geomol.ops.constant import as_weight
from geomol.ops.edges import Edges
from geomol.ops.forward_mode import refuse_tangents

_INPUTS = (
    "Tensor receiver, Tensor sender, Tensor feats, Tensor window, Tensor edge_weight, Tensor edge_bias, "
    "Tensor weight, Tensor bias, Tensor? gate_weight, Tensor? gate_bias"
)
_NUM_INPUTS, _FIRST_WEIGHT = 10, 4
_TEN = ", ".join(["Tensor"] * _NUM_INPUTS)
_PAIR = "Tensor src, Tensor dst, Tensor? ptr, Tensor? send_ptr, Tensor? send_perm"
_PAIR_SIZE = 5
torch.library.define("geomol::messages", f"({_INPUTS}, {_PAIR}) -> Tensor")
torch.library.define("geomol::messages_grads", f"(Tensor y, {_INPUTS}, {_PAIR}, bool weights) -> ({_TEN})")
_DOTS = ", ".join(f"Tensor? dot{k}" for k in range(_NUM_INPUTS))
torch.library.define("geomol::messages_grads_twice", f"({_DOTS}, Tensor y, {_INPUTS}, {_PAIR}) -> (Tensor, {_TEN})")
_ops = torch.ops.geomol

MOST_FUSED = 64  # channels, and inputs of an edge: weights of more do not fit beside the tiles of a kernel
SHARED_BYTES = 176 << 10  # of memory that a program needs where it is widest; narrow ones are filled up


def _inputs(values: tuple[Tensor | None, ...]) -> passes.Inputs:
    return passes.Inputs(*(None if v is None else v.contiguous() for v in values))  # type: ignore[arg-type]


def _outputs(by: passes.Inputs, like: Tensor) -> tuple[Tensor, ...]:
    """Every operator returns the same number of tensors; an empty one stands for the gate that is not there."""
    return tuple(like.new_empty(0) if t is None else t for t in by.tensors())


def _rows(pair: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """What the kernels need of the pairs."""
    src, _, *rest = pair
    return tuple(t.contiguous() for t in (src, *rest))


@torch.library.impl("geomol::messages", "default")
def _messages(*args: Any) -> Tensor:
    t, pair = _inputs(args[:_NUM_INPUTS]), args[_NUM_INPUTS:]
    if use_triton(t.receiver):
        out: Tensor = fused("messages").messages(t, _rows(pair))
        return out
    return passes.messages(t, *pair[:2])


@torch.library.impl("geomol::messages_grads", "default")
def _grads(y: Tensor, *args: Any) -> tuple[Tensor, ...]:
    t, pair, weights = _inputs(args[:_NUM_INPUTS]), args[_NUM_INPUTS:-1], args[-1]
    if use_triton(y):
        return _outputs(fused("messages").grads(y.contiguous(), t, _rows(pair), weights), y)
    return _outputs(passes.grads(y.contiguous(), t, pair[0], pair[1], weights), y)


@torch.library.impl("geomol::messages_grads_twice", "default")
def _grads_twice(*args: Any) -> tuple[Tensor, ...]:
    dots, y = args[:_NUM_INPUTS], args[_NUM_INPUTS].contiguous()
    t, pair = _inputs(args[_NUM_INPUTS + 1 : -_PAIR_SIZE]), args[-_PAIR_SIZE:]
    weights = any(d is not None for d in dots[_FIRST_WEIGHT:])
    dot = _inputs(
        tuple(torch.zeros_like(v) if d is None and v is not None else d for d, v in zip(dots, t.tensors(), strict=True))
    )
    if use_triton(y) and not weights:
        by_y, by = fused("messages").grads_twice(dot, y, t, _rows(pair))
    else:  # tangents of weights belong to losses of derivatives by weights, which the kernels leave to PyTorch
        by_y, by = passes.grads_twice(dot, weights, y, t, *pair[:2])
    return by_y, *_outputs(by, y)


def _fakes(inputs: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    like = inputs[0]
    assert like is not None
    return tuple(like.new_empty(0 if t is None else t.shape) for t in inputs)


@torch.library.register_fake("geomol::messages")  # type: ignore[untyped-decorator]
def _messages_fake(*args: Any) -> Tensor:
    out: Tensor = args[0].new_empty(args[0].shape)
    return out


@torch.library.register_fake("geomol::messages_grads")  # type: ignore[untyped-decorator]
def _grads_fake(y: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return _fakes(args[:_NUM_INPUTS])


@torch.library.register_fake("geomol::messages_grads_twice")  # type: ignore[untyped-decorator]
def _grads_twice_fake(*args: Any) -> tuple[Tensor, ...]:
    y = args[_NUM_INPUTS]
    return y.new_empty(y.shape), *_fakes(args[_NUM_INPUTS + 1 : -_PAIR_SIZE])


def _save(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    ctx.save_for_backward(*(value for value in inputs if not isinstance(value, bool)))
    ctx.set_materialize_grads(False)


def _asked(values: tuple[Tensor, ...], needs: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    return tuple(value if need else None for value, need in zip(values, needs, strict=True))


def _messages_backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * (_NUM_INPUTS + _PAIR_SIZE)
    needs = ctx.needs_input_grad[:_NUM_INPUTS]
    found = _ops.messages_grads(grad, *ctx.saved_tensors, any(needs[_FIRST_WEIGHT:]))
    return (*_asked(found, needs), *(None,) * _PAIR_SIZE)


def _grads_backward(ctx: Any, *dots: Tensor | None) -> tuple[Tensor | None, ...]:
    if all(d is None for d in dots):
        return (None,) * (_NUM_INPUTS + _PAIR_SIZE + 2)
    inputs = ctx.saved_tensors[1:-_PAIR_SIZE]
    kept = tuple(d if t is not None else None for d, t in zip(dots, inputs, strict=True))
    found = _ops.messages_grads_twice(*kept, *ctx.saved_tensors)
    return (*_asked(found, ctx.needs_input_grad[: _NUM_INPUTS + 1]), *(None,) * (_PAIR_SIZE + 1))


def _no_third_derivative(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    # without this PyTorch would take the missing derivative for zero
    raise GeomolError("the edge block of EGNN has no third derivative")


torch.library.register_autograd("geomol::messages", _messages_backward, setup_context=_save)
torch.library.register_autograd("geomol::messages_grads", _grads_backward, setup_context=_save)
torch.library.register_autograd("geomol::messages_grads_twice", _no_third_derivative)


def has_kernels(receiver: Tensor, feats: Tensor, window: Tensor, weight: Tensor) -> bool:
    """Whether there are fused kernels for these: in one precision, float32 or float64, at most `MOST_FUSED` wide, on a
    device like an H100. GPUs with less shared memory do without: on most the kernels would not start, and on an A100
    (sm_80) the second derivatives have to put away 14 kB a thread.
    """
    if not use_triton(receiver) or max(receiver.shape[1], feats.shape[1]) > MOST_FUSED:
        return False
    dtypes = {t.dtype for t in (receiver, feats, window, weight)}  # more than one under autocast
    if dtypes not in ({torch.float32}, {torch.float64}):
        return False
    return receiver.device.type != "cuda" or shared_memory(receiver.device) >= SHARED_BYTES


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes that one program may take on a CUDA device."""
    properties = torch.cuda.get_device_properties(device)
    return int(getattr(properties, "shared_memory_per_block_optin", 0))


def gated_messages(
    receiver: Float[Tensor, "N C"],
    sender: Float[Tensor, "N C"],
    feats: Float[Tensor, "E K"],
    window: Float[Tensor, "E 1"],
    first: tuple[Float[Tensor, "C K"], Float[Tensor, " C"]],
    second: tuple[Float[Tensor, "C C"], Float[Tensor, " C"]],
    gate: tuple[Float[Tensor, "1 C"], Float[Tensor, " 1"]] | None,
    edges: Edges,
) -> Float[Tensor, "N C"]:
    """Σ over the edges into each node of silu(W silu(p_i + q_j + V f + e) + b), times a gate σ(w·v + c) and a window.

    Args:
        receiver, sender: p and q, what a node contributes as the one or the other end.
        feats, window: of the edges.
        first: V and e.
        second: W and b.
        gate: w and c, or None.
        edges: pairs sorted by receiver.
    """
    last = (None, None) if gate is None else (as_weight(gate[0]), as_weight(gate[1]))
    weights = (*(as_weight(w) for w in (*first, *second)), *last)
    rows = (edges.edge_ptr, edges.send_ptr, edges.send_perm) if use_triton(receiver) else (None, None, None)
    refuse_tangents(receiver, sender, feats, window, *(w for w in weights if w is not None))
    out: Tensor = _ops.messages(receiver, sender, feats, window, *weights, edges.src, edges.dst, *rows)
    return out
