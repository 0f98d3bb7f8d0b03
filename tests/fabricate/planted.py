"""Own planted faults: the layers in plain NumPy, right or wrong in one named way."""

from __future__ import annotations

import time as clock
from collections.abc import Callable

import ml_dtypes
import numpy as np
from scipy.special import erf

from harness.backends.registry import Context, Implementation, Prepared
from harness.problem.operands import Operands
from harness.problem.problem import DTYPES, Array, Layer, Problem

Pass = Callable[[Problem, Operands], None]


def _to_bfloat16(values: Array) -> Array:
    return values.astype(ml_dtypes.bfloat16).astype(np.float64)


def _dot(x: Array, w: Array, fault: str) -> Array:
    """Return the dot product of each row of x with that of w, in float64."""
    w = w.astype(np.float64)
    if fault != ROUNDS_SUMS:
        return np.asarray(np.einsum("bi,bi->b", x, w))
    z = np.zeros(len(x))
    for i in range(x.shape[1]):
        z = _to_bfloat16(z + x[:, i] * w[:, i])
    return z


def _gelu(z: Array, fault: str) -> Array:
    z = z.astype(np.float64)
    if fault == ROUNDS_HIDDEN:
        return _to_bfloat16(_gelu(_to_bfloat16(z), ""))
    if fault == "scale_one":
        return np.ones_like(z)
    if fault == "tanh_gelu":
        return z * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
    return z * 0.5 * (1 + erf(z / np.sqrt(2)))


def _neuron(w_in: Array, w_out: Array, y: Array, node: Array, fault: str) -> Array:
    """Return the rows that are added for nodes of one tree, (tokens, d_out)."""
    if fault == "adds_w_in":
        return np.resize(w_in, (len(w_in), y.shape[1]))[node]
    if fault == "adds_y":
        return np.resize(y, (len(w_in), y.shape[1]))[node]
    return w_out[node]


def _fff(fault: str) -> Pass:
    def run(p: Problem, o: Operands) -> None:
        x = np.broadcast_to(o.x[:1], o.x.shape) if fault == "first_token" else o.x
        x64 = x.astype(np.float64)
        y = o.y.astype(np.float64) if fault == "accumulates" else np.zeros(o.y.shape)
        for k in range(p.trees):
            node = np.zeros(p.batch, np.int64)
            for _ in range(p.depth + 1 - (fault == "one_short")):
                z = _dot(x64, o.w_in[k, node], fault)
                added = _neuron(o.w_in[k], o.w_out[k], y, node, fault)
                y += _gelu(z, fault)[:, None] * added.astype(np.float64)
                right = z > 0 if fault == "tie_left" else z >= 0
                node = 2 * node + 1 + (~right if fault == "reversed" else right)
        _store(p, o, y, fault)

    return run


def _ff(fault: str) -> Pass:
    def run(p: Problem, o: Operands) -> None:
        x = np.broadcast_to(o.x[:1], o.x.shape) if fault == "first_token" else o.x
        used = slice(0, p.hidden - (fault == "one_short"))
        a = _gelu(x.astype(np.float64) @ o.w_in[used].T.astype(np.float64), fault)
        neurons = np.arange(p.hidden)[used]
        y = a @ _neuron(o.w_in, o.w_out, o.y, neurons, fault).astype(np.float64)
        _store(p, o, y + o.y.astype(np.float64) if fault == "accumulates" else y, fault)

    return run


def _leaf(fault: str) -> Pass:
    def run(p: Problem, o: Operands) -> None:
        x = np.broadcast_to(o.x[:1], o.x.shape) if fault == "first_token" else o.x
        x64 = x.astype(np.float64)
        w_in, w_out, router, router_bias, b_in, b_out = o.weights()
        y = o.y.astype(np.float64) if fault == "accumulates" else np.zeros(o.y.shape)
        node = np.zeros(p.batch, np.int64)
        for _ in range(p.depth):
            bias = 0.0 if fault == "no_router_bias" else router_bias[node].astype(np.float64)
            z = _dot(x64, router[node], fault) + bias
            right = z > 0 if fault == "tie_left" else z >= 0
            node = 2 * node + 1 + (~right if fault == "reversed" else right)
        leaf = node - p.routers
        for h in range(p.hidden - (fault == "one_short")):
            z = _dot(x64, w_in[leaf, h], fault)
            if fault != "no_hidden_bias":
                z = z + b_in[leaf, h].astype(np.float64)
            added = _neuron(w_in[:, h], w_out[:, h], y, leaf, fault)
            a = np.maximum(z, 0.0) if p.activation == "relu" else _gelu(z, fault)
            y += a[:, None] * added.astype(np.float64)
        if fault != "no_output_bias":
            y += b_out[leaf].astype(np.float64)
        _store(p, o, y, fault)

    return run


def _scores(p: Problem, x: Array, o: Operands, fault: str) -> Array:
    """Return the scores (tokens, experts) of a control."""
    rows = o.w_in[:, 0] if o.router is None else o.router
    each = np.stack([_dot(x, np.broadcast_to(row, x.shape), fault) for row in rows], axis=1)
    if p.layer != "peer":
        return each
    return (each[:, : p.side, None] + each[:, None, p.side :]).reshape(len(x), -1)


