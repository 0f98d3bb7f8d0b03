"""Own the truth of the leaf FFF in float64: hard as inference runs it, soft as training does."""

from __future__ import annotations

import numpy as np

from harness.problem.oracle import MOST_BRANCHES, Branch, Truth, gelu, gelu_slope
from harness.problem.problem import Array

_TOKEN_BLOCK = 64


def activate(z: Array, activation: str) -> Array:
    """Return ``gelu(z)`` or ``relu(z)`` in z's precision; a NaN stays one."""
    return gelu(z) if activation == "gelu" else np.asarray(np.maximum(z, 0.0))


def slope(z: Array, activation: str) -> Array:
    """Return the derivative of an activation."""
    return gelu_slope(z) if activation == "gelu" else np.asarray((z > 0).astype(np.float64))


def _leaf_of(x: Array, router: Array, router_bias: Array, depth: int) -> tuple[Array, Array, Array]:
    """Return the leaf of each token, the nodes on its way and its margin.

    x (tokens, d_in) in float64. leaf (tokens,), counted from the left; nodes (tokens, depth); margin
    (tokens,), as Truth's, with the bias as one term more of each sum.
    """
    tokens = len(x)
    node = np.zeros(tokens, np.int64)
    nodes = np.zeros((tokens, depth), np.int64)
    margin = np.full(tokens, np.inf)
    for d in range(depth):
        nodes[:, d] = node
        rows, bias = router[node].astype(np.float64), router_bias[node].astype(np.float64)
        z = np.einsum("bi,bi->b", x, rows) + bias
        size = np.einsum("bi,bi->b", np.abs(x), np.abs(rows)) + np.abs(bias)
        relative = np.abs(z) / np.maximum(size, np.finfo(np.float64).tiny)
        relative[size == 0] = np.inf
        margin = np.fmin(margin, relative)
        node = 2 * node + 1 + (z >= 0)
    return node - (2**depth - 1), nodes, margin


def _leaf_output(
    x: Array, w_in: Array, b_in: Array, w_out: Array, b_out: Array, activation: str
) -> tuple[Array, Array, Array, Array]:
    """Return what one leaf makes of tokens x (tokens, d_in) in float64, and what judges it.

    y, scale, squares of rounding and squares of deviation, (tokens, d_out) each. The biases are one term
    more of each sum; that of the output is exact but for the sum that it enters.
    """
    w_in, b_in, w_out, b_out = (a.astype(np.float64) for a in (w_in, b_in, w_out, b_out))
    z = x @ w_in.T + b_in
    a, steep = activate(z, activation), np.abs(slope(z, activation))
    size = np.abs(x) @ np.abs(w_in).T + np.abs(b_in)
    typical = np.sqrt(x**2 @ (w_in**2).T + b_in**2)
    return (
        a @ w_out + b_out,
        (size + np.abs(a)) @ np.abs(w_out) + np.abs(b_out),
        (np.abs(steep * z) + np.abs(a)) ** 2 @ w_out**2,
        (steep * typical + np.abs(a)) ** 2 @ w_out**2 + b_out**2,
    )


