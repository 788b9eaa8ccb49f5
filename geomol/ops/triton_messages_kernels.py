"""Kernels of the edge block of EGNN: see `geomol.ops.fused_messages_cpu` for the formulas and the names.

One program owns a run of rows and goes through the edges of each in tiles, with the weights held from tile to tile.
What belongs to a receiver is written once; what belongs to a sender is written by edge, to be summed by row; what
belongs to the weights is added up by each program for its rows. No atomics.

Import only where a kernel runs (`geomol.ops.backend.fused`): this needs Triton.
"""

# no `from __future__ import annotations`: Triton reads the annotations of a kernel; text it leaves alone
from typing import Any

from geomol.ops.triton_jit import constexpr, jit, tl


@jit
def _silu(x: "Any") -> "Any":
    """silu and its first derivative."""
    s = tl.sigmoid(x)
    return x * s, s * (1 + x * (1 - s))


@jit
def _silu_twice(x: "Any") -> "Any":
    """silu and its first two derivatives."""
    s = tl.sigmoid(x)
    return x * s, s * (1 + x * (1 - s)), s * (1 - s) * (2 + x * (1 - 2 * s))


@jit
def _edge_inputs(
    receiver: "Any", sender: "Any", feats: "Any", src: "Any", edge: "Any", listed: "Any", c: "Any", k: "Any",
    channels: "Any", num_feats: "Any",
) -> "Any":  # fmt: skip
    """What a receiver's row and the senders of a tile contribute together, and the inputs of its edges."""
    some, real, known = listed[:, None], (c < channels)[None, :], (k < num_feats)[None, :]
    node = tl.load(src + edge, mask=listed, other=0)
    both = tl.load(sender + node[:, None] * channels + c[None, :], mask=some & real, other=0.0) + receiver[None, :]
    f = tl.load(feats + edge[:, None] * num_feats + k[None, :], mask=some & known, other=0.0)
    return both, f


@jit
def messages_kernel(
    receiver: "Any", sender: "Any", feats: "Any", window: "Any", edge_weight: "Any", edge_bias: "Any", weight: "Any",
    bias: "Any", gate_weight: "Any", gate_bias: "Any", src: "Any", ptr: "Any", out: "Any",
    num_rows: "Any", rows_each: "Any", num_feats: "Any", channels: "Any",
    HAS_GATE: constexpr, PRECISION: constexpr, BLOCK_E: constexpr, BLOCK_C: constexpr, BLOCK_K: constexpr,
) -> None:  # fmt: skip
    """out[row] = Σ over the edges of the row of m."""
    c, k = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K)
    real = c < channels
    square = real[:, None] & real[None, :]
    w_down = tl.load(weight + c[None, :] * channels + c[:, None], mask=square, other=0.0)
    from_feats = real[None, :] & (k < num_feats)[:, None]
    v_down = tl.load(edge_weight + c[None, :] * num_feats + k[:, None], mask=from_feats, other=0.0)
    e, b = tl.load(edge_bias + c, mask=real, other=0.0), tl.load(bias + c, mask=real, other=0.0)
    first = tl.program_id(0).to(tl.int64) * rows_each
    for row in range(first, tl.minimum(first + rows_each, num_rows)):
        own = tl.load(receiver + row * channels + c, mask=real, other=0.0) + e
        total = tl.zeros_like(own)
        last = tl.load(ptr + row + 1)
        for start in range(tl.load(ptr + row), last, BLOCK_E):
            edge = start + tl.arange(0, BLOCK_E)
            listed = edge < last
            h, f = _edge_inputs(own, sender, feats, src, edge, listed, c, k, channels, num_feats)
            h += tl.dot(f, v_down, input_precision=PRECISION)
            u, _ = _silu(h)
            v, _ = _silu(tl.dot(u, w_down, input_precision=PRECISION) + b[None, :])
            factor = tl.load(window + edge, mask=listed, other=0.0)
            if HAS_GATE:
                w_gate = tl.load(gate_weight + c, mask=real, other=0.0)
                factor *= tl.sigmoid(tl.sum(v * w_gate[None, :], axis=1) + tl.load(gate_bias))
            total += tl.sum(v * factor[:, None], axis=0)
        tl.store(out + row * channels + c, total, mask=real)