def _hashed(p: Problem, x: Array) -> Array:
    """Return the nodes of each token's hashed path, (tokens, depth + 1)."""
    bits = np.ascontiguousarray(x[:, :4]).view(f"u{x.itemsize}").astype(np.uint64)
    h = np.zeros(len(x), np.uint64)
    for column in bits.T:
        h = (h ^ column) * np.uint64(0x9E3779B1) & np.uint64(0xFFFFFFFF)
        h ^= h >> np.uint64(15)
    place = (h >> np.uint64(32 - p.depth)).astype(np.int64) + 2**p.depth
    return np.stack([(place >> (p.depth - d)) - 1 for d in range(p.depth + 1)], axis=1)


def _softmax(z: Array) -> Array:
    shares = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _experts(fault: str) -> Pass:
    def run(p: Problem, o: Operands) -> None:
        x = np.broadcast_to(o.x[:1], o.x.shape) if fault == "first_token" else o.x
        x64 = x.astype(np.float64)
        y = o.y.astype(np.float64) if fault == "accumulates" else np.zeros(o.y.shape)
        if p.layer == "hash":
            chosen = _hashed(p, x)
            chosen = chosen[:, : p.depth + 1 - (fault == "one_short")]
            if fault == "reversed":
                chosen = chosen[::-1]
            gates, w_in, w_out = np.ones(chosen.shape), o.w_in[0][:, None], o.w_out[0][:, None]
        else:
            scores = _scores(p, x64, o, fault)
            order = np.argsort(scores if fault == "reversed" else -scores, axis=1, kind="stable")
            chosen = order[:, : p.active]
            own = np.take_along_axis(scores, chosen, 1)
            gates = {"topk": np.ones(own.shape), "peer": _softmax(own)}.get(
                p.layer, np.take_along_axis(_softmax(scores), chosen, 1)
            )
            if fault == "ungated":
                gates = np.ones(own.shape)
            if fault == "one_short":
                gates[:, -1] = 0.0
            w_in, w_out = o.w_in, o.w_out
        for k in range(chosen.shape[1]):
            e = chosen[:, k]
            for h in range(w_in.shape[1]):
                a = gates[:, k] * _gelu(_dot(x64, w_in[e, h], fault), fault)
                added = _neuron(w_in[:, h], w_out[:, h], y, e, fault)
                y += a[:, None] * added.astype(np.float64)
        _store(p, o, y, fault)

    return run


def _store(p: Problem, o: Operands, y: Array, fault: str) -> None:
    """Write the output, with the faults that concern where and what is written."""
    flat = o.y.reshape(-1)
    result = y.astype(o.y.dtype).reshape(-1)
    if fault == "unwritten":
        flat[:-1] = result[:-1]
        return
    flat[:] = result
    if fault == "past_the_end":
        np.lib.stride_tricks.as_strided(flat, (flat.size + 1,), flat.strides)[-1] = 0.0
    if fault == "before_the_start":
        offset = _offset(o.y) - o.y.itemsize
        before = np.ndarray((1,), o.y.dtype, buffer=o.y.base, offset=offset)
        before[0] = 0.0
    if fault == "changes_x":
        o.x[0, 0] += 1.0
    if fault == "row_swapped" and p.batch > 1:
        o.y[[0, 1]] = o.y[[1, 0]]
    if fault == "not_a_number":
        flat[flat.size // 2] = np.nan


def _offset(y: Array) -> int:
    assert isinstance(y.base, np.ndarray)
    return int(y.ctypes.data - y.base.ctypes.data)


FAULTS = (
    "adds_w_in", "adds_y", "first_token", "one_short", "past_the_end", "before_the_start", "unwritten",
    "tanh_gelu", "scale_one", "accumulates", "changes_x", "row_swapped", "not_a_number",
    "idle_time", "one_time_pass_off",
)  # fmt: skip
# What is hidden in the roundings that bfloat16 allows (check.ROUNDED).
NOT_IN_BFLOAT16 = ("tanh_gelu",)
ROUTING_FAULTS = ("reversed",)
GATE_FAULTS = ("ungated",)
BIAS_FAULTS = ("no_router_bias", "no_hidden_bias", "no_output_bias")
TIE_FAULT = "tie_left"
# Allowed in bfloat16, not in float32: z and gelu(z) rounded to bfloat16 behind the turn.
ROUNDS_HIDDEN = "rounds_hidden"
# Never allowed: dot products accumulated in bfloat16.
ROUNDS_SUMS = "rounds_sums"


def make(layer: Layer, fault: str = "", *, name: str = "") -> Implementation:
    """Return an implementation in NumPy, right or with one fault; it is not registered."""
    run = {"ff": _ff, "fff": _fff, "leaf": _leaf}.get(layer, _experts)(fault)

    def prepare(problem: Problem, operands: Operands, context: Context) -> Prepared:
        def forward() -> None:
            with np.errstate(all="ignore"):
                run(problem, operands)

        def time(loops: int) -> int:
            began = clock.monotonic_ns()
            for _ in range(0 if fault == "idle_time" else loops):
                forward()
            if fault == "one_time_pass_off":
                operands.y[...] = operands.y.astype(np.float32) * np.float32(1.5)
            return clock.monotonic_ns() - began

        return Prepared(forward=forward, time=time)

    return Implementation(
        id=name or f"{layer}_numpy_{fault or 'right'}", layer=layer,
        level=None, devices=("cpu",), summary="NumPy, for the tests", prepare=prepare,
        workspace_bytes=lambda problem: 0, dtypes=DTYPES,
    )  # fmt: skip