def leaf_oracle(
    x: Array, w_in: Array, w_out: Array, router: Array, router_bias: Array, b_in: Array,
    b_out: Array, depth: int, activation: str = "gelu",
) -> Truth:  # fmt: skip
    """Return FORWARD_I of the leaf FFF: one leaf network for each token, in float64, of any stored dtype.

    y[b] = act(w_in[j] x[b] + b_in[j]) w_out[j] + b_out[j], where the leaf j is the one that is come to from
    the root by turning right wherever sigmoid(<x[b], router[n]> + router_bias[n]) >= 1/2, which is where
    the sum is >= 0.

    x (batch, d_in), router (2**depth - 1, d_in), router_bias (2**depth - 1,), w_in (leaves, width, d_in),
    b_in (leaves, width), w_out (leaves, width, d_out), b_out (leaves, d_out), leaves = 2**depth.
    Truth.nodes (batch, 1, depth + 1): the nodes on the way, then the leaf as the node below them.

    Source: Belcak and Wattenhofer 2023, arXiv 2308.14711, Algorithm 1.
    """
    batch, n_nodes = len(x), 2**depth - 1
    y = np.zeros((batch, w_out.shape[2]))
    scale, squares, spread = np.zeros_like(y), np.zeros_like(y), np.zeros_like(y)
    wide = x.astype(np.float64)
    leaf, nodes, margin = _leaf_of(wide, router, router_bias, depth)
    for j in np.unique(leaf):
        own = np.flatnonzero(leaf == j)
        for first in range(0, len(own), _TOKEN_BLOCK):
            tokens = own[first : first + _TOKEN_BLOCK]
            y[tokens], scale[tokens], squares[tokens], spread[tokens] = _leaf_output(
                wide[tokens], w_in[j], b_in[j], w_out[j], b_out[j], activation
            )
    path = np.concatenate([nodes, (leaf + n_nodes)[:, None]], axis=1)
    return Truth(
        y=y, scale=scale, rounding=np.sqrt(squares), margin=margin, nodes=path[:, None],
        deviation=np.sqrt(spread),
    )  # fmt: skip


def leaf_branches(
    x: Array, w_in: Array, w_out: Array, router: Array, router_bias: Array, b_in: Array,
    b_out: Array, depth: int, near_tie: float, activation: str = "gelu",
) -> list[Branch]:  # fmt: skip
    """Return every output that a correct pass may give for one token x (d_in,), by its near-tied turns.

    Both ways are taken where the relative pre-activation is below near_tie. Empty where the leaves are more
    than MOST_BRANCHES.
    """
    wide, reached = x.astype(np.float64), [0]
    for _ in range(depth):
        below = []
        for node in reached:
            terms, bias = wide * router[node].astype(np.float64), float(router_bias[node])
            z, size = terms.sum() + bias, np.abs(terms).sum() + abs(bias)
            near = size > 0 and abs(z) < near_tie * size
            below += [2 * node + 1 + turn for turn in ((0, 1) if near else (int(z >= 0),))]
        reached = below
        if len(reached) > MOST_BRANCHES:
            return []
    found = []
    for j in (node - (2**depth - 1) for node in reached):
        parts = _leaf_output(wide[None], w_in[j], b_in[j], w_out[j], b_out[j], activation)
        y, scale, squares, spread = (part[0] for part in parts)
        found.append(Branch(y=y, scale=scale, rounding=np.sqrt(squares), deviation=np.sqrt(spread)))
    return found


def leaf_soft(
    x: Array, w_in: Array, w_out: Array, router: Array, router_bias: Array, b_in: Array,
    b_out: Array, depth: int, activation: str = "gelu",
) -> Array:  # fmt: skip
    """Return FORWARD_T of the leaf FFF in float64: all leaves' outputs, mixed by their probabilities.

    The share of a leaf is the product, over the nodes on its way, of c = sigmoid(<x, router[n]> + bias)
    where that turns right and of 1 - c where it turns left. Arrays as for `leaf_oracle`; y (batch, d_out).

    Source: Belcak and Wattenhofer 2023, arXiv 2308.14711, Algorithm 1.
    """
    wide = x.astype(np.float64)
    z = wide @ router.astype(np.float64).T + router_bias.astype(np.float64)
    right = 0.5 * (1.0 + np.tanh(z / 2.0))  # the sigmoid, at any z
    share = np.ones((len(wide), 1))
    for d in range(depth):
        level = right[:, 2**d - 1 : 2 ** (d + 1) - 1]
        share = np.stack([share * (1.0 - level), share * level], axis=2).reshape(len(wide), -1)
    y = np.zeros((len(wide), w_out.shape[2]))
    for j in range(2**depth):
        out, *_ = _leaf_output(wide, w_in[j], b_in[j], w_out[j], b_out[j], activation)
        y += share[:, j, None] * out
    return y
