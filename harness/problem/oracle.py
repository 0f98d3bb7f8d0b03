"""Own the truth: FF and FFF in float64, written to be read; never fast, never timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from harness.problem.problem import Array

_BLOCK_ELEMENTS = 1 << 22  # of weights held in float64 at a time: 32 MB
_TOKEN_BLOCK = 64
MOST_BRANCHES = 64  # outputs of one token that may be right


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Hold the output (d_out,) of one token by one choice of its near-tied turns, and what judges it.

    y, scale, rounding, deviation: as a row of Truth's.
    """

    y: Array
    scale: Array
    rounding: Array
    deviation: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Hold a layer's float64 output and what is needed to judge one of fewer bits.

    y (batch, d_out): the output.
    scale (batch, d_out): the sum of the magnitudes that rounding errors of y are proportional to,
    ``sum over h of (sum_i |x_i w_in[h,i]| + |a_h|) * |w_out[h,j]|``.
    rounding (batch, d_out): the root of the sum of squares, over the neurons h, of what one relative
    rounding of z_h and one of a_h each make of the output, ``(|gelu'(z_h) z_h| + |a_h|) * |w_out[h,j]|``.
    margin (batch,): the smallest relative pre-activation on the token's path that decides a turn,
    ``|z| / sum_i |x_i w_in[h,i]|``; infinite where nothing is decided (FF, depth 0), or where every
    product is 0: any order of summation then gives exactly 0.
    nodes (batch, trees, depth + 1): the path, for an FFF; shape (batch, 0, 0) for an FF.
    deviation (batch, d_out): the root of the sum of squares, over the neurons, of what independent relative
    roundings of the products that make z_h, and of a_h, come to:
    ``(|gelu'(z_h)| root sum_i (x_i w_in[h,i])^2 + |a_h|) * |w_out[h,j]|``; None where it is not known.
    branches: of tokens by their place, every output that a correct pass may give where turns are near-tied;
    what would need more than MOST_BRANCHES of them has none here.
    """

    y: Array
    scale: Array
    rounding: Array
    margin: Array
    nodes: Array
    deviation: Array | None = None
    branches: Mapping[int, list[Branch]] = field(default_factory=dict)


def _erf(z: Array) -> Array:
    from scipy.special import erf  # half of what a plan would load, and a plan asks for no truth

    return np.asarray(erf(z))


def gelu(z: Array) -> Array:
    """Return ``z * Phi(z)``, the exact erf form of Hendrycks and Gimpel 2016, in z's precision."""
    return np.asarray(z * 0.5 * (1.0 + _erf(z / np.sqrt(2.0))))


def _bell(z: Array) -> Array:
    return np.asarray(np.exp(-z * z / 2.0) / np.sqrt(2.0 * np.pi))


def gelu_slope(z: Array) -> Array:
    """Return the derivative of the GELU, ``Phi(z) + z phi(z)``, in z's precision."""
    return np.asarray(0.5 * (1.0 + _erf(z / np.sqrt(2.0))) + z * _bell(z))


def gelu_curve(z: Array) -> Array:
    """Return the second derivative of the GELU, ``(2 - z^2) phi(z)``, in z's precision."""
    return np.asarray((2.0 - z * z) * _bell(z))


def ff_oracle(x: Array, w_in: Array, w_out: Array) -> Truth:
    """Return ``y = gelu(x w_in^T) w_out`` in float64, of operands of any dtype as they are stored.

    x (batch, d_in), w_in (hidden, d_in), w_out (hidden, d_out); y (batch, d_out).
    """
    x = x.astype(np.float64)
    y = np.zeros((x.shape[0], w_out.shape[1]))
    scale, squares, spread = np.zeros_like(y), np.zeros_like(y), np.zeros_like(y)
    step = max(1, _BLOCK_ELEMENTS // w_in.shape[1])
    for first in range(0, w_in.shape[0], step):
        rows_in = w_in[first : first + step].astype(np.float64)
        rows_out = w_out[first : first + step].astype(np.float64)
        z = x @ rows_in.T
        a, slope = gelu(z), np.abs(gelu_slope(z))
        y += a @ rows_out
        squares += (np.abs(slope * z) + np.abs(a)) ** 2 @ rows_out**2
        typical = np.sqrt(x**2 @ (rows_in**2).T)
        spread += (slope * typical + np.abs(a)) ** 2 @ rows_out**2
        scale += (np.abs(x) @ np.abs(rows_in).T + np.abs(a)) @ np.abs(rows_out)
    batch = x.shape[0]
    return Truth(
        y=y, scale=scale, rounding=np.sqrt(squares), margin=np.full(batch, np.inf),
        nodes=np.empty((batch, 0, 0), np.int64), deviation=np.sqrt(spread),
    )  # fmt: skip


def fff_oracle(x: Array, w_in: Array, w_out: Array, depth: int) -> Truth:
    """Return the FFF's output, and each token's path and routing margin, in float64, of any stored dtype.

    y[b] = sum over trees k and d in 0..depth of gelu(z) * w_out[k, node[b,k,d]], with
    z = <x[b], w_in[k, node[b,k,d]]> and node[b,k,d+1] = 2 node[b,k,d] + 1 + [z >= 0].

    x (batch, d_in), w_in (trees, n_nodes, d_in), w_out (trees, n_nodes, d_out),
    n_nodes = 2**(depth + 1) - 1. The leaf's own z decides no turn and does not enter the margin.

    Source: Belcak and Wattenhofer 2023, arXiv 2311.10770.
    """
    batch, trees = x.shape[0], w_in.shape[0]
    y = np.zeros((batch, w_out.shape[2]))
    scale, squares, spread = np.zeros_like(y), np.zeros_like(y), np.zeros_like(y)
    margin = np.full(batch, np.inf)
    nodes = np.zeros((batch, trees, depth + 1), np.int64)
    for first in range(0, batch, _TOKEN_BLOCK):
        tokens = slice(first, first + _TOKEN_BLOCK)
        xs = x[tokens].astype(np.float64)
        for k in range(trees):
            node = np.zeros(xs.shape[0], np.int64)
            for d in range(depth + 1):
                nodes[tokens, k, d] = node
                rows_in = w_in[k, node].astype(np.float64)
                rows_out = w_out[k, node].astype(np.float64)
                z = np.einsum("bi,bi->b", xs, rows_in)
                size = np.einsum("bi,bi->b", np.abs(xs), np.abs(rows_in))
                a, slope = gelu(z), np.abs(gelu_slope(z))
                y[tokens] += a[:, None] * rows_out
                scale[tokens] += (size + np.abs(a))[:, None] * np.abs(rows_out)
                squares[tokens] += ((np.abs(slope * z) + np.abs(a))[:, None] * rows_out) ** 2
                typical = np.sqrt(np.einsum("bi,bi->b", xs**2, rows_in**2))
                spread[tokens] += ((slope * typical + np.abs(a))[:, None] * rows_out) ** 2
                if d < depth:
                    relative = np.abs(z) / np.maximum(size, np.finfo(np.float64).tiny)
                    relative[size == 0] = np.inf
                    margin[tokens] = np.fmin(margin[tokens], relative)
                node = 2 * node + 1 + (z >= 0)
    return Truth(
        y=y, scale=scale, rounding=np.sqrt(squares), margin=margin, nodes=nodes,
        deviation=np.sqrt(spread),
    )  # fmt: skip


def leaves_within(
    x: Array, w_in: Array, depth: int, near_tie: float, most: int = MOST_BRANCHES
) -> list[list[int]] | None:
    """Return every path through one tree that a pass may take, None where they are more than `most`.

    x (d_in,), w_in (n_nodes, d_in). Both ways are taken where the relative pre-activation is below near_tie.
    """
    paths = [[0]]
    for _ in range(depth):
        longer = []
        for path in paths:
            terms = x * w_in[path[-1]].astype(np.float64)
            z, size = terms.sum(), np.abs(terms).sum()
            near = size > 0 and abs(z) < near_tie * size
            turns = (0, 1) if near else (int(z >= 0),)
            longer += [[*path, 2 * path[-1] + 1 + turn] for turn in turns]
        paths = longer
        if len(paths) > most:
            return None
    return paths


def find_branches(x: Array, w_in: Array, w_out: Array, depth: int, near_tie: float) -> list[Branch]:
    """Return every output that a correct pass may give for one token, by the turns that are near-tied.

    x (d_in,), w_in (trees, n_nodes, d_in), w_out (trees, n_nodes, d_out). Empty where they are more than
    MOST_BRANCHES.
    """
    xs, by_tree, count = x.astype(np.float64), [], 1
    for rows in w_in:
        paths = leaves_within(xs, rows, depth, near_tie)
        count *= len(paths) if paths is not None else MOST_BRANCHES + 1
        if paths is None or count > MOST_BRANCHES:
            return []
        by_tree.append(paths)
    parts = [
        [_walk(xs, w_in[k], w_out[k], path) for path in paths] for k, paths in enumerate(by_tree)
    ]
    found = []
    for chosen in product(*parts):
        y, scale, squares, spread = (sum(column) for column in zip(*chosen, strict=True))
        found.append(Branch(y=y, scale=scale, rounding=np.sqrt(squares), deviation=np.sqrt(spread)))
    return found


def _walk(
    x: Array, w_in: Array, w_out: Array, path: list[int]
) -> tuple[Array, Array, Array, Array]:
    """Return what one tree adds to a token's y, scale, and squares of rounding and deviation, by its path."""
    rows_in, rows_out = w_in[path].astype(np.float64), w_out[path].astype(np.float64)
    terms = x * rows_in
    z, size = terms.sum(1), np.abs(terms).sum(1)
    a, slope = gelu(z), np.abs(gelu_slope(z))
    typical = np.sqrt((terms**2).sum(1))
    return (
        a @ rows_out,
        (size + np.abs(a)) @ np.abs(rows_out),
        (np.abs(slope * z) + np.abs(a)) ** 2 @ rows_out**2,
        (slope * typical + np.abs(a)) ** 2 @ rows_out**2,
    )


def product_oracle(x: Array, w: Array) -> Truth:
    """Return ``y = x w`` in float64; x (batch, k), w (k, d_out).

    rounding: the root of the sum of the products' squares, what one rounding of each factor comes to.
    """
    x, w = x.astype(np.float64), w.astype(np.float64)
    batch, spread = x.shape[0], np.sqrt((x * x) @ (w * w))
    return Truth(
        y=x @ w, scale=np.abs(x) @ np.abs(w), rounding=spread, margin=np.full(batch, np.inf),
        nodes=np.empty((batch, 0, 0), np.int64), deviation=spread,
    )  # fmt: skip