@jit
def grads_kernel(
    y: "Any",
    receiver: "Any", sender: "Any", feats: "Any", window: "Any", edge_weight: "Any", edge_bias: "Any", weight: "Any",
    bias: "Any", gate_weight: "Any", gate_bias: "Any", src: "Any", ptr: "Any",
    by_receiver: "Any", by_hidden: "Any", by_feats: "Any", by_window: "Any", by_edge_weight: "Any", by_weight: "Any",
    by_bias: "Any", by_gate_weight: "Any", by_gate_bias: "Any",
    num_rows: "Any", rows_each: "Any", num_feats: "Any", channels: "Any",
    HAS_GATE: constexpr, WEIGHTS: constexpr, PRECISION: constexpr,
    BLOCK_E: constexpr, BLOCK_C: constexpr, BLOCK_K: constexpr,
) -> None:  # fmt: skip
    """Derivatives of Σ y·out; those by h for the sender of each edge, those by `WEIGHTS` of the rows owned here."""
    c, k = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K)
    real, known = c < channels, k < num_feats
    square, across = real[:, None] & real[None, :], real[:, None] & known[None, :]
    w = tl.load(weight + c[:, None] * channels + c[None, :], mask=square, other=0.0)
    v_in = tl.load(edge_weight + c[:, None] * num_feats + k[None, :], mask=across, other=0.0)
    e, b = tl.load(edge_bias + c, mask=real, other=0.0), tl.load(bias + c, mask=real, other=0.0)
    program = tl.program_id(0).to(tl.int64)
    first = program * rows_each
    sum_w, sum_v, sum_b, sum_gate = tl.zeros_like(w), tl.zeros_like(v_in), tl.zeros_like(b), tl.zeros_like(b)
    sum_shift = tl.sum(sum_b, axis=0)
    for row in range(first, tl.minimum(first + rows_each, num_rows)):
        own = tl.load(receiver + row * channels + c, mask=real, other=0.0) + e
        received = tl.load(y + row * channels + c, mask=real, other=0.0)
        total = tl.zeros_like(own)
        last = tl.load(ptr + row + 1)
        for start in range(tl.load(ptr + row), last, BLOCK_E):
            edge = start + tl.arange(0, BLOCK_E)
            listed = edge < last
            h, f = _edge_inputs(own, sender, feats, src, edge, listed, c, k, channels, num_feats)
            h += tl.dot(f, tl.trans(v_in), input_precision=PRECISION)
            u, u_first = _silu(h)
            v, v_first = _silu(tl.dot(u, tl.trans(w), input_precision=PRECISION) + b[None, :])
            omega = tl.load(window + edge, mask=listed, other=0.0)
            along = tl.sum(v * received[None, :], axis=1)
            if HAS_GATE:
                w_gate = tl.load(gate_weight + c, mask=real, other=0.0)
                g = tl.sigmoid(tl.sum(v * w_gate[None, :], axis=1) + tl.load(gate_bias))
                dq = along * omega * g * (1 - g)
                dv = received[None, :] * (g * omega)[:, None] + dq[:, None] * w_gate[None, :]
                along *= g
                if WEIGHTS:
                    sum_gate += tl.sum(v * dq[:, None], axis=0)
                    sum_shift += tl.sum(dq, axis=0)
            else:
                dv = received[None, :] * omega[:, None]
            tl.store(by_window + edge, along, mask=listed)
            dz = dv * v_first
            dh = tl.dot(dz, w, input_precision=PRECISION) * u_first
            total += tl.sum(dh, axis=0)
            tl.store(by_hidden + edge[:, None] * channels + c[None, :], dh, mask=listed[:, None] & real[None, :])
            by_f = tl.dot(dh, v_in, input_precision=PRECISION)
            tl.store(by_feats + edge[:, None] * num_feats + k[None, :], by_f, mask=listed[:, None] & known[None, :])
            if WEIGHTS:
                sum_w += tl.dot(tl.trans(dz), u, input_precision=PRECISION)
                sum_v += tl.dot(tl.trans(dh), f, input_precision=PRECISION)
                sum_b += tl.sum(dz, axis=0)
        tl.store(by_receiver + row * channels + c, total, mask=real)
    if WEIGHTS:
        _store_sums(
            by_edge_weight, by_weight, by_bias, by_gate_weight, by_gate_bias, sum_v, sum_w, sum_b, sum_gate, sum_shift,
            program, c, k, num_feats, channels, HAS_GATE,
        )  # fmt: skip


