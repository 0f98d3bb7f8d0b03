"""Own the truth: FF and FFF in float64, written to be read; never fast, never timed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.problem.problem import Array

_BLOCK_ELEMENTS = 1 << 22  # of weights held in float64 at a time: 32 MB
_TOKEN_BLOCK = 64


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
    """

    y: Array
    scale: Array
    rounding: Array
    margin: Array
    nodes: Array


def _erf(z: Array) -> Array:
    from scipy.special import erf  # half of what a plan would load, and a plan asks for no truth

    return np.asarray(erf(z))


def gelu(z: Array) -> Array:
    """Return ``z * Phi(z)``, the exact erf form of Hendrycks and Gimpel 2016, in z's precision."""
    return np.asarray(z * 0.5 * (1.0 + _erf(z / np.sqrt(2.0))))


def _rounded(z: Array, a: Array) -> Array:
    """Return what relative roundings of a pre-activation and of its activation come to, together."""
    slope = 0.5 * (1.0 + _erf(z / np.sqrt(2.0))) + z * np.exp(-z * z / 2.0) / np.sqrt(2.0 * np.pi)
    return np.asarray(np.abs(slope * z) + np.abs(a))


def ff_oracle(x: Array, w_in: Array, w_out: Array) -> Truth:
    """Return ``y = gelu(x w_in^T) w_out`` in float64, of operands of any dtype as they are stored.

    x (batch, d_in), w_in (hidden, d_in), w_out (hidden, d_out); y (batch, d_out).
    """
    x = x.astype(np.float64)
    y = np.zeros((x.shape[0], w_out.shape[1]))
    scale, squares = np.zeros_like(y), np.zeros_like(y)
    step = max(1, _BLOCK_ELEMENTS // w_in.shape[1])
    for first in range(0, w_in.shape[0], step):
        rows_in = w_in[first : first + step].astype(np.float64)
        rows_out = w_out[first : first + step].astype(np.float64)
        z = x @ rows_in.T
        a = gelu(z)
        y += a @ rows_out
        squares += _rounded(z, a) ** 2 @ rows_out**2
        scale += (np.abs(x) @ np.abs(rows_in).T + np.abs(a)) @ np.abs(rows_out)
    batch = x.shape[0]
    return Truth(
        y=y, scale=scale, rounding=np.sqrt(squares), margin=np.full(batch, np.inf),
        nodes=np.empty((batch, 0, 0), np.int64),
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
    scale, squares = np.zeros_like(y), np.zeros_like(y)
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
                a = gelu(z)
                y[tokens] += a[:, None] * rows_out
                scale[tokens] += (size + np.abs(a))[:, None] * np.abs(rows_out)
                squares[tokens] += (_rounded(z, a)[:, None] * rows_out) ** 2
                if d < depth:
                    relative = np.abs(z) / np.maximum(size, np.finfo(np.float64).tiny)
                    relative[size == 0] = np.inf
                    margin[tokens] = np.fmin(margin[tokens], relative)
                node = 2 * node + 1 + (z >= 0)
    return Truth(y=y, scale=scale, rounding=np.sqrt(squares), margin=margin, nodes=nodes)


def product_oracle(x: Array, w: Array) -> Truth:
    """Return ``y = x w`` in float64; x (batch, k), w (k, d_out).

    rounding: the root of the sum of the products' squares, what one rounding of each factor comes to.
    """
    x, w = x.astype(np.float64), w.astype(np.float64)
    batch = x.shape[0]
    return Truth(
        y=x @ w,
        scale=np.abs(x) @ np.abs(w),
        rounding=np.sqrt((x * x) @ (w * w)),
        margin=np.full(batch, np.inf),
        nodes=np.empty((batch, 0, 0), np.int64),
    )
