"""Own the statistics of a problem's routing: which weight rows the tokens' paths touch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.problem import experts
from harness.problem.operands import Operands
from harness.problem.problem import EXPERTS, Array, Problem

_TOKEN_BLOCK = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """Hold what a pass of an FFF touches of its weights.

    nodes: distinct weight rows. entropy_bits: of the tokens over the nodes of each level, the root's
    first, the mean over the trees; even routing has d bits at depth d, one path has 0. working_set_bytes:
    the touched rows of w_in and w_out.
    """

    nodes: int
    entropy_bits: list[float]
    working_set_bytes: int


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
        z = np.einsum("bi,bi->b", x, w_in[node].astype(np.float32, copy=False))
        nodes[:, d + 1] = 2 * node + 1 + (z >= 0)
    return nodes


def _entropy(counts: Array) -> float:
    """Return the entropy of a distribution given by counts, in bits."""
    share = counts[counts > 0] / counts.sum()
    return float(abs((share * np.log2(share)).sum()))


def count_nodes(problem: Problem, operands: Operands) -> Touched:
    """Return which weight rows all tokens' paths touch, and how evenly, routed in float32.

    Of a leaf FFF the nodes are those that route, and behind them the leaves; its working set is the routers'
    rows and the whole leaves that are touched. Of a control they are the experts that are chosen, with one
    entropy over all of them, or the nodes of the paths that a hash picks; what scores is touched whole.

    One tree is descended by gathered rows; several by one product with all of a tree's rows, which is
    faster once many of them are used.
    """
    if problem.layer == "leaf":
        return _count_leaves(problem, operands)
    if problem.layer in EXPERTS:
        return _count_experts(problem, operands)
    visits = np.zeros((problem.trees, problem.n_nodes), np.int64)
    for first in range(0, problem.batch, _TOKEN_BLOCK):
        x = operands.x[first : first + _TOKEN_BLOCK].astype(np.float32, copy=False)
        for k in range(problem.trees):
            w_in = operands.w_in[k]
            if problem.layer == "hash":
                nodes = experts.hashed_paths(
                    operands.x[first : first + _TOKEN_BLOCK], problem.depth
                )
            elif problem.trees == 1 or problem.depth == 0:
                nodes = _descend_gathered(x, w_in, problem.depth)
            else:
                nodes = _descend(x @ w_in.astype(np.float32, copy=False).T, problem.depth)
            visits[k] += np.bincount(nodes.ravel(), minlength=problem.n_nodes)
    touched = int(np.count_nonzero(visits))
    levels = [visits[:, 2**d - 1 : 2 ** (d + 1) - 1] for d in range(problem.depth + 1)]
    return Touched(
        nodes=touched,
        entropy_bits=[float(np.mean([_entropy(tree) for tree in level])) for level in levels],
        working_set_bytes=touched * (problem.d_in + problem.d_out) * operands.w_in.itemsize,
    )


def _count_leaves(problem: Problem, operands: Operands) -> Touched:
    """Return what the tokens of a leaf FFF touch."""
    assert operands.router is not None
    assert operands.router_bias is not None
    router = operands.router.astype(np.float32, copy=False)
    bias = operands.router_bias.astype(np.float32, copy=False)
    node = np.zeros(problem.batch, np.int64)
    levels = []
    for d in range(problem.depth + 1):
        levels.append(np.bincount(node - (2**d - 1), minlength=2**d))
        if d == problem.depth:
            break
        for first in range(0, problem.batch, _TOKEN_BLOCK):
            tokens = slice(first, first + _TOKEN_BLOCK)
            x, at = operands.x[tokens].astype(np.float32, copy=False), node[tokens]
            z = np.einsum("bi,bi->b", x, router[at]) + bias[at]
            node[tokens] = 2 * at + 1 + (z >= 0)
    counts = [int(np.count_nonzero(level)) for level in levels]
    routers, leaves, width = sum(counts[:-1]), counts[-1], problem.d_in + problem.d_out
    elements = routers * (problem.d_in + 1)
    elements += leaves * (problem.hidden * width + problem.hidden + problem.d_out)
    return Touched(
        nodes=routers + leaves,
        entropy_bits=[_entropy(level) for level in levels],
        working_set_bytes=elements * problem.item_bytes,
    )


def _count_experts(problem: Problem, operands: Operands) -> Touched:
    """Return what the tokens touch of the experts that they choose from."""
    scored = operands.w_in[:, 0] if operands.router is None else operands.router
    rows = np.ascontiguousarray(scored, np.float32)
    visits = np.zeros(problem.experts, np.int64)
    for first in range(0, problem.batch, _TOKEN_BLOCK):
        x = operands.x[first : first + _TOKEN_BLOCK]
        chosen, _ = experts.choose(problem.layer, x, rows, problem.active)
        visits += np.bincount(chosen.ravel(), minlength=problem.experts)
    touched = int(np.count_nonzero(visits))
    read_in = problem.experts if problem.layer == "topk" else touched  # all logits
    elements = problem.hidden * (read_in * problem.d_in + touched * problem.d_out)
    return Touched(
        nodes=touched,
        entropy_bits=[_entropy(visits)],
        working_set_bytes=(elements + problem.routers * problem.d_in) * problem.item_bytes,
    )