@jit
def _store_sums(
    by_edge_weight: "Any", by_weight: "Any", by_bias: "Any", by_gate_weight: "Any", by_gate_bias: "Any",
    sum_v: "Any", sum_w: "Any", sum_b: "Any", sum_gate: "Any", sum_shift: "Any",
    program: "Any", c: "Any", k: "Any", num_feats: "Any", channels: "Any", HAS_GATE: constexpr,
) -> None:  # fmt: skip
    """What a program has added up for the weights, at its own place."""
    real, known = c < channels, k < num_feats
    to_w = (program * channels + c[:, None]) * channels + c[None, :]
    tl.store(by_weight + to_w, sum_w, mask=real[:, None] & real[None, :])
    to_v = (program * channels + c[:, None]) * num_feats + k[None, :]
    tl.store(by_edge_weight + to_v, sum_v, mask=real[:, None] & known[None, :])
    tl.store(by_bias + program * channels + c, sum_b, mask=real)
    if HAS_GATE:
        tl.store(by_gate_weight + program * channels + c, sum_gate, mask=real)
        tl.store(by_gate_bias + program, sum_shift)


@jit
def grads_twice_kernel(
    y: "Any", dot_receiver: "Any", dot_sender: "Any", dot_feats: "Any", dot_window: "Any",
    receiver: "Any", sender: "Any", feats: "Any", window: "Any", edge_weight: "Any", edge_bias: "Any", weight: "Any",
    bias: "Any", gate_weight: "Any", gate_bias: "Any", src: "Any", ptr: "Any",
    by_y: "Any", by_receiver: "Any", by_hidden: "Any", by_feats: "Any", by_window: "Any", by_edge_weight: "Any",
    by_weight: "Any", by_bias: "Any", by_gate_weight: "Any", by_gate_bias: "Any",
    num_rows: "Any", rows_each: "Any", num_feats: "Any", channels: "Any",
    HAS_GATE: constexpr, PRECISION: constexpr, BLOCK_E: constexpr, BLOCK_C: constexpr, BLOCK_K: constexpr,
) -> None:  # fmt: skip
    """Derivatives of what `grads_kernel` gives times tangents of nodes and edges, those of the weights being zero."""
    c, k = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K)
    real, known = c < channels, k < num_feats
    square, across = real[:, None] & real[None, :], real[:, None] & known[None, :]
    w = tl.load(weight + c[:, None] * channels + c[None, :], mask=square, other=0.0)
    v_in = tl.load(edge_weight + c[:, None] * num_feats + k[None, :], mask=across, other=0.0)
    e, b = tl.load(edge_bias + c, mask=real, other=0.0), tl.load(bias + c, mask=real, other=0.0)
    program = tl.program_id(0).to(tl.int64)
    first = program * rows_each
    sum_w, sum_v, sum_b, sum_gate = tl.zeros_like(w), tl.zeros_like(v_in), tl.zeros_like(b), tl.zeros_like(b)
    sum_shift = tl.sum(sum_b, axis=0)
    for row in range(first, tl.minimum(first + rows_each, num_rows)):
        own = tl.load(receiver + row * channels + c, mask=real, other=0.0) + e
        own_dot = tl.load(dot_receiver + row * channels + c, mask=real, other=0.0)
        received = tl.load(y + row * channels + c, mask=real, other=0.0)
        total, total_y = tl.zeros_like(own), tl.zeros_like(own)
        last = tl.load(ptr + row + 1)
        for start in range(tl.load(ptr + row), last, BLOCK_E):
            edge = start + tl.arange(0, BLOCK_E)
            listed = edge < last
            h, f = _edge_inputs(own, sender, feats, src, edge, listed, c, k, channels, num_feats)
            h_dot, f_dot = _edge_inputs(own_dot, dot_sender, dot_feats, src, edge, listed, c, k, channels, num_feats)
            h += tl.dot(f, tl.trans(v_in), input_precision=PRECISION)
            h_dot += tl.dot(f_dot, tl.trans(v_in), input_precision=PRECISION)
            u, u_first, u_second = _silu_twice(h)
            u_dot = u_first * h_dot
            z_dot = tl.dot(u_dot, tl.trans(w), input_precision=PRECISION)
            v, v_first, v_second = _silu_twice(tl.dot(u, tl.trans(w), input_precision=PRECISION) + b[None, :])
            v_dot = v_first * z_dot
            omega = tl.load(window + edge, mask=listed, other=0.0)
            omega_dot = tl.load(dot_window + edge, mask=listed, other=0.0)
            along = tl.sum(v * received[None, :], axis=1)
            along_dot = tl.sum(v_dot * received[None, :], axis=1)
            if HAS_GATE:
                w_gate = tl.load(gate_weight + c, mask=real, other=0.0)
                g = tl.sigmoid(tl.sum(v * w_gate[None, :], axis=1) + tl.load(gate_bias))
                q_dot = tl.sum(v_dot * w_gate[None, :], axis=1)
                slope = g * (1 - g)
                part, part_dot = g * omega, g * omega_dot + slope * q_dot * omega
                dq_dot = along * omega * slope
                dq = along_dot * omega + along * omega_dot + along * omega * (1 - 2 * g) * q_dot
                dq *= slope
                dv_dot = received[None, :] * part[:, None] + dq_dot[:, None] * w_gate[None, :]
                dv = received[None, :] * part_dot[:, None] + dq[:, None] * w_gate[None, :]
                along_dot = along_dot * g + along * slope * q_dot
                sum_gate += tl.sum(v_dot * dq_dot[:, None] + v * dq[:, None], axis=0)
                sum_shift += tl.sum(dq, axis=0)
            else:
                part, part_dot = omega, omega_dot
                dv_dot, dv = received[None, :] * part[:, None], received[None, :] * part_dot[:, None]
            total_y += tl.sum(v_dot * part[:, None] + v * part_dot[:, None], axis=0)
            tl.store(by_window + edge, along_dot, mask=listed)
            dz_dot = dv_dot * v_first
            dz = dv_dot * v_second * z_dot + dv * v_first
            du_dot = tl.dot(dz_dot, w, input_precision=PRECISION)
            dh_dot = du_dot * u_first
            dh = du_dot * u_second * h_dot + tl.dot(dz, w, input_precision=PRECISION) * u_first
            total += tl.sum(dh, axis=0)
            tl.store(by_hidden + edge[:, None] * channels + c[None, :], dh, mask=listed[:, None] & real[None, :])
            by_f = tl.dot(dh, v_in, input_precision=PRECISION)
            tl.store(by_feats + edge[:, None] * num_feats + k[None, :], by_f, mask=listed[:, None] & known[None, :])
            sum_w += tl.dot(tl.trans(dz_dot), u_dot, input_precision=PRECISION)
            sum_w += tl.dot(tl.trans(dz), u, input_precision=PRECISION)
            sum_v += tl.dot(tl.trans(dh_dot), f_dot, input_precision=PRECISION)
            sum_v += tl.dot(tl.trans(dh), f, input_precision=PRECISION)
            sum_b += tl.sum(dz, axis=0)
        tl.store(by_receiver + row * channels + c, total, mask=real)
        tl.store(by_y + row * channels + c, total_y, mask=real)
    _store_sums(
        by_edge_weight, by_weight, by_bias, by_gate_weight, by_gate_bias, sum_v, sum_w, sum_b, sum_gate, sum_shift,
        program, c, k, num_feats, channels, HAS_GATE,
    )  # fmt: skip
