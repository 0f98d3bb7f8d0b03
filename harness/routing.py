"""Own the statistics of a problem's routing: which weight rows the tokens' paths touch."""

from __future__ import annotations

import numpy as np

from harness.problem import Array, Operands, Problem

_TOKEN_BLOCK = 1024


def _descend(z_of: Array, depth: int) -> Array:
    """Return the nodes (tokens, depth + 1) that the pre-activations (tokens, n_nodes) lead through."""
    tokens = np.arange(z_of.shape[0])
    nodes = np.zeros((z_of.shape[0], depth + 1), np.int64)
    for d in range(depth):
        node = nodes[:, d]
        nodes[:, d + 1] = 2 * node + 1 + (z_of[tokens, node] >= 0)
    return nodes


def _descend_gathered(x: Array, w_in: Array, depth: int) -> Array:
    """Return the nodes (tokens, depth + 1), computing one row of w_in per token and level."""
    nodes = np.zeros((x.shape[0], depth + 1), np.int64)
    for d in range(depth):
        node = nodes[:, d]
        z = np.einsum("bi,bi->b", x, w_in[node])
        nodes[:, d + 1] = 2 * node + 1 + (z >= 0)
    return nodes


def count_nodes(problem: Problem, operands: Operands) -> int:
    """Return the distinct weight rows that all tokens' paths touch, routed in float32.

    One tree is descended by gathered rows; several by one product with all of a tree's rows, which is
    faster once many of them are used.
    """
    touched = np.zeros((problem.trees, problem.n_nodes), bool)
    for first in range(0, problem.batch, _TOKEN_BLOCK):
        x = operands.x[first : first + _TOKEN_BLOCK]
        for k in range(problem.trees):
            w_in = operands.w_in[k]
            if problem.trees == 1 or problem.depth == 0:
                nodes = _descend_gathered(x, w_in, problem.depth)
            else:
                nodes = _descend(x @ w_in.T, problem.depth)
            touched[k, nodes.ravel()] = True
    return int(touched.sum())
