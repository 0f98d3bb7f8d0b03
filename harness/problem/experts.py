"""Own the controls: what an FFF is compared with at equal work, and their truth in float64.

A control is a layer that computes as few neurons for a token as an FFF does, and chooses them in another
way. All are of one form,

    y[b] = sum over chosen experts e of g[b, e] sum over its neurons h of gelu(<x[b], w_in[e, h]>) w_out[e, h]

and differ in what is chosen and in the gates g:

topk: all neurons' pre-activations are computed, and the `active` largest kept; g = 1. What a tree saves.
hash: a hash of the token picks a path of a tree as an FFF has; g = 1. A gather without any routing.
peer: product keys. A token has 2 n scores, n for each half of a key; the n^2 experts, of one neuron each,
    score the sums of one of either half, and the `active` largest are chosen; g is the softmax of theirs.
    The query's projection is folded into the keys: both are linear, so that a score is one row of `router`.
moe: a linear gate. An expert scores <x[b], router[e]>, and the `active` largest are chosen; g is the softmax
    over all experts, of which the chosen keep their share.

Sources: topk: Makhzani and Frey 2013, arXiv 1312.5663; hash: Roller et al. 2021, arXiv 2106.04426; peer: He
2024, arXiv 2407.04153, and Lample et al. 2019, arXiv 1907.05242; moe: Fedus et al. 2021, arXiv 2101.03961.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from harness.problem.oracle import MOST_BRANCHES, Branch, Truth, gelu, gelu_slope
from harness.problem.problem import Array

_BLOCK_ELEMENTS = 1 << 22
_TOKEN_BLOCK = 64
HASHED_ELEMENTS = 4
_MULTIPLIER = np.uint32(0x9E3779B1)
_SHIFT = np.uint32(15)


# ---- the hash -----------------------------------------------------------------------------------


def hash_leaves(x: Array, depth: int) -> Array:
    """Return the leaf (tokens,) that the hash of each token picks, of ``2**depth``.

    Of the bits of the first 4 elements of x as they are stored, in 32-bit integers that wrap:
    h = 0; h = (h ^ bits) * 0x9E3779B1, h ^= h >> 15 for each; the leaf is what the upper `depth` bits say.
    """
    head = np.ascontiguousarray(x[:, :HASHED_ELEMENTS])
    bits = head.view(np.uint32 if head.itemsize == 4 else np.uint16).astype(np.uint32)
    h = np.zeros(len(x), np.uint32)
    for column in bits.T:
        h = (h ^ column) * _MULTIPLIER
        h ^= h >> _SHIFT
    return h.astype(np.int64) >> (32 - depth)


def hashed_paths(x: Array, depth: int) -> Array:
    """Return the nodes (tokens, depth + 1) from the root to the leaf that the hash picks."""
    leaf = hash_leaves(x, depth)[:, None]
    return np.asarray(((leaf + 2**depth) >> np.arange(depth, -1, -1)) - 1)


# ---- the choice, in float64 ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scores:
    """Hold the scores (tokens, experts) of some tokens.

    size: the sums of the magnitudes that were summed into them. typical: the roots of the sums of squares.
    """

    value: Array
    size: Array
    typical: Array


def _products(x: Array, rows: Array) -> _Scores:
    rows = rows.astype(np.float64)
    return _Scores(
        value=x @ rows.T, size=np.abs(x) @ np.abs(rows).T, typical=np.sqrt(x**2 @ (rows**2).T)
    )


def _score(layer: str, x: Array, w_in: Array, router: Array | None) -> _Scores:
    """Return the scores of all experts for tokens x (tokens, d_in) in float64."""
    if layer == "topk":
        return _products(x, w_in[:, 0])
    assert router is not None
    scores = _products(x, router)
    if layer == "moe":
        return scores
    side = len(router) // 2
    value, size, squares = (
        (part[:, :side, None] + part[:, None, side:]).reshape(len(x), -1)
        for part in (scores.value, scores.size, scores.typical**2)
    )
    return _Scores(value=value, size=size, typical=np.sqrt(squares))


def _pick(value: Array, active: int) -> Array:
    """Return the experts (tokens, active) of the largest scores; of equal ones the first."""
    return np.argsort(-value, axis=1, kind="stable")[:, :active]


def _distance(scores: _Scores, active: int) -> Array:
    """Return how far the least chosen score is from the largest other one, relative to what was summed.

    The relative distance at which roundings of both might change places; infinite where nothing is decided.
    """
    if active == scores.value.shape[1]:
        return np.full(len(scores.value), np.inf)
    ordered = -np.sort(-scores.value, axis=1)
    gap = ordered[:, active - 1] - ordered[:, active]
    size = 2 * scores.size.max(axis=1)
    relative = gap / np.maximum(size, np.finfo(np.float64).tiny)
    relative[size == 0] = np.inf
    return np.asarray(relative)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """Hold the chosen experts (tokens, active) and their gates.

    gate_size, gate_typical: what a gate is off by, relative to itself, for each relative rounding of the
    terms of the scores: as a worst case, and where they are independent.
    """

    experts: Array
    gates: Array
    gate_size: Array
    gate_typical: Array

    def of(self, tokens: slice) -> _Choice:
        """Return the choice of some of the tokens."""
        return _Choice(
            experts=self.experts[tokens], gates=self.gates[tokens], gate_size=self.gate_size[tokens],
            gate_typical=self.gate_typical[tokens],
        )  # fmt: skip


def _ungated(experts: Array) -> _Choice:
    none = np.zeros(experts.shape)
    return _Choice(experts=experts, gates=np.ones(experts.shape), gate_size=none, gate_typical=none)


def _gate(layer: str, scores: _Scores, experts: Array) -> _Choice:
    """Return the gates of chosen experts: 1, or the softmax over them (peer) or over all (moe).

    d g_e / g_e = d s_e - sum over k of p_k d s_k.
    """
    if layer == "topk":
        return _ungated(experts)
    own = [np.take_along_axis(a, experts, 1) for a in (scores.value, scores.size, scores.typical)]
    among = own if layer == "peer" else [scores.value, scores.size, scores.typical]
    most = among[0].max(axis=1, keepdims=True)
    share = np.exp(among[0] - most)
    total = share.sum(axis=1, keepdims=True)
    share /= total
    mean_size = (share * among[1]).sum(axis=1, keepdims=True)
    mean_square = ((share * among[2]) ** 2).sum(axis=1, keepdims=True)
    return _Choice(
        experts=experts, gates=np.exp(own[0] - most) / total, gate_size=own[1] + mean_size,
        gate_typical=np.sqrt(own[2] ** 2 + mean_square),
    )  # fmt: skip


# ---- the output ---------------------------------------------------------------------------------


def _outputs(
    x: Array, w_in: Array, w_out: Array, choice: _Choice, gated: bool
) -> tuple[Array, ...]:
    """Return y, scale, squares of rounding and squares of deviation, (tokens, d_out) each; as Truth's.

    x (tokens, d_in) in float64. A gate that was rounded is one relative rounding more of what it scales.
    """
    tokens, active = choice.experts.shape
    hidden, d_in, d_out = w_in.shape[1], w_in.shape[2], w_out.shape[2]
    found = tuple(np.zeros((tokens, d_out)) for _ in range(4))
    step = max(1, _BLOCK_ELEMENTS // (active * hidden * max(d_in, d_out)))
    for first in range(0, tokens, step):
        block = slice(first, first + step)
        own = choice.of(block)
        shape = (len(own.experts), active * hidden)
        rows_in = w_in[own.experts].astype(np.float64).reshape(*shape, d_in)
        rows_out = w_out[own.experts].astype(np.float64).reshape(*shape, d_out)
        g, g_size, g_typical = (
            np.repeat(part, hidden, axis=1) for part in (own.gates, own.gate_size, own.gate_typical)
        )
        z = np.einsum("bi,bhi->bh", x[block], rows_in)
        size = np.einsum("bi,bhi->bh", np.abs(x[block]), np.abs(rows_in))
        typical = np.sqrt(np.einsum("bi,bhi->bh", x[block] ** 2, rows_in**2))
        a, steep = gelu(z), np.abs(gelu_slope(z))
        magnitude = np.abs(a)
        squares = rows_out**2
        weighted = (
            (g * a, rows_out),
            (g * (size + magnitude * (1 + g_size)), np.abs(rows_out)),
            ((g * (np.abs(steep * z) + (1 + gated) * magnitude)) ** 2, squares),
            (g**2 * ((steep * typical + magnitude) ** 2 + (magnitude * g_typical) ** 2), squares),
        )
        for array, (weights, rows) in zip(found, weighted, strict=True):
            array[block] = np.einsum("bh,bhj->bj", weights, rows)
    return found


def _truth(
    x: Array, w_in: Array, w_out: Array, choice: _Choice, margin: Array, gated: bool
) -> Truth:
    y, scale, squares, spread = _outputs(x, w_in, w_out, choice, gated)
    return Truth(
        y=y, scale=scale, rounding=np.sqrt(squares), margin=margin, nodes=choice.experts[:, None],
        deviation=np.sqrt(spread),
    )  # fmt: skip


def hash_oracle(x: Array, w_in: Array, w_out: Array, depth: int) -> Truth:
    """Return the output of a tree of which a hash of each token picks the path, in float64.

    x (batch, d_in), w_in (1, n_nodes, d_in), w_out (1, n_nodes, d_out), as an FFF's. Truth.nodes (batch, 1,
    depth + 1). Nothing hangs on a sum, so that the margin is infinite.
    """
    rows_in, rows_out = w_in[0][:, None], w_out[0][:, None]
    choice = _ungated(hashed_paths(x, depth))
    return _truth(
        x.astype(np.float64), rows_in, rows_out, choice, np.full(len(x), np.inf), gated=False
    )


def experts_oracle(
    x: Array, w_in: Array, w_out: Array, router: Array | None = None, *, layer: str, active: int
) -> Truth:
    """Return the output of topk, peer or moe in float64, of any stored dtype.

    x (batch, d_in), w_in (experts, hidden, d_in), w_out (experts, hidden, d_out); router (2 n, d_in) of peer,
    n^2 = experts, expert e having the scores router[e // n] and router[n + e % n]; (experts, d_in) of moe;
    None of topk. Truth.nodes (batch, 1, active): the chosen experts. Truth.margin: how near the last of them
    is to the first that was not.
    """
    choices, margins, wide = [], [], x.astype(np.float64)
    for first in range(0, len(x), _TOKEN_BLOCK):
        scores = _score(layer, wide[first : first + _TOKEN_BLOCK], w_in, router)
        choices.append(_gate(layer, scores, _pick(scores.value, active)))
        margins.append(_distance(scores, active))
    choice = _Choice(
        experts=np.concatenate([c.experts for c in choices]),
        gates=np.concatenate([c.gates for c in choices]),
        gate_size=np.concatenate([c.gate_size for c in choices]),
        gate_typical=np.concatenate([c.gate_typical for c in choices]),
    )
    return _truth(wide, w_in, w_out, choice, np.concatenate(margins), gated=layer != "topk")


def experts_branches(
    x: Array, w_in: Array, w_out: Array, router: Array | None = None, *, layer: str, active: int,
    near_tie: float,
) -> list[Branch]:  # fmt: skip
    """Return every output that a correct pass may give for one token x (d_in,), by its near-tied scores.

    The experts that score within the near-tie of the last that is chosen may each be taken or not. Empty
    where that allows more than MOST_BRANCHES outputs.
    """
    wide = x.astype(np.float64)[None]
    scores = _score(layer, wide, w_in, router)
    value = scores.value[0]
    last = np.sort(value)[-active]
    reach = 2 * near_tie * scores.size.max()
    sure = np.flatnonzero(value > last + reach)
    open_ = np.flatnonzero(np.abs(value - last) <= reach)
    more = active - len(sure)
    if comb(len(open_), more) > MOST_BRANCHES:
        return []
    found = []
    for taken in combinations(open_, more):
        choice = _gate(layer, scores, np.concatenate([sure, taken]).astype(np.int64)[None])
        truth = _truth(wide, w_in, w_out, choice, np.full(1, np.inf), gated=layer != "topk")
        assert truth.deviation is not None
        found.append(
            Branch(
                y=truth.y[0], scale=truth.scale[0], rounding=truth.rounding[0],
                deviation=truth.deviation[0],
            )
        )  # fmt: skip
    return found


# ---- the choice of all tokens, in float32 -------------------------------------------------------


def _largest(value: Array, active: int) -> Array:
    """Return the places (tokens, active) of the largest values, in no order."""
    if active >= value.shape[1]:
        return np.broadcast_to(np.arange(value.shape[1]), value.shape)
    return np.argpartition(value, -active, axis=1)[:, -active:]


def choose(layer: str, x: Array, rows: Array, active: int) -> tuple[Array, Array]:
    """Return the experts (tokens, active) that each token uses and their gates, from scores in float32.

    x (tokens, d_in); rows: what scores, w_in[:, 0] of topk and the router of the others, in float32. For
    statistics, and for a check that looks again where it finds something: near-ties may fall on either side.
    """
    scores = x.astype(np.float32, copy=False) @ rows.T
    if layer == "peer":
        side = scores.shape[1] // 2
        first, second = (
            _largest(scores[:, :side], active),
            side + _largest(scores[:, side:], active),
        )
        sums = (
            np.take_along_axis(scores, first, 1)[:, :, None]
            + np.take_along_axis(scores, second, 1)[:, None]
        )
        keys = (first[:, :, None] * side + second[:, None] - side).reshape(len(x), -1)
        sums = sums.reshape(len(x), -1)
        best = _largest(sums, active)
        experts, among = np.take_along_axis(keys, best, 1), np.take_along_axis(sums, best, 1)
        own = among
    else:
        experts = _largest(scores, active)
        own, among = np.take_along_axis(scores, experts, 1), scores
    if layer == "topk":
        return experts, np.ones(experts.shape, np.float32)
    most = among.max(axis=1, keepdims=True)
    return experts, np.exp(own - most) / np.exp(among - most).sum(axis=1, keepdims=True)
